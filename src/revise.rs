//! The second flow: zero some units in a new file, and say what that did to the accuracy.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;

use crate::audit::{self, Asked};
use crate::describe::{Described, How};
use crate::edit::choose::{Candidate, Order, choose};
use crate::edit::plan::{NotEditable, Plan, plan};
use crate::evaluate::Prediction;
use crate::files::write_whole;
use crate::importance::{self, Measure};
use crate::measure::{self, Measured};
use crate::model::run::{Ablate, Network};
use crate::pass::{self, Probe, Progress, Settings};
use crate::policy::{self, Action, EditOrder, Gate, Importance, Outcome, Policy};
use crate::record::{self, Started};
use crate::report::{EditReport, OutputReport, Refused, Report, Verdict};
use crate::ruling::{self, Edited, Looked};
use crate::subject::{self, Source};
use crate::sweep::{Sweep, ablation};
use crate::unit::Unit;
use crate::verify::{reload, verify};
use crate::weights::{check_target, write_edited};
use crate::{inconclusive, usage};

/// Which units are to be zeroed.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Those described with any of these words, by stem.
    Matching(Vec<String>),
    /// Those that rules with `edit.action = "zero"` match.
    Policy,
    /// Just these.
    Units(Vec<Unit>),
}

/// What an edit needs to know.
pub struct Config {
    pub source: Source,
    pub layers: Vec<String>,
    pub how: How,
    pub selection: Selection,
    /// The policy, where it selects, and how strictly gates are held.
    pub asked: ruling::Asked,
    /// Pictures by which units are ranked and chosen; `None` is the probing pictures.
    pub val: Option<String>,
    /// Named pictures that are only measured; none means the probing pictures themselves.
    pub tests: Vec<(String, String)>,
    /// `None` is what the rules say, else importance where something rests on it, else as listed.
    pub order: Option<Order>,
    pub max_units: Option<usize>,
    /// The accuracy, 0..=1, that may be lost on the pictures of `val` before no more units are zeroed.
    pub slack: Option<f64>,
    /// Also measure with up to so many units deleted, beside any units in the same order and random ones.
    pub curve: Option<usize>,
    /// The accuracy, 0..=1, that the edit may cost on the main test; beyond it nothing is written.
    pub max_drop: Option<f64>,
    /// How often as many random units are deleted for comparison.
    pub controls: u64,
    /// Zero what can be zeroed exactly and leave the rest.
    pub skip_not_editable: bool,
    /// The new model.
    pub write: PathBuf,
    pub force: bool,
    pub dry_run: bool,
    pub settings: Settings,
    pub seed: u64,
    pub out: Option<PathBuf>,
}

