//! How much each term of a sentence's score counts, and how sure descriptions and evidence are.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::annotations::Annotated;
use super::concepts::{Judge, Questions, Subjects};
use super::describer::{Material, refs};
use super::features::{gathered, starts};
use super::judge;
use super::reference_networks::ReferenceNetwork;
use super::source::Around;
use crate::Progress;
use crate::describe::milan::checkpoint::{Contents, Fitted};
use crate::describe::milan::compose::{Candidates, Composer, TermWeights};
use crate::describe::milan::concepts::Concepts;
use crate::describe::milan::logistic::Logistic;
use crate::describe::milan::minilm::MiniLm;
use crate::describe::milan::phrases::n_words;
use crate::describe::milan::{self, Milan, confidence_terms, evidence_terms, mean_of};
use crate::unit::{Judgement, Reading};

/// For so many units one that fires on nothing in particular, and of which no sentence is right.
const NOISE: usize = 10;
/// What made-up units weigh together where findings are fitted, as a share of the units that people described; those of
/// the reference networks weigh as much again.
const MADE_UP_SHARE: f64 = 0.05;

/// What calibrating rests on.
pub struct Evidence<'a> {
    pub material: &'a Material,
    /// Of the units that choose.
    pub around: &'a Around,
    pub references: &'a [ReferenceNetwork],
    /// Of the folder of the sentence encoder.
    pub teacher: &'a Path,
    pub sentences: Sentences,
}

