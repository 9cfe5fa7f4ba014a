//! A policy held against a model: what the rules need to know is gathered, and the verdict drawn.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use jiff::civil::Date;

use crate::describe::{Concept, How, likeness};
use crate::exemplars::Exemplars;
use crate::importance::{self, Measure};
use crate::model::graph::Extent;
use crate::pass::{Progress, Settings};
use crate::policy::check::{Checked, candidates};
use crate::policy::gates::{Gate, Metric};
use crate::policy::{self, CheckStatus, Facts, Level, Outcome, Policy, Rule, Similarities};
use crate::report::{
    AccuracyReport, Control, Coverage, PolicyReport, Report, RuleReport, TestReport, UnitReport,
    Verdict,
};
use crate::subject::Subject;
use crate::unit::{Description, Kind, Shown, Unit};
use crate::usage;

/// Which policy, and how strictly.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// A name or path.
    pub policy: Option<String>,
    /// What could be another policy or model tomorrow is an error.
    pub locked: bool,
    /// Levels of rules and gates, over what the policy says.
    pub levels: Vec<(String, Level)>,
    /// A warning violates, too.
    pub fail_on_warn: bool,
    /// A violation is reported and the exit code is 0.
    pub exit_zero: bool,
    /// A rule may pass on pictures that do not show what it looks for, or without some of its layers.
    pub allow_uncovered: bool,
    /// The day on which exceptions are held against their end; `None` is today, in UTC.
    pub today: Option<Date>,
}

impl Asked {
    /// Just this policy, as it is.
    pub fn of(policy: &str) -> Asked {
        Asked { policy: Some(policy.to_owned()), ..Asked::default() }
    }

    /// The policy, its levels as asked.
    pub fn load(&self) -> anyhow::Result<Option<Policy>> {
        let Some(name) = &self.policy else {
            return match self.levels.first() {
                Some((id, _)) => {
                    Err(usage!("a level is set for `{id}`, and no policy is named; add --policy"))
                }
                None => Ok(None),
            };
        };
        let mut policy = policy::load(name, self.locked)?;
        for (id, level) in &self.levels {
            policy.set_level(id, *level)?;
        }
        Ok(Some(policy))
    }

    pub fn today(&self) -> Date {
        let utc = jiff::tz::Offset::UTC;
        self.today.unwrap_or_else(|| utc.to_datetime(jiff::Timestamp::now()).date())
    }
}

/// Errs where a policy's thresholds are for another sentence encoder than the one at hand.
fn check_encoder(policy: &Policy, how: &How) -> anyhow::Result<()> {
    let Some(wanted) = policy.sentence_encoder.as_deref() else { return Ok(()) };
    if policy.phrases().is_empty() {
        return Ok(());
    }
    let found = likeness::name(how.sentence_encoder.as_deref());
    match wanted {
        _ if wanted == found => Ok(()),
        likeness::FULL => Err(usage!(
            "policy `{}` has thresholds for the sentence encoder {wanted}, whose scores differ from those of {found}; name its folder with --sentence-encoder",
            policy.name
        )),
        likeness::TOWER => Err(usage!(
            "policy `{}` has thresholds for the sentence encoder {wanted}, whose scores differ from those of {found}; leave --sentence-encoder out",
            policy.name
        )),
        _ => Err(usage!(
            "policy `{}` has thresholds for the sentence encoder `{wanted}`; this program has {} and, with --sentence-encoder, {}",
            policy.name,
            likeness::TOWER,
            likeness::FULL
        )),
    }
}

/// Errs, before anything runs, where the policy cannot be held by what describes.
pub fn check_how(policy: Option<&Policy>, how: &How) -> anyhow::Result<()> {
    if let Some(policy) = policy {
        check_encoder(policy, how)?;
    }
    how.check(policy.is_some_and(|it| !it.phrases().is_empty()))
}

/// How alike texts are to the phrases of a policy.
pub fn similarities<'a>(
    policy: &Policy,
    how: &How,
    texts: impl Iterator<Item = &'a str>,
) -> anyhow::Result<Similarities> {
    check_encoder(policy, how)?;
    let phrases = policy.phrases();
    let texts: BTreeSet<&str> = if phrases.is_empty() { BTreeSet::new() } else { texts.collect() };
    Ok(Similarities(likeness::likeness(how.sentence_encoder.as_deref(), &phrases, &texts)?))
}

