//! The authors' files, `milan-*.pth`: `torch.save` of a decoder with its encoder, language model and words
//! (neuron-descriptions, `src/utils/serialize.py`). Nothing in them is executed, and unlike in the
//! reference no weight may be missing or left over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use candle_core::Device;
use candle_nn::VarBuilder;

use super::captioner::{self, Captioner};
use super::encoder::{Encoder, Resizing};
use super::lm::{self, LanguageModel};
use super::shelf::Shelf;
use super::vocab::Vocabulary;
use crate::inconclusive;
use crate::model::recognise;
use crate::model::run::Network;
use crate::weights::pickle::{TensorRef, Value};
use crate::weights::pth::Archive;

/// A describer as the authors trained it.
pub struct Checkpoint {
    pub encoder: Encoder,
    /// Of each colour, in 0..=1: what the encoder's pictures are normalised with.
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub captioner: Captioner,
    pub lm: Option<LanguageModel>,
    pub vocabulary: Vocabulary,
    /// The longest sentence, in tokens.
    pub length: usize,
    pub beam_size: usize,
    /// How much `log p(d)` counts, the paper's λ.
    pub temperature: f64,
}

/// What stands before the names of the encoder's network.
const ENCODER: &str = "encoder.encoder.model.";
/// Where the encoder's maps are taken: the pyramid of the paper, section 4.
const SITES: [&str; 5] = ["conv1", "layer1", "layer2", "layer3", "layer4"];

/// Reads a file; `resizing` says how masks meet the encoder's maps.
pub fn open(path: &Path, resizing: Resizing) -> anyhow::Result<Checkpoint> {
    let (archive, values) = Archive::open(path)?;
    read(archive, &values, resizing).with_context(|| format!("cannot use {}", path.display()))
}

fn read(mut archive: Archive, root: &Value, resizing: Resizing) -> anyhow::Result<Checkpoint> {
    let properties = wanted(root, "properties")?;
    let vocabulary = vocabulary(wanted(properties, "indexer")?)?;
    let tensors = tensors(wanted(root, "state_dict")?)?;

    let (encoder, read) = encoder(&mut archive, &tensors, resizing)?;
    let mean = colours(&mut archive, &tensors, "encoder.mean")?;
    let std = colours(&mut archive, &tensors, "encoder.std")?;

    let rest = tensors.iter().filter(|(name, _)| !read.contains(*name));
    let rest = rest.map(|(name, tensor)| Ok((name.clone(), archive.tensor(tensor)?)));
    let shelf = Shelf::new(rest.collect::<anyhow::Result<_>>()?);
    let vb = shelf.builder();
    let hidden = size(properties, "hidden_size")?;
    let attention = match properties.get("attention_hidden_size") {
        None | Some(Value::None) => hidden.min(encoder.n_features()),
        Some(_) => size(properties, "attention_hidden_size")?,
    };
    let sizes = captioner::Sizes {
        features: encoder.n_features(),
        hidden,
        attention,
        embedding: size(properties, "embedding_size")?,
        tokens: vocabulary.n_tokens(),
    };
    let captioner = Captioner::new(sizes, &vb)?;
    let lm = match properties.get("lm") {
        None | Some(Value::None) => None,
        Some(lm) => Some(language_model(lm, &vocabulary, &vb.pp("lm"))?),
    };
    shelf.finish()?;
    Ok(Checkpoint {
        encoder,
        mean,
        std,
        captioner,
        lm,
        length: size(properties, "length")?,
        beam_size: size(properties, "beam_size")?,
        temperature: wanted(properties, "temperature")?
            .number()
            .ok_or_else(|| inconclusive!("its `temperature` is no number"))?,
        vocabulary,
    })
}

