//! Trains a describer: encoder features, sentence tower, critics, captioner and language model, and how
//! sure a description is. Each stage is kept in the work folder and not done twice.

use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use half::f16;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::annotations::{self, Annotated, part};
use super::critic::{self, Pairs};
use super::speech::{self, Said};
use super::stage::{Tensors, stage};
use super::{judge, sentence};
use crate::data::{self, Preprocess};
use crate::describe::milan::checkpoint::{self, Contents, EncoderSettings, FORMAT, Settings};
use crate::describe::milan::compose::TERMS;
use crate::describe::milan::encoder::{Encoder, Resizing};
use crate::describe::milan::logistic::Logistic;
use crate::describe::milan::look::{Input, Pictures, Seen, look};
use crate::describe::milan::minilm::MiniLm;
use crate::describe::milan::phrases::{CONNECTIVES, Phrases};
use crate::describe::milan::pieces::Pieces;
use crate::describe::milan::vocab::{Indexing, Vocabulary, tokenize};
use crate::describe::milan::{
    self, Milan, captioner, confidence_terms, critic as asked, evidence_terms, lm,
    sentence as tower, spread,
};
use crate::exemplars::SiteExemplars;
use crate::files::{digest, sha256, write_whole};
use crate::model::Model;
use crate::model::run::Network;
use crate::weights::Weights;
use crate::{Progress, usage};

/// What training needs to know.
pub struct Config {
    /// `layer,unit,summary`.
    pub annotations: PathBuf,
    pub exemplars: PathBuf,
    /// The folder of the pictures whose places the exemplars hold.
    pub images: PathBuf,
    /// Safetensors of any network that is known.
    pub encoder: PathBuf,
    /// The folder of all-MiniLM-L6-v2; without it the built-in sentence tower is kept.
    pub sentence_encoder: Option<PathBuf>,
    /// Where the describer, its card and the stages are written.
    pub out: PathBuf,
    pub seed: u64,
}

/// Of the pieces' vectors and of what stands behind them.
const SENTENCE: tower::Sizes = tower::Sizes { piece: 160, hidden: 512, sentence: 384 };
const CRITICS: usize = 2;
/// Sentences of two phrases that the sentence tower learns beside what people said.
const COMPOSED: usize = 6000;
/// Words that were written once are not learnt.
const LEAST_WORDS: usize = 2;
const LENGTH: usize = 15;

/// Everything that the stages share.
pub struct Material {
    pub sites: Vec<SiteExemplars>,
    pub seen: Vec<Seen>,
    pub learn: Vec<Annotated>,
    pub choose: Vec<Annotated>,
    /// How many units nothing was trained or chosen on.
    pub held_out: usize,
}