/// What the describer's critics are to judge units by: the rules that leave it to them.
pub fn concepts(policy: &Policy) -> Vec<Concept<'_>> {
    let judged = policy.rules.iter().filter(|it| it.is_judged());
    judged.map(concept).collect()
}

fn concept(rule: &Rule) -> Concept<'_> {
    let nothing = Similarities::default();
    let speaks = move |text: &str| rule.matcher.find(text, &nothing).is_some();
    Concept { name: rule.id.clone(), speaks: Box::new(speaks) }
}

/// A model that was looked at.
pub struct Looked<'a> {
    pub subject: &'a Subject,
    pub exemplars: &'a Exemplars,
    pub descriptions: &'a [Description],
    /// By rule, where the pictures show what it looks for.
    pub shown: &'a BTreeMap<String, Shown>,
    /// As [`Asked::allow_uncovered`].
    pub allow_uncovered: bool,
    pub how: &'a How,
    pub settings: &'a Settings,
    pub today: Date,
}

/// Holds a policy against what was found. Importance is measured only of units for which a rule asks.
pub fn hold(
    policy: &Policy,
    looked: &Looked<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<(Checked, BTreeMap<Unit, f64>)> {
    let &Looked { subject, exemplars, descriptions, how, settings, today, .. } = looked;
    let readings = descriptions.iter().flat_map(|it| &it.readings).map(|it| it.text.as_str());
    let similar = similarities(policy, how, readings)?;
    // By node, as a layer has several names.
    let graph = subject.model.graph();
    let nodes: BTreeSet<_> = exemplars.sites.iter().filter_map(|it| graph.find(&it.site)).collect();
    let is_looked_at = |layer: &String| graph.find(layer).is_some_and(|it| nodes.contains(&it));
    let not_looked_at: Vec<String> =
        graph.default_sites().iter().filter(|it| !is_looked_at(it)).cloned().collect();
    let looked_at = exemplars.sites.iter().map(|it| it.site.as_str());
    let kinds = kinds(subject, looked_at.chain(not_looked_at.iter().map(String::as_str)));
    let model: Vec<String> = subject.weights.files().iter().map(|it| it.sha256.clone()).collect();
    let nothing = BTreeMap::new();
    let facts = Facts {
        descriptions,
        kinds: &kinds,
        importance: &nothing,
        similar: &similar,
        model: &model,
        today,
        shown: looked.shown,
        not_looked_at: &not_looked_at,
        allow_uncovered: looked.allow_uncovered,
    };
    let asked = candidates(policy, &facts);
    let with = Measure { subject, val: &subject.probe, exemplars, settings };
    let importance = importance::importance(policy.importance(), &asked, &with, progress)?;
    let mut checked = policy::check(policy, &Facts { importance: &importance, ..facts });
    // A model with values that are not finite is not even opened.
    checked.gates.insert(0, Gate::new("nan", policy.gates.nan, Some(0.), Some(0.), None));
    Ok((checked, importance))
}

/// What kind of units each layer has.
fn kinds<'a>(subject: &Subject, layers: impl Iterator<Item = &'a str>) -> BTreeMap<String, Kind> {
    let graph = subject.model.graph();
    let kind = |site: &str| match graph.node(graph.find(site)?).extent {
        Extent::Map | Extent::FixedMap { .. } => Some(Kind::ConvChannel),
        Extent::Tokens { .. } | Extent::Flat { .. } => Some(Kind::MlpNeuron),
    };
    layers.filter_map(|layer| Some((layer.to_owned(), kind(layer)?))).collect()
}

