//! Vectors of whatever the machine has, under one name.
//!
//! `pulp` gives AVX-512, AVX2 with FMA, and NEON; [`Plain`] are arrays that the compiler makes vectors of.

use pulp::{Arch, Simd, WithSimd};

/// The vectors of a machine. Slices must hold at least [`LANES`](Vector::LANES) values.
pub(super) trait Vector: Copy {
    type V: Copy;
    const LANES: usize;
    /// Positions of a [tile](super::tile), as many as there are registers for with two vectors of channels:
    /// 14 of 32 registers, 6 of 16.
    const POSITIONS: usize;

    fn splat(self, value: f32) -> Self::V;
    fn load(self, from: &[f32]) -> Self::V;
    fn store(self, value: Self::V, to: &mut [f32]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the machine can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `value` cut to `low..=high`; what is not a number stays so.
    fn cut(self, value: Self::V, low: Self::V, high: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Whether a value is above the floor beside it.
    fn is_any_above(self, value: Self::V, floor: Self::V) -> bool;
    /// Which values are above the floor beside them: the first in the lowest bit.
    fn above(self, value: Self::V, floor: Self::V) -> u32;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// 2ⁿ of whole numbers -126..=127.
    fn two_to(self, n: Self::V) -> Self::V;

    /// The sum of a vector's values.
    #[inline(always)]
    fn total(self, value: Self::V) -> f32 {
        let mut values = [0.; MOST_LANES];
        self.store(value, &mut values);
        values.into_iter().sum()
    }

    /// The greatest of a vector's values.
    #[inline(always)]
    fn greatest(self, value: Self::V) -> f32 {
        let mut values = [f32::NEG_INFINITY; MOST_LANES];
        self.store(value, &mut values);
        values.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// The most lanes that a vector has.
pub(super) const MOST_LANES: usize = 16;

/// Added to a number of at most 22 bits it leaves nothing of it behind the point, and the whole of it in the lowest bits.
pub(super) const WHOLE: f32 = 12_582_912.;

/// Work that is the same for all vectors. `run` must be `#[inline(always)]`, and every function in it that touches
/// a vector, closures left out: only so is it compiled for the machine's own. A function given as a value is called.
pub(super) trait Work {
    fn run<M: Vector>(self, m: M);
}

#[derive(Clone, Copy)]
struct Native<S>(S);

impl<S: Simd> Vector for Native<S> {
    type V = S::f32s;
    const LANES: usize = S::F32_LANES;
    const POSITIONS: usize = if S::F32_LANES == 16 { 14 } else { 6 };

    #[inline(always)]
    fn splat(self, value: f32) -> S::f32s {
        self.0.splat_f32s(value)
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> S::f32s {
        S::as_simd_f32s(&from[..S::F32_LANES]).0[0]
    }

    #[inline(always)]
    fn store(self, value: S::f32s, to: &mut [f32]) {
        S::as_mut_simd_f32s(&mut to[..S::F32_LANES]).0[0] = value;
    }

    #[inline(always)]
    fn add(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.add_f32s(a, b)
    }

    #[inline(always)]
    fn sub(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.sub_f32s(a, b)
    }

    #[inline(always)]
    fn mul(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.mul_f32s(a, b)
    }

    #[inline(always)]
    fn mul_add(self, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
        self.0.mul_add_e_f32s(a, b, c)
    }

    #[inline(always)]
    fn cut(self, value: S::f32s, low: S::f32s, high: S::f32s) -> S::f32s {
        // In this order: the machine gives the second of two values that cannot be compared.
        self.0.min_f32s(high, self.0.max_f32s(low, value))
    }

    #[inline(always)]
    fn max(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.max_f32s(a, b)
    }

    #[inline(always)]
    fn min(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.min_f32s(a, b)
    }

    #[inline(always)]
    fn div(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.div_f32s(a, b)
    }

    #[inline(always)]
    fn two_to(self, n: S::f32s) -> S::f32s {
        let bits = self.0.transmute_u32s_f32s(self.add(n, self.splat(WHOLE)));
        let exponent = self.0.wrapping_dyn_shl_u32s(bits, self.0.splat_u32s(23));
        let one = self.0.splat_u32s(1f32.to_bits());
        self.0.transmute_f32s_u32s(self.0.add_u32s(exponent, one))
    }

    #[inline(always)]
    fn is_any_above(self, value: S::f32s, floor: S::f32s) -> bool {
        self.0.first_true_m32s(self.0.less_than_f32s(floor, value)) < S::F32_LANES
    }

    #[inline(always)]
    fn above(self, value: S::f32s, floor: S::f32s) -> u32 {
        /// The bits as numbers, whose sum has them all.
        const BITS: [f32; MOST_LANES] = {
            let mut bits = [0.; MOST_LANES];
            let mut lane = 0;
            while lane < MOST_LANES {
                bits[lane] = (1 << lane) as f32;
                lane += 1;
            }
            bits
        };
        let is_above = self.0.less_than_f32s(floor, value);
        let bits = self.0.select_f32s(is_above, self.load(&BITS), self.splat(0.));
        self.0.reduce_sum_f32s(bits) as u32
    }
}

/// An array of so many values.
#[derive(Clone, Copy)]
struct Plain<const LANES: usize>;

impl<const LANES: usize> Plain<LANES> {
    #[inline(always)]
    fn each(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
        let mut values = a;
        values.iter_mut().zip(b).for_each(|(a, b)| *a = f(*a, b));
        values
    }
}

impl<const LANES: usize> Vector for Plain<LANES> {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const POSITIONS: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> [f32; LANES] {
        let mut values = [0.; LANES];
        values.copy_from_slice(&from[..LANES]);
        values
    }

    #[inline(always)]
    fn store(self, value: [f32; LANES], to: &mut [f32]) {
        to[..LANES].copy_from_slice(&value);
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        Self::each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        Self::each(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        Self::each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn cut(self, value: [f32; LANES], low: [f32; LANES], high: [f32; LANES]) -> [f32; LANES] {
        let least = |value: f32, low: f32| if value < low { low } else { value };
        let most = |value: f32, high: f32| if high < value { high } else { value };
        Self::each(Self::each(value, low, least), high, most)
    }

    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        Self::each(a, b, |a, b| if a < b { b } else { a })
    }

    #[inline(always)]
    fn min(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        Self::each(a, b, |a, b| if b < a { b } else { a })
    }

    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        Self::each(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn two_to(self, n: [f32; LANES]) -> [f32; LANES] {
        let shifted = self.add(n, self.splat(WHOLE));
        Self::each(shifted, shifted, |n, _| {
            f32::from_bits((n.to_bits() << 23).wrapping_add(1f32.to_bits()))
        })
    }

    #[inline(always)]
    fn is_any_above(self, value: [f32; LANES], floor: [f32; LANES]) -> bool {
        value.iter().zip(floor).any(|(value, floor)| floor < *value)
    }

    #[inline(always)]
    fn above(self, value: [f32; LANES], floor: [f32; LANES]) -> u32 {
        let pairs = value.iter().zip(floor).enumerate();
        pairs.map(|(lane, (value, floor))| u32::from(floor < *value) << lane).sum()
    }
}

/// Which vectors are used.
#[derive(Debug, Clone, Copy)]
pub enum Isa {
    /// The machine's own.
    Native(Arch),
    /// Arrays of 8.
    Plain,
    /// Arrays of 16: the layout of AVX-512 on any machine.
    #[cfg(test)]
    Wide,
}

impl Isa {
    /// The best there is.
    pub fn best() -> Isa {
        match Arch::new() {
            Arch::Scalar => Isa::Plain,
            arch => Isa::Native(arch),
        }
    }

    #[inline]
    pub(super) fn run(self, work: impl Work) {
        struct With<W>(W);
        impl<W: Work> WithSimd for With<W> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                self.0.run(Native(simd));
            }
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Native(Arch::V4(simd)) => Simd::vectorize(simd, With(work)),
            #[cfg(target_arch = "x86_64")]
            Isa::Native(Arch::V3(simd)) => Simd::vectorize(simd, With(work)),
            #[cfg(target_arch = "aarch64")]
            Isa::Native(Arch::Neon(simd)) => Simd::vectorize(simd, With(work)),
            #[cfg(test)]
            Isa::Wide => work.run(Plain::<16>),
            _ => work.run(Plain::<8>),
        }
    }

    pub(super) fn lanes(self) -> usize {
        struct Lanes<'a>(&'a mut usize);
        impl Work for Lanes<'_> {
            #[inline(always)]
            fn run<M: Vector>(self, _: M) {
                *self.0 = M::LANES;
            }
        }
        let mut lanes = 0;
        self.run(Lanes(&mut lanes));
        lanes
    }
}

/// Runs `$body` with every kind of vector: `$m` of type `$M`.
#[cfg(test)]
macro_rules! with_all_vectors {
    ($m:ident: $M:ident => $body:expr) => {{
        use $crate::model::engine::vector::{Isa, Vector, Work};
        struct All;
        impl Work for All {
            #[inline(always)]
            fn run<$M: Vector>(self, $m: $M) {
                $body
            }
        }
        for isa in [Isa::best(), Isa::Plain, Isa::Wide] {
            isa.run(All);
        }
    }};
}
#[cfg(test)]
pub(super) use with_all_vectors;

#[cfg(test)]
mod tests {
    #[test]
    fn vectors_do_what_numbers_do() {
        with_all_vectors!(m: M => {
            let values: Vec<f32> = (0..M::LANES).map(|i| i as f32 - 3.5).collect();
            let (a, two) = (m.load(&values), m.splat(2.));
            let check = |found: M::V, wanted: fn(f32) -> f32| {
                let mut to = vec![0.; M::LANES];
                m.store(found, &mut to);
                let wanted: Vec<f32> = values.iter().map(|&it| wanted(it)).collect();
                assert_eq!(to, wanted);
            };
            check(m.add(a, two), |it| it + 2.);
            check(m.sub(a, two), |it| it - 2.);
            check(m.mul(a, two), |it| it * 2.);
            check(m.mul_add(a, two, a), |it| it * 3.);
            check(m.max(a, two), |it| it.max(2.));
            check(m.min(a, two), |it| it.min(2.));
            check(m.div(a, two), |it| it / 2.);
            check(m.two_to(m.add(a, m.splat(0.5))), |it| (it + 0.5).exp2());
            check(m.two_to(m.splat(-126.)), |_| f32::MIN_POSITIVE);
            let highest = M::LANES as f32 - 4.5;
            assert_eq!((m.total(a), m.greatest(a)), (values.iter().sum(), highest));
            let above = |floor| m.is_any_above(a, m.splat(floor));
            assert!(above(highest - 0.5) && !above(highest));
            assert!(!m.is_any_above(m.splat(f32::NAN), two));
            let wanted = (0..M::LANES).map(|it| u32::from(2. < it as f32 - 3.5) << it).sum();
            assert_eq!([m.above(a, two), m.above(two, two)], [wanted, 0u32]);
            check(m.cut(a, m.splat(0.), two), |it| it.clamp(0., 2.));
            let mut to = vec![0.; M::LANES];
            m.store(m.cut(m.splat(f32::NAN), m.splat(0.), two), &mut to);
            assert!(to.iter().all(|it| it.is_nan()), "{to:?}");
        });
    }
}
