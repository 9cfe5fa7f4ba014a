//! Activations that are curves: what no cut can do.

use super::super::op::Curve;
use super::exp::exp;
use super::layout::{Part, PartMut};
use super::vector::{Isa, Vector, Work};

/// Abramowitz and Stegun 1964, 7.1.26: with t = 1 / (1 + p z), erfc z = e^(−z²) · t · (a₁ + a₂ t + …) within 1.5e-7.
const P: f32 = 0.327_591_1;
/// The last one first.
const A: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];

impl Curve {
    /// Of each value of `maps`, in its place.
    pub(super) fn bend(self, isa: Isa, maps: PartMut<'_>) {
        isa.run(Job { curve: self, input: None, maps });
    }

    /// Of each value of `input`.
    pub(super) fn run(self, isa: Isa, input: Part<'_>, maps: PartMut<'_>) {
        isa.run(Job { curve: self, input: Some(input), maps });
    }

    #[inline(always)]
    fn at<M: Vector>(self, m: M, x: M::V) -> M::V {
        match self {
            Curve::Gelu => gelu(m, x),
            Curve::GeluTanh => gelu_tanh(m, x),
            Curve::Silu => silu(m, x),
            Curve::Sigmoid => sigmoid(m, x),
            Curve::HardSwish => hard_swish(m, x),
            Curve::HardSigmoid => hard_sigmoid(m, x),
            Curve::HardSigmoidUnclamped => hard_sigmoid_up_to(m, x, f32::INFINITY),
        }
    }
}

struct Job<'a> {
    curve: Curve,
    input: Option<Part<'a>>,
    maps: PartMut<'a>,
}

impl Work for Job<'_> {
    #[inline(always)]
    fn run<M: Vector>(self, m: M) {
        // Named once more, so that each is compiled with a loop of its own.
        match self.curve {
            Curve::Gelu => self.each(m, Curve::Gelu),
            Curve::GeluTanh => self.each(m, Curve::GeluTanh),
            Curve::Silu => self.each(m, Curve::Silu),
            Curve::Sigmoid => self.each(m, Curve::Sigmoid),
            Curve::HardSwish => self.each(m, Curve::HardSwish),
            Curve::HardSigmoid => self.each(m, Curve::HardSigmoid),
            Curve::HardSigmoidUnclamped => self.each(m, Curve::HardSigmoidUnclamped),
        }
    }
}

impl Job<'_> {
    #[inline(always)]
    fn each<M: Vector>(self, m: M, curve: Curve) {
        let Job { input, maps, .. } = self;
        let to = maps.shape;
        for picture in 0..maps.n {
            for block in 0..to.blocks() {
                for y in 0..to.h {
                    let row = &mut maps.values[to.line(picture, block, y)];
                    if let Some(input) = input {
                        let from = &input.values[input.shape.line(picture, block, y)];
                        let pairs = from.chunks_exact(M::LANES).zip(row.chunks_exact_mut(M::LANES));
                        for (from, to) in pairs {
                            m.store(curve.at(m, m.load(from)), to);
                        }
                    } else {
                        for at in row.chunks_exact_mut(M::LANES) {
                            m.store(curve.at(m, m.load(at)), at);
                        }
                    }
                }
            }
        }
    }
}

/// GELU (Hendrycks and Gimpel 2016, <https://arxiv.org/abs/1606.08415>) by the error function:
/// x · Φ(x) = max(x, 0) − |x| / 2 · erfc(|x| / √2), within 1e-6. Zero gives zero, what is not a number stays so.
#[inline(always)]
fn gelu<M: Vector>(m: M, x: M::V) -> M::V {
    let (zero, one) = (m.splat(0.), m.splat(1.));
    let size = m.max(x, m.sub(zero, x));
    let t = m.div(one, m.mul_add(size, m.splat(P * std::f32::consts::FRAC_1_SQRT_2), one));
    let mut series = m.splat(A[0]);
    for a in &A[1..] {
        series = m.mul_add(series, t, m.splat(*a));
    }
    let power = exp(m, m.mul(m.mul(x, x), m.splat(-0.5)));
    let erfc = m.mul(m.mul(series, t), power);
    m.sub(m.max(x, zero), m.mul(m.mul(size, m.splat(0.5)), erfc))
}

/// GELU's approximation. With u = √(2/π) · (x + 0.044715 · x³), (1 + tanh u) / 2 is σ(2 u).
#[inline(always)]
fn gelu_tanh<M: Vector>(m: M, x: M::V) -> M::V {
    const SLOPE: f32 = 2. * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    let u = m.mul_add(m.mul(m.mul(x, x), m.splat(0.044_715 * SLOPE)), x, m.mul(x, m.splat(SLOPE)));
    m.mul(x, sigmoid(m, u))
}

