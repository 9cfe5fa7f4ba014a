//! What a site's units fire on, gathered picture by picture in bounded memory.

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Device, Storage, Tensor};
use rayon::prelude::*;

use super::quantile::Sketch;
use super::topk::TopK;
use super::{Config, SiteExemplars};
use crate::unit::Unit;
use crate::{inconclusive, usage};

/// What one site's units fire on, as far as the pictures were seen.
///
/// Its memory is bounded by units times `top_k` maps and a sketch of at most 104 KB a unit, and does
/// not grow with the pictures. Pictures may be gathered in parts, by several `Gather`s over disjoint
/// pictures, and [merged](Gather::merge).
#[derive(Debug, Clone)]
pub struct Gather {
    site: String,
    config: Config,
    /// Channels, height and width, once a picture was seen.
    shape: Option<(usize, usize, usize)>,
    n_pictures: usize,
    units: Vec<Seen>,
}

/// What one unit showed.
#[derive(Debug, Clone)]
struct Seen {
    top: TopK,
    values: Sketch,
}

impl Gather {
    pub fn new(site: &str, config: Config) -> Gather {
        Gather { site: site.into(), config, shape: None, n_pictures: 0, units: vec![] }
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

        let ys = ys.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
        let (storage, layout) = ys.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("the output is not in main memory") };
        let values = &storage.as_slice::<f32>()?[layout.start_offset()..][..n * c * h * w];
        let map = |picture: usize, unit: usize| &values[(picture * c + unit) * h * w..][..h * w];

        let broken: Vec<Option<usize>> = self
            .units
            .par_iter_mut()
            .enumerate()
            .map(|(unit, seen)| (0..n).find(|&i| seen.see(ids[i], map(i, unit)).is_none()))
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
            self.site == other.site && self.config == other.config,
            "what was gathered at `{}` with {:?} does not merge with `{}`, {:?}",
            self.site,
            self.config,
            other.site,
            other.config,
        );
        let Some(shape) = other.shape else { return Ok(()) };
        self.expect(shape)?;
        self.n_pictures += other.n_pictures;
        self.units.par_iter_mut().zip(other.units).for_each(|(mine, theirs)| {
            mine.top.merge(&theirs.top);
            mine.values.merge(theirs.values);
        });
        Ok(())
    }

    /// The exemplars of every unit. Errs where fewer pictures were seen than exemplars are wanted.
    pub fn finish(self) -> anyhow::Result<SiteExemplars> {
        let Config { top_k: k, quantile } = self.config;
        if self.n_pictures < k {
            return Err(inconclusive!(
                "{} pictures are too few to keep the best {k} of each unit; add pictures or lower --top-k",
                self.n_pictures
            ));
        }
        let (n_units, h, w) = self.shape.context("no picture was looked at")?;
        let ranked = || self.units.iter().flat_map(|seen| seen.top.iter());
        let quantiles = self.units.par_iter().map(|seen| seen.values.quantile(quantile));
        let dead = |seen: &Seen| seen.values.range().is_none_or(|(low, high)| low == high);
        Ok(SiteExemplars {
            n_units,
            k,
            quantile,
            map: (h, w),
            n_pictures: self.n_pictures,
            ids: ranked().map(|(picture, ..)| picture).collect(),
            activations: ranked().map(|(_, activation, _)| activation).collect(),
            maps: ranked().flat_map(|(.., map)| map.iter().copied()).collect(),
            thresholds: quantiles.collect::<Option<_>>().context("no value was seen")?,
            dead: self.units.iter().map(dead).collect(),
            site: self.site,
        })
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
                let seen = Seen { top: TopK::new(self.config.top_k), values: Sketch::default() };
                self.units = vec![seen; c];
            }
        }
        Ok(())
    }
}

impl Seen {
    /// Nothing where a value is not finite.
    fn see(&mut self, picture: usize, map: &[f32]) -> Option<()> {
        let most = self.values.extend(map)?;
        self.top.offer(picture, most, map);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, kind};

    const CONFIG: Config = Config { top_k: 3, quantile: 0.99 };

    /// Outputs of `n` pictures from `first` on, with different values everywhere.
    fn outputs(first: usize, n: usize, c: usize, side: usize) -> Tensor {
        let count = c * side * side;
        let value = |i: usize| ((i * 7919) % 10_007) as f32 / 64.0 - 20.0;
        let values: Vec<f32> = (first * count..(first + n) * count).map(value).collect();
        Tensor::from_vec(values, (n, c, side, side), &Device::Cpu).unwrap()
    }

    fn gather(pictures: std::ops::Range<usize>) -> Gather {
        let mut gather = Gather::new("layer1", CONFIG);
        for first in pictures.clone().step_by(4) {
            let ids: Vec<usize> = (first..pictures.end.min(first + 4)).collect();
            gather.add(&outputs(first, ids.len(), 5, 4), &ids).unwrap();
        }
        gather
    }

    #[test]
    fn two_parts_merge_to_the_whole() {
        let whole = gather(0..40).finish().unwrap();
        let mut parts = gather(12..40);
        parts.merge(gather(0..12)).unwrap();
        parts.merge(Gather::new("layer1", CONFIG)).unwrap();
        assert_eq!(parts.finish().unwrap(), whole);
        assert_eq!((whole.n_units, whole.k, whole.map, whole.n_pictures), (5, 3, (4, 4), 40));
        assert!(whole.activations.chunks(3).all(|ranked| ranked.is_sorted_by(|a, b| a >= b)));
    }

    #[test]
    fn a_view_of_another_dtype_is_read_as_it_looks() {
        let ys = outputs(0, 4, 6, 4);
        let mut plain = Gather::new("layer1", CONFIG);
        plain.add(&ys.narrow(1, 2, 3).unwrap().contiguous().unwrap(), &[0, 1, 2, 3]).unwrap();
        let mut view = Gather::new("layer1", CONFIG);
        let ys = ys.to_dtype(DType::F64).unwrap().narrow(1, 2, 3).unwrap();
        view.add(&ys, &[0, 1, 2, 3]).unwrap();
        assert_eq!(plain.finish().unwrap(), view.finish().unwrap());
    }

    #[test]
    fn features_are_maps_of_one_position() {
        let mut gather = Gather::new("fc", CONFIG);
        let ys = Tensor::new(&[[1f32, 0.0], [3.0, 0.0], [2.0, 0.0]], &Device::Cpu).unwrap();
        gather.add(&ys, &[7, 8, 9]).unwrap();
        let site = gather.finish().unwrap();
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
        let error = Gather::new("conv9", CONFIG).add(&empty, &[0, 1]).unwrap_err();
        check_message(error, Kind::Usage, &["conv9", "empty map"]);
        let flat = Tensor::zeros(5, DType::F32, &Device::Cpu).unwrap();
        check_message(add(flat, &[0]), Kind::System, &["[5]"]);
        let error = gather(0..4).merge(Gather::new("layer2", CONFIG)).unwrap_err();
        check_message(error, Kind::System, &["layer1", "layer2"]);
        for config in [Config { top_k: 0, ..CONFIG }, Config { quantile: 1.0, ..CONFIG }] {
            let error = Gather::new("x", config).add(&outputs(0, 1, 5, 4), &[0]).unwrap_err();
            check_message(error, Kind::Usage, &[]);
        }
    }

    #[test]
    fn the_sketches_do_not_grow_with_the_pictures() {
        let mut gather = Gather::new("layer1", CONFIG);
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
