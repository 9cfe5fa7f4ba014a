//! MILAN: the sentence with the highest mutual information with the regions that a unit fires on.
//!
//! Hernandez et al. 2022, <https://arxiv.org/abs/2201.11114>: an [`encoder`] looks at the regions, a
//! [`captioner`] says how probable a sentence is given them, a language model ([`lm`]) how probable it is
//! anyway, and [`decode`] searches for the sentence where the two differ most. [`authors`] reads the files
//! that the authors publish.
//!
//! What is built in goes further: a [`critic`] estimates the mutual information itself, and [`compose`]
//! makes the sentences that it judges. The critic also says how strongly a unit speaks for any
//! phrase, and how sure a description is.

pub mod authors;
pub mod captioner;
pub mod checkpoint;
pub mod compose;
pub mod concepts;
pub mod critic;
pub mod decode;
pub mod depths;
pub mod encoder;
mod grammar;
pub mod lm;
pub mod logistic;
pub mod look;
pub mod minilm;
pub mod noise;
pub mod phrases;
pub mod pieces;
pub(crate) mod read;
pub mod sentence;
pub mod vocab;

mod lstm;
pub(super) mod shelf;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use candle_core::{Device, Tensor};
use candle_nn::{Linear, Module, VarBuilder, linear};
use rayon::prelude::*;

use crate::model::recognise;
use crate::model::run::Network;
use crate::unit::Reading;
use crate::{inconclusive, usage};
use captioner::{Captioner, Regions};
use checkpoint::{Contents, Fitted, Settings};
use compose::{Candidate, Candidates, Composer, TermWeights};
use critic::{Critic, mean_score, texts_of, units_of};
use decode::Speaker;
use depths::Depths;
use encoder::{Encoder, Resizing};
use lm::LanguageModel;
use logistic::Logistic;
use look::Seen;
use minilm::MiniLm;
use noise::Noise;
use phrases::Phrases;
use pieces::Pieces;
use sentence::Sentences;
use shelf::Shelf;
use vocab::{Vocabulary, capitalised};

/// The weights that the program carries.
pub const BUILT_IN: &[u8] = include_bytes!("../../../assets/describer/milan.safetensors");

/// Units that are described together.
const BATCH: usize = 16;
/// Standardised features beyond this are cut.
const FARTHEST: f32 = 6.;
/// The best reading and its runners-up.
const MAX_READINGS: usize = 3;
/// Readings more alike than this, by cosine, say the same.
const SAME: f32 = 0.6;

/// A describer of our own: encoder, captioner, language model, critics, sentence tower and phrases.
pub struct Milan {
    pub settings: Settings,
    pub encoder: Encoder,
    /// Of each feature over the regions that training saw.
    mean: Tensor,
    std: Tensor,
    pub speech: Speech,
    pub critics: Vec<Critic>,
    pub sentences: Sentences,
    /// What understands sentences in place of `sentences`, which was taught by it.
    listener: Option<MiniLm>,
    pub phrases: Phrases,
    pub depths: Depths,
    /// The vector that is expected of any unit, `(1, sentence)`.
    background: Tensor,
    /// Keys of the annotated units and named regions that training saw.
    pub seen: BTreeSet<String>,
}

/// The paper's two models, behind a layer that brings the features to fewer dimensions.
pub struct Speech {
    view: Linear,
    pub captioner: Captioner,
    pub lm: LanguageModel,
    pub vocabulary: Vocabulary,
}

impl Speech {
    /// Reads `captioner` with its `view` of so many features, and `lm`.
    pub fn new(
        features: usize,
        captioner: captioner::Sizes,
        lm: lm::Sizes,
        vocabulary: Vocabulary,
        vb: &VarBuilder<'_>,
    ) -> candle_core::Result<Speech> {
        Ok(Speech {
            view: linear(features, captioner.features, vb.pp("captioner.view"))?,
            captioner: Captioner::new(captioner, &vb.pp("captioner"))?,
            lm: LanguageModel::new(lm, &vb.pp("lm"))?,
            vocabulary,
        })
    }

    /// Regions from standardised features `(units, k, features)`.
    pub fn regions(&self, features: &Tensor, noise: &mut Noise) -> candle_core::Result<Regions> {
        let view = self.view.forward(&noise.drop(features, 0.4)?)?.gelu_erf()?;
        self.captioner.regions(&noise.drop(&view, 0.4)?)
    }

