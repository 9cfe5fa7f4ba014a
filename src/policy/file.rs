//! A policy by its name or path, with all that it includes.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::phrase::Lists;
use super::presets::{self, Preset};
use super::read::{Defaults, MAX_WORDS, Reader, join_encoders};
use super::{Action, Certainty, Gates, Level, Policy, PolicyFile};
use crate::files::{self, sha256};
use crate::toml_file::{self, Mistakes, Table, Value};
use crate::usage;

/// The schema that this program knows.
const VERSION: i64 = 1;
/// A description below it is `unknown`, where the policy does not say otherwise.
pub const MIN_CONFIDENCE: f32 = 0.3;
/// Files that include files that include files.
const DEEPEST: usize = 8;
/// Files in all.
const MOST_FILES: usize = 64;

/// Loads a policy: a path, else a file of that name in `policies/`, else a built-in one (`faces`, `faces@1`,
/// `preset:faces@1`). With `locked`, whatever could be another one tomorrow is a mistake.
pub fn load(name: &str, locked: bool) -> anyhow::Result<Policy> {
    if let Some(path) = find_file(name) {
        let text = files::read_text(&path)
            .map_err(|error| usage!("cannot read the policy {}: {error}", path.display()))?;
        return parsed(&text, &path.display().to_string(), locked);
    }
    let stem = name.strip_suffix(".toml").unwrap_or(name);
    let stem = stem.strip_prefix("preset:").unwrap_or(stem);
    let Some(preset) = presets::find(stem) else {
        let names = presets::names();
        let plain = stem.split('@').next().unwrap_or(stem);
        let like = match toml_file::closest(plain, &names) {
            Some(like) if like != plain => format!("; did you mean `{like}`?"),
            _ => String::new(),
        };
        return Err(usage!(
            "there is no policy `{name}`, neither as a file nor in policies/; built in are {}{like}",
            names.join(", ")
        ));
    };
    if locked && !stem.contains('@') {
        return Err(usage!(
            "--locked wants a revision that cannot change: --policy {stem}@{}",
            preset.revision
        ));
    }
    parsed(preset.text, &preset.path(), locked)
}

/// Where a policy's file is, if it is not a built-in one.
fn find_file(name: &str) -> Option<PathBuf> {
    let in_folder = |name: String| Path::new("policies").join(name);
    let places =
        [PathBuf::from(name), in_folder(name.to_owned()), in_folder(format!("{name}.toml"))];
    places.into_iter().find(|path| path.is_file())
}

/// Reads a policy. Includes are looked for beside `path`. All mistakes of all files are in the error.
pub fn parse(text: &str, path: &str) -> anyhow::Result<Policy> {
    parsed(text, path, false)
}

fn parsed(text: &str, path: &str, locked: bool) -> anyhow::Result<Policy> {
    let mut loader = Loader {
        mistakes: Mistakes::default(),
        locked,
        open: vec![],
        n_files: 0,
        words_left: MAX_WORDS,
    };
    let (policy, _) = loader.file(text, path, Gates::default());
    match loader.mistakes.is_empty() {
        true => Ok(policy),
        false => Err(loader.mistakes.into_error(&format!("the policy {path}"))),
    }
}

struct Loader {
    mistakes: Mistakes,
    locked: bool,
    /// The files that are being read, each included by the one before.
    open: Vec<String>,
    /// Files that were read.
    n_files: usize,
    /// How many more words rules may hold.
    words_left: usize,
}

impl Loader {
    /// One file on top of what it includes, and the lists that it knows. `gates` are those of what was included
    /// before it.
    fn file(&mut self, text: &str, path: &str, gates: Gates) -> (Policy, Lists) {
        self.open.push(path.to_owned());
        self.n_files += 1;
        let (table, walker) = toml_file::parse(text);
        let table = table.get_ref();
        let mut reader = Reader {
            walker,
            path,
            text,
            lists: Lists::new(),
            defaults: Defaults {
                level: Level::Deny,
                min_confidence: MIN_CONFIDENCE,
                count: Certainty::Likely,
                action: Action::Report,
            },
            words_left: self.words_left,
            asks_likeness: None,
        };
        let name = Path::new(path)
            .file_stem()
            .map_or_else(|| path.to_owned(), |stem| stem.to_string_lossy().into_owned());
        let mut policy = Policy {
            name,
            revision: None,
            files: vec![PolicyFile { path: path.to_owned(), sha256: sha256(text.as_bytes()) }],
            min_confidence: MIN_CONFIDENCE,
            sentence_encoder: None,
            rules: vec![],
            gates,
            exceptions: vec![],
        };
        version(&mut reader, table);
        for value in reader.walker.array(table, "include") {
            if let Some((included, lists)) = self.include(&mut reader, value, policy.gates.clone())
            {
                reader.lists.extend(lists);
                reader.words_left = self.words_left;
                join(&mut reader, value, &mut policy, included);
            }
        }
        reader.policy(table, &mut policy);
        self.words_left = reader.words_left;
        let (lists, found) = (std::mem::take(&mut reader.lists), reader.walker.mistakes);
        self.mistakes.add(path, text, found);
        self.open.pop();
        (policy, lists)
    }

