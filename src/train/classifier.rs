//! Trains a small classifier, such as the demo's: AdamW, a rate that rises and falls, dropout before the last layer.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use image::RgbImage;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::forward::{Learner, Moments};
use super::params::Params;
use super::stage::{Tensors, entries};
use crate::data::{self, Dataset, Preprocess, read_crop};
use crate::files::{digest, write_whole};
use crate::model::graph::Graph;
use crate::model::op::Op;
use crate::model::run::Ablate;
use crate::model::{Model, zoo};
use crate::pass::{self, Probe, Settings};
use crate::weights::Weights;
use crate::weights::write;
use crate::{Progress, evaluate, exemplars, usage};

/// What training needs to know.
pub struct Config {
    /// Labelled pictures: a folder, or `demo:N:SEED:SPLIT`.
    pub data: String,
    /// An architecture that [`Learner`] can train.
    pub arch: String,
    /// Pictures that accuracy is measured on at the end, by what they are called.
    pub tests: Vec<(String, String)>,
    /// How often the pictures are gone through, each time but for those that fill no batch.
    pub epochs: usize,
    /// Where the model and its card are written.
    pub out: PathBuf,
    pub seed: u64,
    /// Where it is trained. All that is random is drawn on the CPU, where accuracy is measured, too.
    pub device: Device,
}

/// Pictures between two steps, and those of them whose moments and gradients are one thread's work: whatever the
/// number of threads, so that it does not matter to the result.
const BATCH: usize = 64;
const PART: usize = 32;
const RATE: f64 = 3e-3;
const DECAY: f64 = 0.05;
/// A gradient is cut to this length.
const LONGEST: f64 = 5.;
/// The share of features that are left out before the last layer.
const DROPPED: f64 = 0.5;
/// How far running moments go to those of a batch.
const MOMENTUM: f64 = 0.1;

/// Trains, and writes `model.safetensors`, `config.json` with the names of the classes, and `README.md`. Returns
/// where the model is.
pub fn train(config: &Config, progress: Progress<'_>) -> anyhow::Result<PathBuf> {
    let dataset = data::named(&config.data, &[])?;
    let labels = labels(&dataset)?;
    std::fs::create_dir_all(&config.out)
        .with_context(|| format!("cannot make the folder {}", config.out.display()))?;
    let preprocess = Preprocess::of(&config.arch);
    let tests = config.tests.iter().map(|(name, source)| {
        let dataset = data::named(source, &dataset.classes)?;
        if !dataset.is_labelled() {
            return Err(usage!("the test pictures in {source} have no labels"));
        }
        Ok((name, Probe { dataset, preprocess: preprocess.clone() }))
    });
    let tests = tests.collect::<anyhow::Result<Vec<_>>>()?;
    let device = &config.device;
    let params = Params::new(config.seed, device);
    let graph = zoo::by_name(&config.arch)?.build(dataset.classes.len());
    let n_features = n_features(&graph)?;
    let mut running = moments(&graph, device)?;
    let learner = Learner::new(graph, &params)?;
    let crop = |id| read_crop(&dataset, &preprocess, id);
    let crops = (0..labels.len()).into_par_iter().map(crop).collect::<anyhow::Result<Vec<_>>>()?;

    let steps = config.epochs * (labels.len() / BATCH);
    let mut training = params.training(RATE, DECAY, steps * 3 / 10, steps)?;
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let mut order: Vec<usize> = (0..labels.len()).collect();
    for epoch in 0..config.epochs {
        order.shuffle(&mut rng);
        for (batch, ids) in order.chunks_exact(BATCH).enumerate() {
            let step = epoch * (labels.len() / BATCH) + batch;
            progress("classifier", step, steps)?;
            let learn = |(part, ids): (usize, &[usize])| {
                let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
                rng.set_stream((1 + step * (BATCH / PART) + part) as u64);
                let xs = pixels(&crops, ids, &preprocess)?.to_device(device)?;
                let labels: Vec<u32> = ids.iter().map(|id| labels[*id]).collect();
                let drop = kept(ids.len(), n_features, &mut rng)?.to_device(device)?;
                let (logits, moments) = learner.run(&xs, &drop)?;
                let loss = cross_entropy(&logits, &Tensor::new(labels, device)?)?;
                let loss = (loss * (PART as f64 / BATCH as f64))?;
                Ok((loss.backward()?, moments))
            };
            let parts = ids.par_chunks(PART).enumerate().map(learn);
            let parts = parts.collect::<anyhow::Result<Vec<(GradStore, Moments)>>>()?;
            let mut gradients: Option<GradStore> = None;
            for (own, moments) in parts {
                match &mut gradients {
                    Some(sum) => sum.extend(own)?,
                    None => gradients = Some(own),
                }
                follow(&mut running, moments)?;
            }
            training.follow(gradients.context("a batch without pictures")?, LONGEST)?;
        }
    }
    progress("classifier", steps, steps)?;

    let file = config.out.join("model.safetensors");
    let trained = entries(&tensors(&params, &running)?)?;
    write_whole(&file, &write::to_bytes(&[("format", "pt".into())], trained))?;
    let names = serde_json::json!({ "architecture": config.arch, "label_names": dataset.classes });
    let names = serde_json::to_string_pretty(&names)? + "\n";
    write_whole(&config.out.join("config.json"), names.as_bytes())?;
    let measured = measure(&file, config, &tests, progress)?;
    write_whole(&config.out.join("README.md"), card(config, &file, &measured)?.as_bytes())?;
    Ok(file)
}

