//! The captioner `p(d|E)`: words, one after the other, from the regions that a unit fires on.
//!
//! Hernandez et al. 2022, section 4, a variant of Show, Attend and Tell (Xu et al. 2015): at each step
//! attention chooses among the regions, a gate among their features, and an LSTM writes the next word.
//! Names of weights are those of the reference (`milan/decoders.py`, class `Decoder`).

use candle_core::{D, Result, Tensor};
use candle_nn::ops::{log_softmax, sigmoid, softmax};
use candle_nn::{Embedding, Linear, Module, VarBuilder, embedding, linear};

use super::lstm::{Lstm, State};

/// Sizes of the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sizes {
    /// Features of a region.
    pub features: usize,
    pub hidden: usize,
    pub attention: usize,
    pub embedding: usize,
    /// Words and special tokens.
    pub tokens: usize,
}

pub struct Captioner {
    init_h: Linear,
    init_c: Linear,
    embedding: Embedding,
    query: Linear,
    key: Linear,
    energy: Linear,
    gate: Linear,
    lstm: Lstm,
    output: Linear,
}

/// The regions of some units, and what attention compares with, computed once.
pub struct Regions {
    /// `(units, k, features)`.
    features: Tensor,
    /// `(units, 1, k, attention)`.
    keys: Tensor,
}

impl Captioner {
    pub fn new(sizes: Sizes, vb: &VarBuilder<'_>) -> Result<Captioner> {
        let Sizes { features, hidden, attention, embedding: width, tokens } = sizes;
        Ok(Captioner {
            init_h: linear(features, hidden, vb.pp("init_h.0"))?,
            init_c: linear(features, hidden, vb.pp("init_c.0"))?,
            embedding: embedding(tokens, width, vb.pp("embedding"))?,
            query: linear(hidden, attention, vb.pp("attend.query_to_hidden"))?,
            key: linear(features, attention, vb.pp("attend.key_to_hidden"))?,
            energy: linear(attention, 1, vb.pp("attend.output.0"))?,
            gate: linear(hidden, features, vb.pp("feature_gate.0"))?,
            lstm: Lstm::new(width + features, hidden, "", &vb.pp("lstm"))?,
            output: linear(hidden, tokens, vb.pp("output.1"))?,
        })
    }

    /// Prepares the features of some units' regions, `(units, k, features)`.
    pub fn regions(&self, features: &Tensor) -> Result<Regions> {
        let keys = self.key.forward(features)?.unsqueeze(1)?;
        Ok(Regions { features: features.clone(), keys })
    }

    /// The state before the first word: one row a unit.
    pub fn start(&self, regions: &Regions) -> Result<State> {
        let pooled = regions.features.mean(1)?;
        let init = |layer: &Linear| layer.forward(&pooled)?.tanh();
        Ok(State { h: init(&self.init_h)?, c: init(&self.init_c)? })
    }

    /// Log-probabilities of the next token, `(rows, tokens)`, after reading one token a row.
    ///
    /// Rows belong to the units in turn, as many to each.
    pub fn step(
        &self,
        regions: &Regions,
        tokens: &Tensor,
        state: &State,
    ) -> Result<(Tensor, State)> {
        let (units, _, features) = regions.features.dims3()?;
        let rows = state.h.dim(0)?;
        let query = self.query.forward(&state.h)?.reshape((units, rows / units, 1, ()))?;
        let hidden = regions.keys.broadcast_add(&query)?.tanh()?; // (units, rows of each, k, attention)
        let energy = self.energy.forward(&hidden)?.squeeze(D::Minus1)?;
        let attention = softmax(&energy, D::Minus1)?; // (units, rows of each, k)
        let context = attention.matmul(&regions.features)?.reshape((rows, features))?;
        let gated = (context * sigmoid(&self.gate.forward(&state.h)?)?)?;
        let xs = Tensor::cat(&[&self.embedding.forward(tokens)?, &gated], 1)?;
        let state = self.lstm.step(&xs, state)?;
        Ok((log_softmax(&self.output.forward(&state.h)?, D::Minus1)?, state))
    }
}

impl Regions {
    pub fn n_units(&self) -> Result<usize> {
        self.features.dim(0)
    }

    /// The regions of some units.
    pub fn of(&self, units: &[usize]) -> Result<Regions> {
        let units: Vec<u32> = units.iter().map(|&it| it as u32).collect();
        let units = Tensor::new(units, self.features.device())?;
        Ok(Regions {
            features: self.features.index_select(&units, 0)?,
            keys: self.keys.index_select(&units, 0)?,
        })
    }
}
