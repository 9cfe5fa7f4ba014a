//! The features of every exemplar of every unit: each picture goes through the encoder once.

use candle_core::{Device, Tensor};
use half::f16;
use rayon::prelude::*;

use super::encoder::{Encoder, Region};
use crate::data::{
    Dataset, Preprocess,
    preprocess::{normalise, square},
    read_crop,
};
use crate::exemplars::SiteExemplars;
use crate::{Progress, inconclusive};
use image::RgbImage;

/// Pictures that go through the encoder together.
const BATCH: usize = 16;
const STAGE: &str = "looking at exemplars";

/// Where units fire: in which pictures, and where in them.
pub trait Fires: Sync {
    /// Of the layer.
    fn name(&self) -> &str;
    fn n_units(&self) -> usize;
    /// Pictures of each unit.
    fn k(&self) -> usize;
    fn picture(&self, unit: usize, rank: usize) -> usize;
    /// `(side, side)`
    fn mask(&self, unit: usize, rank: usize, side: usize) -> anyhow::Result<Vec<bool>>;
}

impl Fires for SiteExemplars {
    fn name(&self) -> &str {
        &self.site
    }

    fn n_units(&self) -> usize {
        self.n_units
    }

    fn k(&self) -> usize {
        self.k
    }

    fn picture(&self, unit: usize, rank: usize) -> usize {
        self.ids(unit)[rank]
    }

    fn mask(&self, unit: usize, rank: usize, side: usize) -> anyhow::Result<Vec<bool>> {
        Ok(SiteExemplars::mask(self, unit, rank, side))
    }
}

impl<T: Fires + ?Sized> Fires for &T {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn n_units(&self) -> usize {
        (**self).n_units()
    }

    fn k(&self) -> usize {
        (**self).k()
    }

    fn picture(&self, unit: usize, rank: usize) -> usize {
        (**self).picture(unit, rank)
    }

    fn mask(&self, unit: usize, rank: usize, side: usize) -> anyhow::Result<Vec<bool>> {
        (**self).mask(unit, rank, side)
    }
}

/// Pictures by number, cut as the audited network saw them: masks lie on that crop.
pub trait Crops: Sync {
    fn n_pictures(&self) -> usize;
    fn crop(&self, id: usize) -> anyhow::Result<RgbImage>;
}

impl<T: Crops + ?Sized> Crops for &T {
    fn n_pictures(&self) -> usize {
        (**self).n_pictures()
    }

    fn crop(&self, id: usize) -> anyhow::Result<RgbImage> {
        (**self).crop(id)
    }
}

/// The pictures of a data set, and how the audited network saw them.
#[derive(Debug, Clone, Copy)]
pub struct Pictures<'a> {
    pub dataset: &'a Dataset,
    pub preprocess: &'a Preprocess,
}

impl Crops for Pictures<'_> {
    fn n_pictures(&self) -> usize {
        self.dataset.pictures.len()
    }

    fn crop(&self, id: usize) -> anyhow::Result<RgbImage> {
        read_crop(self.dataset, self.preprocess, id)
    }
}

/// Places all over a picture, to compare those with where a unit fires: the cells of a grid, row after row.
pub const N_PLACES: usize = PLACES_PER_SIDE * PLACES_PER_SIDE;
const PLACES_PER_SIDE: usize = 4;

/// The mask `(side, side)` of one of the [`N_PLACES`] places of a picture.
fn place(at: usize, side: usize) -> Vec<bool> {
    let (row, column) = (at / PLACES_PER_SIDE, at % PLACES_PER_SIDE);
    let cell = |pixel: usize| pixel * PLACES_PER_SIDE / side;
    (0..side * side).map(|it| cell(it / side) == row && cell(it % side) == column).collect()
}

/// The places of some pictures, each picture as if it were a unit.
pub struct Places {
    pub pictures: Vec<usize>,
}

impl Places {
    /// Of all the pictures that some units fire in.
    pub fn of(pictures: &[Vec<usize>]) -> Places {
        let mut pictures = pictures.concat();
        pictures.sort_unstable();
        pictures.dedup();
        Places { pictures }
    }
}

impl Fires for Places {
    fn name(&self) -> &str {
        "places"
    }

    fn n_units(&self) -> usize {
        self.pictures.len()
    }

    fn k(&self) -> usize {
        N_PLACES
    }

    fn picture(&self, unit: usize, _: usize) -> usize {
        self.pictures[unit]
    }

    fn mask(&self, _: usize, rank: usize, side: usize) -> anyhow::Result<Vec<bool>> {
        Ok(place(rank, side))
    }
}

/// Told of the places of some pictures: the pictures, and features `(pictures, N_PLACES, features)`.
pub type TakePlaces<'a> = &'a mut dyn FnMut(&[usize], &[f32]) -> anyhow::Result<()>;

/// What an encoder's pictures are like.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Input {
    /// Of a picture, in pixels.
    pub side: u32,
    /// Of each colour, in 0..=1.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// The features of the units of one site.
pub struct Seen {
    pub n_units: usize,
    pub k: usize,
    pub n_features: usize,
    /// `(units, k, features)`
    features: Vec<f16>,
    /// `(units, k)`: the share of the picture that the mask covers.
    areas: Vec<f32>,
}

