//! The class names that a unit's exemplars share more than chance would have it.
//!
//! A name's score is its pointwise mutual information with the exemplars, `log p(name|E) − log p(name)`,
//! each exemplar weighted by how far the unit is above its threshold there. Rare names would always win,
//! so the score carries the discount of Pantel and Lin 2002 ("Discovering word senses from text",
//! section 2): `n / (n + 1)` for the exemplars that bear the name and for the rarer of name and exemplars.
//!
//! Names are those of the classes and their heads: `terrier` stands for every kind of terrier. The
//! confidence is the share of shuffled labellings under which no name scores as high on the same
//! exemplars: 0 where the labels tell nothing, as with one picture of each class.

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::Readings;
use crate::exemplars::{Exemplars, SiteExemplars};
use crate::inconclusive;
use crate::unit::{Reading, Unit};

const SHUFFLES: usize = 200;
const MAX_READINGS: usize = 3;

/// What is known of the pictures.
pub(super) struct Known<'a> {
    /// The class of each picture, by id.
    pub(super) labels: &'a [Option<usize>],
    /// Names by class index.
    pub(super) classes: &'a [String],
    pub(super) seed: u64,
}

/// Names, and which classes bear them.
struct Names {
    texts: Vec<String>,
    /// For each class the names it bears.
    of_class: Vec<Vec<usize>>,
    /// Labelled pictures of each name's classes.
    n_pictures: Vec<f64>,
    /// Labelled pictures in all.
    n_labelled: f64,
}

pub(super) fn read(exemplars: &Exemplars, known: &Known<'_>) -> anyhow::Result<Readings> {
    if known.labels.iter().all(Option::is_none) {
        return Err(inconclusive!(
            "the pictures have no labels, so `labels` cannot describe; use class folders, a metadata.csv with labels, or --describer csv:FILE"
        ));
    }
    let names = Names::new(known);
    let units: Vec<(Unit, Vec<(usize, f64)>)> = exemplars
        .sites
        .iter()
        .flat_map(|site| {
            (0..site.n_units).map(|unit| (Unit::new(&site.site, unit), weighted(site, unit)))
        })
        .collect();

    let scores: Vec<Vec<(usize, f64)>> =
        units.iter().map(|(_, pictures)| names.scores(pictures, known.labels)).collect();
    // Under each shuffled labelling the best score that the same exemplars reach. Labels are dealt to ranks and not to
    // pictures, so that the order of pictures makes no difference.
    let mut by_chance: Vec<Vec<f64>> = vec![Vec::with_capacity(SHUFFLES); units.len()];
    let mut shuffled = known.labels.to_vec();
    shuffled.sort_unstable();
    let mut rng = ChaCha8Rng::seed_from_u64(known.seed);
    for _ in 0..SHUFFLES {
        shuffled.shuffle(&mut rng);
        for ((_, pictures), by_chance) in units.iter().zip(&mut by_chance) {
            let ranks = pictures.iter().enumerate().map(|(rank, &(_, weight))| (rank, weight));
            let ranks: Vec<(usize, f64)> = ranks.collect();
            by_chance.push(names.scores(&ranks, &shuffled).first().map_or(0., |best| best.1));
        }
    }
    let all = units.into_iter().zip(scores).zip(by_chance);
    Ok(all
        .map(|(((unit, _), scores), by_chance)| (unit, names.readings(&scores, &by_chance)))
        .collect())
}

/// A unit's pictures, each weighted 0..=1 by how far the unit is above its threshold there.
fn weighted(site: &SiteExemplars, unit: usize) -> Vec<(usize, f64)> {
    let threshold = site.thresholds[unit];
    let above = |activation: f32| f64::from(activation - threshold).max(0.);
    let most = site.activations(unit).first().map_or(0., |&best| above(best));
    let weigh = |&activation: &f32| if 0. < most { above(activation) / most } else { 1. };
    site.ids(unit).iter().copied().zip(site.activations(unit).iter().map(weigh)).collect()
}

impl Names {
    fn new(known: &Known<'_>) -> Names {
        let n_classes = known.labels.iter().flatten().max().map_or(0, |most| most + 1);
        let mut classes_of: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for class in 0..n_classes {
            let name = known
                .classes
                .get(class)
                .map_or_else(|| format!("class {class}"), |name| first_synonym(name));
            let words: Vec<&str> = name.split_whitespace().collect();
            for start in 0..words.len() {
                classes_of.entry(words[start..].join(" ")).or_default().insert(class);
            }
            classes_of.entry(name).or_default().insert(class);
        }
        // A part of one class's name alone says less than the whole.
        let whole: BTreeSet<String> =
            known.classes.iter().map(|name| first_synonym(name)).collect();
        classes_of.retain(|text, classes| {
            1 < classes.len() || whole.contains(text) || text.starts_with("class ")
        });

        let mut names = Names {
            texts: vec![],
            of_class: vec![vec![]; n_classes],
            n_pictures: vec![],
            n_labelled: 0.,
        };
        for (place, (text, classes)) in classes_of.into_iter().enumerate() {
            names.texts.push(text);
            names.n_pictures.push(0.);
            classes.into_iter().for_each(|class| names.of_class[class].push(place));
        }
        for &label in known.labels.iter().flatten() {
            names.n_labelled += 1.;
            names.of_class[label].iter().for_each(|&name| names.n_pictures[name] += 1.);
        }
        names
    }

