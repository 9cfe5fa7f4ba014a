//! Rules, gates and exceptions held against what is known of the units.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::coverage::inconclusive_unless_covered;
use super::exceptions::{self, ExceptionOutcome};
use super::finding::{Finding, find, said};
use super::gates::{self, Gate, Known, some};
use super::matcher::Similarities;
use super::{Level, Limit, Policy, Rule};
use crate::unit::{Description, Globs, Kind, Shown, Status, Unit};

/// All that a policy is held against.
pub struct Facts<'a> {
    pub descriptions: &'a [Description],
    /// Of the units of a layer.
    pub kinds: &'a BTreeMap<String, Kind>,
    /// Of the units that it was measured for.
    pub importance: &'a BTreeMap<Unit, f64>,
    pub similar: &'a Similarities,
    /// The sha256 of the model's files.
    pub model: &'a [String],
    pub today: Date,
    /// By rule, where the describer judges what the pictures show.
    pub shown: &'a BTreeMap<String, Shown>,
    /// Of the layers that are described where the user names none, those that were not looked at.
    pub not_looked_at: &'a [String],
    /// Whether a rule may pass on pictures that do not show what it looks for, or without some of its layers.
    pub allow_uncovered: bool,
}

/// How a rule or a gate came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    Passed,
    Violated,
    Warned,
    /// There was too little to look at: of a rule, no unit is in scope, or none of those was described, or the pictures
    /// do not show what it looks for, or some of its layers were not looked at.
    Inconclusive,
    /// Not held against this run.
    Skipped,
}

/// What a rule saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    pub units: usize,
    /// Of the units in scope, 0..=1.
    pub share: f64,
    pub max_share_per_layer: f64,
    pub in_scope: usize,
    pub unknown: usize,
    pub dead: usize,
    #[serde(default)]
    pub saturated: usize,
    /// Units that are possible findings and do not count.
    #[serde(default)]
    pub possible: usize,
    /// Units whose words match, but of which it is improbable that somebody would say so.
    #[serde(default)]
    pub improbable: usize,
}

impl Observed {
    /// Units in scope of which nothing is known.
    pub fn unseen(&self) -> usize {
        self.unknown + self.dead + self.saturated
    }
}

/// One rule's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub status: CheckStatus,
    pub observed: Observed,
    /// Which limits were exceeded, or why it is inconclusive; empty when passed.
    pub why: Vec<String>,
    /// Those that count.
    pub findings: Vec<Finding>,
    /// Those that are possible where only likely ones count.
    pub possible: Vec<Finding>,
    /// Those that an exception takes out.
    pub excepted: Vec<Finding>,
    /// Where the pictures show what the rule looks for; `None` where nobody can tell.
    pub shown: Option<Shown>,
}

/// The results of a whole policy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checked {
    /// In the order of the rules.
    pub outcomes: Vec<Outcome>,
    pub gates: Vec<Gate>,
    /// In the order of the policy's exceptions.
    pub exceptions: Vec<ExceptionOutcome>,
}

/// Holds a policy against the facts.
pub fn check(policy: &Policy, facts: &Facts<'_>) -> Checked {
    let start = |it| ExceptionOutcome::new(it, facts.model, facts.today);
    let mut excepted: Vec<ExceptionOutcome> = policy.exceptions.iter().map(start).collect();
    let outcomes: Vec<Outcome> =
        policy.rules.iter().map(|rule| check_rule(policy, rule, facts, &mut excepted)).collect();
    let of = |status| facts.descriptions.iter().filter(|it| it.status == status).count();
    let known = Known {
        units: facts.descriptions.len(),
        unknown: of(Status::Unknown),
        dead: of(Status::Dead),
        saturated: of(Status::Saturated),
    };
    let mut gates = gates::on_known(&policy.gates, known);
    gates.extend(scopes(policy, &outcomes, facts.descriptions));
    gates.extend(exceptions::gates(&policy.gates, &policy.exceptions, &excepted, facts.today));
    gates.extend(gates::of_edits(&policy.gates));
    Checked { outcomes, gates, exceptions: excepted }
}