/// Trains, and writes `milan.safetensors` and `README.md`. Returns where they are.
pub fn train(config: &Config, progress: Progress<'_>) -> anyhow::Result<PathBuf> {
    let work = config.out.join("work");
    let (encoder, settings, encoder_tensors) = open_encoder(&config.encoder)?;
    let input = Input { side: settings.side, mean: settings.mean, std: settings.std };
    let sites = annotations::exemplars(&config.exemplars)?;
    let annotated = annotations::read(&config.annotations, &sites)?;
    let inputs = features_inputs(&settings, &encoder_tensors, &config.exemplars, &config.images)?;
    let seen = features(&work, &inputs, &encoder, &input, &sites, &config.images, progress)?;
    let material = split(sites, seen, annotated);
    let (learn, choose) = (&material.learn, &material.choose);

    // What people say.
    let texts: Vec<Vec<String>> = learn.iter().map(|it| it.texts.clone()).collect();
    let phrases = Phrases::gather(&texts);
    let vocabulary = vocabulary(&texts);
    let inputs = format!("{inputs} {} {}", digest(&config.annotations)?.1, config.seed);

    // The sentence tower.
    let built_in = || checkpoint::from_bytes(milan::BUILT_IN).context("the built-in describer");
    let (pieces, sizes, sentence_tensors) = match &config.sentence_encoder {
        Some(folder) => {
            let teacher = MiniLm::open(folder)?;
            let inputs = format!("{inputs} {SENTENCE:?}");
            let tensors = stage(&work, "sentence", &inputs, || {
                distil(&teacher, &texts, &phrases, config.seed, progress)
            })?;
            (teacher.pieces().list().to_vec(), SENTENCE, tensors)
        }
        None => {
            let Contents { pieces, settings, tensors, .. } = built_in()?;
            let own = tensors
                .into_iter()
                .filter_map(|(name, it)| Some((name.strip_prefix("sentence.")?.to_owned(), it)));
            (pieces, settings.sentence, own.collect())
        }
    };
    let sentences = sentences(pieces.clone(), sizes, &sentence_tensors)?;

    // Features of the units, standardised by those of training.
    let raw = |units: &[Annotated]| gathered(&material.seen, units);
    let learn_raw = raw(learn)?;
    let (mean, std) = moments(&learn_raw)?;
    let standard = |features: &Tensor| milan::standard(features, &mean, &std);
    let (learn_features, choose_features) = (standard(&learn_raw)?, standard(&raw(choose)?)?);
    drop(learn_raw);
    let n_features = encoder.n_features();

    // Critics.
    let pairs = |units: &[Annotated], features: &Tensor| -> anyhow::Result<Pairs> {
        let encode = |it: &Annotated| sentences.encode(&refs(&it.texts));
        Ok(Pairs {
            features: features.clone(),
            sentences: units.iter().map(encode).collect::<anyhow::Result<_>>()?,
            layers: units.iter().map(|it| it.site).collect(),
        })
    };
    let learn_pairs = pairs(learn, &learn_features)?;
    let choose_pairs = pairs(choose, &choose_features)?;
    let critic =
        asked::Sizes { features: n_features, hidden: 512, sentence: sizes.sentence, common: 256 };
    let mut tensors = Tensors::new();
    for at in 0..CRITICS {
        let seed = config.seed + 1 + at as u64;
        let inputs = format!("{inputs} {critic:?} {seed} {sentence_tensors:?}");
        let trained = stage(&work, &format!("critic-{at}"), &inputs, || {
            critic::train(&learn_pairs, &choose_pairs, critic, seed, progress)
        })?;
        tensors.extend(trained.into_iter().map(|(name, it)| (format!("critic.{at}.{name}"), it)));
    }

    // Captioner and language model.
    let captioner = captioner::Sizes {
        features: 256,
        hidden: 256,
        attention: 128,
        embedding: 128,
        tokens: vocabulary.n_tokens(),
    };
    let lm = lm::Sizes { hidden: 256, embedding: 128, layers: 2, tokens: vocabulary.n_tokens() };
    let said = |units: &[Annotated], features: &Tensor| Said {
        features: features.clone(),
        sentences: units
            .iter()
            .enumerate()
            .flat_map(|(unit, it)| it.texts.iter().map(move |text| (unit, text)))
            .map(|(unit, text)| (unit, tokens(&vocabulary, text)))
            .collect(),
    };
    let speech_sizes = speech::Sizes { captioner, lm };
    let speech_inputs = format!("{inputs} {speech_sizes:?}");
    tensors.extend(stage(&work, "speech", &speech_inputs, || {
        let (learn, choose) = (said(learn, &learn_features), said(choose, &choose_features));
        speech::train(&learn, &choose, speech_sizes, &vocabulary, config.seed, progress)
    })?);

    tensors
        .extend(sentence_tensors.iter().map(|(name, it)| (format!("sentence.{name}"), it.clone())));
    tensors.extend(encoder_tensors);
    tensors.insert("features.mean".into(), mean);
    tensors.insert("features.std".into(), std);
    tensors
        .insert("background".into(), Tensor::zeros((1, sizes.sentence), DType::F32, &Device::Cpu)?);
    let mut seen: Vec<String> = learn.iter().chain(choose).map(|it| it.key.clone()).collect();
    seen.sort();
    let even = Logistic::fit(&[], &[]);
    let mut contents = Contents {
        settings: Settings {
            format: FORMAT,
            encoder: settings,
            captioner,
            lm,
            critic,
            critics: CRITICS,
            sentence: sizes,
            terms: [1., 16., 0.4, 0.3],
            lambda: 0.2,
            beam_size: 50,
            length: LENGTH,
            confidence: even.clone(),
            evidence: even,
        },
        words: vocabulary.words().to_vec(),
        pieces,
        phrases: serde_json::to_string(&phrases)?,
        seen,
        tensors,
    };
    calibrate(&mut contents, &material, config, progress)?;
    let file = config.out.join("milan.safetensors");
    checkpoint::write(&file, &contents)?;
    let card = card(&contents, &material, config);
    write_whole(&config.out.join("README.md"), card.as_bytes())?;
    Ok(file)
}

