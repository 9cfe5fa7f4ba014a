//! The quality table: descriptions and the critic against what people said of units that training never saw.

mod concepts;
mod on_regions;
mod policies;
mod table;

use std::path::PathBuf;

use candle_core::Tensor;
use serde::Serialize;

use super::annotations::Annotated;
use super::concepts::Subjects;
use super::features::{Looker, gathered};
use super::judge::{self, People, Quality, best_texts};
use super::measures::{Specificity, auroc, bleu, specificity};
use super::misplaced::Misplaced;
use super::overlap::{Against, Overlap, Overlaps, overlap};
use super::reliability::{Bin, calibration_error, error_if_right, reliability};
use super::source::{Known, Source};
use crate::Progress;
use crate::describe::milan::checkpoint::Fitted;
use crate::describe::milan::compose::Candidates;
use crate::describe::milan::critic::{mean_score, texts_of};
use crate::describe::milan::decode::Ending;
use crate::describe::milan::look::Seen;
use crate::describe::milan::minilm::MiniLm;
use crate::describe::milan::{self, Milan, checkpoint, confidence_terms};
use crate::policy;
use crate::unit::Reading;
use crate::usage;
pub use concepts::Concept;
use concepts::concepts;
use on_regions::on_regions;
pub use on_regions::{Found, OnRegions};
pub use policies::{FindingQuality, PolicyQuality};
pub use table::table;

/// What judging needs to know.
pub struct Config {
    pub source: Source,
    pub sentence_encoder: PathBuf,
    /// A describer; `None` is the built-in one.
    pub describer: Option<PathBuf>,
    /// Regions whose names are known, and the network whose units are held against them.
    pub overlap: Option<Against>,
    /// Policies whose rules are held against what people said.
    pub policies: Vec<String>,
    /// Where features are kept; `None` keeps none.
    pub work: Option<PathBuf>,
}

/// The tables.
#[derive(Debug, Serialize)]
pub struct Evaluation {
    /// The default method's name.
    pub shipped: &'static str,
    /// Units that training never saw.
    pub units: usize,
    pub methods: Vec<Method>,
    /// The critic itself, a unit against people's words: as its own sentence tower reads them, and as the full
    /// sentence encoder does, if that is the one that taught the tower.
    pub critic: Specificity,
    pub critic_full: Option<Specificity>,
    pub concepts: Vec<Concept>,
    /// With the sentence tower, and with the full sentence encoder.
    pub calibration: Calibration,
    pub calibration_full: Option<Calibration>,
    /// Corpus BLEU-4 of the default method against everybody.
    pub bleu: f64,
    pub overlap: Vec<Overlap>,
    /// Names that nothing is held against, as their regions are not where they should be.
    pub misplaced: Vec<Misplaced>,
    pub policies: Vec<PolicyQuality>,
    /// The same policies held against the regions.
    pub on_regions: Vec<OnRegions>,
}

#[derive(Debug, Serialize)]
pub struct Method {
    pub name: &'static str,
    #[serde(flatten)]
    pub quality: Quality,
}

/// How far stated confidence is from how often people agree: as much as they do with each other.
#[derive(Debug, Serialize)]
pub struct Calibration {
    pub ece: f64,
    /// What it would be, on the average, if every confidence were exactly right.
    pub ece_if_right: f64,
    pub auroc: Option<f64>,
    /// The cosine from which a sentence counts as agreed with.
    pub agreement: f32,
    pub bins: Vec<Confidence>,
}

#[derive(Debug, Serialize)]
pub struct Confidence {
    pub n: usize,
    pub confidence: f64,
    pub agreed: f64,
}

const SHIPPED: &str = "composed, critic";
const FULL: &str = "the same with the full sentence encoder";

