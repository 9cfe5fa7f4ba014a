//! What a site's units fire on, gathered picture by picture in bounded memory.

use anyhow::{Context, bail, ensure};
use candle_core::Tensor;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::maps::{Maps, flat, mean};
use super::on_device::{self, Fetched};
use super::spread::{cell, places};
use super::tail::Tail;
use super::topk::{Kept, TopK};
use super::{Config, PictureKey, SiteExemplars};
use crate::model::engine::{Blocks, Survey};
use crate::unit::Unit;
use crate::{inconclusive, usage};

/// What one site's units fire on, as far as the pictures were seen.
///
/// Its memory is bounded by units times `top_k` maps and by about 512 KB a unit for its quantile, which is exact
/// up to six million values. Pictures may be gathered in parts, by several `Gather`s over disjoint
/// pictures, and [merged](Gather::merge).
#[derive(Debug, Clone)]
pub struct Gather {
    site: String,
    config: Config,
    /// At most so many pictures come, those of all parts together.
    n_expected: usize,
    /// Channels, height and width, once a picture was seen.
    shape: Option<(usize, usize, usize)>,
    n_pictures: usize,
    units: Vec<Seen>,
}

/// What one unit showed.
#[derive(Debug, Clone)]
struct Seen {
    top: TopK,
    /// Ranked by the value at places drawn at random.
    spread: TopK,
    tail: Tail,
}

impl Gather {
    /// At most `n_expected` pictures will come, those of all parts together.
    pub fn new(site: &str, config: Config, n_expected: usize) -> Gather {
        Gather { site: site.into(), config, n_expected, shape: None, n_pictures: 0, units: vec![] }
    }

    /// Takes in the site's output `ys`, `(n, c, h, w)` or `(n, c)`, on `n` pictures.
    pub fn add(&mut self, ys: &Tensor, pictures: &[PictureKey]) -> anyhow::Result<()> {
        let ys = match ys.rank() {
            4 => ys.clone(),
            2 => ys.unsqueeze(2)?.unsqueeze(3)?,
            _ => bail!(
                "`{}` gives {:?}; wanted maps (n, c, h, w) or features (n, c)",
                self.site,
                ys.dims()
            ),
        };
        match ys.device().is_cpu() {
            true => Blocks::of(&ys, |maps| self.see(maps, pictures))?,
            false => self.see_on_device(&ys, pictures),
        }
    }

    /// Takes in the site's maps on some pictures.
    ///
    /// A picture counts once for the exemplars, with its maximum over positions, and with every
    /// position for the thresholds: Hernandez et al. 2022, and `tally_topk_and_quantile` of netdissect. In which
    /// order pictures come makes no difference, nor what they are called.
    /// Errs where a value is NaN or infinite, and where the shape is not the one seen before; what
    /// was gathered is then of no more use.
    pub fn see(&mut self, maps: &Blocks<'_>, pictures: &[PictureKey]) -> anyhow::Result<()> {
        self.begin(maps.dims(), pictures.len())?;
        self.take_in(maps, pictures)
    }

    /// As [`see`](Gather::see), for maps `(n, c, h, w)` on another device: of them only what is asked for is copied.
    pub(super) fn see_on_device(
        &mut self,
        ys: &Tensor,
        pictures: &[PictureKey],
    ) -> anyhow::Result<()> {
        let (n, c, h, w) = ys.dims4()?;
        self.begin((n, c, h, w), pictures.len())?;
        let together = (on_device::TOGETHER / (c * h * w)).max(1);
        for (part, pictures) in pictures.chunks(together).enumerate() {
            let ys = ys.narrow(0, part * together, pictures.len())?;
            let floors: Vec<f32> = self.units.iter().map(|it| it.tail.floor()).collect();
            let cells: Vec<_> = pictures.iter().map(|it| self.cells(it, (h, w))).collect();
            let fetched = Fetched::of(&ys, &floors, &cells, |maps, at, unit, range| {
                let (seen, picture, flat) = (&self.units[unit], pictures[at], flat(range));
                let there = maps.greatest(at, unit, &cells[at]);
                seen.top.takes(picture, range.1, flat)
                    || there.is_some_and(|it| seen.spread.takes(picture, it, flat))
            })?;
            self.take_in(&fetched, pictures)?;
        }
        Ok(())
    }

