//! GELU (Hendrycks and Gimpel 2016, <https://arxiv.org/abs/1606.08415>) by the error function.

use super::exp::exp;
use super::layout::{Part, PartMut};
use super::vector::{Isa, Vector, Work};

/// Abramowitz and Stegun 1964, 7.1.26: with t = 1 / (1 + p z), erfc z = e^(−z²) · t · (a₁ + a₂ t + …) within 1.5e-7.
const P: f32 = 0.327_591_1;
/// The last one first.
const A: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];

/// Of each value of `input`.
pub(super) fn run(isa: Isa, input: Part<'_>, out: PartMut<'_>) {
    isa.run(Job { input, out });
}

struct Job<'a> {
    input: Part<'a>,
    out: PartMut<'a>,
}

impl Work for Job<'_> {
    #[inline(always)]
    fn run<M: Vector>(self, m: M) {
        let Job { input, out } = self;
        let (from, to) = (input.shape, out.shape);
        for picture in 0..input.n {
            for block in 0..to.blocks() {
                for y in 0..to.h {
                    let values = &input.values[from.line(picture, block, y)];
                    let gelus = &mut out.values[to.line(picture, block, y)];
                    let pairs = values.chunks_exact(M::LANES).zip(gelus.chunks_exact_mut(M::LANES));
                    for (from, to) in pairs {
                        m.store(gelu(m, m.load(from)), to);
                    }
                }
            }
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    struct All;
    impl Work for All {
        #[inline(always)]
        fn run<M: Vector>(self, m: M) {
            let mut ys = vec![0.; M::LANES];
            // By PyTorch in f64, which candle agrees with.
            let points = [
                (-8., -4.976_858e-15),
                (-3., -0.004_049_694),
                (-1., -0.158_655_25),
                (-0.75, -0.169_970_4),
                (-0.1, -0.046_017_216),
                (0., 0.),
                (1e-4, 5.000_399e-5),
                (0.5, 0.345_731_23),
                (1.5, 1.399_789_2),
                (4., 3.999_873_3),
                (9., 9.),
                (300., 300.),
            ];
            for (x, wanted) in points {
                m.store(gelu(m, m.splat(x)), &mut ys);
                let close = |y: &f32| (y - wanted).abs() <= 5e-7 * wanted.abs().max(1.);
                assert!(ys.iter().all(close), "gelu({x}) is {ys:?}");
            }
            m.store(gelu(m, m.splat(f32::NAN)), &mut ys);
            assert!(ys.iter().all(|it| it.is_nan()));
        }
    }

    #[test]
    fn it_is_pytorchs() {
        for isa in [Isa::best(), Isa::Plain, Isa::Wide] {
            isa.run(All);
        }
    }
}
