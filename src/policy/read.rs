//! The keys of a policy file to rules; what they match is in [`read_match`](super::read_match), gates and exceptions are in
//! [`read_gates`](super::read_gates).

use std::collections::BTreeSet;
use std::ops::Range;

use super::matcher::Matcher;
use super::phrase::Lists;
use super::read_match::{MatchLevel, is_empty_array};
use super::{
    Action, Certainty, Edit, EditOrder, Examples, Level, Limit, Place, Policy, Rule, Scope,
};
use crate::toml_file::{Table, Walker, place};
use crate::unit::{Globs, Kind};

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
/// Words that the phrases of a policy and of all that it includes may hold. Descriptions are held against each of them.
pub(super) const MAX_WORDS: usize = 200_000;
const WORDS_OF_RULE: usize = 200;
pub(super) const WORDS_OF_REGEX: usize = 1000;
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

/// Reads one file on top of what it includes.
pub(super) struct Reader<'a> {
    pub(super) walker: Walker,
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    pub(super) lists: Lists,
    pub(super) defaults: Defaults,
    /// How many more words its rules may hold.
    pub(super) words_left: usize,
    /// Whether a phrase or its likeness is asked for.
    pub(super) asks_likeness: Option<Range<usize>>,
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

    /// Takes so many words off those that are left; a mistake, once, where there are not as many.
    pub(super) fn take_words(&mut self, n: usize, at: Range<usize>) -> bool {
        if n <= self.words_left {
            self.words_left -= n;
            return true;
        }
        if 0 < self.words_left {
            let message = format!(
                "the policy is too large; its phrases may hold {MAX_WORDS} words, those of a list for each phrase that names it, a rule counting as {WORDS_OF_RULE} and a regex as {WORDS_OF_REGEX}"
            );
            self.mistake("too-large", at, message);
            self.words_left = 0;
        }
        false
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
            if !self.take_words(WORDS_OF_RULE, value.span()) {
                break;
            }
            match value.get_ref().as_table() {
                Some(rule) => self.rule(rule, value.span(), &mut own, policy),
                None => self.walker.wrong_type(value, "a table"),
            }
        }
        if policy.rules.is_empty() && table.get("rule").is_none_or(is_empty_array) {
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
            Some(matcher) => self.matcher(matcher, at.clone(), MatchLevel::Rule),
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
