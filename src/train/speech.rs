//! Trains the captioner `p(d|E)` and the language model `p(d)`, word by word on what people wrote.

use candle_core::{Device, Tensor};
use rand::seq::{SliceRandom, index};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::params::Params;
use super::stage::Tensors;
use crate::Progress;
use crate::describe::milan::captioner::{self, Regions};
use crate::describe::milan::checkpoint::rounded;
use crate::describe::milan::noise::Noise;
use crate::describe::milan::vocab::Vocabulary;
use crate::describe::milan::{Speech, lm};

const EPOCHS: usize = 16;
/// Epochs without a better one after which training ends.
const PATIENCE: usize = 3;
const BATCH: usize = 128;
/// The share of words that are read as unknown, so that the regions count for more.
const WORDS_DROPPED: f64 = 0.15;

/// Sentences, each with the place of its unit.
pub struct Said {
    /// Standardised, `(units, k, features)`.
    pub features: Tensor,
    /// Unit and tokens with their stop.
    pub sentences: Vec<(usize, Vec<u32>)>,
}

#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub captioner: captioner::Sizes,
    pub lm: lm::Sizes,
}

/// The captioner's and the language model's weights that predict the sentences of `judge` best, as they
/// will be read from a file, trained on `device`. What is learnt from stays on the CPU, where batches are drawn.
pub fn train(
    learn: &Said,
    judge: &Said,
    sizes: Sizes,
    vocabulary: &Vocabulary,
    seed: u64,
    device: &Device,
    progress: Progress<'_>,
) -> anyhow::Result<Tensors> {
    let params = Params::new(seed, device);
    let n_features = learn.features.dim(2)?;
    let vocabulary = vocabulary.clone();
    let speech = Speech::new(n_features, sizes.captioner, sizes.lm, vocabulary, &params.builder())?;
    let mut training =
        params.training(2e-3, 0.05, 50, EPOCHS * learn.sentences.len().div_ceil(BATCH))?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut noise = Noise::seeded(seed);
    let mut order: Vec<usize> = (0..learn.sentences.len()).collect();
    let mut best: Option<(f32, Tensors)> = None;
    let mut worse = 0;
    for epoch in 0..EPOCHS {
        order.shuffle(&mut rng);
        // Sentences of like length go together, in random order.
        order.sort_by_key(|&it| learn.sentences[it].1.len());
        let mut batches: Vec<&[usize]> = order.chunks(BATCH).collect();
        batches.shuffle(&mut rng);
        for (at, batch) in batches.iter().enumerate() {
            progress("captioner", epoch * batches.len() + at, EPOCHS * batches.len())?;
            let (captioned, modelled) =
                losses(&speech, learn, batch, device, &mut noise, Some(&mut rng))?;
            training.step(&(captioned + modelled)?, 5.)?;
        }
        let all: Vec<usize> = (0..judge.sentences.len()).collect();
        let mut sum = 0.;
        for batch in all.chunks(BATCH) {
            let (captioned, modelled) =
                losses(&speech, judge, batch, device, &mut Noise::none(), None)?;
            sum += (captioned + modelled)?.to_scalar::<f32>()? * batch.len() as f32;
        }
        if best.as_ref().is_none_or(|(least, _)| sum < *least) {
            best = Some((sum, params.values()?));
            worse = 0;
        } else {
            worse += 1;
        }
        if worse == PATIENCE {
            break;
        }
    }
    progress("captioner", 1, 1)?;
    let tensors = best.map_or_else(|| params.values(), |(_, values)| Ok(values))?;
    tensors.into_iter().map(|(name, it)| Ok((name, rounded(&it)?))).collect()
}

/// The mean of `−log p` of a word by the captioner and by the language model.
fn losses(
    speech: &Speech,
    said: &Said,
    batch: &[usize],
    device: &Device,
    noise: &mut Noise,
    rng: Option<&mut ChaCha8Rng>,
) -> candle_core::Result<(Tensor, Tensor)> {
    let units: Vec<u32> = batch.iter().map(|&it| said.sentences[it].0 as u32).collect();
    let mut features = said.features.index_select(&Tensor::new(units, &Device::Cpu)?, 0)?;
    let longest = batch.iter().map(|&it| said.sentences[it].1.len()).max().unwrap_or(1);
    let vocabulary = &speech.vocabulary;
    let token = |row: usize, at: usize| said.sentences[row].1.get(at).copied();
    let mut read: Vec<Vec<u32>> = vec![vec![vocabulary.start(); batch.len()]];
    for at in 0..longest {
        read.push(batch.iter().map(|&row| token(row, at).unwrap_or(vocabulary.pad())).collect());
    }
    let wanted: Vec<Vec<u32>> = read[1..].to_vec();
    if let Some(rng) = rng {
        let k = features.dim(1)?;
        let some = index::sample(rng, k, k.div_ceil(2));
        let some: Vec<u32> = some.into_iter().map(|it| it as u32).collect();
        features = features.index_select(&Tensor::new(some, &Device::Cpu)?, 1)?;
        for token in read[1..].iter_mut().flatten() {
            if rng.random_bool(WORDS_DROPPED) {
                *token = vocabulary.unknown();
            }
        }
    }
    let regions: Regions = speech.regions(&features.to_device(device)?, noise)?;
    let mut state = speech.captioner.start(&regions)?;
    let mut states = speech.lm.start(batch.len(), device)?;
    let (mut captioned, mut modelled, mut n_words) = (vec![], vec![], 0.);
    for (read, wanted) in read.iter().zip(&wanted) {
        let there: Vec<f32> =
            wanted.iter().map(|&it| if it == vocabulary.pad() { 0. } else { 1. }).collect();
        n_words += there.iter().sum::<f32>();
        let there = Tensor::new(there, device)?;
        let read = Tensor::new(read.as_slice(), device)?;
        let wanted = Tensor::new(wanted.as_slice(), device)?.unsqueeze(1)?;
        let (scores, after) = speech.captioner.step(&regions, &read, &state)?;
        state = after;
        captioned.push((scores.gather(&wanted, 1)?.squeeze(1)? * &there)?.sum_all()?);
        let (scores, after) = speech.lm.step(&read, &states)?;
        states = after;
        modelled.push((scores.gather(&wanted, 1)?.squeeze(1)? * &there)?.sum_all()?);
    }
    let mean = |sums: &[Tensor]| Tensor::stack(sums, 0)?.sum_all()? / f64::from(-n_words.max(1.));
    Ok((mean(&captioned)?, mean(&modelled)?))
}
