//! One pass over the pictures: every site's exemplars and the network's answers, at once.

use std::collections::BTreeMap;

use anyhow::Context;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::data::{Dataset, Loader, Preprocess, Read};
use crate::evaluate::Prediction;
use crate::exemplars::{self, Exemplars, Gather};
use crate::inconclusive;
use crate::model::graph::NodeId;
use crate::model::run::{Ablate, Network, Record, Tap, as_maps};

/// Pictures, and how they become what the network reads.
pub struct Probe {
    pub dataset: Dataset,
    pub preprocess: Preprocess,
}

/// How a pass runs.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Pictures that go through the network together.
    pub batch_size: usize,
    pub threads: usize,
    /// The share of pictures, 0..=1, that may be unreadable.
    pub max_unreadable: f64,
    pub exemplars: exemplars::Config,
}

pub use crate::Progress;

/// What a pass found.
pub struct Pass {
    pub exemplars: Exemplars,
    pub predictions: Vec<Prediction>,
    pub read: Read,
}

/// Runs every picture through the network, `ablate` applied, and gathers what `sites` fire on.
///
/// Errs when too many pictures are unreadable, or the network's answers are not numbers.
pub fn pass(
    network: &Network,
    probe: &Probe,
    sites: &[String],
    ablate: &Ablate,
    settings: &Settings,
    stage: &str,
    progress: Progress<'_>,
) -> anyhow::Result<Pass> {
    let graph = network.graph();
    let nodes: Vec<NodeId> = sites
        .iter()
        .map(|site| graph.find(site).with_context(|| format!("the network has no layer `{site}`")))
        .collect::<anyhow::Result<_>>()?;
    let n_pictures = probe.dataset.pictures.len();
    let gather = |site: &String| Gather::new(site, settings.exemplars, n_pictures);
    let mut gathers: Vec<Gather> = sites.iter().map(gather).collect();
    let mut predictions = Vec::with_capacity(n_pictures);
    let mut loader = Loader::new(&probe.dataset, &probe.preprocess, settings.batch_size);
    progress(stage, 0, n_pictures)?;
    for batch in loader.by_ref() {
        let batch = batch?;
        let parts = run_in_parts(network, &batch.xs, &nodes, ablate, settings.threads)?;
        let mut at = 0;
        for part in &parts {
            let n = part.logits.dim(0)?;
            let ids = &batch.ids[at..at + n];
            gathers
                .par_iter_mut()
                .zip(&part.maps)
                .try_for_each(|(gather, maps)| gather.add(maps, ids))?;
            predictions.extend(answers(&part.logits, ids, &probe.dataset)?);
            at += n;
        }
        let done = batch.ids.last().map_or(0, |last| last + 1);
        progress(stage, done, n_pictures)?;
    }
    progress(stage, n_pictures, n_pictures)?;
    let read = loader.finish();
    check_unreadable(&read, &probe.dataset, settings.max_unreadable)?;
    let found: Vec<_> =
        gathers.into_par_iter().map(Gather::finish).collect::<anyhow::Result<_>>()?;
    let (sites, spread): (_, Vec<_>) = found.into_iter().unzip();
    let exemplars = Exemplars { sites, spread: spread.into_iter().flatten().collect() };
    Ok(Pass { exemplars, predictions, read })
}