impl Seen {
    pub fn new(n_units: usize, k: usize, n_features: usize) -> Seen {
        let features = vec![f16::ZERO; n_units * k * n_features];
        Seen { n_units, k, n_features, features, areas: vec![0.; n_units * k] }
    }

    /// The features of some units, `(n, k, features)`.
    pub fn features(&self, units: &[usize]) -> candle_core::Result<Tensor> {
        let size = self.k * self.n_features;
        let values: Vec<f32> = units
            .iter()
            .flat_map(|unit| self.features[unit * size..][..size].iter().map(|it| it.to_f32()))
            .collect();
        Tensor::from_vec(values, (units.len(), self.k, self.n_features), &Device::Cpu)
    }

    /// The mean share of its pictures that a unit's masks cover.
    pub fn area(&self, unit: usize) -> f32 {
        self.areas[unit * self.k..][..self.k].iter().sum::<f32>() / self.k as f32
    }

    /// Features and area of one exemplar.
    pub fn set(&mut self, unit: usize, rank: usize, features: &[f32], area: f32) {
        let place = unit * self.k + rank;
        let row = &mut self.features[place * self.n_features..][..self.n_features];
        row.iter_mut().zip(features).for_each(|(it, value)| *it = f16::from_f32(*value));
        self.areas[place] = area;
    }

    pub fn parts(&self) -> (&[f16], &[f32]) {
        (&self.features, &self.areas)
    }

    pub fn from_parts(shape: [usize; 3], features: Vec<f16>, areas: Vec<f32>) -> Option<Seen> {
        let [n_units, k, n_features] = shape;
        let fits = features.len() == n_units * k * n_features && areas.len() == n_units * k;
        fits.then_some(Seen { n_units, k, n_features, features, areas })
    }
}

/// Looks at every exemplar of some sites, one answer a site.
pub fn look(
    encoder: &Encoder,
    input: &Input,
    sites: &[impl Fires],
    pictures: &impl Crops,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Seen>> {
    look_around(encoder, input, sites, pictures, None, progress)
}

/// As [`look`], and also at the places of each picture that is looked at.
pub fn look_around(
    encoder: &Encoder,
    input: &Input,
    sites: &[impl Fires],
    pictures: &impl Crops,
    mut places: Option<TakePlaces<'_>>,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Seen>> {
    let n = pictures.n_pictures();
    let mut wanted: Vec<Vec<(usize, usize, usize)>> = vec![vec![]; n];
    for (site, exemplars) in sites.iter().enumerate() {
        for unit in 0..exemplars.n_units() {
            for rank in 0..exemplars.k() {
                let id = exemplars.picture(unit, rank);
                let picture = wanted.get_mut(id).ok_or_else(|| {
                    inconclusive!(
                        "{}:{unit} fires on picture {id}, but there are {n}; other pictures than the \
                         exemplars count?",
                        exemplars.name()
                    )
                })?;
                picture.push((site, unit, rank));
            }
        }
    }
    let mut seen: Vec<Seen> =
        sites.iter().map(|it| Seen::new(it.n_units(), it.k(), encoder.n_features())).collect();
    let ids: Vec<usize> = (0..n).filter(|&id| !wanted[id].is_empty()).collect();
    let (side, n_distinct) = (input.side as usize, ids.len());
    for (done, ids) in ids.chunks(BATCH).enumerate() {
        progress(STAGE, done * BATCH, n_distinct)?;
        let xs = normalised(input, pictures, ids)?;
        let maps = encoder.maps(&xs)?;
        let regions = ids
            .par_iter()
            .enumerate()
            .flat_map(|(picture, &id)| wanted[id].par_iter().map(move |&it| (picture, it)))
            .map(|(picture, (site, unit, rank))| {
                let mask = sites[site].mask(unit, rank, side)?;
                Ok((Region { picture, mask }, (site, unit, rank)))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let (regions, exemplars): (Vec<Region>, Vec<_>) = regions.into_iter().unzip();
        let features = encoder.features(&maps, &regions)?;
        let rows = features.chunks(encoder.n_features());
        for ((region, (site, unit, rank)), row) in regions.iter().zip(exemplars).zip(rows) {
            let n_inside = region.mask.iter().filter(|it| **it).count();
            seen[site].set(unit, rank, row, n_inside as f32 / region.mask.len() as f32);
        }
        if let Some(take) = &mut places {
            let all = |picture| (0..N_PLACES).map(move |at| (picture, at));
            let regions: Vec<Region> = (0..ids.len())
                .flat_map(all)
                .map(|(picture, at)| Region { picture, mask: place(at, side) })
                .collect();
            take(ids, &encoder.features(&maps, &regions)?)?;
        }
    }
    progress(STAGE, n_distinct, n_distinct)?;
    Ok(seen)
}

/// Some pictures as the encoder reads them, `(n, 3, side, side)`.
pub fn normalised(input: &Input, pictures: &impl Crops, ids: &[usize]) -> anyhow::Result<Tensor> {
    let side = input.side as usize;
    let mut values = vec![0f32; ids.len() * 3 * side * side];
    ids.par_iter().zip(values.par_chunks_exact_mut(3 * side * side)).try_for_each(
        |(&id, values)| {
            let crop = square(&pictures.crop(id)?, input.side)?;
            normalise(&crop, &input.mean, &input.std, values);
            anyhow::Ok(())
        },
    )?;
    Ok(Tensor::from_vec(values, (ids.len(), 3, side, side), &Device::Cpu)?)
}
