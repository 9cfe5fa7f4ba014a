//! Do descriptions foretell where units fire? In drawn pictures it is known what is where, so a description is a
//! prediction: a unit fires where something of it is. After Oikarinen et al. 2025 (NeuronEval), with its two tests of
//! whether a measure can be trusted at all; places take the part of inputs, as a picture has a bit of everything.

use std::collections::BTreeSet;

use candle_core::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::judge::stemmed;
use super::measures::average_precision;
use super::regions::count;
use crate::data::scenes::{Element, NAME, SIDE};
use crate::model::graph::NodeId;
use crate::model::run::Tap;

/// Other words for what is drawn: whoever says one of a line means any of it.
const KIN: [&str; 16] = [
    "letters text word writing lettering character sign caption",
    "face person people human head man woman eye mouth",
    "circle ball disc dot spot button",
    "square box block rectangle",
    "triangle pyramid",
    "bird animal",
    "boat ship sailboat vehicle",
    "car vehicle automobile truck",
    "cup mug",
    "fish animal",
    "flower petal plant",
    "house building roof",
    "mushroom fungus",
    "tree plant",
    "umbrella parasol",
    "purple violet",
];
const CONNECTIVES: [&str; 6] = ["and", "with", "of", "on", "in", "or"];

/// The words by which drawn things are known.
pub struct Lexicon {
    /// Stems of each line of [`KIN`].
    kin: Vec<Vec<String>>,
    known: BTreeSet<String>,
}

/// A description as what must be there: one of several things, each of which all of its words fit.
pub type Told = Vec<BTreeSet<String>>;

impl Lexicon {
    /// `phrases` are those of everything that can be drawn.
    pub fn new<'a>(phrases: impl IntoIterator<Item = &'a String>) -> Lexicon {
        let kin: Vec<Vec<String>> = KIN.iter().map(|line| stemmed(line)).collect();
        let mut known: BTreeSet<String> = phrases.into_iter().flat_map(|it| stemmed(it)).collect();
        known.extend(kin.iter().flatten().cloned());
        Lexicon { kin, known }
    }

    /// What a description speaks of, as far as it can be drawn: empty where none of it can.
    pub fn told(&self, description: &str) -> Told {
        let words = description.to_lowercase();
        let words: Vec<&str> = words.split(|it: char| !it.is_alphanumeric()).collect();
        let parts = words.split(|word| CONNECTIVES.contains(word));
        let known = |part: &[&str]| -> BTreeSet<String> {
            stemmed(&part.join(" ")).into_iter().filter(|it| self.known.contains(it)).collect()
        };
        parts.map(known).filter(|part| !part.is_empty()).collect()
    }

    /// All words that fit an element.
    pub fn words(&self, element: &Element) -> BTreeSet<String> {
        // What a word says is not there.
        let phrases = element.phrases.iter().filter(|it| !it.starts_with(NAME));
        let own: BTreeSet<String> = phrases.flat_map(|phrase| stemmed(phrase)).collect();
        let kin = self.kin.iter().filter(|line| line.iter().any(|it| own.contains(it)));
        own.iter().chain(kin.flatten()).cloned().collect()
    }
}

/// An element of a picture: the words that fit it, and its pixels.
pub struct Seen {
    pub words: BTreeSet<String>,
    /// `(SIDE, SIDE)`
    pub mask: Vec<bool>,
}

/// Whether one of the told things is at each of `side × side` places of each picture: whether it fills a quarter of
/// it.
pub fn places(told: &Told, pictures: &[Vec<Seen>], side: usize) -> Vec<bool> {
    let from = SIDE as usize;
    let least = (from / side).pow(2).div_ceil(4) as u32;
    let mut found = Vec::with_capacity(pictures.len() * side * side);
    for elements in pictures {
        let mut n = vec![0u32; side * side];
        for element in
            elements.iter().filter(|it| told.iter().any(|part| part.is_subset(&it.words)))
        {
            count(&element.mask, from, side, &mut n);
        }
        found.extend(n.into_iter().map(|it| least <= it));
    }
    found
}

/// Pearson's correlation; `None` where one side is always the same.
pub fn correlation(activations: &[f32], present: &[bool]) -> Option<f64> {
    let n = activations.len() as f64;
    let share = present.iter().filter(|it| **it).count() as f64 / n;
    let mean = activations.iter().map(|it| f64::from(*it)).sum::<f64>() / n;
    let (mut both, mut square) = (0., 0.);
    for (activation, present) in activations.iter().zip(present) {
        let above = f64::from(*activation) - mean;
        both += above * (f64::from(u8::from(*present)) - share);
        square += above * above;
    }
    let scale = (square * n * share * (1. - share)).sqrt();
    (0. < scale).then(|| both / scale)
}

/// How well a description foretells: correlation, and the area under precision and recall.
pub fn measures(activations: &[f32], present: &[bool]) -> Option<[f64; 2]> {
    Some([correlation(activations, present)?, average_precision(activations, present)?])
}

