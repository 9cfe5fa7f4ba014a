//! The quality table: descriptions and the critic against what people said of units that training never saw.

use std::fmt::Write;
use std::path::PathBuf;

use candle_core::Tensor;
use regex::Regex;
use serde::Serialize;

use super::annotations::Annotated;
use super::features::{Looker, gathered, starts};
use super::judge::{self, People, Quality, best_texts};
use super::measures::{
    Bin, Specificity, auroc, bleu, calibration_error, precision_recall, reliability, specificity,
};
use super::overlap::{Against, Overlap, overlap};
use super::source::{Known, Source};
use crate::Progress;
use crate::describe::milan::compose::Candidates;
use crate::describe::milan::critic::{mean_score, texts_of};
use crate::describe::milan::decode::Ending;
use crate::describe::milan::look::Seen;
use crate::describe::milan::minilm::MiniLm;
use crate::describe::milan::{self, Milan, checkpoint, confidence_terms};
use crate::report::{new_table, right};
use crate::usage;

/// What judging needs to know.
pub struct Config {
    pub source: Source,
    pub sentence_encoder: PathBuf,
    /// A describer; `None` is the built-in one.
    pub describer: Option<PathBuf>,
    /// Regions whose names are known, and the network whose units are held against them.
    pub overlap: Option<Against>,
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
    pub calibration: Calibration,
    /// Corpus BLEU-4 of the default method against everybody.
    pub bleu: f64,
    pub overlap: Vec<Overlap>,
}

#[derive(Debug, Serialize)]
pub struct Method {
    pub name: &'static str,
    #[serde(flatten)]
    pub quality: Quality,
}

/// Something that people name: does the critic find its units, do the sentences name it?
#[derive(Debug, Serialize)]
pub struct Concept {
    pub name: &'static str,
    /// Units of which at least one person, at least two people, named it.
    pub units_any: usize,
    pub units_majority: usize,
    /// Of the critic's evidence.
    pub auroc_any: Option<f64>,
    pub auroc_majority: Option<f64>,
    /// Of one person, who named it or not, for the units that all the others named: the mean over who the one is.
    pub auroc_one_person: Option<f64>,
    /// Of the sentences, against at least one person, and two.
    pub precision_any: Option<f64>,
    pub recall_any: Option<f64>,
    pub precision_majority: Option<f64>,
    pub recall_majority: Option<f64>,
}

/// How far stated confidence is from how often people agree: as much as they do with each other.
#[derive(Debug, Serialize)]
pub struct Calibration {
    pub ece: f64,
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

/// A name, the phrases whose evidence is asked for, and what people write.
const CONCEPTS: [(&str, &[&str], &str); 11] = [
    (
        "text",
        &["written text", "letters", "words"],
        r"\b(text|letters?|lettering|words?|writing|numbers?)\b",
    ),
    (
        "people",
        &["people", "a person"],
        r"\b(people|person|humans?|m[ae]n|wom[ae]n|child(ren)?|kids?)\b",
    ),
    ("faces", &["human faces", "faces of people"], r"\bfaces?\b"),
    ("dogs", &["dogs", "a dog"], r"\bdogs?\b"),
    ("birds", &["birds"], r"\bbirds?\b"),
    ("water", &["water"], r"\b(water|ocean|sea)\b"),
    ("vehicles", &["vehicles", "cars"], r"\b(vehicles?|cars?|trucks?|bus(es)?|trains?)\b"),
    ("food", &["food"], r"\b(foods?|fruits?|vegetables?)\b"),
    ("plants", &["plants", "leaves"], r"\b(plants?|leaf|leaves|trees?|flowers?|grass)\b"),
    ("red", &["red objects"], r"\bred\b"),
    ("lines", &["lines", "stripes"], r"\b(lines?|stripes?|striped)\b"),
];

/// Of the tables, in columns of text.
const WIDTH: usize = 100;

const SHIPPED: &str = "composed, critic";
const FULL: &str = "the same with the full sentence encoder";

/// Judges a describer on the units of the annotations that it was not trained on.
pub fn evaluate(config: &Config, progress: Progress<'_>) -> anyhow::Result<Evaluation> {
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
        None => vec![],
    };
    let people = People::new(&units, &teacher)?;
    let candidates = judge::candidates(&milan, &seen, &units, progress)?;
    let composed = best_texts(&candidates, &milan.settings.terms);
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
    let calibration = calibration(&milan, &seen, &units, &candidates, &people, &teacher)?;

