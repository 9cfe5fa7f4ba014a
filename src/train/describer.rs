//! Trains a describer: encoder features, sentence tower, critics, captioner and language model, and how
//! sure a description is. Each stage is kept in the work folder and not done twice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::annotations::{Annotated, part};
use super::calibrate::{Evidence, Sentences as Refit, calibrate};
use super::concepts::{by_depth, depths};
use super::critic::{self, Named, Pairs};
use super::features::{Looker, gathered};
use super::misplaced::{self, Misplaced, misplaced};
use super::reference_networks;
use super::regions::Regions;
use super::sentence;
use super::source::{Known, Source};
use super::speech::{self, Said};
use super::stage::{Tensors, stage};
use crate::Progress;
use crate::data::Preprocess;
use crate::describe::milan::checkpoint::{
    self, Contents, EncoderSettings, FORMAT, Fitted, Settings,
};
use crate::describe::milan::compose::TERMS;
use crate::describe::milan::encoder::{Encoder, Resizing};
use crate::describe::milan::logistic::Logistic;
use crate::describe::milan::look::{Input, Pictures, Seen};
use crate::describe::milan::minilm::{self, MiniLm};
use crate::describe::milan::phrases::Phrases;
use crate::describe::milan::sentence::{self as tower, Sentences};
use crate::describe::milan::vocab::{Indexing, Vocabulary, tokenize};
use crate::describe::milan::{self, captioner, critic as asked, lm};
use crate::files::{sha256, write_whole};
use crate::model::Model;
use crate::model::run::Network;
use crate::usage;
use crate::weights::Weights;

/// What training needs to know.
pub struct Config {
    pub source: Source,
    /// Safetensors of any network that is known.
    pub encoder: PathBuf,
    /// The folder of all-MiniLM-L6-v2.
    pub sentence_encoder: PathBuf,
    /// Regions whose names are known, to learn those as well: folders, or `demo:N:SEED:SPLIT`.
    pub regions: Vec<String>,
    /// A table `network,layer,unit,description`: what people said of the units of another network, by depth.
    pub words_by_depth: Option<PathBuf>,
    /// Where the describer, its card and the stages are written.
    pub out: PathBuf,
    pub seed: u64,
    /// Where sentence tower, critics, captioner and language model are trained. Pictures are looked at on the CPU, and
    /// all that is random is drawn there.
    pub device: Device,
}

/// Of the pieces' vectors, and of what stands behind them.
const PIECE: usize = 160;
const HIDDEN: usize = 512;
const CRITICS: usize = 3;
/// Words that were written once are not learnt.
const LEAST_WORDS: usize = 2;
const LENGTH: usize = 15;
/// Of the paper.
const BEAM: usize = 50;

/// Everything that the stages share.
pub struct Material {
    pub seen: Vec<Seen>,
    pub learn: Vec<Annotated>,
    pub choose: Vec<Annotated>,
    /// How many units nothing was trained or chosen on.
    pub held_out: usize,
}

/// What training made.
pub struct Trained {
    /// `milan.safetensors`.
    pub file: PathBuf,
    /// Names that were not learnt.
    pub left_out: Vec<Misplaced>,
}

