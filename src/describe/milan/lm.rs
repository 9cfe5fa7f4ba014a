//! The language model `p(d)`: how probable a sentence is whatever it describes.
//!
//! Two layers of LSTM over words. Names of weights are those of the reference (`milan/lms.py`).

use candle_core::{D, Device, Result, Tensor};
use candle_nn::ops::log_softmax;
use candle_nn::{Embedding, Linear, Module, VarBuilder, embedding, linear};

use super::lstm::{Lstm, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sizes {
    pub hidden: usize,
    pub embedding: usize,
    pub layers: usize,
    /// Words and special tokens.
    pub tokens: usize,
}

pub struct LanguageModel {
    sizes: Sizes,
    embedding: Embedding,
    layers: Vec<Lstm>,
    output: Linear,
}

impl LanguageModel {
    pub fn new(sizes: Sizes, vb: &VarBuilder<'_>) -> Result<LanguageModel> {
        let layer = |i: usize| {
            let inputs = if i == 0 { sizes.embedding } else { sizes.hidden };
            Lstm::new(inputs, sizes.hidden, &format!("_l{i}"), &vb.pp("lstm"))
        };
        Ok(LanguageModel {
            sizes,
            embedding: embedding(sizes.tokens, sizes.embedding, vb.pp("embedding"))?,
            layers: (0..sizes.layers).map(layer).collect::<Result<_>>()?,
            output: linear(sizes.hidden, sizes.tokens, vb.pp("output.0"))?,
        })
    }

    /// The state before the first word, of each layer.
    pub fn start(&self, rows: usize, device: &Device) -> Result<Vec<State>> {
        let zeros = Tensor::zeros((rows, self.sizes.hidden), candle_core::DType::F32, device)?;
        Ok(vec![State { h: zeros.clone(), c: zeros }; self.sizes.layers])
    }

    /// Log-probabilities of the next token, `(rows, tokens)`, after reading one token a row.
    pub fn step(&self, tokens: &Tensor, states: &[State]) -> Result<(Tensor, Vec<State>)> {
        let mut xs = self.embedding.forward(tokens)?;
        let mut after = Vec::with_capacity(states.len());
        for (layer, state) in self.layers.iter().zip(states) {
            let state = layer.step(&xs, state)?;
            xs = state.h.clone();
            after.push(state);
        }
        Ok((log_softmax(&self.output.forward(&xs)?, D::Minus1)?, after))
    }
}