/// Judges a describer on the units of the annotations that it was not trained on.
pub fn evaluate(config: &Config, progress: Progress<'_>) -> anyhow::Result<Evaluation> {
    config.overlap.as_ref().map_or(Ok(()), Against::check)?;
    config.policies.iter().try_for_each(|it| policy::load(it, false).map(|_| ()))?;
    let contents = match &config.describer {
        Some(file) => checkpoint::open(file)?,
        None => checkpoint::from_bytes(milan::BUILT_IN)?,
    };
    let settings = &contents.settings.encoder;
    let (settings, tensors) = (settings.clone(), contents.tensors.clone());
    let mut milan = Milan::new(contents)?;
    let teacher = MiniLm::open(&config.sentence_encoder)?;
    let scratch = tempfile::tempdir()?;
    let work = config.work.as_deref().unwrap_or(scratch.path());
    let looker = Looker::new(&milan.encoder, &settings, &tensors, work)?;
    drop(tensors);
    let Known { mut units, seen, .. } = config.source.read(&looker, progress)?;
    units.retain(|it| !milan.seen.contains(&it.key));
    if units.len() < 2 {
        return Err(usage!(
            "{}: the describer was trained on all units but {}, so nothing can be judged",
            config.source.annotations.display(),
            units.len()
        ));
    }

    // What can fail for a user's mistake comes first.
    let overlap = match &config.overlap {
        Some(against) => overlap(&milan, &looker, &config.source, against, progress)?,
        None => Overlaps::default(),
    };
    let on_regions = match &config.overlap {
        Some(against) if !config.policies.is_empty() => {
            let describer = (&milan, config.describer.as_deref());
            let (source, policies) = (&config.source, &config.policies);
            on_regions(describer, source, against, &overlap.misplaced, policies, progress)?
        }
        _ => vec![],
    };
    let people = People::new(&units, &teacher)?;
    let candidates = judge::candidates(&milan, &seen, &units, progress)?;
    let composed = best_texts(&candidates, &milan.fitted().terms);
    let [likely, paper, reranked] = beamed(&milan, &seen, &units, progress)?;
    let objects = vec!["objects".to_owned(); units.len()];
    let mut methods = vec![];
    let lists = [
        ("constant \"objects\"", &objects),
        ("captioner, likelihood", &likely),
        ("captioner, λ .2 (the paper)", &paper),
        ("captioner, critic", &reranked),
        (SHIPPED, &composed),
    ];
    for (name, texts) in lists {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        methods.push(Method { name, quality: people.quality(&texts, &teacher)? });
    }
    if let Some(quality) = one_person(&units, &teacher)? {
        methods.insert(0, Method { name: "one person against the others", quality });
    }

    let hypotheses: Vec<Vec<String>> =
        composed.iter().map(|it| milan::phrases::words(it)).collect();
    let references: Vec<Vec<Vec<String>>> = units
        .iter()
        .map(|it| it.texts.iter().map(|text| milan::phrases::words(text)).collect())
        .collect();
    let critic = know(&milan, &seen, &units)?;
    let concepts = concepts(&milan, &seen, &units, &composed)?;
    let calibration = calibrated(&milan, &seen, &units, &candidates, &people, &teacher)?;

    let policies = match config.policies.as_slice() {
        [] => vec![],
        names => {
            let around = config.source.around(&units, "places-held-out", &looker, progress)?;
            let area = |it: &Annotated| seen[it.site].area(it.row);
            let readings = candidates.iter().zip(&units);
            let readings: Vec<Vec<Reading>> =
                readings.map(|(it, unit)| milan.readings(it, area(unit))).collect();
            let subjects = Subjects { seen: &seen, units: &units, around: &around };
            policies::policies(&milan, subjects, &readings, names)?
        }
    };

    let (mut critic_full, mut calibration_full) = (None, None);
    if milan.understands(&config.sentence_encoder)? {
        milan.listen_with(&config.sentence_encoder)?;
        let candidates = judge::candidates(&milan, &seen, &units, progress)?;
        let composed = best_texts(&candidates, &milan.fitted().terms);
        let texts: Vec<&str> = composed.iter().map(String::as_str).collect();
        methods.push(Method { name: FULL, quality: people.quality(&texts, &teacher)? });
        critic_full = Some(know(&milan, &seen, &units)?);
        calibration_full = Some(calibrated(&milan, &seen, &units, &candidates, &people, &teacher)?);
    }
    Ok(Evaluation {
        shipped: SHIPPED,
        units: units.len(),
        methods,
        critic,
        critic_full,
        concepts,
        calibration,
        calibration_full,
        bleu: bleu(&hypotheses, &references),
        overlap: overlap.names,
        misplaced: overlap.misplaced,
        policies,
        on_regions,
    })
}