/// Trains, and writes `milan.safetensors` and `README.md`.
pub fn train(config: &Config, progress: Progress<'_>) -> anyhow::Result<Trained> {
    let work = config.out.join("work");
    let (encoder, settings, encoder_tensors) = open_encoder(&config.encoder)?;
    let teacher = MiniLm::open(&config.sentence_encoder)?;
    let teacher_digest = minilm::digest(&config.sentence_encoder)?;
    let regions = config.regions.iter().map(|source| {
        let regions = Regions::named(source)?;
        let pictures = regions.pictures(&config.source)?;
        Ok((regions, pictures))
    });
    let regions = regions.collect::<anyhow::Result<Vec<_>>>()?;
    let looker = Looker::new(&encoder, &settings, &encoder_tensors, &work)?;
    let Known { units, seen, inputs } = config.source.read(&looker, progress)?;
    let material = split(seen, units);
    let (learn, choose) = (&material.learn, &material.choose);

    // What people say.
    let texts: Vec<Vec<String>> = learn.iter().map(|it| it.texts.clone()).collect();
    let pieces = teacher.pieces().list().to_vec();
    let known: BTreeSet<&str> = pieces.iter().map(String::as_str).collect();
    let phrases = Phrases::gather(&texts, &|word| known.contains(word));
    let phrases_json = serde_json::to_string(&phrases)?;
    let elsewhere = config.words_by_depth.as_deref().map(by_depth).transpose()?.unwrap_or_default();
    let vocabulary = vocabulary(&texts);
    let depths = depths(&phrases, learn, material.seen.len(), &elsewhere);
    let inputs = format!(
        "{} {inputs} {} {teacher_digest} {} {}",
        env!("CARGO_PKG_VERSION"),
        looker.inputs,
        sha256(phrases_json.as_bytes()),
        config.seed
    ) + trained_on(&config.device);

    // The sentence tower.
    let tower = tower::Sizes { piece: PIECE, hidden: HIDDEN, sentence: teacher.hidden_size() };
    let sentence_inputs = format!("{inputs} {tower:?}");
    let sentence_tensors = stage(&work, "sentence", &sentence_inputs, || {
        sentence::distil(&teacher, &texts, &phrases, tower, config.seed, &config.device, progress)
    })?;
    let sentences = sentence::open(pieces.clone(), tower, &sentence_tensors)?;

    // Features of the units, standardised by those of training.
    let raw = |units: &[Annotated]| gathered(&material.seen, units);
    let learn_raw = raw(learn)?;
    let (mean, std) = moments(&learn_raw)?;
    let standard = |features: &Tensor| milan::standard(features, &mean, &std);
    let (learn_features, choose_features) = (standard(&learn_raw)?, standard(&raw(choose)?)?);
    drop(learn_raw);
    let n_features = encoder.n_features();

    // Critics.
    let learn_pairs = pairs(learn, &learn_features, &sentences)?;
    let choose_pairs = pairs(choose, &choose_features, &sentences)?;
    let (mut names, mut left_out) = (vec![], vec![]);
    let (mut region_keys, mut region_inputs) = (vec![], String::new());
    for (at, (regions, (dataset, digest, preprocess))) in regions.iter().enumerate() {
        let pictures = Pictures { dataset, preprocess };
        let name = format!("regions-{at}");
        let seen = misplaced::look(regions, &name, digest, &looker, &pictures, progress)?;
        let is_to_learn = |it: usize| regions.is_to_learn(it);
        let wrong = misplaced(regions, is_to_learn, &seen, (&mean, &std))?;
        names.push(named(regions, &wrong, &seen, standard, &sentences)?);
        region_keys.extend(regions.learnt_keys(|name| wrong.iter().any(|it| it.name == name)));
        region_inputs += &format!("{digest} {} {wrong:?}", regions.keys.concat());
        left_out.extend(wrong);
    }
    let critic =
        asked::Sizes { features: n_features, hidden: 512, sentence: tower.sentence, common: 256 };
    let captioner = captioner::Sizes {
        features: 256,
        hidden: 256,
        attention: 128,
        embedding: 128,
        tokens: vocabulary.n_tokens(),
    };
    let lm = lm::Sizes { hidden: 256, embedding: 128, layers: 2, tokens: vocabulary.n_tokens() };
    let speech_sizes = speech::Sizes { captioner, lm };
    let speech_inputs = format!("{inputs} {speech_sizes:?}");

    // Critics, and captioner with language model, side by side.
    let joint = Joint::new(CRITICS + 1, progress);
    let train_critic = |at: usize| {
        let seed = config.seed + 1 + at as u64;
        let inputs = format!("{inputs} {critic:?} {seed} {region_inputs}");
        let trained = stage(&work, &format!("critic-{at}"), &inputs, || {
            let progress = &|_: &str, done, all| joint.show(at, done, all);
            let device = &config.device;
            critic::train(&learn_pairs, &names, &choose_pairs, critic, seed, device, progress)
        })?;
        Ok(trained.into_iter().map(|(name, it)| (format!("critic.{at}.{name}"), it)).collect())
    };
    let train_speech = || {
        stage(&work, "speech", &speech_inputs, || {
            let learn = said(learn, &learn_features, &vocabulary);
            let choose = said(choose, &choose_features, &vocabulary);
            let progress = &|_: &str, done, all| joint.show(CRITICS, done, all);
            let (seed, device) = (config.seed, &config.device);
            speech::train(&learn, &choose, speech_sizes, &vocabulary, seed, device, progress)
        })
    };
    let (speech, critics) = rayon::join(train_speech, || {
        (0..CRITICS).into_par_iter().map(train_critic).collect::<anyhow::Result<Vec<Tensors>>>()
    });
    let mut tensors = speech?;
    tensors.extend(critics?.into_iter().flatten());

    tensors
        .extend(sentence_tensors.iter().map(|(name, it)| (format!("sentence.{name}"), it.clone())));
    tensors.extend(encoder_tensors);
    tensors.insert("features.mean".into(), mean);
    tensors.insert("features.std".into(), std);
    tensors
        .insert("background".into(), Tensor::zeros((1, tower.sentence), DType::F32, &Device::Cpu)?);
    let mut seen: Vec<String> = learn.iter().chain(choose).map(|it| it.key.clone()).collect();
    seen.extend(region_keys);
    seen.sort();
    seen.dedup();
    let even = Logistic::fit(&[], &[]);
    let unfitted = Fitted {
        terms: [1., 16., 0.4, 0.3, 0.],
        confidence: even.clone(),
        evidence: even.clone(),
        concept: even,
    };
    let mut contents = Contents {
        settings: Settings {
            format: FORMAT,
            encoder: settings,
            captioner,
            lm,
            critic,
            critics: CRITICS,
            sentence: tower,
            sentence_encoder: teacher_digest,
            lambda: 0.2,
            beam_size: BEAM.min(vocabulary.n_tokens()),
            length: LENGTH,
            fitted: unfitted.clone(),
            fitted_full: unfitted,
        },
        words: vocabulary.words().to_vec(),
        pieces,
        phrases: phrases_json,
        depths: serde_json::to_string(&depths)?,
        seen,
        tensors,
    };
    let rest = (&config.source, config.sentence_encoder.as_path());
    fit(&mut contents, &material, rest, Refit::Anew, &looker, progress)?;
    let file = config.out.join("milan.safetensors");
    checkpoint::write(&file, &contents)?;
    let card = card(&contents, &material, &names, &left_out, config);
    write_whole(&config.out.join("README.md"), card.as_bytes())?;
    Ok(Trained { file, left_out })
}

