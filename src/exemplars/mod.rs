//! What each unit fires on: its top pictures, where in them, and the level above which it counts as firing.
//!
//! Hernandez et al. 2022, section 3: the exemplars of a unit are the regions of its `k` most exciting
//! pictures where it is above its 0.99 quantile over all positions of all pictures. All of it comes from
//! one pass; memory grows with units × k, never with the number of pictures.

pub mod export;
pub mod mask;
pub mod quantile;
pub mod store;

mod topk;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::unit::Unit;
use crate::{inconclusive, usage};
use quantile::Sketch;
use topk::TopK;

pub use mask::mask;

/// How many pictures a unit keeps, and at which quantile its masks are cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    pub top_k: usize,
    /// In 0..1.
    pub quantile: f64,
}

impl Config {
    pub fn check(&self) -> anyhow::Result<()> {
        if self.top_k == 0 {
            return Err(usage!("--top-k wants at least 1"));
        }
        if !(0.0..1.0).contains(&self.quantile) || self.quantile == 0. {
            return Err(usage!("--quantile wants a share between 0 and 1, not {}", self.quantile));
        }
        Ok(())
    }
}

/// What one site's units fire on, gathered picture by picture.
#[derive(Debug, Clone)]
pub struct Gather {
    site: String,
    config: Config,
    units: Vec<(TopK, Sketch)>,
    map: (usize, usize),
    n_pictures: usize,
}

impl Gather {
    pub fn new(site: &str, config: Config) -> Gather {
        Gather { site: site.to_owned(), config, units: vec![], map: (0, 0), n_pictures: 0 }
    }

    /// Takes the site's output for some pictures, `(n, c, h, w)`, and their ids.
    ///
    /// Errs on values that are NaN, and on maps of another size than before.
    pub fn add(&mut self, ys: &Tensor, ids: &[usize]) -> anyhow::Result<()> {
        let (n, c, h, w) = ys.dims4()?;
        anyhow::ensure!(n == ids.len(), "{n} outputs came with {} picture ids", ids.len());
        if self.n_pictures == 0 {
            self.units = vec![(TopK::default(), Sketch::default()); c];
            self.map = (h, w);
        }
        anyhow::ensure!(
            (self.units.len(), self.map) == (c, (h, w)),
            "`{}` changed its shape from {:?} to {:?}",
            self.site,
            (self.units.len(), self.map),
            (c, (h, w))
        );
        let values = ys.flatten_all()?.to_vec1::<f32>()?;
        let (k, site) = (self.config.top_k, &self.site);
        self.units.par_iter_mut().enumerate().try_for_each(|(unit, (top, sketch))| {
            for (picture, &id) in ids.iter().enumerate() {
                let map = &values[(picture * c + unit) * h * w..][..h * w];
                let Some(greatest) = greatest(map) else {
                    return Err(inconclusive!(
                        "unit {site}:{unit} is NaN on picture {id}; the weights overflow"
                    ));
                };
                top.offer(k, id, greatest, map);
                sketch.extend(map);
            }
            Ok(())
        })?;
        self.n_pictures += n;
        Ok(())
    }

    /// Adds what was gathered from other pictures, at the same site in the same way.
    pub fn merge(&mut self, other: Gather) -> anyhow::Result<()> {
        if self.n_pictures == 0 {
            *self = other;
            return Ok(());
        }
        if other.n_pictures == 0 {
            return Ok(());
        }
        anyhow::ensure!(
            (&self.site, self.config, self.map) == (&other.site, other.config, other.map),
            "what was gathered at `{}` and at `{}` does not belong together",
            self.site,
            other.site
        );
        self.n_pictures += other.n_pictures;
        self.units.par_iter_mut().zip(other.units).for_each(
            |((top, sketch), (other_top, other_sketch))| {
                top.merge(self.config.top_k, other_top);
                sketch.merge(other_sketch);
            },
        );
        Ok(())
    }

    /// Reads everything out. Errs with fewer pictures than a unit is to keep.
    pub fn finish(self) -> anyhow::Result<SiteExemplars> {
        let k = self.config.top_k;
        if self.n_pictures < k {
            return Err(inconclusive!(
                "{} pictures are too few to keep the best {k} of each unit; add pictures or lower --top-k",
                self.n_pictures
            ));
        }
        let entries = || self.units.iter().flat_map(|(top, _)| top.entries());
        let thresholds: Vec<f32> = self
            .units
            .par_iter()
            .map(|(_, sketch)| sketch.quantile(self.config.quantile).unwrap_or(f32::NAN))
            .collect();
        let is_dead = |sketch: &Sketch| sketch.range().0 == sketch.range().1;
        Ok(SiteExemplars {
            n_units: self.units.len(),
            k,
            map: self.map,
            n_pictures: self.n_pictures,
            ids: entries().map(|entry| entry.picture).collect(),
            activations: entries().map(|entry| entry.activation).collect(),
            maps: entries().flat_map(|entry| entry.map.iter().copied()).collect(),
            thresholds,
            dead: self.units.iter().map(|(_, sketch)| is_dead(sketch)).collect(),
            site: self.site,
        })
    }
}

