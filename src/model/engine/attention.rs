//! Attention: of each head `softmax(q · kᵀ / √d) · v`, a few queries at a time.
//!
//! Both products are those of a [`tile`](super::tile). For the first one keys stand where a convolution has output
//! channels, so the scores of a few queries lie as a map does, blocks of keys by queries, and are the input of the
//! second one. They never leave the nearest cache.

use super::exp::exp;
use super::layout::{Aligned, Part, PartMut, Shape};
use super::tile::{tile, walk};
use super::vector::{Isa, MOST_LANES, Vector, Work};

/// Whether heads of so many channels are whole blocks on every machine.
pub(super) fn has_blocks(channels: usize) -> bool {
    channels.is_multiple_of(MOST_LANES)
}

/// The keys and values of a head as tiles want weights, and the scores of a few queries.
#[derive(Default)]
pub(super) struct Scratch {
    /// `(pairs of blocks of keys, blocks of channels, lanes, 2 · lanes)`
    keys: Aligned,
    /// `(pairs of blocks of channels, blocks of keys, lanes, 2 · lanes)`
    values: Aligned,
    /// `(blocks of keys, queries, lanes)`
    scores: Aligned,
}

/// Reads queries, keys and values, each `heads` parts side by side; positions are tokens in one row.
pub(super) fn run(
    isa: Isa,
    heads: usize,
    input: Part<'_>,
    out: PartMut<'_>,
    scratch: &mut Scratch,
) {
    isa.run(Job { heads, input, out, scratch });
}

struct Job<'a> {
    heads: usize,
    input: Part<'a>,
    out: PartMut<'a>,
    scratch: &'a mut Scratch,
}

/// One head of a picture.
struct Head<'a> {
    /// All of the picture's queries, keys and values.
    values: &'a [f32],
    from: Shape,
    /// The head's first block among those of the queries, which is that of its output.
    block: usize,
    /// Blocks of channels of a head.
    blocks: usize,
    /// √(1/d).
    scale: f32,
}

impl Work for Job<'_> {
    #[inline(always)]
    fn run<M: Vector>(self, m: M) {
        let Job { heads, input, out, scratch } = self;
        let (from, to) = (input.shape, out.shape);
        let channels = to.c / heads;
        let (blocks, scale) = (channels / M::LANES, (channels as f32).powf(-0.5));
        for picture in 0..input.n {
            let values = &input.values[picture * from.picture()..][..from.picture()];
            let out = &mut out.values[picture * to.picture()..][..to.picture()];
            for block in (0..to.blocks()).step_by(blocks) {
                let head = Head { values, from, block, blocks, scale };
                head.pack::<M>(to.blocks(), scratch);
                match M::POSITIONS {
                    14 => head.attend_all::<M, 14>(m, scratch, &to, out),
                    6 => head.attend_all::<M, 6>(m, scratch, &to, out),
                    _ => head.attend_all::<M, 2>(m, scratch, &to, out),
                }
            }
        }
    }
}

