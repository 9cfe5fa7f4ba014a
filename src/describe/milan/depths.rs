//! Of which units people said what, and at which depth of a network: of the network that was learnt from, and of another
//! one. What each person said is kept as the phrases and words in it that were written more than once, so that it can be
//! counted of how many units anybody said what a rule speaks of. Rules are tried on those phrases and words put together:
//! a rule that wants nothing else said finds "red" in "red" and not in "red cars". What is not kept is missed: words written
//! once, and phrases of several words that are none of the describer's own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::grammar::is_article;
use super::phrases::{Phrases, stem, words};

/// Depths that are told apart, the first layer being the first and the last layer the last.
pub const N_DEPTHS: usize = 5;
/// So many mentions count at each depth as if they had been met where as many were to be expected.
const PRIOR_MENTIONS: f64 = 3.;
/// From this depth on networks are taken to find the same things.
const DEEP: usize = 3;

/// A unit's depth, and what people said of it, a text a person.
pub type Said<'a> = (usize, &'a [String]);

/// What people said of the units that they described.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Depths {
    /// Phrases and words.
    parts: Vec<String>,
    /// Of the network that was learnt from, and of the other one.
    units: [Vec<Unit>; 2],
}

/// A unit's depth, and for each person the places of the parts of what was said.
type Unit = (usize, Vec<Vec<u32>>);

/// How many units there are at each depth, and of how many of them something was said.
#[derive(Default)]
struct Counts {
    units: [f64; N_DEPTHS],
    said: [f64; N_DEPTHS],
}

/// How often people say something.
pub struct HowOften {
    /// Of which share of the units of the network that was learnt from anybody said it, 0..=1.
    pub common: f32,
    /// How much less often, in logarithms, at most 0, people say it at each depth of the other network than of the one
    /// that was learnt from, beyond how much less often they say it of deep layers, which is only how talkative they are;
    /// 0 of deep layers, and where it is not less often. Where there is no other network, almost 0.
    pub less_often_elsewhere: [f64; N_DEPTHS],
}

impl Depths {
    /// `here` are the units of the network that was learnt from, `there` those of the other one.
    pub fn gather(phrases: &Phrases, here: &[Said<'_>], there: &[Said<'_>]) -> Depths {
        let mut counts = BTreeMap::<String, usize>::new();
        for text in here.iter().chain(there).flat_map(|it| it.1) {
            let own: BTreeSet<String> = words(text).into_iter().collect();
            own.into_iter().for_each(|it| *counts.entry(it).or_default() += 1);
        }
        let counts = counts.into_iter().filter(|it| 2 <= it.1 && !is_article(&it.0));
        let words: Vec<String> = counts.map(|it| it.0).collect();
        let place = |(at, it): (usize, &String)| (it.clone(), (phrases.texts().len() + at) as u32);
        let known = KnownParts {
            phrases: phrases.texts().iter().map(|it| KnownPhrase::new(it)).collect(),
            words: words.iter().enumerate().map(place).collect(),
        };
        let unit =
            |(depth, texts): &Said<'_>| (*depth, texts.iter().map(|it| known.parts(it)).collect());
        let units = [here, there].map(|units| units.par_iter().map(unit).collect());
        Depths { parts: [phrases.texts(), &words].concat(), units }
    }

    /// The depth of a layer, the `at`th of so many.
    pub fn of_layer(at: usize, n_layers: usize) -> usize {
        match n_layers.checked_sub(1) {
            None | Some(0) => 0,
            Some(last) => (2 * at * (N_DEPTHS - 1) + last) / (2 * last),
        }
    }

    /// What people said, ready to be asked many times.
    pub fn mentions(&self) -> Mentions {
        let mut places = BTreeMap::<&[u32], usize>::new();
        for people in self.units.iter().flatten().map(|it| &it.1) {
            for parts in people {
                let n = places.len();
                places.entry(parts).or_insert(n);
            }
        }
        let people = |people: &[Vec<u32>]| people.iter().map(|it| places[it.as_slice()]).collect();
        let unit = |(depth, said): &Unit| ((*depth).min(N_DEPTHS - 1), people(said));
        let mut distinct = vec![String::new(); places.len()];
        places.iter().for_each(|(parts, at)| distinct[*at] = self.text(parts));
        Mentions { distinct, units: [0, 1].map(|at| self.units[at].iter().map(unit).collect()) }
    }

