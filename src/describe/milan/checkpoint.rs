//! Our own file: one safetensors with everything a describer needs, its settings and words in the metadata.
//!
//! The encoder's tensors are in half precision; other matrices in eight bits with a scale for each row,
//! `x ≈ x.i8 · x.row_scale`; the rest in single precision.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use candle_core::{Device, Tensor};
use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::logistic::Logistic;
use super::look::Input;
use super::{captioner, compose, critic, lm, sentence};
use crate::weights::words;
use crate::weights::write::{self, Entry};
use crate::{files, inconclusive, usage};

/// The version of the format that this program reads and writes.
pub const FORMAT: u32 = 6;
/// Matrices of fewer values are kept in single precision.
const SMALL: usize = 4096;
const SCALE: &str = ".row_scale";

/// Everything but tensors and words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub format: u32,
    pub encoder: EncoderSettings,
    pub captioner: captioner::Sizes,
    pub lm: lm::Sizes,
    pub critic: critic::Sizes,
    /// How many critics are asked.
    pub critics: usize,
    pub sentence: sentence::Sizes,
    /// sha256 of the weights of the sentence encoder that taught the sentence tower.
    pub sentence_encoder: String,
    /// The λ of the paper's method, and its beam.
    pub lambda: f64,
    pub beam_size: usize,
    /// The longest sentence, in tokens.
    pub length: usize,
    /// Where the sentence tower understands sentences, and where the encoder that taught it does.
    pub fitted: Fitted,
    pub fitted_full: Fitted,
}

/// What was fitted to units that nothing was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// How much each of [`compose::TERMS`] counts.
    #[serde(deserialize_with = "compose::read_weights")]
    pub terms: compose::TermWeights,
    /// That a person would agree, from [`super::confidence_terms`].
    pub confidence: Logistic,
    /// That a person would name a phrase, from [`super::evidence_terms`].
    pub evidence: Logistic,
    /// That somebody names a concept, from [`super::concepts`].
    pub concept: Logistic,
}

/// How pictures reach the encoder, and where its maps are taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderSettings {
    pub sites: Vec<String>,
    #[serde(flatten)]
    pub input: Input,
}

/// A file in memory.
#[derive(Clone)]
pub struct Contents {
    pub settings: Settings,
    /// The captioner's and the language model's.
    pub words: Vec<String>,
    pub pieces: Vec<String>,
    /// JSON of [`super::phrases::Phrases`].
    pub phrases: String,
    /// JSON of [`super::depths::Depths`].
    pub depths: String,
    /// Keys of the annotated units and named regions that training saw, sorted.
    pub seen: Vec<String>,
    /// All in single precision.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Reads a file. Errs where it is no describer, or of another version.
pub fn open(path: &Path) -> anyhow::Result<Contents> {
    let bytes = std::fs::read(path)
        .map_err(|error| usage!("cannot read the describer {}: {error}", path.display()))?;
    from_bytes(&bytes).with_context(|| format!("cannot use the describer {}", path.display()))
}

pub fn from_bytes(bytes: &[u8]) -> anyhow::Result<Contents> {
    let damaged = |error| inconclusive!("it is no safetensors file, or damaged: {error}");
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let text = |key: &str| {
        metadata.get(key).ok_or_else(|| {
            inconclusive!("its metadata has no `{key}`, so it is no describer of this program")
        })
    };
    let settings = text("settings")?;
    let version: serde_json::Value = serde_json::from_str(settings).unwrap_or_default();
    let version = version.get("format").and_then(serde_json::Value::as_u64);
    if version != Some(FORMAT.into()) {
        let found = version.map_or("none".to_owned(), |it| it.to_string());
        return Err(inconclusive!(
            "its format is {found}, and this program reads {FORMAT}; train it anew with milan-train"
        ));
    }
    let settings: Settings =
        serde_json::from_str(settings).map_err(|error| inconclusive!("its settings: {error}"))?;
    if settings.encoder.input.side == 0 {
        return Err(inconclusive!("its settings: the encoder's pictures have no pixels"));
    }
    let lines = |key: &str| anyhow::Ok(text(key)?.split('\n').map(str::to_owned).collect());
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        if name.ends_with(SCALE) {
            continue;
        }
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => words(view.data(), f32::from_le_bytes),
            Dtype::F16 => words(view.data(), |it| f16::from_le_bytes(it).to_f32()),
            Dtype::I8 => {
                let scale = file.tensor(&format!("{name}{SCALE}")).map_err(damaged)?;
                let scale = words(scale.data(), f32::from_le_bytes);
                if view.shape().first() != Some(&scale.len()) || scale.is_empty() {
                    return Err(inconclusive!("`{name}{SCALE}` has {} values", scale.len()));
                }
                let rows: Vec<i8> = view.data().iter().map(|&it| it as i8).collect();
                from_eight_bits(&rows, &scale)
            }
            other => return Err(inconclusive!("`{name}` is of type {other:?}")),
        };
        let tensor = Tensor::from_vec(values, view.shape(), &Device::Cpu)?;
        tensors.insert(name, tensor);
    }
    Ok(Contents {
        settings,
        words: lines("words")?,
        pieces: lines("pieces")?,
        phrases: text("phrases")?.clone(),
        depths: text("depths")?.clone(),
        seen: lines("seen")?,
        tensors,
    })
}

