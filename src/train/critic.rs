//! Trains a critic by contrast: each unit's regions must know their own sentence among those of the batch,
//! and the sentence its unit (InfoNCE, van den Oord et al. 2018, eq. 4, both ways).

use candle_core::{D, Device, Tensor};
use candle_nn::ops::log_softmax;
use rand::seq::{IndexedRandom, SliceRandom, index};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::measures::specificity;
use super::params::Params;
use super::stage::Tensors;
use crate::Progress;
use crate::describe::milan::checkpoint::rounded;
use crate::describe::milan::critic::{Critic, Sizes};
use crate::describe::milan::noise::Noise;

const EPOCHS: usize = 25;
const BATCH: usize = 256;
/// Names of each source that go with each batch.
const NAMES: usize = 32;
/// The share of the regions of a name, and of those beside it, that are drawn from any unit instead, since no unit's exemplars
/// are pure.
const STRANGE: f64 = 0.35;
/// How much of the probability is spread over the whole batch.
const SMOOTHING: f64 = 0.1;

/// Units with what was said of them.
pub struct Pairs {
    /// Standardised, `(units, k, features)`.
    pub features: Tensor,
    /// For each unit the vectors of its sentences, `(sentences, sentence)`.
    pub sentences: Vec<Tensor>,
    /// The layer of each unit.
    pub layers: Vec<usize>,
}

/// Regions of which only the name is known.
pub struct Named {
    /// Of each name, standardised, `(regions, features)`.
    pub features: Vec<Tensor>,
    /// Of each name, what does not have it in the pictures of its regions, where there is anything: as `features`.
    pub beside: Vec<Option<Tensor>>,
    /// The names' vectors, `(names, sentence)`.
    pub sentences: Tensor,
}

impl Named {
    pub fn n_regions(&self) -> usize {
        self.features.iter().filter_map(|it| it.dim(0).ok()).sum()
    }
}

/// The weights that know the units of `judge` best, as they will be read from a file, trained on `device`. With
/// each batch of units go some names, each a unit of which a few regions were picked. Beside each goes a unit of
/// places of the same pictures that do not have the name, which the name must tell from its own: other pictures differ
/// from these in too much, and a street scene would do for the letters in it. Of both a share is of any unit.
///
/// What is learnt from stays on the CPU, where batches are drawn and put together, the same for every device.
pub fn train(
    learn: &Pairs,
    named: &[Named],
    judge: &Pairs,
    sizes: Sizes,
    seed: u64,
    device: &Device,
    progress: Progress<'_>,
) -> anyhow::Result<Tensors> {
    let params = Params::new(seed, device);
    let critic = Critic::new(sizes, &params.builder())?;
    let (n, k, _) = learn.features.dims3()?;
    let mut training = params.training(7e-4, 0.1, 20, EPOCHS * n.div_ceil(BATCH))?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut noise = Noise::seeded(seed);
    let mut order: Vec<usize> = (0..n).collect();
    let mut best: Option<(f64, Tensors)> = None;
    for epoch in 0..EPOCHS {
        progress("critic", epoch, EPOCHS)?;
        order.shuffle(&mut rng);
        // Half of the time within a layer, where the differences are finer.
        if rng.random() {
            order.sort_by_key(|&it| learn.layers[it]);
        }
        let mut batches: Vec<&[usize]> = order.chunks(BATCH).collect();
        batches.shuffle(&mut rng);
        for batch in batches.into_iter().filter(|it| 2 <= it.len()) {
            let n_some = rng.random_range(k.div_ceil(3)..=(k * 11).div_ceil(15));
            let some = index::sample(&mut rng, k, n_some);
            let some: Vec<u32> = some.into_iter().map(|it| it as u32).collect();
            let units: Vec<u32> = batch.iter().map(|&it| it as u32).collect();
            let mut features = vec![
                learn
                    .features
                    .index_select(&Tensor::new(units, &Device::Cpu)?, 0)?
                    .index_select(&Tensor::new(some, &Device::Cpu)?, 1)?,
            ];
            let sentence = |&at: &usize| {
                let rows: Vec<usize> = (0..learn.sentences[at].dim(0)?).collect();
                learn.sentences[at].get(rows.choose(&mut rng).copied().unwrap_or_default())
            };
            let mut sentences =
                batch.iter().map(sentence).collect::<candle_core::Result<Vec<_>>>()?;
            let mut beside = vec![];
            for source in named {
                for it in source.picked(NAMES, n_some, &learn.features, &mut rng)? {
                    features.push(it.regions);
                    sentences.push(it.sentence);
                    beside.extend(it.beside);
                }
            }
            let n_pairs = sentences.len();
            features.extend(beside);
            let units = critic.units(&Tensor::cat(&features, 0)?.to_device(device)?, &mut noise)?;
            let texts =
                critic.texts(&Tensor::stack(&sentences, 0)?.to_device(device)?, &mut noise)?;
            let scores = critic.score(&units, &texts)?;
            let loss = (contrast(&scores.narrow(0, 0, n_pairs)?)? + contrast(&scores.t()?)?)?;
            training.step(&(loss * 0.5)?, f64::INFINITY)?;
        }
        if EPOCHS / 2 <= epoch {
            let know = knows(&critic, judge, device)?;
            if best.as_ref().is_none_or(|(most, _)| *most < know) {
                best = Some((know, params.values()?));
            }
        }
    }
    progress("critic", EPOCHS, EPOCHS)?;
    let tensors = best.map_or_else(|| params.values(), |(_, values)| Ok(values))?;
    tensors.into_iter().map(|(name, it)| Ok((name, rounded(&it)?))).collect()
}

/// A name as if it were a unit of which that was said.
struct Picked {
    /// `(sentence)`
    sentence: Tensor,
    /// `(1, regions, features)`
    regions: Tensor,
    beside: Option<Tensor>,
}