    /// `"preset:faces@1"`, a path, or `{ path, sha256 }`.
    fn include(
        &mut self,
        reader: &mut Reader<'_>,
        value: &Value<'_>,
        gates: Gates,
    ) -> Option<(Policy, Lists)> {
        let at = value.span();
        let (named, pin) = match value.get_ref() {
            DeValue::String(text) => (text.to_string(), None),
            DeValue::Table(table) => {
                reader.walker.keys(table, &["path", "sha256"], "include");
                let pin = reader.walker.text(table, "sha256");
                (reader.walker.text(table, "path")?, pin)
            }
            _ => {
                reader
                    .walker
                    .wrong_type(value, "a path, `preset:NAME@REVISION`, or { path, sha256 }");
                return None;
            }
        };
        if MOST_FILES <= self.n_files {
            let message = format!("more than {MOST_FILES} files are included");
            reader.walker.mistake("include", at, message);
            return None;
        }
        if let Some(name) = named.strip_prefix("preset:") {
            let Some(preset) = presets::find(name) else {
                let known: Vec<String> = presets::PRESETS.iter().map(Preset::path).collect();
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                let message = format!("there is no built-in policy `{name}`");
                reader.walker.unknown("unknown-preset", at, message, &named, &known);
                return None;
            };
            if !name.contains('@') {
                let message = format!(
                    "`{named}` names no revision, so another version of the program could mean another policy; write `preset:{name}@{}`",
                    preset.revision
                );
                reader.walker.mistake("not-pinned", at, message);
                return None;
            }
            return Some(self.file(preset.text, &preset.path(), gates));
        }
        // What is no policy would be quoted where its mistakes are shown, whatever secret it is.
        if !named.ends_with(".toml") {
            let message = format!("`{named}` is no policy: its name does not end in .toml");
            reader.walker.mistake("include", at, message);
            return None;
        }
        let beside = Path::new(reader.path).parent().unwrap_or(Path::new(""));
        let path = beside.join(&named).display().to_string();
        if self.open.contains(&path) || DEEPEST <= self.open.len() {
            let by_way = self.open.join(", ");
            let message = match self.open.contains(&path) {
                true => format!("{path} includes itself, by way of {by_way}"),
                false => format!(
                    "{path} is included too deep, by way of {by_way}; {DEEPEST} files at most"
                ),
            };
            reader.walker.mistake("include", at, message);
            return None;
        }
        let text = match files::read_text(Path::new(&path)) {
            Ok(text) => text,
            Err(error) => {
                reader.walker.mistake("include", at, format!("cannot read {path}: {error}"));
                return None;
            }
        };
        let digest = sha256(text.as_bytes());
        match pin {
            Some(pin) if !pin.eq_ignore_ascii_case(&digest) => {
                let message =
                    format!("{path} is another file than was agreed on: its sha256 is {digest}");
                reader.walker.mistake("other-file", at, message);
                None
            }
            None if self.locked => {
                let message = format!(
                    "--locked wants to know which file: {{ path = \"{named}\", sha256 = \"{digest}\" }}"
                );
                reader.walker.mistake("not-pinned", at, message);
                None
            }
            _ => Some(self.file(&text, &path, gates)),
        }
    }
}

