//! The second flow: zero some units in a new file, and say what that did to the accuracy.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Context;
use candle_core::Tensor;

use crate::audit::{self, Asked, Started};
use crate::describe::How;
use crate::edit::choose::{Candidate, Order, choose};
use crate::edit::plan::{NotEditable, Plan, locate, plan};
use crate::evaluate::Prediction;
use crate::files::write_whole;
use crate::measure::{self, Measured};
use crate::model::Model;
use crate::model::run::{Ablate, Compute, Network, Untapped};
use crate::pass::{self, Probe, Progress, Settings};
use crate::policy::{self, Action, Outcome, Policy};
use crate::report::{EditReport, Gate, OutputReport, Refused, Report, Verdict, Verified, json};
use crate::subject::{self, Source, Subject};
use crate::sweep::{Sweep, ablation};
use crate::unit::Unit;
use crate::weights::{Draft, Weights, check_target, write_edited};
use crate::{inconclusive, usage};

/// Which units are to be zeroed.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Those described with any of these words, by stem.
    Matching(Vec<String>),
    /// Those that rules with `edit.action = "zero"` match.
    Policy(String),
    /// Just these.
    Units(Vec<Unit>),
}

/// What an edit needs to know.
pub struct Config {
    pub source: Source,
    pub layers: Vec<String>,
    pub how: How,
    pub selection: Selection,
    /// Pictures by which units are ranked and chosen; `None` is the probing pictures.
    pub val: Option<String>,
    /// Named pictures that are only measured; none means the probing pictures themselves.
    pub tests: Vec<(String, String)>,
    pub order: Order,
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

/// Pictures logits are compared on, to check the written file.
const N_VERIFIED: usize = 16;
/// The greatest difference, relative to the largest logit, at which two networks count as the same.
const TOLERANCE: f64 = 1e-4;

/// Zeroes units in a copy of the model and measures it. The copy gets its name only when it equals the
/// ablated network and no gate is violated.
pub fn revise(config: &Config, progress: Progress<'_>) -> anyhow::Result<Report> {
    let started = Started::now();
    let policy = load_policy(&config.selection)?;
    check_order(config)?;
    config.settings.exemplars.check()?;
    config.how.check()?;
    let subject = subject::open(&config.source)?;
    if let Some(out) = &config.out {
        std::fs::create_dir_all(out)
            .with_context(|| format!("cannot make the run's folder {}", out.display()))?;
    }
    check_target(&subject.weights, &config.write, config.force)?;
    let tests = measure::open(&config.tests, &subject)?;
    let val = config.val.as_deref().map(|it| measure::labelled(it, &subject)).transpose()?;
    let val = val.as_ref().unwrap_or(&subject.probe);
    let ranks = config.order == Order::Importance || config.slack.is_some();
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
    let descriptions = match &config.selection {
        Selection::Units(_) => vec![],
        _ => audit::describe(&subject, &found.exemplars, &asked, progress)?,
    };
    let outcomes =
        policy.as_ref().map(|policy| policy::check(policy, &descriptions)).unwrap_or_default();

    let mut candidates = candidates(config, policy.as_ref(), &outcomes)?;
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
    let importance = importance(config, &candidates, &all, &subject, val, progress)?;
    candidates.iter_mut().for_each(|it| it.importance = importance.get(&it.unit).copied());
    let all = all.into_iter().map(|unit| {
        let importance = importance.get(&unit).copied();
        Candidate { unit, confidence: None, importance }
    });
    let all: Vec<Unit> =
        choose(all.collect(), config.order).into_iter().map(|it| it.unit).collect();
    let chosen = choose(candidates, config.order);
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

    let mut report =
        audit::report(&subject, &found, &config.how, &descriptions, config.seed, &config.settings)?;
    report.rules = audit::rules(policy.as_ref(), &outcomes, |unit| importance.get(unit).copied());
    report.policy =
        policy.as_ref().filter(|it| !it.files.is_empty()).map(audit::policy_report).transpose()?;
    let measured = Measured {
        subject: &subject,
        edited: &edited,
        units: &plan.units,
        others: match config.curve {
            Some(_) => vec![("importance", all[..plan.units.len().min(all.len())].to_vec())],
            None => vec![],
        },
        controls: config.controls,
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
    (report.verdict, report.why) = verdict(config, &mut report);
    report.exit_code = report.verdict.exit_code();
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
    report.run = started.finish(config.seed, &config.source, &config.settings, config.out.clone());
    if let Some(out) = &config.out {
        if !sites.is_empty() {
            let of = |unit: &Unit| importance.get(unit).copied();
            audit::write(out, &subject, &found.exemplars, &descriptions, of, false)?;
        }
        if let Some((table, figure)) = &curve {
            write_whole(&out.join("curve.csv"), table.as_bytes())?;
            write_whole(&out.join("curve.svg"), figure.as_bytes())?;
        }
        write_whole(&out.join("report.json"), json(&report)?.as_bytes())?;
    }
    Ok(report)
}

fn load_policy(selection: &Selection) -> anyhow::Result<Option<Policy>> {
    Ok(match selection {
        Selection::Matching(words) => Some(policy::from_words(words, policy::file::MIN_CONFIDENCE)),
        Selection::Policy(name) => {
            let policy = policy::load(name)?;
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
                if let Some(max) = rule.edit.max_units
                    && max < outcome.findings.len()
                {
                    return Err(inconclusive!(
                        "rule {} matches {} units, and its edit.max-units allows {max} to be zeroed; nothing was written",
                        rule.id,
                        outcome.findings.len()
                    ));
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

/// What rests on how important units are must be told to measure it.
fn check_order(config: &Config) -> anyhow::Result<()> {
    if config.curve.is_some() && config.order != Order::Importance {
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

/// What zeroing each unit alone costs, where the order asks for it: of the candidates, or of `all` where there are
/// any.
fn importance(
    config: &Config,
    candidates: &[Candidate],
    all: &[Unit],
    subject: &Subject,
    val: &Probe,
    progress: Progress<'_>,
) -> anyhow::Result<BTreeMap<Unit, f64>> {
    if config.order != Order::Importance {
        return Ok(BTreeMap::new());
    }
    let wanted: Vec<Unit> = match all {
        [] => candidates.iter().map(|it| it.unit.clone()).collect(),
        _ => all.to_vec(),
    };
    let graph = subject.model.graph();
    let places = wanted.iter().map(|unit| Ok((locate(graph, unit)?, unit.channel)));
    let places = places.collect::<anyhow::Result<Vec<_>>>()?;
    let network = &subject.model.network;
    let lost = pass::importance(network, val, &places, &config.settings, progress)?;
    Ok(wanted.into_iter().zip(lost).collect())
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

/// The draft as anybody would load it.
fn reload(draft: &Draft, subject: &Subject) -> anyhow::Result<Network> {
    let weights = Weights::open(draft.path())?;
    let model = Model::load(&weights, Some(&subject.model.arch), subject.model.network.device())?;
    Ok(model.network.computed(Compute::exact(subject.source.exact)))
}

/// The written file must compute what the ablated network computes.
fn verify(
    subject: &Subject,
    edited: &Network,
    ablate: &Ablate,
    settings: &Settings,
) -> anyhow::Result<Verified> {
    let settings = Settings { batch_size: N_VERIFIED, ..*settings };
    let xs = pass::first_batch(&subject.probe, &settings)?;
    let network = &subject.model.network;
    let before = network.run(&xs, &mut Untapped)?;
    let wanted = network.run(&xs, &mut ablate.clone())?;
    let found = edited.run(&xs, &mut Untapped)?;
    let largest = greatest(&wanted)?.max(f64::MIN_POSITIVE);
    let difference = greatest(&(&found - &wanted)?)? / largest;
    let verified = Verified {
        images: xs.dim(0)?,
        max_difference: bound(difference),
        max_effect: two_digits(greatest(&(&found - &before)?)? / largest),
    };
    if difference <= TOLERANCE {
        return Ok(verified);
    }
    anyhow::bail!(
        "the written file differs from the ablated network by {difference:.1e} of the largest logit, more than {TOLERANCE:.0e}; it was removed"
    )
}

/// The power of ten above a difference, 1e-6 at least: what lies below is how the machine rounds.
fn bound(difference: f64) -> f64 {
    let bounds = [1e-6, 1e-5, 1e-4];
    bounds.into_iter().find(|it| difference < *it).unwrap_or(1e-3)
}

/// Beyond the second digit such a number tells of the machine.
fn two_digits(number: f64) -> f64 {
    format!("{number:.1e}").parse().unwrap_or(number)
}

fn greatest(xs: &Tensor) -> anyhow::Result<f64> {
    Ok(f64::from(xs.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?))
}

fn verdict(config: &Config, report: &mut Report) -> (Verdict, Vec<String>) {
    let Some(limit) = config.max_drop else { return (Verdict::Passed, vec![]) };
    let Some(delta) = report.accuracy.as_ref().and_then(|it| it.delta) else {
        let why = "--max-drop was given, but no picture is labelled, so the drop is not known; nothing was written";
        return (Verdict::Inconclusive, vec![why.to_owned()]);
    };
    let passed = -delta <= limit;
    report.gates.push(Gate { id: "max-drop".into(), passed, limit, observed: -delta });
    if passed {
        return (Verdict::Passed, vec![]);
    }
    let why = format!(
        "top-1 falls by {:.2} points, --max-drop allows {:.2}; nothing was written",
        -100. * delta,
        100. * limit
    );
    (Verdict::Violated, vec![why])
}