/// What is expected of any unit, and with each of the two that understand sentences what is [fitted](Fitted): by the
/// units that choose, and findings by those of the reference networks as well.
pub fn calibrate(
    contents: &mut Contents,
    evidence: &Evidence<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<()> {
    let Evidence { material, teacher, sentences, .. } = *evidence;
    let mut milan = Milan::new(contents.clone())?;
    if sentences == Sentences::Anew {
        let background = background(&milan, material)?;
        contents.tensors.insert("background".into(), background);
        milan = Milan::new(contents.clone())?;
    }
    let reader = MiniLm::open(teacher)?;
    contents.settings.fitted = fit(&milan, evidence, &reader, progress)?;
    milan.listen_with(teacher)?;
    contents.settings.fitted_full = fit(&milan, evidence, &reader, progress)?;
    Ok(())
}

/// The mean of the vectors that are expected of the units that were learnt from, `(1, sentence)`.
fn background(milan: &Milan, material: &Material) -> anyhow::Result<Tensor> {
    let composer = Composer::new(milan)?;
    let size = milan.settings.sentence.sentence;
    let mut sum = Tensor::zeros((1, size), DType::F32, &Device::Cpu)?;
    for some in material.learn.chunks(64) {
        let perceived = milan.perceive(&gathered(&material.seen, some)?)?;
        sum = (sum + composer.expected(&perceived.units)?.0.sum_keepdim(0)?)?;
    }
    Ok((sum / material.learn.len() as f64)?)
}

fn fit(
    milan: &Milan,
    evidence: &Evidence<'_>,
    teacher: &MiniLm,
    progress: Progress<'_>,
) -> anyhow::Result<Fitted> {
    let Material { seen, choose, .. } = evidence.material;
    let candidates = judge::candidates(milan, seen, choose, progress)?;
    let fitted = match evidence.sentences {
        Sentences::AsTheyAre => milan.fitted().clone(),
        Sentences::Anew => fit_sentences(milan, evidence.material, &candidates, teacher)?,
    };
    let concept = fit_concept(milan, evidence, &candidates, &fitted, progress)?;
    Ok(Fitted { concept, ..fitted })
}

/// How much each term of a sentence's score counts, and how sure sentences and evidence are.
fn fit_sentences(
    milan: &Milan,
    material: &Material,
    candidates: &[Candidates],
    teacher: &MiniLm,
) -> anyhow::Result<Fitted> {
    let people = judge::People::new(&material.choose, teacher)?;
    let terms = fit_terms(candidates, &people, teacher, milan.fitted().terms)?;

    // Would a person agree? As much as people do with each other, in the middle; of noise nobody would.
    let agreement = people.agreement_among_people();
    let of_many = noise(&gathered(&material.seen, &material.choose)?)?;
    let noise = Composer::new(milan)?.candidates(&milan.perceive(&of_many)?)?;
    let units = material.choose.iter().chain(&material.choose);
    let (mut xs, mut said) = (vec![], vec![]);
    for (at, (it, unit)) in candidates.iter().chain(&noise).zip(units).enumerate() {
        let area = material.seen[unit.site].area(unit.row);
        let chosen = milan::choose(it, &terms, 3);
        for place in 0..chosen.len() {
            xs.push(confidence_terms(&chosen, place, it, area, &terms));
            if at < candidates.len() {
                said.push((at, chosen[place].text.as_str()));
            }
        }
    }
    let alike = people.similarities(&said, teacher)?;
    let mut ys: Vec<bool> = alike.into_iter().map(|it| agreement <= it).collect();
    ys.resize(xs.len(), false);
    let confidence = Logistic::fit(&xs, &ys);

    let evidence = fit_evidence(milan, material)?;
    Ok(Fitted { terms, confidence, evidence, concept: Logistic::fit(&[], &[]) })
}

/// The weights of the terms that choose the best sentences.
fn fit_terms(
    candidates: &[Candidates],
    people: &judge::People,
    teacher: &MiniLm,
    first: TermWeights,
) -> anyhow::Result<TermWeights> {
    let mut best = (f64::NEG_INFINITY, first);
    let consider = |best: &mut (f64, TermWeights), terms: TermWeights| {
        let texts = judge::best_texts(candidates, &terms);
        let quality = people.quality(&refs(&texts), teacher)?.overall();
        if best.0 < quality {
            *best = (quality, terms);
        }
        anyhow::Ok(())
    };
    for agreement in [8., 16., 24.] {
        for captioner in [0.15, 0.3, 0.5] {
            for words in [0., 0.3] {
                consider(&mut best, [1., agreement, captioner, words, 0.])?;
            }
        }
    }
    let [critic, agreement, captioner, words, _] = best.1;
    for commonness in [-0.1, -0.2, -0.4, -0.8] {
        consider(&mut best, [critic, agreement, captioner, words, commonness])?;
    }
    Ok(best.1)
}

/// Would a person name it? By phrases that were said of enough units, against all units of the network.
fn fit_evidence(milan: &Milan, material: &Material) -> anyhow::Result<Logistic> {
    let phrases = common_words(milan);
    let everything = milan.scores(&material.seen, &phrases)?;
    let starts = starts(&material.seen);
    let (mut xs, mut ys) = (vec![], vec![]);
    for (at, phrase) in phrases.iter().enumerate() {
        let mean = mean_of(&everything, at);
        let stem = milan::phrases::stems(&milan::phrases::words(phrase));
        for unit in &material.choose {
            let score = everything[starts[unit.site] + unit.row][at];
            xs.push(evidence_terms(score, mean));
            ys.push(
                unit.texts.iter().any(|text| {
                    stem.is_subset(&milan::phrases::stems(&milan::phrases::words(text)))
                }),
            );
        }
    }
    Ok(Logistic::fit(&xs, &ys))
}

/// How probable it is that somebody names what a rule asks for: by words that were said of enough units, and by the
/// built-in rules. `fitted` is what readings are chosen by.
fn fit_concept(
    milan: &Milan,
    evidence: &Evidence<'_>,
    candidates: &[Candidates],
    fitted: &Fitted,
    progress: Progress<'_>,
) -> anyhow::Result<Logistic> {
    let Material { seen, choose, .. } = evidence.material;
    let words = common_words(milan);
    let questions = Questions::new(&words)?;
    let concepts = questions.concepts();
    let composer = Composer::new(milan)?;
    let known = Concepts::new(milan, &composer, &concepts)?;
    let readings = |candidates: &[Candidates], subjects: Subjects<'_>| -> Vec<Vec<Reading>> {
        let units = candidates.iter().zip(subjects.units);
        let area = |it: &Annotated| subjects.seen[it.site].area(it.row);
        let read = |(it, unit): (&Candidates, &Annotated)| {
            milan.readings_by(it, area(unit), &fitted.terms, &fitted.confidence)
        };
        units.map(read).collect()
    };
    let (mut xs, mut ys, mut counts) = (vec![], vec![], vec![]);
    // Of units beyond those that are given nobody says anything.
    let mut learn = |judgements: Vec<Vec<Judgement>>, units: &[Annotated], count: f64| {
        for (unit, judgements) in judgements.iter().enumerate() {
            let texts = units.get(unit).map_or(&[][..], |it| it.texts.as_slice());
            for (at, (concept, it)) in concepts.iter().zip(judgements).enumerate() {
                xs.push(known.terms(it, at));
                ys.push(texts.iter().any(|text| (concept.speaks)(text)));
                counts.push(count);
            }
        }
    };
    let people = Subjects { seen, units: choose, around: evidence.around };
    let judge = Judge::new(&known, people)?;
    learn(judge.units(people, &readings(candidates, people)), choose, 1.);
    let counts_for = |n: usize| MADE_UP_SHARE * choose.len() as f64 / n.max(1) as f64;
    let of_many = noise(&gathered(seen, choose)?)?;
    let noise_candidates = composer.candidates(&milan.perceive(&of_many)?)?;
    let judged = judge.noise(&of_many, &readings(&noise_candidates, people))?;
    let count = counts_for(judged.len());
    learn(judged, &[], count);
    let n_references = evidence.references.iter().map(|it| it.subjects().units.len()).sum();
    let count = counts_for(n_references);
    for network in evidence.references {
        let own = network.subjects();
        let own_candidates = judge::candidates(milan, own.seen, own.units, progress)?;
        let judged = Judge::new(&known, own)?.units(own, &readings(&own_candidates, own));
        learn(judged, own.units, count);
    }
    Ok(Logistic::fit_counting(&xs, &ys, &counts))
}

/// Phrases of one word that were said of enough units to learn from.
fn common_words(milan: &Milan) -> Vec<&str> {
    let phrases = milan.phrases.texts().iter().zip(milan.phrases.n_units());
    phrases
        .filter(|(text, n)| 25 <= **n && n_words(&milan::phrases::words(text)) == 1)
        .map(|(text, _)| text.as_str())
        .collect()
}

/// What of sentences is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sentences {
    /// What they are chosen by and how sure they are.
    Anew,
    /// Nothing: only findings are.
    AsTheyAre,
}

/// Of units that fire on nothing in particular, a [tenth](NOISE) as many as there are units `(units, k, features)`: each
/// region is one of another unit.
fn noise(features: &Tensor) -> candle_core::Result<Tensor> {
    let (n, k, _) = features.dims3()?;
    let region = |rank: usize| {
        let other = |unit: usize| ((unit + rank * n / k) % n) as u32;
        let others: Vec<u32> = (0..(n / NOISE).max(1)).map(other).collect();
        features.index_select(&Tensor::new(others, &Device::Cpu)?, 0)?.narrow(1, rank, 1)
    };
    Tensor::cat(&(0..k).map(region).collect::<candle_core::Result<Vec<_>>>()?, 1)
}