    /// Errs where maps `(n, c, h, w)` are not what is expected on so many pictures.
    fn begin(
        &mut self,
        (n, c, h, w): (usize, usize, usize, usize),
        n_pictures: usize,
    ) -> anyhow::Result<()> {
        ensure!(n == n_pictures, "`{}` gives {n} outputs for {n_pictures} pictures", self.site);
        self.expect((c, h, w))?;
        ensure!(
            self.n_pictures + n <= self.n_expected,
            "`{}` was to see {} pictures, and more come",
            self.site,
            self.n_expected
        );
        Ok(())
    }

    /// The cells of a picture's maps `(h, w)` in which there is a place drawn at random.
    fn cells(&self, picture: &PictureKey, map: (usize, usize)) -> Vec<(usize, usize)> {
        let Config { top_k, quantile, spread, .. } = self.config;
        let expected = top_k as f64 / (1. - quantile) / self.n_expected.max(1) as f64;
        let places = spread.map_or(vec![], |seed| places(picture.content, expected, seed));
        places.into_iter().map(|place| cell(place, map)).collect()
    }

    fn take_in(&mut self, maps: &impl Maps, pictures: &[PictureKey]) -> anyhow::Result<()> {
        let (n, c, h, w) = maps.dims();
        for (at, &picture) in pictures.iter().enumerate() {
            let cells = self.cells(&picture, (h, w));
            let units = &mut self.units;
            let mut surveyed = Surveyed { units, n_values: h * w, ranges: vec![None; c] };
            maps.survey(at, &mut surveyed);
            for (unit, range) in surveyed.ranges.into_iter().enumerate() {
                let Some(range) = range else {
                    let value = maps.map(at, unit).into_iter().find(|it| !it.is_finite());
                    return Err(inconclusive!(
                        "unit {} is {} on picture {}; the weights overflow, or are damaged",
                        Unit::new(&self.site, unit),
                        value.unwrap_or(f32::NAN),
                        picture.id,
                    ));
                };
                let seen = &mut self.units[unit];
                let mean = || flat(range).unwrap_or_else(|| mean(&maps.map(at, unit)));
                let map = |to: &mut [f16]| to_half(&maps.map(at, unit), to);
                seen.top.offer(picture, range.1, h * w, mean, map);
                if let Some(there) = maps.greatest(at, unit, &cells) {
                    seen.spread.offer(picture, there, h * w, mean, map);
                }
            }
        }
        self.n_pictures += n;
        Ok(())
    }

    /// Takes in what was gathered at the same site on other pictures.
    pub fn merge(&mut self, other: Gather) -> anyhow::Result<()> {
        ensure!(
            self.site == other.site
                && self.config == other.config
                && self.n_expected == other.n_expected,
            "what was gathered at `{}` with {:?} of {} pictures does not merge with `{}`, {:?} of {}",
            self.site,
            self.config,
            self.n_expected,
            other.site,
            other.config,
            other.n_expected,
        );
        let Some(shape) = other.shape else { return Ok(()) };
        self.expect(shape)?;
        self.n_pictures += other.n_pictures;
        self.units.par_iter_mut().zip(other.units).for_each(|(mine, theirs)| {
            mine.top.merge(&theirs.top);
            mine.spread.merge(&theirs.spread);
            mine.tail.merge(theirs.tail);
        });
        Ok(())
    }

