//! The second flow: zero some units in a new file, and say what that did to the accuracy.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use candle_core::Tensor;

use crate::audit::{self, Asked, Started};
use crate::data;
use crate::describe::How;
use crate::edit::choose::{Candidate, Order, choose};
use crate::edit::plan::{NotEditable, Plan, locate, plan};
use crate::evaluate::control::random_units;
use crate::evaluate::{self, Prediction};
use crate::files::write_whole;
use crate::model::Model;
use crate::model::graph::{Graph, NodeId};
use crate::model::run::{Ablate, Compute, Network, Untapped};
use crate::pass::{self, Pass, Probe, Progress, Settings};
use crate::policy::{self, Action, Outcome, Policy};
use crate::report::{
    AccuracyReport, Control, EditReport, Gate, OutputReport, Refused, Report, TestReport, Verdict,
    Verified, json,
};
use crate::subject::{self, Source, Subject};
use crate::unit::Unit;
use crate::weights::{Draft, Weights, write_edited};
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
    /// Named picture folders that are only measured; none means the probing pictures themselves.
    pub tests: Vec<(String, PathBuf)>,
    pub order: Order,
    pub max_units: Option<usize>,
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
    config.settings.exemplars.check()?;
    config.how.check()?;
    let subject = subject::open(&config.source)?;
    let tests = open_tests(config, &subject)?;
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

    let candidates = candidates(config, policy.as_ref(), &outcomes, &subject, progress)?;
    let importance: BTreeMap<Unit, f64> =
        candidates.iter().filter_map(|it| Some((it.unit.clone(), it.importance?))).collect();
    let chosen = choose(candidates, config.order, config.max_units);
    let units: Vec<Unit> = chosen.into_iter().map(|it| it.unit).collect();
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
    measure(config, &mut report, &subject, &edited, &found, &tests, &plan, progress)?;
    (report.verdict, report.why) = verdict(config, &mut report);
    report.exit_code = report.verdict.exit_code();
    let publishes = report.verdict == Verdict::Passed && !config.dry_run;
    report.edit = Some(EditReport {
        units: plan.units,
        refused: plan
            .refused
            .iter()
            .map(|it| Refused { unit: it.unit.clone(), reason: it.reason.clone() })
            .collect(),
        changes: plan.changes,
        bytes_changed: draft.bytes_changed(),
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

/// A set of pictures that accuracy is measured on.
struct Test {
    name: String,
    /// `None` is the probing set, whose answers before the edit are known already.
    probe: Option<Probe>,
}

fn open_tests(config: &Config, subject: &Subject) -> anyhow::Result<Vec<Test>> {
    let mut names = BTreeSet::new();
    let mut tests = Vec::new();
    for (name, path) in &config.tests {
        if !names.insert(name) {
            return Err(usage!("two tests are called `{name}`; name them with --test NAME=FOLDER"));
        }
        let dataset = data::open(path, &subject.classes)?;
        if dataset.pictures.iter().all(|picture| picture.label.is_none()) {
            return Err(usage!("the test pictures in {} have no labels", path.display()));
        }
        let probe = Probe { dataset, preprocess: subject.probe.preprocess.clone() };
        tests.push(Test { name: name.clone(), probe: Some(probe) });
    }
    if tests.is_empty() && subject.probe.dataset.pictures.iter().any(|it| it.label.is_some()) {
        tests.push(Test { name: "data".into(), probe: None });
    }
    Ok(tests)
}

/// The units that may be deleted, with what is known of each.
fn candidates(
    config: &Config,
    policy: Option<&Policy>,
    outcomes: &[Outcome],
    subject: &Subject,
    progress: Progress<'_>,
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
    if config.order == Order::Importance {
        let graph = subject.model.graph();
        let units = candidates.iter().map(|it| Ok((locate(graph, &it.unit)?, it.unit.channel)));
        let units = units.collect::<anyhow::Result<Vec<_>>>()?;
        let lost = pass::importance(
            &subject.model.network,
            &subject.probe,
            &units,
            &config.settings,
            progress,
        )?;
        candidates.iter_mut().zip(lost).for_each(|(it, lost)| it.importance = Some(lost));
    }
    Ok(candidates)
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

fn ablation(graph: &Graph, units: &[Unit]) -> anyhow::Result<Ablate> {
    let channels = units.iter().map(|unit| Ok((locate(graph, unit)?, unit.channel)));
    Ok(Ablate::new(graph, channels.collect::<anyhow::Result<Vec<(NodeId, usize)>>>()?))
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

/// Runs every test before and after, and as often with random units instead.
#[allow(clippy::too_many_arguments)] // The flow's own values; a struct would only name them twice.
fn measure(
    config: &Config,
    report: &mut Report,
    subject: &Subject,
    edited: &Network,
    found: &Pass,
    tests: &[Test],
    plan: &Plan,
    progress: Progress<'_>,
) -> anyhow::Result<()> {
    let network = &subject.model.network;
    let graph = subject.model.graph();
    let untouched = Ablate::default();
    let n_channels: BTreeMap<String, usize> = plan
        .units
        .iter()
        .map(|unit| Ok((unit.site.clone(), graph.node(locate(graph, unit)?).channels)))
        .collect::<anyhow::Result<_>>()?;
    let mut controls: Vec<Control> = (0..config.controls)
        .map(|control| Control {
            kind: "random",
            seed: control,
            units: random_units(&plan.units, &n_channels, config.seed, control),
            tests: vec![],
        })
        .collect();
    for (place, test) in tests.iter().enumerate() {
        let probe = test.probe.as_ref().unwrap_or(&subject.probe);
        let run = |network: &Network, ablate: &Ablate, what: &str| {
            let stage = format!("{} {what}", test.name);
            pass::predict(network, probe, ablate, &config.settings, &stage, progress)
        };
        let before: Vec<Prediction> = match test.probe {
            None => found.predictions.clone(),
            Some(_) => run(network, &untouched, "before")?,
        };
        let after = run(edited, &untouched, "after")?;
        report.tests.push(compared(&test.name, &before, &after, config.seed)?);
        if place == 0 {
            report.accuracy = main_accuracy(subject, &before, &after, config.seed)?;
        }
        for control in &mut controls {
            let ablate = ablation(graph, &control.units)?;
            let after = run(network, &ablate, &format!("random {}", control.seed))?;
            control.tests.push(compared(&test.name, &before, &after, config.seed)?);
        }
    }
    report.controls = controls;
    Ok(())
}

fn main_accuracy(
    subject: &Subject,
    before: &[Prediction],
    after: &[Prediction],
    seed: u64,
) -> anyhow::Result<Option<AccuracyReport>> {
    let accuracy = |run: &[Prediction]| evaluate::accuracy(run, &subject.classes);
    let Some(first) = accuracy(before) else { return Ok(None) };
    let comparison = evaluate::compare(before, after, seed)?;
    Ok(Some(AccuracyReport {
        before: first,
        after: accuracy(after),
        delta: Some(comparison.top1),
        ci95: Some(comparison.ci95),
        changed: Some(comparison.n_changed),
    }))
}

fn compared(
    name: &str,
    before: &[Prediction],
    after: &[Prediction],
    seed: u64,
) -> anyhow::Result<TestReport> {
    let comparison = evaluate::compare(before, after, seed)?;
    let top1 =
        |run: &[Prediction]| evaluate::accuracy(run, &[]).map_or((0, 0.), |it| (it.n, it.top1));
    let (n, top1_before) = top1(before);
    Ok(TestReport {
        name: name.to_owned(),
        n,
        before: top1_before,
        after: top1(after).1,
        delta: comparison.top1,
        ci95: comparison.ci95,
    })
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