/// The label of each picture; errs where one has none.
fn labels(dataset: &Dataset) -> anyhow::Result<Vec<u32>> {
    let label = |it: &data::Picture| {
        it.label.map(|it| it as u32).ok_or_else(|| {
            usage!("{} of {} has no label, and there is nothing to learn", it.file, dataset.source)
        })
    };
    let labels = dataset.pictures.iter().map(label).collect::<anyhow::Result<Vec<u32>>>()?;
    if dataset.classes.is_empty() {
        return Err(usage!(
            "{} has numbers for labels; a classifier needs the names of its classes: class folders, or names in metadata.csv",
            dataset.source
        ));
    }
    if labels.len() < BATCH {
        return Err(usage!(
            "{} has {} pictures; {BATCH} are wanted at least",
            dataset.source,
            labels.len()
        ));
    }
    Ok(labels)
}

/// What the last layer reads of a picture.
fn n_features(graph: &Graph) -> anyhow::Result<usize> {
    let last = graph.node(graph.output());
    Ok(graph.node(*last.inputs.first().context("a network of one layer")?).channels)
}

/// Some pictures as [`Learner::run`] wants them, `(3, n, side, side)`.
fn pixels(crops: &[RgbImage], ids: &[usize], preprocess: &Preprocess) -> anyhow::Result<Tensor> {
    let each = preprocess.n_values();
    let mut values = vec![0f32; ids.len() * each];
    for (id, values) in ids.iter().zip(values.chunks_exact_mut(each)) {
        preprocess.normalise(&crops[*id], values);
    }
    let side = preprocess.crop as usize;
    let xs = Tensor::from_vec(values, (ids.len(), 3, side, side), &Device::Cpu)?;
    Ok(xs.transpose(0, 1)?.contiguous()?)
}

/// Dropout: 0 for what is left out, and what stays is made larger for it.
fn kept(n: usize, n_features: usize, rng: &mut ChaCha8Rng) -> anyhow::Result<Tensor> {
    let one = |_| if rng.random_bool(DROPPED) { 0. } else { (1. / (1. - DROPPED)) as f32 };
    let values: Vec<f32> = (0..n * n_features).map(one).collect();
    Ok(Tensor::from_vec(values, (n, n_features), &Device::Cpu)?)
}

