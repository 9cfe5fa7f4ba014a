//! What a rule matches: `[rule.match]`, its patterns, and the matches within it.

use std::ops::Range;

use regex::{Regex, RegexBuilder};

use super::matcher::{Evidence, Matcher, Pattern, WordList};
use super::read::{Reader, WORDS_OF_REGEX};
use crate::toml_file::{Table, Value};

/// Of a compiled regex, bytes.
const REGEX_SIZE: usize = 1 << 20;
/// The keys of a match.
const MATCH_KEYS: [&str; 3] = ["any", "all", "none"];

/// Where a match stands. One within another may not hold a third, as a stranger's file may hold more of them than the
/// stack does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatchLevel {
    Rule,
    WithinMatch,
}

impl MatchLevel {
    /// As messages call it.
    fn name(self) -> &'static str {
        match self {
            MatchLevel::Rule => "[rule.match]",
            MatchLevel::WithinMatch => "a match within a match",
        }
    }
}

impl Reader<'_> {
    /// `{ any, all, none }`.
    pub(super) fn matcher(
        &mut self,
        table: &Table<'_>,
        at: Range<usize>,
        level: MatchLevel,
    ) -> Matcher {
        self.walker.keys(table, &MATCH_KEYS, level.name());
        let mut evidence = Vec::new();
        let mut patterns = |key: &'static str| {
            let mut found = Vec::new();
            for value in self.walker.array(table, key) {
                match value.get_ref().as_table() {
                    Some(table) if table.contains_key("evidence") => {
                        if key != "any" || level == MatchLevel::WithinMatch {
                            let message = "`evidence` may stand in the `any` of [rule.match] only";
                            self.mistake("misplaced", value.span(), message.into());
                        }
                        evidence.extend(self.evidence(table));
                    }
                    _ => found.extend(self.pattern(value, level)),
                }
            }
            found
        };
        let (any, all, none) = (patterns("any"), patterns("all"), patterns("none"));
        let names_any =
            ["any", "all"].iter().any(|key| table.get(*key).is_some_and(|it| !is_empty_array(it)));
        if !names_any {
            let name = level.name();
            let message = format!("{name} has neither `any` nor `all`, so it matches nothing");
            self.mistake("missing-key", at, message);
        }
        if !evidence.is_empty() && !all.is_empty() {
            let message = "evidence is found in no words, so `all` cannot be asked of it; make it a rule of its own";
            self.mistake("misplaced", table["all"].span(), message.into());
        }
        Matcher { any, all, none, evidence }
    }

    /// `{ evidence = "a phrase", min = 0.8 }`
    fn evidence(&mut self, table: &Table<'_>) -> Option<Evidence> {
        self.walker.keys(table, &["evidence", "min"], "evidence");
        let phrase = self.walker.text(table, "evidence")?;
        if phrase.trim().is_empty() {
            let message = "an empty phrase has no evidence";
            self.mistake("empty", table["evidence"].span(), message.into());
        }
        let min = self.walker.share(table, "min").map_or(0.5, |it| it as f32);
        Some(Evidence { phrase, min })
    }

    /// A text, one of `{ words }`, `{ list }`, `{ regex }`, `{ phrase }`, or a match of its own.
    fn pattern(&mut self, value: &Value<'_>, level: MatchLevel) -> Option<Pattern> {
        if let Some(text) = value.get_ref().as_str() {
            if text.is_empty() {
                self.mistake("empty", value.span(), "an empty text matches nothing".into());
                return None;
            }
            return self.words(value.span(), vec![text.to_owned()], true);
        }
        let wanted = "a text or one of { words }, { list }, { regex }, { phrase }, { evidence }, or a match { any, all, none }";
        let Some(table) = value.get_ref().as_table() else {
            self.walker.wrong_type(value, wanted);
            return None;
        };
        if MATCH_KEYS.iter().any(|key| table.contains_key(*key)) {
            if level == MatchLevel::WithinMatch {
                let message = "a match within a match may not hold a third one";
                self.mistake("misplaced", value.span(), message.into());
                return None;
            }
            let inner = self.matcher(table, value.span(), MatchLevel::WithinMatch);
            return Some(Pattern::Match(inner));
        }
        let kinds = ["words", "list", "regex", "phrase"];
        let known = [
            "words",
            "list",
            "regex",
            "phrase",
            "evidence",
            "any",
            "all",
            "none",
            "stem",
            "min-similarity",
        ];
        self.walker.keys(table, &known, "a pattern");
        let stem = self.walker.flag(table, "stem").unwrap_or(true);
        let idle = [("stem", ["words", "list"]), ("min-similarity", ["phrase", "phrase"])];
        for (key, with) in idle {
            if table.contains_key(key) && with.iter().all(|it| !table.contains_key(*it)) {
                let message = format!("`{key}` says nothing here; it belongs to {}", with[0]);
                self.mistake("misplaced", table[key].span(), message);
            }
        }
        if kinds.iter().filter(|kind| table.contains_key(**kind)).count() != 1 {
            let message = "a pattern wants exactly one of `words`, `list`, `regex`, `phrase`, or it is a match with `any`, `all` and `none`";
            self.mistake("pattern", value.span(), message.into());
            return None;
        }
        if table.contains_key("words") {
            let words = self.walker.texts(table, "words");
            return self.words(table["words"].span(), words, stem);
        }
        if let Some(list) = self.walker.text(table, "list") {
            let Some(words) = self.lists.get(&list).cloned() else {
                let names: Vec<&str> = self.lists.keys().map(String::as_str).collect();
                let message = format!("there is no list `{list}` in [lists]");
                self.walker.unknown("unknown-list", table["list"].span(), message, &list, &names);
                return None;
            };
            return self.words(table["list"].span(), words, stem);
        }
        if let Some(phrase) = self.walker.text(table, "phrase") {
            if phrase.trim().is_empty() {
                let message = "an empty phrase is like nothing";
                self.mistake("empty", table["phrase"].span(), message.into());
            }
            self.asks_likeness.get_or_insert(table["phrase"].span());
            let Some(min) = self.walker.number(table, "min-similarity", -1., 1.) else {
                if !table.contains_key("min-similarity") {
                    let message = "a phrase wants `min-similarity`, between -1 and 1";
                    self.mistake("missing-key", value.span(), message.into());
                }
                return None;
            };
            return Some(Pattern::Phrase { phrase, min_similarity: min as f32 });
        }
        let text = self.walker.text(table, "regex")?;
        if !self.take_words(WORDS_OF_REGEX, table["regex"].span()) {
            return None;
        }
        match RegexBuilder::new(&text).size_limit(REGEX_SIZE).build() {
            Ok(regex) if finds_an_empty_place(&regex) => {
                let message =
                    format!("`{text}` matches an empty text too, and so it would match everywhere");
                self.mistake("empty", table["regex"].span(), message);
                None
            }
            Ok(regex) => Some(Pattern::Regex(regex)),
            Err(error) => {
                // The regex crate draws the mistake over several lines; its last one says what it is.
                let error = error.to_string();
                let what = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                let message = format!("`{text}` is no regex: {what}");
                self.mistake("bad-regex", table["regex"].span(), message);
                None
            }
        }
    }

    fn words(&mut self, at: Range<usize>, words: Vec<String>, stem: bool) -> Option<Pattern> {
        if !self.take_words(WordList::size(&words, &self.lists), at.clone()) {
            return None;
        }
        match WordList::new(words, stem, &self.lists) {
            Ok(list) => Some(Pattern::Words(list)),
            Err(message) => {
                self.mistake("bad-phrase", at, message);
                None
            }
        }
    }
}

