//! What each unit fires on: its top pictures, where in them, and the level above which it counts as firing.
//!
//! Hernandez et al. 2022, section 3: the exemplars of a unit are the regions of its `k` most exciting
//! pictures where it is above its 0.99 quantile over all positions of all pictures. All of it comes from
//! one pass; memory is bounded by units × k, however many they are.

pub mod export;
pub mod mask;
pub mod spread;
pub mod store;
pub mod strip;
pub mod tail;

mod buckets;
mod gather;
mod maps;
mod on_device;
mod topk;

use half::f16;

use crate::unit::Unit;
use crate::usage;
use topk::Kept;

pub use gather::Gather;
pub use mask::mask;

/// The most pictures that a unit may keep: the maps of all of them are in memory.
const MAX_TOP_K: usize = 1000;

/// How many pictures a unit keeps, and at which quantile its masks are cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    pub top_k: usize,
    /// In 0..1.
    pub quantile: f64,
    /// Whether each unit also keeps as many pictures in which it fires at [places drawn at random](spread), and
    /// the seed of the draw.
    pub spread: Option<u64>,
    /// The most pictures of one group of near-duplicates that a unit keeps; 0 is no limit.
    pub max_near_duplicates: usize,
}

/// Those of Hernandez et al. 2022, but that near-duplicates count once.
impl Default for Config {
    fn default() -> Config {
        Config { top_k: 15, quantile: 0.99, spread: None, max_near_duplicates: 1 }
    }
}

impl Config {
    pub fn check(&self) -> anyhow::Result<()> {
        if !(1..=MAX_TOP_K).contains(&self.top_k) {
            return Err(usage!("--top-k wants 1 to {MAX_TOP_K} pictures, not {}", self.top_k));
        }
        if !(self.quantile > 0. && self.quantile < 1.) {
            return Err(usage!("--quantile wants a share between 0 and 1, not {}", self.quantile));
        }
        Ok(())
    }
}

/// A picture, and what tells it from others whatever it is called and wherever it stands among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureKey {
    /// Its place in the data set.
    pub id: usize,
    /// A hash of what it shows.
    pub content: u64,
    /// The same number as that of its near-duplicates.
    pub group: usize,
}

impl PictureKey {
    /// A picture of which nothing but its place is known.
    pub fn numbered(id: usize) -> PictureKey {
        PictureKey { id, content: id as u64, group: id }
    }
}

/// What the units of one site fire on.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteExemplars {
    pub site: String,
    pub n_units: usize,
    pub k: usize,
    /// The quantile that the thresholds are, in 0..1.
    pub quantile: f64,
    /// Height and width of a unit's map.
    pub map: (usize, usize),
    /// Pictures that were looked at.
    pub n_pictures: usize,
    /// `(units, k)`: picture ids, descending activation; of equal ones first where the map's mean is higher.
    pub ids: Vec<usize>,
    /// `(units, k)`: the greatest value over all positions, before an upper clamp that the site ends in.
    pub activations: Vec<f32>,
    /// `(units, k, h, w)`: in half precision as on disk, so that a mask is the same from either.
    pub maps: Vec<f16>,
    /// `(units,)`: the activation quantile over all positions of all pictures.
    pub thresholds: Vec<f32>,
    /// `(units,)`: the same value at every position of every picture.
    pub dead: Vec<bool>,
    /// `(units,)`: not dead, and its pictures cannot be ranked, as all that were kept are equally strong, or nothing is
    /// above its threshold.
    pub saturated: Vec<bool>,
}

impl SiteExemplars {
    /// Takes in the next picture of a unit, with its activation and its map.
    fn push(&mut self, kept: Kept<'_>) {
        self.ids.push(kept.picture.id);
        self.activations.push(kept.activation);
        self.maps.extend_from_slice(kept.map);
    }

    /// The picture ids of one unit, best first.
    pub fn ids(&self, unit: usize) -> &[usize] {
        &self.ids[unit * self.k..][..self.k]
    }

    /// The activations of one unit, aligned with [`ids`](SiteExemplars::ids).
    pub fn activations(&self, unit: usize) -> &[f32] {
        &self.activations[unit * self.k..][..self.k]
    }

    /// The map of one unit on its picture of that rank, `(h, w)`.
    pub fn map(&self, unit: usize, rank: usize) -> &[f16] {
        let n = self.map.0 * self.map.1;
        &self.maps[(unit * self.k + rank) * n..][..n]
    }

    /// Where the unit fires in its picture of that rank, `(side, side)`.
    pub fn mask(&self, unit: usize, rank: usize, side: usize) -> Vec<bool> {
        mask(self.map(unit, rank), self.map, self.thresholds[unit], side)
    }
}

/// What the units of several sites fire on, in the order of the network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exemplars {
    pub sites: Vec<SiteExemplars>,
    /// Of the same sites, where they were asked for, the pictures in which units fire at [places drawn at
    /// random](spread); `activations` are those at the places.
    pub spread: Vec<SiteExemplars>,
}

impl Exemplars {
    /// Every unit, site by site.
    pub fn units(&self) -> impl Iterator<Item = Unit> {
        self.sites
            .iter()
            .flat_map(|site| (0..site.n_units).map(|channel| Unit::new(&site.site, channel)))
    }

    pub fn n_units(&self) -> usize {
        self.sites.iter().map(|site| site.n_units).sum()
    }

    pub fn site(&self, name: &str) -> Option<&SiteExemplars> {
        self.sites.iter().find(|site| site.site == name)
    }
}