    /// The exemplars of every unit, and those at places drawn at random where they were asked for. Errs where
    /// fewer pictures were seen than exemplars are wanted, or fewer are left without near-duplicates.
    pub fn finish(mut self) -> anyhow::Result<(SiteExemplars, Option<SiteExemplars>)> {
        let Config { top_k: k, quantile, spread, max_near_duplicates } = self.config;
        if self.n_pictures < k {
            return Err(inconclusive!(
                "the best {k} pictures of each unit are wanted, and the data has {} in all; add pictures or lower --top-k",
                self.n_pictures
            ));
        }
        let (n_units, h, w) = self.shape.context("no picture was looked at")?;
        // Every unit sees the same pictures.
        let n_left = self.units.iter().map(|seen| seen.top.len()).min().unwrap_or_default();
        if n_left < k {
            return Err(inconclusive!(
                "{} pictures are too few to keep the best {k} of each unit: with --max-near-duplicates {max_near_duplicates} only {n_left} of them differ enough; add other pictures, lower --top-k, or raise that limit (0 is none)",
                self.n_pictures
            ));
        }
        let dead = |seen: &Seen| seen.tail.range().is_none_or(|(low, high)| low == high);
        let dead: Vec<bool> = self.units.iter().map(dead).collect();
        let quantiles = self.units.par_iter_mut().map(|seen| seen.tail.quantile(quantile));
        let thresholds: Vec<f32> = quantiles.collect::<Option<_>>().context("no value was seen")?;
        let units = self.units.iter().zip(&thresholds).zip(&dead);
        let saturated = units.map(|((seen, &threshold), dead)| !dead && seen.saturates(threshold));
        let saturated = saturated.collect();
        let mut found = SiteExemplars {
            n_units,
            k,
            quantile,
            map: (h, w),
            n_pictures: self.n_pictures,
            ids: vec![],
            activations: vec![],
            maps: vec![],
            thresholds,
            dead,
            saturated,
            site: self.site,
        };
        let drawn = spread.map(|_| {
            let mut drawn = found.clone();
            for (seen, &threshold) in self.units.iter().zip(&found.thresholds) {
                seen.spread(k, threshold).for_each(|it| drawn.push(it));
            }
            drawn
        });
        self.units.iter().flat_map(|seen| seen.top.iter()).for_each(|it| found.push(it));
        Ok((found, drawn))
    }

    /// The memory that the thresholds need so far, in bytes, all units together.
    pub fn tail_bytes(&self) -> usize {
        self.units.iter().map(|seen| seen.tail.bytes()).sum()
    }

    /// Settles the shape at the first picture, and holds every other against it.
    fn expect(&mut self, (c, h, w): (usize, usize, usize)) -> anyhow::Result<()> {
        match self.shape {
            Some(shape) => ensure!(
                shape == (c, h, w),
                "`{}` gave {shape:?} on earlier pictures and gives {:?} now",
                self.site,
                (c, h, w)
            ),
            None => {
                self.config.check()?;
                if c * h * w == 0 {
                    return Err(usage!(
                        "`{}` gives an empty map {:?}; give larger pictures or leave the layer out",
                        self.site,
                        (c, h, w)
                    ));
                }
                self.shape = Some((c, h, w));
                let top = TopK::new(self.config.top_k, self.config.max_near_duplicates);
                let tail = Tail::new((self.n_expected * h * w) as u64, self.config.quantile);
                let seen = Seen { spread: top.clone(), top, tail };
                self.units = vec![seen; c];
            }
        }
        Ok(())
    }
}

/// What a survey of one picture fills in.
struct Surveyed<'a> {
    units: &'a mut [Seen],
    n_values: usize,
    /// Of each unit, where all its values are finite, the least and the greatest.
    ranges: Vec<Option<(f32, f32)>>,
}

impl Survey for Surveyed<'_> {
    fn floor(&self, unit: usize) -> f32 {
        self.units[unit].tail.floor()
    }

    fn above(&mut self, unit: usize, values: &[f32]) {
        self.units[unit].tail.extend(values);
    }

    fn range(&mut self, unit: usize, range: Option<(f32, f32)>) {
        if let Some(range) = range {
            self.units[unit].tail.count(self.n_values, range);
            self.ranges[unit] = Some(range);
        }
    }
}

/// Maps are kept in half precision; values beyond its range become its largest.
fn to_half(map: &[f32], to: &mut [f16]) {
    let (least, most) = (f16::MIN.to_f32(), f16::MAX.to_f32());
    let cut: Vec<f32> = map.iter().map(|it| it.clamp(least, most)).collect();
    to.convert_from_f32_slice(&cut);
}

impl Seen {
    /// Whether its pictures cannot be ranked, or it is nowhere above its threshold.
    fn saturates(&self, threshold: f32) -> bool {
        let activations = || self.top.iter().map(|it| it.activation);
        let tied = 1 < self.top.len() && activations().next() == activations().last();
        tied || self.tail.range().is_some_and(|(_, most)| most <= threshold)
    }

    /// The `k` pictures in which the unit fires at a place drawn. Where there are fewer they repeat, and where
    /// there is none the strongest stand in.
    fn spread(&self, k: usize, threshold: f32) -> impl Iterator<Item = Kept<'_>> {
        let fires: Vec<_> = self.spread.iter().filter(|it| threshold < it.activation).collect();
        let from = if fires.is_empty() { self.top.iter().collect() } else { fires };
        from.into_iter().cycle().take(k)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::error::{Kind, kind};

