//! A policy file to a [`Policy`]: TOML, every mistake found at once and shown with its place.
//!
//! An unknown key is a mistake: a misspelt limit must not pass as no limit.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use regex::RegexBuilder;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::matcher::{Evidence, Matcher, Pattern};
use super::{Action, Edit, Level, Limit, Policy, PolicyFile, Rule, Scope};
use crate::files::sha256;
use crate::unit::Globs;
use crate::usage;

/// The schema that this program knows.
const VERSION: i64 = 1;
/// A description below it is `unknown`, where the policy does not say otherwise.
pub const MIN_CONFIDENCE: f32 = 0.3;
const REGEX_SIZE: usize = 1 << 20;

/// Policies that need no file, by name.
const BUILT_IN: [(&str, &str); 2] = [
    ("faces", include_str!("../../policies/faces.toml")),
    ("text", include_str!("../../policies/text.toml")),
];

/// Loads a policy: a path, else a file of that name in `policies/`, else a built-in one.
pub fn load(name: &str) -> anyhow::Result<Policy> {
    let in_folder = |name: String| Path::new("policies").join(name);
    let places =
        [PathBuf::from(name), in_folder(name.to_owned()), in_folder(format!("{name}.toml"))];
    if let Some(path) = places.iter().find(|path| path.is_file()) {
        let text = std::fs::read_to_string(path)
            .map_err(|error| usage!("cannot read the policy {}: {error}", path.display()))?;
        return parse(&text, &path.display().to_string());
    }
    let stem = name.strip_suffix(".toml").unwrap_or(name);
    match BUILT_IN.iter().find(|(built_in, _)| *built_in == stem) {
        Some((built_in, text)) => parse(text, &format!("built-in:{built_in}")),
        None => {
            let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            Err(usage!(
                "there is no policy `{name}`, neither as a file nor in policies/; built in are {}{}",
                names.join(", "),
                did_you_mean(stem, &names)
            ))
        }
    }
}

