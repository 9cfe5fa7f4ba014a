//! A sentence's meaning by all-MiniLM-L6-v2: BERT (Devlin et al. 2019), its last layer averaged over the
//! tokens and brought to length 1 (Reimers and Gurevych 2019).
//!
//! Names of weights are those of the checkpoint. Only the sizes of `config.json` are free.

use std::path::Path;

use anyhow::Context;
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::softmax;
use candle_nn::{Embedding, LayerNorm, Linear, Module, VarBuilder, embedding, layer_norm, linear};
use rayon::prelude::*;
use serde::Deserialize;

use super::pieces::Pieces;
use super::shelf::Shelf;
use crate::weights::Weights;
use crate::{files, usage};

const WEIGHTS: &str = "model.safetensors";

/// What tells the encoder in a folder from others: the sha256 of its weights.
pub fn digest(folder: &Path) -> anyhow::Result<String> {
    Ok(files::digest(&folder.join(WEIGHTS))?.1)
}

/// The sizes of `config.json`.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Sizes {
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    max_position_embeddings: usize,
    layer_norm_eps: f64,
}

pub struct MiniLm {
    pieces: Pieces,
    sizes: Sizes,
    words: Embedding,
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    /// The numbers of `[CLS]` and `[SEP]`.
    ends: (u32, u32),
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    attended_norm: LayerNorm,
    wide: Linear,
    narrow: Linear,
    norm: LayerNorm,
}

impl MiniLm {
    /// Opens a folder with model.safetensors, config.json and vocab.txt, as the model hub has it.
    pub fn open(folder: &Path) -> anyhow::Result<MiniLm> {
        let open = || {
            let text = |name: &str| {
                files::read_text(&folder.join(name)).with_context(|| format!("no {name}"))
            };
            let sizes: Sizes =
                serde_json::from_str(&text("config.json")?).context("config.json")?;
            let pieces = Pieces::new(text("vocab.txt")?.lines().map(str::to_owned).collect())?;
            let weights = Weights::open(&folder.join(WEIGHTS))?;
            // What was trained for other tasks, and a list of numbers, are no part of the sentence encoder.
            let used =
                |name: &&String| !name.starts_with("pooler.") && !name.ends_with("position_ids");
            let tensors = weights.tensors().keys().filter(used);
            let tensors = tensors.map(|name| Ok((name.clone(), weights.read(name)?)));
            let shelf = Shelf::new(tensors.collect::<anyhow::Result<_>>()?);
            let encoder = MiniLm::new(pieces, sizes, &shelf.builder())?;
            shelf.finish()?;
            anyhow::Ok(encoder)
        };
        open().map_err(|error| {
            usage!(
                "{} is no sentence encoder (model.safetensors, config.json and vocab.txt of \
                 all-MiniLM-L6-v2 are wanted): {error:#}",
                folder.display()
            )
        })
    }

