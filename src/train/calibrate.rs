//! How much each term of a sentence's score counts, and how sure descriptions and evidence are.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::concepts::{self, Questions};
use super::describer::{Material, refs};
use super::features::{gathered, starts};
use super::judge;
use super::source::Around;
use crate::Progress;
use crate::describe::milan::checkpoint::{Contents, Fitted};
use crate::describe::milan::compose::{Composer, TermWeights};
use crate::describe::milan::logistic::Logistic;
use crate::describe::milan::minilm::MiniLm;
use crate::describe::milan::phrases::n_words;
use crate::describe::milan::{self, Milan, confidence_terms, evidence_terms, mean_of};
use crate::unit::Reading;

/// For so many units one that fires on nothing in particular, and of which no sentence is right.
const NOISE: usize = 10;

/// What is expected of any unit, and with each of the two that understand sentences what is [fitted](Fitted): by the
/// units that choose. `teacher` is the folder of the sentence encoder.
pub fn calibrate(
    contents: &mut Contents,
    material: &Material,
    around: &Around,
    teacher: &Path,
    sentences: Sentences,
    progress: Progress<'_>,
) -> anyhow::Result<()> {
    let mut plain = Milan::new(contents.clone())?;
    if sentences == Sentences::AsTheyAre {
        contents.settings.fitted.concept =
            Some(fit_concept(&plain, material, around, plain.fitted(), progress)?);
        plain.listen_with(teacher)?;
        contents.settings.fitted_full.concept =
            Some(fit_concept(&plain, material, around, plain.fitted(), progress)?);
        return Ok(());
    }
    let background = {
        let composer = Composer::new(&plain)?;
        let mut sum =
            Tensor::zeros((1, contents.settings.sentence.sentence), DType::F32, &Device::Cpu)?;
        for some in material.learn.chunks(64) {
            let perceived = plain.perceive(&gathered(&material.seen, some)?)?;
            sum = (sum + composer.expected(&perceived.units)?.0.sum_keepdim(0)?)?;
        }
        (sum / material.learn.len() as f64)?
    };
    contents.tensors.insert("background".into(), background);
    let mut milan = Milan::new(contents.clone())?;
    let reader = MiniLm::open(teacher)?;
    contents.settings.fitted = fit(&milan, material, around, &reader, progress)?;
    milan.listen_with(teacher)?;
    contents.settings.fitted_full = fit(&milan, material, around, &reader, progress)?;
    Ok(())
}

/// How much each term of a sentence's score counts, and how sure sentences and evidence are.
fn fit(
    milan: &Milan,
    material: &Material,
    around: &Around,
    teacher: &MiniLm,
    progress: Progress<'_>,
) -> anyhow::Result<Fitted> {
    let candidates = judge::candidates(milan, &material.seen, &material.choose, progress)?;
    let people = judge::People::new(&material.choose, teacher)?;

    let mut best = (f64::NEG_INFINITY, milan.fitted().terms);
    let consider = |best: &mut (f64, TermWeights), terms: TermWeights| {
        let texts = judge::best_texts(&candidates, &terms);
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
    let terms = best.1;

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

    // Would a person name it? Phrases that were said of enough units, against all units of the network.
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
    let evidence = Logistic::fit(&xs, &ys);

    let concept = None;
    let fitted = Fitted { terms, confidence, evidence, concept };
    let concept = Some(fit_concept(milan, material, around, &fitted, progress)?);
    Ok(Fitted { concept, ..fitted })
}

/// How probable it is that somebody names what a rule asks for: by words that were said of enough units, and by the
/// built-in rules. `fitted` is what readings are chosen by.
fn fit_concept(
    milan: &Milan,
    material: &Material,
    around: &Around,
    fitted: &Fitted,
    progress: Progress<'_>,
) -> anyhow::Result<Logistic> {
    let candidates = judge::candidates(milan, &material.seen, &material.choose, progress)?;
    let of_many = noise(&gathered(&material.seen, &material.choose)?)?;
    let words = common_words(milan);
    let questions = Questions::new(&words)?;
    let concepts = questions.concepts();
    let mut readings: Vec<Vec<Reading>> = vec![];
    for (it, unit) in candidates.iter().zip(&material.choose) {
        let area = material.seen[unit.site].area(unit.row);
        readings.push(milan.readings_by(it, area, &fitted.terms, &fitted.confidence));
    }
    let (seen, choose) = (&material.seen, &material.choose);
    let judged = concepts::judge(milan, &concepts, seen, choose, around, &readings)?;
    let (mut xs, mut ys) = (vec![], vec![]);
    for (unit, terms) in choose.iter().zip(judged.terms) {
        for (concept, terms) in concepts.iter().zip(terms) {
            xs.push(terms);
            ys.push(unit.texts.iter().any(|text| (concept.speaks)(text)));
        }
    }
    let of_noise = concepts::terms_of_noise(milan, &concepts, seen, &of_many, around)?;
    xs.extend(of_noise.into_iter().flatten());
    ys.resize(xs.len(), false);
    Ok(Logistic::fit(&xs, &ys))
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