fn version(reader: &mut Reader<'_>, table: &Table<'_>) {
    let walker = &mut reader.walker;
    match table.get("policy-version") {
        None => walker.mistake(
            "missing-key",
            0..0,
            format!("the key `policy-version` is missing; this program knows version {VERSION}"),
        ),
        Some(value) => {
            match value.get_ref().as_integer().and_then(|it| it.as_str().parse::<i64>().ok()) {
                Some(VERSION) => {}
                Some(other) => walker.mistake(
                    "version",
                    value.span(),
                    format!(
                        "policy-version {other} is not known; this program knows version {VERSION}"
                    ),
                ),
                None => walker.wrong_type(value, "a whole number"),
            }
        }
    }
    let Some(requires) = walker.text(table, "requires") else { return };
    let own = env!("CARGO_PKG_VERSION");
    let at = table["requires"].span();
    match (semver::VersionReq::parse(&requires), semver::Version::parse(own)) {
        (Ok(wanted), Ok(version)) if !wanted.matches(&version) => {
            let message = format!("the policy wants milan {requires}, and this is {own}");
            walker.mistake("requires", at, message);
        }
        (Err(error), _) => {
            let message = format!("`{requires}` is no range of versions, such as `>=0.1`: {error}");
            walker.mistake("requires", at, message);
        }
        _ => {}
    }
}

