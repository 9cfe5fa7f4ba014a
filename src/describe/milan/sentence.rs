//! A sentence's meaning without a transformer: the weighted mean of vectors of its word pieces, and a
//! small network behind it, taught to give what a [sentence encoder](super::minilm) gives.
//!
//! A piece's vector is the encoder's own for the piece alone, brought to fewer dimensions; its weight is
//! learnt, and begins as that of Arora et al. 2017 ("A simple but tough-to-beat baseline for sentence
//! embeddings"). Because the mean is a sum, a sentence of two phrases costs no more than adding them.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::ops::layer_norm_slow;
use candle_nn::{Init, Linear, Module, VarBuilder, linear};

use super::noise::Noise;
use super::pieces::Pieces;

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sizes {
    /// Of a word piece's vector.
    pub piece: usize,
    pub hidden: usize,
    /// Of a sentence's vector.
    pub sentence: usize,
}

/// From the mean of the pieces' vectors to the sentence's.
pub struct Head {
    norm: Norm,
    straight: Linear,
    wide: Linear,
    narrow: Linear,
}

impl Head {
    pub fn new(sizes: Sizes, vb: &VarBuilder<'_>) -> Result<Head> {
        Ok(Head {
            norm: Norm::new(sizes.piece, &vb.pp("norm"))?,
            straight: linear(sizes.piece, sizes.sentence, vb.pp("straight"))?,
            wide: linear(sizes.piece, sizes.hidden, vb.pp("wide"))?,
            narrow: linear(sizes.hidden, sizes.sentence, vb.pp("narrow"))?,
        })
    }

    /// Means `(n, piece)` to vectors of length 1 `(n, sentence)`.
    pub fn forward(&self, means: &Tensor, noise: &mut Noise) -> Result<Tensor> {
        let xs = self.norm.forward(means)?;
        let bent = self.wide.forward(&noise.drop(&xs, 0.1)?)?.gelu_erf()?;
        unit_length(&(self.straight.forward(&xs)? + self.narrow.forward(&bent)?)?)
    }
}

/// The sum of the weighted vectors of some text's pieces, and of the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Sum {
    pub vector: Vec<f32>,
    pub weight: f32,
}

impl Sum {
    pub fn add(&mut self, other: &Sum) {
        self.vector.iter_mut().zip(&other.vector).for_each(|(sum, it)| *sum += it);
        self.weight += other.weight;
    }
}

/// The built-in sentence encoder.
pub struct Sentences {
    pub pieces: Pieces,
    sizes: Sizes,
    /// `(pieces, piece)`, each row times its weight.
    table: Vec<f32>,
    weights: Vec<f32>,
    head: Head,
}

impl Sentences {
    /// Reads `table` `(pieces, piece)` and `weight` `(pieces,)`, logarithms, and the head.
    pub fn new(pieces: Pieces, sizes: Sizes, vb: &VarBuilder<'_>) -> Result<Sentences> {
        let n = pieces.list().len();
        let log_weights = vb.get(n, "weight")?.to_vec1::<f32>()?;
        let weights: Vec<f32> = log_weights.into_iter().map(f32::exp).collect();
        let mut table = vb.get((n, sizes.piece), "table")?.flatten_all()?.to_vec1::<f32>()?;
        for (row, weight) in table.chunks_mut(sizes.piece).zip(&weights) {
            row.iter_mut().for_each(|it| *it *= weight);
        }
        Ok(Sentences { pieces, sizes, table, weights, head: Head::new(sizes, vb)? })
    }

    pub fn sum(&self, text: &str) -> anyhow::Result<Sum> {
        let mut sum = Sum { vector: vec![0.; self.sizes.piece], weight: 0. };
        for piece in self.pieces.of(text)? {
            let row = &self.table[piece as usize * self.sizes.piece..][..self.sizes.piece];
            sum.vector.iter_mut().zip(row).for_each(|(sum, it)| *sum += it);
            sum.weight += self.weights[piece as usize];
        }
        Ok(sum)
    }

    /// Vectors of length 1, `(sums, sentence)`.
    pub fn encode_sums(&self, sums: &[Sum]) -> Result<Tensor> {
        let mean = |sum: &Sum| -> Vec<f32> {
            sum.vector.iter().map(|it| it / sum.weight.max(1e-6)).collect()
        };
        let means: Vec<f32> = sums.iter().flat_map(mean).collect();
        let means = Tensor::from_vec(means, (sums.len(), self.sizes.piece), &Device::Cpu)?;
        self.head.forward(&means, &mut Noise::none())
    }

    /// Vectors of length 1, `(texts, sentence)`.
    pub fn encode(&self, texts: &[&str]) -> anyhow::Result<Tensor> {
        let sums = texts.iter().map(|text| self.sum(text)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(self.encode_sums(&sums)?)
    }

    /// How alike two texts are: the cosine of their vectors, -1..=1.
    pub fn similarity(&self, a: &str, b: &str) -> anyhow::Result<f32> {
        let both = self.encode(&[a, b])?;
        Ok((both.get(0)? * both.get(1)?)?.sum_all()?.to_scalar()?)
    }
}

/// Rows brought to length 1.
pub fn unit_length(xs: &Tensor) -> Result<Tensor> {
    let length = (xs.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?;
    xs.broadcast_div(&length)
}

/// Layer normalisation (Ba et al. 2016) that can be trained: candle's fast one has no gradient.
pub struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    pub fn new(size: usize, vb: &VarBuilder<'_>) -> Result<Norm> {
        Ok(Norm {
            weight: vb.get_with_hints(size, "weight", Init::Const(1.))?,
            bias: vb.get_with_hints(size, "bias", Init::Const(0.))?,
        })
    }

    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        layer_norm_slow(xs, &self.weight, &self.bias, 1e-5)
    }
}
