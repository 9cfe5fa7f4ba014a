//! Two reports compared: did anything get worse since the last release?

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::human::counted;
use super::issue::{clean, held, line};
use super::table::word;
use super::{Coverage, Report, RuleReport, UnitFacts, UnitReport, Verdict};
use crate::policy::{CheckStatus, Level};
use crate::unit::Status;

/// Units that a person is shown for each rule.
const MAX_UNITS: usize = 20;

/// What was, and what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pair<T> {
    pub old: T,
    pub new: T,
}

impl<T: PartialEq> Pair<T> {
    fn is_same(&self) -> bool {
        self.old == self.new
    }
}

/// How a report differs from an older one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// A rule that denies or warns matches a unit that it did not, is gone, or matched a unit that is not described
    /// any more; or a rule, a gate or the verdict came out worse.
    pub worse: bool,
    /// What got worse, a line a cause.
    pub why: Vec<String>,
    /// Why some of it may come from how was looked, and not from the model.
    pub warnings: Vec<String>,
    pub same: Same,
    pub verdict: Pair<Verdict>,
    pub coverage: Pair<Coverage>,
    /// Units of both reports whose best description differs.
    pub described_otherwise: usize,
    pub units_in_both: usize,
    pub rules: Vec<RuleDiff>,
    pub gates: Vec<GateDiff>,
}

/// What the two reports share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Same {
    /// The files, by their sha256.
    pub model: bool,
    pub data: bool,
    /// As understood, levels included.
    pub policy: bool,
    pub describer: bool,
    pub tool: bool,
}

/// A rule of either report. Units that an exception takes out do not match.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleDiff {
    pub id: String,
    /// The stricter of the two.
    pub level: Level,
    /// `None` where the report has no such rule.
    pub status: Pair<Option<CheckStatus>>,
    pub units: Pair<usize>,
    pub worse: bool,
    pub new: Vec<UnitReport>,
    pub gone: Vec<Gone>,
    /// How many of those that are gone are not looked at or not described any more: they may still be what they were.
    pub undescribed: usize,
    pub changed: Vec<Changed>,
}

/// A unit that does not match any more.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gone {
    #[serde(flatten)]
    pub unit: UnitReport,
    /// What is said of it now, or why nothing is.
    pub now: String,
}

/// A unit that matches by another description.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changed {
    pub layer: String,
    pub unit: usize,
    pub description: Pair<String>,
}

/// A gate of either report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateDiff {
    pub id: String,
    pub status: Pair<Option<CheckStatus>>,
    pub worse: bool,
}

/// Compares a report with an older one.
pub fn diff(old: &Report, new: &Report) -> Diff {
    let rules = rules(old, new);
    let gates = gates(old, new);
    let verdict = Pair { old: old.verdict, new: new.verdict };
    let mut why: Vec<String> = rules.iter().filter_map(why_rule).collect();
    why.extend(
        gates.iter().filter(|it| it.worse).map(|it| format!("{}: {}", it.id, change(&it.status))),
    );
    let lost = lost(old, new);
    if !lost.is_empty() {
        why.push(format!("not looked at any more: {}", lost.join(", ")));
    }
    let rank = |it| match it {
        Verdict::Passed => 0,
        Verdict::Inconclusive => 1,
        Verdict::Violated => 2,
    };
    if why.is_empty() && rank(verdict.old) < rank(verdict.new) {
        why.push(format!("the verdict is {}", word(&verdict.new)));
    }
    let same = same(old, new);
    let then = facts(old);
    let both = new.units.iter().filter_map(|now| Some((*then.get(&key(now))?, now)));
    let both: Vec<(&UnitFacts, &UnitFacts)> = both.collect();
    let best = |it: &UnitFacts| it.readings.first().map(|it| it.text.clone());
    Diff {
        worse: !why.is_empty(),
        why,
        warnings: warnings(old, new, same),
        same,
        verdict,
        coverage: Pair { old: old.coverage, new: new.coverage },
        described_otherwise: both.iter().filter(|(then, now)| best(then) != best(now)).count(),
        units_in_both: both.len(),
        rules,
        gates,
    }
}

fn same(old: &Report, new: &Report) -> Same {
    let model = |it: &Report| it.model.files.iter().map(|it| it.sha256.clone()).collect::<Vec<_>>();
    let policy = |it: &Report| it.policy.as_ref().map(|it| it.resolved.clone());
    let describer = |it: &Report| {
        let it = it.descriptions.clone();
        (it.method, it.weights_sha256, it.sentence_encoder_sha256, it.compat)
    };
    Same {
        model: model(old) == model(new),
        data: old.data.manifest_sha256 == new.data.manifest_sha256,
        policy: policy(old) == policy(new),
        describer: describer(old) == describer(new),
        tool: old.tool.name == new.tool.name && old.tool.version == new.tool.version,
    }
}