/// Zeroes units in a copy of the model and measures it. The copy gets its name only when it equals the
/// ablated network and no gate is violated.
pub fn revise(config: &Config, progress: Progress<'_>) -> anyhow::Result<Report> {
    let started = Started::now();
    let policy = load_policy(config)?;
    let order = order(config, policy.as_ref())?;
    check_order(config, order)?;
    config.settings.exemplars.check()?;
    ruling::check_how(policy.as_ref(), &config.how)?;
    let subject = subject::open(&config.source)?;
    if let Some(out) = &config.out {
        std::fs::create_dir_all(out)
            .with_context(|| format!("cannot make the run's folder {}", out.display()))?;
    }
    check_target(&subject.weights, &config.write, config.force)?;
    let tests = measure::open(&config.tests, &subject)?;
    let val = config.val.as_deref().map(|it| measure::labelled(it, &subject)).transpose()?;
    let val = val.as_ref().unwrap_or(&subject.probe);
    let ranks = order == Order::Importance || config.slack.is_some();
    if ranks && !val.dataset.is_labelled() {
        return Err(inconclusive!(
            "{} has no labels, so no unit's importance and no slack can be measured; name labelled pictures with --val",
            val.dataset.source
        ));
    }
    let network = &subject.model.network;

    let sites = match &config.selection {
        Selection::Units(_) => vec![],
        _ => audit::sites(&subject, &config.how.describer, &config.layers)?,
    };
    let untouched = Ablate::default();
    let phrases = policy.as_ref().map(Policy::evidence_phrases).unwrap_or_default();
    let found = pass::pass(
        network,
        &subject.probe,
        &sites,
        &untouched,
        &audit::drawing(&config.settings, &phrases, config.seed),
        "pictures",
        progress,
    )?;
    let asked =
        Asked { how: &config.how, policy: policy.as_ref(), phrases: &phrases, seed: config.seed };
    let Described { descriptions, shown } = match &config.selection {
        Selection::Units(_) => Described::default(),
        _ => audit::describe(&subject, &found.exemplars, &asked, progress)?,
    };
    let today = config.asked.today();
    let looked = Looked {
        subject: &subject,
        exemplars: &found.exemplars,
        descriptions: &descriptions,
        shown: &shown,
        allow_uncovered: config.asked.allow_uncovered,
        how: &config.how,
        settings: &config.settings,
        today,
    };
    let (checked, asked_importance) = match &policy {
        Some(policy) => ruling::hold(policy, &looked, progress)?,
        None => Default::default(),
    };

    let run = record::run(config.seed, &config.source, &config.settings, today, config.out.clone());
    if let Some(gate) = policy.as_ref().and_then(|it| too_many(config, it, &checked.outcomes)) {
        let ruled = policy.as_ref().map(|it| (it, checked));
        let mut report = record::report(&looked, &found, run, ruled, &asked_importance)?;
        report.gates.push(gate);
        judge(config, &mut report);
        started.close(&mut report)?;
        return Ok(report);
    }
    let mut candidates = candidates(config, policy.as_ref(), &checked.outcomes)?;
    let named: Vec<Unit> = candidates.iter().map(|it| it.unit.clone()).collect();
    let possible = plan(subject.model.graph(), &subject.model.prefix, &named)?;
    if config.skip_not_editable || (config.max_units.is_none() && config.slack.is_none()) {
        check_plan(&possible, config.skip_not_editable)?;
    }
    let refused = if config.skip_not_editable { possible.refused } else { vec![] };
    candidates.retain(|it| refused.iter().all(|no| no.unit != it.unit));
    let n_candidates = candidates.len();
    let all: Vec<Unit> = match config.curve {
        Some(_) => found.exemplars.units().collect(),
        None => vec![],
    };
    let wanted: Vec<Unit> = match &all[..] {
        _ if order != Order::Importance => vec![],
        [] => candidates.iter().map(|it| it.unit.clone()).collect(),
        _ => all.clone(),
    };
    let by = policy.as_ref().map_or(Importance::Ablation, Policy::importance);
    let with =
        Measure { subject: &subject, val, exemplars: &found.exemplars, settings: &config.settings };
    let mut importance = asked_importance;
    importance.extend(importance::importance(by, &wanted, &with, progress)?);
    candidates.iter_mut().for_each(|it| it.importance = importance.get(&it.unit).copied());
    let all = all.into_iter().map(|unit| {
        let importance = importance.get(&unit).copied();
        Candidate { unit, confidence: None, importance }
    });
    let all: Vec<Unit> = choose(all.collect(), order).into_iter().map(|it| it.unit).collect();
    let chosen = choose(candidates, order);
    let described: Vec<Unit> = chosen.into_iter().map(|it| it.unit).collect();
    let sweep = Sweep { network, settings: &config.settings, progress };
    let known = config.val.is_none().then_some(found.predictions.as_slice());
    let (units, slack) = kept(config, &sweep, &described, val, known)?;
    let plan = plan(subject.model.graph(), &subject.model.prefix, &units)?;
    check_plan(&plan, config.skip_not_editable)?;

    let ablate = ablation(subject.model.graph(), &plan.units)?;
    let draft = write_edited(&subject.weights, &plan.changes, &config.write, config.force)?;
    let edited = reload(&draft, &subject)?;
    let verified = verify(&subject, &edited, &ablate, &config.settings)?;

    let ruled = policy.as_ref().map(|it| (it, checked));
    let mut report = record::report(&looked, &found, run, ruled, &importance)?;
    let effect = policy.as_ref().and_then(|it| it.gates.effect.as_ref());
    let measured = Measured {
        subject: &subject,
        edited: &edited,
        units: &plan.units,
        others: match config.curve {
            Some(_) => vec![("importance", all[..plan.units.len().min(all.len())].to_vec())],
            None => vec![],
        },
        controls: effect
            .map_or(config.controls, |it| config.controls.max(it.random_controls as u64)),
        before: &found.predictions,
        seed: config.seed,
    };
    let measured = measure::measure(&measured, &tests, &config.settings, progress)?;
    report.tests = measured.tests;
    report.controls = measured.controls;
    report.accuracy = measured.accuracy.or(report.accuracy);
    let curve = match config.curve.filter(|_| config.out.is_some()) {
        Some(most) => {
            let named = tests.iter().map(|it| (it.name.as_str(), it.probe(&subject)));
            let named: Vec<(&str, &Probe)> = named.collect();
            let curve = sweep.curve(&described, &all, most, &named, config.seed)?;
            Some((curve.csv()?, curve.svg(units.len())?))
        }
        None => None,
    };
    if let Some(policy) = &policy {
        let residual = match policy.gates.residual {
            Some(_) => Some(residual(policy, &edited, &sites, &looked, &asked, progress)?),
            None => None,
        };
        let edited = Edited {
            accuracy: report.accuracy.as_ref(),
            tests: &report.tests,
            controls: &report.controls,
            residual: residual.as_ref(),
        };
        let gates = ruling::edit_gates(&policy.gates, &edited);
        report.gates.retain(|it| !["accuracy", "effect", "residual"].contains(&it.id.as_str()));
        report.gates.extend(gates);
    }
    report.gates.extend(max_drop(config, &report));
    judge(config, &mut report);
    let publishes = report.verdict == Verdict::Passed && !config.dry_run;
    report.edit = Some(EditReport {
        units: plan.units,
        refused: refused
            .iter()
            .map(|it| Refused { unit: it.unit.clone(), reason: it.reason.clone() })
            .collect(),
        changes: plan.changes,
        bytes_changed: draft.bytes_changed(),
        spared: n_candidates - units.len(),
        slack,
        val: val.dataset.source.clone(),
        verified,
        output: publishes
            .then(|| OutputReport { path: config.write.clone(), sha256: draft.sha256().clone() }),
    });
    if publishes {
        draft.publish()?;
    }
    if let Some(out) = &config.out {
        if !sites.is_empty() {
            let of = |unit: &Unit| importance.get(unit).copied();
            record::write(out, &subject, &found.exemplars, &descriptions, of, false)?;
        }
        if let Some((table, figure)) = &curve {
            write_whole(&out.join("curve.csv"), table.as_bytes())?;
            write_whole(&out.join("curve.svg"), figure.as_bytes())?;
        }
    }
    started.close(&mut report)?;
    Ok(report)
}

