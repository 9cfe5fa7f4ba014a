//! At which depth of a network people say what: in the network that was learnt from, and in another one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::phrases::{Phrases, stems, words};

/// Depths that are told apart, the first layer being the first and the last layer the last.
pub const N_DEPTHS: usize = 5;
/// So many units of each depth count as if people said a thing there as often as anywhere.
const ANYWHERE: f64 = 200.;

/// Units of each depth.
pub type Counts = [u32; N_DEPTHS];

/// Of how many units of each depth a phrase was said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Depths {
    /// All units of the network that was learnt from, and of the other one.
    units: [Counts; 2],
    /// By phrase, of the same two.
    said: BTreeMap<String, [Counts; 2]>,
}

/// A unit's depth, and what people said of it.
pub type Said<'a> = (usize, &'a [String]);

impl Depths {
    /// `here` are the units of the network that was learnt from, `there` those of the other one; where there is none,
    /// every depth is as good as any other.
    pub fn count(phrases: &Phrases, here: &[Said<'_>], there: &[Said<'_>]) -> Depths {
        let mut depths = Depths::default();
        for (network, units) in [here, there].into_iter().enumerate() {
            for (depth, texts) in units {
                depths.units[network][*depth] += 1;
                let texts: Vec<BTreeSet<String>> =
                    texts.iter().map(|it| stems(&words(it))).collect();
                for (at, phrase) in phrases.texts().iter().enumerate() {
                    let own = phrases.stems(at);
                    if !own.is_empty() && texts.iter().any(|it| own.is_subset(it)) {
                        depths.said.entry(phrase.clone()).or_default()[network][*depth] += 1;
                    }
                }
            }
        }
        depths
    }

    /// The depth of a layer, the `at`th of so many.
    pub fn of_layer(at: usize, n_layers: usize) -> usize {
        match n_layers.checked_sub(1) {
            None | Some(0) => 0,
            Some(last) => (2 * at * (N_DEPTHS - 1) + last) / (2 * last),
        }
    }

    /// Of which share of the units of the network that was learnt from some phrases were said, one with another.
    pub fn how_common<'a>(&self, phrases: impl Iterator<Item = &'a str>) -> f32 {
        let [here, _] = self.sum(phrases);
        here.iter().sum::<u32>() as f32 / self.units[0].iter().sum::<u32>().max(1) as f32
    }

    /// How much oftener, in logarithms, people say some phrases at each depth of the other network than of the one that
    /// was learnt from: of either the share at a depth over that at all depths.
    pub fn oftener_elsewhere<'a>(&self, phrases: impl Iterator<Item = &'a str>) -> [f64; N_DEPTHS] {
        let [here, there] = self.sum(phrases);
        let [n_here, n_there] = &self.units;
        let profile = |said: &Counts, n: &Counts, depth: usize| {
            let sum = |it: &Counts| f64::from(it.iter().sum::<u32>());
            let all = (sum(said) + 1.) / (sum(n) + 1.);
            (f64::from(said[depth]) + ANYWHERE * all) / ((f64::from(n[depth]) + ANYWHERE) * all)
        };
        let ratio = |it| (profile(&there, n_there, it) / profile(&here, n_here, it)).ln();
        std::array::from_fn(ratio)
    }

    fn sum<'a>(&self, phrases: impl Iterator<Item = &'a str>) -> [Counts; 2] {
        let mut sum = [Counts::default(); 2];
        for said in phrases.filter_map(|it| self.said.get(it)) {
            for (sum, said) in sum.iter_mut().flatten().zip(said.iter().flatten()) {
                *sum += said;
            }
        }
        sum
    }
}

/// Between two depths, what lies between them; `depth` is 0 of the first layer and 1 of the last.
pub fn at_depth(values: &[f64; N_DEPTHS], depth: f32) -> f64 {
    let place = f64::from(depth.clamp(0., 1.)) * (N_DEPTHS - 1) as f64;
    let before = (place.floor() as usize).min(N_DEPTHS - 2);
    let share = place - before as f64;
    values[before] * (1. - share) + values[before + 1] * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_early_in_one_network_alone_is_less_probable_there() {
        let odds = |here: Counts, there: Counts, n_there: u32| {
            let said = BTreeMap::from([("text".to_owned(), [here, there])]);
            let units = [[1000; N_DEPTHS], [n_there; N_DEPTHS]];
            Depths { units, said }.oftener_elsewhere(["text", "unsaid"].into_iter())
        };
        let early = odds([190, 20, 20, 20, 20], [17; N_DEPTHS], 1000);
        assert!(early[0] < -0.8 && 0.3 < early[4], "{early:?}");
        let even = odds([50; N_DEPTHS], [5; N_DEPTHS], 1000);
        assert!(even.iter().all(|it| it.abs() < 0.1), "{even:?}");
        assert!(odds([190, 20, 20, 20, 20], [0; N_DEPTHS], 0).iter().all(|it| it.is_finite()));
    }

    #[test]
    fn between_two_depths_lies_what_is_between_them() {
        let values = [0., 1., 2., 3., 8.];
        for (depth, wanted) in
            [(0., 0.), (0.125, 0.5), (0.75, 3.), (0.875, 5.5), (1., 8.), (2., 8.)]
        {
            assert_eq!(at_depth(&values, depth), wanted, "{depth}");
        }
    }

    #[test]
    fn layers_of_any_number_have_one_of_the_depths() {
        let of = |n: usize| (0..n).map(|at| Depths::of_layer(at, n)).collect::<Vec<_>>();
        assert_eq!((of(1), of(2), of(5)), (vec![0], vec![0, 4], vec![0, 1, 2, 3, 4]));
        assert_eq!(of(3), [0, 2, 4]);
    }
}