fn warnings(old: &Report, new: &Report, same: Same) -> Vec<String> {
    let mut warnings = vec![];
    let mut warn = |when: bool, text: &str| {
        if when {
            warnings.push(text.to_owned());
        }
    };
    warn(!same.policy, "the policies differ: what is new or gone may come from that");
    warn(
        !same.describer,
        "the describers differ: units may be described otherwise although they are the same",
    );
    warn(
        !same.data,
        "the pictures differ: units may be described otherwise although they are the same",
    );
    let edits = "rules of an edit are held against the model before it; compare audits";
    warn(!held(old) || !held(new), edits);
    warnings
}

/// Layers of the old report that the new one says nothing of: what is not looked at is not better.
fn lost(old: &Report, new: &Report) -> Vec<String> {
    let layers = |it: &Report| it.layers.iter().map(|it| it.name.clone()).collect::<BTreeSet<_>>();
    layers(old).difference(&layers(new)).cloned().collect()
}

fn rules(old: &Report, new: &Report) -> Vec<RuleDiff> {
    let gone = old.rules.iter().filter(|it| find(new, &it.id).is_none());
    let ids = new.rules.iter().chain(gone).map(|it| it.id.as_str());
    let now = facts(new);
    ids.map(|id| rule(id, find(old, id), find(new, id), &now)).collect()
}

fn find<'a>(report: &'a Report, id: &str) -> Option<&'a RuleReport> {
    report.rules.iter().find(|it| it.id == id)
}

fn rule(
    id: &str,
    old: Option<&RuleReport>,
    new: Option<&RuleReport>,
    now: &BTreeMap<(&str, usize), &UnitFacts>,
) -> RuleDiff {
    let units = |rule: Option<&RuleReport>| rule.map_or(vec![], |it| it.units.clone());
    let (was, is) = (units(old), units(new));
    let excepted = by_name(new.map_or(&[], |it| &it.excepted));
    let before = by_name(&was);
    let after = by_name(&is);
    let added: Vec<UnitReport> =
        is.iter().filter(|it| !before.contains_key(&name(it))).cloned().collect();
    let mut changed = vec![];
    let mut gone = vec![];
    let mut undescribed = 0;
    for unit in &was {
        match after.get(&name(unit)) {
            Some(it) if it.description != unit.description => changed.push(Changed {
                layer: unit.layer.clone(),
                unit: unit.unit,
                description: Pair { old: unit.description.clone(), new: it.description.clone() },
            }),
            Some(_) => {}
            None => {
                let facts = now.get(&name(unit));
                let excepted = excepted.contains_key(&name(unit));
                let said = match facts {
                    _ if excepted => "excepted".to_owned(),
                    None => "not looked at".to_owned(),
                    Some(it) => said(it),
                };
                let unseen = facts.is_none_or(|it| is_unseen(it.status));
                undescribed += usize::from(!excepted && unseen);
                gone.push(Gone { unit: unit.clone(), now: said });
            }
        }
    }
    let status = Pair { old: old.map(|it| it.status), new: new.map(|it| it.status) };
    let levels = [old, new].map(|it| it.map_or(Level::Allow, |it| it.level));
    let level = match levels {
        [Level::Deny, _] | [_, Level::Deny] => Level::Deny,
        [Level::Warn, _] | [_, Level::Warn] => Level::Warn,
        _ => Level::Allow,
    };
    let lost = status.new.is_none() || !added.is_empty() || 0 < undescribed;
    RuleDiff {
        id: id.to_owned(),
        level,
        status,
        units: Pair { old: was.len(), new: is.len() },
        worse: is_worse(status) || level != Level::Allow && lost,
        new: added,
        gone,
        undescribed,
        changed,
    }
}

fn name(unit: &UnitReport) -> (&str, usize) {
    (&unit.layer, unit.unit)
}

fn by_name(units: &[UnitReport]) -> BTreeMap<(&str, usize), &UnitReport> {
    units.iter().map(|it| (name(it), it)).collect()
}

/// Whether nothing can be said of a unit, where a deleted or dead one is known to do nothing.
fn is_unseen(status: Status) -> bool {
    matches!(status, Status::Unknown | Status::Saturated)
}

