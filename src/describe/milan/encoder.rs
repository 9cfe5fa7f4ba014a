//! What a region looks like: the feature maps of a network, averaged under the region's mask.
//!
//! Hernandez et al. 2022, section 4 (the reference's `PyramidConvEncoder`): the whole picture goes through
//! the network, and at several depths the maps are pooled where the mask is, then put end to end. A
//! picture is run once, however many regions lie in it.

use std::ops::Range;

use anyhow::{Context, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use crate::model::graph::NodeId;
use crate::model::op::part;
use crate::model::run::{Network, Record};

/// How a mask is brought to the size of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resizing {
    /// The mean of the pixels that a position covers, so that no region vanishes.
    Area,
    /// As the reference: bilinear at the position's middle, which looks at four pixels only.
    Reference,
}

pub struct Encoder {
    network: Network,
    sites: Vec<NodeId>,
    resizing: Resizing,
    colours: bool,
}

/// The maps of some pictures, one entry a site, `(n, channels, h, w)`.
pub struct Maps(Vec<Tensor>);

/// Means of the three colours and of their squares.
const N_COLOURS: usize = 6;

/// A region: a picture's place in its [`Maps`], and which of the picture's pixels, `side × side`.
#[derive(Debug, Clone)]
pub struct Region {
    pub picture: usize,
    pub mask: Vec<bool>,
}

impl Encoder {
    pub fn new(network: Network, sites: &[&str], resizing: Resizing) -> anyhow::Result<Encoder> {
        let find = |site: &&str| {
            network.graph().find(site).with_context(|| format!("the encoder has no layer `{site}`"))
        };
        let sites = sites.iter().map(find).collect::<anyhow::Result<_>>()?;
        Ok(Encoder { network, sites, resizing, colours: false })
    }

    /// Puts the means of the pictures' own colours, and of their squares, before the maps of the network.
    pub fn with_colours(self) -> Encoder {
        Encoder { colours: true, ..self }
    }

    /// Features of a region.
    pub fn n_features(&self) -> usize {
        let channels = self.sites.iter().map(|&site| self.network.graph().node(site).channels);
        channels.sum::<usize>() + if self.colours { N_COLOURS } else { 0 }
    }

    /// Runs pictures `(n, 3, side, side)`, normalised as the network wants them, a few on each thread.
    pub fn maps(&self, xs: &Tensor) -> anyhow::Result<Maps> {
        let n = xs.dim(0)?;
        let each = n.div_ceil(rayon::current_num_threads()).max(1);
        let parts = (0..n).step_by(each).collect::<Vec<_>>().into_par_iter().map(|start| {
            let xs = xs.narrow(0, start, each.min(n - start))?;
            let mut record = Record::new(self.sites.iter().copied());
            self.network.run(&xs, &mut record)?;
            let colours =
                if self.colours { Some(Tensor::cat(&[&xs, &xs.sqr()?], 1)?) } else { None };
            let maps = self.sites.iter().map(|&site| record.get(site));
            colours.map(Ok).into_iter().chain(maps).collect::<anyhow::Result<Vec<_>>>()
        });
        let parts = parts.collect::<anyhow::Result<Vec<_>>>()?;
        let n_maps = parts.first().map_or(0, Vec::len);
        let map = |at: usize| Tensor::cat(&parts.iter().map(|it| &it[at]).collect::<Vec<_>>(), 0);
        Ok(Maps((0..n_maps).map(map).collect::<candle_core::Result<_>>()?))
    }

    /// The features of each region, one after the other; zeros at a depth where its mask is empty.
    pub fn features(&self, maps: &Maps, regions: &[Region]) -> anyhow::Result<Vec<f32>> {
        let n_features = self.n_features();
        let mut order: Vec<usize> = (0..regions.len()).collect();
        order.sort_by_key(|&it| regions[it].picture);
        let of_one = order.chunk_by(|&a, &b| regions[a].picture == regions[b].picture);
        let of_one: Vec<&[usize]> = of_one.collect();
        let pooled = of_one
            .par_iter()
            .map(|here| Ok((*here, self.pooled(maps, regions, here)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut features = vec![0f32; regions.len() * n_features];
        for (here, rows) in pooled {
            for (&region, row) in here.iter().zip(rows) {
                features[region * n_features..][..n_features].copy_from_slice(&row);
            }
        }
        Ok(features)
    }

    /// The features of some regions of one picture.
    fn pooled(
        &self,
        maps: &Maps,
        regions: &[Region],
        here: &[usize],
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut parts = Vec::with_capacity(maps.0.len());
        let masks: Vec<Mask<'_>> =
            here.iter().map(|&it| Mask::new(&regions[it].mask)).collect::<anyhow::Result<_>>()?;
        for map in &maps.0 {
            let (_, _, h, w) = map.dims4()?;
            let mut shares = Vec::with_capacity(here.len() * h * w);
            for mask in &masks {
                shares.extend(mask.shares(h, w, self.resizing));
            }
            let shares = Tensor::from_vec(shares, (here.len(), h * w), map.device())?;
            let map = map.get(regions[here[0]].picture)?.flatten_from(1)?; // (c, h·w)
            parts.push(shares.matmul(&map.t()?)?);
        }
        Ok(Tensor::cat(&parts, 1)?.to_vec2()?)
    }
}

/// A square mask, and how many of its pixels lie above and left of each corner.
struct Mask<'a> {
    pixels: &'a [bool],
    side: usize,
    /// `(side + 1, side + 1)`
    inside: Vec<u32>,
}

impl Mask<'_> {
    fn new(pixels: &[bool]) -> anyhow::Result<Mask<'_>> {
        let side = pixels.len().isqrt();
        ensure!(side * side == pixels.len(), "a mask of {} pixels is no square", pixels.len());
        let stride = side + 1;
        let mut inside = vec![0u32; stride * stride];
        for (y, row) in pixels.chunks(side.max(1)).enumerate() {
            let mut here = 0;
            for (x, &on) in row.iter().enumerate() {
                here += u32::from(on);
                inside[(y + 1) * stride + x + 1] = inside[y * stride + x + 1] + here;
            }
        }
        Ok(Mask { pixels, side, inside })
    }