    let mut critic_full = None;
    if milan.understands(&config.sentence_encoder)? {
        milan.listen_with(&config.sentence_encoder)?;
        let full = judge::candidates(&milan, &seen, &units, progress)?;
        let full = best_texts(&full, &milan.settings.terms);
        let texts: Vec<&str> = full.iter().map(String::as_str).collect();
        methods.push(Method { name: FULL, quality: people.quality(&texts, &teacher)? });
        critic_full = Some(know(&milan, &seen, &units)?);
    }
    Ok(Evaluation {
        shipped: SHIPPED,
        units: units.len(),
        methods,
        critic,
        critic_full,
        concepts,
        calibration,
        bleu: bleu(&hypotheses, &references),
        overlap,
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

fn concepts(
    milan: &Milan,
    seen: &[Seen],
    units: &[Annotated],
    said: &[String],
) -> anyhow::Result<Vec<Concept>> {
    let starts = starts(seen);
    let all_phrases: Vec<&str> = CONCEPTS.iter().flat_map(|it| it.1).copied().collect();
    let all = milan.scores(seen, &all_phrases)?;
    let mut next = 0;
    let mut found = Vec::new();
    for (name, phrases, pattern) in CONCEPTS {
        let pattern = Regex::new(pattern)?;
        let own = next..next + phrases.len();
        next = own.end;
        let score = |it: &Annotated| all[starts[it.site] + it.row][own.clone()].iter().sum::<f32>();
        let scores: Vec<f32> = units.iter().map(score).collect();
        let named = |it: &Annotated| it.texts.iter().filter(|text| pattern.is_match(text)).count();
        let named: Vec<usize> = units.iter().map(named).collect();
        let at_least = |n: usize| -> Vec<bool> { named.iter().map(|it| n <= *it).collect() };
        let (any, majority) = (at_least(1), at_least(2));
        let says: Vec<bool> = said.iter().map(|it| pattern.is_match(&it.to_lowercase())).collect();
        let (precision_any, recall_any) = precision_recall(&says, &any);
        let (precision_majority, recall_majority) = precision_recall(&says, &majority);
        let count = |truth: &[bool]| truth.iter().filter(|it| **it).count();
        found.push(Concept {
            name,
            units_any: count(&any),
            units_majority: count(&majority),
            auroc_any: auroc(&scores, &any),
            auroc_majority: auroc(&scores, &majority),
            auroc_one_person: one_person_finds(units, &pattern),
            precision_any,
            recall_any,
            precision_majority,
            recall_majority,
        });
    }
    Ok(found)
}

fn one_person_finds(units: &[Annotated], pattern: &Regex) -> Option<f64> {
    let several = units.iter().filter(|it| 1 < it.texts.len());
    let named = several.map(|it| it.texts.iter().map(|text| pattern.is_match(text)).collect());
    let named: Vec<Vec<bool>> = named.collect();
    let finds = |one: usize| {
        let others = |it: &Vec<bool>| it.iter().enumerate().all(|(at, named)| at == one || *named);
        let units = named.iter().filter(|it| one < it.len());
        let (says, wanted): (Vec<f32>, Vec<bool>) =
            units.map(|it| (f32::from(u8::from(it[one])), others(it))).unzip();
        auroc(&says, &wanted)
    };
    let most = named.iter().map(Vec::len).max()?;
    let found: Vec<f64> = (0..most).filter_map(finds).collect();
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}

fn calibration(
    milan: &Milan,
    seen: &[Seen],
    units: &[Annotated],
    candidates: &[Candidates],
    people: &People,
    teacher: &MiniLm,
) -> anyhow::Result<Calibration> {
    let agreement = people.agreement_among_people();
    let terms = &milan.settings.terms;
    let (mut confidences, mut said) = (vec![], vec![]);
    for (at, (it, unit)) in candidates.iter().zip(units).enumerate() {
        let area = seen[unit.site].area(unit.row);
        let chosen = milan::choose(it, terms, 3);
        let x = confidence_terms(&chosen, 0, it.entropy, area, terms);
        confidences.push(milan.settings.confidence.probability(&x));
        said.push((at, chosen[0].text.as_str()));
    }
    let alike = people.similarities(&said, teacher)?;
    let truth: Vec<bool> = alike.into_iter().map(|it| agreement <= it).collect();
    let bins = reliability(&confidences, &truth, 10);
    let plain = |it: Bin| Confidence { n: it.n, confidence: it.confidence, agreed: it.agreed };
    Ok(Calibration {
        ece: calibration_error(&confidences, &truth, 10),
        auroc: auroc(&confidences, &truth),
        agreement,
        bins: bins.into_iter().map(plain).collect(),
    })
}

/// The tables for people.
pub fn table(found: &Evaluation) -> String {
    let mut text = format!("{} units that training never saw\n\n", found.units);
    let number = |it: f64| if it.is_nan() { "-".to_owned() } else { format!("{it:.3}") };
    let maybe = |it: Option<f64>| it.map_or("-".to_owned(), number);

    let mut methods =
        new_table(WIDTH, &["method", "same layer", "all", "words: same", "all", "similarity"]);
    for Method { name, quality: it } in &found.methods {
        let (a, b) = (it.specificity, it.word_specificity);
        let numbers = [a.same_layer, a.all, b.same_layer, b.all, it.similarity].map(number);
        methods.add_row([vec![(*name).to_owned()], numbers.to_vec()].concat());
    }
    right(&mut methods, 1..6);
    let full = found.critic_full.map(|it| ("with the full sentence encoder", it));
    for (name, it) in [("the critic itself", found.critic)].into_iter().chain(full) {
        methods.add_row(vec![name.into(), number(it.same_layer), number(it.all)]);
    }
    let _ = writeln!(
        text,
        "Specificity: how often a description is closer to its own unit's people\n{methods}\n"
    );

    let mut concepts = new_table(
        WIDTH,
        &[
            "concept",
            "≥1 say",
            "AUROC",
            "precision",
            "recall",
            "≥2 say",
            "AUROC",
            "precision",
            "recall",
            "a person",
        ],
    );
    for it in &found.concepts {
        concepts.add_row(vec![
            it.name.to_owned(),
            it.units_any.to_string(),
            maybe(it.auroc_any),
            maybe(it.precision_any),
            maybe(it.recall_any),
            it.units_majority.to_string(),
            maybe(it.auroc_majority),
            maybe(it.precision_majority),
            maybe(it.recall_majority),
            maybe(it.auroc_one_person),
        ]);
    }
    right(&mut concepts, 1..10);
    let _ = writeln!(
        text,
        "AUROC of the critic, and of one person for what all the others named; precision and recall of the sentences\n{concepts}\n"
    );

    let calibration = &found.calibration;
    let mut bins = new_table(WIDTH, &["units", "confidence", "agreed"]);
    for it in &calibration.bins {
        bins.add_row(vec![it.n.to_string(), number(it.confidence), number(it.agreed)]);
    }
    right(&mut bins, 0..3);
    let _ = writeln!(
        text,
        "Confidence: expected calibration error {}, AUROC {}\n{bins}\n\nBLEU-4 {}",
        number(calibration.ece),
        maybe(calibration.auroc),
        number(found.bleu)
    );
    if !found.overlap.is_empty() {
        let header = [
            "phrase",
            "regions",
            "best IoU",
            "wanted",
            "units",
            "AUROC",
            "average precision",
            "half",
            "other half",
        ];
        let mut overlap = new_table(WIDTH, &header);
        for it in &found.overlap {
            overlap.add_row(vec![
                it.phrase.clone(),
                it.regions.to_string(),
                number(it.best),
                it.truth.to_owned(),
                it.units_true.to_string(),
                maybe(it.auroc),
                maybe(it.average_precision),
                maybe(it.auroc_half),
                maybe(it.auroc_other_half),
            ]);
        }
        right(&mut overlap, 1..3);
        right(&mut overlap, 4..9);
        let _ = writeln!(
            text,
            "\nDoes the critic find the units of {} that fire on regions of a name?\n{overlap}\n\
             half: how well it finds those that overlap most with half of the pictures' regions; other half: how well\n\
             the overlap with the other half does.",
            found.overlap[0].network
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Unit;

    #[test]
    fn one_person_finds_what_the_others_named() {
        let unit = |channel: usize, texts: &[&str]| Annotated {
            unit: Unit::new("layer1", channel),
            site: 0,
            row: channel,
            texts: texts.iter().map(|it| (*it).to_owned()).collect(),
            key: String::new(),
        };
        let dogs = Regex::new(r"\bdogs?\b").unwrap();
        let finds = |units: &[Annotated]| one_person_finds(units, &dogs);
        let agreed = unit(0, &["dogs", "a dog", "dog and cat"]);
        let nobody = unit(1, &["sky", "blue", "dogmas"]);
        // Whoever it is says "dog" of the one and not of the other.
        assert_eq!(finds(&[agreed.clone(), nobody.clone()]), Some(1.));
        // The first one misses what both others named; neither of those is missed by one alone.
        let missed = unit(2, &["fur", "dogs", "dogs"]);
        assert_eq!(finds(&[missed, nobody.clone()]), Some(0.5));
        // Nobody can be compared with anybody.
        assert_eq!(finds(&[unit(3, &["dogs"]), unit(4, &["sky"])]), None);
        assert_eq!(finds(&[nobody]), None);
    }
}
