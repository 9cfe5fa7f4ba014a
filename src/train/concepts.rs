//! How probable it is that somebody names a concept of units that people described: what the probability is fitted to,
//! and what it is judged by.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::annotations::{self, Annotated};
use super::source::Around;
use crate::describe::milan::concepts::{
    Concept, Concepts, Facts, NetworkShares, PlaceShares, Shares,
};
use crate::describe::milan::depths::Depths;
use crate::describe::milan::look::Seen;
use crate::describe::milan::phrases::{Phrases, stems, words};
use crate::policy::{self, Policy, presets};
use crate::ruling;
use crate::unit::{Judgement, Reading};

/// Some units, and what an encoder sees of the network that they are of.
#[derive(Clone, Copy)]
pub struct Subjects<'a> {
    /// All units of the network.
    pub seen: &'a [Seen],
    pub units: &'a [Annotated],
    /// Of the units, in their order.
    pub around: &'a Around,
}

/// A network that concepts are judged in.
pub struct Judge<'a> {
    known: &'a Concepts<'a>,
    places: PlaceShares,
    sites: Vec<Shares>,
    network: NetworkShares,
}

impl Judge<'_> {
    pub fn new<'a>(known: &'a Concepts<'a>, subjects: Subjects<'_>) -> anyhow::Result<Judge<'a>> {
        let mut places = PlaceShares::default();
        for (pictures, seen) in &subjects.around.places {
            for (rows, pictures) in pictures.chunks(PICTURES).enumerate() {
                let rows: Vec<usize> = (0..pictures.len()).map(|it| rows * PICTURES + it).collect();
                let features = seen.features(&rows)?.flatten_all()?.to_vec1::<f32>()?;
                known.see_places(&mut places, pictures, &features)?;
            }
        }
        let sites = subjects.seen.iter().map(|it| known.of_site(it));
        let sites = sites.collect::<anyhow::Result<Vec<_>>>()?;
        let network = known.network(&sites);
        Ok(Judge { known, places, sites, network })
    }

    /// Every concept of every unit, `units × concepts`; `readings` are those of the units.
    pub fn units(&self, subjects: Subjects<'_>, readings: &[Vec<Reading>]) -> Vec<Vec<Judgement>> {
        let n_sites = subjects.seen.len();
        let unit = |(at, it): (usize, &Annotated)| {
            self.concepts(&Facts {
                shares: &self.sites[it.site],
                row: it.row,
                pictures: &subjects.around.pictures[at],
                places: &self.places,
                network: &self.network,
                readings: &readings[at],
                depth: it.site as f32 / n_sites.saturating_sub(1).max(1) as f32,
            })
        };
        subjects.units.iter().enumerate().map(unit).collect()
    }

    /// The same of units that fire on nothing in particular, given as features `(units, k, features)`, and their readings.
    pub fn noise(
        &self,
        features: &Tensor,
        readings: &[Vec<Reading>],
    ) -> anyhow::Result<Vec<Vec<Judgement>>> {
        let shares = self.known.of_features(features)?;
        let unit = |row: usize| {
            self.concepts(&Facts {
                shares: &shares,
                row,
                pictures: &[],
                places: &self.places,
                network: &self.network,
                readings: &readings[row],
                depth: 1.,
            })
        };
        Ok((0..features.dim(0)?).map(unit).collect())
    }

    fn concepts(&self, facts: &Facts<'_>) -> Vec<Judgement> {
        (0..self.known.n_concepts()).map(|it| self.known.judge(facts, it)).collect()
    }
}

/// Pictures whose places are looked at together.
const PICTURES: usize = 64;

/// What the probability is fitted to: words that were said of so many units, and the rules of the built-in policies.
pub struct Questions {
    words: Vec<String>,
    policies: Vec<Policy>,
}

impl Questions {
    pub fn new(words: &[&str]) -> anyhow::Result<Questions> {
        let load = |it: &presets::Preset| policy::load(&it.path(), false);
        let policies = presets::newest().map(load).collect::<anyhow::Result<_>>()?;
        Ok(Questions { words: words.iter().map(|it| (*it).to_owned()).collect(), policies })
    }

    pub fn concepts(&self) -> Vec<Concept<'_>> {
        let word = |word: &String| {
            let own = stems(&words(word));
            let speaks = move |text: &str| own.is_subset(&stems(&words(text)));
            Concept { name: word.clone(), speaks: Box::new(speaks) }
        };
        let rules = self.policies.iter().flat_map(ruling::concepts);
        self.words.iter().map(word).chain(rules).collect()
    }
}

/// What people said by depth: of the annotated units, and of a table of another network, `network,layer,unit,description`.
pub fn depths(
    phrases: &Phrases,
    learn: &[Annotated],
    n_sites: usize,
    elsewhere: &[(usize, Vec<String>)],
) -> Depths {
    let here: Vec<(usize, &[String])> =
        learn.iter().map(|it| (Depths::of_layer(it.site, n_sites), it.texts.as_slice())).collect();
    let there: Vec<(usize, &[String])> =
        elsewhere.iter().map(|(depth, texts)| (*depth, texts.as_slice())).collect();
    Depths::gather(phrases, &here, &there)
}

/// Reads a table `network,layer,unit,description`: for every unit its depth, by the place of its layer among those of
/// its network in the order of their names, and what was said of it.
pub fn by_depth(path: &Path) -> anyhow::Result<Vec<(usize, Vec<String>)>> {
    let rows = annotations::rows(path, ["network", "layer", "unit", "description"])?;
    let mut layers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut units: BTreeMap<[String; 3], Vec<String>> = BTreeMap::new();
    for [network, layer, unit, said] in rows {
        let known = layers.entry(network.clone()).or_default();
        if !known.contains(&layer) {
            known.push(layer.clone());
        }
        units.entry([network, layer, unit]).or_default().push(said.to_lowercase());
    }
    layers.values_mut().for_each(|it| it.sort());
    let depth = |[network, layer, _]: &[String; 3]| {
        let layers = &layers[network];
        let at = layers.iter().position(|it| it == layer).unwrap_or_default();
        Depths::of_layer(at, layers.len())
    };
    Ok(units.into_iter().map(|(key, said)| (depth(&key), said)).collect())
}
