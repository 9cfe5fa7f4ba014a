//! Pictures to tokens: patches, the class token before them, and what stands for places.

use super::direct::{Direct, padded};
use super::finish::Target;
use super::layout::{Aligned, Around, Maps, Part, PartMut, Shape};
use super::vector::Isa;

/// A convolution of patches that do not overlap: each patch is one position of a 1×1 convolution.
pub(super) struct Patches {
    size: usize,
    conv: Direct,
}

impl Patches {
    /// From `weight` `(c_out, c_in, size, size)` and `bias` `(c_out,)`.
    pub(super) fn new(
        [c_out, c_in, size]: [usize; 3],
        weight: &[f32],
        bias: &[f32],
        lanes: usize,
    ) -> Patches {
        let sizes = [c_out, c_in * size * size, 1];
        Patches { size, conv: Direct::new(sizes, 1, false, weight, bias, lanes) }
    }

    /// Of pictures, whose channels are planes of their own. `scratch` holds the patches.
    pub(super) fn run(&self, isa: Isa, input: Part<'_>, target: Target<'_>, scratch: &mut Maps) {
        let (size, to) = (self.size, target.out.shape);
        let c = input.shape.c * size * size;
        let shape = Shape::new((c, to.h, to.w), Around::default(), isa.lanes());
        if scratch.shape != shape || scratch.n < input.n {
            *scratch = Maps::zeros(input.n, shape);
        }
        let mut patches = scratch.part_mut(0..input.n);
        cut(input, size, &mut patches);
        self.conv.run(isa, patches.part(), (0, 0), target);
    }
}

/// The pixels of a patch become channels, in the order of a convolution's weights.
fn cut(input: Part<'_>, size: usize, patches: &mut PartMut<'_>) {
    let (from, to) = (input.shape, patches.shape);
    for picture in 0..input.n {
        for (plane, y) in (0..from.c).flat_map(|c| (0..to.h * size).map(move |y| (c, y))) {
            let row = &input.values[from.line(picture, plane, y)];
            let first = (plane * size + y % size) * size;
            for (x, pixels) in row.chunks_exact(size).enumerate() {
                for (channel, pixel) in (first..).zip(pixels) {
                    let at = to.at(channel / to.lanes, y / size, x) + channel % to.lanes;
                    patches.values[picture * to.picture() + at] = *pixel;
                }
            }
        }
    }
}

/// Tokens of a map, row by row, behind `class` `(blocks, lanes)`.
pub(super) fn with_class(input: Part<'_>, class: &[f32], out: &mut PartMut<'_>) {
    let (from, to) = (input.shape, out.shape);
    for picture in 0..input.n {
        for (block, class) in class.chunks_exact(to.lanes).enumerate() {
            let line = &mut out.values[to.line(picture, block, 0)];
            let (first, patches) = line.split_at_mut(to.lanes);
            first.copy_from_slice(class);
            for (y, row) in patches.chunks_exact_mut(from.w * to.lanes).enumerate() {
                row.copy_from_slice(&input.values[from.line(picture, block, y)]);
            }
        }
    }
}

/// Adds `places` `(blocks, tokens, lanes)` to the tokens of every picture.
pub(super) fn with_places(input: Part<'_>, places: &[f32], out: &mut PartMut<'_>) {
    let (from, to) = (input.shape, out.shape);
    for picture in 0..input.n {
        for (block, places) in places.chunks_exact(to.w * to.lanes).enumerate() {
            let tokens = &input.values[from.line(picture, block, 0)];
            let sums = &mut out.values[to.line(picture, block, 0)];
            for ((to, token), place) in sums.iter_mut().zip(tokens).zip(places) {
                *to = token + place;
            }
        }
    }
}

/// `(t, c)` as `(blocks, t, lanes)`.
pub(super) fn blocked(values: &[f32], c: usize, lanes: usize) -> Aligned {
    let tokens: Vec<Aligned> = values.chunks_exact(c).map(|it| padded(it, lanes)).collect();
    let mut blocked = Aligned::zeros(c.next_multiple_of(lanes) * tokens.len());
    let places = (0..c.div_ceil(lanes)).flat_map(|block| tokens.iter().map(move |it| (block, it)));
    for (to, (block, token)) in blocked.chunks_exact_mut(lanes).zip(places) {
        to.copy_from_slice(&token[block * lanes..][..lanes]);
    }
    blocked
}