/// Whether it matches an empty text, or a place between letters as `\b` does.
fn finds_an_empty_place(regex: &Regex) -> bool {
    ["", "a", "a a"].iter().any(|text| regex.find_iter(text).any(|it| it.is_empty()))
}

pub(super) fn is_empty_array(value: &Value<'_>) -> bool {
    value.get_ref().as_array().is_some_and(|it| it.is_empty())
}

#[cfg(test)]
mod tests {
    use crate::policy::file::parse;
    use crate::toml_file::Mistakes;

    /// A rule with this match has these mistakes.
    #[track_caller]
    fn check(matching: &str, wanted: &[&str]) {
        let text = format!("policy-version = 1\n[[rule]]\nid = \"a\"\n[rule.match]\n{matching}\n");
        let error = parse(&text, "p.toml").unwrap_err();
        let mistakes = error.downcast_ref::<Mistakes>().unwrap().to_string();
        assert_eq!(mistakes.lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_match_within_a_match_is_read_as_strictly() {
        check(
            "any = [{ any = [{ any = [\"x\"] }] }]",
            &["p.toml:5:17: a match within a match may not hold a third one"],
        );
        check(
            "any = [{ none = [\"x\"], word = \"y\" }]",
            &[
                "p.toml:5:8: a match within a match has neither `any` nor `all`, so it matches nothing",
                "p.toml:5:24: unknown key `word` in a match within a match",
            ],
        );
        check(
            "any = [{ any = [{ evidence = \"x\" }] }]",
            &["p.toml:5:17: `evidence` may stand in the `any` of [rule.match] only"],
        );
        check(
            "any = [{ anny = [\"x\"] }]",
            &[
                "p.toml:5:8: a pattern wants exactly one of `words`, `list`, `regex`, `phrase`, or it is a match with `any`, `all` and `none`",
                "p.toml:5:10: unknown key `anny` in a pattern; did you mean `any`?",
            ],
        );
    }

    #[test]
    fn a_policy_that_is_too_large_is_a_mistake_once() {
        let words = vec!["\"x y\""; 1000].join(", ");
        let lists = format!("any = [{}]", vec!["{ words = [\"<l> z\"] }"; 300].join(", "));
        let text = format!(
            "policy-version = 1\n[lists]\nl = [{words}]\n[[rule]]\nid = \"a\"\n[rule.match]\n{lists}\n"
        );
        let error = parse(&text, "p.toml").unwrap_err();
        let mistakes = error.downcast_ref::<Mistakes>().unwrap().to_string();
        let [one] = mistakes.lines().collect::<Vec<_>>()[..] else { panic!("{mistakes}") };
        assert!(
            one.contains("the policy is too large; its phrases may hold 200000 words"),
            "{one}"
        );
    }

    #[test]
    fn a_regex_that_finds_a_place_without_letters_is_a_mistake() {
        for regex in ["x*", "^", "$", r"\b", r"\B"] {
            check(
                &format!("any = [{{ regex = '{regex}' }}]"),
                &[&format!(
                    "p.toml:5:18: `{regex}` matches an empty text too, and so it would match everywhere"
                )],
            );
        }
    }
}