    /// How much each position of a map `(h, w)` counts: shares of the mask that sum to 1, or all 0.
    fn shares(&self, h: usize, w: usize, resizing: Resizing) -> Vec<f32> {
        let side = self.side;
        let mut shares: Vec<f32> = match resizing {
            Resizing::Area if (h, w) == (side, side) => {
                self.pixels.iter().map(|&on| if on { 1. } else { 0. }).collect()
            }
            Resizing::Area => {
                let corner = |y: usize, x: usize| self.inside[y * (side + 1) + x];
                let share = |row: &Range<usize>, column: &Range<usize>| {
                    let n = corner(row.end, column.end) + corner(row.start, column.start)
                        - corner(row.start, column.end)
                        - corner(row.end, column.start);
                    n as f32 / (row.len() * column.len()) as f32
                };
                let parts = |n: usize| (0..n).map(|at| part(at, n, side)).collect::<Vec<_>>();
                let (rows, columns) = (parts(h), parts(w));
                let shares = rows.iter().flat_map(|y| columns.iter().map(move |x| share(y, x)));
                shares.collect()
            }
            Resizing::Reference => {
                let at = |y: usize, x: usize| if self.pixels[y * side + x] { 1f32 } else { 0. };
                let share = |&(y0, y1, dy): &(usize, usize, f32),
                             &(x0, x1, dx): &(usize, usize, f32)| {
                    (at(y0, x0) * (1. - dx) + at(y0, x1) * dx) * (1. - dy)
                        + (at(y1, x0) * (1. - dx) + at(y1, x1) * dx) * dy
                };
                let (rows, columns) = (neighbours(h, side), neighbours(w, side));
                let shares = rows.iter().flat_map(|y| columns.iter().map(move |x| share(y, x)));
                shares.collect()
            }
        };
        let sum: f32 = shares.iter().sum();
        if 1e-8 < sum {
            shares.iter_mut().for_each(|share| *share /= sum);
        } else {
            shares.fill(0.);
        }
        shares
    }
}

/// The two pixels around each position's middle, and how much of the second; `align_corners = False`.
fn neighbours(n: usize, side: usize) -> Vec<(usize, usize, f32)> {
    let place = |i: usize| ((i as f32 + 0.5) * side as f32 / n as f32 - 0.5).max(0.);
    let pair = |place: f32| {
        let first = place as usize;
        (first, (first + 1).min(side - 1), place - first as f32)
    };
    (0..n).map(place).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mask: &[u8], n: usize, resizing: Resizing, wanted: &[f32]) {
        let mask: Vec<bool> = mask.iter().map(|&it| it == 1).collect();
        let shares = Mask::new(&mask).unwrap().shares(n, n, resizing);
        assert!(shares.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{shares:?}");
    }

    #[test]
    fn a_small_region_vanishes_only_as_the_reference_does_it() {
        let mut mask = [0; 64];
        mask[0] = 1;
        check(&mask, 2, Resizing::Area, &[1., 0., 0., 0.]);
        check(&mask, 2, Resizing::Reference, &[0.; 4]);
        check(&[0; 64], 2, Resizing::Area, &[0.; 4]);
        mask[63] = 1;
        mask[62] = 1;
        check(&mask, 2, Resizing::Area, &[1. / 3., 0., 0., 2. / 3.]);
    }

    #[test]
    fn a_mask_smaller_than_the_map_is_spread() {
        check(&[1, 0, 0, 0], 2, Resizing::Area, &[1., 0., 0., 0.]);
        check(&[1; 4], 4, Resizing::Area, &[1. / 16.; 16]);
        check(&[1; 4], 4, Resizing::Reference, &[1. / 16.; 16]);
    }
}
