//! Of which units people said what, and at which depth of a network: of the network that was learnt from, and of another
//! one. What they said is kept as words and phrases that were written more than once, so that it can be counted of how many
//! units anything was said that a rule of anybody's speaks of. A rule that asks for what is said beside a word, or for nothing
//! else being said, is counted too often by it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::phrases::{Phrases, stems, words};

/// Depths that are told apart, the first layer being the first and the last layer the last.
pub const N_DEPTHS: usize = 5;
/// So many units of each depth count as if people said a thing there as often as anywhere.
const ANYWHERE: f64 = 200.;

/// A unit's depth, and what people said of it.
pub type Said<'a> = (usize, &'a [String]);

/// Which words and phrases were said of the units that people described.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Depths {
    /// Words and phrases.
    texts: Vec<String>,
    /// Of the network that was learnt from, and of the other one: each unit's depth, and the places of its texts.
    units: [Vec<(usize, Vec<u32>)>; 2],
}

/// How many units there are at each depth, and of how many of them something was said.
#[derive(Default)]
struct Counts {
    units: [f64; N_DEPTHS],
    said: [f64; N_DEPTHS],
}

impl Depths {
    /// `here` are the units of the network that was learnt from, `there` those of the other one; where there is none,
    /// every depth is as good as any other.
    pub fn gather(
        phrases: &Phrases,
        vocabulary: &[String],
        here: &[Said<'_>],
        there: &[Said<'_>],
    ) -> Depths {
        let n_phrases = phrases.texts().len();
        let is_word: BTreeMap<&str, u32> =
            vocabulary.iter().zip(n_phrases as u32..).map(|(it, at)| (it.as_str(), at)).collect();
        let unit = |(depth, texts): &Said<'_>| {
            let texts: Vec<Vec<String>> = texts.iter().map(|it| words(it)).collect();
            let stemmed: Vec<BTreeSet<String>> = texts.iter().map(|it| stems(it)).collect();
            let is_said = |at: &usize| {
                let own = phrases.stems(*at);
                !own.is_empty() && stemmed.iter().any(|it| own.is_subset(it))
            };
            let phrases = (0..n_phrases).filter(is_said).map(|it| it as u32);
            let words: BTreeSet<u32> =
                texts.iter().flatten().filter_map(|it| is_word.get(it.as_str()).copied()).collect();
            (*depth, phrases.chain(words).collect())
        };
        let units = [here, there].map(|units| units.iter().map(unit).collect());
        Depths { texts: [phrases.texts(), vocabulary].concat(), units }
    }

    /// The depth of a layer, the `at`th of so many.
    pub fn of_layer(at: usize, n_layers: usize) -> usize {
        match n_layers.checked_sub(1) {
            None | Some(0) => 0,
            Some(last) => (2 * at * (N_DEPTHS - 1) + last) / (2 * last),
        }
    }

    /// The places of the texts that speak of something.
    pub fn speaking(&self, speaks: impl Fn(&str) -> bool) -> Vec<bool> {
        self.texts.iter().map(|it| speaks(it)).collect()
    }

    /// Of which share of the units of the network that was learnt from anything was said that [speaks](Depths::speaking).
    pub fn how_common(&self, speaking: &[bool]) -> f32 {
        let [here, _] = self.count(speaking);
        (here.said.iter().sum::<f64>() / here.units.iter().sum::<f64>().max(1.)) as f32
    }

    /// How much oftener, in logarithms, people say what [speaks](Depths::speaking) at each depth of the other network than
    /// of the one that was learnt from: of either the share at a depth over that at all depths.
    pub fn oftener_elsewhere(&self, speaking: &[bool]) -> [f64; N_DEPTHS] {
        let profile = |counts: &Counts, depth: usize| {
            let sum = |it: &[f64; N_DEPTHS]| it.iter().sum::<f64>();
            let all = (sum(&counts.said) + 1.) / (sum(&counts.units) + 1.);
            (counts.said[depth] + ANYWHERE * all) / ((counts.units[depth] + ANYWHERE) * all)
        };
        let [here, there] = self.count(speaking);
        std::array::from_fn(|depth| (profile(&there, depth) / profile(&here, depth)).ln())
    }

    fn count(&self, speaking: &[bool]) -> [Counts; 2] {
        let mut counts = [Counts::default(), Counts::default()];
        for (counts, units) in counts.iter_mut().zip(&self.units) {
            for (depth, said) in units {
                let is_said = said.iter().any(|it| speaking.get(*it as usize) == Some(&true));
                let depth = (*depth).min(N_DEPTHS - 1);
                counts.units[depth] += 1.;
                counts.said[depth] += f64::from(u8::from(is_said));
            }
        }
        counts
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

    /// So many units of each depth, of the first of which so many something was said.
    fn units(n: u32, said: [u32; N_DEPTHS]) -> Vec<(usize, Vec<u32>)> {
        let depth = |depth: usize| {
            (0..n).map(move |at| (depth, if at < said[depth] { vec![0, 1] } else { vec![2] }))
        };
        (0..N_DEPTHS).flat_map(depth).collect()
    }

    #[test]
    fn what_is_named_early_in_one_network_alone_is_less_probable_there() {
        let odds = |here: [u32; N_DEPTHS], there: [u32; N_DEPTHS], n_there: u32| {
            let texts = ["text", "words", "sky"].map(str::to_owned).to_vec();
            let depths = Depths { texts, units: [units(1000, here), units(n_there, there)] };
            depths.oftener_elsewhere(&depths.speaking(|it| it != "sky"))
        };
        let early = odds([190, 20, 20, 20, 20], [17; N_DEPTHS], 1000);
        assert!(early[0] < -0.8 && 0.3 < early[4], "{early:?}");
        let even = odds([50; N_DEPTHS], [5; N_DEPTHS], 1000);
        assert!(even.iter().all(|it| it.abs() < 0.1), "{even:?}");
        assert!(odds([190, 20, 20, 20, 20], [0; N_DEPTHS], 0).iter().all(|it| it.is_finite()));
    }

    #[test]
    fn a_unit_of_which_two_phrases_were_said_counts_once() {
        let texts = ["text", "words", "sky"].map(str::to_owned).to_vec();
        let depths = Depths { texts, units: [units(10, [5, 5, 0, 0, 0]), vec![]] };
        let common = |of: &[&str]| depths.how_common(&depths.speaking(|it| of.contains(&it)));
        assert_eq!((common(&["text", "words"]), common(&["words"])), (0.2, 0.2));
        assert_eq!((common(&["words", "sky"]), common(&["unsaid"])), (1., 0.));
    }

    #[test]
    fn words_count_that_no_phrase_has() {
        let texts: Vec<String> = ["a man in a hat", "hats", "hats"].map(str::to_owned).to_vec();
        let units: Vec<Vec<String>> = texts.iter().map(|it| vec![it.clone()]).collect();
        let phrases = Phrases::gather(&units, &|_| true);
        assert!(phrases.texts().iter().all(|it| it != "a man"), "{:?}", phrases.texts());
        let said: Vec<Said<'_>> = units.iter().map(|it| (0, it.as_slice())).collect();
        let depths = Depths::gather(&phrases, &["man".into()], &said, &[]);
        assert_eq!(depths.how_common(&depths.speaking(|it| it == "man")), 1. / 3.);
        assert_eq!(depths.how_common(&depths.speaking(|it| it.contains("hat"))), 1.);
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
