//! Accuracy before and after an edit on every test, and with other units deleted instead.

use std::collections::{BTreeMap, BTreeSet};

use crate::data;
use crate::edit::plan::locate;
use crate::evaluate::control::random_units;
use crate::evaluate::{self, Prediction};
use crate::model::run::{Ablate, Network};
use crate::pass::{self, Probe, Progress, Settings};
use crate::report::{AccuracyReport, Control, TestReport};
use crate::subject::Subject;
use crate::sweep::ablation;
use crate::unit::Unit;
use crate::usage;

/// A set of pictures that accuracy is measured on.
pub struct Test {
    pub name: String,
    /// `None` is the probing set, whose answers before the edit are known already.
    pub probe: Option<Probe>,
}

/// Opens pictures that are named `(name, source)`; none means the probing set, if it has labels.
pub fn open(named: &[(String, String)], subject: &Subject) -> anyhow::Result<Vec<Test>> {
    let mut names = BTreeSet::new();
    let mut tests = Vec::new();
    for (name, source) in named {
        if !names.insert(name) {
            return Err(usage!("two tests are called `{name}`; name them with --test NAME=D"));
        }
        tests.push(Test { name: name.clone(), probe: Some(labelled(source, subject)?) });
    }
    if tests.is_empty() && subject.probe.dataset.is_labelled() {
        tests.push(Test { name: "data".into(), probe: None });
    }
    Ok(tests)
}

/// Pictures to measure accuracy on; errs where none has a label.
pub fn labelled(source: &str, subject: &Subject) -> anyhow::Result<Probe> {
    let dataset = data::named(source, &subject.classes)?;
    if !dataset.is_labelled() {
        return Err(usage!("the test pictures in {source} have no labels"));
    }
    Ok(Probe { dataset, preprocess: subject.probe.preprocess.clone() })
}

impl Test {
    pub fn probe<'a>(&'a self, subject: &'a Subject) -> &'a Probe {
        self.probe.as_ref().unwrap_or(&subject.probe)
    }
}

/// What is measured.
pub struct Measured<'a> {
    pub subject: &'a Subject,
    /// The network of the written file.
    pub edited: &'a Network,
    /// The units that are zero in it.
    pub units: &'a [Unit],
    /// As many other units to compare with, `(kind, units)`, besides random ones.
    pub others: Vec<(&'static str, Vec<Unit>)>,
    /// How often as many random units of the same layers.
    pub controls: u64,
    /// The answers to the probing pictures before the edit.
    pub before: &'a [Prediction],
    pub seed: u64,
}

/// What was found.
pub struct Found {
    /// On the first test.
    pub accuracy: Option<AccuracyReport>,
    pub tests: Vec<TestReport>,
    pub controls: Vec<Control>,
}

/// Runs every test before and after, and as often with other units instead.
pub fn measure(
    measured: &Measured<'_>,
    tests: &[Test],
    settings: &Settings,
    progress: Progress<'_>,
) -> anyhow::Result<Found> {
    let &Measured { subject, edited, units, controls, before: known, seed, .. } = measured;
    let network = &subject.model.network;
    let graph = subject.model.graph();
    let n_channels: BTreeMap<String, usize> = units
        .iter()
        .map(|unit| Ok((unit.site.clone(), graph.node(locate(graph, unit)?).channels)))
        .collect::<anyhow::Result<_>>()?;
    let control = |kind: &str, seed, units: Vec<Unit>| Control {
        kind: kind.to_owned(),
        seed,
        units,
        tests: vec![],
    };
    let others = measured.others.iter().map(|(kind, units)| control(kind, 0, units.clone()));
    let random =
        (0..controls).map(|it| control("random", it, random_units(units, &n_channels, seed, it)));
    let mut controls: Vec<Control> = others.chain(random).collect();
    let ablations = controls.iter().map(|it| ablation(graph, &it.units));
    let ablations = ablations.collect::<anyhow::Result<Vec<_>>>()?;
    let mut found = Found { accuracy: None, tests: vec![], controls: vec![] };
    for (place, test) in tests.iter().enumerate() {
        let probe = test.probe(subject);
        let run = |network: &Network, what: &str| {
            let stage = format!("{} {what}", test.name);
            pass::predict(network, probe, &Ablate::default(), settings, &stage, progress)
        };
        let before: Vec<Prediction> = match test.probe {
            None => known.to_vec(),
            Some(_) => run(network, "before")?,
        };
        let after = run(edited, "after")?;
        found.tests.push(compared(&test.name, &before, &after, seed)?);
        if place == 0 {
            found.accuracy = main_accuracy(subject, &before, &after, seed)?;
        }
        let stage = format!("{} with other units", test.name);
        let instead = pass::predict_each(network, probe, &ablations, settings, &stage, progress)?;
        for (control, after) in controls.iter_mut().zip(instead) {
            control.tests.push(compared(&test.name, &before, &after, seed)?);
        }
    }
    found.controls = controls;
    Ok(found)
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