    pub fn speaker(&self, length: usize) -> Speaker<'_> {
        let Speech { captioner, lm, vocabulary, .. } = self;
        Speaker { captioner, lm: Some(lm), vocabulary, length }
    }
}

/// What the critics and the captioner make of some units.
pub struct Perceived {
    /// From each critic `(units, common)`.
    pub units: Vec<Tensor>,
    /// For each unit how alike its regions are to the critics: the length of the mean of the vectors, of length 1,
    /// that they make of each alone.
    pub coherence: Vec<f32>,
    pub regions: Regions,
}

impl Milan {
    pub fn built_in() -> anyhow::Result<Milan> {
        let contents = checkpoint::from_bytes(BUILT_IN).context("the built-in describer")?;
        Milan::new(contents)
    }

    /// Strict: no tensor may be missing, of another shape, or left over.
    pub fn new(contents: Contents) -> anyhow::Result<Milan> {
        let Contents { settings, words, pieces, phrases, depths, seen, tensors } = contents;
        let (own, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            tensors.into_iter().partition(|(name, _)| name.starts_with("encoder."));
        let own: BTreeMap<String, Tensor> = own
            .into_iter()
            .map(|(name, tensor)| (name.trim_start_matches("encoder.").to_owned(), tensor))
            .collect();
        let shapes = own.iter().map(|(name, it)| (name.clone(), it.dims().to_vec())).collect();
        let recognised = recognise(&shapes, None).context("its encoder")?;
        if let Some(name) = recognised.unread.first() {
            return Err(inconclusive!("its encoder's tensor `{name}` is read by nothing"));
        }
        let network = Network::new(recognised.graph, &Device::Cpu, |name| Ok(own[name].clone()))?;
        let sites: Vec<&str> = settings.encoder.sites.iter().map(String::as_str).collect();
        let encoder = Encoder::new(network, &sites, Resizing::Area)?.with_colours();

        let shelf = Shelf::new(rest);
        let vb = shelf.builder();
        let n_features = encoder.n_features();
        let vocabulary = Vocabulary::new(words);
        let n_tokens = vocabulary.n_tokens();
        if (settings.captioner.tokens, settings.lm.tokens) != (n_tokens, n_tokens) {
            return Err(inconclusive!(
                "its captioner speaks {} tokens and its language model {}, but its words make {n_tokens}",
                settings.captioner.tokens,
                settings.lm.tokens
            ));
        }
        let speech = Speech::new(n_features, settings.captioner, settings.lm, vocabulary, &vb)?;
        let critic = |i: usize| Critic::new(settings.critic, &vb.pp("critic").pp(i));
        let phrases: Phrases = serde_json::from_str(&phrases)
            .map_err(|error| inconclusive!("its phrases: {error}"))?;
        if phrases.texts().is_empty() {
            return Err(inconclusive!("its phrases: there is none, so it can say nothing"));
        }
        let depths: Depths = serde_json::from_str(&depths)
            .map_err(|error| inconclusive!("what it knows of depths: {error}"))?;
        let milan = Milan {
            encoder,
            mean: vb.get(n_features, "features.mean")?,
            std: vb.get(n_features, "features.std")?,
            speech,
            critics: (0..settings.critics).map(critic).collect::<candle_core::Result<_>>()?,
            sentences: Sentences::new(Pieces::new(pieces)?, settings.sentence, &vb.pp("sentence"))?,
            background: vb.get((1, settings.sentence.sentence), "background")?,
            listener: None,
            phrases,
            depths,
            seen: seen.into_iter().collect(),
            settings,
        };
        shelf.finish()?;
        Ok(milan)
    }

    /// Lets the full sentence encoder understand phrases, and the sentences that are chosen among. Errs where the
    /// folder holds another encoder than the one that the small one was taught by.
    pub fn listen_with(&mut self, folder: &Path) -> anyhow::Result<()> {
        if !self.understands(folder)? {
            return Err(usage!(
                "{} is another sentence encoder than the one that this describer was taught by, so its critics \
                 do not know what it says; leave --sentence-encoder out, or name the right folder",
                folder.display()
            ));
        }
        self.listener = Some(MiniLm::open(folder)?);
        Ok(())
    }

    /// Whether a folder holds the sentence encoder that this describer was taught by.
    pub fn understands(&self, folder: &Path) -> anyhow::Result<bool> {
        Ok(minilm::digest(folder)? == self.settings.sentence_encoder)
    }

    /// What was fitted with what understands sentences now.
    pub fn fitted(&self) -> &Fitted {
        match self.listener {
            Some(_) => &self.settings.fitted_full,
            None => &self.settings.fitted,
        }
    }

    /// Vectors of length 1, `(texts, sentence)`.
    pub fn encode(&self, texts: &[&str]) -> anyhow::Result<Tensor> {
        match &self.listener {
            Some(encoder) => encoder.encode(texts),
            None => self.sentences.encode(texts),
        }
    }

    /// Standardised features `(units, k, features)`.
    pub fn standard(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        standard(features, &self.mean, &self.std)
    }

    /// Of each feature over the regions that training saw, the mean and the standard deviation.
    pub fn moments(&self) -> (&Tensor, &Tensor) {
        (&self.mean, &self.std)
    }

    /// Looks with critics and captioner at features `(units, k, features)` as the encoder gave them.
    pub fn perceive(&self, features: &Tensor) -> anyhow::Result<Perceived> {
        let features = self.standard(features)?;
        let (n, k, _) = features.dims3()?;
        let length = |alone: Tensor| alone.reshape((n, k, ()))?.mean(1)?.sqr()?.sum(1)?.sqrt();
        let alone = units_of(&self.critics, &alone(&features)?)?.into_iter().map(length);
        let alone = alone.collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Perceived {
            units: units_of(&self.critics, &features)?,
            coherence: Tensor::stack(&alone, 0)?.mean(0)?.to_vec1()?,
            regions: self.speech.regions(&features, &mut Noise::none())?,
        })
    }

