//! The one inner loop of convolutions: a tile of positions times a few output channels, held in registers.
//!
//! For every input value of a position the weights of `B · lanes` output channels are read once and serve all
//! `P` positions; each position's value is spread over a whole vector. With AVX2's 16 registers 6 positions by
//! 2 vectors keep 12 sums, enough to hide the latency of a multiply-add; with 32 registers it is 14 by 2.

use super::vector::Vector;

/// Where a window finds its values, counted from its first one: input block after block, in a block row after row, in a
/// row of `kernel` positions `inner` values each.
pub(super) fn walk(blocks: (usize, usize), kernel: usize, row: usize, inner: usize) -> Vec<usize> {
    let (blocks, block) = blocks;
    let rows = (0..blocks).flat_map(|it| (0..kernel).map(move |ky| it * block + ky * row));
    rows.flat_map(|it| (0..kernel).map(move |kx| it + kx * inner)).collect()
}

/// The sums of `P` positions, `STRIDE` positions apart in the input, and `B` vectors of output channels.
///
/// `input` begins with the first value of the first window, of which `walk` says where it goes on. `weights` are
/// `(walk, inner, B · lanes)`, where `inner` is the input channels side by side: the lanes of the machine, or 1 where
/// `PLANAR`.
#[inline(always)]
pub(super) fn tile<
    M: Vector,
    const P: usize,
    const B: usize,
    const STRIDE: usize,
    const PLANAR: bool,
>(
    m: M,
    walk: &[usize],
    input: &[f32],
    weights: &[f32],
) -> [[M::V; B]; P] {
    let inner = if PLANAR { 1 } else { M::LANES };
    let apart = STRIDE * inner;
    let mut sums = [[m.splat(0.); B]; P];
    for (at, weights) in walk.iter().zip(weights.chunks_exact(inner * B * M::LANES)) {
        let positions = &input[*at..][..(P - 1) * apart + inner];
        for c in 0..inner {
            let mut w = [m.splat(0.); B];
            for (b, w) in w.iter_mut().enumerate() {
                *w = m.load(&weights[(c * B + b) * M::LANES..]);
            }
            for (p, sums) in sums.iter_mut().enumerate() {
                let x = m.splat(positions[p * apart + c]);
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = m.mul_add(x, w, *sum);
                }
            }
        }
    }
    sums
}

/// The positions of a row in tiles of at most `most`, none much smaller than the others: where each begins and how
/// many it has.
pub(super) fn tiles(n: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = n.div_ceil(most);
    (0..parts).map(move |i| (i * n / parts, (i + 1) * n / parts - i * n / parts))
}

/// Calls a [`tile`] with the number of positions known to the compiler. Only as many as the machine has registers
/// for are compiled.
macro_rules! with_positions {
    ($M:ident, $p:expr, $P:ident => $body:expr) => {
        if $M::POSITIONS == 14 {
            with_positions!(@ $p, $P, $body, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
        } else if $M::POSITIONS == 6 {
            with_positions!(@ $p, $P, $body, 1 2 3 4 5 6)
        } else {
            with_positions!(@ $p, $P, $body, 1 2)
        }
    };
    (@ $p:expr, $P:ident, $body:expr, $($n:literal)*) => {
        match $p {
            $($n => { const $P: usize = $n; $body })*
            p => unreachable!("a tile of {p} positions"),
        }
    };
}
pub(super) use with_positions;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_a_row() {
        for most in [2, 6, 14] {
            for n in 0..200 {
                let mut next = 0;
                for (start, len) in tiles(n, most) {
                    assert_eq!(start, next);
                    assert!((1..=most).contains(&len), "{len}");
                    next += len;
                }
                assert_eq!(next, n);
            }
        }
        // Rather three of like size than one that leaves registers idle.
        assert_eq!(tiles(14, 6).map(|it| it.1).collect::<Vec<_>>(), [4, 5, 5]);
    }
}