/// The paper's way: the likeliest of a beam, the one with the highest mutual information by the language
/// model, and the one with the highest by the critic.
fn beamed(
    milan: &Milan,
    seen: &[Seen],
    units: &[Annotated],
    progress: Progress<'_>,
) -> anyhow::Result<[Vec<String>; 3]> {
    let settings = &milan.settings;
    let speaker = milan.speech.speaker(settings.length);
    let mut found: [Vec<String>; 3] = Default::default();
    for (at, some) in units.chunks(16).enumerate() {
        progress("beam", at * 16, units.len())?;
        let perceived = milan.perceive(&gathered(seen, some)?)?;
        let beams = speaker.beam(&perceived.regions, settings.beam_size, None)?;
        for (unit, beam) in beams.iter().enumerate() {
            let texts: Vec<String> =
                beam.iter().map(|it| milan.speech.vocabulary.reconstruct(&it.tokens)).collect();
            let (best, _, _) = speaker.rerank(beam, settings.lambda, Ending::AtStop)?;
            let vectors =
                milan.sentences.encode(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
            let units: Vec<Tensor> = perceived
                .units
                .iter()
                .map(|it| it.narrow(0, unit, 1))
                .collect::<candle_core::Result<_>>()?;
            let texts_of = texts_of(&milan.critics, &vectors)?;
            let scores = mean_score(&milan.critics, &units, &texts_of)?.squeeze(0)?;
            let scores = scores.to_vec1::<f32>()?;
            let critical = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            found[0].push(texts[0].clone());
            found[1].push(texts[best].clone());
            found[2].push(texts[critical.unwrap_or_default()].clone());
        }
    }
    progress("beam", units.len(), units.len())?;
    Ok(found)
}

/// The first person's words against those of the others, where there are others.
fn one_person(units: &[Annotated], teacher: &MiniLm) -> anyhow::Result<Option<Quality>> {
    let several: Vec<&Annotated> = units.iter().filter(|it| 1 < it.texts.len()).collect();
    if several.len() < 2 {
        return Ok(None);
    }
    let others: Vec<Vec<String>> = several.iter().map(|it| it.texts[1..].to_vec()).collect();
    let people = People::of(&others, several.iter().map(|it| it.site).collect(), teacher)?;
    let first: Vec<&str> = several.iter().map(|it| it.texts[0].as_str()).collect();
    Ok(Some(people.quality(&first, teacher)?))
}

fn know(milan: &Milan, seen: &[Seen], units: &[Annotated]) -> anyhow::Result<Specificity> {
    let perceived = milan.perceive(&gathered(seen, units)?)?;
    let mut people: Vec<Vec<Tensor>> = vec![vec![]; milan.critics.len()];
    for unit in units {
        let texts: Vec<&str> = unit.texts.iter().map(String::as_str).collect();
        let texts = texts_of(&milan.critics, &milan.encode(&texts)?)?;
        for (people, texts) in people.iter_mut().zip(texts) {
            people.push(texts.mean(0)?);
        }
    }
    let people = people.iter().map(|it| Tensor::stack(it, 0));
    let people = people.collect::<candle_core::Result<Vec<_>>>()?;
    let scores = mean_score(&milan.critics, &perceived.units, &people)?.to_vec2::<f32>()?;
    let layers: Vec<usize> = units.iter().map(|it| it.site).collect();
    Ok(specificity(|i, j| scores[i][j], &layers))
}

fn calibrated(
    milan: &Milan,
    seen: &[Seen],
    units: &[Annotated],
    candidates: &[Candidates],
    people: &People,
    teacher: &MiniLm,
) -> anyhow::Result<Calibration> {
    let agreement = people.agreement_among_people();
    let Fitted { terms, confidence, .. } = milan.fitted();
    let (mut confidences, mut said) = (vec![], vec![]);
    for (at, (it, unit)) in candidates.iter().zip(units).enumerate() {
        let area = seen[unit.site].area(unit.row);
        let chosen = milan::choose(it, terms, 3);
        let x = confidence_terms(&chosen, 0, it, area, terms);
        confidences.push(confidence.probability(&x));
        said.push((at, chosen[0].text.as_str()));
    }
    let alike = people.similarities(&said, teacher)?;
    let truth: Vec<bool> = alike.into_iter().map(|it| agreement <= it).collect();
    let bins = reliability(&confidences, &truth, 10);
    let plain = |it: Bin| Confidence { n: it.n, confidence: it.confidence, agreed: it.agreed };
    Ok(Calibration {
        ece: calibration_error(&confidences, &truth, 10),
        ece_if_right: error_if_right(&confidences, 10),
        auroc: auroc(&confidences, &truth),
        agreement,
        bins: bins.into_iter().map(plain).collect(),
    })
}