    /// The readings of the units of a site, best first.
    pub fn read(
        &self,
        composer: &Composer<'_>,
        seen: &Seen,
        progress: Tick<'_>,
    ) -> anyhow::Result<Vec<Vec<Reading>>> {
        let units: Vec<usize> = (0..seen.n_units).collect();
        let read = |units: &[usize]| {
            let perceived = self.perceive(&seen.features(units)?)?;
            let candidates = composer.candidates(&perceived)?;
            let readings = candidates.iter().zip(units);
            let readings = readings.map(|(it, &unit)| self.readings(it, seen.area(unit)));
            Ok(readings.collect())
        };
        let mut readings = Vec::with_capacity(units.len());
        for some in units.chunks(BATCH * rayon::current_num_threads()) {
            let parts = some.par_chunks(BATCH).map(read);
            let parts: Vec<Vec<Vec<Reading>>> = parts.collect::<anyhow::Result<_>>()?;
            readings.extend(parts.into_iter().flatten());
            progress(some.len())?;
        }
        Ok(readings)
    }

    /// The best sentences, best first.
    pub fn readings(&self, candidates: &Candidates, area: f32) -> Vec<Reading> {
        let Fitted { terms, confidence, .. } = self.fitted();
        self.readings_by(candidates, area, terms, confidence)
    }

    /// The best sentences by other weights, and how sure they are by another fit.
    pub fn readings_by(
        &self,
        candidates: &Candidates,
        area: f32,
        weights: &TermWeights,
        confidence: &Logistic,
    ) -> Vec<Reading> {
        let chosen = choose(candidates, weights, MAX_READINGS);
        let reading = |(at, it): (usize, &&Candidate)| {
            let terms = confidence_terms(&chosen, at, candidates, area, weights);
            let confidence = confidence.probability(&terms);
            Reading { text: capitalised(&it.text), confidence }
        };
        let mut readings: Vec<Reading> = chosen.iter().enumerate().map(reading).collect();
        // What is said first is what is surest.
        for at in 1..readings.len() {
            readings[at].confidence = readings[at].confidence.min(readings[at - 1].confidence);
        }
        readings
    }

    /// How probable it is that a person names each phrase of each unit, `units × phrases`: the evidence of
    /// the critics, against that of the other units. `seen` are best [places drawn at
    /// random](crate::exemplars::spread): what excites a unit most is not all that it fires on.
    pub fn evidence(&self, seen: &[Seen], phrases: &[&str]) -> anyhow::Result<Vec<Vec<f32>>> {
        let scores = self.scores(seen, phrases)?;
        let means: Vec<f32> = (0..phrases.len()).map(|at| mean_of(&scores, at)).collect();
        let probability = |(&score, &mean): (&f32, &f32)| {
            self.fitted().evidence.probability(&evidence_terms(score, mean))
        };
        Ok(scores.iter().map(|it| it.iter().zip(&means).map(probability).collect()).collect())
    }