fn load_policy(config: &Config) -> anyhow::Result<Option<Policy>> {
    Ok(match &config.selection {
        Selection::Matching(words) => {
            Some(policy::from_words(words, policy::file::MIN_CONFIDENCE)?)
        }
        Selection::Policy => {
            let Some(policy) = config.asked.load()? else { return Ok(None) };
            let name = &policy.name;
            if let Some(rule) = policy.rules.iter().find(|it| it.edit.action == Action::Prune) {
                return Err(usage!(
                    "rule {} of policy `{name}` wants its units pruned, and this version zeroes them only; write edit.action = \"zero\"",
                    rule.id
                ));
            }
            if policy.rules.iter().all(|rule| rule.edit.action != Action::Zero) {
                return Err(usage!(
                    "no rule of policy `{name}` says edit.action = \"zero\", so there is nothing to edit"
                ));
            }
            Some(policy)
        }
        Selection::Units(_) => None,
    })
}

/// The units that may be deleted, with what is known of each.
fn candidates(
    config: &Config,
    policy: Option<&Policy>,
    outcomes: &[Outcome],
) -> anyhow::Result<Vec<Candidate>> {
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut add = |unit: &Unit, confidence| {
        if candidates.iter().all(|it| it.unit != *unit) {
            candidates.push(Candidate { unit: unit.clone(), confidence, importance: None });
        }
    };
    match (&config.selection, policy) {
        (Selection::Units(units), _) => units.iter().for_each(|unit| add(unit, None)),
        (_, Some(policy)) => {
            for (rule, outcome) in policy.rules.iter().zip(outcomes) {
                if rule.edit.action != Action::Zero {
                    continue;
                }
                outcome.findings.iter().for_each(|it| add(&it.unit, Some(it.confidence)));
            }
        }
        _ => {}
    }
    if candidates.is_empty() {
        let n_units: usize = outcomes.first().map_or(0, |it| it.observed.in_scope);
        return Err(inconclusive!(
            "none of the {n_units} units matches, so there is nothing to delete; nothing was written"
        ));
    }
    Ok(candidates)
}

