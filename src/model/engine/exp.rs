//! eˣ, a vector at a time.

use super::vector::{Vector, WHOLE};

/// log₂ e.
const TO_TWO: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts: the product of the first with a small whole number is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// Of Cephes' `expf`: (eʳ − 1 − r) / r² for |r| ≤ ln 2 / 2.
const SERIES: [f32; 6] =
    [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];

/// eˣ within 2e-7 of itself for −87 ≤ x ≤ 88, beyond which x is cut. What is not a number stays so.
#[inline(always)]
pub(super) fn exp<M: Vector>(m: M, x: M::V) -> M::V {
    let x = m.cut(x, m.splat(-87.), m.splat(88.));
    // Adding it leaves no bits behind the point.
    let n = m.sub(m.mul_add(x, m.splat(TO_TWO), m.splat(WHOLE)), m.splat(WHOLE));
    let mut r = x;
    for part in LN_2 {
        r = m.mul_add(n, m.splat(-part), r);
    }
    let mut series = m.splat(SERIES[0]);
    for term in &SERIES[1..] {
        series = m.mul_add(series, r, m.splat(*term));
    }
    let r = m.add(m.mul_add(m.mul(r, r), series, r), m.splat(1.));
    m.mul(r, m.two_to(n))
}

#[cfg(test)]
mod tests {
    use super::super::vector::with_all_vectors;
    use super::*;

    #[test]
    fn it_is_that_of_numbers() {
        with_all_vectors!(m: M => {
            let xs: Vec<f32> = (0..M::LANES * 20_000).map(|i| i as f32 / 1000. - 87.).collect();
            let mut ys = vec![0.; M::LANES];
            for xs in xs.chunks_exact(M::LANES).filter(|it| it[M::LANES - 1] <= 88.) {
                m.store(exp(m, m.load(xs)), &mut ys);
                for (x, y) in xs.iter().zip(&ys) {
                    let wanted = f64::from(*x).exp();
                    assert!((f64::from(*y) - wanted).abs() <= 2e-7 * wanted, "e^{x} is {y}");
                }
            }
            m.store(exp(m, m.splat(0.)), &mut ys);
            assert!(ys.iter().all(|it| *it == 1.));
            m.store(exp(m, m.splat(f32::NEG_INFINITY)), &mut ys);
            assert!(ys.iter().all(|it| (0. ..1e-37).contains(it)));
            m.store(exp(m, m.splat(f32::NAN)), &mut ys);
            assert!(ys.iter().all(|it| it.is_nan()));
        });
    }
}