/// The answers alone.
pub fn predict(
    network: &Network,
    probe: &Probe,
    ablate: &Ablate,
    settings: &Settings,
    stage: &str,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Prediction>> {
    Ok(pass(network, probe, &[], ablate, settings, stage, progress)?.predictions)
}

/// The first pictures as the network reads them, `(n, 3, side, side)`.
pub fn first_batch(probe: &Probe, settings: &Settings) -> anyhow::Result<Tensor> {
    let mut loader = Loader::new(&probe.dataset, &probe.preprocess, settings.batch_size);
    let batch = loader.next().ok_or_else(|| {
        inconclusive!("none of the pictures in {} can be read", probe.dataset.source)
    })??;
    Ok(batch.xs)
}

/// The top-1 accuracy, 0..=1, that zeroing each unit alone costs: below 0 where it helps.
///
/// What lies before a unit's site is run once for all units of the site. `NaN` never: pictures
/// without a label are left out, and without any label this errs.
pub fn importance(
    network: &Network,
    probe: &Probe,
    units: &[(NodeId, usize)],
    settings: &Settings,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<f64>> {
    let stage = "importance of units";
    let mut sites: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for (place, &(id, _)) in units.iter().enumerate() {
        sites.entry(id).or_default().push(place);
    }
    let n_pictures = probe.dataset.pictures.len();
    let (mut n_labelled, mut lost) = (0usize, vec![0i64; units.len()]);
    progress(stage, 0, n_pictures)?;
    for batch in Loader::new(&probe.dataset, &probe.preprocess, settings.batch_size) {
        let batch = batch?;
        let n_right = |logits: &Tensor| -> anyhow::Result<i64> {
            let answers = answers(logits, &batch.ids, &probe.dataset)?;
            Ok(answers
                .iter()
                .filter(|it| it.label.is_some() && it.label == it.top.first().copied())
                .count() as i64)
        };
        n_labelled +=
            batch.ids.iter().filter(|&&id| probe.dataset.pictures[id].label.is_some()).count();
        for (&id, places) in &sites {
            let halfway = network.run_until(&batch.xs, id)?;
            let before = n_right(&network.resume(&halfway, &mut Ablate::default())?)?;
            let after = places
                .par_iter()
                .map(|&place| {
                    let mut ablate = Ablate::new(network.graph(), [units[place]]);
                    n_right(&network.resume(&halfway, &mut ablate)?)
                })
                .collect::<anyhow::Result<Vec<i64>>>()?;
            places.iter().zip(after).for_each(|(&place, after)| lost[place] += before - after);
        }
        progress(stage, batch.ids.last().map_or(0, |last| last + 1), n_pictures)?;
    }
    if n_labelled == 0 {
        return Err(inconclusive!(
            "{} has no labels, so no unit's importance can be measured",
            probe.dataset.source
        ));
    }
    Ok(lost.into_iter().map(|lost| lost as f64 / n_labelled as f64).collect())
}

/// What one part of a batch gave.
struct Part {
    logits: Tensor,
    /// For each site `(n, c, h, w)`.
    maps: Vec<Tensor>,
}

/// Looks at the output of some nodes after the ablation.
struct Watch {
    ablate: Ablate,
    record: Record,
}

impl Tap for Watch {
    fn wants(&self) -> Vec<NodeId> {
        [self.ablate.wants(), self.record.wants()].concat()
    }

    fn at(&mut self, id: NodeId, ys: Tensor) -> anyhow::Result<Tensor> {
        let ys = self.ablate.at(id, ys)?;
        self.record.at(id, ys)
    }
}

/// Pictures that a thread takes through the network together: what it computes of them stays in its cache.
const TOGETHER: usize = 4;

/// Each thread takes a few of the pictures after the other through the whole network.
fn run_in_parts(
    network: &Network,
    xs: &Tensor,
    nodes: &[NodeId],
    ablate: &Ablate,
    threads: usize,
) -> anyhow::Result<Vec<Part>> {
    let n = xs.dim(0)?;
    let per_part = match network.device().is_cpu() {
        true => TOGETHER.min(n.div_ceil(threads.max(1))),
        false => n,
    };
    let starts: Vec<usize> = (0..n).step_by(per_part.max(1)).collect();
    starts
        .into_par_iter()
        .map(|start| {
            let xs = xs.narrow(0, start, per_part.min(n - start))?;
            let mut watch =
                Watch { ablate: ablate.clone(), record: Record::new(nodes.iter().copied()) };
            let logits = network.run(&xs, &mut watch)?;
            let maps = nodes
                .iter()
                .map(|&id| {
                    let ys = watch.record.get(id).context("a site was not reached")?;
                    Ok(as_maps(network.graph().node(id), ys)?)
                })
                .collect::<anyhow::Result<_>>()?;
            Ok(Part { logits, maps })
        })
        .collect()
}

/// The five best classes of each picture; equal ones in the order of the classes.
fn answers(logits: &Tensor, ids: &[usize], dataset: &Dataset) -> anyhow::Result<Vec<Prediction>> {
    let rows = logits.to_vec2::<f32>()?;
    let answer = |(row, &picture): (Vec<f32>, &usize)| {
        if row.iter().any(|logit| !logit.is_finite()) {
            return Err(inconclusive!(
                "the network's answer to {} is not finite (NaN or infinite); its weights overflow",
                dataset.pictures[picture].file
            ));
        }
        let mut top: Vec<usize> = (0..row.len()).collect();
        top.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        top.truncate(5);
        Ok(Prediction { picture, label: dataset.pictures[picture].label, top })
    };
    rows.into_iter().zip(ids).map(answer).collect()
}

fn check_unreadable(read: &Read, dataset: &Dataset, max_share: f64) -> anyhow::Result<()> {
    let n = dataset.pictures.len();
    let n_unreadable = read.skipped.len();
    let Some(first) = read.skipped.first() else { return Ok(()) };
    if n_unreadable as f64 <= max_share * n as f64 {
        return Ok(());
    }
    Err(inconclusive!(
        "{n_unreadable} of {n} pictures in {} cannot be read, more than --max-unreadable {max_share}; the first is {}: {}",
        dataset.source,
        first.file,
        first.reason
    ))
}