/// Reads a policy; `path` is only named. All mistakes are in the error, one a line.
pub fn parse(text: &str, path: &str) -> anyhow::Result<Policy> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        mistakes: vec![],
        lists: BTreeMap::new(),
        defaults: (Level::Deny, MIN_CONFIDENCE),
    };
    for error in syntax {
        reader.mistake(error.span().unwrap_or(0..0), error.message().to_owned());
    }
    let policy = reader.policy(table.get_ref(), path);
    reader.mistakes.sort_by_key(|(span, _)| (span.start, span.end));
    reader.mistakes.dedup();
    if reader.mistakes.is_empty() {
        let file = PolicyFile { path: path.to_owned(), sha256: sha256(text.as_bytes()) };
        return Ok(Policy { files: vec![file], ..policy });
    }
    let lines = reader.mistakes.iter().map(|(span, message)| {
        let before = &text[..span.start.min(text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        format!("{path}:{line}:{column}: {message}")
    });
    Err(usage!("{}", lines.collect::<Vec<_>>().join("\n")))
}

type Value<'a> = Spanned<DeValue<'a>>;

/// Walks the file and keeps on walking after a mistake.
struct Reader {
    mistakes: Vec<(Range<usize>, String)>,
    lists: BTreeMap<String, Vec<String>>,
    defaults: (Level, f32),
}

impl Reader {
    fn mistake(&mut self, at: Range<usize>, message: String) {
        self.mistakes.push((at, message));
    }

    /// Errs on every key that is not among `known`.
    fn keys(&mut self, table: &DeTable<'_>, known: &[&str], place: &str) {
        for (key, _) in table.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            self.mistake(
                key.span(),
                format!("unknown key `{name}` in {place}{}", did_you_mean(name, known)),
            );
        }
    }

    fn wrong_type(&mut self, value: &Value<'_>, wanted: &str) {
        self.mistake(value.span(), format!("wanted {wanted}, found {}", a_kind(value)));
    }

    fn text(&mut self, table: &DeTable<'_>, key: &str) -> Option<String> {
        let value = table.get(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(value, "a text");
        }
        text.map(str::to_owned)
    }

    fn table<'a, 'b>(&mut self, table: &'a DeTable<'b>, key: &str) -> Option<&'a DeTable<'b>> {
        let value = table.get(key)?;
        let found = value.get_ref().as_table();
        if found.is_none() {
            self.wrong_type(value, "a table");
        }
        found
    }

    fn array<'a, 'b>(&mut self, table: &'a DeTable<'b>, key: &str) -> &'a [Value<'b>] {
        let Some(value) = table.get(key) else { return &[] };
        match value.get_ref().as_array() {
            Some(array) => array,
            None => {
                self.wrong_type(value, "a list");
                &[]
            }
        }
    }

    fn texts(&mut self, table: &DeTable<'_>, key: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for value in self.array(table, key) {
            match value.get_ref().as_str() {
                Some("") => self.mistake(value.span(), "an empty text matches nothing".into()),
                Some(text) => texts.push(text.to_owned()),
                None => self.wrong_type(value, "a text"),
            }
        }
        if let Some(value) = table.get(key)
            && texts.is_empty()
            && value.get_ref().as_array().is_some_and(|it| it.is_empty())
        {
            self.mistake(value.span(), "an empty list matches nothing".into());
        }
        texts
    }

    fn count(&mut self, table: &DeTable<'_>, key: &str) -> Option<usize> {
        let value = table.get(key)?;
        let count = value
            .get_ref()
            .as_integer()
            .and_then(|it| usize::from_str_radix(it.as_str(), it.radix()).ok());
        if count.is_none() {
            self.wrong_type(value, "a whole number from 0");
        }
        count
    }

    fn share(&mut self, table: &DeTable<'_>, key: &str) -> Option<f64> {
        let value = table.get(key)?;
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
            _ => None,
        };
        let share = number.filter(|it| (0.0..=1.).contains(it));
        if share.is_none() {
            self.wrong_type(value, "a share between 0 and 1");
        }
        share
    }

    /// One of a few words, with what each means.
    fn choice<T: Copy>(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(table, key)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        if found.is_none()
            && let Some(value) = table.get(key)
        {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let message = format!(
                "`{text}` is no {key}; there are {}{}",
                names.join(", "),
                did_you_mean(&text, &names)
            );
            self.mistake(value.span(), message);
        }
        found
    }

    fn level(&mut self, table: &DeTable<'_>) -> Option<Level> {
        self.choice(
            table,
            "level",
            &[("deny", Level::Deny), ("warn", Level::Warn), ("allow", Level::Allow)],
        )
    }

    fn policy(&mut self, table: &DeTable<'_>, path: &str) -> Policy {
        self.keys(table, &["policy-version", "name", "defaults", "lists", "rule"], "the policy");
        match table.get("policy-version") {
            None => self.mistake(
                0..0,
                format!(
                    "the key `policy-version` is missing; this program knows version {VERSION}"
                ),
            ),
            Some(value) => match value
                .get_ref()
                .as_integer()
                .and_then(|it| it.as_str().parse::<i64>().ok())
            {
                Some(VERSION) => {}
                Some(other) => self.mistake(
                    value.span(),
                    format!(
                        "policy-version {other} is not known; this program knows version {VERSION}"
                    ),
                ),
                None => self.wrong_type(value, "a whole number"),
            },
        }
        if let Some(defaults) = self.table(table, "defaults") {
            self.keys(defaults, &["level", "min-confidence"], "[defaults]");
            let level = self.level(defaults).unwrap_or(self.defaults.0);
            let confidence =
                self.share(defaults, "min-confidence").map_or(self.defaults.1, |it| it as f32);
            self.defaults = (level, confidence);
        }
        if let Some(lists) = self.table(table, "lists") {
            for (name, _) in lists.iter() {
                let words = self.texts(lists, name.get_ref());
                self.lists.insert(name.get_ref().to_string(), words);
            }
        }
        let mut ids = BTreeSet::new();
        let mut rules = Vec::new();
        for value in self.array(table, "rule") {
            match value.get_ref().as_table() {
                Some(rule) => rules.extend(self.rule(rule, value.span(), &mut ids)),
                None => self.wrong_type(value, "a table"),
            }
        }
        if !table.contains_key("rule") {
            self.mistake(
                0..0,
                "there is no [[rule]]; a policy without one lets everything pass".into(),
            );
        }
        let name = self.text(table, "name").unwrap_or_else(|| {
            Path::new(path)
                .file_stem()
                .map_or_else(|| path.to_owned(), |stem| stem.to_string_lossy().into_owned())
        });
        Policy { name, files: vec![], min_confidence: self.defaults.1, rules }
    }

    fn rule(
        &mut self,
        table: &DeTable<'_>,
        at: Range<usize>,
        ids: &mut BTreeSet<String>,
    ) -> Option<Rule> {
        let known = ["id", "title", "reason", "url", "level", "match", "scope", "limit", "edit"];
        self.keys(table, &known, "[[rule]]");
        let id = self.text(table, "id");
        match (&id, table.get("id")) {
            (Some(id), Some(value)) => {
                let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                if id.is_empty() || !id.chars().all(is_plain) {
                    self.mistake(
                        value.span(),
                        format!("`{id}` is no id; wanted small letters, digits and `-`"),
                    );
                }
                if !ids.insert(id.clone()) {
                    self.mistake(value.span(), format!("rule `{id}` is there twice"));
                }
            }
            _ => self.mistake(at.clone(), "the rule has no `id`".into()),
        }
        let matcher = match self.table(table, "match") {
            Some(matcher) => self.matcher(matcher, at),
            None => {
                if !table.contains_key("match") {
                    self.mistake(at, "the rule has no [rule.match], so it matches nothing".into());
                }
                Matcher::default()
            }
        };
        // Everything is read before an absent id gives up, so that all mistakes are seen.
        let rule = Rule {
            id: id.clone().unwrap_or_default(),
            title: self.text(table, "title"),
            reason: self.text(table, "reason"),
            url: self.text(table, "url"),
            level: self.level(table).unwrap_or(self.defaults.0),
            matcher,
            scope: self.scope(table),
            limit: self.limit(table),
            edit: self.edit(table),
        };
        id.map(|_| rule)
    }

    fn matcher(&mut self, table: &DeTable<'_>, at: Range<usize>) -> Matcher {
        self.keys(table, &["any", "all", "none"], "[rule.match]");
        let mut evidence = Vec::new();
        let mut patterns = |key: &'static str| {
            let mut found = Vec::new();
            for value in self.array(table, key) {
                match value.get_ref().as_table() {
                    Some(table) if table.contains_key("evidence") => {
                        if key != "any" {
                            self.mistake(value.span(), "`evidence` may stand in `any` only".into());
                        }
                        evidence.extend(self.evidence(table));
                    }
                    _ => found.extend(self.pattern(value)),
                }
            }
            found
        };
        let (any, all, none) = (patterns("any"), patterns("all"), patterns("none"));
        let matcher = Matcher { any, all, none, evidence };
        let names_any = ["any", "all"].iter().any(|key| !self.array(table, key).is_empty());
        if !names_any {
            self.mistake(
                at,
                "[rule.match] has neither `any` nor `all`, so it matches nothing".into(),
            );
        }
        matcher
    }

    /// `{ evidence = "a phrase", min = 0.8 }`
    fn evidence(&mut self, table: &DeTable<'_>) -> Option<Evidence> {
        self.keys(table, &["evidence", "min"], "evidence");
        let phrase = self.text(table, "evidence")?;
        if phrase.trim().is_empty() {
            self.mistake(table["evidence"].span(), "an empty phrase has no evidence".into());
        }
        let min = self.share(table, "min").map_or(0.5, |it| it as f32);
        Some(Evidence { phrase, min })
    }

    /// A text, or one of `{ words }`, `{ list }`, `{ regex }`.
    fn pattern(&mut self, value: &Value<'_>) -> Option<Pattern> {
        if let Some(text) = value.get_ref().as_str() {
            if text.is_empty() {
                self.mistake(value.span(), "an empty text matches nothing".into());
            }
            return Some(Pattern::Words { words: vec![text.to_owned()], stem: true });
        }
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(value, "a text or one of { words }, { list }, { regex }");
            return None;
        };
        self.keys(table, &["words", "list", "regex", "stem"], "a pattern");
        let stem = match table.get("stem").map(|value| (value, value.get_ref().as_bool())) {
            Some((value, None)) => {
                self.wrong_type(value, "true or false");
                true
            }
            Some((_, Some(stem))) => stem,
            None => true,
        };
        let kinds =
            ["words", "list", "regex"].iter().filter(|kind| table.contains_key(**kind)).count();
        if kinds != 1 {
            self.mistake(
                value.span(),
                "a pattern wants exactly one of `words`, `list`, `regex`".into(),
            );
            return None;
        }
        if table.contains_key("words") {
            return Some(Pattern::Words { words: self.texts(table, "words"), stem });
        }
        if let Some(list) = self.text(table, "list") {
            let words = self.lists.get(&list).cloned();
            if words.is_none() {
                let names: Vec<String> = self.lists.keys().cloned().collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.mistake(
                    table["list"].span(),
                    format!("there is no list `{list}` in [lists]{}", did_you_mean(&list, &names)),
                );
            }
            return Some(Pattern::Words { words: words?, stem });
        }
        let text = self.text(table, "regex")?;
        match RegexBuilder::new(&text).size_limit(REGEX_SIZE).build() {
            Ok(regex) => Some(Pattern::Regex { regex }),
            Err(error) => {
                // The regex crate draws the mistake over several lines; its last one says what it is.
                let error = error.to_string();
                let what = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                self.mistake(table["regex"].span(), format!("`{text}` is no regex: {what}"));
                None
            }
        }
    }

    fn scope(&mut self, rule: &DeTable<'_>) -> Scope {
        let mut scope = Scope { layers: Globs::everything(), min_confidence: self.defaults.1 };
        let Some(table) = self.table(rule, "scope") else { return scope };
        self.keys(table, &["layers", "min-confidence"], "[rule.scope]");
        for value in self.array(table, "layers") {
            if let Some(text) = value.get_ref().as_str()
                && let Err(error) = Globs::new(&[text.to_owned()])
            {
                self.mistake(value.span(), error.to_string());
            }
        }
        if let Ok(globs) = Globs::new(&self.texts(table, "layers")) {
            scope.layers = globs;
        }
        if let Some(confidence) = self.share(table, "min-confidence") {
            scope.min_confidence = confidence as f32;
        }
        scope
    }

    fn limit(&mut self, rule: &DeTable<'_>) -> Limit {
        let nothing = Limit { max_units: Some(0), max_share: None, max_share_per_layer: None };
        let Some(table) = self.table(rule, "limit") else { return nothing };
        self.keys(table, &["max-units", "max-share", "max-share-per-layer"], "[rule.limit]");
        let limit = Limit {
            max_units: self.count(table, "max-units"),
            max_share: self.share(table, "max-share"),
            max_share_per_layer: self.share(table, "max-share-per-layer"),
        };
        if table.is_empty() { nothing } else { limit }
    }

    fn edit(&mut self, rule: &DeTable<'_>) -> Edit {
        let Some(table) = self.table(rule, "edit") else {
            return Edit { action: Action::Report, max_units: None };
        };
        self.keys(table, &["action", "max-units"], "[rule.edit]");
        let action =
            self.choice(table, "action", &[("report", Action::Report), ("zero", Action::Zero)]);
        Edit { action: action.unwrap_or(Action::Report), max_units: self.count(table, "max-units") }
    }
}