    const CONFIG: Config =
        Config { top_k: 3, quantile: 0.99, spread: None, max_near_duplicates: 1 };

    fn keys(ids: &[usize]) -> Vec<PictureKey> {
        ids.iter().copied().map(PictureKey::numbered).collect()
    }

    /// Outputs of `n` pictures from `first` on, with different values everywhere.
    fn outputs(first: usize, n: usize, c: usize, side: usize) -> Tensor {
        let count = c * side * side;
        let value = |i: usize| ((i * 7919) % 10_007) as f32 / 64.0 - 20.0;
        let values: Vec<f32> = (first * count..(first + n) * count).map(value).collect();
        Tensor::from_vec(values, (n, c, side, side), &Device::Cpu).unwrap()
    }

    fn gather(pictures: std::ops::Range<usize>) -> Gather {
        let mut gather = Gather::new("layer1", CONFIG, 1000);
        for first in pictures.clone().step_by(4) {
            let ids: Vec<usize> = (first..pictures.end.min(first + 4)).collect();
            gather.add(&outputs(first, ids.len(), 5, 4), &keys(&ids)).unwrap();
        }
        gather
    }

    #[test]
    fn two_parts_merge_to_the_whole() {
        let whole = gather(0..40).finish().unwrap().0;
        let mut parts = gather(12..40);
        parts.merge(gather(0..12)).unwrap();
        parts.merge(Gather::new("layer1", CONFIG, 1000)).unwrap();
        assert_eq!(parts.finish().unwrap().0, whole);
        assert_eq!((whole.n_units, whole.k, whole.map, whole.n_pictures), (5, 3, (4, 4), 40));
        assert!(whole.activations.chunks(3).all(|ranked| ranked.is_sorted_by(|a, b| a >= b)));
    }

    #[test]
    fn what_is_spread_is_drawn_evenly_from_where_units_fire() {
        let (n, c, side, k) = (400, 40, 4, 10);
        let config = Config { top_k: k, quantile: 0.9, spread: Some(1), ..CONFIG };
        let gather = |pictures: std::ops::Range<usize>| {
            let mut gather = Gather::new("layer1", config, n);
            let ids: Vec<usize> = pictures.collect();
            gather.add(&outputs(ids[0], ids.len(), c, side), &keys(&ids)).unwrap();
            gather
        };
        let (strongest, drawn) = gather(0..n).finish().unwrap();
        let drawn = drawn.unwrap();
        let mut parts = gather(150..n);
        parts.merge(gather(0..150)).unwrap();
        assert_eq!(parts.finish().unwrap(), (strongest.clone(), Some(drawn.clone())));

        let values = outputs(0, n, c, side).transpose(0, 1).unwrap().flatten_from(1).unwrap();
        let values = values.to_vec2::<f32>().unwrap();
        let mut shares = vec![];
        for (unit, values) in values.iter().enumerate() {
            let threshold = drawn.thresholds[unit];
            let fires: Vec<f32> = values.iter().copied().filter(|it| threshold < *it).collect();
            for (rank, &activation) in drawn.activations(unit).iter().enumerate() {
                assert!(threshold < activation);
                assert!(drawn.map(unit, rank).contains(&f16::from_f32(activation)));
                let weaker = fires.iter().filter(|it| **it < activation).count();
                shares.push(weaker as f64 / fires.len() as f64);
            }
        }
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!((0.44..0.62).contains(&mean), "{mean}");
        assert_ne!(drawn.ids, strongest.ids);
    }

    #[test]
    fn where_no_place_drawn_fires_the_strongest_stand_in() {
        let config = Config { spread: Some(0), ..CONFIG };
        let mut gather = Gather::new("layer1", config, 1_000_000_000);
        gather.add(&outputs(0, 9, 2, 4), &keys(&[0, 1, 2, 3, 4, 5, 6, 7, 8])).unwrap();
        let (strongest, drawn) = gather.finish().unwrap();
        assert_eq!(drawn, Some(strongest));
    }

