//! What a site's units fire on, gathered picture by picture in bounded memory.

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Device, Storage, Tensor};
use half::f16;
use rayon::prelude::*;

use super::quantile::Sketch;
use super::spread::{greatest, places};
use super::tail::{self, Tail};
use super::topk::TopK;
use super::{Config, SiteExemplars};
use crate::unit::Unit;
use crate::{inconclusive, usage};

/// What one site's units fire on, as far as the pictures were seen.
///
/// Its memory is bounded by units times `top_k` maps and by 512 KB a unit for its quantile: up to six million
/// values that is exact, beyond a sketch of 104 KB. Pictures may be gathered in parts, by several `Gather`s over disjoint
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
    values: Values,
}

impl Gather {
    /// At most `n_expected` pictures will come, those of all parts together.
    pub fn new(site: &str, config: Config, n_expected: usize) -> Gather {
        Gather { site: site.into(), config, n_expected, shape: None, n_pictures: 0, units: vec![] }
    }

    /// Takes in the site's output `ys`, `(n, c, h, w)` or `(n, c)`, on the `n` pictures `ids`.
    ///
    /// A picture counts once for the exemplars, with its maximum over positions, and with every
    /// position for the thresholds: Hernandez et al. 2022, and `tally_topk_and_quantile` of netdissect.
    /// Errs where a value is NaN or infinite, and where the shape is not the one seen before; what
    /// was gathered is then of no more use.
    pub fn add(&mut self, ys: &Tensor, ids: &[usize]) -> anyhow::Result<()> {
        let (n, c, h, w) = match *ys.dims() {
            [n, c, h, w] => (n, c, h, w),
            [n, c] => (n, c, 1, 1),
            _ => bail!(
                "`{}` gives {:?}; wanted maps (n, c, h, w) or features (n, c)",
                self.site,
                ys.dims()
            ),
        };
        ensure!(n == ids.len(), "`{}` gives {n} outputs for {} pictures", self.site, ids.len());
        self.expect((c, h, w))?;
        ensure!(
            self.n_pictures + n <= self.n_expected,
            "`{}` was to see {} pictures, and more come",
            self.site,
            self.n_expected
        );

        let ys = ys.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
        let (storage, layout) = ys.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("the output is not in main memory") };
        let values = &storage.as_slice::<f32>()?[layout.start_offset()..][..n * c * h * w];
        let map = |picture: usize, unit: usize| &values[(picture * c + unit) * h * w..][..h * w];
        let Config { top_k, quantile, spread } = self.config;
        let expected = top_k as f64 / (1. - quantile) / self.n_expected.max(1) as f64;
        let places = |id: &usize| spread.map_or(vec![], |seed| places(*id, expected, seed));
        let places: Vec<Vec<(f32, f32)>> = ids.iter().map(places).collect();

        let broken: Vec<Option<usize>> = self
            .units
            .par_iter_mut()
            .enumerate()
            .map(|(unit, seen)| {
                (0..n).find(|&i| seen.see(ids[i], map(i, unit), (h, w), &places[i]).is_none())
            })
            .collect();
        if let Some((unit, i)) = broken.iter().enumerate().find_map(|(unit, i)| Some((unit, (*i)?)))
        {
            let value = map(i, unit).iter().find(|value| !value.is_finite());
            return Err(inconclusive!(
                "unit {} is {} on picture {}; the weights overflow, or are damaged",
                Unit::new(&self.site, unit),
                value.copied().unwrap_or(f32::NAN),
                ids[i],
            ));
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
            mine.values.merge(theirs.values);
        });
        Ok(())
    }

    /// The exemplars of every unit, and those at places drawn at random where they were asked for. Errs where
    /// fewer pictures were seen than exemplars are wanted.
    pub fn finish(self) -> anyhow::Result<(SiteExemplars, Option<SiteExemplars>)> {
        let Config { top_k: k, quantile, spread } = self.config;
        if self.n_pictures < k {
            return Err(inconclusive!(
                "{} pictures are too few to keep the best {k} of each unit; add pictures or lower --top-k",
                self.n_pictures
            ));
        }
        let (n_units, h, w) = self.shape.context("no picture was looked at")?;
        let quantiles = self.units.par_iter().map(|seen| seen.values.quantile(quantile));
        let thresholds: Vec<f32> = quantiles.collect::<Option<_>>().context("no value was seen")?;
        let dead = |seen: &Seen| seen.values.range().is_none_or(|(low, high)| low == high);
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
            dead: self.units.iter().map(dead).collect(),
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
    pub fn sketch_bytes(&self) -> usize {
        self.units.iter().map(|seen| seen.values.bytes()).sum()
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
                let top = TopK::new(self.config.top_k);
                let n_values = (self.n_expected * h * w) as u64;
                let values = Values::new(n_values, self.config.quantile);
                let seen = Seen { spread: top.clone(), top, values };
                self.units = vec![seen; c];
            }
        }
        Ok(())
    }
}

