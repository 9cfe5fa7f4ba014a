//! The critic: how much more probable a sentence is with these regions than without, learnt by contrast.
//!
//! Two towers, one from a unit's regions and one from a sentence, give vectors of length 1; their scaled
//! product estimates `log p(d|E) / p(d)` up to a constant when the pair is trained to know its partner
//! among many (InfoNCE: van den Oord et al. 2018, eq. 4; Poole et al. 2019, section 2.3). That is the very
//! quantity that MILAN's description maximises.

use candle_core::{Result, Tensor};
use candle_nn::ops::softmax;
use candle_nn::{Init, Linear, Module, VarBuilder, linear};

use super::noise::Noise;
use super::sentence::{Norm, unit_length};

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sizes {
    /// Of a region.
    pub features: usize,
    pub hidden: usize,
    /// Of a sentence's vector.
    pub sentence: usize,
    /// Where both towers meet.
    pub common: usize,
}

pub struct Critic {
    region: Linear,
    attend: Linear,
    norm: Norm,
    unit: Linear,
    text: Linear,
    /// The logarithm of what the product is multiplied with.
    scale: Tensor,
}

impl Critic {
    pub fn new(sizes: Sizes, vb: &VarBuilder<'_>) -> Result<Critic> {
        Ok(Critic {
            region: linear(sizes.features, sizes.hidden, vb.pp("region"))?,
            attend: linear(sizes.hidden, 1, vb.pp("attend"))?,
            norm: Norm::new(sizes.hidden, &vb.pp("norm"))?,
            unit: linear(sizes.hidden, sizes.common, vb.pp("unit"))?,
            text: linear(sizes.sentence, sizes.common, vb.pp("text"))?,
            scale: vb.get_with_hints(1, "scale", Init::Const(2.5))?,
        })
    }

    /// Features of regions `(units, k, features)` to vectors of length 1 `(units, common)`.
    pub fn units(&self, features: &Tensor, noise: &mut Noise) -> Result<Tensor> {
        let hidden = self.region.forward(&noise.drop(features, 0.4)?)?.gelu_erf()?;
        let hidden = noise.drop(&hidden, 0.4)?;
        let shares = softmax(&self.attend.forward(&hidden)?, 1)?; // (units, k, 1)
        let pooled = shares.transpose(1, 2)?.contiguous()?.matmul(&hidden)?.squeeze(1)?;
        unit_length(&self.unit.forward(&self.norm.forward(&pooled)?)?)
    }

    /// Sentences' vectors `(n, sentence)` to vectors of length 1 `(n, common)`.
    pub fn texts(&self, vectors: &Tensor, noise: &mut Noise) -> Result<Tensor> {
        unit_length(&self.text.forward(&noise.drop(vectors, 0.1)?)?)
    }

    /// What each unit's vector with each text's is worth, `(units, texts)`.
    pub fn score(&self, units: &Tensor, texts: &Tensor) -> Result<Tensor> {
        units.matmul(&texts.t()?)?.broadcast_mul(&self.scale.exp()?)
    }
}

/// Each critic's vectors of units, from their regions' features.
pub fn units_of(critics: &[Critic], features: &Tensor) -> Result<Vec<Tensor>> {
    critics.iter().map(|it| it.units(features, &mut Noise::none())).collect()
}

/// Each critic's vectors of texts, from their sentences' vectors.
pub fn texts_of(critics: &[Critic], vectors: &Tensor) -> Result<Vec<Tensor>> {
    critics.iter().map(|it| it.texts(vectors, &mut Noise::none())).collect()
}

/// The mean over the critics of each unit's score with each text, `(units, texts)`.
pub fn mean_score(critics: &[Critic], units: &[Tensor], texts: &[Tensor]) -> Result<Tensor> {
    let scores = critics.iter().zip(units.iter().zip(texts));
    let scores =
        scores.map(|(it, (units, texts))| it.score(units, texts)).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&scores, 0)?.mean(0)
}