/// x · σ(x), also called swish.
#[inline(always)]
fn silu<M: Vector>(m: M, x: M::V) -> M::V {
    m.mul(x, sigmoid(m, x))
}

/// 1 / (1 + e⁻ˣ)
#[inline(always)]
fn sigmoid<M: Vector>(m: M, x: M::V) -> M::V {
    let one = m.splat(1.);
    m.div(one, m.add(one, exp(m, m.sub(m.splat(0.), x))))
}

/// x · min(max(x + 3, 0), 6) / 6 (Howard et al. 2019).
#[inline(always)]
fn hard_swish<M: Vector>(m: M, x: M::V) -> M::V {
    m.mul(x, hard_sigmoid(m, x))
}

/// min(max(x + 3, 0), 6) / 6
#[inline(always)]
fn hard_sigmoid<M: Vector>(m: M, x: M::V) -> M::V {
    hard_sigmoid_up_to(m, x, 6.)
}

/// min(max(x + 3, 0), most) / 6
#[inline(always)]
fn hard_sigmoid_up_to<M: Vector>(m: M, x: M::V, most: f32) -> M::V {
    let cut = m.cut(m.add(x, m.splat(3.)), m.splat(0.), m.splat(most));
    m.mul(cut, m.splat(1. / 6.))
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Around, Maps, Shape};
    use super::super::vector::with_all_vectors;
    use super::*;

    const POINTS: [f32; 12] = [-300., -8., -3., -1., -0.75, -0.1, 0., 1e-4, 0.5, 1.5, 9., 300.];

    /// By PyTorch in f64, at [`POINTS`].
    const WANTED: [(Curve, [f64; 12]); 6] = [
        (
            Curve::Gelu,
            [
                -0.0,
                -4.8849813e-15,
                -0.0040496941,
                -0.15865525,
                -0.16997051,
                -0.046017217,
                0.0,
                5.0003988e-05,
                0.34573123,
                1.3997892,
                9.0,
                300.0,
            ],
        ),
        (
            Curve::GeluTanh,
            [
                -0.0,
                -0.0,
                -0.0036373921,
                -0.15880801,
                -0.17003944,
                -0.04601725,
                0.0,
                5.0003988e-05,
                0.34571401,
                1.3995716,
                9.0,
                300.0,
            ],
        ),
        (
            Curve::Silu,
            [
                -1.5444601e-128,
                -0.002682801,
                -0.14227762,
                -0.26894142,
                -0.24061598,
                -0.047502082,
                0.0,
                5.0002499e-05,
                0.31122967,
                1.2263617,
                8.9988894,
                300.0,
            ],
        ),
        (
            Curve::Sigmoid,
            [
                5.1482002e-131,
                0.00033535013,
                0.047425873,
                0.26894142,
                0.3208213,
                0.47502081,
                0.5,
                0.500025,
                0.62245933,
                0.81757448,
                0.99987661,
                1.0,
            ],
        ),
        (
            Curve::HardSwish,
            [
                -0.0,
                -0.0,
                -0.0,
                -0.33333333,
                -0.28125,
                -0.048333334,
                0.0,
                5.0001665e-05,
                0.29166667,
                1.125,
                9.0,
                300.0,
            ],
        ),
        (
            Curve::HardSigmoid,
            [
                0.0, 0.0, 0.0, 0.33333333, 0.375, 0.48333333, 0.5, 0.50001667, 0.58333333, 0.75,
                1.0, 1.0,
            ],
        ),
    ];

    #[test]
    fn they_are_pytorchs() {
        with_all_vectors!(m: M => {
            for (curve, wanted) in WANTED {
                let shape = Shape::new((M::LANES, 1, 13), Around::default(), M::LANES);
                let mut maps = Maps::zeros(1, shape);
                let xs = POINTS.into_iter().chain([f32::NAN]);
                for (position, x) in maps.values.chunks_exact_mut(M::LANES).zip(xs) {
                    position.fill(x);
                }
                Job { curve, input: None, maps: maps.part_mut(0..1) }.run(m);
                for ((ys, x), wanted) in maps.values.chunks_exact(M::LANES).zip(POINTS).zip(wanted) {
                    let close = |y: &f32| (f64::from(*y) - wanted).abs() <= 5e-7 * wanted.abs().max(1.);
                    assert!(ys.iter().all(close), "{curve:?} of {x} is {ys:?}");
                }
                assert!(maps.values[12 * M::LANES..].iter().all(|it| it.is_nan()), "{curve:?}");
            }
        });
    }
}