/// The gate of the first rule that matches more units than may be zeroed for it.
fn too_many(config: &Config, policy: &Policy, outcomes: &[Outcome]) -> Option<Gate> {
    let rules = policy.rules.iter().zip(outcomes).filter(|it| it.0.edit.action == Action::Zero);
    let over = rules.filter_map(|(rule, outcome)| {
        let max = rule.edit.max_units?;
        let n = outcome.findings.len().min(config.max_units.unwrap_or(usize::MAX));
        let why = || {
            format!(
                "rule {} matches {n} units, and its edit.max-units allows {max} to be zeroed",
                rule.id
            )
        };
        let (limit, observed) = (Some(max as f64), Some(n as f64));
        (max < n)
            .then(|| Gate::new("edit.max-units", policy::Level::Deny, limit, observed, Some(why())))
    });
    over.into_iter().next()
}

/// The verdict on an edit. Rules are held against the model as it was; what is left of it is for the gates.
fn judge(config: &Config, report: &mut Report) {
    let strict = config.asked.fail_on_warn;
    (report.verdict, report.why) = ruling::verdict(&[], &report.gates, &report.coverage, strict);
    report.why.iter_mut().for_each(|it| it.push_str("; nothing was written"));
    report.exit_code = report.verdict.exit_code();
}

/// In which order units go: as the user says, else as the rules to zero say, which must agree.
fn order(config: &Config, policy: Option<&Policy>) -> anyhow::Result<Order> {
    if let Some(order) = config.order {
        return Ok(order);
    }
    let rules = policy.map(|it| it.rules.as_slice()).unwrap_or_default();
    let zero = rules.iter().filter(|it| it.edit.action == Action::Zero);
    let said: BTreeSet<EditOrder> = zero.filter_map(|it| it.edit.order).collect();
    match said.into_iter().collect::<Vec<_>>()[..] {
        [] if config.slack.is_some() || config.curve.is_some() => Ok(Order::Importance),
        [] | [EditOrder::Listed] => Ok(Order::Listed),
        [EditOrder::Confidence] => Ok(Order::Confidence),
        [EditOrder::ImportanceAsc] => Ok(Order::Importance),
        _ => Err(usage!(
            "the rules to zero want different orders, and all their units go together; name one with --order"
        )),
    }
}

/// What rests on how important units are must be told to measure it.
fn check_order(config: &Config, order: Order) -> anyhow::Result<()> {
    if config.curve.is_some() && order != Order::Importance {
        return Err(usage!(
            "--curve compares units in the order of their importance, so --order importance is wanted"
        ));
    }
    if config.curve.is_some() && matches!(config.selection, Selection::Units(_)) {
        return Err(usage!(
            "--curve compares described units with any, and --units describes none"
        ));
    }
    Ok(())
}

