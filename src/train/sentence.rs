//! Teaches the sentence tower what a sentence encoder gives, by distillation (Hinton et al. 2015): one less
//! the cosine, and a tenth of the contrastive loss over the batch.

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::describer::refs;
use super::params::Params;
use super::stage::Tensors;
use crate::Progress;
use crate::describe::milan::checkpoint::rounded;
use crate::describe::milan::minilm::MiniLm;
use crate::describe::milan::noise::Noise;
use crate::describe::milan::phrases::{CONNECTIVES, Phrases};
use crate::describe::milan::pieces::Pieces;
use crate::describe::milan::sentence::{Head, Sentences, Sizes};

/// Sentences of two phrases that are learnt beside what people said.
const COMPOSED: usize = 6000;
const EPOCHS: usize = 14;
const BATCH: usize = 256;

/// Teaches the tower what the teacher makes of all texts, all phrases, and sentences of two phrases. The teacher reads
/// on the CPU; the tower learns on `device`.
pub fn distil(
    teacher: &MiniLm,
    texts: &[Vec<String>],
    phrases: &Phrases,
    sizes: Sizes,
    seed: u64,
    device: &Device,
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
    let singles = teacher.single_pieces()?.to_device(device)?;
    let vectors = Tensor::cat(&vectors, 0)?.to_device(device)?;
    train(teacher.pieces(), &singles, &all, &vectors, sizes, seed, progress)
}

/// The tower with the weights that [`distil`] gives.
pub fn open(pieces: Vec<String>, sizes: Sizes, tensors: &Tensors) -> anyhow::Result<Sentences> {
    let tensors = tensors.iter().map(|(name, it)| (name.clone(), it.clone())).collect();
    let vb = candle_nn::VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    Ok(Sentences::new(Pieces::new(pieces)?, sizes, &vb)?)
}

/// Trains on `texts` with the teacher's vectors `(texts, sentence)`, where these are; `singles` `(pieces, teacher)` are
/// the teacher's vectors of single pieces. Gives the tensors of [`Sentences`] as they will be read from a file.
fn train(
    pieces: &Pieces,
    singles: &Tensor,
    texts: &[String],
    teacher: &Tensor,
    sizes: Sizes,
    seed: u64,
    progress: Progress<'_>,
) -> anyhow::Result<Tensors> {
    let tokens = texts.iter().map(|it| pieces.of(it)).collect::<anyhow::Result<Vec<_>>>()?;
    let n_pieces = pieces.list().len();
    let mut counts = vec![0f32; n_pieces];
    tokens.iter().flatten().for_each(|&piece| counts[piece as usize] += 1.);
    let n_seen: f32 = counts.iter().sum();
    // Arora et al. 2017: a / (a + p), with a floor.
    let start =
        counts.iter().map(|it| (1e-3 / (1e-3 + it / n_seen) + 1e-2f32).ln()).collect::<Vec<_>>();

    let device = teacher.device();
    let params = Params::new(seed, device);
    let vb = params.builder();
    let head = Head::new(sizes, &vb)?;
    let project = candle_nn::linear_no_bias(singles.dim(1)?, sizes.piece, vb.pp("project"))?;
    let log_weights = vb.get(n_pieces, "weight")?;
    let mut values = params.values()?;
    values.insert("weight".into(), Tensor::from_vec(start, n_pieces, &Device::Cpu)?);
    params.set(&values)?;
    // Pieces that never occur would only be in the way.
    let singles = singles.broadcast_sub(&singles.mean_keepdim(0)?)?;
    let singles = (singles.broadcast_div(&singles.sqr()?.mean_all()?.sqrt()?))?;

    let steps = EPOCHS * (texts.len() / BATCH).max(1);
    let mut training = params.training(2e-3, 0.01, 1, steps)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut noise = Noise::seeded(seed);
    let mut order: Vec<usize> = (0..texts.len()).collect();
    for epoch in 0..EPOCHS {
        progress("sentence tower", epoch, EPOCHS)?;
        order.shuffle(&mut rng);
        for batch in order.chunks(BATCH).filter(|it| it.len() == BATCH || texts.len() < BATCH) {
            let n = batch.len();
            let longest = batch.iter().map(|&it| tokens[it].len()).max().unwrap_or(1);
            let (mut ids, mut there) = (vec![0u32; n * longest], vec![0f32; n * longest]);
            for (row, &at) in batch.iter().enumerate() {
                for (place, &piece) in tokens[at].iter().enumerate() {
                    ids[row * longest + place] = piece;
                    there[row * longest + place] = 1.;
                }
            }
            let ids = Tensor::from_vec(ids, n * longest, device)?;
            let there = Tensor::from_vec(there, (n, longest, 1), device)?;
            let weights = log_weights.index_select(&ids, 0)?.exp()?.reshape((n, longest, 1))?;
            let weights = (weights * there)?;
            let vectors = singles.index_select(&ids, 0)?;
            let vectors = candle_nn::Module::forward(&project, &vectors)?;
            let vectors = vectors.reshape((n, longest, sizes.piece))?.broadcast_mul(&weights)?;
            let means = vectors.sum(1)?.broadcast_div(&weights.sum(1)?)?;
            let found = head.forward(&means, &mut noise)?;
            let wanted: Vec<u32> = batch.iter().map(|&it| it as u32).collect();
            let wanted = teacher.index_select(&Tensor::new(wanted, device)?, 0)?;
            let cosine = (&found * &wanted)?.sum(1)?.mean_all()?;
            let contrast = (found.matmul(&wanted.t()?)? * 20.)?;
            let own = Tensor::arange(0, n as u32, device)?;
            let loss = ((1. - cosine)? + (cross_entropy(&contrast, &own)? * 0.1)?)?;
            training.step(&loss, 5.)?;
        }
    }
    progress("sentence tower", EPOCHS, EPOCHS)?;
    let mut tensors = params.values()?;
    let table = singles.to_device(&Device::Cpu)?.matmul(&tensors["project.weight"].t()?)?;
    tensors.remove("project.weight");
    tensors.insert("table".into(), table);
    tensors.into_iter().map(|(name, it)| Ok((name, rounded(&it)?))).collect()
}
