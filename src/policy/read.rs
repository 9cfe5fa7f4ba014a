//! The keys of a policy file to rules; gates and exceptions are in [`read_gates`](super::read_gates).

use std::collections::BTreeSet;
use std::ops::Range;

use regex::RegexBuilder;

use super::matcher::{Evidence, Matcher, Pattern, WordList};
use super::phrase::Lists;
use super::{
    Action, Certainty, Edit, EditOrder, Examples, Level, Limit, Place, Policy, Rule, Scope,
};
use crate::toml_file::{Table, Value, Walker, place};
use crate::unit::{Globs, Kind};

const REGEX_SIZE: usize = 1 << 20;
pub(super) const LEVELS: [(&str, Level); 3] =
    [("deny", Level::Deny), ("warn", Level::Warn), ("allow", Level::Allow)];
const CERTAINTIES: [(&str, Certainty); 2] =
    [("likely", Certainty::Likely), ("possible", Certainty::Possible)];
const ACTIONS: [(&str, Action); 3] =
    [("report", Action::Report), ("zero", Action::Zero), ("prune", Action::Prune)];
const ORDERS: [(&str, EditOrder); 3] = [
    ("confidence", EditOrder::Confidence),
    ("importance-asc", EditOrder::ImportanceAsc),
    ("listed", EditOrder::Listed),
];
const KINDS: [(&str, Kind); 2] =
    [("conv-channel", Kind::ConvChannel), ("mlp-neuron", Kind::MlpNeuron)];
/// The keys of a policy, in the order in which they are best written.
const KEYS: [&str; 11] = [
    "policy-version",
    "name",
    "revision",
    "requires",
    "sentence-encoder",
    "include",
    "defaults",
    "lists",
    "rule",
    "gate",
    "exception",
];

/// The keys of a match.
const MATCH_KEYS: [&str; 3] = ["any", "all", "none"];

/// Reads one file on top of what it includes.
pub(super) struct Reader<'a> {
    pub(super) walker: Walker,
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    pub(super) lists: Lists,
    pub(super) defaults: Defaults,
    /// Whether a phrase or its likeness is asked for.
    pub(super) asks_likeness: Option<Range<usize>>,
    /// Whether a match within a match is being read.
    pub(super) is_within_match: bool,
}

/// For every rule of the file that does not say otherwise.
pub(super) struct Defaults {
    pub(super) level: Level,
    pub(super) min_confidence: f32,
    pub(super) count: Certainty,
    pub(super) action: Action,
}