/// What calibrating a trained describer anew needs to know.
pub struct Calibration {
    pub source: Source,
    pub describer: PathBuf,
    /// As in [`Config`].
    pub sentence_encoder: PathBuf,
    pub words_by_depth: Option<PathBuf>,
    pub sentences: Refit,
    /// Where features are kept; `None` keeps none.
    pub work: Option<PathBuf>,
    /// The new file.
    pub out: PathBuf,
}

/// Gathers the phrases of a trained describer and fits what is fitted anew, its networks staying as they are.
pub fn calibrated(config: &Calibration, progress: Progress<'_>) -> anyhow::Result<()> {
    let mut contents = checkpoint::open(&config.describer)?;
    let milan = milan::Milan::new(contents.clone())?;
    let scratch = tempfile::tempdir()?;
    let work = config.work.as_deref().unwrap_or(scratch.path());
    let settings = &contents.settings.encoder;
    let looker = Looker::new(&milan.encoder, settings, &contents.tensors, work)?;
    let Known { units, seen, .. } = config.source.read(&looker, progress)?;
    let material = split(seen, units);
    if let Some(it) = material.learn.iter().find(|it| !milan.seen.contains(&it.key)) {
        return Err(usage!(
            "{} was not trained on {}, so it was trained on other annotations than {}",
            config.describer.display(),
            it.unit,
            config.source.annotations.display()
        ));
    }
    let teacher = MiniLm::open(&config.sentence_encoder)?;
    let known: BTreeSet<&str> = teacher.pieces().list().iter().map(String::as_str).collect();
    let texts: Vec<Vec<String>> = material.learn.iter().map(|it| it.texts.clone()).collect();
    let phrases = Phrases::gather(&texts, &|word| known.contains(word));
    let elsewhere = config.words_by_depth.as_deref().map(by_depth).transpose()?.unwrap_or_default();
    let (learn, n_sites) = (&material.learn, material.seen.len());
    let depths = depths(&phrases, learn, n_sites, &elsewhere);
    contents.phrases = serde_json::to_string(&phrases)?;
    contents.depths = serde_json::to_string(&depths)?;
    let rest = (&config.source, config.sentence_encoder.as_path());
    fit(&mut contents, &material, rest, config.sentences, &looker, progress)?;
    checkpoint::write(&config.out, &contents)
}

