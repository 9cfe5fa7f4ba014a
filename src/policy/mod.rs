//! Words to findings: the user's rules held against the descriptions.
//!
//! Nothing here knows a tensor. A unit that was not described never counts as clean: it is counted
//! beside the findings, and a rule in whose scope nothing was described is inconclusive.

pub mod file;
pub mod matcher;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::unit::{Description, Globs, Status, Unit};
use matcher::Matcher;

pub use file::{load, parse};

/// What a broken rule means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The run fails.
    Deny,
    /// It is said, and the run passes.
    Warn,
    /// It is counted and never broken.
    Allow,
}

/// A set of rules.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Policy {
    pub name: String,
    #[serde(skip)]
    pub files: Vec<PolicyFile>,
    /// A description below it is `unknown`, 0..=1.
    pub min_confidence: f32,
    pub rules: Vec<Rule>,
}

impl Policy {
    /// The phrases whose evidence its rules ask for, each once.
    pub fn evidence_phrases(&self) -> Vec<String> {
        let all = self.rules.iter().flat_map(|rule| &rule.matcher.evidence);
        let phrases: BTreeSet<&String> = all.map(|it| &it.phrase).collect();
        phrases.into_iter().cloned().collect()
    }
}

/// A file that a policy was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyFile {
    pub path: String,
    pub sha256: String,
}

/// One rule.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rule {
    pub id: String,
    pub title: Option<String>,
    pub reason: Option<String>,
    pub url: Option<String>,
    pub level: Level,
    #[serde(rename = "match")]
    pub matcher: Matcher,
    pub scope: Scope,
    pub limit: Limit,
    pub edit: Edit,
}

/// Which units a rule looks at.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Scope {
    #[serde(serialize_with = "as_patterns")]
    pub layers: Globs,
    pub min_confidence: f32,
}

/// How much a rule lets pass. The rule is broken when any is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Report,
    Zero,
}

/// A unit that a rule matches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub unit: Unit,
    /// The reading that matched, and how sure it is.
    pub description: String,
    pub confidence: f32,
    /// The words of the rule that matched.
    pub matched: String,
}

/// How a rule came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleStatus {
    Passed,
    Violated,
    Warned,
    /// No unit is in scope, or none of those was described.
    Inconclusive,
}

/// What a rule saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Observed {
    pub units: usize,
    /// Of the units in scope, 0..=1.
    pub share: f64,
    pub max_share_per_layer: f64,
    pub in_scope: usize,
    pub unknown: usize,
    pub dead: usize,
}

/// One rule's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub status: RuleStatus,
    pub observed: Observed,
    /// Which limits were exceeded, or why it is inconclusive; empty when passed.
    pub why: Vec<String>,
    pub findings: Vec<Finding>,
}

/// Holds the descriptions against each rule, in the order of the rules.
pub fn check(policy: &Policy, descriptions: &[Description]) -> Vec<Outcome> {
    policy.rules.iter().map(|rule| check_rule(rule, descriptions)).collect()
}

fn check_rule(rule: &Rule, descriptions: &[Description]) -> Outcome {
    let mut observed = Observed::default();
    let mut findings = Vec::new();
    let mut by_layer: BTreeMap<&str, (usize, usize)> = BTreeMap::new(); // layer: (found, in scope)
    for description in descriptions.iter().filter(|it| rule.scope.layers.matches(&it.unit.site)) {
        observed.in_scope += 1;
        let (found_here, in_scope_here) = by_layer.entry(&description.unit.site).or_default();
        *in_scope_here += 1;
        if let Some((phrase, score)) = rule.matcher.evident(&description.evidence) {
            *found_here += 1;
            let best = description.best().map_or_else(|| phrase.to_owned(), |it| it.text.clone());
            findings.push(Finding {
                unit: description.unit.clone(),
                description: best,
                confidence: score,
                matched: format!("evidence of \"{phrase}\""),
            });
            continue;
        }
        let sure = |confidence: f32| rule.scope.min_confidence <= confidence;
        match description.status {
            Status::Dead => observed.dead += 1,
            Status::Described if description.best().is_some_and(|it| sure(it.confidence)) => {}
            Status::Described | Status::Unknown => {
                observed.unknown += 1;
                continue;
            }
        }
        let readings = description.readings.iter().filter(|it| sure(it.confidence));
        let found = readings.filter_map(|it| Some((it, rule.matcher.find(&it.text)?))).next();
        if let Some((reading, matched)) = found {
            *found_here += 1;
            findings.push(Finding {
                unit: description.unit.clone(),
                description: reading.text.clone(),
                confidence: reading.confidence,
                matched,
            });
        }
    }
    let share =
        |(found, all): (usize, usize)| if all == 0 { 0. } else { found as f64 / all as f64 };
    observed.units = findings.len();
    observed.share = share((observed.units, observed.in_scope));
    observed.max_share_per_layer =
        by_layer.values().map(|&counts| share(counts)).fold(0., f64::max);

    let why = exceeded(&rule.limit, &observed);
    let described = observed.in_scope - observed.unknown - observed.dead;
    let (status, why) = match rule.level {
        Level::Deny if !why.is_empty() => (RuleStatus::Violated, why),
        Level::Warn if !why.is_empty() => (RuleStatus::Warned, why),
        _ if observed.in_scope == 0 => (
            RuleStatus::Inconclusive,
            vec![format!(
                "its layers ({}) match none that was looked at",
                rule.scope.layers.patterns().join(", ")
            )],
        ),
        _ if described == 0 => (
            RuleStatus::Inconclusive,
            vec![format!("none of the {} units in scope was described", observed.in_scope)],
        ),
        _ => (RuleStatus::Passed, vec![]),
    };
    Outcome { status, observed, why, findings }
}

