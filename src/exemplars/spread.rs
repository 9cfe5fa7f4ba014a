//! Places drawn at random, so that a unit also shows what it fires on when it is not at its strongest.
//!
//! The top pictures of a unit are a hundredth of those in which it fires, and often of another kind. Of
//! `k / (1 - quantile)` places drawn at random, the `k` with the highest activation are, as far as a sample
//! tells, the share `1 - quantile` of all places above the threshold, each as probable as any other.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The places drawn in a picture, down and across in 0..1: none in most where there are many pictures, several
/// where there are few. `expected` is how many there are in the mean. Which they are depends on the picture's `content`,
/// not on its name or its place among others.
pub(super) fn places(content: u64, expected: f64, seed: u64) -> Vec<(f32, f32)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(content);
    let n = (expected + rng.random::<f64>()).floor() as usize;
    (0..n).map(|_| (rng.random(), rng.random())).collect()
}

/// The cell of a map `(h, w)` that a place lies in.
pub(super) fn cell((down, across): (f32, f32), (h, w): (usize, usize)) -> (usize, usize) {
    // A share just below 1 may round up to it.
    let (y, x) = ((down * h as f32) as usize, (across * w as f32) as usize);
    (y.min(h - 1), x.min(w - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_places_are_drawn_as_are_wanted_whatever_the_number_of_pictures() {
        for n_pictures in [40, 1500, 60_000] {
            let drawn: Vec<_> =
                (0..n_pictures).map(|it| places(it, 1500. / n_pictures as f64, 3)).collect();
            let n: usize = drawn.iter().map(Vec::len).sum();
            assert!((1380..1620).contains(&n), "{n}");
            assert!(drawn.iter().flatten().all(|(y, x)| (0. ..1.).contains(y) && *x < 1.));
        }
        assert_eq!(places(0, 9., 1), places(0, 9., 1));
        assert_ne!(places(0, 9., 1), places(0, 9., 2));
    }

    #[test]
    fn a_place_is_a_cell_of_any_map() {
        assert_eq!(cell((0.1, 0.9), (2, 3)), (0, 2));
        assert_eq!(cell((0.6, 0.4), (2, 3)), (1, 1));
        assert_eq!(cell((1. - f32::EPSILON / 2., 1.), (2, 3)), (1, 2));
        assert_eq!(cell((0.7, 0.7), (1, 1)), (0, 0));
    }
}