/// Of a unit's values what tells their quantile.
#[derive(Debug, Clone)]
enum Values {
    /// Exact, where the values above the quantile are few enough.
    Tail(Tail),
    /// Within a thousandth, however many there are.
    Sketch(Sketch),
}

impl Values {
    /// The most values above the quantile that are kept, 512 KB a unit at most.
    const MOST: usize = 1 << 16;

    fn new(n: u64, quantile: f64) -> Values {
        match tail::kept(n, quantile) <= Values::MOST {
            true => Values::Tail(Tail::new(n, quantile)),
            false => Values::Sketch(Sketch::default()),
        }
    }

    /// The largest, or nothing where one is not finite.
    fn extend(&mut self, values: &[f32]) -> Option<f32> {
        match self {
            Values::Tail(it) => it.extend(values),
            Values::Sketch(it) => it.extend(values),
        }
    }

    fn merge(&mut self, other: Values) {
        match (self, other) {
            (Values::Tail(it), Values::Tail(other)) => it.merge(&other),
            (Values::Sketch(it), Values::Sketch(other)) => it.merge(other),
            // The same number of values gave both.
            (Values::Tail(_) | Values::Sketch(_), _) => {}
        }
    }

    fn range(&self) -> Option<(f32, f32)> {
        match self {
            Values::Tail(it) => it.range(),
            Values::Sketch(it) => it.range(),
        }
    }

    fn quantile(&self, q: f64) -> Option<f32> {
        match self {
            Values::Tail(it) => it.quantile(q),
            Values::Sketch(it) => it.quantile(q),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Values::Tail(it) => it.bytes(),
            Values::Sketch(it) => it.bytes(),
        }
    }
}

impl Seen {
    /// Nothing where a value is not finite.
    fn see(
        &mut self,
        picture: usize,
        map: &[f32],
        shape: (usize, usize),
        places: &[(f32, f32)],
    ) -> Option<()> {
        let most = self.values.extend(map)?;
        self.top.offer(picture, most, map);
        if let Some(there) = greatest(map, shape, places) {
            self.spread.offer(picture, there, map);
        }
        Some(())
    }

