//! Whether what is claimed with some confidence is true as often.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::measures::ascending;

/// Claims of about the same confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bin {
    pub n: usize,
    /// The mean confidence.
    pub confidence: f64,
    /// The share, 0..=1, that was true.
    pub agreed: f64,
}

/// Confidence against truth in bins of equal count, the least confident first.
///
/// Where the count does not divide, the first bins hold one more, as with `numpy.array_split`;
/// empty bins are left out. Equal confidences keep the order given, so their bin may depend on it.
pub fn reliability(confidences: &[f32], truth: &[bool], bins: usize) -> Vec<Bin> {
    assert_eq!(confidences.len(), truth.len());
    let order = ascending(confidences);
    let mut rest = &order[..];
    let mut found = vec![];
    for left in (1..=bins).rev() {
        let (bin, after) = rest.split_at(rest.len().div_ceil(left));
        rest = after;
        if bin.is_empty() {
            break;
        }
        let mean = |value: &dyn Fn(usize) -> f64| {
            bin.iter().map(|&i| value(i)).sum::<f64>() / bin.len() as f64
        };
        let confidence = mean(&|i| f64::from(confidences[i]));
        let agreed = mean(&|i| f64::from(u8::from(truth[i])));
        found.push(Bin { n: bin.len(), confidence, agreed });
    }
    found
}

/// The expected calibration error, 0..=1, over bins of equal count; NaN without any claim.
///
/// The mean over claims of how far their bin's confidence is from the share that was true (Naeini
/// et al. 2015; equal counts as in Nixon et al. 2019).
pub fn calibration_error(confidences: &[f32], truth: &[bool], bins: usize) -> f64 {
    let bins = reliability(confidences, truth, bins);
    let n: usize = bins.iter().map(|bin| bin.n).sum();
    let off = bins.iter().map(|bin| bin.n as f64 * (bin.confidence - bin.agreed).abs());
    off.sum::<f64>() / n as f64
}

/// The mean [`calibration_error`] of confidences that are exactly right, over truths drawn by them: with few claims it is
/// above 0 by chance (after Bröcker and Smith 2007, "Increasing the reliability of reliability diagrams"). NaN where a
/// confidence is, or without any claim.
pub fn error_if_right(confidences: &[f32], bins: usize) -> f64 {
    const DRAWS: usize = 500;
    if confidences.iter().any(|it| it.is_nan()) {
        return f64::NAN;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let errors = (0..DRAWS).map(|_| {
        let truth: Vec<bool> =
            confidences.iter().map(|it| rng.random_bool(f64::from(it.clamp(0., 1.)))).collect();
        calibration_error(confidences, &truth, bins)
    });
    errors.sum::<f64>() / DRAWS as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-7, "{found} is not {expected}");
    }

    fn flags(of: &[u8]) -> Vec<bool> {
        of.iter().map(|it| *it == 1).collect()
    }

    /// The numbers are of `numpy.array_split` over a stable sort.
    #[test]
    fn bins_hold_equal_counts() {
        let confidences = [0.9, 0.1, 0.55, 0.8, 0.3, 0.7, 0.65, 0.2, 0.95, 0.5, 0.05];
        let truth = flags(&[1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0]);
        let found = reliability(&confidences, &truth, 4);
        let expected = [
            (3, 0.11666666840513547, 1. / 3.),
            (3, 0.45000000794728595, 1. / 3.),
            (3, 0.7166666587193807, 2. / 3.),
            (2, 0.9249999821186066, 1.),
        ];
        assert_eq!(found.len(), expected.len());
        for (bin, (n, confidence, agreed)) in found.iter().zip(expected) {
            assert_eq!(bin.n, n);
            near(bin.confidence, confidence);
            near(bin.agreed, agreed);
        }
        near(calibration_error(&confidences, &truth, 4), 0.11818182095885278);
    }

    #[test]
    fn bins_without_claims_are_left_out() {
        let found = reliability(&[0.75, 0.25], &[true, false], 5);
        let bin = |confidence, agreed| Bin { n: 1, confidence, agreed };
        assert_eq!(found, [bin(0.25, 0.), bin(0.75, 1.)]);
        assert_eq!(calibration_error(&[0.75, 0.25], &[true, false], 5), 0.25);
        assert_eq!(calibration_error(&[0.5, 0.5], &[true, false], 1), 0.);
        assert!(calibration_error(&[], &[], 5).is_nan());
        assert!(calibration_error(&[0.5], &[true], 0).is_nan());
    }

    #[test]
    fn confidences_that_are_right_err_by_chance_alone() {
        // Of n claims at a half the share that is true is off by √(2/π) · √(1/4n) on the average.
        let off = |n: usize| error_if_right(&vec![0.5; n], 1);
        assert!((off(100) - 0.0399).abs() < 0.004 && off(10_000) < 0.005, "{}", off(100));
        assert_eq!(error_if_right(&[0., 1.], 2), 0.);
        assert!(error_if_right(&[], 2).is_nan() && error_if_right(&[0.5, f32::NAN], 2).is_nan());
    }
}
