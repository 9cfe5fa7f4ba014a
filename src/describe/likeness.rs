//! How alike texts are in meaning, for policies that ask: by the sentence tower that is built in, or by the full
//! sentence encoder that taught it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use candle_core::Tensor;

use super::milan::minilm::{self, MiniLm};
use super::milan::sentence::Sentences;
use super::milan::{BUILT_IN, checkpoint, shelf};
use crate::usage;

/// What a policy calls the tower that is built in. Another tower scores otherwise and gets another number.
pub const TOWER: &str = "built-in@3";
/// What a policy calls the full encoder.
pub const FULL: &str = "all-MiniLM-L6-v2";
/// Texts that are encoded together.
const BATCH: usize = 256;

/// The name of the encoder that will be asked: of `folder`, or of the one that is built in.
pub fn name(folder: Option<&Path>) -> &'static str {
    if folder.is_some() { FULL } else { TOWER }
}

/// The cosine of each phrase with each text, -1..=1: by phrase, by text. Each text is encoded once.
pub fn likeness(
    folder: Option<&Path>,
    phrases: &[&str],
    texts: &BTreeSet<&str>,
) -> anyhow::Result<BTreeMap<String, BTreeMap<String, f32>>> {
    if phrases.is_empty() {
        return Ok(BTreeMap::new());
    }
    let encoder = Encoder::open(folder)?;
    let wanted = encoder.encode(phrases)?;
    let mut found: BTreeMap<String, BTreeMap<String, f32>> = BTreeMap::new();
    let texts: Vec<&str> = texts.iter().copied().collect();
    for some in texts.chunks(BATCH) {
        let cosines = wanted.matmul(&encoder.encode(some)?.t()?)?.to_vec2::<f32>()?;
        for (phrase, cosines) in phrases.iter().zip(cosines) {
            let pairs = some.iter().map(|it| (*it).to_owned()).zip(cosines);
            found.entry((*phrase).to_owned()).or_default().extend(pairs);
        }
    }
    Ok(found)
}

enum Encoder {
    Tower(Box<Sentences>),
    Full(Box<MiniLm>),
}

impl Encoder {
    fn open(folder: Option<&Path>) -> anyhow::Result<Encoder> {
        let contents = checkpoint::from_bytes(BUILT_IN).context("the built-in describer")?;
        let Some(folder) = folder else {
            let own =
                contents.tensors.into_iter().filter(|(name, _)| name.starts_with("sentence."));
            let shelf = shelf::Shelf::new(own.collect());
            let pieces = super::milan::pieces::Pieces::new(contents.pieces)?;
            let vb = shelf.builder().pp("sentence");
            let sentences = Sentences::new(pieces, contents.settings.sentence, &vb)?;
            shelf.finish()?;
            return Ok(Encoder::Tower(Box::new(sentences)));
        };
        if minilm::digest(folder)? != contents.settings.sentence_encoder {
            return Err(usage!("{} is not {FULL}, which policies know", folder.display()));
        }
        Ok(Encoder::Full(Box::new(MiniLm::open(folder)?)))
    }

    /// Vectors of length 1, `(texts, sentence)`.
    fn encode(&self, texts: &[&str]) -> anyhow::Result<Tensor> {
        match self {
            Encoder::Tower(it) => it.encode(texts),
            Encoder::Full(it) => it.encode(texts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_is_alike() {
        let texts = ["faces of people", "human faces", "red cars"];
        let found = likeness(None, &["a person's face"], &texts.into()).unwrap();
        let of = |text: &str| found["a person's face"][text];
        assert!(0.5 < of("human faces") && of("red cars") < 0.3, "{found:?}");
        assert!(likeness(None, &[], &texts.into()).unwrap().is_empty());
    }

    /// A tower that scores otherwise must not go by the same name: policies' thresholds are for one of them.
    #[test]
    fn the_tower_is_the_one_of_its_name() {
        let contents = checkpoint::from_bytes(BUILT_IN).unwrap();
        let mut bytes: Vec<u8> = contents.pieces.join("\n").into_bytes();
        for (name, tensor) in contents.tensors.iter().filter(|(it, _)| it.starts_with("sentence."))
        {
            bytes.extend(name.bytes());
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            bytes.extend(values.iter().flat_map(|it| it.to_le_bytes()));
        }
        let digest = crate::files::sha256(&bytes);
        assert_eq!((TOWER, &digest[..16]), ("built-in@3", "7f6a6655c016b353"));
    }
}