    /// The `k` pictures in which the unit fires at a place drawn. Where there are fewer they repeat, and where
    /// there is none the strongest stand in.
    fn spread(&self, k: usize, threshold: f32) -> impl Iterator<Item = (usize, f32, &[f16])> {
        let fires: Vec<_> = self.spread.iter().filter(|it| threshold < it.1).collect();
        let from = if fires.is_empty() { self.top.iter().collect() } else { fires };
        from.into_iter().cycle().take(k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, kind};

    const CONFIG: Config = Config { top_k: 3, quantile: 0.99, spread: None };

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
            gather.add(&outputs(first, ids.len(), 5, 4), &ids).unwrap();
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
        let config = Config { top_k: k, quantile: 0.9, spread: Some(1) };
        let gather = |pictures: std::ops::Range<usize>| {
            let mut gather = Gather::new("layer1", config, n);
            let ids: Vec<usize> = pictures.collect();
            gather.add(&outputs(ids[0], ids.len(), c, side), &ids).unwrap();
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
        gather.add(&outputs(0, 9, 2, 4), &[0, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let (strongest, drawn) = gather.finish().unwrap();
        assert_eq!(drawn, Some(strongest));
    }

    #[test]
    fn a_view_of_another_dtype_is_read_as_it_looks() {
        let ys = outputs(0, 4, 6, 4);
        let mut plain = Gather::new("layer1", CONFIG, 1000);
        plain.add(&ys.narrow(1, 2, 3).unwrap().contiguous().unwrap(), &[0, 1, 2, 3]).unwrap();
        let mut view = Gather::new("layer1", CONFIG, 1000);
        let ys = ys.to_dtype(DType::F64).unwrap().narrow(1, 2, 3).unwrap();
        view.add(&ys, &[0, 1, 2, 3]).unwrap();
        assert_eq!(plain.finish().unwrap(), view.finish().unwrap());
    }

    #[test]
    fn features_are_maps_of_one_position() {
        let mut gather = Gather::new("fc", CONFIG, 1000);
        let ys = Tensor::new(&[[1f32, 0.0], [3.0, 0.0], [2.0, 0.0]], &Device::Cpu).unwrap();
        gather.add(&ys, &[7, 8, 9]).unwrap();
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
            let error = gather.add(&ys, &[10, 11]).unwrap_err();
            check_message(error, Kind::Inconclusive, &["layer1:3", "picture 11", name]);
        }
    }

    #[test]
    fn too_few_pictures_are_counted() {
        let error = gather(0..2).finish().unwrap_err();
        check_message(error, Kind::Inconclusive, &["2 pictures are too few", "best 3"]);
        let error = gather(0..0).finish().unwrap_err();
        check_message(error, Kind::Inconclusive, &["0 pictures are too few"]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let add = |ys: Tensor, ids: &[usize]| gather(0..4).add(&ys, ids).unwrap_err();
        check_message(add(outputs(0, 2, 5, 3), &[0, 1]), Kind::System, &["(5, 4, 4)", "(5, 3, 3)"]);
        check_message(add(outputs(0, 2, 5, 4), &[0]), Kind::System, &["2 outputs for 1 pictures"]);
        let empty = Tensor::zeros((2, 5, 0, 0), DType::F32, &Device::Cpu).unwrap();
        let error = Gather::new("conv9", CONFIG, 1000).add(&empty, &[0, 1]).unwrap_err();
        check_message(error, Kind::Usage, &["conv9", "empty map"]);
        let flat = Tensor::zeros(5, DType::F32, &Device::Cpu).unwrap();
        check_message(add(flat, &[0]), Kind::System, &["[5]"]);
        let error = gather(0..4).merge(Gather::new("layer2", CONFIG, 1000)).unwrap_err();
        check_message(error, Kind::System, &["layer1", "layer2"]);
        for config in [Config { top_k: 0, ..CONFIG }, Config { quantile: 1.0, ..CONFIG }] {
            let error = Gather::new("x", config, 1000).add(&outputs(0, 1, 5, 4), &[0]).unwrap_err();
            check_message(error, Kind::Usage, &[]);
        }
    }

    #[test]
    fn the_sketches_do_not_grow_with_the_pictures() {
        let mut gather = Gather::new("layer1", CONFIG, 1000);
        let mut held = vec![];
        for batch in 0..40 {
            let ids: Vec<usize> = (batch * 8..batch * 8 + 8).collect();
            gather.add(&outputs(batch * 8, 8, 64, 14), &ids).unwrap();
            held.push(gather.sketch_bytes());
        }
        let most = 64 * 4 * 26_096;
        assert!(held.iter().all(|&bytes| bytes <= most), "{held:?}");
        let seen = 40 * 8 * 64 * 14 * 14 * size_of::<f32>();
        assert!(held[39] < seen / 3, "{} of {seen} bytes", held[39]);
    }
}