fn a_kind(value: &Value<'_>) -> String {
    match value.get_ref() {
        DeValue::String(text) => format!("the text \"{text}\""),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        other => format!("a value of type {}", other.type_str()),
    }
}

fn did_you_mean(found: &str, known: &[&str]) -> String {
    let alike = |name: &&&str| strsim::jaro_winkler(name, found);
    match known.iter().max_by(|a, b| alike(a).total_cmp(&alike(b))) {
        Some(closest) if 0.75 < alike(&closest) => format!("; did you mean `{closest}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "policy-version = 1\n[[rule]]\nid = \"a\"\nmatch.any = [\"x\"]\n";

    #[track_caller]
    fn check(text: &str, wanted: &[&str]) {
        let error = parse(text, "p.toml").unwrap_err();
        assert_eq!(crate::error::kind(&error), crate::error::Kind::Usage);
        assert_eq!(error.to_string().lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn the_least_policy_forbids_every_unit_that_matches() {
        let policy = parse(RULE, "dir/strict.toml").unwrap();
        assert_eq!((policy.name.as_str(), policy.min_confidence), ("strict", 0.3));
        let rule = &policy.rules[0];
        assert_eq!((rule.level, rule.limit.max_units), (Level::Deny, Some(0)));
        assert_eq!(rule.edit.action, Action::Report);
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
            [[rule]]\nid = \"Faces!\"\n[rule.match]\nany = [{ list = \"face\" }, { regex = \"(\" }, 7]\n[rule.scope]\nlayers = [\"a[\"]\n\
            [[rule]]\n[rule.limit]\nmax-units = -1\n";
        check(
            text,
            &[
                "p.toml:1:18: policy-version 2 is not known; this program knows version 1",
                "p.toml:3:9: `deney` is no level; there are deny, warn, allow; did you mean `deny`?",
                "p.toml:4:18: wanted a share between 0 and 1, found 3",
                "p.toml:6:9: an empty list matches nothing",
                "p.toml:8:6: `Faces!` is no id; wanted small letters, digits and `-`",
                "p.toml:10:17: there is no list `face` in [lists]; did you mean `faces`?",
                "p.toml:10:37: `(` is no regex: unclosed group",
                "p.toml:10:44: wanted a text or one of { words }, { list }, { regex }, found 7",
                "p.toml:12:11: `a[` is no layer pattern: unclosed character class; missing ']'",
                "p.toml:13:1: the rule has no `id`",
                "p.toml:13:1: the rule has no [rule.match], so it matches nothing",
                "p.toml:15:13: wanted a whole number from 0, found -1",
            ],
        );
    }

    #[test]
    fn broken_toml_and_missing_keys_have_their_place() {
        let message = parse("policy-version = 1\nname = \"x\n", "p.toml").unwrap_err().to_string();
        assert!(message.contains("p.toml:2:"), "{message}");
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
    fn the_built_in_policies_are_found_by_name() {
        for (name, _) in BUILT_IN {
            assert_eq!(load(name).unwrap().name, name);
        }
        let message = load("face").unwrap_err().to_string();
        assert_eq!(
            message,
            "there is no policy `face`, neither as a file nor in policies/; built in are faces, text; did you mean `faces`?"
        );
    }
}
