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
/// The most that a describer of a stranger's may ask for: of a picture's pixels on a side, of a layer's width, of words,
/// of critics and layers, of sentences that are compared, and of tokens in one.
const MAX_SIDE: usize = 1024;
const MAX_WIDTH: usize = 1 << 15;
const MAX_TOKENS: usize = 1 << 20;
const MAX_PARTS: usize = 64;
const MAX_BEAM: usize = 1024;
const MAX_LENGTH: usize = 256;
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

impl Settings {
    /// Errs with what no describer has: sizes are checked before memory is taken for them, and what is no number would
    /// make findings that are none.
    fn check(&self) -> Result<(), String> {
        let Settings { encoder, captioner, lm, critic, sentence, .. } = self;
        let sizes = [
            ("encoder.side", encoder.input.side as usize, MAX_SIDE),
            ("captioner.features", captioner.features, MAX_WIDTH),
            ("captioner.hidden", captioner.hidden, MAX_WIDTH),
            ("captioner.attention", captioner.attention, MAX_WIDTH),
            ("captioner.embedding", captioner.embedding, MAX_WIDTH),
            ("captioner.tokens", captioner.tokens, MAX_TOKENS),
            ("lm.hidden", lm.hidden, MAX_WIDTH),
            ("lm.embedding", lm.embedding, MAX_WIDTH),
            ("lm.layers", lm.layers, MAX_PARTS),
            ("lm.tokens", lm.tokens, MAX_TOKENS),
            ("critic.features", critic.features, MAX_WIDTH),
            ("critic.hidden", critic.hidden, MAX_WIDTH),
            ("critic.sentence", critic.sentence, MAX_WIDTH),
            ("critic.common", critic.common, MAX_WIDTH),
            ("critics", self.critics, MAX_PARTS),
            ("sentence.piece", sentence.piece, MAX_WIDTH),
            ("sentence.hidden", sentence.hidden, MAX_WIDTH),
            ("sentence.sentence", sentence.sentence, MAX_WIDTH),
            ("beam_size", self.beam_size, MAX_BEAM),
            ("length", self.length, MAX_LENGTH),
        ];
        for (name, size, most) in sizes {
            if !(1..=most).contains(&size) {
                return Err(format!("`{name}` is {size}; wanted is 1 to {most}"));
            }
        }
        let Input { mean, std, .. } = &encoder.input;
        let is_scale = |it: &f32| it.is_finite() && 0. < *it;
        if !mean.iter().all(|it| it.is_finite()) || !std.iter().all(is_scale) {
            return Err("`encoder.mean` and `encoder.std` are no colours".into());
        }
        for (name, fitted) in [("fitted", &self.fitted), ("fitted_full", &self.fitted_full)] {
            if !fitted.terms.iter().all(|it| it.is_finite()) {
                return Err(format!("`{name}.terms` are no numbers"));
            }
            let Fitted { confidence, evidence, concept, .. } = fitted;
            let logistics =
                [("confidence", confidence), ("evidence", evidence), ("concept", concept)];
            for (part, it) in logistics {
                it.check().map_err(|what| format!("`{name}.{part}` {what}"))?;
            }
        }
        Ok(())
    }
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
    let bytes = files::read(path, files::MAX_DATA)
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
    settings.check().map_err(|what| inconclusive!("its settings: {what}"))?;
    let lines = |key: &str| anyhow::Ok(text(key)?.split('\n').map(str::to_owned).collect());
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        if name.ends_with(SCALE) {
            continue;
        }
        if view.shape().contains(&0) {
            return Err(inconclusive!("`{name}` holds no values"));
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
        if !values.iter().all(|it| it.is_finite()) {
            return Err(inconclusive!("`{name}` holds values that are no numbers"));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::milan::BUILT_IN;

    /// The built-in describer with something changed is refused for this reason.
    #[track_caller]
    fn check(contents: &Contents, change: impl Fn(&mut Contents), wanted: &str) {
        let mut contents = contents.clone();
        change(&mut contents);
        let error = from_bytes(&to_bytes(&contents).unwrap()).err().expect(wanted);
        assert_eq!(error.to_string(), wanted);
    }

    #[test]
    fn sizes_and_numbers_that_no_describer_has_are_refused() {
        let mut it = from_bytes(BUILT_IN).unwrap();
        it.tensors.clear();
        check(
            &it,
            |it| it.settings.lm.layers = 1 << 62,
            "its settings: `lm.layers` is 4611686018427387904; wanted is 1 to 64",
        );
        check(
            &it,
            |it| it.settings.encoder.input.side = 1_000_000_000,
            "its settings: `encoder.side` is 1000000000; wanted is 1 to 1024",
        );
        check(
            &it,
            |it| it.settings.encoder.input.std[1] = 0.,
            "its settings: `encoder.mean` and `encoder.std` are no colours",
        );
        check(
            &it,
            |it| it.settings.fitted.concept.std[2] = 0.,
            "its settings: `fitted.concept` holds values that are no numbers, or deviations that are not above 0",
        );
        check(
            &it,
            |it| it.settings.fitted_full.evidence.mean.truncate(1),
            "its settings: `fitted_full.evidence` has 1 means, 2 standard deviations and 2 weights",
        );
        let tensor =
            |shape: &[usize], value: f32| Tensor::full(value, shape, &Device::Cpu).unwrap();
        let add = |it: Tensor| {
            move |to: &mut Contents| {
                to.tensors.insert("a".into(), it.clone());
            }
        };
        check(&it, add(tensor(&[2], f32::NAN)), "`a` holds values that are no numbers");
        check(&it, add(tensor(&[1, 0], 0.)), "`a` holds no values");
    }
}