impl Head<'_> {
    /// Lays keys and values out; `apart` are the blocks from queries to keys and from keys to values.
    #[inline(always)]
    fn pack<M: Vector>(&self, apart: usize, scratch: &mut Scratch) {
        let Head { values, from, block, blocks, .. } = *self;
        let (lanes, width) = (M::LANES, 2 * M::LANES);
        let of_keys = from.w.div_ceil(lanes);
        let a_pair = [blocks * lanes * width, of_keys * lanes * width];
        for (it, len) in [
            (&mut scratch.keys, of_keys.div_ceil(2) * a_pair[0]),
            (&mut scratch.values, blocks.div_ceil(2) * a_pair[1]),
        ] {
            it.grow(len);
            it[..len].fill(0.);
        }
        scratch.scores.grow(of_keys.next_multiple_of(2) * M::POSITIONS * lanes);
        for own in 0..blocks {
            let keys = &values[from.line(0, block + apart + own, 0)];
            for (token, channels) in keys.chunks_exact(lanes).enumerate() {
                let to = token / width * a_pair[0] + own * lanes * width + token % width;
                let to = scratch.keys[to..].iter_mut().step_by(width);
                to.zip(channels).for_each(|(to, from)| *to = *from);
            }
            let from = &values[from.line(0, block + 2 * apart + own, 0)];
            let to = &mut scratch.values[own / 2 * a_pair[1] + own % 2 * lanes..];
            for (from, to) in from.chunks_exact(lanes).zip(to.chunks_mut(width)) {
                to[..lanes].copy_from_slice(from);
            }
        }
    }

    /// The output of all queries, `P` at a time: the last ones go with some that went before, as two widths of tiles
    /// are enough to compile.
    #[inline(always)]
    fn attend_all<M: Vector, const P: usize>(
        &self,
        m: M,
        scratch: &mut Scratch,
        to: &Shape,
        out: &mut [f32],
    ) {
        let n = self.from.w;
        let step = if P <= n { P } else { 1 };
        let queries = walk((self.blocks, self.from.block()), 1, 0, 0);
        let scores = walk((n.div_ceil(M::LANES), step * M::LANES), 1, 0, 0);
        for x in (0..n).step_by(step) {
            if P <= n {
                self.attend::<M, P>(m, x.min(n - P), [&queries, &scores], scratch, to, out);
            } else {
                self.attend::<M, 1>(m, x, [&queries, &scores], scratch, to, out);
            }
        }
    }

    /// The output of the queries `x..x + P`. Tiles walk over queries and over scores.
    #[inline(always)]
    fn attend<M: Vector, const P: usize>(
        &self,
        m: M,
        x: usize,
        walks: [&[usize]; 2],
        scratch: &mut Scratch,
        to: &Shape,
        out: &mut [f32],
    ) {
        let Head { values, from, block, blocks, scale } = *self;
        let (lanes, width) = (M::LANES, 2 * M::LANES);
        let of_keys = from.w.div_ceil(lanes);
        let Scratch { keys, values: packed, scores } = scratch;

        let queries = &values[from.at(block, 0, x)..];
        let a_pair = blocks * lanes * width;
        for pair in 0..of_keys.div_ceil(2) {
            let keys = &keys[pair * a_pair..][..a_pair];
            let sums = tile::<M, P, 2, 1, false>(m, walks[0], queries, keys);
            for (p, sums) in sums.into_iter().enumerate() {
                for (b, sum) in sums.into_iter().enumerate() {
                    m.store(sum, &mut scores[((2 * pair + b) * P + p) * lanes..]);
                }
            }
        }

        // Nothing is there behind the last key.
        let mut beyond = [0.; MOST_LANES];
        beyond[lanes - (of_keys * lanes - from.w)..].fill(f32::NEG_INFINITY);
        let beyond = m.load(&beyond);
        let mut shares = [0.; P];
        for (p, share) in shares.iter_mut().enumerate() {
            let last = ((of_keys - 1) * P + p) * lanes;
            let score = m.add(m.load(&scores[last..]), beyond);
            m.store(score, &mut scores[last..]);
            let mut most = score;
            for keys in 0..of_keys - 1 {
                most = m.max(most, m.load(&scores[(keys * P + p) * lanes..]));
            }
            let most = m.splat(m.greatest(most));
            let mut sum = m.splat(0.);
            for keys in 0..of_keys {
                let score = &mut scores[(keys * P + p) * lanes..];
                let power = exp(m, m.mul(m.sub(m.load(score), most), m.splat(scale)));
                sum = m.add(sum, power);
                m.store(power, score);
            }
            *share = 1. / m.total(sum);
        }

        let a_pair = of_keys * lanes * width;
        for pair in 0..blocks.div_ceil(2) {
            let sums =
                tile::<M, P, 2, 1, false>(m, walks[1], scores, &packed[pair * a_pair..][..a_pair]);
            for b in 0..(blocks - 2 * pair).min(2) {
                let out = &mut out[to.at(block + 2 * pair + b, 0, x)..];
                for p in 0..P {
                    let mean = m.mul(sums[p][b], m.splat(shares[p]));
                    m.store(mean, &mut out[p * lanes..]);
                }
            }
        }
    }
}