/// The greatest value; `None` if any is NaN.
fn greatest(values: &[f32]) -> Option<f32> {
    let greatest = values
        .iter()
        .fold(f32::NEG_INFINITY, |most, &value| if most < value { value } else { most });
    // NaN is the only value that makes a sum with itself times zero NaN; infinities are refused alike.
    let finite = values.iter().map(|value| value * 0.).sum::<f32>() == 0.;
    finite.then_some(greatest)
}

/// What the units of one site fire on.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteExemplars {
    pub site: String,
    pub n_units: usize,
    pub k: usize,
    /// Height and width of a unit's map.
    pub map: (usize, usize),
    /// Pictures that were looked at.
    pub n_pictures: usize,
    /// `(units, k)`: picture ids, descending activation.
    pub ids: Vec<usize>,
    /// `(units, k)`: the greatest value over all positions.
    pub activations: Vec<f32>,
    /// `(units, k, h, w)`.
    pub maps: Vec<f32>,
    /// `(units,)`: the activation quantile over all positions of all pictures.
    pub thresholds: Vec<f32>,
    /// `(units,)`: the same value at every position of every picture.
    pub dead: Vec<bool>,
}

impl SiteExemplars {
    /// The picture ids of one unit, best first.
    pub fn ids(&self, unit: usize) -> &[usize] {
        &self.ids[unit * self.k..][..self.k]
    }

    /// The activations of one unit, aligned with [`ids`](SiteExemplars::ids).
    pub fn activations(&self, unit: usize) -> &[f32] {
        &self.activations[unit * self.k..][..self.k]
    }

    /// The map of one unit on its picture of that rank, `(h, w)`.
    pub fn map(&self, unit: usize, rank: usize) -> &[f32] {
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

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const CONFIG: Config = Config { top_k: 3, quantile: 0.9 };

    fn random_maps(n: usize) -> Tensor {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let values: Vec<f32> = (0..n * 2 * 6).map(|_| rng.random_range(-1f32..1.)).collect();
        Tensor::from_vec(values, (n, 2, 2, 3), &Device::Cpu).unwrap()
    }

    #[test]
    fn batches_and_halves_give_what_one_run_gives() {
        let ys = random_maps(20);
        let ids: Vec<usize> = (0..20).collect();
        let mut whole = Gather::new("a", CONFIG);
        whole.add(&ys, &ids).unwrap();
        let mut halves = [Gather::new("a", CONFIG), Gather::new("a", CONFIG)];
        for (start, half) in [(0, 0), (7, 1), (13, 0)] {
            let end = [7, 13, 20].into_iter().find(|&end| start < end).unwrap();
            halves[half].add(&ys.narrow(0, start, end - start).unwrap(), &ids[start..end]).unwrap();
        }
        let [mut merged, second] = halves;
        merged.merge(second).unwrap();
        assert_eq!(whole.finish().unwrap(), merged.finish().unwrap());
    }

    #[test]
    fn a_unit_that_never_changes_is_dead() {
        let mut gather = Gather::new("a", CONFIG);
        gather
            .add(
                &random_maps(5)
                    .broadcast_mul(
                        &Tensor::new(&[1f32, 0.], &Device::Cpu)
                            .unwrap()
                            .reshape((1, 2, 1, 1))
                            .unwrap(),
                    )
                    .unwrap(),
                &[0, 1, 2, 3, 4],
            )
            .unwrap();
        assert_eq!(gather.finish().unwrap().dead, [false, true]);
    }

    #[test]
    fn too_few_pictures_and_nan_are_refused() {
        let mut gather = Gather::new("a", CONFIG);
        gather.add(&random_maps(2), &[0, 1]).unwrap();
        let few = gather.finish().unwrap_err().to_string();
        assert_eq!(
            few,
            "2 pictures are too few to keep the best 3 of each unit; add pictures or lower --top-k"
        );
        let nan = Tensor::new(&[[[[f32::NAN]]]], &Device::Cpu).unwrap();
        let message = Gather::new("a", CONFIG).add(&nan, &[7]).unwrap_err().to_string();
        assert_eq!(message, "unit a:0 is NaN on picture 7; the weights overflow");
    }

    /// 64 units, many pictures: what is kept does not grow with the pictures.
    #[test]
    fn memory_is_bounded_by_units_and_not_by_pictures() {
        let mut gather = Gather::new("a", Config { top_k: 15, quantile: 0.99 });
        let ys = Tensor::rand(0f32, 1f32, (50, 64, 7, 7), &Device::Cpu).unwrap();
        let n_bytes = |gather: &Gather| {
            gather.units.iter().map(|(_, sketch)| sketch.n_bytes()).sum::<usize>()
        };
        let mut seen = vec![];
        for round in 0..200 {
            let ids: Vec<usize> = (round * 50..round * 50 + 50).collect();
            gather.add(&ys, &ids).unwrap();
            if round == 50 || round == 199 {
                seen.push(n_bytes(&gather));
            }
        }
        assert!(seen[1] <= 64 * (160 << 10) && seen[1] < 2 * seen[0], "{seen:?}");
        assert!(gather.units.iter().all(|(top, _)| top.entries().len() == 15));
    }
}
