//! Sentences for a unit, composed of two phrases and a connective, and how good each is.
//!
//! A beam of the captioner finds the sentences that are likely; the best by mutual information need not
//! be among them. So candidates are made the other way round: the critic looks at every phrase, the best
//! ones are joined in all ways that people join them, and the joined sentences are judged by
//!
//! - the critic: the estimate of `log p(d|E) / p(d)`;
//! - agreement: the cosine with the sentence vector that the critic expects, `Σ p(phrase|E) · vector`,
//!   less most of what is expected of any unit. It is the minimum-risk choice (Kumar and Byrne 2004) where
//!   the loss is one less the cosine: a sentence near to everything that could be right;
//! - the captioner: `log p(d|E)`, for sentences that people would write;
//! - the number of words, without articles;
//! - how common it is: the logarithm of how many units the rarer of its phrases was said of. What fits many units tells
//!   little of any one of them.

use anyhow::Context;
use candle_core::{D, Device, IndexOp, Tensor};
use candle_nn::ops::softmax;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::captioner::Regions;
use super::critic::{mean_score, texts_of};
use super::decode::{Sentence, best_of};
use super::phrases::{CONNECTIVES, n_words, words};
use super::sentence::Sum;
use super::vocab::{Indexing, tokenize};
use super::{Milan, Perceived, Speech};

/// Phrases that are joined, for each unit.
const PHRASES: usize = 20;
/// Candidates that the captioner reads, for each unit.
const READ: usize = 32;
/// How much of the expected vector of any unit is taken off.
const BACKGROUND: f64 = 0.7;
/// How much agreement counts in choosing what to join and to read.
const AGREEMENT: f64 = 8.;
/// Phrases more alike than this, by cosine, say the same.
const SAME: f32 = 0.7;

/// What makes a sentence good: the order of [`Candidate::terms`].
pub const TERMS: [&str; 5] = ["critic", "agreement", "captioner", "words", "commonness"];

/// How much each of [`TERMS`] counts.
pub type TermWeights = [f32; TERMS.len()];

/// Weights from a file; terms that it does not know count nothing.
pub(super) fn read_weights<'de, D: Deserializer<'de>>(from: D) -> Result<TermWeights, D::Error> {
    let known = Vec::<f32>::deserialize(from)?;
    let mut weights = [0.; TERMS.len()];
    let places = weights.get_mut(..known.len());
    let places = places.ok_or_else(|| D::Error::custom(format!("{} terms", known.len())))?;
    places.copy_from_slice(&known);
    Ok(weights)
}

#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub text: String,
    pub terms: TermWeights,
    /// Of length 1.
    pub vector: Vec<f32>,
}

impl Candidate {
    pub fn score(&self, weights: &TermWeights) -> f32 {
        self.terms.iter().zip(weights).map(|(term, weight)| term * weight).sum()
    }
}

/// What is said of one unit.
pub struct Candidates {
    /// Those read by the captioner; the sentence tower's best by critic and agreement come first.
    pub list: Vec<Candidate>,
    /// Of the probabilities of all phrases, in nats: how undecided the critic is.
    pub entropy: f32,
    /// [How alike](super::Perceived::coherence) the unit's regions are.
    pub coherence: f32,
}

/// Everything that composing needs, prepared once.
pub struct Composer<'a> {
    milan: &'a Milan,
    /// `(phrases, sentence)`.
    vectors: Tensor,
    /// The same for each critic's tower, `(phrases, common)`.
    towers: Vec<Tensor>,
    sums: Vec<Sum>,
    connectives: Vec<Sum>,
    /// Half the logarithm of how many units a phrase was said of, `(1, phrases)`.
    prior: Tensor,
    /// The vector that is expected of any unit, `(1, sentence)`, times [`BACKGROUND`].
    background: Tensor,
}

