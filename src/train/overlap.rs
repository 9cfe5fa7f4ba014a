//! Whether the evidence for a name finds the units that fire where things of that name are.
//!
//! Overlap is intersection over union of a unit's masks with the regions of a name, summed over pictures
//! (Bau et al. 2017, <https://arxiv.org/abs/1704.05796>, section 2.3). Thresholds, evidence and overlap are all
//! of the same pictures: those with regions that training did not see.

use std::collections::BTreeSet;
use std::path::PathBuf;

use candle_core::Device;
use serde::Serialize;

use super::features::Looker;
use super::firing::{Pixels, places};
use super::measures::{auroc, average_precision, mean};
use super::misplaced::{self, Misplaced, misplaced};
use super::regions::{Regions, under_masks};
use super::source::Source;
use crate::Progress;
use crate::data::scenes::Scenes;
use crate::data::{self, Preprocess};
use crate::describe::milan::Milan;
use crate::describe::milan::critic::{mean_score, texts_of, units_of};
use crate::describe::milan::look::{Pictures, Seen};
use crate::exemplars;
use crate::model::Model;
use crate::model::run::Ablate;
use crate::pass::{self, Probe, Settings};
use crate::weights::Weights;
use crate::{subject, usage};

/// The critic's evidence against where units fire.
#[derive(Debug, Serialize)]
pub struct Overlap {
    pub network: String,
    pub phrase: String,
    /// Regions of that name, and how often the critics find one likelier to be called so than a place beside one in the
    /// same pictures, 0..=1.
    pub regions: usize,
    pub told: Option<f64>,
    /// The most that a unit overlaps with them.
    pub best: f64,
    /// Which units ought to be found.
    pub truth: &'static str,
    pub units_true: usize,
    pub auroc: Option<f64>,
    pub average_precision: Option<f64>,
    /// How sure the truth is: the mean, over ways to halve the pictures, of how well evidence finds the units that
    /// overlap with the regions of one half, and how well the overlap with those of the other half does.
    pub auroc_half: Option<f64>,
    pub auroc_other_half: Option<f64>,
}

/// What a network's units are held against.
pub struct Against {
    /// Safetensors of any known network.
    pub network: PathBuf,
    /// Patterns of layers; none means the architecture's own choice.
    pub layers: Vec<String>,
    /// The folder of the regions, or `demo:N:SEED:SPLIT`.
    pub regions: String,
    pub threads: usize,
}

impl Against {
    /// Errs, before any long work, where the regions or the network cannot be read.
    pub fn check(&self) -> anyhow::Result<()> {
        match data::is_drawn(&self.regions) {
            true => self.regions.parse::<Scenes>().map(|_| ())?,
            false => Regions::named(&self.regions).map(|_| ())?,
        }
        Weights::open(&self.network).map(|_| ())
    }
}

/// Names with fewer regions say too little.
const LEAST_REGIONS: usize = 5;
/// A detector of a name, as Bau et al. 2017 count them.
const DETECTOR: f32 = 0.04;
/// Of the pictures; every three are a half.
const PARTS: usize = 6;
/// Pictures of each unit, as many as in an audit.
const TOP_K: usize = 15;
const BATCH: usize = 32;

/// The critic's evidence for every name, and the names that nothing can be held against.
#[derive(Debug, Default)]
pub struct Overlaps {
    pub names: Vec<Overlap>,
    pub misplaced: Vec<Misplaced>,
}