/// The first of the units, in their order: as many as `--max-units` and the slack allow. `known` are the answers to the
/// pictures of `val` before anything is zeroed, if they are known. With them the slack, where it was that which ended
/// them.
fn kept(
    config: &Config,
    sweep: &Sweep<'_>,
    units: &[Unit],
    val: &Probe,
    known: Option<&[Prediction]>,
) -> anyhow::Result<(Vec<Unit>, Option<f64>)> {
    let mut kept = units[..units.len().min(config.max_units.unwrap_or(usize::MAX))].to_vec();
    if let Some(slack) = config.slack {
        let n = sweep.within(slack, &kept, val, known)?;
        if n == 0 {
            return Err(inconclusive!(
                "zeroing {} alone costs more than the {:.2} points of top-1 that --slack allows; nothing was written",
                kept[0],
                100. * slack
            ));
        }
        if n < kept.len() {
            kept.truncate(n);
            return Ok((kept, Some(slack)));
        }
    }
    Ok((kept, None))
}

/// Without the user's leave nothing that matched is left standing.
fn check_plan(plan: &Plan, skip_not_editable: bool) -> anyhow::Result<()> {
    let n_refused = plan.refused.len();
    let Some(first) = plan.refused.first() else { return Ok(()) };
    if plan.units.is_empty() {
        return Err(inconclusive!(
            "{}; nothing was written",
            summary(&plan.refused, first, n_refused)
        ));
    }
    if !skip_not_editable {
        return Err(inconclusive!(
            "{}; --skip-not-editable zeroes the other {}; nothing was written",
            summary(&plan.refused, first, n_refused),
            plan.units.len()
        ));
    }
    Ok(())
}

fn summary(refused: &[NotEditable], first: &NotEditable, n: usize) -> String {
    let sites: BTreeSet<&str> = refused.iter().map(|it| it.unit.site.as_str()).collect();
    let sites = sites.into_iter().collect::<Vec<_>>().join(", ");
    match n {
        1 => first.to_string(),
        _ => format!("{n} units (of {sites}) cannot be zeroed exactly; the first: {first}"),
    }
}

/// The gate of `--max-drop`.
fn max_drop(config: &Config, report: &Report) -> Option<Gate> {
    let limit = config.max_drop?;
    let deny = policy::Level::Deny;
    let Some(delta) = report.accuracy.as_ref().and_then(|it| it.delta) else {
        let why = "no picture is labelled, so the drop is not known".to_owned();
        return Some(Gate::inconclusive("max-drop", deny, Some(limit), why));
    };
    let why = || {
        format!("top-1 falls by {:.2} points, --max-drop allows {:.2}", -100. * delta, 100. * limit)
    };
    Some(Gate::new("max-drop", deny, Some(limit), Some(-delta), (limit < -delta).then(why)))
}

/// The units of the edited model that rules to zero still match, or why that is not known.
fn residual(
    policy: &Policy,
    edited: &Network,
    sites: &[String],
    looked: &Looked<'_>,
    asked: &Asked<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<Result<Vec<Unit>, String>> {
    let Looked { subject, settings, .. } = *looked;
    let settings = audit::drawing(settings, asked.phrases, asked.seed);
    let untouched = Ablate::default();
    let stage = "pictures, edited model";
    let found = pass::pass(edited, &subject.probe, sites, &untouched, &settings, stage, progress)?;
    let Described { descriptions, shown } =
        audit::describe(subject, &found.exemplars, asked, progress)?;
    let (exemplars, descriptions) = (&found.exemplars, &descriptions);
    // Whether pictures and layers can show it was asked of the model as it was.
    let looked =
        Looked { exemplars, descriptions, shown: &shown, allow_uncovered: true, ..*looked };
    let (checked, _) = ruling::hold(policy, &looked, progress)?;
    let rules = policy.rules.iter().zip(checked.outcomes);
    let zero = rules.filter(|(rule, _)| rule.edit.action == Action::Zero);
    let mut left = BTreeSet::new();
    let mut unknown = None;
    for (rule, outcome) in zero {
        if outcome.status == policy::CheckStatus::Inconclusive {
            let why = outcome.why.join(", ");
            unknown
                .get_or_insert(format!("of the edited model nothing is known, {}: {why}", rule.id));
        }
        left.extend(outcome.findings.into_iter().map(|it| it.unit));
    }
    // What still matches decides, whatever else is not known.
    Ok(match unknown {
        Some(why) if left.is_empty() => Err(why),
        _ => Ok(left.into_iter().collect()),
    })
}