/// The same truth, but half of it is not noted; and with as much again noted that is not true.
pub fn blurred(present: &[bool], seed: u64) -> [Vec<bool>; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let missing = present.iter().map(|it| *it && rng.random_bool(0.5)).collect();
    let n = present.iter().filter(|it| **it).count();
    let more = (n as f64 / (present.len() - n).max(1) as f64).min(1.);
    let extra = present.iter().map(|it| *it || rng.random_bool(more)).collect();
    [missing, extra]
}

/// Keeps the maps of some nodes.
pub struct Maps {
    /// Each with the side of its maps, and for each channel the values of all pictures.
    kept: Vec<(NodeId, usize, Vec<Vec<f32>>)>,
}

impl Maps {
    pub fn new(nodes: &[NodeId]) -> Maps {
        Maps { kept: nodes.iter().map(|id| (*id, 0, vec![])).collect() }
    }

    /// Of every channel of every node the side of its maps, and its values `(pictures, side, side)`.
    pub fn units(self) -> Vec<(usize, Vec<f32>)> {
        let of = |(_, side, channels): (NodeId, usize, Vec<Vec<f32>>)| {
            channels.into_iter().map(move |it| (side, it))
        };
        self.kept.into_iter().flat_map(of).collect()
    }
}

impl Tap for Maps {
    fn wants(&self) -> Vec<NodeId> {
        self.kept.iter().map(|it| it.0).collect()
    }

    fn at(&mut self, id: NodeId, _: usize, ys: Tensor) -> anyhow::Result<Tensor> {
        for (_, side, channels) in self.kept.iter_mut().filter(|it| it.0 == id) {
            let (_, c, h, _) = ys.dims4()?;
            *side = h;
            channels.resize(c, vec![]);
            for (channel, values) in channels.iter_mut().enumerate() {
                values.extend(ys.narrow(1, channel, 1)?.flatten_all()?.to_vec1::<f32>()?);
            }
        }
        Ok(ys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(phrases: &[&str]) -> Element {
        Element { phrases: phrases.iter().map(|it| (*it).to_owned()).collect(), mask: vec![] }
    }

    #[test]
    fn a_description_is_there_where_all_words_of_one_of_its_parts_fit() {
        let phrases = ["red striped fish", "letters", "black letters", "a face"].map(str::to_owned);
        let lexicon = Lexicon::new(&phrases);
        let fish = lexicon.words(&element(&["red striped fish", "red fish", "fish"]));
        let word = lexicon.words(&element(&["the word cup", "black letters", "written text"]));
        let check = |text: &str, wanted: [bool; 2]| {
            let told = lexicon.told(text);
            let is = |words: &BTreeSet<String>| told.iter().any(|part| part.is_subset(words));
            assert_eq!([is(&fish), is(&word)], wanted, "{text}: {told:?}");
        };
        check("Red animals", [true, false]);
        check("Red lettering", [false, false]);
        check("Black text", [false, true]);
        check("Red things and writing", [true, true]);
        check("Faces of people", [false, false]);
        check("Cups", [false, false]);
        check("Shiny metal", [false, false]);
        assert_eq!(lexicon.told("Shiny metal"), Told::new());
    }

    #[test]
    fn a_thing_is_at_the_places_that_it_fills_a_quarter_of() {
        let side = SIDE as usize;
        let mask = (0..side * side).map(|at| at / side < 40 && at % side < 8).collect();
        let words = BTreeSet::from(["fish".to_owned()]);
        let pictures = vec![vec![Seen { words, mask }], vec![]];
        let told = |word: &str| vec![BTreeSet::from([word.to_owned()])];
        let found = places(&told("fish"), &pictures, 2);
        assert_eq!(found, [true, false, false, false, false, false, false, false]);
        assert!(!places(&told("bird"), &pictures, 4).contains(&true));
        // Of the third row of places the lower half is empty: a quarter of each is left.
        let column: Vec<bool> =
            places(&told("fish"), &pictures, 4).into_iter().step_by(4).collect();
        assert_eq!(column, [true, true, true, false, false, false, false, false]);
    }

    #[test]
    fn what_is_foretold_rightly_correlates_and_blurring_tells() {
        let present: Vec<bool> = (0..400).map(|it| it % 4 == 0).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let noisy = |it: &bool| f32::from(u8::from(*it)) + rng.random_range(-0.6f32..0.6);
        let activations: Vec<f32> = present.iter().map(noisy).collect();
        let [correlation, area] = measures(&activations, &present).unwrap();
        assert!(0.7 < correlation && correlation < 0.95 && 0.9 < area, "{correlation} {area}");
        for worse in blurred(&present, 2) {
            let found = measures(&activations, &worse).unwrap();
            assert!(found[0] < correlation - 0.1 && found[1] < area - 0.1, "{found:?}");
        }
        assert_eq!(correlation_of_constant(), None);
    }

    fn correlation_of_constant() -> Option<f64> {
        correlation(&[1., 1., 1.], &[true, false, true])
    }
}