    fn new(pieces: Pieces, sizes: Sizes, vb: &VarBuilder<'_>) -> anyhow::Result<MiniLm> {
        let end =
            |name: &str| pieces.number(name).with_context(|| format!("vocab.txt has no `{name}`"));
        let ends = (end("[CLS]")?, end("[SEP]")?);
        let (hidden, wide, eps) =
            (sizes.hidden_size, sizes.intermediate_size, sizes.layer_norm_eps);
        let embed = vb.pp("embeddings");
        let positions =
            embedding(sizes.max_position_embeddings, hidden, embed.pp("position_embeddings"))?;
        let kinds = embedding(2, hidden, embed.pp("token_type_embeddings"))?;
        let layer = |i: usize| {
            let vb = vb.pp("encoder.layer").pp(i);
            let (own, out) = (vb.pp("attention.self"), vb.pp("attention.output"));
            Ok(Layer {
                query: linear(hidden, hidden, own.pp("query"))?,
                key: linear(hidden, hidden, own.pp("key"))?,
                value: linear(hidden, hidden, own.pp("value"))?,
                attended: linear(hidden, hidden, out.pp("dense"))?,
                attended_norm: layer_norm(hidden, eps, out.pp("LayerNorm"))?,
                wide: linear(hidden, wide, vb.pp("intermediate.dense"))?,
                narrow: linear(wide, hidden, vb.pp("output.dense"))?,
                norm: layer_norm(hidden, eps, vb.pp("output.LayerNorm"))?,
            })
        };
        Ok(MiniLm {
            words: embedding(pieces.list().len(), hidden, embed.pp("word_embeddings"))?,
            // Every token is of the first kind.
            positions: positions.embeddings().broadcast_add(&kinds.embeddings().get(0)?)?,
            norm: layer_norm(hidden, eps, embed.pp("LayerNorm"))?,
            layers: (0..sizes.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            pieces,
            sizes,
            ends,
        })
    }

    /// Of its vectors.
    pub fn hidden_size(&self) -> usize {
        self.sizes.hidden_size
    }

    pub fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Vectors of length 1, `(texts, hidden)`. Texts beyond the longest position are cut.
    pub fn encode(&self, texts: &[&str]) -> anyhow::Result<Tensor> {
        let (start, end) = self.ends;
        let tokens = |text: &&str| {
            let mut tokens = vec![start];
            tokens.extend(self.pieces.of(text)?);
            tokens.truncate(self.sizes.max_position_embeddings - 1);
            tokens.push(end);
            anyhow::Ok(tokens)
        };
        let tokens = texts.iter().map(tokens).collect::<anyhow::Result<Vec<_>>>()?;
        let vectors = self.mean(&tokens)?;
        let lengths = vectors.sqr()?.sum_keepdim(1)?.sqrt()?;
        Ok(vectors.broadcast_div(&lengths.clamp(1e-12, f32::MAX)?)?)
    }

    /// The mean over the tokens of each single piece, `(pieces, hidden)`, as `[CLS] piece [SEP]`.
    pub fn single_pieces(&self) -> anyhow::Result<Tensor> {
        let (start, end) = self.ends;
        let n = self.pieces.list().len() as u32;
        self.mean(&(0..n).map(|piece| vec![start, piece, end]).collect::<Vec<_>>())
    }

    /// Those of one length go through together, so that no padding is needed.
    fn mean(&self, tokens: &[Vec<u32>]) -> anyhow::Result<Tensor> {
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&at| tokens[at].len());
        let groups = order.chunk_by(|&a, &b| tokens[a].len() == tokens[b].len());
        let batches: Vec<&[usize]> = groups.flat_map(|group| group.chunks(64)).collect();
        let means = batches
            .par_iter()
            .map(|batch| {
                let length = tokens[batch[0]].len();
                let ids: Vec<u32> = batch.iter().flat_map(|&at| tokens[at].clone()).collect();
                let ids = Tensor::from_vec(ids, (batch.len(), length), &Device::Cpu)?;
                Ok(self.forward(&ids)?.mean(1)?.to_vec2::<f32>()?)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let hidden = self.sizes.hidden_size;
        let mut values = vec![0f32; tokens.len() * hidden];
        for (&at, mean) in batches.iter().copied().flatten().zip(means.iter().flatten()) {
            values[at * hidden..][..hidden].copy_from_slice(mean);
        }
        Ok(Tensor::from_vec(values, (tokens.len(), hidden), &Device::Cpu)?)
    }

    /// The last layer `(n, length, hidden)` of tokens `(n, length)`, none of them padding.
    fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let (n, length) = tokens.dims2()?;
        let positions = self.positions.narrow(0, 0, length)?;
        let mut xs = self.norm.forward(&self.words.forward(tokens)?.broadcast_add(&positions)?)?;
        let heads = self.sizes.num_attention_heads;
        let width = self.sizes.hidden_size / heads;
        for layer in &self.layers {
            let part = |linear: &Linear| {
                let ys = linear.forward(&xs)?.reshape((n, length, heads, width))?;
                ys.transpose(1, 2)?.contiguous()
            };
            let (query, key, value) = (part(&layer.query)?, part(&layer.key)?, part(&layer.value)?);
            let scores = (query.matmul(&key.t()?)? * (width as f64).powf(-0.5))?;
            let attended = softmax(&scores, D::Minus1)?.matmul(&value)?;
            let attended = attended.transpose(1, 2)?.reshape((n, length, ()))?;
            let ys = (layer.attended.forward(&attended)? + &xs)?;
            xs = layer.attended_norm.forward(&ys)?;
            let ys = layer.narrow.forward(&layer.wide.forward(&xs)?.gelu_erf()?)?;
            xs = layer.norm.forward(&(ys + &xs)?)?;
        }
        xs.to_dtype(DType::F32)
    }
}