impl<'a> Composer<'a> {
    pub fn new(milan: &'a Milan) -> anyhow::Result<Composer<'a>> {
        let Milan { phrases, sentences, .. } = milan;
        let sum = |text: &str| sentences.sum(text);
        let sums = phrases.texts().iter().map(|it| sum(it)).collect::<anyhow::Result<Vec<_>>>()?;
        let vectors =
            milan.encode(&phrases.texts().iter().map(String::as_str).collect::<Vec<_>>())?;
        let prior: Vec<f32> = phrases.n_units().iter().map(|&n| 0.5 * (n as f32).ln()).collect();
        Ok(Composer {
            milan,
            towers: texts_of(&milan.critics, &vectors)?,
            vectors,
            sums,
            connectives: CONNECTIVES.iter().map(|it| sum(it)).collect::<anyhow::Result<_>>()?,
            prior: Tensor::new(prior.as_slice(), &Device::Cpu)?.unsqueeze(0)?,
            background: (&milan.background * BACKGROUND)?,
        })
    }

    /// The critics' mean score of every phrase, `(units, phrases)`; a vector a unit from each critic.
    fn phrase_scores(&self, units: &[Tensor]) -> candle_core::Result<Tensor> {
        mean_score(&self.milan.critics, units, &self.towers)
    }

    /// The sentence vector that the critics expect of each unit, `(units, sentence)`, and the logarithm of
    /// each phrase's probability, `(units, phrases)`.
    pub fn expected(&self, units: &[Tensor]) -> candle_core::Result<(Tensor, Tensor)> {
        let scores = self.phrase_scores(units)?;
        let logits = scores.broadcast_add(&self.prior)?;
        let log_p = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
        Ok((softmax(&logits, D::Minus1)?.matmul(&self.vectors)?, log_p))
    }

    /// The probability of each phrase of a unit of which nothing was seen, `(1, phrases)`.
    pub fn unseen(&self) -> candle_core::Result<Tensor> {
        softmax(&self.prior, D::Minus1)
    }

    /// Candidates for some units.
    pub fn candidates(&self, perceived: &Perceived) -> anyhow::Result<Vec<Candidates>> {
        let Perceived { units, coherence, regions } = perceived;
        let scores = self.phrase_scores(units)?;
        let (expected, log_p) = self.expected(units)?;
        let expected = expected.broadcast_sub(&self.background)?;
        let agreement = expected.matmul(&self.vectors.t()?)?;
        let order = (scores + (&agreement * AGREEMENT)?)?.to_vec2::<f32>()?;
        let entropy = (log_p.exp()? * &log_p)?.sum(1)?.neg()?.to_vec1::<f32>()?;

        let mut read = Vec::new();
        for (unit, order) in order.iter().enumerate() {
            let one: Vec<Tensor> =
                units.iter().map(|it| it.i(unit..unit + 1)).collect::<candle_core::Result<_>>()?;
            read.push(self.compose(&one, &expected.i(unit..unit + 1)?, order)?);
        }
        let texts: Vec<Vec<String>> =
            read.iter().map(|it| it.iter().map(|it| it.text.clone()).collect()).collect();
        let log_p = captioned(&self.milan.speech, regions, &texts)?;
        for (candidates, log_p) in read.iter_mut().zip(log_p) {
            candidates.iter_mut().zip(log_p).for_each(|(it, log_p)| it.terms[2] = log_p);
        }
        let units = read.into_iter().zip(entropy).zip(coherence);
        let one = |((list, entropy), &coherence)| Candidates { list, entropy, coherence };
        Ok(units.map(one).collect())
    }

    /// The best sentences for one unit by critic and agreement; `order` says how good each phrase is.
    fn compose(
        &self,
        unit: &[Tensor],
        expected: &Tensor,
        order: &[f32],
    ) -> anyhow::Result<Vec<Candidate>> {
        let Milan { phrases: all, sentences, critics, .. } = self.milan;
        let phrases = best_of(order, PHRASES);
        let places: Vec<u32> = phrases.iter().map(|&it| it as u32).collect();
        let vectors =
            self.vectors.index_select(&Tensor::new(places.as_slice(), &Device::Cpu)?, 0)?;
        let alike = vectors.matmul(&vectors.t()?)?.to_vec2::<f32>()?;
        let mut sums: Vec<Sum> = phrases.iter().map(|&it| self.sums[it].clone()).collect();
        let mut texts: Vec<String> = phrases.iter().map(|&it| all.texts()[it].clone()).collect();
        let common = |phrase: usize| (all.n_units()[phrase] as f32).ln();
        let mut commonness: Vec<f32> = phrases.iter().map(|&it| common(it)).collect();
        for (i, &a) in phrases.iter().enumerate() {
            for (j, &b) in phrases.iter().enumerate() {
                for connective in 0..CONNECTIVES.len() {
                    // Of "a and b" and "b and a" the captioner would choose, and costs more than it is worth.
                    let again = connective == 0 && j < i;
                    if i == j || again || SAME < alike[i][j] || !all.may_join(a, connective, b) {
                        continue;
                    }
                    let mut sum = self.sums[a].clone();
                    sum.add(&self.connectives[connective]);
                    sum.add(&self.sums[b]);
                    sums.push(sum);
                    texts.push(all.join(a, connective, b));
                    commonness.push(common(a).min(common(b)));
                }
            }
        }
        let judge = |vectors: &Tensor| {
            let towers = texts_of(critics, vectors)?;
            let critic = mean_score(critics, unit, &towers)?.i(0)?;
            Ok::<_, candle_core::Error>((critic, vectors.matmul(&expected.t()?)?.squeeze(1)?))
        };
        let quick = sentences.encode_sums(&sums)?;
        let (critic, agreement) = judge(&quick)?;
        let order = (critic + (agreement * AGREEMENT)?)?.to_vec1::<f32>()?;
        let places = best_of(&order, READ);
        let read: Vec<&str> = places.iter().map(|&it| texts[it].as_str()).collect();
        let vectors = self.milan.encode(&read)?;
        let (critic, agreement) = judge(&vectors)?;
        let terms = critic.to_vec1::<f32>()?.into_iter().zip(agreement.to_vec1::<f32>()?);
        let rows = places.iter().zip(terms).zip(vectors.to_vec2()?);
        let candidate = |((&place, (critic, agreement)), vector): ((&usize, _), _)| {
            let text = texts[place].clone();
            let n_words = n_words(&words(&text)) as f32;
            Candidate { text, terms: [critic, agreement, 0., n_words, commonness[place]], vector }
        };
        Ok(rows.map(candidate).collect())
    }
}

/// `log p(d|E)` of some texts for each unit, as many for each.
fn captioned(
    speech: &Speech,
    regions: &Regions,
    texts: &[Vec<String>],
) -> anyhow::Result<Vec<Vec<f32>>> {
    let most = texts.iter().map(Vec::len).max().context("no unit")?;
    let sentence = |text: Option<&String>| {
        let words = text.map(|it| tokenize(it)).unwrap_or_default();
        let how = Indexing { stop: true, unknown: true, ..Default::default() };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let tokens = speech.vocabulary.index(&[words], how).swap_remove(0);
        Sentence { tokens, score: 0. }
    };
    // Where a unit has fewer, empty sentences fill its rows.
    let rows: Vec<Sentence> =
        texts.iter().flat_map(|it| (0..most).map(|at| sentence(it.get(at)))).collect();
    let log_p = speech.speaker(usize::MAX).log_p_given(regions, &rows)?;
    Ok(texts.iter().zip(log_p.chunks(most)).map(|(it, log_p)| log_p[..it.len()].to_vec()).collect())
}
