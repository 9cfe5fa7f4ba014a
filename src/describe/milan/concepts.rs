//! How probable it is that somebody names a concept, such as what a rule asks for, of a unit.
//!
//! The critics say how probable each phrase is of a unit's exemplars; the share of those that speak of the concept is
//! what everything rests on. It is compared with that of the network's other units, and, region by region, with that of
//! places all over the same pictures: a unit that fires on edges fires on letters, too, and on much else. From these,
//! from how often people say it at all and from the unit's own readings a logistic regression gives the probability; it
//! was fitted to units that training did not see, to made-up ones and to those of networks of which the truth is known.
//!
//! People name things at other depths of one network than of the next: text often at the first layers of a ResNet-152, and
//! hardly ever at those of AlexNet. Of the early layers of an unknown network no more is taken to be said than of both.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::compose::Composer;
use super::critic::units_of;
use super::depths::{HowOften, N_DEPTHS, at_depth};
use super::look::{N_PLACES, Seen};
use super::{Milan, alone};
use crate::unit::{Judgement, Reading, Shown};

/// Something that texts may speak of.
pub struct Concept<'a> {
    pub name: String,
    pub speaks: Box<dyn Fn(&str) -> bool + Sync + 'a>,
}

/// Units whose regions go through the critics together.
const BATCH: usize = 64;
/// Shares below it are not told apart.
const LEAST: f32 = 1e-3;
/// A place shows a concept when so much of what is expected to be said of it speaks of it; of concepts that few phrases
/// speak of, when it is so many times as much as of any picture, and not too little.
const SHOWN: f32 = 0.2;
const SHOWN_TIMES: f32 = 10.;
const LEAST_SHOWN: f32 = 0.1;

/// Some concepts, ready to be looked for.
pub struct Concepts<'a> {
    milan: &'a Milan,
    composer: &'a Composer<'a>,
    concepts: &'a [Concept<'a>],
    /// Whether a phrase speaks of a concept, `(phrases, concepts)`, 0 or 1.
    speaks: Tensor,
    /// Of which share of the units that were learnt from people said it, 0..=1.
    common: Vec<f32>,
    /// For each concept the logarithm of [`Judgement::depth`] at each of the depths.
    by_depth: Vec<[f64; N_DEPTHS]>,
    /// Whether any phrase speaks of it.
    known: Vec<bool>,
    /// The share from which a place shows it.
    shown: Vec<f32>,
}

/// What is known of each unit of one site, for each concept.
pub struct Shares {
    /// Of the exemplars together and of each alone, `units × concepts`.
    expected: Vec<Vec<f32>>,
    firing: Vec<Vec<f32>>,
}

/// What is expected of the units of a network, for each concept: the geometric mean of their shares.
pub struct NetworkShares(Vec<f32>);

/// The shares of the places of each picture that was looked at.
#[derive(Default)]
pub struct PlaceShares {
    /// The mean over a picture's places, for each concept.
    means: BTreeMap<usize, Vec<f32>>,
    shown: Vec<Shown>,
}

