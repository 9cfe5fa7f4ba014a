//! Convolution as it is defined: every output position sums its window over all input channels.

use super::finish::{Job, Target};
use super::layout::{Aligned, Part, Shape};
use super::tile::{tile, tiles, walk, with_positions};
use super::vector::{Isa, Vector, Work};

/// Weights above which all pictures go past a part of the weights before the next part is fetched.
const HEAVY: usize = 1 << 16;

/// A convolution, its weights packed for the machine.
pub(super) struct Direct {
    kernel: usize,
    stride: usize,
    planar: bool,
    /// `(groups of 2 blocks, input blocks, kernel, kernel, inner, 2 · lanes)`; the last group may have one block.
    weights: Aligned,
    bias: Aligned,
}

/// Strides that there are tiles for.
pub(super) fn has_tiles(stride: usize, planar: bool) -> bool {
    matches!((stride, planar), (1 | 2, _) | (4, true))
}

impl Direct {
    /// From `weight` `(c_out, c_in, kernel, kernel)` and `bias` `(c_out,)`. `planar` says that the input's
    /// channels are planes of their own.
    pub(super) fn new(
        [c_out, c_in, kernel]: [usize; 3],
        stride: usize,
        planar: bool,
        weight: &[f32],
        bias: &[f32],
        lanes: usize,
    ) -> Direct {
        let inner = if planar { 1 } else { lanes };
        let (blocks, blocks_out) = (c_in.div_ceil(inner), c_out.div_ceil(lanes));
        let window = kernel * kernel;
        let mut weights = Aligned::zeros(blocks_out * lanes * blocks * inner * window);
        let a_block = blocks * window * inner * lanes;
        for (at, &value) in weight.iter().enumerate() {
            let (o, i, place) = (at / window / c_in, at / window % c_in, at % window);
            let (block, lane) = (o / lanes, o % lanes);
            let group = block / 2 * 2;
            let width = lanes * (blocks_out - group).min(2);
            let row = (i / inner * window + place) * inner + i % inner;
            weights[group * a_block + row * width + (block - group) * lanes + lane] = value;
        }
        Direct { kernel, stride, planar, weights, bias: padded(bias, lanes) }
    }

    /// `pads` are the zeros above and left of the window at the first position.
    pub(super) fn run(&self, isa: Isa, input: Part<'_>, pads: (usize, usize), target: Target<'_>) {
        let job = Job { conv: self, input, pads, target };
        match (self.stride, self.planar) {
            (1, false) => isa.run(Strided::<1, false>(job)),
            (2, false) => isa.run(Strided::<2, false>(job)),
            (1, true) => isa.run(Strided::<1, true>(job)),
            (2, true) => isa.run(Strided::<2, true>(job)),
            _ => isa.run(Strided::<4, true>(job)),
        }
    }
}

/// A bias of zeros for the channels that fill the last block.
pub(super) fn padded(values: &[f32], lanes: usize) -> Aligned {
    let mut padded = Aligned::zeros(values.len().next_multiple_of(lanes));
    padded[..values.len()].copy_from_slice(values);
    padded
}

struct Strided<'a, const STRIDE: usize, const PLANAR: bool>(Job<'a, Direct>);

impl<const STRIDE: usize, const PLANAR: bool> Work for Strided<'_, STRIDE, PLANAR> {
    #[inline(always)]
    fn run<M: Vector>(self, m: M) {
        let Strided(Job { conv, input, pads, mut target }) = self;
        let lanes = M::LANES;
        let (from, to) = (input.shape, target.out.shape);
        let inner = if PLANAR { 1 } else { lanes };
        let walk = walk((from.blocks(), from.block()), conv.kernel, from.row(), inner);
        // Positions that need not know their row make longer rows.
        let flat = conv.kernel == 1
            && STRIDE == 1
            && !PLANAR
            && [Some(&to), target.residual.as_ref().map(|it| &it.shape), Some(&from)]
                .into_iter()
                .flatten()
                .all(Shape::is_flat);
        let (rows, columns) = if flat { (1, to.h * to.w) } else { (to.h, to.w) };
        let a_block = walk.len() * inner * lanes;
        let blocks = to.blocks();

        let groups = blocks.div_ceil(2);
        // Every picture with every two blocks of channels; what is dear to fetch stays.
        for at in 0..groups * input.n {
            let (picture, block) = match HEAVY < conv.weights.len() {
                true => (at % input.n, at / input.n * 2),
                false => (at / groups, at % groups * 2),
            };
            let weights = &conv.weights[block * a_block..];
            for y in 0..rows {
                for (x, p) in tiles(columns, M::POSITIONS) {
                    let first = picture * from.picture()
                        + (y * STRIDE + from.top - pads.0) * from.row()
                        + (x * STRIDE + from.left - pads.1) * inner;
                    let (values, place) = (&input.values[first..], (picture, block, y, x));
                    if block + 1 < blocks {
                        let weights = &weights[..2 * a_block];
                        with_positions!(M, p, P => target.put::<M, P, 2>(
                            m,
                            place,
                            tile::<M, P, 2, STRIDE, PLANAR>(m, &walk, values, weights),
                            &conv.bias,
                        ));
                    } else {
                        let weights = &weights[..a_block];
                        with_positions!(M, p, P => target.put::<M, P, 1>(
                            m,
                            place,
                            tile::<M, P, 1, STRIDE, PLANAR>(m, &walk, values, weights),
                            &conv.bias,
                        ));
                    }
                }
            }
        }
    }
}