/// Takes in an included policy; its rules come first.
fn join(reader: &mut Reader<'_>, value: &Value<'_>, policy: &mut Policy, included: Policy) {
    for rule in included.rules {
        if policy.rules.iter().any(|it| it.id == rule.id) {
            let message = format!("rule `{}` is included twice", rule.id);
            reader.walker.mistake("duplicate-id", value.span(), message);
        } else {
            policy.rules.push(rule);
        }
    }
    policy.files.extend(included.files);
    policy.gates = included.gates;
    policy.exceptions.extend(included.exceptions);
    let encoder = included.sentence_encoder;
    join_encoders(&mut reader.walker, value.span(), policy, encoder);
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "policy-version = 1\n[[rule]]\nid = \"a\"\nmatch.any = [\"x\"]\n";

    #[track_caller]
    fn check(text: &str, wanted: &[&str]) {
        let error = parse(text, "p.toml").unwrap_err();
        assert_eq!(crate::error::kind(&error), crate::error::Kind::Usage);
        let mistakes = error.downcast_ref::<Mistakes>().unwrap().to_string();
        assert_eq!(mistakes.lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn the_least_policy_forbids_every_unit_that_matches() {
        let policy = parse(RULE, "dir/strict.toml").unwrap();
        assert_eq!((policy.name.as_str(), policy.min_confidence), ("strict", 0.3));
        let rule = &policy.rules[0];
        assert_eq!((rule.level, rule.limit.max_units), (Level::Deny, Some(0)));
        assert_eq!(rule.edit.action, Action::Report);
        assert_eq!(rule.place.as_ref().unwrap().line, 2);
    }

    #[test]
    fn a_misspelt_key_is_named_with_what_it_might_be() {
        check(
            &RULE.replace("match.any", "limit.max-unit = 3\nmatch.any"),
            &["p.toml:4:7: unknown key `max-unit` in [rule.limit]; did you mean `max-units`?"],
        );
    }

    #[test]
    fn all_mistakes_are_said_at_once() {
        let text = "policy-version = 2\n\
            [defaults]\nlevel = \"deney\"\nmin-confidence = 3\n\
            [lists]\nfaces = []\n\
            [[rule]]\nid = \"Faces!\"\n[rule.match]\nany = [{ list = \"face\" }, { regex = \"(\" }, 7, \"<face> x\"]\n[rule.scope]\nlayers = [\"a[\"]\nkinds = [\"conv\"]\n\
            [[rule]]\n[rule.limit]\nmax-units = -1\n";
        check(
            text,
            &[
                "p.toml:1:18: policy-version 2 is not known; this program knows version 1",
                "p.toml:3:9: `deney` is no level; there are deny, warn, allow; did you mean `deny`?",
                "p.toml:4:18: wanted a number between 0 and 1, found 3",
                "p.toml:6:9: an empty list matches nothing",
                "p.toml:8:6: `Faces!` is no id; wanted small letters, digits and `-`",
                "p.toml:10:17: there is no list `face` in [lists]; did you mean `faces`?",
                "p.toml:10:37: `(` is no regex: unclosed group",
                "p.toml:10:44: wanted a text or one of { words }, { list }, { regex }, { phrase }, { evidence }, or a match { any, all, none }, found 7",
                "p.toml:10:47: there is no list `face`",
                "p.toml:12:11: `a[` is no layer pattern: unclosed character class; missing ']'",
                "p.toml:13:10: `conv` is no kind; there are conv-channel, mlp-neuron; did you mean `conv-channel`?",
                "p.toml:14:1: the rule has no [rule.match], so it matches nothing",
                "p.toml:14:1: the rule has no `id`",
                "p.toml:16:13: wanted a whole number from 0, found -1",
            ],
        );
    }

    #[test]
    fn a_part_of_a_key_is_told_its_whole() {
        check(
            &format!("version = 2\n{RULE}"),
            &["p.toml:1:1: unknown key `version` in the policy; did you mean `policy-version`?"],
        );
    }

    #[test]
    fn broken_toml_and_missing_keys_have_their_place() {
        let error = parse("policy-version = 1\nname = \"x\n", "p.toml").unwrap_err();
        let mistakes = error.downcast_ref::<Mistakes>().unwrap().to_string();
        assert!(mistakes.contains("p.toml:2:"), "{mistakes}");
        // What else is wrong is but a consequence.
        check(
            "policy-version = 1\nname = \"x\"\n[[rule]\nid = \"a\"\n",
            &["p.toml:3:8: unclosed array table, expected `]`"],
        );
        check(
            "name = \"x\"\n",
            &[
                "p.toml:1:1: the key `policy-version` is missing; this program knows version 1",
                "p.toml:1:1: there is no [[rule]]; a policy without one lets everything pass",
            ],
        );
        check(
            &format!("{RULE}[[rule]]\nid = \"a\"\nmatch.any = [\"\"]\n"),
            &["p.toml:6:6: rule `a` is there twice", "p.toml:7:14: an empty text matches nothing"],
        );
    }

    #[test]
    fn gates_and_exceptions_are_checked() {
        check(
            &format!(
                "requires = \">=9\"\n{RULE}[gate]\nexpiring-soon = \"PT3H\"\nunknown-share = {{ level = \"warn\" }}\n\
                 [[exception]]\nrule = \"b\"\nunits = [\"x\"]\nmodel = \"sha256:12\"\nreason = \" \"\nexpires = 2026-02-30\n"
            ),
            &[
                &format!(
                    "p.toml:1:12: the policy wants milan >=9, and this is {}",
                    env!("CARGO_PKG_VERSION")
                ),
                "p.toml:7:17: `PT3H` is no number of days; wanted one such as P14D",
                "p.toml:8:17: unknown-share wants `max`",
                "p.toml:10:8: there is no rule `b` for the exception",
                "p.toml:11:10: `x` names no units; wanted `layer:unit`, such as `layer4.1:37`, `layer4.1:{17,90}` or `layer4.*:*`",
                "p.toml:12:9: `sha256:12` names no model; wanted `sha256:` and at least 8 digits of the file's sha256",
                "p.toml:13:10: an exception wants a reason that a reader can check",
                "p.toml:14:11: invalid date, expected day between 01 and 28",
            ],
        );
        check(
            &RULE.replace("\"x\"", "{ phrase = \"a face\", min-similarity = 0.6 }"),
            &[
                "p.toml:4:25: a phrase's min-similarity holds for one sentence encoder; the policy must name it, such as `sentence-encoder = \"built-in@3\"`",
            ],
        );
    }

    #[test]
    fn what_would_match_everything_or_nothing_is_a_mistake() {
        check(
            &RULE
                .replace("\"x\"", "{ regex = \"(x)?\", stem = true }, { words = [\"<odd> y\"] }")
                .replace("[[rule]]", "[lists]\nodd = [\"!!\"]\n[[rule]]"),
            &[
                "p.toml:6:24: `(x)?` matches an empty text too, and so it would match everywhere",
                "p.toml:6:39: `stem` says nothing here; it belongs to words",
                "p.toml:6:57: list `odd` holds no word",
            ],
        );
        check(
            &RULE.replace("[\"x\"]", "[{ evidence = \"a\" }]\nmatch.all = [\"red\"]"),
            &[
                "p.toml:5:13: evidence is found in no words, so `all` cannot be asked of it; make it a rule of its own",
            ],
        );
    }

    #[test]
    fn what_is_included_stays_where_nothing_else_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let base = format!(
            "sentence-encoder = \"all-MiniLM-L6-v2\"\n{RULE}[gate.accuracy]\nmax-drop = 0.01\nmin-images = 5\n"
        );
        std::fs::write(at("base.toml"), base).unwrap();
        let own = "policy-version = 1\ninclude = [\"base.toml\"]\n[[rule]]\nid = \"a\"\nlimit.max-share = 0.5\n[gate.accuracy]\nimportance = \"activation\"\n";
        let policy = parse(own, &at("own.toml")).unwrap();
        let limit = policy.rules[0].limit;
        assert_eq!((limit.max_units, limit.max_share), (Some(0), Some(0.5)));
        let accuracy = policy.gates.accuracy.unwrap();
        assert_eq!((accuracy.max_drop, accuracy.min_images), (Some(0.01), 5));
        let other = own.replace("include", "sentence-encoder = \"built-in@3\"\ninclude");
        let error = parse(&other, &at("own.toml")).unwrap_err();
        assert!(
            error.downcast_ref::<Mistakes>().unwrap().to_string().contains("are included already")
        );
    }

    #[test]
    fn the_built_in_policies_are_found_by_name() {
        for preset in presets::PRESETS {
            let pinned = preset.path();
            let policy = load(&pinned, true).unwrap();
            assert_eq!(
                (policy.name.as_str(), policy.revision),
                (preset.name, Some(preset.revision))
            );
            assert_eq!(policy.files[0].path, pinned);
        }
        let message = load("face", false).unwrap_err().to_string();
        assert!(message.starts_with("there is no policy `face`, neither as a file nor in policies/; built in are faces, ") && message.ends_with("; did you mean `faces`?"), "{message}");
        let message = load("preset:faces", true).unwrap_err().to_string();
        assert_eq!(message, "--locked wants a revision that cannot change: --policy faces@2");
    }

    #[test]
    fn a_policy_builds_on_those_that_it_includes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(at("base.toml"), format!("{RULE}[gate]\nnan = \"warn\"\n")).unwrap();
        let text = "policy-version = 1\ninclude = [\"base.toml\", \"preset:text@1\"]\n[[rule]]\nid = \"text\"\nlevel = \"warn\"\nlimit.max-units = 7\n";
        let policy = parse(text, &at("own.toml")).unwrap();
        let ids: Vec<&str> = policy.rules.iter().map(|it| it.id.as_str()).collect();
        assert_eq!((policy.name.as_str(), ids), ("own", vec!["a", "text"]));
        assert_eq!(
            (policy.rules[1].level, policy.rules[1].limit.max_units),
            (Level::Warn, Some(7))
        );
        assert!(!policy.rules[1].matcher.any.is_empty());
        assert_eq!((policy.gates.nan, policy.files.len()), (Level::Warn, 3));

        let mistakes = |text: &str, locked: bool| {
            let error = parsed(text, &at("own.toml"), locked).unwrap_err();
            let mistakes = error.downcast_ref::<Mistakes>().unwrap().to_string();
            mistakes.replace(&at(""), "")
        };
        let digest = sha256(&std::fs::read(at("base.toml")).unwrap());
        assert_eq!(
            mistakes(text, true),
            format!(
                "own.toml:2:12: --locked wants to know which file: {{ path = \"base.toml\", sha256 = \"{digest}\" }}"
            )
        );
        let pinned = text.replace(
            "\"base.toml\"",
            &format!("{{ path = \"base.toml\", sha256 = \"{digest}\" }}"),
        );
        assert!(parsed(&pinned, &at("own.toml"), true).is_ok());
        let other = pinned.replace(&digest, "00");
        assert_eq!(
            mistakes(&other, false),
            format!(
                "own.toml:2:12: base.toml is another file than was agreed on: its sha256 is {digest}"
            )
        );
        std::fs::write(at("own.toml"), "policy-version = 1\ninclude = [\"own.toml\"]").unwrap();
        let itself = "policy-version = 1\ninclude = [\"own.toml\", \"preset:text\", \"preset:txt@1\"]\n[[rule]]\nid = \"b\"\nmatch.any = [\"x\"]\n";
        assert_eq!(
            mistakes(itself, false).lines().collect::<Vec<_>>(),
            [
                "own.toml:2:12: own.toml includes itself, by way of own.toml",
                "own.toml:2:24: `preset:text` names no revision, so another version of the program could mean another policy; write `preset:text@1`",
                "own.toml:2:39: there is no built-in policy `txt@1`; did you mean `preset:text@1`?",
            ]
        );
        let secret = "policy-version = 1\ninclude = [\"/etc/passwd\"]\n";
        assert!(mistakes(secret, false).starts_with(
            "own.toml:1:1: there is no [[rule]]; a policy without one lets everything pass\nown.toml:2:12: `/etc/passwd` is no policy: its name does not end in .toml"
        ));
        let twice = "policy-version = 1\ninclude = [\"preset:text@1\"]\n[[rule]]\nid = \"text\"\nmatch.any = [\"x\"]\n";
        assert!(mistakes(twice, false).contains("is included from preset:text@1 already"));
    }
}
