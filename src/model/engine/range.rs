//! The least and the greatest of some values.

use super::vector::{Isa, Vector, Work};

/// The least and the greatest value; nothing where one is NaN or infinite, or there is none.
pub fn finite_range(values: &[f32]) -> Option<(f32, f32)> {
    let (mut low, mut high, mut rest) = (f32::INFINITY, f32::NEG_INFINITY, 0.);
    Isa::best().run(Range { values, low: &mut low, high: &mut high, rest: &mut rest });
    // What is not finite is not finite times nothing, either, and spoils the sum.
    (rest == 0. && !values.is_empty()).then_some((low, high))
}

struct Range<'a> {
    values: &'a [f32],
    low: &'a mut f32,
    high: &'a mut f32,
    rest: &'a mut f32,
}

impl Work for Range<'_> {
    #[inline(always)]
    fn run<M: Vector>(self, m: M) {
        let Range { values, low, high, rest } = self;
        let nothing = m.splat(0.);
        let mut least = m.splat(f32::INFINITY);
        let mut most = m.splat(f32::NEG_INFINITY);
        let mut sum = nothing;
        let parts = values.chunks_exact(M::LANES);
        let left = parts.remainder();
        for part in parts {
            let value = m.load(part);
            least = m.min(least, value);
            most = m.max(most, value);
            sum = m.mul_add(value, nothing, sum);
        }
        let mut ends = [[0.; 16]; 3];
        m.store(least, &mut ends[0]);
        m.store(most, &mut ends[1]);
        m.store(sum, &mut ends[2]);
        let lanes = ends.map(|it| it[..M::LANES].to_vec());
        for &value in left.iter().chain(&lanes[0]).filter(|it| **it != f32::INFINITY) {
            *low = low.min(value);
        }
        for &value in left.iter().chain(&lanes[1]).filter(|it| **it != f32::NEG_INFINITY) {
            *high = high.max(value);
        }
        *rest = left.iter().map(|it| it * 0.).sum::<f32>() + lanes[2].iter().sum::<f32>();
    }
}