/// Puts a policy and how it came out into a report.
pub fn enter(
    report: &mut Report,
    policy: &Policy,
    checked: Checked,
    importance: &BTreeMap<Unit, f64>,
) -> anyhow::Result<()> {
    let importance = |unit: &Unit| importance.get(unit).copied();
    let rule = |(rule, outcome): (&Rule, Outcome)| {
        let units = |them: &[policy::Finding]| -> Vec<UnitReport> {
            them.iter().map(|it| UnitReport::of(it, importance(&it.unit))).collect()
        };
        RuleReport {
            id: rule.id.clone(),
            title: rule.title.clone(),
            reason: rule.reason.clone(),
            url: rule.url.clone(),
            place: rule.place.clone(),
            level: rule.level,
            status: outcome.status,
            count: rule.count,
            limits: rule.limit,
            observed: outcome.observed,
            shown: outcome.shown,
            uncovered: outcome.is_uncovered(),
            units: units(&outcome.findings),
            possible: units(&outcome.possible),
            excepted: units(&outcome.excepted),
            why: outcome.why,
        }
    };
    report.rules = policy.rules.iter().zip(checked.outcomes).map(rule).collect();
    report.gates = checked.gates;
    report.exceptions = checked.exceptions;
    if !policy.files.is_empty() {
        let resolved = serde_json::to_value(policy).context("a policy is not JSON")?;
        report.policy = Some(PolicyReport { files: policy.files.clone(), resolved });
    }
    Ok(())
}

/// The verdict on rules and gates: what is violated beats what is inconclusive, and nothing looked at is never clean.
pub fn verdict(
    rules: &[RuleReport],
    gates: &[Gate],
    coverage: &Coverage,
    fail_on_warn: bool,
) -> (Verdict, Vec<String>) {
    let of = |status: CheckStatus| {
        let rules = rules.iter().filter(move |it| it.status == status && it.level != Level::Allow);
        let rules = rules.map(|it| format!("{}: {}", it.id, it.why.join(", ")));
        let gates = gates.iter().filter(move |it| it.status == status && it.level != Level::Allow);
        rules.chain(gates.map(|it| format!("{}: {}", it.id, it.why))).collect::<Vec<_>>()
    };
    let mut violated = of(CheckStatus::Violated);
    if fail_on_warn {
        violated.extend(of(CheckStatus::Warned));
    }
    let inconclusive = of(CheckStatus::Inconclusive);
    let held: Vec<&RuleReport> = rules.iter().filter(|it| it.level != Level::Allow).collect();
    if !violated.is_empty() {
        (Verdict::Violated, violated)
    } else if coverage.described == 0 && !rules.is_empty() {
        let why = format!("none of the {} units could be described", coverage.units);
        (Verdict::Inconclusive, vec![why])
    } else if !inconclusive.is_empty() {
        (Verdict::Inconclusive, inconclusive)
    } else if !held.is_empty() && held.iter().all(|it| it.observed.in_scope == 0) {
        (Verdict::Inconclusive, vec!["no rule has a unit in its scope".to_owned()])
    } else {
        (Verdict::Passed, vec![])
    }
}

/// The code that the program ends with.
pub fn exit_code(verdict: Verdict, exit_zero: bool) -> u8 {
    match verdict {
        Verdict::Violated if exit_zero => 0,
        _ => verdict.exit_code(),
    }
}

/// What an edit did, for the gates on edits.
pub struct Edited<'a> {
    pub accuracy: Option<&'a AccuracyReport>,
    pub tests: &'a [TestReport],
    pub controls: &'a [Control],
    /// Units of the edited model that an edit should have removed, or why they are not known; `None` where it was not
    /// described again.
    pub residual: Option<&'a Result<Vec<Unit>, String>>,
}

/// The gates on edits, in the place of those that an audit skips.
pub fn edit_gates(gates: &policy::Gates, edited: &Edited<'_>) -> Vec<Gate> {
    let mut found = Vec::new();
    if let Some(wanted) = gates.accuracy.filter(policy::gates::AccuracyGate::asks) {
        found.extend(accuracy_gates(&wanted, edited.accuracy));
    }
    if let Some(wanted) = &gates.effect {
        found.push(effect_gate(wanted, edited));
    }
    if let (Some(level), Some(Err(why))) = (gates.residual, edited.residual) {
        found.push(Gate::inconclusive("residual", level, Some(0.), why.clone()));
    }
    if let (Some(level), Some(Ok(left))) = (gates.residual, edited.residual) {
        let why = || {
            let shown: Vec<String> = left.iter().take(3).map(Unit::to_string).collect();
            let more = if 3 < left.len() { ", …" } else { "" };
            let s = if left.len() == 1 {
                " of the edited model still matches"
            } else {
                "s of the edited model still match"
            };
            format!("{} unit{s}: {}{more}", left.len(), shown.join(", "))
        };
        let n = left.len();
        found.push(Gate::new("residual", level, Some(0.), Some(n as f64), (0 < n).then(why)));
    }
    found
}