/// Units of a rule that match by what is said of them, whatever their importance: those whose importance is worth
/// measuring where the rule asks for some.
pub fn candidates(policy: &Policy, facts: &Facts<'_>) -> Vec<Unit> {
    let asks = policy.rules.iter().filter(|rule| rule.scope.min_importance.is_some());
    let matching = asks.flat_map(|rule| {
        let units =
            descriptions_in_scope(rule, facts).filter(|it| find(rule, it, facts.similar).is_some());
        units.map(|it| it.unit.clone()).collect::<Vec<_>>()
    });
    matching.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether a rule looks at the units of a layer.
pub(super) fn is_in_scope(rule: &Rule, facts: &Facts<'_>, layer: &str) -> bool {
    let is_kind = || facts.kinds.get(layer).is_some_and(|it| rule.scope.kinds.contains(it));
    rule.scope.layers.matches(layer) && (rule.scope.kinds.is_empty() || is_kind())
}

fn descriptions_in_scope<'a>(
    rule: &'a Rule,
    facts: &'a Facts<'_>,
) -> impl Iterator<Item = &'a Description> {
    let mut last: Option<(&str, bool)> = None;
    facts.descriptions.iter().filter(move |it| {
        let site = it.unit.site.as_str();
        match last {
            Some((name, answer)) if name == site => answer,
            _ => {
                let answer = is_in_scope(rule, facts, site);
                last = Some((site, answer));
                answer
            }
        }
    })
}

fn check_rule(
    policy: &Policy,
    rule: &Rule,
    facts: &Facts<'_>,
    exceptions: &mut [ExceptionOutcome],
) -> Outcome {
    let mut observed = Observed::default();
    let (mut findings, mut possible, mut excepted) = (Vec::new(), Vec::new(), Vec::new());
    let mut by_layer: BTreeMap<&str, (usize, usize)> = BTreeMap::new(); // layer: (found, in scope)
    for description in descriptions_in_scope(rule, facts) {
        observed.in_scope += 1;
        let (found_here, in_scope_here) = by_layer.entry(&description.unit.site).or_default();
        *in_scope_here += 1;
        // What no measure has an answer for is not held for unimportant.
        let important = rule
            .scope
            .min_importance
            .is_none_or(|min| facts.importance.get(&description.unit).is_none_or(|it| min <= *it));
        if let Some(finding) = find(rule, description, facts.similar).filter(|_| important) {
            let mut is_excepted = false;
            for (it, outcome) in policy.exceptions.iter().zip(exceptions.iter_mut()) {
                is_excepted |= outcome.takes(it, &rule.id, &finding.unit);
            }
            if is_excepted {
                excepted.push(finding);
            } else if finding.certainty <= rule.count {
                *found_here += 1;
                findings.push(finding);
            } else {
                possible.push(finding);
            }
            continue;
        }
        observed.improbable += usize::from(said(rule, description, facts.similar).is_some());
        let sure = description.best().is_some_and(|it| rule.scope.min_confidence <= it.confidence);
        match description.status {
            Status::Dead => observed.dead += 1,
            Status::Saturated => observed.saturated += 1,
            Status::Described if sure => {}
            Status::Described | Status::Unknown => observed.unknown += 1,
        }
    }
    let share =
        |(found, all): (usize, usize)| if all == 0 { 0. } else { found as f64 / all as f64 };
    observed.units = findings.len();
    observed.share = share((observed.units, observed.in_scope));
    observed.max_share_per_layer =
        by_layer.values().map(|&counts| share(counts)).fold(0., f64::max);
    observed.possible = possible.len();
    let (status, why) = judge(rule, &observed, policy.gates.unused_rule);
    let shown = facts.shown.get(&rule.id).copied();
    let outcome = Outcome { status, observed, why, findings, possible, excepted, shown };
    inconclusive_unless_covered(rule, facts, outcome)
}