    /// How much likelier each phrase is with each unit of all sites than without it, `units × phrases`,
    /// in logarithms: a unit is a mixture of its exemplars, `p(d|E) = mean p(d|e)`, each of which the critics
    /// judge alone.
    pub fn scores(&self, seen: &[Seen], phrases: &[&str]) -> anyhow::Result<Vec<Vec<f32>>> {
        let texts = texts_of(&self.critics, &self.encode(phrases)?)?;
        let parts: Vec<(&Seen, Vec<usize>)> = seen
            .iter()
            .flat_map(|seen| {
                let units: Vec<usize> = (0..seen.n_units).collect();
                units.chunks(BATCH).map(|it| (seen, it.to_vec())).collect::<Vec<_>>()
            })
            .collect();
        let scores = parts.par_iter().map(|(seen, units)| {
            let features = self.standard(&seen.features(units)?)?;
            let alone = units_of(&self.critics, &alone(&features)?)?;
            let alone = mean_score(&self.critics, &alone, &texts)?;
            let likelihood = alone.exp()?.reshape((units.len(), seen.k, ()))?.mean(1)?;
            Ok(likelihood.log()?.to_vec2::<f32>()?)
        });
        Ok(scores.collect::<anyhow::Result<Vec<_>>>()?.concat())
    }
}

/// Told how many units were described since it was last told.
pub type Tick<'a> = &'a dyn Fn(usize) -> anyhow::Result<()>;

/// Features `(units, k, features)` as if each region were a unit, `(units · k, 1, features)`.
fn alone(features: &Tensor) -> candle_core::Result<Tensor> {
    features.flatten(0, 1)?.unsqueeze(1)
}

/// Each feature less its mean, in standard deviations, cut at 6 on either side.
pub fn standard(features: &Tensor, mean: &Tensor, std: &Tensor) -> candle_core::Result<Tensor> {
    features.broadcast_sub(mean)?.broadcast_div(std)?.clamp(-FARTHEST, FARTHEST)
}

/// The best candidates that say something else than those before, best first.
pub fn choose<'a>(candidates: &'a Candidates, terms: &TermWeights, n: usize) -> Vec<&'a Candidate> {
    let mut order: Vec<&Candidate> = candidates.list.iter().collect();
    order.sort_by(|a, b| b.score(terms).total_cmp(&a.score(terms)));
    let mut chosen: Vec<&Candidate> = vec![];
    for it in order {
        let cosine =
            |a: &Candidate| a.vector.iter().zip(&it.vector).map(|(a, b)| a * b).sum::<f32>();
        if chosen.len() < n && chosen.iter().all(|before| cosine(before) < SAME) {
            chosen.push(it);
        }
    }
    chosen
}

/// What the confidence in a chosen sentence rests on: its score, how far it is above the next that says
/// something else (below the best, if it is not the best), the critics' own score, how undecided they are
/// among all phrases, how alike the regions are, and the logarithm of the masks' area.
pub fn confidence_terms(
    chosen: &[&Candidate],
    at: usize,
    candidates: &Candidates,
    area: f32,
    weights: &TermWeights,
) -> Vec<f64> {
    let score = |at: usize| chosen[at].score(weights);
    let rival = if at == 0 { 1.min(chosen.len() - 1) } else { 0 };
    let gap = score(at) - score(rival);
    let Candidates { entropy, coherence, .. } = *candidates;
    let terms = [score(at), gap, chosen[at].terms[0], entropy, coherence, (area + 1e-3).ln()];
    terms.map(f64::from).to_vec()
}

/// What the evidence for a phrase rests on: how far the critics' score is above its mean over all units of
/// the network, and that mean.
pub fn evidence_terms(score: f32, mean: f32) -> Vec<f64> {
    vec![f64::from(score - mean), f64::from(mean)]
}

/// The mean over all units of the scores of one phrase.
pub fn mean_of(scores: &[Vec<f32>], phrase: usize) -> f32 {
    scores.iter().map(|it| it[phrase]).sum::<f32>() / scores.len().max(1) as f32
}