/// Writes a file, whole or not at all. The same contents give the same bytes.
pub fn write(path: &Path, contents: &Contents) -> anyhow::Result<()> {
    files::write_whole(path, &to_bytes(contents)?)
}

pub fn to_bytes(contents: &Contents) -> anyhow::Result<Vec<u8>> {
    let metadata = [
        ("settings", serde_json::to_string(&contents.settings)?),
        ("words", contents.words.join("\n")),
        ("pieces", contents.pieces.join("\n")),
        ("phrases", contents.phrases.clone()),
        ("depths", contents.depths.clone()),
        ("seen", contents.seen.join("\n")),
    ];
    let (mut wide, mut halves, mut bytes) = (vec![], vec![], vec![]);
    for (name, tensor) in &contents.tensors {
        let shape = tensor.dims();
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        if name.starts_with("encoder.") {
            halves.push(Entry::f16(name, shape, &values));
        } else if shape.len() == 2 && SMALL <= values.len() {
            let (rows, scales) = in_eight_bits(&values, shape[0]);
            bytes.push(Entry::new(name, "I8", shape, &rows, |it| it.to_le_bytes()));
            wide.push(Entry::f32(&format!("{name}{SCALE}"), &shape[..1], &scales));
        } else {
            wide.push(Entry::f32(name, shape, &values));
        }
    }
    wide.extend(halves);
    wide.extend(bytes);
    Ok(write::to_bytes(&metadata, wide))
}

/// A matrix as it will be read back from a file.
pub fn rounded(matrix: &Tensor) -> anyhow::Result<Tensor> {
    if matrix.rank() != 2 || matrix.elem_count() < SMALL {
        return Ok(matrix.clone());
    }
    let (values, scales) = in_eight_bits(&matrix.flatten_all()?.to_vec1::<f32>()?, matrix.dim(0)?);
    Ok(Tensor::from_vec(from_eight_bits(&values, &scales), matrix.shape(), &Device::Cpu)?)
}

/// Each row as whole numbers up to 127 and what to multiply them with.
fn in_eight_bits(values: &[f32], n_rows: usize) -> (Vec<i8>, Vec<f32>) {
    let rows = values.chunks(values.len() / n_rows);
    let scale = |row: &[f32]| row.iter().fold(1e-9f32, |most, it| most.max(it.abs())) / 127.;
    let scales: Vec<f32> = rows.clone().map(scale).collect();
    let bytes = rows.zip(&scales);
    let bytes = bytes.flat_map(|(row, scale)| row.iter().map(move |it| (it / scale).round() as i8));
    (bytes.collect(), scales)
}

fn from_eight_bits(values: &[i8], scales: &[f32]) -> Vec<f32> {
    let rows = values.chunks(values.len() / scales.len()).zip(scales);
    rows.flat_map(|(row, scale)| row.iter().map(move |&it| f32::from(it) * scale)).collect()
}