fn exceeded(limit: &Limit, observed: &Observed) -> Vec<String> {
    let mut why = Vec::new();
    if let Some(max) = limit.max_units
        && max < observed.units
    {
        let s = if observed.units == 1 { "" } else { "s" };
        why.push(format!("{} unit{s} found, {max} allowed", observed.units));
    }
    let percent = |share: f64| format!("{:.1} %", 100. * share);
    if let Some(max) = limit.max_share
        && max < observed.share
    {
        why.push(format!(
            "{} of the units in scope, {} allowed",
            percent(observed.share),
            percent(max)
        ));
    }
    if let Some(max) = limit.max_share_per_layer
        && max < observed.max_share_per_layer
    {
        why.push(format!(
            "{} of one layer's units, {} allowed",
            percent(observed.max_share_per_layer),
            percent(max)
        ));
    }
    why
}

fn as_patterns<S: serde::Serializer>(globs: &Globs, serializer: S) -> Result<S::Ok, S::Error> {
    globs.patterns().serialize(serializer)
}

/// The policy of `milan-edit --delete-matching`: one rule, whose words are to be zeroed.
pub fn from_words(words: &[String], min_confidence: f32) -> Policy {
    let rule = Rule {
        id: "delete-matching".into(),
        title: Some(format!("Units described with {}", words.join(", "))),
        reason: None,
        url: None,
        level: Level::Allow,
        matcher: Matcher::of_words(words),
        scope: Scope { layers: Globs::everything(), min_confidence },
        limit: Limit { max_units: None, max_share: None, max_share_per_layer: None },
        edit: Edit { action: Action::Zero, max_units: None },
    };
    Policy { name: "delete-matching".into(), files: vec![], min_confidence, rules: vec![rule] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Reading;

    fn described(unit: &str, readings: &[(&str, f32)]) -> Description {
        let readings: Vec<Reading> = readings
            .iter()
            .map(|&(text, confidence)| Reading { text: text.into(), confidence })
            .collect();
        let status = if readings.is_empty() { Status::Unknown } else { Status::Described };
        Description { unit: unit.parse().unwrap(), status, readings, evidence: BTreeMap::new() }
    }

    #[track_caller]
    fn check_policy(rule: &str, descriptions: &[Description]) -> Outcome {
        let text = format!("policy-version = 1\n[[rule]]\nid = \"faces\"\n{rule}");
        check(&parse(&text, "p.toml").unwrap(), descriptions).remove(0)
    }

    #[test]
    fn one_unit_too_many_breaks_a_rule() {
        let units = [described("a:0", &[("human faces", 0.9)]), described("a:1", &[("dogs", 0.9)])];
        let outcome = check_policy("match.any = [\"face\"]", &units);
        assert_eq!(
            (outcome.status, outcome.why),
            (RuleStatus::Violated, vec!["1 unit found, 0 allowed".to_owned()])
        );
        assert_eq!(
            (outcome.findings[0].unit.to_string(), outcome.findings[0].matched.as_str()),
            ("a:0".into(), "face")
        );
        let outcome = check_policy("level = \"warn\"\nmatch.any = [\"face\"]", &units);
        assert_eq!(outcome.status, RuleStatus::Warned);
        let outcome = check_policy("match.any = [\"face\"]\nlimit.max-units = 1", &units);
        assert_eq!(outcome.status, RuleStatus::Passed);
        let outcome = check_policy("match.any = [\"face\"]\nlimit.max-share = 0.4", &units);
        assert_eq!(outcome.why, ["50.0 % of the units in scope, 40.0 % allowed"]);
    }

    #[test]
    fn any_reading_counts_that_is_sure_enough() {
        let units = [described("a:0", &[("dogs", 0.9), ("faces", 0.5)])];
        assert_eq!(check_policy("match.any = [\"face\"]", &units).findings.len(), 1);
        assert_eq!(
            check_policy("match.any = [\"face\"]\nscope.min-confidence = 0.6", &units)
                .findings
                .len(),
            0
        );
    }

    #[test]
    fn what_was_not_described_is_not_clean() {
        let mut dead = described("a:1", &[]);
        dead.status = Status::Dead;
        let units = [described("a:0", &[]), dead];
        let outcome = check_policy("match.any = [\"face\"]", &units);
        assert_eq!(outcome.status, RuleStatus::Inconclusive);
        assert_eq!((outcome.observed.unknown, outcome.observed.dead), (1, 1));
        let outcome = check_policy("match.any = [\"face\"]\nscope.layers = [\"z\"]", &units);
        assert_eq!(outcome.why, ["its layers (z) match none that was looked at"]);
    }
}
