//! Whether the evidence for a name finds the units that fire where things of that name are.
//!
//! Overlap is intersection over union of a unit's masks with the regions of a name, summed over pictures
//! (Bau et al. 2017, <https://arxiv.org/abs/1704.05796>, section 2.3). Thresholds, evidence and overlap are all
//! of the same pictures: those with regions that training did not see.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use candle_core::Device;
use rayon::prelude::*;
use serde::Serialize;

use super::features::Looker;
use super::measures::{auroc, average_precision, mean};
use super::regions::Regions;
use super::source::Source;
use crate::Progress;
use crate::data::preprocess::Resize;
use crate::data::{Loader, Preprocess};
use crate::describe::milan::Milan;
use crate::describe::milan::look::Pictures;
use crate::exemplars::{self, SiteExemplars, mask};
use crate::model::Model;
use crate::model::run::{Ablate, Network, Record, as_maps};
use crate::pass::{self, Probe, Settings};
use crate::weights::Weights;
use crate::{subject, usage};

/// The critic's evidence against where units fire.
#[derive(Debug, Serialize)]
pub struct Overlap {
    pub network: String,
    pub phrase: String,
    /// Regions of that name, and the most that a unit overlaps with them.
    pub regions: usize,
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

/// Names with fewer regions say too little.
const LEAST_REGIONS: usize = 5;
/// A detector of a name, as Bau et al. 2017 count them.
const DETECTOR: f32 = 0.04;
/// Of the pictures; every three are a half.
const PARTS: usize = 6;
/// Pictures of each unit, as many as in an audit.
const TOP_K: usize = 15;
const BATCH: usize = 32;

/// For every name, how well evidence finds the 2 % of units that overlap most with its regions, and those
/// that overlap by more than .04.
pub fn overlap(
    milan: &Milan,
    looker: &Looker<'_>,
    source: &Source,
    against: &Against,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Overlap>> {
    let regions = Regions::named(&against.regions)?;
    let seen_pictures: BTreeSet<usize> = (0..regions.keys.len())
        .filter(|&it| milan.seen.contains(&regions.keys[it]))
        .map(|it| regions.picture(it))
        .collect();
    let names = regions.by_name(|it| !seen_pictures.contains(&regions.picture(it)));
    let ids: BTreeSet<usize> = names.values().flatten().map(|it| regions.picture(*it)).collect();
    let names: Vec<(&str, Vec<usize>)> =
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
    let (mut dataset, _, own) = regions.pictures(source)?;
    let ids: Vec<usize> = ids.into_iter().collect();
    dataset
        .only(&ids)
        .map_err(|id| usage!("the regions speak of picture {id}, which is not there"))?;

    let weights = Weights::open(&against.network)?;
    let model = Model::load(&weights, None, &Device::Cpu)?;
    let sites = subject::sites(model.graph(), &against.layers)?;
    let mut preprocess = Preprocess::of(&model.arch);
    if let Resize::Exact(_) = own.resize {
        preprocess.resize = Resize::Exact(preprocess.crop); // Masks lie on the whole picture.
    }
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
    let fires = Fires::count(&model.network, &probe, &found, &places, names.len(), progress)?;

    let phrases: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    let scores = milan.scores(&seen, &phrases)?;
    let mut overlaps = vec![];
    for (name, (phrase, places)) in names.iter().enumerate() {
        let scores: Vec<f32> = scores.iter().map(|it| it[name]).collect();
        let ious = fires.ious(name, ALL);
        let halves: Vec<_> = halves().map(|it| fires.ious(name, it)).collect();
        // The other half of each is as far from the end.
        let halves = || halves.iter().zip(halves.iter().rev());
        for truth in [Truth::Most, Truth::Detectors] {
            let wanted = truth.of(&ious);
            let by_evidence = halves().map(|(half, _)| auroc(&scores, &truth.of(half)));
            let by_other = halves().map(|(half, other)| auroc(other, &truth.of(half)));
            overlaps.push(Overlap {
                network: model.arch.clone(),
                phrase: (*phrase).to_owned(),
                regions: places.len(),
                best: ious.iter().fold(0., |a, b| a.max(f64::from(*b))),
                truth: truth.name(),
                units_true: wanted.iter().filter(|it| **it).count(),
                auroc: auroc(&scores, &wanted),
                average_precision: average_precision(&scores, &wanted),
                auroc_half: mean(by_evidence),
                auroc_other_half: mean(by_other),
            });
        }
    }
    Ok(overlaps)
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

/// Of each picture the names in it, each with the union of its regions.
fn places(
    regions: &Regions,
    ids: &[usize],
    names: &[(&str, Vec<usize>)],
) -> Vec<BTreeMap<usize, Vec<bool>>> {
    let side = regions.masks.map.0;
    let mut places = vec![BTreeMap::<usize, Vec<bool>>::new(); ids.len()];
    for (name, (_, own)) in names.iter().enumerate() {
        for &region in own {
            let Ok(picture) = ids.binary_search(&regions.picture(region)) else { continue };
            let union = places[picture].entry(name).or_insert_with(|| vec![false; side * side]);
            let mask = regions.masks.mask(region, 0, side);
            union.iter_mut().zip(mask).for_each(|(it, inside)| *it |= inside);
        }
    }
    places
}

/// Where units fire, in pixels, for each part of the pictures.
struct Fires(Vec<Pixels>);

#[derive(Clone)]
struct Pixels {
    /// For each unit where it fires at all, and where it does within each name.
    units: Vec<(usize, Vec<usize>)>,
    /// Of each name.
    areas: Vec<usize>,
}

impl Fires {
    fn count(
        network: &Network,
        probe: &Probe,
        sites: &[SiteExemplars],
        places: &[BTreeMap<usize, Vec<bool>>],
        n_names: usize,
        progress: Progress<'_>,
    ) -> anyhow::Result<Fires> {
        let side = places.iter().flatten().next().map_or(1, |(_, it)| it.len().isqrt());
        let graph = network.graph();
        let nodes: Vec<_> = sites.iter().filter_map(|it| graph.find(&it.site)).collect();
        let n_units: usize = sites.iter().map(|it| it.n_units).sum();
        let none = Pixels { units: vec![(0, vec![0; n_names]); n_units], areas: vec![0; n_names] };
        let mut parts = vec![none; PARTS];
        for (picture, places) in places.iter().enumerate() {
            for (&name, region) in places {
                parts[picture % PARTS].areas[name] += region.iter().filter(|it| **it).count();
            }
        }
        for batch in Loader::new(&probe.dataset, &probe.preprocess, BATCH) {
            let batch = batch?;
            progress("overlap", batch.ids[0], places.len())?;
            let mut record = Record::new(nodes.iter().copied());
            network.run(&batch.xs, &mut record)?;
            let mut first = 0;
            for (site, &node) in sites.iter().zip(&nodes) {
                let maps = as_maps(graph.node(node), &record.get(node)?)?;
                let maps = maps.to_dtype(candle_core::DType::F16)?;
                let (_, c, h, w) = maps.dims4()?;
                let maps = maps.flatten_all()?.to_vec1::<half::f16>()?;
                for (maps, &picture) in maps.chunks(c * h * w).zip(&batch.ids) {
                    let own = &mut parts[picture % PARTS].units[first..first + c];
                    let maps = maps.par_chunks(h * w).zip(&site.thresholds);
                    maps.zip(own).for_each(|((map, &threshold), (fires, within))| {
                        let mask = mask(map, (h, w), threshold, side);
                        *fires += mask.iter().filter(|it| **it).count();
                        for (&name, region) in &places[picture] {
                            let both = mask.iter().zip(region).filter(|(a, b)| **a && **b);
                            within[name] += both.count();
                        }
                    });
                }
                first += c;
            }
        }
        progress("overlap", places.len(), places.len())?;
        Ok(Fires(parts))
    }

    /// For each unit, the intersection over union of where it fires with the regions of a name.
    fn ious(&self, name: usize, parts: Parts) -> Vec<f32> {
        let parts: Vec<&Pixels> = self
            .0
            .iter()
            .enumerate()
            .filter(|(at, _)| parts >> at & 1 == 1)
            .map(|it| it.1)
            .collect();
        let area: usize = parts.iter().map(|it| it.areas[name]).sum();
        let iou = |unit: usize| {
            let both: usize = parts.iter().map(|it| it.units[unit].1[name]).sum();
            let fires: usize = parts.iter().map(|it| it.units[unit].0).sum();
            both as f32 / (fires + area - both).max(1) as f32
        };
        (0..self.0[0].units.len()).map(iou).collect()
    }
}