fn gates(old: &Report, new: &Report) -> Vec<GateDiff> {
    let find =
        |report: &Report, id: &str| report.gates.iter().find(|it| it.id == id).map(|it| it.status);
    let gone = old.gates.iter().filter(|it| find(new, &it.id).is_none());
    let all = new.gates.iter().chain(gone);
    let one = |id: &str| {
        let status = Pair { old: find(old, id), new: find(new, id) };
        GateDiff { id: id.to_owned(), status, worse: is_worse(status) }
    };
    all.map(|it| one(&it.id)).collect()
}

/// What was not held is as good as passed: it did not stop the release.
fn is_worse(status: Pair<Option<CheckStatus>>) -> bool {
    let rank = |it: Option<CheckStatus>| match it {
        None | Some(CheckStatus::Passed | CheckStatus::Skipped) => 0,
        Some(CheckStatus::Warned) => 1,
        Some(CheckStatus::Inconclusive) => 2,
        Some(CheckStatus::Violated) => 3,
    };
    rank(status.old) < rank(status.new)
}

fn why_rule(rule: &RuleDiff) -> Option<String> {
    let mut why = vec![];
    if rule.status.new.is_none() || is_worse(rule.status) {
        why.push(change(&rule.status));
    }
    if !rule.new.is_empty() {
        why.push(counted(rule.new.len(), "new unit"));
    }
    if 0 < rule.undescribed {
        why.push(format!("{} not described any more", counted(rule.undescribed, "unit")));
    }
    rule.worse.then(|| format!("{}: {}", rule.id, why.join(", ")))
}

fn key(unit: &UnitFacts) -> (&str, usize) {
    (&unit.layer, unit.unit)
}

fn facts(report: &Report) -> BTreeMap<(&str, usize), &UnitFacts> {
    report.units.iter().map(|it| (key(it), it)).collect()
}

fn said(unit: &UnitFacts) -> String {
    match (unit.status, unit.readings.first()) {
        (Status::Described, Some(reading)) => format!("\"{}\"", reading.text),
        (status, _) => word(&status),
    }
}

fn change(status: &Pair<Option<CheckStatus>>) -> String {
    let of = |it: Option<CheckStatus>| it.map_or("not held".to_owned(), |it| word(&it));
    format!("{} → {}", of(status.old), of(status.new))
}

impl Diff {
    /// For a terminal: what differs, rule by rule, and last whether it is worse.
    pub fn human(&self) -> String {
        let mut lines = vec![];
        let Pair { old, new } = self.coverage;
        let coverage = |it: Coverage| {
            format!(
                "{} of {} units described, {}",
                it.described,
                it.units,
                super::unseen_in_words(it.unknown, it.dead, it.saturated)
            )
        };
        match self.coverage.is_same() {
            true => lines.push(format!("coverage: {}", coverage(new))),
            false => lines.push(format!("coverage: {} → {}", coverage(old), coverage(new))),
        }
        let model = if self.same.model { "the same model" } else { "another model" };
        lines.push(format!(
            "{model}; {} of {} described otherwise",
            self.described_otherwise,
            counted(self.units_in_both, "unit")
        ));
        lines.extend(self.warnings.iter().map(|it| format!("warning: {it}")));
        lines.push(String::new());
        for rule in &self.rules {
            let status = match rule.status.is_same() {
                true => rule.status.new.as_ref().map_or(String::new(), word),
                false => change(&rule.status),
            };
            let Pair { old, new } = rule.units;
            let units = match old == new {
                true => counted(new, "unit"),
                false => format!("{old} → {}", counted(new, "unit")),
            };
            lines.push(format!("{} ({}): {status}, {units}", rule.id, word(&rule.level)));
            let added = rule.new.iter().map(|it| format!("+ {}", line(it)));
            let gone = rule.gone.iter().map(|it| format!("- {}, now: {}", line(&it.unit), it.now));
            let changed = rule.changed.iter().map(|it| {
                let Pair { old, new } = &it.description;
                format!("~ {}:{} \"{old}\" → \"{new}\"", it.layer, it.unit)
            });
            for units in [added.collect::<Vec<_>>(), gone.collect(), changed.collect()] {
                lines.extend(units.iter().take(MAX_UNITS).map(|it| format!("  {it}")));
                if MAX_UNITS < units.len() {
                    lines.push(format!("  … and {} more", units.len() - MAX_UNITS));
                }
            }
        }
        let gates = self.gates.iter().filter(|it| !it.status.is_same());
        let gates: Vec<String> =
            gates.map(|it| format!("gate {}: {}", it.id, change(&it.status))).collect();
        lines.extend(gates);
        lines.push(String::new());
        lines.push(match self.worse {
            true => format!("WORSE  {}", self.why.join("; ")),
            false => "NOT WORSE".to_owned(),
        });
        lines.iter().map(|it| clean(it) + "\n").collect()
    }

    /// All of it, as JSON.
    pub fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