    /// The names that these pictures bear with a score above 0, best first; equal ones by their best picture.
    fn scores(&self, pictures: &[(usize, f64)], labels: &[Option<usize>]) -> Vec<(usize, f64)> {
        let mut borne: Vec<(usize, f64, f64)> = Vec::new(); // (name, weight, pictures)
        let (mut weight, mut n) = (0f64, 0f64);
        for &(picture, picture_weight) in pictures {
            let Some(label) = labels.get(picture).copied().flatten() else { continue };
            weight += picture_weight;
            n += 1.;
            for &name in &self.of_class[label] {
                match borne.iter_mut().find(|it| it.0 == name) {
                    Some(it) => (it.1, it.2) = (it.1 + picture_weight, it.2 + 1.),
                    None => borne.push((name, picture_weight, 1.)),
                }
            }
        }
        let score = |&(name, name_weight, n_name): &(usize, f64, f64)| {
            let information = (name_weight / weight * self.n_labelled / self.n_pictures[name]).ln();
            let rarer = n.min(self.n_pictures[name]);
            (name, information * n_name / (n_name + 1.) * rarer / (rarer + 1.))
        };
        let mut scores: Vec<(usize, f64)> =
            borne.iter().map(score).filter(|it| 0. < it.1).collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        scores
    }

    /// The best names that say something else than those before them.
    fn readings(&self, scores: &[(usize, f64)], by_chance: &[f64]) -> Vec<Reading> {
        let mut readings: Vec<Reading> = Vec::new();
        for &(name, score) in scores {
            let text = &self.texts[name];
            let repeats =
                |it: &Reading| it.text.ends_with(text.as_str()) || text.ends_with(&it.text);
            if readings.len() < MAX_READINGS && !readings.iter().any(repeats) {
                let n_lower = by_chance.iter().filter(|&&chance| chance < score).count();
                let confidence = n_lower as f32 / by_chance.len() as f32;
                readings.push(Reading { text: text.clone(), confidence });
            }
        }
        readings
    }
}

/// `tench, Tinca tinca` is called by its first name.
fn first_synonym(name: &str) -> String {
    name.split(',').next().unwrap_or(name).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One unit whose pictures are the first `k`, in falling activation.
    fn exemplars(k: usize) -> Exemplars {
        let activations = (0..k).map(|i| 2. - i as f32 / k as f32).collect();
        let site = SiteExemplars {
            site: "a".into(),
            n_units: 1,
            k,
            quantile: 0.99,
            map: (1, 1),
            n_pictures: 100,
            ids: (0..k).collect(),
            activations,
            maps: vec![half::f16::ZERO; k],
            thresholds: vec![0.5],
            dead: vec![false],
            saturated: vec![false],
        };
        Exemplars { sites: vec![site], ..Exemplars::default() }
    }

    fn describe(labels: Vec<Option<usize>>, classes: &[&str]) -> Vec<Reading> {
        let classes: Vec<String> = classes.iter().map(|it| (*it).to_owned()).collect();
        let config = Known { labels: &labels, classes: &classes, seed: 0 };
        read(&exemplars(10), &config).unwrap().remove(&Unit::new("a", 0)).unwrap()
    }

    #[test]
    fn a_class_that_fills_the_exemplars_is_named_with_confidence() {
        let labels = (0..100).map(|i| Some(if i < 10 { 1 } else { i % 3 })).collect();
        let readings = describe(labels, &["cat", "dog", "frog"]);
        assert_eq!(readings[0].text, "dog");
        assert!(0.95 <= readings[0].confidence, "{}", readings[0].confidence);
    }

    #[test]
    fn the_head_that_several_classes_share_is_a_name_too() {
        // One picture of each class; the unit fires on every terrier there is.
        let names: Vec<String> = (0..100)
            .map(|i| if i < 10 { format!("kind{i} terrier, synonym") } else { format!("thing{i}") })
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let readings = describe((0..100).map(Some).collect(), &names);
        assert_eq!((readings[0].text.as_str(), readings[0].confidence), ("terrier", 1.));
    }

    #[test]
    fn labels_that_tell_nothing_give_no_confidence() {
        let names: Vec<String> = (0..100).map(|i| format!("thing{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let readings = describe((0..100).map(Some).collect(), &names);
        assert_eq!(readings[0].confidence, 0.);
    }

    #[test]
    fn pictures_without_labels_carry_no_evidence() {
        let labels = (0..100)
            .map(|i| if i % 2 == 0 { None } else { Some(if i < 10 { 0 } else { 1 + i % 4 }) })
            .collect();
        let readings = describe(labels, &["cat", "dog", "frog", "cow", "hen"]);
        assert_eq!(readings[0].text, "cat");
        let config = Known { labels: &[None, None], classes: &[], seed: 0 };
        assert!(
            read(&exemplars(1), &config)
                .unwrap_err()
                .to_string()
                .starts_with("the pictures have no labels")
        );
    }
}