    /// What a person said, as far as it is kept.
    fn text(&self, parts: &[u32]) -> String {
        let parts = parts.iter().filter_map(|it| self.parts.get(*it as usize));
        parts.map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// What people said of the units of both networks, each text once.
pub struct Mentions {
    distinct: Vec<String>,
    /// Each unit's depth, and for each person the place of the text.
    units: [Vec<(usize, Vec<usize>)>; 2],
}

impl Mentions {
    /// How often people say what `speaks` finds in a text.
    pub fn named(&self, speaks: impl Fn(&str) -> bool + Sync) -> HowOften {
        let is_said: Vec<bool> = self.distinct.par_iter().map(|it| speaks(it)).collect();
        let [here, there] = [0, 1].map(|network| Counts::new(&self.units[network], &is_said));
        let elsewhere = |depths: Range<usize>| there.oftener(depths.clone()) - here.oftener(depths);
        let deep = elsewhere(DEEP..N_DEPTHS);
        HowOften {
            common: here.share() as f32,
            less_often_elsewhere: std::array::from_fn(|it| match it < DEEP {
                true => (elsewhere(it..it + 1) - deep).min(0.),
                false => 0.,
            }),
        }
    }
}

impl Counts {
    /// Of units and, for each text, whether it is said in it.
    fn new(units: &[(usize, Vec<usize>)], is_said: &[bool]) -> Counts {
        let mut counts = Counts::default();
        for (depth, people) in units {
            counts.units[*depth] += 1.;
            counts.said[*depth] += f64::from(u8::from(people.iter().any(|it| is_said[*it])));
        }
        counts
    }

    /// Of some depths the units, and those of which it was said.
    fn of(&self, depths: Range<usize>) -> (f64, f64) {
        let sum = |of: &[f64; N_DEPTHS]| of[depths.clone()].iter().sum();
        (sum(&self.units), sum(&self.said))
    }

    /// The share of all units of which it was said, 0..=1.
    fn share(&self) -> f64 {
        let (units, said) = self.of(0..N_DEPTHS);
        said / units.max(1.)
    }

    /// How much oftener it is said of the units of some depths than of all, in logarithms: drawn towards 0 where few
    /// [mentions](PRIOR_MENTIONS) are to be expected.
    fn oftener(&self, depths: Range<usize>) -> f64 {
        let (units, said) = self.of(depths);
        ((said + PRIOR_MENTIONS) / (units * self.share() + PRIOR_MENTIONS)).ln()
    }
}

/// The words of a phrase without articles, and their stems.
struct KnownPhrase {
    words: Vec<String>,
    stems: Vec<String>,
}

/// The parts that texts are taken apart into.
struct KnownParts {
    phrases: Vec<KnownPhrase>,
    /// Each word's place among the parts.
    words: BTreeMap<String, u32>,
}

impl KnownParts {
    /// The places of a text's phrases, the longest that there are, and of its words outside of them.
    fn parts(&self, text: &str) -> Vec<u32> {
        let words = without_articles(text);
        let stems: Vec<String> = words.iter().map(|it| stem(it)).collect();
        // Phrases of the same stems, such as "a dog" and "dogs", are one: that of the same words, else the first of them.
        let mut found: Vec<(usize, Range<usize>)> = vec![];
        for (phrase, own) in self.phrases.iter().enumerate().filter(|it| !it.1.stems.is_empty()) {
            let at = stems.windows(own.stems.len()).position(|it| it == own.stems.as_slice());
            let Some(at) = at.map(|at| at..at + own.stems.len()) else { continue };
            match found.iter_mut().find(|it| it.1 == at) {
                None => found.push((phrase, at)),
                Some(same) if own.words == words[at] => same.0 = phrase,
                Some(_) => {}
            }
        }
        let is_within = |a: &Range<usize>, b: &Range<usize>| {
            b.start <= a.start && a.end <= b.end && a.len() < b.len()
        };
        let longest =
            found.iter().filter(|it| !found.iter().any(|other| is_within(&it.1, &other.1)));
        let is_outside = |at: &usize| !found.iter().any(|it| it.1.contains(at));
        let rest = (0..words.len()).filter(is_outside);
        let rest: BTreeSet<u32> =
            rest.filter_map(|at| self.words.get(&words[at]).copied()).collect();
        longest.map(|it| it.0 as u32).chain(rest).collect()
    }
}

fn without_articles(text: &str) -> Vec<String> {
    words(text).into_iter().filter(|it| !is_article(it)).collect()
}

impl KnownPhrase {
    fn new(text: &str) -> KnownPhrase {
        let words = without_articles(text);
        KnownPhrase { stems: words.iter().map(|it| stem(it)).collect(), words }
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
    fn units(n: u32, said: [u32; N_DEPTHS]) -> Vec<Unit> {
        let depth = |depth: usize| {
            (0..n).map(move |at| (depth, vec![if at < said[depth] { vec![0, 1] } else { vec![2] }]))
        };
        (0..N_DEPTHS).flat_map(depth).collect()
    }

    #[test]
    fn what_is_named_early_in_one_network_alone_is_less_probable_there() {
        let odds = |here: [u32; N_DEPTHS], there: [u32; N_DEPTHS], n_there: u32| {
            let parts = ["text", "words", "sky"].map(str::to_owned).to_vec();
            let depths = Depths { parts, units: [units(1000, here), units(n_there, there)] };
            depths.mentions().named(|it| it.contains("words")).less_often_elsewhere
        };
        let early = odds([190, 20, 20, 20, 20], [17; N_DEPTHS], 1000);
        // Here 190 of the first 1,000 units where deep layers have 20, there as many as anywhere.
        assert!((-2.3..-2.1).contains(&early[0]), "{early:?}");
        // People who say all things less often do not say this less often early.
        let even = odds([50; N_DEPTHS], [5; N_DEPTHS], 1000);
        assert!(even.iter().all(|it| it.abs() < 0.1), "{even:?}");
        // What is said oftener there is not taken to be more probable.
        assert_eq!(odds([20; N_DEPTHS], [190, 17, 17, 17, 17], 1000), [0.; N_DEPTHS]);
        // Nobody is known to say it elsewhere, nor anywhere.
        assert_eq!(odds([0; N_DEPTHS], [0; N_DEPTHS], 700), [0.; N_DEPTHS]);
        let unknown = odds([50; N_DEPTHS], [0; N_DEPTHS], 0);
        assert!(unknown.iter().all(|it| it.abs() < 0.1), "{unknown:?}");
    }

    #[test]
    fn what_each_person_said_is_kept_in_parts() {
        let said = [
            vec!["the red cars", "red"],
            vec!["red", "a wheel of a car"],
            vec!["a wheel of the cars on grass"],
            vec!["grass"],
        ];
        let texts = said.map(|it| it.into_iter().map(str::to_owned).collect::<Vec<_>>());
        let phrases = Phrases::gather(&texts, &|_| true);
        let units: Vec<Said<'_>> = texts.iter().map(|it| (0, it.as_slice())).collect();
        let depths = Depths::gather(&phrases, &units, &[]);
        let kept = |unit: usize| -> Vec<String> {
            depths.units[0][unit].1.iter().map(|it| depths.text(it)).collect()
        };
        assert_eq!(kept(0), ["cars, red", "red"]);
        assert_eq!(kept(1), ["red", "a wheel, cars, of"]);
        // Of how many units anybody said it, however many people did; alone, or beside other things.
        let common =
            |speaks: &(dyn Fn(&str) -> bool + Sync)| depths.mentions().named(speaks).common;
        assert_eq!(common(&|it| it.contains("red")), 0.5);
        assert_eq!(common(&|it| it == "grass"), 0.25);
        assert_eq!((common(&|it| it.contains("cars")), common(&|_| false)), (0.75, 0.));
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
