//! How good descriptions are, by what people said of the same units.

use candle_core::{IndexOp, Tensor};
use rayon::prelude::*;
use rust_stemmers::{Algorithm, Stemmer};
use serde::Serialize;

use super::annotations::Annotated;
use super::features::gathered;
use super::measures::{Specificity, Tfidf, dot, is_stop_word, specificity};
use crate::Progress;
use crate::describe::milan::Milan;
use crate::describe::milan::compose::{Candidate, Candidates, Composer, TermWeights};
use crate::describe::milan::look::Seen;
use crate::describe::milan::minilm::MiniLm;

/// What people said of some units, ready to be compared with.
pub struct People {
    layers: Vec<usize>,
    /// For each unit the vectors of its sentences, `(sentences, hidden)`.
    sentences: Vec<Tensor>,
    /// Their mean, `(units, hidden)`, and the same of length 1.
    means: Tensor,
    directions: Vec<Vec<f32>>,
    tfidf: Tfidf,
    words: Vec<Vec<(usize, f32)>>,
}

/// How good the descriptions of some units are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quality {
    pub specificity: Specificity,
    pub word_specificity: Specificity,
    /// The mean cosine with each person's words.
    pub similarity: f64,
}

impl Quality {
    /// The mean of the four specificities, and the similarity.
    pub fn overall(&self) -> f64 {
        let Quality { specificity: a, word_specificity: b, similarity } = self;
        (a.same_layer + a.all + b.same_layer + b.all) / 4. + similarity
    }
}

impl People {
    pub fn new(units: &[Annotated], teacher: &MiniLm) -> anyhow::Result<People> {
        let texts: Vec<Vec<String>> = units.iter().map(|it| it.texts.clone()).collect();
        let layers = units.iter().map(|it| it.site).collect();
        People::of(&texts, layers, teacher)
    }

    /// The same of lists of sentences.
    pub fn of(
        texts: &[Vec<String>],
        layers: Vec<usize>,
        teacher: &MiniLm,
    ) -> anyhow::Result<People> {
        let flat: Vec<&str> = texts.iter().flatten().map(String::as_str).collect();
        let vectors = teacher.encode(&flat)?;
        let mut sentences = Vec::with_capacity(texts.len());
        let mut from = 0;
        for some in texts {
            sentences.push(vectors.i(from..from + some.len())?);
            from += some.len();
        }
        let means =
            sentences.iter().map(|it| it.mean(0)).collect::<candle_core::Result<Vec<_>>>()?;
        let means = Tensor::stack(&means, 0)?;
        let directions = crate::describe::milan::sentence::unit_length(&means)?.to_vec2()?;
        let documents: Vec<Vec<String>> = texts.iter().map(|it| stemmed(&it.join(" "))).collect();
        let tfidf = Tfidf::fit(&documents);
        let words = documents.iter().map(|it| tfidf.vector(it)).collect();
        Ok(People { layers, sentences, means, directions, tfidf, words })
    }

    /// One description a unit.
    pub fn quality(&self, texts: &[&str], teacher: &MiniLm) -> anyhow::Result<Quality> {
        let vectors = teacher.encode(texts)?;
        let similarity = (&vectors * &self.means)?.sum(1)?.mean_all()?.to_scalar::<f32>()?;
        let vectors = vectors.to_vec2::<f32>()?;
        let words: Vec<Vec<(usize, f32)>> =
            texts.iter().map(|it| self.tfidf.vector(&stemmed(it))).collect();
        let cosine = |i: usize, j: usize| {
            vectors[i].iter().zip(&self.directions[j]).map(|(a, b)| a * b).sum::<f32>()
        };
        Ok(Quality {
            specificity: specificity(cosine, &self.layers),
            word_specificity: specificity(|i, j| dot(&words[i], &self.words[j]), &self.layers),
            similarity: similarity.into(),
        })
    }

    /// The mean cosine of each text with each person's words about its unit.
    pub fn similarities(
        &self,
        said: &[(usize, &str)],
        teacher: &MiniLm,
    ) -> anyhow::Result<Vec<f32>> {
        let vectors = teacher.encode(&said.iter().map(|it| it.1).collect::<Vec<_>>())?;
        let mean = |(at, &(unit, _)): (usize, &(usize, &str))| {
            vectors.i(at..at + 1)?.matmul(&self.sentences[unit].t()?)?.mean_all()?.to_scalar()
        };
        Ok(said.iter().enumerate().map(mean).collect::<candle_core::Result<_>>()?)
    }

    /// The median over units of how alike people's words about a unit are, by cosine.
    pub fn agreement_among_people(&self) -> f32 {
        let mut found: Vec<f32> = self.sentences.iter().filter_map(alike).collect();
        found.sort_by(f32::total_cmp);
        found.get(found.len() / 2).copied().unwrap_or(0.5)
    }
}

/// The mean cosine of all pairs of rows; `None` of a single one.
fn alike(sentences: &Tensor) -> Option<f32> {
    let rows = sentences.to_vec2::<f32>().ok()?;
    let pairs = (0..rows.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    let cosines: Vec<f32> =
        pairs.map(|(i, j)| rows[i].iter().zip(&rows[j]).map(|(a, b)| a * b).sum()).collect();
    (!cosines.is_empty()).then(|| cosines.iter().sum::<f32>() / cosines.len() as f32)
}

/// Stems of the words of a text without stop words.
pub fn stemmed(text: &str) -> Vec<String> {
    let stemmer = Stemmer::create(Algorithm::English);
    let text = text.to_lowercase();
    let words = text.split(|it: char| !it.is_alphanumeric()).filter(|it| !it.is_empty());
    words.filter(|it| !is_stop_word(it)).map(|it| stemmer.stem(it).into_owned()).collect()
}

/// The candidates of some units.
pub fn candidates(
    milan: &Milan,
    seen: &[Seen],
    units: &[Annotated],
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Candidates>> {
    let composer = Composer::new(milan)?;
    let mut found = Vec::with_capacity(units.len());
    for some in units.chunks(32) {
        progress("describing", found.len(), units.len())?;
        let parts = some.par_chunks(16).map(|units| {
            let perceived = milan.perceive(&gathered(seen, units)?)?;
            composer.candidates(&perceived)
        });
        found.extend(parts.collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten());
    }
    progress("describing", units.len(), units.len())?;
    Ok(found)
}

/// The best sentence of each unit.
pub fn best_texts(candidates: &[Candidates], terms: &TermWeights) -> Vec<String> {
    let best = |it: &Candidates| {
        let by_score = |a: &&Candidate, b: &&Candidate| a.score(terms).total_cmp(&b.score(terms));
        it.list.iter().max_by(by_score).map(|it| it.text.clone())
    };
    candidates.iter().filter_map(best).collect()
}