impl Reader<'_> {
    pub(super) fn mistake(&mut self, code: &'static str, at: Range<usize>, message: String) {
        self.walker.mistake(code, at, message);
    }

    fn level(&mut self, table: &Table<'_>) -> Option<Level> {
        self.walker.choice(table, "level", &LEVELS)
    }

    /// Adds what the file says to what it includes.
    pub(super) fn policy(&mut self, table: &Table<'_>, policy: &mut Policy) {
        self.walker.keys(table, &KEYS, "the policy");
        if let Some(name) = self.walker.text(table, "name") {
            policy.name = name;
        }
        policy.revision = self.walker.count(table, "revision");
        if let Some(encoder) = self.walker.text(table, "sentence-encoder") {
            let at = table["sentence-encoder"].span();
            join_encoders(&mut self.walker, at, policy, Some(encoder));
        }
        if let Some(defaults) = self.walker.table(table, "defaults") {
            self.walker.keys(
                defaults,
                &["level", "min-confidence", "count", "action"],
                "[defaults]",
            );
            if let Some(level) = self.level(defaults) {
                self.defaults.level = level;
            }
            if let Some(confidence) = self.walker.share(defaults, "min-confidence") {
                self.defaults.min_confidence = confidence as f32;
            }
            if let Some(count) = self.walker.choice(defaults, "count", &CERTAINTIES) {
                self.defaults.count = count;
            }
            if let Some(action) = self.walker.choice(defaults, "action", &ACTIONS) {
                self.defaults.action = action;
            }
        }
        policy.min_confidence = self.defaults.min_confidence;
        if let Some(lists) = self.walker.table(table, "lists") {
            for (name, _) in lists.iter() {
                let words = self.walker.texts(lists, name.get_ref());
                self.lists.insert(name.get_ref().to_string(), words);
            }
        }
        let mut own = BTreeSet::new();
        for value in self.walker.array(table, "rule") {
            match value.get_ref().as_table() {
                Some(rule) => self.rule(rule, value.span(), &mut own, policy),
                None => self.walker.wrong_type(value, "a table"),
            }
        }
        if policy.rules.is_empty() && !table.contains_key("rule") {
            let message = "there is no [[rule]]; a policy without one lets everything pass";
            self.mistake("no-rule", 0..0, message.into());
        }
        if let Some(gate) = self.walker.table(table, "gate") {
            self.gates(gate, &mut policy.gates);
        }
        for value in self.walker.array(table, "exception") {
            match value.get_ref().as_table() {
                Some(it) => policy.exceptions.extend(self.exception(it, value.span(), policy)),
                None => self.walker.wrong_type(value, "a table"),
            }
        }
        if let Some(at) = self.asks_likeness.clone()
            && policy.sentence_encoder.is_none()
        {
            let message = "a phrase's min-similarity holds for one sentence encoder; the policy must name it, such as `sentence-encoder = \"built-in@3\"`";
            self.mistake("no-encoder", at, message.into());
        }
    }

    /// A rule, or, without a match, other words about one that is included.
    fn rule(
        &mut self,
        table: &Table<'_>,
        at: Range<usize>,
        own: &mut BTreeSet<String>,
        policy: &mut Policy,
    ) {
        let known = [
            "id", "title", "reason", "url", "level", "match", "scope", "count", "limit", "edit",
            "test",
        ];
        self.walker.keys(table, &known, "[[rule]]");
        let id = self.walker.text(table, "id");
        let mut included = None;
        match (&id, table.get("id")) {
            (Some(id), Some(value)) => {
                let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                if id.is_empty() || !id.chars().all(is_plain) {
                    let message = format!("`{id}` is no id; wanted small letters, digits and `-`");
                    self.mistake("bad-id", value.span(), message);
                }
                if !own.insert(id.clone()) {
                    let message = format!("rule `{id}` is there twice");
                    self.mistake("duplicate-id", value.span(), message);
                } else if let Some(n) = policy.rules.iter().position(|it| it.id == *id) {
                    included = Some(n);
                    if table.contains_key("match") {
                        let from = policy.rules[n].place.as_ref().map_or("", |it| &it.path);
                        let message = format!(
                            "rule `{id}` is included from {from} already; leave [rule.match] out to change its level, scope, count, limit or edit, or choose another id"
                        );
                        self.mistake("duplicate-id", value.span(), message);
                    }
                }
            }
            _ if !table.contains_key("id") => {
                self.mistake("missing-key", at.clone(), "the rule has no `id`".into());
            }
            _ => {}
        }
        if let Some(n) = included {
            let mut rule = policy.rules[n].clone();
            self.adjust(table, &mut rule, true);
            policy.rules[n] = rule;
            return;
        }
        let matcher = match self.walker.table(table, "match") {
            Some(matcher) => self.matcher(matcher, at.clone(), "[rule.match]"),
            None => {
                if !table.contains_key("match") {
                    let message = "the rule has no [rule.match], so it matches nothing";
                    self.mistake("missing-key", at.clone(), message.into());
                }
                Matcher::default()
            }
        };
        // Everything is read before an absent id gives up, so that all mistakes are seen.
        let mut rule = Rule {
            id: id.clone().unwrap_or_default(),
            title: None,
            reason: None,
            url: None,
            place: Some(Place { path: self.path.to_owned(), line: place(self.text, at.start).0 }),
            level: self.defaults.level,
            matcher,
            scope: Scope {
                layers: Globs::everything(),
                kinds: vec![],
                min_confidence: self.defaults.min_confidence,
                min_importance: None,
            },
            count: self.defaults.count,
            limit: Limit { max_units: Some(0), max_share: None, max_share_per_layer: None },
            edit: Edit { action: self.defaults.action, max_units: None, order: None },
            by_words: false,
            examples: Examples::default(),
        };
        self.adjust(table, &mut rule, false);
        if id.is_some() {
            policy.rules.push(rule);
        }
    }

    /// All of a rule but its match.
    fn adjust(&mut self, table: &Table<'_>, rule: &mut Rule, is_included: bool) {
        rule.title = self.walker.text(table, "title").or(rule.title.take());
        rule.reason = self.walker.text(table, "reason").or(rule.reason.take());
        rule.url = self.walker.text(table, "url").or(rule.url.take());
        if let Some(level) = self.level(table) {
            rule.level = level;
        }
        self.scope(table, &mut rule.scope);
        if let Some(count) = self.walker.choice(table, "count", &CERTAINTIES) {
            rule.count = count;
        }
        self.limit(table, &mut rule.limit, is_included);
        self.edit(table, &mut rule.edit);
        if let Some(test) = self.walker.table(table, "test") {
            self.walker.keys(test, &["match", "no-match"], "[rule.test]");
            rule.examples.matching.extend(self.walker.texts(test, "match"));
            rule.examples.not_matching.extend(self.walker.texts(test, "no-match"));
        }
    }

    /// `{ any, all, none }`, called `name` in messages.
    fn matcher(&mut self, table: &Table<'_>, at: Range<usize>, name: &str) -> Matcher {
        self.walker.keys(table, &MATCH_KEYS, name);
        let mut evidence = Vec::new();
        let mut patterns = |key: &'static str| {
            let mut found = Vec::new();
            for value in self.walker.array(table, key) {
                match value.get_ref().as_table() {
                    Some(table) if table.contains_key("evidence") => {
                        if key != "any" {
                            let message = "`evidence` may stand in `any` only";
                            self.mistake("misplaced", value.span(), message.into());
                        }
                        evidence.extend(self.evidence(table));
                    }
                    _ => found.extend(self.pattern(value)),
                }
            }
            found
        };
        let (any, all, none) = (patterns("any"), patterns("all"), patterns("none"));
        let names_any =
            ["any", "all"].iter().any(|key| table.get(*key).is_some_and(|it| !is_empty_array(it)));
        if !names_any {
            let message = format!("{name} has neither `any` nor `all`, so it matches nothing");
            self.mistake("missing-key", at, message);
        }
        if !evidence.is_empty() && !all.is_empty() {
            let message = "evidence is found in no words, so `all` cannot be asked of it; make it a rule of its own";
            self.mistake("misplaced", table["all"].span(), message.into());
        }
        Matcher { any, all, none, evidence }
    }

    /// A match that is a pattern of another one. Those within those within … are refused, as a stranger's file may hold
    /// more than the stack does.
    fn inner_match(&mut self, table: &Table<'_>, at: Range<usize>) -> Option<Matcher> {
        if self.is_within_match {
            let message = "a match within a match may not hold a third one";
            self.mistake("misplaced", at, message.into());
            return None;
        }
        self.is_within_match = true;
        let matcher = self.matcher(table, at.clone(), "a match within a match");
        self.is_within_match = false;
        if !matcher.evidence.is_empty() {
            let message = "`evidence` may stand in the `any` of [rule.match] only";
            self.mistake("misplaced", at, message.into());
        }
        Some(matcher)
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
    fn pattern(&mut self, value: &Value<'_>) -> Option<Pattern> {
        if let Some(text) = value.get_ref().as_str() {
            if text.is_empty() {
                self.mistake("empty", value.span(), "an empty text matches nothing".into());
                return None;
            }
            return self.words(value.span(), vec![text.to_owned()], true);
        }
        let wanted =
            "a text or one of { words }, { list }, { regex }, { phrase }, { evidence }, { any }";
        let Some(table) = value.get_ref().as_table() else {
            self.walker.wrong_type(value, wanted);
            return None;
        };
        if MATCH_KEYS.iter().any(|key| table.contains_key(*key)) {
            return self.inner_match(table, value.span()).map(Pattern::Match);
        }
        let kinds = ["words", "list", "regex", "phrase"];
        let known = ["words", "list", "regex", "phrase", "evidence", "stem", "min-similarity"];
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
            let message = "a pattern wants exactly one of `words`, `list`, `regex`, `phrase`";
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
        match RegexBuilder::new(&text).size_limit(REGEX_SIZE).build() {
            Ok(regex) if regex.is_match("") => {
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
        match WordList::new(words, stem, &self.lists) {
            Ok(list) => Some(Pattern::Words(list)),
            Err(message) => {
                self.mistake("bad-phrase", at, message);
                None
            }
        }
    }

    fn scope(&mut self, rule: &Table<'_>, scope: &mut Scope) {
        let Some(table) = self.walker.table(rule, "scope") else { return };
        let known = ["layers", "kinds", "min-confidence", "min-importance"];
        self.walker.keys(table, &known, "[rule.scope]");
        for value in self.walker.array(table, "layers") {
            if let Some(text) = value.get_ref().as_str()
                && let Err(error) = Globs::new(&[text.to_owned()])
            {
                self.mistake("bad-glob", value.span(), error.to_string());
            }
        }
        if table.contains_key("layers")
            && let Ok(globs) = Globs::new(&self.walker.texts(table, "layers"))
        {
            scope.layers = globs;
        }
        self.walker.texts(table, "kinds");
        let kinds = self.walker.array(table, "kinds").iter().filter(|it| it.get_ref().is_str());
        let kinds: Vec<Kind> =
            kinds.filter_map(|it| self.walker.one_of(it, "kind", &KINDS)).collect();
        if !kinds.is_empty() {
            scope.kinds = kinds;
        }
        if let Some(confidence) = self.walker.share(table, "min-confidence") {
            scope.min_confidence = confidence as f32;
        }
        if let Some(importance) = self.walker.share(table, "min-importance") {
            // Zero asks for nothing, so nothing needs to be measured.
            scope.min_importance = Some(importance).filter(|it| 0. < *it);
        }
    }

    fn limit(&mut self, rule: &Table<'_>, limit: &mut Limit, is_included: bool) {
        let Some(table) = self.walker.table(rule, "limit") else { return };
        self.walker.keys(table, &["max-units", "max-share", "max-share-per-layer"], "[rule.limit]");
        if table.is_empty() {
            return;
        }
        // A rule that is included keeps the limits that are not named anew.
        let before = if is_included {
            *limit
        } else {
            Limit { max_units: None, max_share: None, max_share_per_layer: None }
        };
        *limit = Limit {
            max_units: self.walker.count(table, "max-units").or(before.max_units),
            max_share: self.walker.share(table, "max-share").or(before.max_share),
            max_share_per_layer: self
                .walker
                .share(table, "max-share-per-layer")
                .or(before.max_share_per_layer),
        };
    }

    fn edit(&mut self, rule: &Table<'_>, edit: &mut Edit) {
        let Some(table) = self.walker.table(rule, "edit") else { return };
        self.walker.keys(table, &["action", "max-units", "order"], "[rule.edit]");
        if let Some(action) = self.walker.choice(table, "action", &ACTIONS) {
            edit.action = action;
        }
        edit.max_units = self.walker.count(table, "max-units").or(edit.max_units);
        edit.order = self.walker.choice(table, "order", &ORDERS).or(edit.order);
    }
}

/// Thresholds hold for one encoder, so all files of a policy must name the same.
pub(super) fn join_encoders(
    walker: &mut Walker,
    at: Range<usize>,
    policy: &mut Policy,
    other: Option<String>,
) {
    match (&policy.sentence_encoder, other) {
        (Some(one), Some(other)) if *one != other => {
            let message = format!(
                "thresholds for the sentence encoder `{one}` are included already, and these are for `{other}`"
            );
            walker.mistake("other-encoder", at, message);
        }
        (None, other) => policy.sentence_encoder = other,
        _ => {}
    }
}

fn is_empty_array(value: &Value<'_>) -> bool {
    value.get_ref().as_array().is_some_and(|it| it.is_empty())
}