impl Named {
    /// Some names, no two the same, each with the features of so many of its regions, some of them twice and some
    /// strange: of `units` `(units, k, features)`.
    fn picked(
        &self,
        n_names: usize,
        n_regions: usize,
        units: &Tensor,
        rng: &mut ChaCha8Rng,
    ) -> candle_core::Result<Vec<Picked>> {
        let (n_units, k, _) = units.dims3()?;
        let n_names = n_names.min(self.features.len());
        let names = index::sample(rng, self.features.len(), n_names);
        let mut some = |of: &Tensor| {
            let n = of.dim(0)?;
            let region = |_| match rng.random_bool(STRANGE) {
                true => units.get(rng.random_range(0..n_units))?.get(rng.random_range(0..k)),
                false => of.get(rng.random_range(0..n)),
            };
            let regions = (0..n_regions).map(region).collect::<candle_core::Result<Vec<_>>>()?;
            Tensor::stack(&regions, 0)?.unsqueeze(0)
        };
        let one = |name: usize| {
            Ok(Picked {
                sentence: self.sentences.get(name)?,
                regions: some(&self.features[name])?,
                beside: self.beside[name].as_ref().map(&mut some).transpose()?,
            })
        };
        names.into_iter().map(one).collect()
    }
}

/// Cross entropy of `(n, m)` with the first `n` columns, each row's own the one of its number, smoothed.
fn contrast(scores: &Tensor) -> candle_core::Result<Tensor> {
    let (n, m) = scores.dims2()?;
    let log_p = log_softmax(scores, D::Minus1)?;
    let own = Tensor::eye(n, scores.dtype(), scores.device())?.pad_with_zeros(1, 0, m - n)?;
    let wanted = ((own * (1. - SMOOTHING))? + SMOOTHING / m as f64)?;
    (log_p * wanted)?.sum(1)?.mean_all()?.neg()
}

/// How well units are told apart by their sentences: specificity, the mean of within layers and over all.
fn knows(critic: &Critic, judge: &Pairs, device: &Device) -> anyhow::Result<f64> {
    let units = critic.units(&judge.features.to_device(device)?, &mut Noise::none())?;
    let mean = |it: &Tensor| critic.texts(&it.to_device(device)?, &mut Noise::none())?.mean(0);
    let texts = judge.sentences.iter().map(mean);
    let texts = Tensor::stack(&texts.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
    let scores = critic.score(&units, &texts)?.to_vec2::<f32>()?;
    let found = specificity(|i, j| scores[i][j], &judge.layers);
    Ok((found.same_layer + found.all) / 2.)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units whose features are a noisy picture of their sentence's vector.
    fn pairs(n: usize, seed: u64) -> Pairs {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut features, mut sentences) = (vec![], vec![]);
        for _ in 0..n {
            let vector: Vec<f32> = (0..8).map(|_| rng.random_range(-1f32..1.)).collect();
            for _ in 0..3 {
                features.extend(vector.iter().map(|it| it + rng.random_range(-0.3f32..0.3)));
            }
            sentences.push(Tensor::from_vec(vector, (1, 8), &Device::Cpu).unwrap());
        }
        let features = Tensor::from_vec(features, (n, 3, 8), &Device::Cpu).unwrap();
        Pairs { features, sentences, layers: vec![0; n] }
    }

    #[test]
    fn a_critic_learns_which_sentence_belongs_to_a_unit_and_is_the_same_again() {
        let sizes = Sizes { features: 8, hidden: 32, sentence: 8, common: 16 };
        let (learn, judge) = (pairs(400, 1), pairs(60, 2));
        let train =
            || train(&learn, &[], &judge, sizes, 3, &Device::Cpu, &|_, _, _| Ok(())).unwrap();
        let tensors = train();
        let vb = candle_nn::VarBuilder::from_tensors(
            tensors.clone().into_iter().collect(),
            candle_core::DType::F32,
            &Device::Cpu,
        );
        let critic = Critic::new(sizes, &vb).unwrap();
        let know = knows(&critic, &judge, &Device::Cpu).unwrap();
        assert!(0.75 < know, "{know}");
        let values = |it: &Tensor| it.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let again = train();
        assert!(tensors.iter().all(|(name, it)| values(it) == values(&again[name])));
    }

    #[test]
    fn what_is_beside_a_name_has_as_many_strange_regions_as_what_has_it() {
        let full = |value: f32, n: usize| Tensor::full(value, (n, 2), &Device::Cpu).unwrap();
        let named = Named {
            features: vec![full(1., 5), full(2., 4)],
            beside: vec![Some(full(-1., 6)), None],
            sentences: full(0., 2),
        };
        let units = Tensor::full(9f32, (7, 3, 2), &Device::Cpu).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let n_regions = 2000;
        let picked = named.picked(5, n_regions, &units, &mut rng).unwrap();
        assert_eq!(picked.len(), 2, "no name is picked twice");
        // Of each region the value: its own, or that of a unit.
        let strange = |regions: &Tensor, own: f32| {
            assert_eq!(regions.dims(), [1, n_regions, 2]);
            let values = regions.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(values.iter().all(|it| *it == own || *it == 9.));
            values.iter().filter(|it| **it == 9.).count() as f64 / values.len() as f64
        };
        for it in &picked {
            let own = it.regions.min_all().unwrap().to_scalar::<f32>().unwrap();
            assert!((strange(&it.regions, own) - STRANGE).abs() < 0.05);
            assert_eq!(it.beside.is_some(), own == 1.);
            if let Some(beside) = &it.beside {
                assert!((strange(beside, -1.) - STRANGE).abs() < 0.05);
            }
        }
    }
}
