//! 3×3 convolution of stride 1 by Winograd's F(4×4, 3×3): a quarter of the multiplications.
//!
//! A 4×4 tile of the output depends on a 6×6 tile `d` of the input: `Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A` (Lavin and
//! Gray 2016, <https://arxiv.org/abs/1509.09308>, section 4.3). Summed over input channels, the product at each
//! of the 36 places is a matrix product of tiles by channels, which [`tile`] does.
//!
//! The filters are transformed in f64 and rounded once. The transforms of the input multiply by at most 5, those
//! of the output by at most 8, so rounding grows by about an order of magnitude: 1e-6 to 3e-6 of the root mean
//! square where the direct sum has 1e-7 to 8e-7, far below the 1e-4 that a network's answers are held to.

use super::direct::padded;
use super::finish::Target;
use super::layout::{Aligned, Around, Part};
use super::tile::{tile, tiles, walk, with_positions};
use super::vector::{Isa, MOST_LANES, Vector, Work};

/// Side of the output's tiles, and of the input's.
const OUT: usize = 4;
const IN: usize = OUT + 2;
const PLACES: usize = IN * IN;

/// Bytes of transformed tiles that go together: about what the second cache holds.
const BUDGET: usize = 768 << 10;

/// G of the paper.
const G: [[f64; 3]; IN] = [
    [1. / 4., 0., 0.],
    [-1. / 6., -1. / 6., -1. / 6.],
    [-1. / 6., 1. / 6., -1. / 6.],
    [1. / 24., 1. / 12., 1. / 6.],
    [1. / 24., -1. / 12., 1. / 6.],
    [0., 0., 1.],
];

/// A 3×3 convolution, its filters transformed and packed for the machine.
pub(super) struct Winograd {
    /// `(places, groups of 2 blocks, input channels, 2 · lanes)`; the last group may have one block.
    weights: Aligned,
    bias: Aligned,
}

/// Transformed tiles of input and output, kept from one convolution to the next.
#[derive(Default)]
pub(super) struct Scratch {
    inputs: Aligned,
    outputs: Aligned,
}

/// Zeros around a map of these sides so that every tile can be read whole.
pub(super) fn around(h: usize, w: usize) -> Around {
    let behind = |side: usize| side.next_multiple_of(OUT) + 1 - side;
    Around { top: 1, bottom: behind(h), left: 1, right: behind(w) }
}

impl Winograd {
    /// From `weight` `(c_out, c_in, 3, 3)` and `bias` `(c_out,)`.
    pub(super) fn new(
        [c_out, c_in]: [usize; 2],
        weight: &[f32],
        bias: &[f32],
        lanes: usize,
    ) -> Winograd {
        let (c_padded, blocks_out) = (c_in.next_multiple_of(lanes), c_out.div_ceil(lanes));
        let a_place = blocks_out * lanes * c_padded;
        let mut weights = Aligned::zeros(PLACES * a_place);
        for group in (0..blocks_out).step_by(2) {
            let width = lanes * (blocks_out - group).min(2);
            for i in 0..c_in {
                let mut places = [[0f32; 2 * MOST_LANES]; PLACES];
                for lane in 0..width.min(c_out - group * lanes) {
                    let filter = &weight[((group * lanes + lane) * c_in + i) * 9..][..9];
                    for (to, value) in places.iter_mut().zip(transformed(filter)) {
                        to[lane] = value;
                    }
                }
                for (place, from) in places.iter().enumerate() {
                    let to = place * a_place + group * lanes * c_padded + i * width;
                    weights[to..][..width].copy_from_slice(&from[..width]);
                }
            }
        }
        Winograd { weights, bias: padded(bias, lanes) }
    }

    pub(super) fn run(&self, isa: Isa, input: Part<'_>, target: Target<'_>, scratch: &mut Scratch) {
        isa.run(Job { conv: self, input, target, scratch });
    }
}