/// A network that has learnt nothing, as the bytes of a checkpoint.
pub fn untrained(arch: &str, n_classes: usize, seed: u64) -> anyhow::Result<Vec<u8>> {
    let graph = zoo::by_name(arch)?.build(n_classes);
    let (params, running) = (Params::new(seed, &Device::Cpu), moments(&graph, &Device::Cpu)?);
    Learner::new(graph, &params)?;
    Ok(write::to_bytes(&[], entries(&tensors(&params, &running)?)?))
}

/// Those before the first picture: means of 0, variances of 1.
fn moments(graph: &Graph, device: &Device) -> anyhow::Result<Moments> {
    let norms = graph.nodes().iter().filter(|it| matches!(it.op, Op::BatchNorm { .. }));
    let own = norms.map(|node| {
        let zeros = Tensor::zeros((node.channels, 1), DType::F32, device)?;
        Ok((node.name.clone(), (zeros.clone(), zeros.ones_like()?)))
    });
    own.collect()
}

/// Running moments go some way to those of a part of a batch.
fn follow(running: &mut Moments, own: Moments) -> anyhow::Result<()> {
    let share = MOMENTUM * PART as f64 / BATCH as f64;
    for (name, (mean, var)) in own {
        let towards = |old: &Tensor, new: Tensor| (old * (1. - share))? + (new * share)?;
        if let Some(old) = running.get_mut(&name) {
            *old = (towards(&old.0, mean)?, towards(&old.1, var)?);
        }
    }
    Ok(())
}

/// All tensors of the trained network.
fn tensors(params: &Params, running: &Moments) -> candle_core::Result<Tensors> {
    let mut tensors: Tensors = params.values()?;
    for (node, (mean, var)) in running {
        tensors.insert(format!("{node}.running_mean"), mean.flatten_all()?);
        tensors.insert(format!("{node}.running_var"), var.flatten_all()?);
    }
    Ok(tensors)
}

/// Top-1 of the written model on each test, with the number of pictures.
fn measure(
    file: &Path,
    config: &Config,
    tests: &[(&String, Probe)],
    progress: Progress<'_>,
) -> anyhow::Result<Vec<(String, usize, f64)>> {
    let model = Model::load(&Weights::open(file)?, Some(&config.arch), &Device::Cpu)?;
    let settings = Settings {
        batch_size: BATCH,
        threads: rayon::current_num_threads(),
        max_unreadable: 0.01,
        exemplars: exemplars::Config::default(),
    };
    let measured = tests.iter().map(|(name, probe)| {
        let untouched = Ablate::default();
        let answers = pass::predict(&model.network, probe, &untouched, &settings, name, progress)?;
        let found = evaluate::accuracy(&answers, &[])
            .with_context(|| format!("the test pictures `{name}` have no labels"))?;
        Ok(((*name).clone(), found.n, found.top1))
    });
    measured.collect()
}

/// What the model is, in words.
fn card(config: &Config, file: &Path, measured: &[(String, usize, f64)]) -> anyhow::Result<String> {
    let Config { data, arch, epochs, seed, .. } = config;
    let mut command =
        format!("milan-train classifier --data {data} --arch {arch} --epochs {epochs}");
    for (name, source) in &config.tests {
        write!(command, " --test {name}={source}")?;
    }
    write!(command, " --seed {seed}")?;
    if !config.device.is_cpu() {
        command += " --device cuda";
    }
    let mut card = format!(
        "# A classifier\n\n`{arch}`, trained on `{data}`, {epochs} times over, with seed {seed}: AdamW, batches of {BATCH}.\n\n```sh\n{command}\n```\n\n`model.safetensors` has sha256 `{}`.\n",
        digest(file)?.1
    );
    if !measured.is_empty() {
        card += "\n| test | pictures | top-1 |\n| --- | --- | --- |\n";
        for (name, n, top1) in measured {
            writeln!(card, "| {name} | {n} | {:.1} % |", 100. * top1)?;
        }
    }
    Ok(card)
}