/// The model card: what it was made of and how. Quality is measured by `milan-train evaluate`.
fn card(contents: &Contents, material: &Material, config: &Config) -> String {
    let settings = &contents.settings;
    let name = |path: &Path| {
        path.file_name().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let terms: Vec<String> =
        TERMS.iter().zip(settings.terms).map(|(term, weight)| format!("{weight} {term}")).collect();
    format!(
        "# A describer of units\n\n\
         Describes what the units of a vision model fire on, in English, from photographs.\n\n\
         | | |\n| --- | --- |\n\
         | what people said | {} ({} units to learn from, {} to choose by, {} held out) |\n\
         | exemplars | {} |\n\
         | encoder | {}, at {} |\n\
         | sentences are judged by | {} |\n\
         | phrases, words | {}, {} |\n\
         | seed | {} |\n\n\
         `milan-train evaluate` with the same files measures it on the units held out.\n",
        name(&config.annotations),
        material.learn.len(),
        material.choose.len(),
        material.held_out,
        name(&config.exemplars),
        name(&config.encoder),
        settings.encoder.sites.join(", "),
        terms.join(", "),
        serde_json::from_str::<Phrases>(&contents.phrases).map_or(0, |it| it.texts().len()),
        contents.words.len(),
        config.seed,
    )
}

fn refs(texts: &[String]) -> Vec<&str> {
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
    let settings = EncoderSettings { sites, side: own.crop, mean: own.mean, std: own.std };
    Ok((encoder, settings, tensors))
}

/// What features depend on.
pub fn features_inputs(
    settings: &EncoderSettings,
    tensors: &Tensors,
    exemplars: &Path,
    images: &Path,
) -> anyhow::Result<String> {
    let mut values = String::new();
    for (name, tensor) in tensors.iter().filter(|(name, _)| name.starts_with("encoder.")) {
        let bytes = tensor.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = bytes.into_iter().flat_map(f32::to_le_bytes).collect();
        values += &format!("{name} {} ", sha256(&bytes));
    }
    let images = images.canonicalize().unwrap_or_else(|_| images.to_owned());
    Ok(format!("{settings:?} {values} {} {images:?}", digest(exemplars)?.1))
}

/// The features of every exemplar of every site, kept in the work folder.
pub fn features(
    work: &Path,
    inputs: &str,
    encoder: &Encoder,
    input: &Input,
    sites: &[SiteExemplars],
    images: &Path,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Seen>> {
    let dataset = data::open(images, &[])?;
    let tensors = stage(work, "features", inputs, || {
        let preprocess = Preprocess::of("resnet152");
        let pictures = Pictures { dataset: &dataset, preprocess: &preprocess };
        let seen = look(encoder, input, sites, pictures, progress)?;
        let mut tensors = Tensors::new();
        for (site, seen) in sites.iter().zip(&seen) {
            let (features, areas) = seen.parts();
            let values: Vec<f32> = features.iter().map(|it| it.to_f32()).collect();
            let shape = (seen.n_units, seen.k, seen.n_features);
            tensors.insert(site.site.clone(), Tensor::from_vec(values, shape, &Device::Cpu)?);
            let areas = Tensor::new(areas, &Device::Cpu)?;
            tensors.insert(format!("{}.area", site.site), areas);
        }
        Ok(tensors)
    })?;
    sites
        .iter()
        .map(|site| {
            let features = &tensors[&site.site];
            let (n, k, f) = features.dims3()?;
            let values = features.flatten_all()?.to_vec1::<f32>()?;
            let values = values.into_iter().map(f16::from_f32).collect();
            let areas = tensors[&format!("{}.area", site.site)].to_vec1()?;
            Seen::from_parts([n, k, f], values, areas).context("features of another shape")
        })
        .collect()
}

/// Four fifths to learn from, a tenth to choose by, a tenth that is never looked at.
fn split(sites: Vec<SiteExemplars>, seen: Vec<Seen>, annotated: Vec<Annotated>) -> Material {
    let (mut learn, mut choose, mut held_out) = (vec![], vec![], 0);
    for it in annotated {
        // The last digit decides what is held out, the next one what chooses.
        match part(&it.unit, 90) {
            rest if rest % 10 == 0 => held_out += 1,
            rest if rest < 10 => choose.push(it),
            _ => learn.push(it),
        }
    }
    Material { sites, seen, learn, choose, held_out }
}

/// Features of some units, `(units, k, features)`.
pub fn gathered(seen: &[Seen], units: &[Annotated]) -> anyhow::Result<Tensor> {
    let one = |it: &Annotated| seen[it.site].features(&[it.unit.channel]);
    let all = units.iter().map(one).collect::<candle_core::Result<Vec<_>>>()?;
    Tensor::cat(&all, 0).context("no unit is left to train on; more annotations are wanted")
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

fn sentences(
    pieces: Vec<String>,
    sizes: tower::Sizes,
    tensors: &Tensors,
) -> anyhow::Result<tower::Sentences> {
    let tensors = tensors.iter().map(|(name, it)| (name.clone(), it.clone())).collect();
    let vb = candle_nn::VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    Ok(tower::Sentences::new(Pieces::new(pieces)?, sizes, &vb)?)
}

fn distil(
    teacher: &MiniLm,
    texts: &[Vec<String>],
    phrases: &Phrases,
    seed: u64,
    progress: Progress<'_>,
) -> anyhow::Result<Tensors> {
    let mut all: Vec<String> = texts.iter().flatten().cloned().collect();
    all.extend(phrases.texts().iter().cloned());
    let weighted: Vec<(usize, f64)> =
        phrases.n_units().iter().map(|&n| f64::from(n).sqrt()).enumerate().collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let pick = |rng: &mut ChaCha8Rng| {
        weighted.choose_weighted(rng, |it| it.1).map(|it| it.0).context("no phrase was said twice")
    };
    let mut n_composed = 0;
    for _ in 0..COMPOSED * 50 {
        let (a, b) = (pick(&mut rng)?, pick(&mut rng)?);
        let connective = rng.random_range(0..CONNECTIVES.len());
        if n_composed < COMPOSED && phrases.may_join(a, connective, b) {
            all.push(phrases.join(a, connective, b));
            n_composed += 1;
        }
    }
    all.sort();
    all.dedup();
    let mut vectors = vec![];
    for some in all.chunks(1024) {
        progress("sentence encoder", vectors.len() * 1024, all.len())?;
        vectors.push(teacher.encode(&refs(some))?);
    }
    progress("sentence encoder", all.len(), all.len())?;
    let singles = teacher.single_pieces()?;
    let vectors = Tensor::cat(&vectors, 0)?;
    sentence::train(teacher.pieces(), &singles, &all, &vectors, SENTENCE, seed, progress)
}

/// What is expected of any unit, how much each term of a sentence's score counts, and how sure it is: by the
/// units that choose.
fn calibrate(
    contents: &mut Contents,
    material: &Material,
    config: &Config,
    progress: Progress<'_>,
) -> anyhow::Result<()> {
    let plain = Milan::new(contents.clone())?;
    let background = {
        let composer = plain.composer()?;
        let mut sum =
            Tensor::zeros((1, contents.settings.sentence.sentence), DType::F32, &Device::Cpu)?;
        for some in material.learn.chunks(64) {
            let perceived = plain.perceive(&gathered(&material.seen, some)?)?;
            sum = (sum + composer.expected(&perceived.units)?.0.sum_keepdim(0)?)?;
        }
        (sum / material.learn.len() as f64)?
    };
    contents.tensors.insert("background".into(), background);
    let milan = Milan::new(contents.clone())?;
    let candidates = judge::candidates(&milan, &material.seen, &material.choose, progress)?;
    let Some(folder) = &config.sentence_encoder else {
        return Err(usage!("--sentence-encoder DIR is wanted, to judge by what people said"));
    };
    let teacher = MiniLm::open(folder)?;
    let people = judge::People::new(&material.choose, &teacher)?;

    let mut best = (f64::NEG_INFINITY, contents.settings.terms);
    for critic in [1f32] {
        for agreement in [8., 16., 24.] {
            for captioner in [0., 0.15, 0.3, 0.5] {
                for words in [0., 0.3] {
                    let terms = [critic, agreement, captioner, words];
                    let texts = judge::best_texts(&candidates, &terms);
                    let quality = people.quality(&refs(&texts), &teacher)?;
                    if best.0 < quality.overall() {
                        best = (quality.overall(), terms);
                    }
                }
            }
        }
    }
    contents.settings.terms = best.1;

    // Would a person agree? As much as people do with each other, in the middle.
    let agreement = people.agreement_among_people();
    let (mut xs, mut ys) = (vec![], vec![]);
    for (at, (it, unit)) in candidates.iter().zip(&material.choose).enumerate() {
        let area = material.seen[unit.site].area(unit.unit.channel);
        let chosen = milan::choose(it, &best.1, 3);
        for place in 0..chosen.len() {
            let alike = people.similarity(at, &chosen[place].text, &teacher)?;
            xs.push(confidence_terms(&chosen, place, it.entropy, area, &best.1));
            ys.push(agreement <= alike);
        }
    }
    contents.settings.confidence = Logistic::fit(&xs, &ys);

    // Would a person name it? Phrases that were said of enough units, against all units of the network.
    let milan = Milan::new(contents.clone())?;
    let phrases: Vec<&str> = milan
        .phrases
        .texts()
        .iter()
        .zip(milan.phrases.n_units())
        .filter(|(text, n)| 25 <= **n && !text.contains(' '))
        .map(|(text, _)| text.as_str())
        .collect();
    let everything = milan.scores(&material.seen, &phrases)?;
    let starts: Vec<usize> = material
        .sites
        .iter()
        .scan(0, |at, site| {
            let start = *at;
            *at += site.n_units;
            Some(start)
        })
        .collect();
    let (mut xs, mut ys) = (vec![], vec![]);
    for (at, phrase) in phrases.iter().enumerate() {
        let (mean, std) = spread(everything.iter().map(|it| it[at]));
        let stem = milan::phrases::stems(&milan::phrases::words(phrase));
        for unit in &material.choose {
            let score = everything[starts[unit.site] + unit.unit.channel][at];
            xs.push(evidence_terms(score, mean, std));
            ys.push(
                unit.texts.iter().any(|text| {
                    stem.is_subset(&milan::phrases::stems(&milan::phrases::words(text)))
                }),
            );
        }
    }
    contents.settings.evidence = Logistic::fit(&xs, &ys);
    Ok(())
}
