//! From a unit's regions to sentences: greedy, beam, and the beam reranked by mutual information.
//!
//! Hernandez et al. 2022, eq. 3 and section 4: `argmax_d log p(d|E) − λ log p(d)`, over the sentences of
//! a beam. The beam is allennlp's (`BeamSearch` with a deterministic sampler): a finished sentence stays
//! in the beam with the score it has, and nothing is divided by its length.

use anyhow::ensure;
use candle_core::{Device, Tensor};

use super::captioner::{Captioner, Regions};
use super::lm::LanguageModel;
use super::lstm::State;
use super::vocab::Vocabulary;

/// Some tokens and the sum of their scores. The last token is the stop where the sentence ends in time.
#[derive(Debug, Clone, PartialEq)]
pub struct Sentence {
    pub tokens: Vec<u32>,
    pub score: f32,
}

/// How the language model counts a sentence that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Up to its stop.
    AtStop,
    /// As the reference does by mistake: also the token behind the stop, of sentences that end before the
    /// longest of their beam (`lms.py`, `forward`).
    Reference,
}

/// The models that speak, and the longest sentence they may make, in tokens.
pub struct Speaker<'a> {
    pub captioner: &'a Captioner,
    pub lm: Option<&'a LanguageModel>,
    pub vocabulary: &'a Vocabulary,
    pub length: usize,
}

/// What both models remember of some rows.
struct Memory {
    captioner: State,
    lm: Vec<State>,
}

