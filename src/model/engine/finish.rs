//! What happens to a sum before it is written: a bias is added, a residual is added, then it is cut.

use super::layout::{Part, PartMut, Shape};
use super::vector::Vector;

/// The least and the greatest value that is written: ReLU is `0..`, ReLU6 is `0..=6`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cut {
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Cut {
    pub(super) const NONE: Cut = Cut { low: f32::NEG_INFINITY, high: f32::INFINITY };
}

/// A convolution of some pictures. `pads` are the zeros above and left of the window at the first position.
pub(super) struct Job<'a, C> {
    pub(super) conv: &'a C,
    pub(super) input: Part<'a>,
    pub(super) pads: (usize, usize),
    pub(super) target: Target<'a>,
}

/// Where sums go.
pub(super) struct Target<'a> {
    pub(super) out: PartMut<'a>,
    pub(super) residual: Option<Part<'a>>,
    pub(super) cut: Cut,
}

impl Target<'_> {
    /// Writes the sums of positions `x..` of a row for `B` blocks of channels from `block` on.
    #[inline(always)]
    pub(super) fn put<M: Vector, const P: usize, const B: usize>(
        &mut self,
        m: M,
        (picture, block, y, x): (usize, usize, usize, usize),
        sums: [[M::V; B]; P],
        bias: &[f32],
    ) {
        let len = P * M::LANES;
        let (low, high) = (m.splat(self.cut.low), m.splat(self.cut.high));
        for b in 0..B {
            let bias = m.load(&bias[(block + b) * M::LANES..]);
            let at = |shape: &Shape| picture * shape.picture() + shape.at(block + b, y, x);
            let from = self.residual.map(|it| &it.values[at(&it.shape)..][..len]);
            let to = at(&self.out.shape);
            let to = &mut self.out.values[to..][..len];
            for p in 0..P {
                let mut value = m.add(sums[p][b], bias);
                if let Some(from) = from {
                    value = m.add(value, m.load(&from[p * M::LANES..]));
                }
                m.store(m.cut(value, low, high), &mut to[p * M::LANES..]);
            }
        }
    }
}
