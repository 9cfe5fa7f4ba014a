//! Pooling and everything else that works on each channel alone.

use super::super::op::part;
use super::finish::Target;
use super::layout::{Aligned, Part, PartMut};
use super::vector::{Isa, Vector, Work};

/// What becomes of the positions of a channel.
pub(super) enum Each<'a> {
    /// The greatest value of a window, each times `scale`; what lies beyond the map never wins.
    Max { size: usize, stride: usize, padding: usize, scale: Option<&'a Aligned> },
    /// The mean of each of `side × side` nearly equal parts.
    Average { side: usize },
    /// The value itself, times `scale`.
    Same { scale: Option<&'a Aligned> },
    /// The value itself, times the picture's one value of the channel.
    Times { by: Part<'a> },
}

/// `bias` and what `target` says come after.
pub(super) fn run(isa: Isa, each: &Each<'_>, input: Part<'_>, bias: &[f32], target: Target<'_>) {
    isa.run(Job { each, input, bias, target });
}

/// Makes greater values `most`, in their place.
pub(super) fn clamp(isa: Isa, maps: PartMut<'_>, most: f32) {
    isa.run(Clamp { maps, most });
}

struct Clamp<'a> {
    maps: PartMut<'a>,
    most: f32,
}

impl Work for Clamp<'_> {
    #[inline(always)]
    fn run<M: Vector>(self, m: M) {
        let Clamp { maps, most } = self;
        let (shape, low, most) = (maps.shape, m.splat(f32::NEG_INFINITY), m.splat(most));
        for picture in 0..maps.n {
            for (block, y) in (0..shape.blocks()).flat_map(|it| (0..shape.h).map(move |y| (it, y)))
            {
                let row = &mut maps.values[shape.line(picture, block, y)];
                for at in row.chunks_exact_mut(M::LANES) {
                    m.store(m.cut(m.load(at), low, most), at);
                }
            }
        }
    }
}

struct Job<'a> {
    each: &'a Each<'a>,
    input: Part<'a>,
    bias: &'a [f32],
    target: Target<'a>,
}

impl Work for Job<'_> {
    #[inline(always)]
    fn run<M: Vector>(self, m: M) {
        let Job { each, input, bias, mut target } = self;
        let (from, to) = (input.shape, target.out.shape);
        for picture in 0..input.n {
            for block in 0..to.blocks() {
                let values = &input.values[picture * from.picture()..];
                for y in 0..to.h {
                    for x in 0..to.w {
                        let value = match *each {
                            Each::Max { size, stride, padding, scale } => {
                                let (rows, columns) = (
                                    window(y, size, stride, padding, from.h),
                                    window(x, size, stride, padding, from.w),
                                );
                                let scale = scale.map(|it| m.load(&it[block * M::LANES..]));
                                let mut most = m.splat(f32::NEG_INFINITY);
                                for y in rows {
                                    for x in columns.clone() {
                                        let value = m.load(&values[from.at(block, y, x)..]);
                                        let value = scale.map_or(value, |it| m.mul(value, it));
                                        most = m.max(most, value);
                                    }
                                }
                                most
                            }
                            Each::Average { side } => {
                                let (rows, columns) =
                                    (part(y, side, from.h), part(x, side, from.w));
                                let share = 1. / (rows.len() * columns.len()) as f32;
                                let mut sum = m.splat(0.);
                                for y in rows {
                                    for x in columns.clone() {
                                        sum = m.add(sum, m.load(&values[from.at(block, y, x)..]));
                                    }
                                }
                                m.mul(sum, m.splat(share))
                            }
                            Each::Same { scale } => match scale {
                                Some(scale) => m.mul(
                                    m.load(&values[from.at(block, y, x)..]),
                                    m.load(&scale[block * M::LANES..]),
                                ),
                                None => m.load(&values[from.at(block, y, x)..]),
                            },
                            Each::Times { by } => m.mul(
                                m.load(&values[from.at(block, y, x)..]),
                                m.load(&by.values[by.shape.line(picture, block, 0)]),
                            ),
                        };
                        target.put::<M, 1, 1>(m, (picture, block, y, x), [[value]], bias);
                    }
                }
            }
        }
    }
}

/// The positions of the map that the window at `at` covers.
fn window(
    at: usize,
    size: usize,
    stride: usize,
    padding: usize,
    side: usize,
) -> std::ops::Range<usize> {
    let start = at * stride;
    start.saturating_sub(padding)..(start + size - padding).min(side)
}

/// Every `stride`-th position, behind `before` channels of zeros.
pub(super) fn pad(input: Part<'_>, stride: usize, before: usize, out: &mut PartMut<'_>) {
    let (from, to) = (input.shape, out.shape);
    for picture in 0..out.n {
        for channel in 0..to.c {
            let source = channel.checked_sub(before).filter(|it| *it < from.c);
            for y in 0..to.h {
                for x in 0..to.w {
                    let value = source.map_or(0., |it| {
                        let at = from.at(it / from.lanes, y * stride, x * stride);
                        input.values[picture * from.picture() + at + it % from.lanes]
                    });
                    let at = to.at(channel / to.lanes, y, x) + channel % to.lanes;
                    out.values[picture * to.picture() + at] = value;
                }
            }
        }
    }
}