    #[test]
    fn a_view_of_another_dtype_is_read_as_it_looks() {
        let ys = outputs(0, 4, 6, 4);
        let mut plain = Gather::new("layer1", CONFIG, 1000);
        plain
            .add(&ys.narrow(1, 2, 3).unwrap().contiguous().unwrap(), &keys(&[0, 1, 2, 3]))
            .unwrap();
        let mut view = Gather::new("layer1", CONFIG, 1000);
        let ys = ys.to_dtype(DType::F64).unwrap().narrow(1, 2, 3).unwrap();
        view.add(&ys, &keys(&[0, 1, 2, 3])).unwrap();
        assert_eq!(plain.finish().unwrap(), view.finish().unwrap());
    }

    #[test]
    fn values_beyond_half_precision_become_its_largest() {
        let mut found = [f16::ZERO; 3];
        to_half(&[1e9, -1e9, 0.5], &mut found);
        assert_eq!(found.map(f16::to_f32), [65504., -65504., 0.5]);
    }

    #[test]
    fn features_are_maps_of_one_position() {
        let mut gather = Gather::new("fc", CONFIG, 1000);
        let ys = Tensor::new(&[[1f32, 0.0], [3.0, 0.0], [2.0, 0.0]], &Device::Cpu).unwrap();
        gather.add(&ys, &keys(&[7, 8, 9])).unwrap();
        let site = gather.finish().unwrap().0;
        assert_eq!(site.ids, [8, 9, 7, 7, 8, 9]);
        assert_eq!((site.map, site.dead), ((1, 1), vec![false, true]));
    }

    #[track_caller]
    fn check_message(error: anyhow::Error, expected: Kind, parts: &[&str]) {
        let message = error.to_string();
        assert_eq!(kind(&error), expected, "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }

    #[test]
    fn nan_is_refused_by_unit_and_picture() {
        for (bad, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let mut gather = gather(0..4);
            let mut values = vec![1.0; 2 * 5 * 16];
            values[16 * 5 + 3 * 16 + 7] = bad;
            let ys = Tensor::from_vec(values, (2, 5, 4, 4), &Device::Cpu).unwrap();
            let error = gather.add(&ys, &keys(&[10, 11])).unwrap_err();
            check_message(error, Kind::Inconclusive, &["layer1:3", "picture 11", name]);
        }
    }

    #[test]
    fn too_few_pictures_are_counted() {
        let error = gather(0..2).finish().unwrap_err();
        check_message(error, Kind::Inconclusive, &["best 3 pictures", "has 2 in all"]);
        let error = gather(0..0).finish().unwrap_err();
        check_message(error, Kind::Inconclusive, &["has 0 in all"]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let add = |ys: Tensor, ids: &[usize]| gather(0..4).add(&ys, &keys(ids)).unwrap_err();
        check_message(add(outputs(0, 2, 5, 3), &[0, 1]), Kind::System, &["(5, 4, 4)", "(5, 3, 3)"]);
        check_message(add(outputs(0, 2, 5, 4), &[0]), Kind::System, &["2 outputs for 1 pictures"]);
        let empty = Tensor::zeros((2, 5, 0, 0), DType::F32, &Device::Cpu).unwrap();
        let error = Gather::new("conv9", CONFIG, 1000).add(&empty, &keys(&[0, 1])).unwrap_err();
        check_message(error, Kind::Usage, &["conv9", "empty map"]);
        let flat = Tensor::zeros(5, DType::F32, &Device::Cpu).unwrap();
        check_message(add(flat, &[0]), Kind::System, &["[5]"]);
        let error = gather(0..4).merge(Gather::new("layer2", CONFIG, 1000)).unwrap_err();
        check_message(error, Kind::System, &["layer1", "layer2"]);
        for config in [Config { top_k: 0, ..CONFIG }, Config { quantile: 1.0, ..CONFIG }] {
            let error =
                Gather::new("x", config, 1000).add(&outputs(0, 1, 5, 4), &keys(&[0])).unwrap_err();
            check_message(error, Kind::Usage, &[]);
        }
    }

    #[test]
    fn the_tails_do_not_grow_with_the_pictures() {
        for (n_expected, most) in [(1000, 4 * (4 * 1962 + 128)), (100_000, 1 << 19)] {
            let mut gather = Gather::new("layer1", CONFIG, n_expected);
            for batch in 0..40 {
                let ids: Vec<usize> = (batch * 8..batch * 8 + 8).collect();
                gather.add(&outputs(batch * 8, 8, 64, 14), &keys(&ids)).unwrap();
                assert!(gather.tail_bytes() <= 64 * most, "{n_expected} {}", gather.tail_bytes());
            }
        }
    }
}
