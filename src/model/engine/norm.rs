//! Layer norm: mean and variance over the channels of each position.

use super::direct::padded;
use super::layout::{Aligned, Part, PartMut};
use super::vector::{Isa, Vector, Work};

/// A layer norm, its weights padded to whole blocks.
pub(super) struct Norm {
    eps: f32,
    scale: Aligned,
    shift: Aligned,
    /// 1 where there is a channel, 0 in what fills the last block.
    there: Aligned,
}

impl Norm {
    /// From `scale` and `shift` `(c,)`.
    pub(super) fn new(eps: f64, scale: &[f32], shift: &[f32], lanes: usize) -> Norm {
        let there = padded(&vec![1.; scale.len()], lanes);
        Norm { eps: eps as f32, scale: padded(scale, lanes), shift: padded(shift, lanes), there }
    }

    pub(super) fn run(&self, isa: Isa, input: Part<'_>, out: PartMut<'_>) {
        isa.run(Job { norm: self, input, out });
    }
}

struct Job<'a> {
    norm: &'a Norm,
    input: Part<'a>,
    out: PartMut<'a>,
}

impl Work for Job<'_> {
    #[inline(always)]
    fn run<M: Vector>(self, m: M) {
        let Job { norm, input, out } = self;
        let (from, to) = (input.shape, out.shape);
        let (blocks, share) = (from.blocks(), 1. / from.c as f32);
        for picture in 0..input.n {
            let values = &input.values[picture * from.picture()..][..from.picture()];
            let normed = &mut out.values[picture * to.picture()..][..to.picture()];
            for (y, x) in (0..from.h).flat_map(|y| (0..from.w).map(move |x| (y, x))) {
                let mut sum = m.splat(0.);
                for block in 0..blocks {
                    let there = m.load(&norm.there[block * M::LANES..]);
                    sum = m.mul_add(m.load(&values[from.at(block, y, x)..]), there, sum);
                }
                let mean = m.splat(m.total(sum) * share);
                let mut squares = m.splat(0.);
                for block in 0..blocks {
                    let there = m.load(&norm.there[block * M::LANES..]);
                    let off = m.mul(m.sub(m.load(&values[from.at(block, y, x)..]), mean), there);
                    squares = m.mul_add(off, off, squares);
                }
                let by = m.splat(1. / (m.total(squares) * share + norm.eps).sqrt());
                for block in 0..blocks {
                    let off = m.mul(m.sub(m.load(&values[from.at(block, y, x)..]), mean), by);
                    let scale = m.load(&norm.scale[block * M::LANES..]);
                    let shift = m.load(&norm.shift[block * M::LANES..]);
                    m.store(m.mul_add(off, scale, shift), &mut normed[to.at(block, y, x)..]);
                }
            }
        }
    }
}
