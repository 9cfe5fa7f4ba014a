//! Words to findings: the user's rules held against the descriptions.
//!
//! Nothing here knows a tensor. A unit that was not described never counts as clean: it is counted
//! beside the findings, and a rule in whose scope nothing was described is inconclusive.

pub mod check;
pub mod examples;
pub mod file;
pub mod finding;
pub mod gates;
pub mod matcher;
pub mod phrase;
pub mod presets;

mod coverage;
mod exceptions;
mod read;
mod read_gates;
mod read_match;

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::unit::{Description, Globs, Judgement, Kind, Unit};
use crate::usage;
use matcher::Matcher;

pub use check::{CheckStatus, Facts, Observed, Outcome, check};
pub use exceptions::{ExceptionOutcome, ExceptionStatus};
pub use file::load;
pub use finding::Finding;
pub use gates::{Gate, Gates, Importance};
pub use matcher::Similarities;

/// What it means when something is not as the policy wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The run fails.
    Deny,
    /// It is said, and the run passes.
    Warn,
    /// It is counted and never broken.
    Allow,
}

/// A set of rules, gates and exceptions.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Policy {
    pub name: String,
    /// Of the policy itself, so that another one can name which it includes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<usize>,
    #[serde(skip)]
    pub files: Vec<PolicyFile>,
    /// A description below it is `unknown`, 0..=1.
    pub min_confidence: f32,
    /// The encoder that the thresholds of semantic phrases are for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentence_encoder: Option<String>,
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
    #[serde(rename = "gate")]
    pub gates: Gates,
    #[serde(rename = "exception", skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<Exception>,
}

/// A file that a policy was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFile {
    pub path: String,
    pub sha256: String,
}

/// Where something stands in a policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub path: String,
    /// From 1.
    pub line: usize,
}

/// One rule.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rule {
    pub id: String,
    pub title: Option<String>,
    pub reason: Option<String>,
    pub url: Option<String>,
    #[serde(skip)]
    pub place: Option<Place>,
    pub level: Level,
    #[serde(rename = "match")]
    pub matcher: Matcher,
    pub scope: Scope,
    /// Which findings count.
    #[serde(skip_serializing_if = "Certainty::is_likely")]
    pub count: Certainty,
    pub limit: Limit,
    pub edit: Edit,
    /// Whether the words of a description decide alone, whatever the exemplars show.
    #[serde(skip)]
    pub by_words: bool,
    #[serde(skip)]
    pub examples: Examples,
}

/// How sure a finding is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// As probable as not that somebody who looks at the unit's exemplars says so.
    #[default]
    Likely,
    /// One in five.
    Possible,
}

impl Certainty {
    fn is_likely(&self) -> bool {
        *self == Certainty::Likely
    }

    /// How sure so probable a finding is; `None` where it is none.
    pub fn of(probability: f32) -> Option<Certainty> {
        const LIKELY: f32 = 0.5;
        const POSSIBLE: f32 = 0.2;
        match probability {
            it if LIKELY <= it => Some(Certainty::Likely),
            it if POSSIBLE <= it => Some(Certainty::Possible),
            _ => None,
        }
    }
}

/// Which units a rule looks at.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Scope {
    #[serde(serialize_with = "as_patterns")]
    pub layers: Globs,
    /// None means every kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<Kind>,
    pub min_confidence: f32,
    /// By the measure that the accuracy gate names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_importance: Option<f64>,
}

/// How much a rule lets pass. The rule is broken when any is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Limit {
    pub max_units: Option<usize>,
    /// Of the units in scope, 0..=1.
    pub max_share: Option<f64>,
    pub max_share_per_layer: Option<f64>,
}

/// What `milan-edit` does with a rule's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Edit {
    pub action: Action,
    /// An edit that would go beyond is refused.
    pub max_units: Option<usize>,
    /// Which go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<EditOrder>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Report,
    Zero,
    /// Known to the format; `milan-edit` does not prune yet and says so.
    Prune,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EditOrder {
    Confidence,
    ImportanceAsc,
    Listed,
}

/// What a rule must and must not match: `milan-audit policy test` tries it.
#[derive(Debug, Clone, Default)]
pub struct Examples {
    pub matching: Vec<String>,
    pub not_matching: Vec<String>,
}

/// Units that a rule lets pass, for a while.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Exception {
    pub rule: String,
    #[serde(serialize_with = "as_texts")]
    pub units: Vec<UnitPattern>,
    /// The beginning of a model file's sha256: it holds for that model only.
    pub model: Option<String>,
    pub reason: String,
    /// The last day on which it holds; `None` is `never`.
    #[serde(serialize_with = "as_day")]
    pub expires: Option<Date>,
    pub approved_by: Option<String>,
}

/// Units of the layers that a glob names: `layer4.*:17`, `layer4.1:{17,90}`, `layer4.1:*`.
#[derive(Debug, Clone)]
pub struct UnitPattern {
    text: String,
    layers: Globs,
    /// `None` is all of them.
    channels: Option<BTreeSet<usize>>,
}