/// `G g Gᵀ` of a filter `(3, 3)`.
fn transformed(filter: &[f32]) -> [f32; PLACES] {
    let mut half = [[0f64; 3]; IN];
    for (half, g) in half.iter_mut().zip(&G) {
        for (x, half) in half.iter_mut().enumerate() {
            *half = (0..3).map(|y| g[y] * f64::from(filter[y * 3 + x])).sum();
        }
    }
    let mut places = [0f32; PLACES];
    for (at, place) in places.iter_mut().enumerate() {
        let (half, g) = (&half[at / IN], &G[at % IN]);
        *place = (half[0] * g[0] + half[1] * g[1] + half[2] * g[2]) as f32;
    }
    places
}

struct Job<'a> {
    conv: &'a Winograd,
    input: Part<'a>,
    target: Target<'a>,
    scratch: &'a mut Scratch,
}

impl Work for Job<'_> {
    #[inline(always)]
    fn run<M: Vector>(self, m: M) {
        let Job { conv, input, mut target, scratch } = self;
        let lanes = M::LANES;
        let (from, to) = (input.shape, target.out.shape);
        let (blocks_in, blocks_out) = (from.blocks(), to.blocks());
        let (down, across) = (to.h.div_ceil(OUT), to.w.div_ceil(OUT));
        let each = down * across;
        let all = each * input.n;

        // Tiles that go together, each part as large as the others.
        let bytes = PLACES * (blocks_in + blocks_out) * lanes * size_of::<f32>();
        let together = (BUDGET / bytes).max(8 * M::POSITIONS);
        let together = all.div_ceil(all.div_ceil(together));
        // A line more, lest the 36 places fall on the same lines of the cache.
        let (in_place, out_place) =
            (blocks_in * together * lanes + 16, blocks_out * together * lanes + 16);
        scratch.inputs.grow(PLACES * in_place);
        scratch.outputs.grow(PLACES * out_place);
        let walk = walk((blocks_in, together * lanes), 1, 0, 0);
        let a_block = blocks_in * lanes * lanes;
        let corner = |number: usize| {
            let (picture, tile) = (number / each, number % each);
            (picture, tile / across * OUT, tile % across * OUT)
        };

        for start in (0..all).step_by(together) {
            let n = together.min(all - start);
            for block in 0..blocks_in {
                for at in 0..n {
                    let (picture, y, x) = corner(start + at);
                    let first = picture * from.picture()
                        + block * from.block()
                        + (y + from.top - 1) * from.row()
                        + (x + from.left - 1) * lanes;
                    let place = (block * together + at) * lanes;
                    let to = &mut scratch.inputs[place..];
                    transform_input(m, &input.values[first..], from.row(), to, in_place);
                }
            }
            for place in 0..PLACES {
                let inputs = &scratch.inputs[place * in_place..][..in_place];
                let outputs = &mut scratch.outputs[place * out_place..][..out_place];
                for block in (0..blocks_out).step_by(2) {
                    let weights = &conv.weights[(place * blocks_out + block) * a_block..];
                    for (x, p) in tiles(n, M::POSITIONS) {
                        let values = &inputs[x * lanes..];
                        let mut to = outputs[block * together * lanes..]
                            .chunks_mut(together * lanes)
                            .map(|it| &mut it[x * lanes..]);
                        if block + 1 < blocks_out {
                            let weights = &weights[..2 * a_block];
                            with_positions!(M, p, P => store::<M, P, 2>(
                                m,
                                tile::<M, P, 2, 1, false>(m, &walk, values, weights),
                                &mut to,
                            ));
                        } else {
                            let weights = &weights[..a_block];
                            with_positions!(M, p, P => store::<M, P, 1>(
                                m,
                                tile::<M, P, 1, 1, false>(m, &walk, values, weights),
                                &mut to,
                            ));
                        }
                    }
                }
            }
            for block in 0..blocks_out {
                for at in 0..n {
                    let (picture, y, x) = corner(start + at);
                    let place = (block * together + at) * lanes;
                    let rows = transform_output(m, &scratch.outputs[place..], out_place);
                    for (dy, row) in rows.into_iter().enumerate().take(to.h - y) {
                        let place = (picture, block, y + dy, x);
                        let p = OUT.min(to.w - x);
                        match p {
                            1 => put::<M, 1>(m, &mut target, place, row, &conv.bias),
                            2 => put::<M, 2>(m, &mut target, place, row, &conv.bias),
                            3 => put::<M, 3>(m, &mut target, place, row, &conv.bias),
                            _ => put::<M, 4>(m, &mut target, place, row, &conv.bias),
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn store<'a, M: Vector, const P: usize, const B: usize>(
    m: M,
    sums: [[M::V; B]; P],
    to: &mut impl Iterator<Item = &'a mut [f32]>,
) {
    for (b, to) in (0..B).zip(to) {
        for (p, sums) in sums.iter().enumerate() {
            m.store(sums[b], &mut to[p * M::LANES..]);
        }
    }
}

#[inline(always)]
fn put<M: Vector, const P: usize>(
    m: M,
    target: &mut Target<'_>,
    place: (usize, usize, usize, usize),
    row: [M::V; OUT],
    bias: &[f32],
) {
    let mut sums = [[row[0]]; P];
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum = [value];
    }
    target.put::<M, P, 1>(m, place, sums, bias);
}

/// `Bᵀ d B` of the tile that `from` begins with, place `i` to `to[i · apart..]`.
#[inline(always)]
fn transform_input<M: Vector>(m: M, from: &[f32], row: usize, to: &mut [f32], apart: usize) {
    let lanes = M::LANES;
    let mut half = [[m.splat(0.); IN]; IN];
    for x in 0..IN {
        let mut column = [m.splat(0.); IN];
        for (y, value) in column.iter_mut().enumerate() {
            *value = m.load(&from[y * row + x * lanes..]);
        }
        let column = times_b(m, column);
        for y in 0..IN {
            half[y][x] = column[y];
        }
    }
    for (y, row) in half.into_iter().enumerate() {
        for (x, value) in times_b(m, row).into_iter().enumerate() {
            m.store(value, &mut to[(y * IN + x) * apart..]);
        }
    }
}

/// `Aᵀ m A` of the tile whose place `i` is at `from[i · apart..]`.
#[inline(always)]
fn transform_output<M: Vector>(m: M, from: &[f32], apart: usize) -> [[M::V; OUT]; OUT] {
    let mut half = [[m.splat(0.); IN]; OUT];
    for x in 0..IN {
        let mut column = [m.splat(0.); IN];
        for (y, value) in column.iter_mut().enumerate() {
            *value = m.load(&from[(y * IN + x) * apart..]);
        }
        let column = times_a(m, column);
        for y in 0..OUT {
            half[y][x] = column[y];
        }
    }
    let mut rows = [[m.splat(0.); OUT]; OUT];
    for (row, half) in rows.iter_mut().zip(half) {
        *row = times_a(m, half);
    }
    rows
}

/// `factor · x + y`
#[inline(always)]
fn times<M: Vector>(m: M, factor: f32, x: M::V, y: M::V) -> M::V {
    m.mul_add(m.splat(factor), x, y)
}

/// A row of six times B.
#[inline(always)]
fn times_b<M: Vector>(m: M, d: [M::V; IN]) -> [M::V; IN] {
    let a = times(m, -4., d[2], d[4]);
    let b = times(m, -4., d[1], d[3]);
    let c = m.sub(d[4], d[2]);
    let e = m.mul(m.splat(2.), m.sub(d[3], d[1]));
    [
        times(m, 4., d[0], times(m, -5., d[2], d[4])),
        m.add(a, b),
        m.sub(a, b),
        m.add(c, e),
        m.sub(c, e),
        times(m, 4., d[1], times(m, -5., d[3], d[5])),
    ]
}

/// A row of six times A.
#[inline(always)]
fn times_a<M: Vector>(m: M, d: [M::V; IN]) -> [M::V; OUT] {
    let (s1, d1) = (m.add(d[1], d[2]), m.sub(d[1], d[2]));
    let (s2, d2) = (m.add(d[3], d[4]), m.sub(d[3], d[4]));
    [
        m.add(d[0], m.add(s1, s2)),
        times(m, 2., d2, d1),
        times(m, 4., s2, s1),
        m.add(d[5], times(m, 8., d2, d1)),
    ]
}
