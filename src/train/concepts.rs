//! How probable it is that somebody names a concept of units that people described: what the probability is fitted to,
//! and what it is judged by.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::annotations::{self, Annotated};
use super::source::Around;
use crate::describe::milan::Milan;
use crate::describe::milan::compose::Composer;
use crate::describe::milan::concepts::{Concept, Concepts, Facts, PlaceShares, Shares};
use crate::describe::milan::depths::Depths;
use crate::describe::milan::look::Seen;
use crate::describe::milan::phrases::{Phrases, stems, words};
use crate::policy::{self, Policy, presets};
use crate::ruling;
use crate::unit::{Judgement, Reading};

/// Every concept judged for some units, `units × concepts`, with what the fit rests on.
pub struct Judged {
    pub judgements: Vec<Vec<Judgement>>,
    pub terms: Vec<Vec<Vec<f64>>>,
}

/// Judges some of the annotated units by some concepts. `seen` are all units of the network; `readings` those of the
/// units that are judged.
pub fn judge(
    milan: &Milan,
    concepts: &[Concept<'_>],
    seen: &[Seen],
    units: &[Annotated],
    around: &Around,
    readings: &[Vec<Reading>],
) -> anyhow::Result<Judged> {
    let composer = Composer::new(milan)?;
    let known = Concepts::new(milan, &composer, concepts)?;
    let mut places = PlaceShares::default();
    for (pictures, seen) in &around.places {
        for (at, picture) in pictures.iter().enumerate() {
            let features = seen.features(&[at])?.flatten_all()?.to_vec1::<f32>()?;
            known.see_places(&mut places, &[*picture], &features)?;
        }
    }
    let shares = seen.iter().map(|it| known.of_site(it)).collect::<anyhow::Result<Vec<_>>>()?;
    let network = known.network(&shares);
    let n_sites = seen.len();
    let unit = |(at, it): (usize, &Annotated)| {
        let facts = Facts {
            shares: &shares[it.site],
            row: it.row,
            pictures: &around.pictures[at],
            places: &places,
            network: &network,
            readings: &readings[at],
            depth: it.site as f32 / (n_sites - 1).max(1) as f32,
        };
        (0..concepts.len()).map(|concept| known.judge(&facts, concept)).collect()
    };
    let judgements: Vec<Vec<Judgement>> = units.iter().enumerate().map(unit).collect();
    let terms = |it: &Vec<Judgement>| {
        it.iter().enumerate().map(|(concept, it)| known.terms(it, concept)).collect()
    };
    let terms = judgements.iter().map(terms).collect();
    Ok(Judged { judgements, terms })
}

/// The same of units that fire on nothing in particular, given as features `(units, k, features)`: what the fit rests on.
pub fn terms_of_noise(
    milan: &Milan,
    concepts: &[Concept<'_>],
    seen: &[Seen],
    noise: &Tensor,
    around: &Around,
) -> anyhow::Result<Vec<Vec<Vec<f64>>>> {
    let composer = Composer::new(milan)?;
    let known = Concepts::new(milan, &composer, concepts)?;
    let mut places = PlaceShares::default();
    for (pictures, seen) in around.places.iter().take(1) {
        for (at, picture) in pictures.iter().enumerate().step_by(8) {
            let features = seen.features(&[at])?.flatten_all()?.to_vec1::<f32>()?;
            known.see_places(&mut places, &[*picture], &features)?;
        }
    }
    let own: Shares = known.of_features(noise)?;
    let shares = seen.iter().map(|it| known.of_site(it)).collect::<anyhow::Result<Vec<_>>>()?;
    let network = known.network(&shares);
    let unit = |row: usize| {
        let facts = Facts {
            shares: &own,
            row,
            pictures: &[],
            places: &places,
            network: &network,
            readings: &[],
            depth: 1.,
        };
        (0..concepts.len())
            .map(|concept| known.terms(&known.judge(&facts, concept), concept))
            .collect()
    };
    Ok((0..noise.dim(0)?).map(unit).collect())
}

/// What the probability is fitted to: words that were said of so many units, and the rules of the built-in policies.
pub struct Questions {
    words: Vec<String>,
    policies: Vec<Policy>,
}

impl Questions {
    pub fn new(words: &[&str]) -> anyhow::Result<Questions> {
        let load = |it: &presets::Preset| policy::load(&it.path(), false);
        let policies = presets::PRESETS.iter().map(load).collect::<anyhow::Result<_>>()?;
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
    Depths::count(phrases, &here, &there)
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