impl UnitPattern {
    /// Errs with what was wanted.
    pub fn new(text: &str) -> Result<UnitPattern, String> {
        let wanted =
            "wanted `layer:unit`, such as `layer4.1:37`, `layer4.1:{17,90}` or `layer4.*:*`";
        let no = || format!("`{text}` names no units; {wanted}");
        let (layers, channels) = text.rsplit_once(':').ok_or_else(no)?;
        let layers = Globs::new(&[layers.to_owned()]).map_err(|error| error.to_string())?;
        let channels = match channels.trim() {
            "*" => None,
            list => {
                let inner = list.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
                let numbers = inner.unwrap_or(list).split(',').map(|it| it.trim().parse::<usize>());
                Some(numbers.collect::<Result<BTreeSet<_>, _>>().map_err(|_| no())?)
            }
        };
        Ok(UnitPattern { text: text.to_owned(), layers, channels })
    }

    pub fn matches(&self, unit: &Unit) -> bool {
        self.layers.matches(&unit.site)
            && self.channels.as_ref().is_none_or(|it| it.contains(&unit.channel))
    }
}

impl std::fmt::Display for UnitPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Rule {
    /// Whether the describer's critics are asked how probable it is; else the words decide alone. They are not asked
    /// where a rule goes by the likeness of meanings or by evidence, whose thresholds are the user's own.
    pub fn is_judged(&self) -> bool {
        !self.by_words && self.matcher.phrases().is_empty() && !self.matcher.wants_no_words()
    }

    /// What the critics judge of a unit, where they are asked.
    pub fn judgement<'a>(&self, description: &'a Description) -> Option<&'a Judgement> {
        description.judged.get(&self.id).filter(|_| self.is_judged())
    }
}

impl Policy {
    /// By what its rules hold units for important.
    pub fn importance(&self) -> Importance {
        self.gates.accuracy.map_or(Importance::Ablation, |it| it.importance)
    }

    /// The phrases whose evidence its rules ask for, each once.
    pub fn evidence_phrases(&self) -> Vec<String> {
        let all = self.rules.iter().flat_map(|rule| &rule.matcher.evidence);
        let phrases: BTreeSet<&String> = all.map(|it| &it.phrase).collect();
        phrases.into_iter().cloned().collect()
    }

    /// The phrases whose likeness to descriptions its rules ask for, each once.
    pub fn phrases(&self) -> Vec<&str> {
        let all = self.rules.iter().flat_map(|rule| rule.matcher.phrases());
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Sets the level of a rule or a gate, as `-D`, `-W` and `-A` do. Errs where there is none of that name.
    pub fn set_level(&mut self, id: &str, level: Level) -> anyhow::Result<()> {
        if let Some(rule) = self.rules.iter_mut().find(|it| it.id == id) {
            rule.level = level;
            return Ok(());
        }
        if self.gates.set_level(id, level) {
            return Ok(());
        }
        let rules: Vec<&str> = self.rules.iter().map(|it| it.id.as_str()).collect();
        Err(usage!(
            "policy `{}` has no rule `{id}` and asks for no such gate; its rules are {}",
            self.name,
            rules.join(", ")
        ))
    }
}

fn as_patterns<S: serde::Serializer>(globs: &Globs, serializer: S) -> Result<S::Ok, S::Error> {
    globs.patterns().serialize(serializer)
}

fn as_day<S: serde::Serializer>(day: &Option<Date>, serializer: S) -> Result<S::Ok, S::Error> {
    match day {
        Some(day) => serializer.collect_str(day),
        None => serializer.serialize_str("never"),
    }
}

fn as_texts<S: serde::Serializer>(units: &[UnitPattern], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(units.iter().map(UnitPattern::to_string))
}

/// The policy of `milan-edit --delete-matching`: one rule, by which units go whose descriptions hold the words. Errs on words that hold
/// none.
pub fn from_words(words: &[String], min_confidence: f32) -> anyhow::Result<Policy> {
    let matcher = Matcher::of_words(words).map_err(|error| usage!("--delete-matching: {error}"))?;
    let rule = Rule {
        id: "delete-matching".into(),
        title: Some(format!("Units described with {}", words.join(", "))),
        reason: None,
        url: None,
        place: None,
        level: Level::Allow,
        matcher,
        scope: Scope {
            layers: Globs::everything(),
            kinds: vec![],
            min_confidence,
            min_importance: None,
        },
        count: Certainty::Likely,
        limit: Limit { max_units: None, max_share: None, max_share_per_layer: None },
        edit: Edit { action: Action::Zero, max_units: None, order: None },
        by_words: true,
        examples: Examples::default(),
    };
    Ok(Policy {
        name: "delete-matching".into(),
        revision: None,
        files: vec![],
        min_confidence,
        sentence_encoder: None,
        rules: vec![rule],
        gates: Gates::default(),
        exceptions: vec![],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_pattern_names_layers_and_units() {
        let check = |pattern: &str, unit: &str, wanted: bool| {
            let pattern = UnitPattern::new(pattern).unwrap();
            assert_eq!(pattern.matches(&unit.parse().unwrap()), wanted, "{pattern} {unit}");
        };
        check("layer4.1:37", "layer4.1:37", true);
        check("layer4.1:37", "layer4.1:3", false);
        check("layer4.1:{17, 90}", "layer4.1:90", true);
        check("layer4.*:*", "layer4.0:5", true);
        check("layer4.*:*", "layer3.0:5", false);
        for text in ["layer4", "layer4:x", "layer4:{1,}"] {
            assert!(UnitPattern::new(text).unwrap_err().starts_with(&format!("`{text}` names no")));
        }
    }
}