/// Fits what is fitted, by the units that choose and by those of the reference networks.
fn fit(
    contents: &mut Contents,
    material: &Material,
    (source, teacher): (&Source, &Path),
    sentences: Refit,
    looker: &Looker<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<()> {
    let around = source.around(&material.choose, "places", looker, progress)?;
    let references = reference_networks::all(source, looker, progress)?;
    let evidence =
        Evidence { material, around: &around, references: &references, teacher, sentences };
    calibrate(contents, &evidence, progress)
}

/// What a stage's inputs say of the device it is trained on. A GPU sums in another order, and not always in the same,
/// so what was trained on it is never taken for what the CPU would give, nor the other way round. Which GPU it was makes
/// no difference.
fn trained_on(device: &Device) -> &'static str {
    if device.is_cpu() { "" } else { " cuda" }
}

/// How far several that train side by side are, together.
struct Joint<'a> {
    /// Of each, in thousandths.
    done: Vec<AtomicUsize>,
    progress: Progress<'a>,
}

impl<'a> Joint<'a> {
    fn new(n: usize, progress: Progress<'a>) -> Joint<'a> {
        Joint { done: (0..n).map(|_| AtomicUsize::new(0)).collect(), progress }
    }

    fn show(&self, at: usize, done: usize, all: usize) -> anyhow::Result<()> {
        self.done[at].store(1000 * done / all.max(1), Ordering::Relaxed);
        let done = self.done.iter().map(|it| it.load(Ordering::Relaxed)).sum();
        (self.progress)("critics and captioner", done, 1000 * self.done.len())
    }
}

/// Units with the vectors of what was said of them.
fn pairs(units: &[Annotated], features: &Tensor, sentences: &Sentences) -> anyhow::Result<Pairs> {
    let encode = |it: &Annotated| sentences.encode(&refs(&it.texts));
    Ok(Pairs {
        features: features.clone(),
        sentences: units.iter().map(encode).collect::<anyhow::Result<_>>()?,
        layers: units.iter().map(|it| it.site).collect(),
    })
}

/// The names that are there to learn, but for the misplaced ones; `seen` has the features of all regions, and of what is
/// beside them.
fn named(
    regions: &Regions,
    misplaced: &[Misplaced],
    seen: &[Seen],
    standard: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
    sentences: &Sentences,
) -> anyhow::Result<Named> {
    let mut names = regions.by_name(|it| regions.is_to_learn(it));
    names.retain(|name, _| misplaced.iter().all(|it| it.name != *name));
    let texts: Vec<&str> = names.keys().copied().collect();
    let own = |site: usize, rows: &[usize]| standard(&seen[site].features(rows)?)?.squeeze(1);
    let beside = |of: &Vec<usize>| {
        let rows = regions.beside_rows(of);
        (!rows.is_empty()).then(|| own(1, &rows)).transpose()
    };
    let features = names.values().map(|it| own(0, it)).collect::<candle_core::Result<_>>()?;
    let beside = names.values().map(beside).collect::<candle_core::Result<_>>()?;
    Ok(Named { features, beside, sentences: sentences.encode(&texts)? })
}

/// Units with the tokens of what was said of them.
fn said(units: &[Annotated], features: &Tensor, vocabulary: &Vocabulary) -> Said {
    let texts = |(unit, it): (usize, &Annotated)| {
        it.texts.iter().map(|text| (unit, tokens(vocabulary, text))).collect::<Vec<_>>()
    };
    Said {
        features: features.clone(),
        sentences: units.iter().enumerate().flat_map(texts).collect(),
    }
}

/// The model card: what it was made of and how. Quality is measured by `milan-train evaluate`.
fn card(
    contents: &Contents,
    material: &Material,
    named: &[Named],
    left_out: &[Misplaced],
    config: &Config,
) -> String {
    let settings = &contents.settings;
    let name = |path: &Path| {
        path.file_name().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let terms: Vec<String> = TERMS
        .iter()
        .zip(settings.fitted.terms)
        .map(|(term, weight)| format!("{weight} {term}"))
        .collect();
    format!(
        "# A describer of units\n\n\
         Describes what the units of a vision model fire on, in English, from photographs.\n\n\
         | | |\n| --- | --- |\n\
         | what people said | {} ({} units to learn from, {} to choose by, {} held out) |\n\
         | exemplars | {} |\n\
         | named regions | {} |\n\
         | encoder | {}, at {} |\n\
         | sentences are judged by | {} |\n\
         | phrases, words | {}, {} |\n\
         | seed | {}{} |\n\n\
         `milan-train evaluate` with the same files measures it on the units held out.\n",
        name(&config.source.annotations),
        material.learn.len(),
        material.choose.len(),
        material.held_out,
        config.source.exemplars.as_deref().map_or("beside them".to_owned(), name),
        regions(named, left_out, config),
        name(&config.encoder),
        settings.encoder.sites.join(", "),
        terms.join(", "),
        serde_json::from_str::<Phrases>(&contents.phrases).map_or(0, |it| it.texts().len()),
        contents.words.len(),
        config.seed,
        if config.device.is_cpu() { "" } else { ", on a GPU" },
    )
}

fn regions(named: &[Named], left_out: &[Misplaced], config: &Config) -> String {
    let own = named.iter().zip(&config.regions).map(|(it, source)| {
        let source = source.rsplit(['/', '\\']).next().unwrap_or(source);
        format!("{} of {} names from {source}", it.n_regions(), it.features.len())
    });
    let left_out = left_out.iter().map(|it| format!("left out, as misplaced: {it}"));
    let own: Vec<String> = own.chain(left_out).collect();
    if own.is_empty() { "none".into() } else { own.join("; ") }
}

pub(super) fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// Opens any known network as an encoder, with its settings and its tensors under `encoder.`.
fn open_encoder(path: &Path) -> anyhow::Result<(Encoder, EncoderSettings, Tensors)> {
    let weights = Weights::open(path)?;
    let model = Model::load(&weights, None, &Device::Cpu)?;
    let own = Preprocess::of(&model.arch);
    let sites: Vec<String> = match model.arch.as_str() {
        // The last block at each size, chosen on held-out units, and the head.
        "efficientnet_lite0" => ["_blocks.2", "_blocks.4", "_blocks.10", "_blocks.15", "head"]
            .map(str::to_owned)
            .to_vec(),
        _ => model.graph().default_sites().to_vec(),
    };
    // In half precision, as the file will hold it: what training looks with.
    let mut tensors = Tensors::new();
    let network = Network::new(model.graph().clone(), &Device::Cpu, |name| {
        let tensor = weights.read(&format!("{}{name}", model.prefix))?;
        let tensor = tensor.to_dtype(DType::F16)?.to_dtype(DType::F32)?;
        tensors.insert(format!("encoder.{name}"), tensor.clone());
        Ok(tensor)
    })?;
    let named: Vec<&str> = sites.iter().map(String::as_str).collect();
    let encoder = Encoder::new(network, &named, Resizing::Area)?.with_colours();
    let input = Input { side: own.crop, mean: own.mean, std: own.std };
    let settings = EncoderSettings { sites, input };
    Ok((encoder, settings, tensors))
}

/// Four fifths to learn from, a tenth to choose by, a tenth that is never looked at.
fn split(seen: Vec<Seen>, annotated: Vec<Annotated>) -> Material {
    let (mut learn, mut choose, mut held_out) = (vec![], vec![], 0);
    for it in annotated {
        // The last digit decides what is held out, the next one what chooses.
        match part(&format!("{}/{}", it.unit.site, it.unit.channel), 90) {
            rest if rest % 10 == 0 => held_out += 1,
            rest if rest < 10 => choose.push(it),
            _ => learn.push(it),
        }
    }
    Material { seen, learn, choose, held_out }
}

/// Mean and standard deviation of each feature.
fn moments(features: &Tensor) -> anyhow::Result<(Tensor, Tensor)> {
    let flat = features.flatten_to(1)?;
    let mean = flat.mean_keepdim(0)?;
    let variance = flat.broadcast_sub(&mean)?.sqr()?.mean(0)?;
    Ok((mean.squeeze(0)?, (variance.sqrt()? + 1e-5)?))
}

fn vocabulary(texts: &[Vec<String>]) -> Vocabulary {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for word in texts.iter().flatten().flat_map(|text| tokenize(text)) {
        *counts.entry(word).or_default() += 1;
    }
    Vocabulary::new(
        counts.into_iter().filter(|(_, n)| LEAST_WORDS <= *n).map(|(word, _)| word).collect(),
    )
}

fn tokens(vocabulary: &Vocabulary, text: &str) -> Vec<u32> {
    let words = tokenize(text);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let length = Some(words.len().min(LENGTH - 1));
    let how = Indexing { stop: true, unknown: true, length, ..Default::default() };
    vocabulary.index(&[words], how).swap_remove(0)
}