fn judge(rule: &Rule, observed: &Observed, unused: Option<Level>) -> (CheckStatus, Vec<String>) {
    let why = exceeded(&rule.limit, observed);
    let described = observed.in_scope - observed.unseen();
    match rule.level {
        Level::Deny if !why.is_empty() => (CheckStatus::Violated, why),
        Level::Warn if !why.is_empty() => (CheckStatus::Warned, why),
        _ if observed.in_scope == 0 => {
            let why = vec![match rule.scope.kinds.as_slice() {
                [] => format!(
                    "its layers ({}) match none that was looked at",
                    rule.scope.layers.patterns().join(", ")
                ),
                _ => "no unit of its layers and kinds was looked at".to_owned(),
            }];
            let status = match unused {
                _ if rule.level == Level::Allow => CheckStatus::Passed,
                None => CheckStatus::Inconclusive,
                Some(_) => CheckStatus::Skipped, // The gate says what it means.
            };
            (status, why)
        }
        _ if described == 0 => (
            CheckStatus::Inconclusive,
            vec![format!("none of the {} units in scope was described", observed.in_scope)],
        ),
        _ => (CheckStatus::Passed, vec![]),
    }
}

/// The gates on rules that look at nothing, and on layer patterns that do.
fn scopes(policy: &Policy, outcomes: &[Outcome], descriptions: &[Description]) -> Vec<Gate> {
    let mut found = Vec::new();
    let unused: Vec<&str> = policy
        .rules
        .iter()
        .zip(outcomes)
        .filter(|(rule, it)| it.observed.in_scope == 0 && rule.level != Level::Allow)
        .map(|(rule, _)| rule.id.as_str())
        .collect();
    if let Some(level) = policy.gates.unused_rule {
        let why = (!unused.is_empty())
            .then(|| format!("rules in whose scope there is no unit: {}", some(&unused)));
        found.push(Gate::new("unused-rule", level, Some(0.), Some(unused.len() as f64), why));
    }
    let layers: BTreeSet<&str> = descriptions.iter().map(|it| it.unit.site.as_str()).collect();
    let mut lost = Vec::new();
    for (rule, outcome) in policy.rules.iter().zip(outcomes) {
        for pattern in rule.scope.layers.patterns() {
            let plain = pattern.trim_start_matches('!').to_owned();
            let meets = Globs::new(&[plain])
                .is_ok_and(|glob| layers.iter().any(|layer| glob.matches(layer)));
            if !meets && 0 < outcome.observed.in_scope && !pattern.starts_with('!') {
                lost.push(format!("`{pattern}` of {}", rule.id));
            }
        }
    }
    if !lost.is_empty() {
        let why = format!("layer patterns that match nothing that was looked at: {}", some(&lost));
        let n = lost.len() as f64;
        let level = policy.gates.unmatched_layers;
        found.push(Gate::new("unmatched-layers", level, Some(0.), Some(n), Some(why)));
    }
    found
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ExceptionStatus;
    use crate::policy::file::parse;
    use crate::policy::gates::Gate;
    use crate::unit::{Judgement, Reading};

    fn described(unit: &str, readings: &[(&str, f32)]) -> Description {
        let readings: Vec<Reading> = readings
            .iter()
            .map(|&(text, confidence)| Reading { text: text.into(), confidence })
            .collect();
        let status = if readings.is_empty() { Status::Unknown } else { Status::Described };
        Description {
            unit: unit.parse().unwrap(),
            status,
            readings,
            evidence: BTreeMap::new(),
            judged: BTreeMap::new(),
        }
    }

    /// Text after the `[[rule]]` that `rule` goes on with, held against the units on 2026-06-01.
    #[track_caller]
    fn check_all(rule: &str, descriptions: &[Description]) -> Checked {
        let text = format!("policy-version = 1\n[[rule]]\nid = \"faces\"\n{rule}");
        let policy = parse(&text, "p.toml").unwrap();
        let kinds = BTreeMap::from([("fc".to_owned(), Kind::MlpNeuron)]);
        let importance = ["a:0", "a:1"].map(|it| it.parse().unwrap());
        let importance: BTreeMap<Unit, f64> = importance.into_iter().zip([0.25, 0.1]).collect();
        let facts = Facts {
            descriptions,
            kinds: &kinds,
            importance: &importance,
            similar: &Similarities::default(),
            model: &["9b1c0d2e77".to_owned()],
            today: jiff::civil::date(2026, 6, 1),
            shown: &BTreeMap::new(),
            not_looked_at: &[],
            allow_uncovered: false,
        };
        check(&policy, &facts)
    }

    #[track_caller]
    fn check_policy(rule: &str, descriptions: &[Description]) -> Outcome {
        check_all(rule, descriptions).outcomes.remove(0)
    }

    #[test]
    fn one_unit_too_many_breaks_a_rule() {
        let units = [described("a:0", &[("human faces", 0.9)]), described("a:1", &[("dogs", 0.9)])];
        let outcome = check_policy("match.any = [\"face\"]", &units);
        assert_eq!(
            (outcome.status, outcome.why),
            (CheckStatus::Violated, vec!["1 unit found, 0 allowed".to_owned()])
        );
        assert_eq!(
            (outcome.findings[0].unit.to_string(), outcome.findings[0].matched.as_str()),
            ("a:0".into(), "faces")
        );
        let outcome = check_policy("level = \"warn\"\nmatch.any = [\"face\"]", &units);
        assert_eq!(outcome.status, CheckStatus::Warned);
        let outcome = check_policy("match.any = [\"face\"]\nlimit.max-units = 1", &units);
        assert_eq!(outcome.status, CheckStatus::Passed);
        let outcome = check_policy("match.any = [\"face\"]\nlimit.max-share = 0.4", &units);
        assert_eq!(outcome.why, ["50.0 % of the units in scope, 40.0 % allowed"]);
    }

    #[test]
    fn any_reading_counts_that_is_sure_enough() {
        let units = [described("a:0", &[("dogs", 0.9), ("faces", 0.5)])];
        assert_eq!(check_policy("match.any = [\"face\"]", &units).findings.len(), 1);
        let sure = "match.any = [\"face\"]\nscope.min-confidence = 0.6";
        assert_eq!(check_policy(sure, &units).findings.len(), 0);
    }

    /// A described unit that the critics judge by rule `faces`.
    fn judged(unit: &str, said: &str, probability: f32) -> Description {
        let judgement = Judgement { probability, ..Judgement::default() };
        let judged = BTreeMap::from([("faces".to_owned(), judgement)]);
        Description { judged, ..described(unit, &[(said, 0.9)]) }
    }

    #[test]
    fn what_is_judged_counts_by_its_probability() {
        let units = [
            judged("a:0", "human faces", 0.6),
            judged("a:1", "dogs", 0.7),
            judged("a:2", "faces", 0.3),
            judged("a:3", "faces", 0.1),
            judged("a:4", "dogs", 0.1),
        ];
        let found = |them: &[Finding]| {
            them.iter().map(|it| (it.unit.channel, it.matched.clone())).collect::<Vec<_>>()
        };
        let outcome = check_policy("match.any = [\"face\"]", &units);
        let shown = "what its exemplars show".to_owned();
        assert_eq!(found(&outcome.findings), [(0, "faces".to_owned()), (1, shown.clone())]);
        assert_eq!(found(&outcome.possible), [(2, "faces".to_owned())]);
        assert_eq!((outcome.observed.possible, outcome.observed.improbable), (1, 1));
        let stricter = check_policy("count = \"possible\"\nmatch.any = [\"face\"]", &units);
        assert_eq!((stricter.findings.len(), stricter.possible.len()), (3, 0));
        // Where nobody judges, the words decide.
        let words = [described("a:3", &[("faces", 0.9)])];
        assert_eq!(check_policy("match.any = [\"face\"]", &words).findings.len(), 1);
    }

    #[test]
    fn what_was_not_described_is_not_clean() {
        let mut dead = described("a:1", &[]);
        dead.status = Status::Dead;
        let units = [described("a:0", &[]), dead];
        let outcome = check_policy("match.any = [\"face\"]", &units);
        assert_eq!(outcome.status, CheckStatus::Inconclusive);
        assert_eq!((outcome.observed.unknown, outcome.observed.dead), (1, 1));
        let outcome = check_policy("match.any = [\"face\"]\nscope.layers = [\"z\"]", &units);
        assert_eq!(outcome.why, ["its layers (z) match none that was looked at"]);
    }

    #[test]
    fn kinds_and_importance_narrow_a_rule() {
        let units = [
            described("a:0", &[("faces", 0.9)]),
            described("a:1", &[("faces", 0.9)]),
            described("fc:0", &[("faces", 0.9)]),
        ];
        let units_of = |rule: &str| {
            let findings =
                check_policy(&format!("match.any = [\"face\"]\n{rule}"), &units).findings;
            findings.iter().map(|it| it.unit.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(units_of("scope.kinds = [\"mlp-neuron\"]"), ["fc:0"]);
        // Nobody knows how important fc:0 is.
        assert_eq!(units_of("scope.min-importance = 0.2"), ["a:0", "fc:0"]);
        let none = check_policy("match.any = [\"face\"]\nscope.kinds = [\"conv-channel\"]", &units);
        assert_eq!(none.status, CheckStatus::Inconclusive);
    }

    fn gate<'a>(checked: &'a Checked, id: &str) -> &'a Gate {
        checked.gates.iter().find(|it| it.id == id).unwrap()
    }

    #[test]
    fn an_exception_takes_units_out_until_it_expires() {
        let units = [described("a:0", &[("faces", 0.9)]), described("a:1", &[("faces", 0.9)])];
        let with = |exception: &str| {
            let rule = format!(
                "match.any = [\"face\"]\n[[exception]]\nrule = \"faces\"\nreason = \"statues\"\n{exception}"
            );
            check_all(&rule, &units)
        };
        let all = with("units = [\"a:*\"]\nexpires = 2026-06-10\nmodel = \"sha256:9b1c0d2e\"");
        assert_eq!(all.outcomes[0].status, CheckStatus::Passed);
        assert_eq!((all.outcomes[0].excepted.len(), all.outcomes[0].observed.units), (2, 0));
        assert_eq!(all.exceptions[0].covered.len(), 2);
        assert_eq!(gate(&all, "expiring-soon").status, CheckStatus::Warned);
        let expired = with("units = [\"a:*\"]\nexpires = 2026-05-31");
        assert_eq!(expired.outcomes[0].status, CheckStatus::Violated);
        assert_eq!(expired.exceptions[0].status, ExceptionStatus::Expired);
        assert_eq!(
            gate(&expired, "expired-exception").why,
            "exceptions that have expired: a:* (faces)"
        );
        let other = with("units = [\"a:*\"]\nexpires = \"never\"\nmodel = \"sha256:00000000\"");
        assert_eq!(other.exceptions[0].status, ExceptionStatus::OtherModel);
        let unused = with("units = [\"b:*\"]\nexpires = \"never\"");
        assert_eq!(gate(&unused, "unused-exception").status, CheckStatus::Warned);
    }

    #[test]
    fn gates_say_what_is_not_known() {
        let units = [described("a:0", &[]), described("a:1", &[("dogs", 0.9)])];
        let rule = "match.any = [\"face\"]\nscope.layers = [\"a\", \"z\"]\n";
        let gates =
            "[gate]\nunknown-share = { max = 0.2, level = \"warn\" }\nunmatched-layers = \"deny\"";
        let all = check_all(&format!("{rule}{gates}"), &units);
        assert_eq!(
            (gate(&all, "unknown-share").status, gate(&all, "unknown-share").why.as_str()),
            (CheckStatus::Warned, "1 of 2 units are unknown (50.0 %), 20.0 % allowed")
        );
        assert_eq!(gate(&all, "unmatched-layers").status, CheckStatus::Violated);
        let lost = "match.any = [\"face\"]\nscope.layers = [\"z\"]\n[gate]\nunused-rule = \"deny\"";
        let all = check_all(lost, &units);
        assert_eq!(gate(&all, "unused-rule").status, CheckStatus::Violated);
        assert_eq!(all.outcomes[0].status, CheckStatus::Skipped);
    }
}