impl<'a> Concepts<'a> {
    pub fn new(
        milan: &'a Milan,
        composer: &'a Composer<'a>,
        concepts: &'a [Concept<'a>],
    ) -> anyhow::Result<Concepts<'a>> {
        let phrases = &milan.phrases;
        let (n, m) = (phrases.texts().len(), concepts.len());
        let speaks: Vec<Vec<bool>> = concepts
            .par_iter()
            .map(|it| phrases.texts().iter().map(|text| (it.speaks)(text)).collect())
            .collect();
        let values = (0..n * m).map(|at| f32::from(u8::from(speaks[at % m][at / m])));
        let table = Tensor::from_vec(values.collect::<Vec<f32>>(), (n, m), &Device::Cpu)?;
        let said = milan.depths.mentions();
        let named = concepts.par_iter().map(|it| said.named(|text| (it.speaks)(text)));
        let named: Vec<HowOften> = named.collect();
        let of_any_picture = composer.unseen()?.matmul(&table)?.squeeze(0)?.to_vec1::<f32>()?;
        let shown = |share: f32| (SHOWN_TIMES * share).clamp(LEAST_SHOWN, SHOWN);
        Ok(Concepts {
            milan,
            composer,
            concepts,
            shown: of_any_picture.into_iter().map(shown).collect(),
            speaks: table,
            common: named.iter().map(|it| it.common).collect(),
            by_depth: named.iter().map(|it| it.less_often_elsewhere).collect(),
            known: speaks.iter().map(|it| it.contains(&true)).collect(),
        })
    }

    pub fn n_concepts(&self) -> usize {
        self.concepts.len()
    }

    /// Whether some phrase speaks of the concept of that place; nothing can be said of others.
    pub fn is_known(&self, concept: usize) -> bool {
        self.known[concept]
    }

    /// The shares of units given as regions' features `(units, k, features)`, standardised.
    fn shares(&self, features: &Tensor) -> anyhow::Result<Vec<Vec<f32>>> {
        let units = units_of(&self.milan.critics, features)?;
        let (_, log_p) = self.composer.expected(&units)?;
        Ok(log_p.exp()?.matmul(&self.speaks)?.to_vec2()?)
    }

    /// What is known of the units of a site.
    pub fn of_site(&self, seen: &Seen) -> anyhow::Result<Shares> {
        let units: Vec<usize> = (0..seen.n_units).collect();
        let parts = units.par_chunks(BATCH).map(|units| self.of_features(&seen.features(units)?));
        let parts = parts.collect::<anyhow::Result<Vec<_>>>()?;
        let mut all = Shares { expected: vec![], firing: vec![] };
        for part in parts {
            all.expected.extend(part.expected);
            all.firing.extend(part.firing);
        }
        Ok(all)
    }

    /// What is known of units given as the features of their regions `(units, k, features)`.
    pub fn of_features(&self, features: &Tensor) -> anyhow::Result<Shares> {
        let features = self.milan.standard(features)?;
        let k = features.dim(1)?;
        let regions = self.shares(&alone(&features)?)?;
        let firing = regions.chunks(k.max(1)).map(mean).collect();
        Ok(Shares { expected: self.shares(&features)?, firing })
    }

    /// Takes in the places of some pictures, features `(pictures, N_PLACES, features)`.
    pub fn see_places(
        &self,
        known: &mut PlaceShares,
        pictures: &[usize],
        features: &[f32],
    ) -> anyhow::Result<()> {
        let size = features.len() / pictures.len().max(1);
        let shares = features.par_chunks(size.max(1)).map(|features| {
            let shape = (N_PLACES, 1, size / N_PLACES);
            let features = Tensor::from_slice(features, shape, &Device::Cpu)?;
            self.shares(&self.milan.standard(&features)?)
        });
        let shares = shares.collect::<anyhow::Result<Vec<_>>>()?;
        known.shown.resize(self.concepts.len(), Shown::default());
        for (&picture, shares) in pictures.iter().zip(shares) {
            for (concept, shown) in known.shown.iter_mut().enumerate() {
                let places = shares.iter().filter(|it| self.shown[concept] <= it[concept]).count();
                shown.places += places;
                shown.pictures += usize::from(0 < places);
                shown.of += 1;
            }
            known.means.insert(picture, mean(&shares));
        }
        Ok(())
    }

    /// What is expected of the units of all sites.
    pub fn network(&self, sites: &[Shares]) -> NetworkShares {
        let units: Vec<&Vec<f32>> = sites.iter().flat_map(|it| &it.expected).collect();
        let concept = |concept: usize| geometric_mean(units.iter().map(|it| it[concept]));
        NetworkShares((0..self.concepts.len()).map(concept).collect())
    }

    /// The judgement of one concept for one unit.
    pub fn judge(&self, unit: &Facts<'_>, concept: usize) -> Judgement {
        let speaks = |it: &&Reading| (self.concepts[concept].speaks)(&it.text);
        let mut judgement = Judgement {
            probability: 0.,
            expected: unit.shares.expected[unit.row][concept],
            network: unit.network.0[concept],
            firing: unit.shares.firing[unit.row][concept],
            elsewhere: unit.places.elsewhere(unit.pictures, concept),
            depth: at_depth(&self.by_depth[concept], unit.depth).exp() as f32,
            said: unit.readings.iter().filter(speaks).map(|it| it.confidence).fold(0., f32::max),
        };
        let log_odds = self.milan.fitted().concept.log_odds(&self.terms(&judgement, concept));
        let log_odds = log_odds + f64::from(judgement.depth).ln();
        judgement.probability = (1. / (1. + (-log_odds).exp())) as f32;
        judgement
    }

    /// What the [fit](crate::describe::milan::checkpoint::Fitted::concept) rests on.
    pub fn terms(&self, judgement: &Judgement, concept: usize) -> Vec<f64> {
        terms(judgement, self.common[concept])
    }

    /// Where each concept is shown, in the order of the concepts.
    pub fn shown(&self, places: &PlaceShares) -> Vec<Shown> {
        let mut shown = places.shown.clone();
        shown.resize(self.concepts.len(), Shown::default());
        shown
    }
}

impl PlaceShares {
    /// The mean shares of the places of some pictures; of all of them where none was looked at.
    fn elsewhere(&self, pictures: &[usize], concept: usize) -> f32 {
        let own: Vec<f32> =
            pictures.iter().filter_map(|it| self.means.get(it)).map(|it| it[concept]).collect();
        let of =
            if own.is_empty() { self.means.values().map(|it| it[concept]).collect() } else { own };
        of.iter().sum::<f32>() / of.len().max(1) as f32
    }
}

/// All that a judgement of one unit rests on.
pub struct Facts<'a> {
    pub shares: &'a Shares,
    /// The unit's place in its site.
    pub row: usize,
    /// Of its exemplars.
    pub pictures: &'a [usize],
    pub places: &'a PlaceShares,
    pub network: &'a NetworkShares,
    pub readings: &'a [Reading],
    /// Of its layer, 0 being the first and 1 the last.
    pub depth: f32,
}

/// How far what is expected is above what is expected of other units of the network, and what the firing places show above
/// others of the same pictures, in logarithms; the log odds of people's saying it at all; and what the readings say.
fn terms(it: &Judgement, common: f32) -> Vec<f64> {
    let ln = |it: f32| f64::from((it + LEAST).ln());
    let network = ln(it.expected) - ln(it.network);
    let selectivity = ln(it.firing) - ln(it.elsewhere);
    let common = ln(common) - ln(1. - common);
    vec![network, selectivity, common, f64::from(it.said)]
}

/// The mean of shares by their logarithms, in which they are compared, [`LEAST`] above 0; 0 without any. It lies below the
/// arithmetic mean, which a few high ones decide.
fn geometric_mean(shares: impl Iterator<Item = f32>) -> f32 {
    let (mut sum, mut n) = (0., 0);
    for share in shares {
        sum += f64::from(share + LEAST).ln();
        n += 1;
    }
    if n == 0 { 0. } else { (sum / f64::from(n)).exp() as f32 - LEAST }
}

/// The mean of rows of the same length.
fn mean(rows: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.; rows.first().map_or(0, Vec::len)];
    for row in rows {
        sum.iter_mut().zip(row).for_each(|(sum, it)| *sum += it);
    }
    sum.iter().map(|it| it / rows.len().max(1) as f32).collect()
}
