//! Where the units of a network fire, in pixels, and how much of it is within named regions.

use std::collections::BTreeMap;

use anyhow::Context;
use candle_core::DType;
use rayon::prelude::*;

use super::regions::Regions;
use crate::Progress;
use crate::data::Loader;
use crate::exemplars::{SiteExemplars, mask};
use crate::model::run::{Network, Record, as_maps};
use crate::pass::Probe;

/// Pictures that are run together.
const BATCH: usize = 32;

/// Of each of some pictures, in ascending order, the names in it, by their place, each with the union of its regions. `names`
/// are names, or what else regions belong to, with their regions.
pub fn places(
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

/// Pixels of some pictures.
#[derive(Clone)]
pub struct Pixels {
    pub units: Vec<UnitPixels>,
    /// By name: those of its regions, and those of all pictures that it is in.
    pub regions: Vec<usize>,
    pub pictures: Vec<usize>,
}

/// Pixels where a unit fires.
#[derive(Clone)]
pub struct UnitPixels {
    pub all: usize,
    /// By name: those within its regions, and those in the pictures that it is in.
    pub within: Vec<usize>,
    pub around: Vec<usize>,
}

impl Pixels {
    fn none(n_units: usize, n_names: usize) -> Pixels {
        let none = vec![0; n_names];
        let unit = UnitPixels { all: 0, within: none.clone(), around: none.clone() };
        Pixels { units: vec![unit; n_units], regions: none.clone(), pictures: none }
    }

    /// Counts where the units of some sites fire, above their thresholds, in the pictures of `probe`, on which `places`
    /// lie; every `n_parts`th picture from each of the first ones on makes a part.
    pub fn count(
        network: &Network,
        probe: &Probe,
        sites: &[SiteExemplars],
        places: &[BTreeMap<usize, Vec<bool>>],
        (n_names, n_parts): (usize, usize),
        progress: Progress<'_>,
    ) -> anyhow::Result<Vec<Pixels>> {
        let side = places.iter().flatten().next().map_or(1, |(_, it)| it.len().isqrt());
        let graph = network.graph();
        let node = |it: &SiteExemplars| {
            graph.find(&it.site).with_context(|| format!("the network has no layer `{}`", it.site))
        };
        let nodes = sites.iter().map(node).collect::<anyhow::Result<Vec<_>>>()?;
        let n_units: usize = sites.iter().map(|it| it.n_units).sum();
        let mut parts = vec![Pixels::none(n_units, n_names); n_parts];
        for batch in Loader::new(&probe.dataset, &probe.preprocess, BATCH) {
            let batch = batch?;
            progress("regions", batch.ids[0], places.len())?;
            for &picture in &batch.ids {
                let part = &mut parts[picture % n_parts];
                for (&name, region) in &places[picture] {
                    part.regions[name] += region.iter().filter(|it| **it).count();
                    part.pictures[name] += region.len();
                }
            }
            let mut record = Record::unclamped(nodes.iter().copied());
            network.run(&batch.xs, &mut record)?;
            let mut first = 0;
            for (site, &node) in sites.iter().zip(&nodes) {
                let maps = as_maps(graph.node(node), &record.get(node)?)?;
                let maps = maps.to_dtype(DType::F16)?;
                let (_, c, h, w) = maps.dims4()?;
                let maps = maps.flatten_all()?.to_vec1::<half::f16>()?;
                for (maps, &picture) in maps.chunks(c * h * w).zip(&batch.ids) {
                    let own = &mut parts[picture % n_parts].units[first..first + c];
                    let maps = maps.par_chunks(h * w).zip(&site.thresholds);
                    maps.zip(own).for_each(|((map, &threshold), unit)| {
                        unit.add(&mask(map, (h, w), threshold, side), &places[picture]);
                    });
                }
                first += c;
            }
        }
        progress("regions", places.len(), places.len())?;
        Ok(parts)
    }
}

impl UnitPixels {
    /// Takes in where the unit fires in a picture.
    fn add(&mut self, mask: &[bool], places: &BTreeMap<usize, Vec<bool>>) {
        let n = mask.iter().filter(|it| **it).count();
        self.all += n;
        for (&name, region) in places {
            self.around[name] += n;
            self.within[name] += mask.iter().zip(region).filter(|(a, b)| **a && **b).count();
        }
    }
}
