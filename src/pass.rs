//! One pass over the pictures: every site's exemplars and the network's answers, at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::data::{Batch, Dataset, Loader, NearDuplicates, Preprocess, Read};
use crate::evaluate::Prediction;
use crate::exemplars::{self, Exemplars, Gather, PictureKey};
use crate::inconclusive;
use crate::model::engine::Blocks;
use crate::model::graph::{Graph, NodeId};
use crate::model::run::{Ablate, Network, Tap, as_maps};

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
    pub near_duplicates: NearDuplicates,
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
    let looks = !sites.is_empty() && 0 < settings.exemplars.max_near_duplicates;
    let near_duplicates = match looks {
        true => NearDuplicates::find(&probe.dataset, &probe.preprocess, progress)?,
        false => NearDuplicates::none(n_pictures),
    };
    let gather = |site: &String| Mutex::new(Gather::new(site, settings.exemplars, n_pictures));
    let gathers: Vec<(NodeId, Mutex<Gather>)> =
        nodes.into_iter().zip(sites.iter().map(gather)).collect();
    let mut predictions = Vec::with_capacity(n_pictures);
    let mut loader = Loader::new(&probe.dataset, &probe.preprocess, settings.batch_size);
    progress(stage, 0, n_pictures)?;
    let watch = Watch { ablate: ablate.clone(), gathers: &gathers, graph, pictures: &[] };
    network.prepare(&watch)?;
    for batch in loader.by_ref() {
        let batch = batch?;
        let pictures = keys(&batch, &near_duplicates);
        for (logits, ids) in run_in_parts(network, &batch, &pictures, &watch, settings.threads)? {
            predictions.extend(answers(&logits, ids, &probe.dataset)?);
        }
        let done = batch.ids.last().map_or(0, |last| last + 1);
        progress(stage, done, n_pictures)?;
    }
    progress(stage, n_pictures, n_pictures)?;
    let read = loader.finish();
    check_unreadable(&read, &probe.dataset, settings.max_unreadable)?;
    let finish = |(_, gather): (NodeId, Mutex<Gather>)| {
        gather.into_inner().unwrap_or_else(PoisonError::into_inner).finish()
    };
    let found = gathers.into_par_iter().map(finish).collect::<anyhow::Result<Vec<_>>>()?;
    let (sites, spread): (_, Vec<_>) = found.into_iter().unzip();
    let exemplars = Exemplars { sites, spread: spread.into_iter().flatten().collect() };
    Ok(Pass { exemplars, predictions, read, near_duplicates })
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

/// The answers of a network ablated in several ways, each picture being read once.
pub fn predict_each(
    network: &Network,
    probe: &Probe,
    ablations: &[Ablate],
    settings: &Settings,
    stage: &str,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Vec<Prediction>>> {
    if ablations.is_empty() {
        return Ok(vec![]);
    }
    let n_pictures = probe.dataset.pictures.len();
    let mut predictions = vec![Vec::with_capacity(n_pictures); ablations.len()];
    let ablations: Vec<Ablate> = ablations.iter().map(|it| it.clone().beside(ablations)).collect();
    let watches: Vec<Watch<'_>> = ablations
        .into_iter()
        .map(|ablate| Watch { ablate, gathers: &[], graph: network.graph(), pictures: &[] })
        .collect();
    network.prepare(&watches[0])?;
    let near_duplicates = NearDuplicates::none(n_pictures);
    progress(stage, 0, n_pictures)?;
    let mut loader = Loader::new(&probe.dataset, &probe.preprocess, settings.batch_size);
    for batch in loader.by_ref() {
        let batch = batch?;
        let pictures = keys(&batch, &near_duplicates);
        for (watch, predictions) in watches.iter().zip(&mut predictions) {
            for (logits, ids) in run_in_parts(network, &batch, &pictures, watch, settings.threads)?
            {
                predictions.extend(answers(&logits, ids, &probe.dataset)?);
            }
        }
        progress(stage, batch.ids.last().map_or(0, |last| last + 1), n_pictures)?;
    }
    progress(stage, n_pictures, n_pictures)?;
    check_unreadable(&loader.finish(), &probe.dataset, settings.max_unreadable)?;
    Ok(predictions)
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

/// Gathers what some nodes fire on after the ablation.
struct Watch<'a> {
    ablate: Ablate,
    gathers: &'a [(NodeId, Mutex<Gather>)],
    graph: &'a Graph,
    /// The pictures of the run.
    pictures: &'a [PictureKey],
}

impl Watch<'_> {
    fn gathers(&self, id: NodeId) -> impl Iterator<Item = MutexGuard<'_, Gather>> {
        let of_it = self.gathers.iter().filter(move |it| it.0 == id);
        of_it.map(|(_, gather)| gather.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tap for Watch<'_> {
    fn wants(&self) -> Vec<NodeId> {
        let watched = self.gathers.iter().map(|it| it.0);
        let mut wanted: Vec<NodeId> = self.ablate.wants().into_iter().chain(watched).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// Beyond an upper clamp all pictures look the same, so they are ranked before it. Zeroing a channel before it is
    /// zeroing it after it.
    fn sees_unclamped(&self, id: NodeId) -> bool {
        self.gathers.iter().any(|it| it.0 == id)
    }

    fn at(&mut self, id: NodeId, first: usize, ys: Tensor) -> anyhow::Result<Tensor> {
        let ys = self.ablate.at(id, first, ys)?;
        for mut gather in self.gathers(id) {
            let maps = as_maps(self.graph.node(id), &ys)?;
            gather.add(&maps, &self.pictures[first..][..maps.dim(0)?])?;
        }
        Ok(ys)
    }

    fn look(&mut self, id: NodeId, first: usize, maps: &mut Blocks<'_>) -> anyhow::Result<bool> {
        self.ablate.look(id, first, maps)?;
        for mut gather in self.gathers(id) {
            gather.see(maps, &self.pictures[first..][..maps.dims().0])?;
        }
        Ok(true)
    }
}

/// What tells the pictures of a batch from others.
fn keys(batch: &Batch, near_duplicates: &NearDuplicates) -> Vec<PictureKey> {
    let key = |(&id, &content): (&usize, &u64)| PictureKey {
        id,
        content,
        group: near_duplicates.group(id),
    };
    batch.ids.iter().zip(&batch.contents).map(key).collect()
}

/// Pictures that a thread takes through the network together.
pub const TOGETHER: usize = 8;

/// Each thread takes a few of the pictures after the other through the whole network. Gives the logits of each part
/// with its pictures.
fn run_in_parts<'a>(
    network: &Network,
    batch: &'a Batch,
    pictures: &[PictureKey],
    watch: &Watch<'_>,
    threads: usize,
) -> anyhow::Result<Vec<(Tensor, &'a [usize])>> {
    let n = batch.ids.len();
    let together = match network.device().is_cpu() {
        true => TOGETHER.min(n.div_ceil(threads.max(1))),
        false => n,
    };
    let parts: Vec<_> = batch
        .ids
        .par_chunks(together.max(1))
        .enumerate()
        .map(|(part, ids)| {
            let xs = batch.xs.narrow(0, part * together, ids.len())?;
            let pictures = &pictures[part * together.max(1)..][..ids.len()];
            let mut watch = Watch { ablate: watch.ablate.clone(), pictures, ..*watch };
            Ok((network.run(&xs, &mut watch)?, ids))
        })
        .collect();
    // Of several errors that of the first part, whatever ended first.
    parts.into_iter().collect()
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
