//! Convolution of each channel with a filter of its own: a vector holds the channels of a block.

use super::direct::padded;
use super::finish::{Job, Target};
use super::layout::{Aligned, Part};
use super::vector::{Isa, Vector, Work};

/// A depthwise convolution, its weights packed for the machine.
pub(super) struct Depthwise {
    kernel: usize,
    stride: usize,
    /// `(blocks, kernel, kernel, lanes)`
    weights: Aligned,
    bias: Aligned,
}

/// Positions whose sums are held in registers.
const POSITIONS: usize = 8;

impl Depthwise {
    /// From `weight` `(c, 1, kernel, kernel)` and `bias` `(c,)`.
    pub(super) fn new(
        [c, kernel]: [usize; 2],
        stride: usize,
        weight: &[f32],
        bias: &[f32],
        lanes: usize,
    ) -> Depthwise {
        let window = kernel * kernel;
        let mut weights = Aligned::zeros(c.next_multiple_of(lanes) * window);
        for (at, &value) in weight.iter().enumerate() {
            let (channel, place) = (at / window, at % window);
            weights[(channel / lanes * window + place) * lanes + channel % lanes] = value;
        }
        Depthwise { kernel, stride, weights, bias: padded(bias, lanes) }
    }

    /// `pads` are the zeros above and left of the window at the first position.
    pub(super) fn run(&self, isa: Isa, input: Part<'_>, pads: (usize, usize), target: Target<'_>) {
        let job = Job { conv: self, input, pads, target };
        match self.stride {
            1 => isa.run(Strided::<1>(job)),
            _ => isa.run(Strided::<2>(job)),
        }
    }
}

/// Strides that there are loops for.
pub(super) fn has_loop(stride: usize) -> bool {
    matches!(stride, 1 | 2)
}

struct Strided<'a, const STRIDE: usize>(Job<'a, Depthwise>);

impl<const STRIDE: usize> Work for Strided<'_, STRIDE> {
    #[inline(always)]
    fn run<M: Vector>(self, m: M) {
        let Strided(Job { conv, input, pads, mut target }) = self;
        let lanes = M::LANES;
        let (from, to) = (input.shape, target.out.shape);
        let window = conv.kernel * conv.kernel * lanes;
        for picture in 0..input.n {
            for block in 0..to.blocks() {
                let weights = &conv.weights[block * window..][..window];
                for y in 0..to.h {
                    let first = picture * from.picture()
                        + block * from.block()
                        + (y * STRIDE + from.top - pads.0) * from.row()
                        + (from.left - pads.1) * lanes;
                    let mut x = 0;
                    while x < to.w {
                        let values = &input.values[first + x * STRIDE * lanes..];
                        let place = (picture, block, y, x);
                        if x + POSITIONS <= to.w {
                            let sums = sums::<M, POSITIONS, STRIDE>(
                                m,
                                conv.kernel,
                                values,
                                from.row(),
                                weights,
                            );
                            target.put::<M, POSITIONS, 1>(m, place, sums, &conv.bias);
                            x += POSITIONS;
                        } else if x + 4 <= to.w {
                            let sums =
                                sums::<M, 4, STRIDE>(m, conv.kernel, values, from.row(), weights);
                            target.put::<M, 4, 1>(m, place, sums, &conv.bias);
                            x += 4;
                        } else {
                            let sums =
                                sums::<M, 1, STRIDE>(m, conv.kernel, values, from.row(), weights);
                            target.put::<M, 1, 1>(m, place, sums, &conv.bias);
                            x += 1;
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn sums<M: Vector, const P: usize, const STRIDE: usize>(
    m: M,
    kernel: usize,
    values: &[f32],
    row: usize,
    weights: &[f32],
) -> [[M::V; 1]; P] {
    let lanes = M::LANES;
    let mut sums = [[m.splat(0.)]; P];
    for (ky, weights) in weights.chunks_exact(kernel * lanes).enumerate() {
        for (kx, w) in weights.chunks_exact(lanes).enumerate() {
            let w = m.load(w);
            let from = &values[ky * row + kx * lanes..][..((P - 1) * STRIDE + 1) * lanes];
            for (p, sum) in sums.iter_mut().enumerate() {
                sum[0] = m.mul_add(m.load(&from[p * STRIDE * lanes..]), w, sum[0]);
            }
        }
    }
    sums
}