fn language_model(
    lm: &Value,
    vocabulary: &Vocabulary,
    vb: &VarBuilder<'_>,
) -> anyhow::Result<LanguageModel> {
    let properties = wanted(lm, "properties")?;
    let own = self::vocabulary(wanted(properties, "indexer")?)?;
    if own != *vocabulary {
        return Err(inconclusive!(
            "its language model knows other words, or the same in another order, than its captioner"
        ));
    }
    let sizes = lm::Sizes {
        hidden: size(properties, "hidden_size")?,
        embedding: size(properties, "embedding_size")?,
        layers: size(properties, "layers")?,
        tokens: vocabulary.n_tokens(),
    };
    Ok(LanguageModel::new(sizes, vb)?)
}

/// The encoder, and the names of the tensors that it took, the colours' among them.
fn encoder(
    archive: &mut Archive,
    tensors: &BTreeMap<String, TensorRef>,
    resizing: Resizing,
) -> anyhow::Result<(Encoder, BTreeSet<String>)> {
    let own = tensors.iter().filter_map(|(name, it)| Some((name.strip_prefix(ENCODER)?, it)));
    let shapes = own.map(|(name, it)| (name.to_owned(), it.shape.clone())).collect();
    let recognised = recognise(&shapes, None).context("its encoder")?;
    if let Some(name) = recognised.unread.first() {
        return Err(inconclusive!("`{ENCODER}{name}` is read by no part of {}", recognised.name));
    }
    let network = Network::new(recognised.graph, &Device::Cpu, |name| {
        archive.tensor(&tensors[&format!("{ENCODER}{name}")])
    })?;
    let mut read: BTreeSet<String> =
        tensors.keys().filter(|name| name.starts_with(ENCODER)).cloned().collect();
    read.extend(["encoder.mean", "encoder.std"].map(str::to_owned));
    Ok((Encoder::new(network, &SITES, resizing)?, read))
}

fn colours(
    archive: &mut Archive,
    tensors: &BTreeMap<String, TensorRef>,
    name: &str,
) -> anyhow::Result<[f32; 3]> {
    let tensor = tensors.get(name).ok_or_else(|| inconclusive!("`{name}` is missing"))?;
    let values = archive.tensor(tensor)?.flatten_all()?.to_vec1::<f32>()?;
    values
        .try_into()
        .map_err(|_| inconclusive!("`{name}` is {:?}, wanted three values", tensor.shape))
}

fn tensors(state: &Value) -> anyhow::Result<BTreeMap<String, TensorRef>> {
    let Value::Dict(items) = state else {
        return Err(inconclusive!("its `state_dict` is no dict"));
    };
    let tensor = |(name, value): &(Value, Value)| match (name, value) {
        (Value::Text(name), Value::Tensor(tensor)) => Ok((name.clone(), tensor.clone())),
        _ => Err(inconclusive!("its `state_dict` holds something that is no tensor: {name:?}")),
    };
    items.iter().map(tensor).collect()
}

/// The words of an indexer, which must add all four special tokens.
fn vocabulary(indexer: &Value) -> anyhow::Result<Vocabulary> {
    let properties = wanted(indexer, "properties")?;
    for special in ["start", "stop", "pad", "unk"] {
        if properties.get(special) != Some(&Value::Bool(true)) {
            return Err(inconclusive!("its indexer does not add the token `{special}`"));
        }
    }
    let tokens = wanted(wanted(wanted(properties, "vocab")?, "properties")?, "tokens")?;
    let words = tokens.items().and_then(|it| {
        it.iter().map(|word| word.text().map(str::to_owned)).collect::<Option<Vec<String>>>()
    });
    Ok(Vocabulary::new(words.ok_or_else(|| inconclusive!("its `tokens` are no list of words"))?))
}

fn wanted<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a Value> {
    value.get(key).ok_or_else(|| inconclusive!("it has no `{key}`, so it is no describer of MILAN"))
}

fn size(properties: &Value, key: &str) -> anyhow::Result<usize> {
    match wanted(properties, key)? {
        Value::Int(size) if 0 < *size && *size < 1 << 20 => Ok(*size as usize),
        other => Err(inconclusive!("its `{key}` is {other:?}, wanted a size")),
    }
}