fn accuracy_gates(
    wanted: &policy::gates::AccuracyGate,
    accuracy: Option<&AccuracyReport>,
) -> Vec<Gate> {
    let level = wanted.level;
    let known = accuracy.and_then(|it| Some((it, it.after.as_ref()?, it.delta?, it.ci95?)));
    let Some((it, after, delta, ci95)) = known else {
        let why = "no picture is labelled, so accuracy is not known".to_owned();
        return vec![Gate::inconclusive("accuracy", level, None, why)];
    };
    let mut found = Vec::new();
    if it.before.n < wanted.min_images {
        let (n, min) = (it.before.n, wanted.min_images);
        let why = format!("{n} labelled pictures, {min} are wanted");
        found.push(Gate::inconclusive("accuracy.min-images", level, Some(min as f64), why));
    }
    let (drop, worst) = match wanted.metric {
        Metric::Top1 => (-delta, -ci95[0]),
        Metric::Top5 => (it.before.top5 - after.top5, f64::NAN),
    };
    let name = match wanted.metric {
        Metric::Top1 => "top-1",
        Metric::Top5 => "top-5",
    };
    let mut held = |id: &str, limit: Option<f64>, observed: f64, what: &str| {
        let Some(limit) = limit else { return };
        let why = || {
            let (observed, limit) = (100. * observed, 100. * limit);
            format!("{what} falls by {observed:.2} points, {limit:.2} allowed")
        };
        let why = (limit < observed).then(why);
        found.push(Gate::new(id, level, Some(limit), Some(observed), why));
    };
    held("accuracy.max-drop", wanted.max_drop, drop, name);
    if wanted.metric == Metric::Top1 {
        let what = "at the worse end of its 95 % interval top-1";
        held("accuracy.max-drop-upper", wanted.max_drop_upper, worst, what);
    }
    let classes = it.before.per_class.iter().zip(&after.per_class);
    let worst = classes.map(|(a, b)| (a.top1 - b.top1, a.name.as_str()));
    let worst = worst.fold((0., ""), |a, b| if a.0 < b.0 { b } else { a });
    held("accuracy.max-class-drop", wanted.max_class_drop, worst.0, &format!("class {}", worst.1));
    found
}

/// On some test the edit must leave more than as many random units do.
fn effect_gate(wanted: &policy::gates::EffectGate, edited: &Edited<'_>) -> Gate {
    let (level, limit) = (wanted.level, wanted.min_gap);
    let none = |why: String| Gate::inconclusive("effect", level, Some(limit), why);
    let asked = |it: &&TestReport| wanted.test.as_ref().is_none_or(|name| *name == it.name);
    let tests: Vec<&TestReport> = edited.tests.iter().filter(asked).collect();
    if tests.is_empty() {
        return none(match &wanted.test {
            Some(name) => format!("no test is called `{name}`; name it with --test {name}=D"),
            None => "nothing was tested".to_owned(),
        });
    }
    let gap = |test: &TestReport| {
        let random = edited.controls.iter().filter(|it| it.kind == "random");
        let theirs: Vec<f64> = random
            .flat_map(|it| it.tests.iter().filter(|other| other.name == test.name))
            .map(|it| it.delta)
            .collect();
        let mean = theirs.iter().sum::<f64>() / theirs.len() as f64;
        (!theirs.is_empty()).then_some((test.delta - mean, test.name.clone()))
    };
    let best = tests.into_iter().filter_map(gap).max_by(|a, b| a.0.total_cmp(&b.0));
    let Some((gap, test)) = best else {
        return none("no random units were deleted to compare with".to_owned());
    };
    let why = || {
        format!(
            "on {test} the edit leaves {:.2} points of top-1 more than random units do, {:.2} wanted",
            100. * gap,
            100. * limit
        )
    };
    Gate::new("effect", level, Some(limit), Some(gap), (gap < limit).then(why))
}