/// For every name, how well evidence finds the 2 % of units that overlap most with its regions, and those
/// that overlap by more than .04.
pub fn overlap(
    milan: &Milan,
    looker: &Looker<'_>,
    source: &Source,
    against: &Against,
    progress: Progress<'_>,
) -> anyhow::Result<Overlaps> {
    let regions = Regions::named(&against.regions)?;
    let learnt = regions.pictures_learnt(&milan.seen);
    let names = regions.by_name(|it| !learnt.contains(&regions.picture(it)));
    let ids: BTreeSet<usize> = names.values().flatten().map(|it| regions.picture(*it)).collect();
    let mut names: Vec<(&str, Vec<usize>)> =
        names.into_iter().filter(|(_, places)| LEAST_REGIONS <= places.len()).collect();
    if names.is_empty() {
        return Err(usage!(
            "{}: the describer learnt from all regions, or no name has {LEAST_REGIONS} of them",
            against.regions
        ));
    }
    if ids.len() < TOP_K {
        return Err(usage!(
            "{}: at least {TOP_K} pictures with regions that training did not see are wanted, not {}",
            against.regions,
            ids.len()
        ));
    }
    let (mut dataset, digest, own) = regions.pictures(source)?;
    let pictures = Pictures { dataset: &dataset, preprocess: &own };
    let inside = misplaced::look(&regions, "regions", &digest, looker, &pictures, progress)?;
    let is_unseen = |it: usize| !learnt.contains(&regions.picture(it));
    let misplaced = misplaced(&regions, is_unseen, &inside, milan.moments())?;
    names.retain(|(name, _)| misplaced.iter().all(|it| it.name != *name));
    if names.is_empty() {
        return Ok(Overlaps { names: vec![], misplaced });
    }
    let ids: Vec<usize> = ids.into_iter().collect();
    dataset
        .only(&ids)
        .map_err(|id| usage!("the regions speak of picture {id}, which is not there"))?;

    let weights = Weights::open(&against.network)?;
    let model = Model::load(&weights, None, &Device::Cpu)?;
    let sites = subject::sites(model.graph(), &against.layers)?;
    let preprocess = under_masks(&Preprocess::of(&model.arch), &own);
    let probe = Probe { dataset, preprocess };
    let spread = Some(0);
    let settings = Settings {
        batch_size: BATCH,
        threads: against.threads,
        max_unreadable: 0.01,
        exemplars: exemplars::Config { top_k: TOP_K, spread, ..exemplars::Config::default() },
    };
    let none = Ablate::default();
    let found = pass::pass(&model.network, &probe, &sites, &none, &settings, "pictures", progress)?;
    let files: Vec<&str> = weights.files().iter().map(|it| it.sha256.as_str()).collect();
    let inputs = format!("{} {files:?} {sites:?} {spread:?} {TOP_K}", found.read.manifest_sha256);
    let found = found.exemplars.spread;
    let pictures = Pictures { dataset: &probe.dataset, preprocess: &probe.preprocess };
    let seen = looker.look("overlap", &inputs, &found, &pictures, progress)?;
    let places = places(&regions, &ids, &names);
    let shape = (names.len(), PARTS);
    let parts = Pixels::count(&model.network, &probe, &found, &places, shape, progress)?;

    let phrases: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    let scores = milan.scores(&seen, &phrases)?;
    let mut overlaps = vec![];
    for (name, (phrase, places)) in names.iter().enumerate() {
        let scores: Vec<f32> = scores.iter().map(|it| it[name]).collect();
        let told = told(milan, phrase, &regions, places, &inside)?;
        let own = ious(&parts, name, ALL);
        let halves: Vec<_> = halves().map(|it| ious(&parts, name, it)).collect();
        // The other half of each is as far from the end.
        let halves = || halves.iter().zip(halves.iter().rev());
        for truth in [Truth::Most, Truth::Detectors] {
            let wanted = truth.of(&own);
            let by_evidence = halves().map(|(half, _)| auroc(&scores, &truth.of(half)));
            let by_other = halves().map(|(half, other)| auroc(other, &truth.of(half)));
            overlaps.push(Overlap {
                network: model.arch.clone(),
                phrase: (*phrase).to_owned(),
                regions: places.len(),
                told,
                best: own.iter().fold(0., |a, b| a.max(f64::from(*b))),
                truth: truth.name(),
                units_true: wanted.iter().filter(|it| **it).count(),
                auroc: auroc(&scores, &wanted),
                average_precision: average_precision(&scores, &wanted),
                auroc_half: mean(by_evidence),
                auroc_other_half: mean(by_other),
            });
        }
    }
    Ok(Overlaps { names: overlaps, misplaced })
}

/// How often the critics find some regions likelier to be called a name than places beside them.
fn told(
    milan: &Milan,
    name: &str,
    regions: &Regions,
    own: &[usize],
    inside: &[Seen],
) -> anyhow::Result<Option<f64>> {
    let beside = regions.beside_rows(own);
    let text = texts_of(&milan.critics, &milan.encode(&[name])?)?;
    let score = |site: usize, rows: &[usize]| -> anyhow::Result<Vec<f32>> {
        if rows.is_empty() {
            return Ok(vec![]);
        }
        let units = units_of(&milan.critics, &milan.standard(&inside[site].features(rows)?)?)?;
        Ok(mean_score(&milan.critics, &units, &text)?.squeeze(1)?.to_vec1()?)
    };
    let scores = [score(0, own)?, score(1, &beside)?].concat();
    let truth: Vec<bool> = (0..scores.len()).map(|it| it < own.len()).collect();
    Ok(auroc(&scores, &truth))
}

/// Which units ought to be found.
#[derive(Clone, Copy)]
enum Truth {
    /// The 2 % that overlap most.
    Most,
    /// Those that overlap by more than a [detector](DETECTOR) does.
    Detectors,
}

impl Truth {
    fn name(self) -> &'static str {
        match self {
            Truth::Most => "top 2 %",
            Truth::Detectors => "above .04",
        }
    }

    fn of(self, ious: &[f32]) -> Vec<bool> {
        let least = match self {
            Truth::Most => {
                let mut order = ious.to_vec();
                order.sort_by(|a, b| b.total_cmp(a));
                order[ious.len() / 50]
            }
            Truth::Detectors => DETECTOR,
        };
        ious.iter().map(|it| least < *it).collect()
    }
}

/// Some of the parts of the pictures, a bit each.
type Parts = usize;
const ALL: Parts = (1 << PARTS) - 1;

/// Every half, in ascending order.
fn halves() -> impl Iterator<Item = Parts> {
    (0..=ALL).filter(|it| it.count_ones() as usize == PARTS / 2)
}

/// For each unit, the intersection over union of where it fires with the regions of a name.
fn ious(all: &[Pixels], name: usize, parts: Parts) -> Vec<f32> {
    let is_meant = |(at, _): &(usize, &Pixels)| parts >> at & 1 == 1;
    let parts: Vec<&Pixels> = all.iter().enumerate().filter(is_meant).map(|it| it.1).collect();
    let area: usize = parts.iter().map(|it| it.regions[name]).sum();
    let iou = |unit: usize| {
        let both: usize = parts.iter().map(|it| it.units[unit].within[name]).sum();
        let fires: usize = parts.iter().map(|it| it.units[unit].all).sum();
        both as f32 / (fires + area - both).max(1) as f32
    };
    (0..all[0].units.len()).map(iou).collect()
}