impl Speaker<'_> {
    /// The likeliest next word, `length` times, and the score of each step. With `lambda` words are scored
    /// by mutual information, `log p(w|E, …) − λ log p(w|…)`. Steps go on behind the stop, as in the
    /// reference.
    pub fn greedy(
        &self,
        regions: &Regions,
        lambda: Option<f64>,
    ) -> anyhow::Result<Vec<Vec<(u32, f32)>>> {
        let n = regions.n_units()?;
        let mut said: Vec<Vec<(u32, f32)>> = vec![vec![]; n];
        let mut memory = self.start(regions, lambda)?;
        let mut tokens = vec![self.vocabulary.start(); n];
        for _ in 0..self.length {
            let (scores, after) = self.step(regions, &tokens, &memory, lambda)?;
            memory = after;
            for (row, scores) in scores.chunks(self.vocabulary.n_tokens()).enumerate() {
                let best = best_of(scores, 1)[0];
                tokens[row] = best as u32;
                said[row].push((best as u32, scores[best]));
            }
        }
        Ok(said)
    }

    /// For each unit the `width` best sentences that a beam finds, best first.
    pub fn beam(
        &self,
        regions: &Regions,
        width: usize,
        lambda: Option<f64>,
    ) -> anyhow::Result<Vec<Vec<Sentence>>> {
        let n_tokens = self.vocabulary.n_tokens();
        ensure!(0 < width && width <= n_tokens, "a beam of {width} among {n_tokens} words");
        let n = regions.n_units()?;
        let start = vec![self.vocabulary.start(); n];
        let (scores, memory) = self.step(regions, &start, &self.start(regions, lambda)?, lambda)?;
        let mut beams: Vec<Vec<Sentence>> = scores
            .chunks(n_tokens)
            .map(|scores| {
                let first =
                    |best: usize| Sentence { tokens: vec![best as u32], score: scores[best] };
                best_of(scores, width).into_iter().map(first).collect()
            })
            .collect();
        let mut memory = memory;
        // Of each sentence the row of the memory that it goes on from.
        let mut parents: Vec<Vec<usize>> = (0..n).map(|unit| vec![unit; width]).collect();
        for _ in 1..self.length {
            let open = |beam: &Vec<Sentence>| -> Vec<usize> {
                (0..beam.len()).filter(|&it| !self.is_finished(&beam[it])).collect()
            };
            let open: Vec<Vec<usize>> = beams.iter().map(open).collect();
            let units: Vec<usize> = (0..n).filter(|&unit| !open[unit].is_empty()).collect();
            if units.is_empty() {
                break;
            }
            // As many rows for each unit: one with fewer open sentences repeats its last.
            let most = open.iter().map(Vec::len).max().unwrap_or_default();
            let (mut tokens, mut rows) = (vec![], vec![]);
            for &unit in &units {
                for at in 0..most {
                    let place = open[unit][at.min(open[unit].len() - 1)];
                    tokens.extend(beams[unit][place].tokens.last());
                    rows.push(parents[unit][place] as u32);
                }
            }
            let regions = regions.of(&units)?;
            let (scores, after) = self.step(&regions, &tokens, &memory.rows(&rows)?, lambda)?;
            memory = after;
            for (at, &unit) in units.iter().enumerate() {
                let scores = &scores[at * most * n_tokens..];
                let next = self.grow(&beams[unit], scores, width);
                parents[unit] = next.iter().map(|(row, _)| at * most + row).collect();
                beams[unit] = next.into_iter().map(|(_, sentence)| sentence).collect();
            }
        }
        Ok(beams)
    }

    /// The place in the beam of the sentence with the highest mutual information, its score, and `log p(d)`
    /// of every sentence.
    pub fn rerank(
        &self,
        beam: &[Sentence],
        lambda: f64,
        ending: Ending,
    ) -> anyhow::Result<(usize, f32, Vec<f32>)> {
        let prior = self.log_p(beam, ending)?;
        let scores = beam.iter().zip(&prior).map(|(it, prior)| it.score - lambda as f32 * prior);
        // Of equals the likelier sentence, which comes first.
        let best = scores
            .enumerate()
            .fold((0, f32::NEG_INFINITY), |best, it| if best.1 < it.1 { it } else { best });
        Ok((best.0, best.1, prior))
    }

    /// `log p(d)` of sentences.
    pub fn log_p(&self, sentences: &[Sentence], ending: Ending) -> anyhow::Result<Vec<f32>> {
        let Some(lm) = self.lm else { return Ok(vec![0.; sentences.len()]) };
        let longest = sentences.iter().map(|it| it.tokens.len()).max().unwrap_or_default();
        let stop = self.vocabulary.stop();
        let mut sums = vec![0f32; sentences.len()];
        let mut states = lm.start(sentences.len(), &Device::Cpu)?;
        let mut tokens = vec![self.vocabulary.start(); sentences.len()];
        for at in 0..longest {
            let (scores, after) =
                lm.step(&Tensor::new(tokens.as_slice(), &Device::Cpu)?, &states)?;
            states = after;
            let wanted: Vec<u32> =
                sentences.iter().map(|it| it.tokens.get(at).copied().unwrap_or(stop)).collect();
            let scores =
                scores.gather(&Tensor::new(wanted.as_slice(), &Device::Cpu)?.unsqueeze(1)?, 1)?;
            let scores = scores.flatten_all()?.to_vec1::<f32>()?;
            for ((sum, score), sentence) in sums.iter_mut().zip(scores).zip(sentences) {
                let n = sentence.tokens.len();
                let counts = at < n
                    || (at == n && ending == Ending::Reference && self.is_finished(sentence));
                *sum += if counts { score } else { 0. };
            }
            tokens = wanted;
        }
        Ok(sums)
    }

    /// `log p(d|E)` of sentences, which belong to the units in turn, as many to each. A sentence counts as
    /// far as its tokens go, its stop among them.
    pub fn log_p_given(
        &self,
        regions: &Regions,
        sentences: &[Sentence],
    ) -> anyhow::Result<Vec<f32>> {
        let units = regions.n_units()?;
        ensure!(sentences.len().is_multiple_of(units), "not as many sentences for each unit");
        let (n, device) = (sentences.len(), &Device::Cpu);
        let longest = sentences.iter().map(|it| it.tokens.len()).max().unwrap_or_default();
        let parents: Vec<u32> = (0..n).map(|row| (row / (n / units)) as u32).collect();
        let mut state = self.captioner.start(regions)?.rows(&Tensor::new(parents, device)?)?;
        let mut tokens = vec![self.vocabulary.start(); n];
        let mut sums = vec![0f32; n];
        for at in 0..longest {
            let read = Tensor::new(tokens.as_slice(), device)?;
            let (scores, after) = self.captioner.step(regions, &read, &state)?;
            state = after;
            let pad = self.vocabulary.pad();
            tokens = sentences.iter().map(|it| it.tokens.get(at).copied().unwrap_or(pad)).collect();
            let wanted = Tensor::new(tokens.as_slice(), device)?.unsqueeze(1)?;
            let scores = scores.gather(&wanted, 1)?.flatten_all()?.to_vec1::<f32>()?;
            for ((sum, score), sentence) in sums.iter_mut().zip(scores).zip(sentences) {
                *sum += if at < sentence.tokens.len() { score } else { 0. };
            }
        }
        Ok(sums)
    }

    pub fn is_finished(&self, sentence: &Sentence) -> bool {
        sentence.tokens.last() == Some(&self.vocabulary.stop())
    }

    /// The `width` best continuations of a beam, each with the place among its open sentences of what it
    /// continues. `scores` has a row for each of those.
    fn grow(&self, beam: &[Sentence], scores: &[f32], width: usize) -> Vec<(usize, Sentence)> {
        let mut rows = scores.chunks(self.vocabulary.n_tokens()).enumerate();
        let mut next: Vec<(&Sentence, usize, Option<u32>, f32)> = vec![];
        for sentence in beam {
            if self.is_finished(sentence) {
                next.push((sentence, 0, None, sentence.score));
            } else if let Some((row, scores)) = rows.next() {
                let grown =
                    |it: usize| (sentence, row, Some(it as u32), sentence.score + scores[it]);
                next.extend(best_of(scores, width).into_iter().map(grown));
            }
        }
        next.sort_by(|a, b| b.3.total_cmp(&a.3));
        next.truncate(width);
        let grown = |(sentence, row, token, score): (&Sentence, usize, Option<u32>, f32)| {
            let tokens = sentence.tokens.iter().copied().chain(token).collect();
            (row, Sentence { tokens, score })
        };
        next.into_iter().map(grown).collect()
    }

    fn start(&self, regions: &Regions, lambda: Option<f64>) -> anyhow::Result<Memory> {
        let captioner = self.captioner.start(regions)?;
        let lm = match (lambda, self.lm) {
            (Some(_), Some(lm)) => lm.start(regions.n_units()?, captioner.h.device())?,
            _ => vec![],
        };
        Ok(Memory { captioner, lm })
    }

    /// Scores of every next token, row by row, after reading one token a row.
    fn step(
        &self,
        regions: &Regions,
        tokens: &[u32],
        memory: &Memory,
        lambda: Option<f64>,
    ) -> anyhow::Result<(Vec<f32>, Memory)> {
        let tokens = Tensor::new(tokens, memory.captioner.h.device())?;
        let (mut scores, captioner) = self.captioner.step(regions, &tokens, &memory.captioner)?;
        let mut lm = vec![];
        if let (Some(lambda), Some(model)) = (lambda, self.lm) {
            let (prior, after) = model.step(&tokens, &memory.lm)?;
            scores = (scores - (prior * lambda)?)?;
            lm = after;
        }
        Ok((scores.flatten_all()?.to_vec1()?, Memory { captioner, lm }))
    }
}

impl Memory {
    fn rows(&self, rows: &[u32]) -> anyhow::Result<Memory> {
        let rows = Tensor::new(rows, self.captioner.h.device())?;
        let lm =
            self.lm.iter().map(|state| state.rows(&rows)).collect::<candle_core::Result<_>>()?;
        Ok(Memory { captioner: self.captioner.rows(&rows)?, lm })
    }
}

/// The places of the `n` highest scores, highest first; of equals the first.
pub(super) fn best_of(scores: &[f32], n: usize) -> Vec<usize> {
    let order = |&a: &usize, &b: &usize| scores[b].total_cmp(&scores[a]).then(a.cmp(&b));
    let mut places: Vec<usize> = (0..scores.len()).collect();
    if n < places.len() {
        places.select_nth_unstable_by(n, order);
        places.truncate(n);
    }
    places.sort_unstable_by(order);
    places
}
