//! Pictures in batches, decoded ahead of whoever uses them.

use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::Context;
use candle_core::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Dataset, Preprocess};
use crate::files::hex;

/// Some pictures as the network reads them.
pub struct Batch {
    /// Their places in the data set, ascending.
    pub ids: Vec<usize>,
    /// Of each, the beginning of the sha256 of its file, or of itself where it is drawn: what tells pictures apart
    /// whatever they are called.
    pub contents: Vec<u64>,
    /// `(n, 3, side, side)`, normalised, on the CPU.
    pub xs: Tensor,
}

/// A picture that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub file: String,
    pub reason: String,
}

/// What is known after all pictures have been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub skipped: Vec<Skipped>,
    /// sha256 of one JSON line a picture, `{"file","sha256","label"}`, in the data set's order.
    pub manifest_sha256: String,
}

/// Iterates over a data set in order; unreadable pictures are left out and remembered.
///
/// Reading runs on a thread of its own, at most two batches ahead, and decodes the pictures of a
/// batch in parallel. Dropping the loader early ends that thread.
pub struct Loader {
    batches: Option<Receiver<anyhow::Result<Decoded>>>,
    skipped: Vec<Skipped>,
    manifest: Sha256,
    side: usize,
}

struct Decoded {
    ids: Vec<usize>,
    contents: Vec<u64>,
    values: Vec<f32>,
    skipped: Vec<Skipped>,
    manifest: String,
}

/// One line of the manifest.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    sha256: Option<String>,
    label: Option<usize>,
}

impl Loader {
    pub fn new(dataset: &Dataset, preprocess: &Preprocess, batch_size: usize) -> Loader {
        let side = preprocess.crop as usize;
        let (dataset, preprocess) = (dataset.clone(), preprocess.clone());
        let (sender, batches) = sync_channel(2);
        std::thread::spawn(move || {
            let ids: Vec<usize> = (0..dataset.pictures.len()).collect();
            for ids in ids.chunks(batch_size.max(1)) {
                let batch = read_batch(&dataset, &preprocess, ids);
                // Nobody listens any more: the loader was dropped.
                if sender.send(batch).is_err() {
                    return;
                }
            }
        });
        Loader { batches: Some(batches), skipped: vec![], manifest: Sha256::new(), side }
    }

    /// What was skipped and what was read, once the iteration is at its end.
    pub fn finish(self) -> Read {
        Read { skipped: self.skipped, manifest_sha256: hex(&self.manifest.finalize()) }
    }
}

impl Iterator for Loader {
    type Item = anyhow::Result<Batch>;

    fn next(&mut self) -> Option<anyhow::Result<Batch>> {
        loop {
            let decoded = match self.batches.as_ref()?.recv() {
                Ok(Ok(decoded)) => decoded,
                Ok(Err(error)) => {
                    self.batches = None;
                    return Some(Err(error));
                }
                Err(_) => return None,
            };
            self.skipped.extend(decoded.skipped);
            self.manifest.update(decoded.manifest.as_bytes());
            if decoded.ids.is_empty() {
                continue;
            }
            let shape = (decoded.ids.len(), 3, self.side, self.side);
            let xs = Tensor::from_vec(decoded.values, shape, &Device::Cpu);
            let Decoded { ids, contents, .. } = decoded;
            let batch = xs.map(|xs| Batch { ids, contents, xs });
            return Some(batch.context("a batch has the wrong size"));
        }
    }
}

/// One picture, resized and cut as a network reads it. Errs where the file cannot be read.
pub fn read_crop(
    dataset: &Dataset,
    preprocess: &Preprocess,
    id: usize,
) -> anyhow::Result<RgbImage> {
    let cropped = dataset.read(id).1.and_then(|picture| preprocess.crop(&picture));
    cropped.with_context(|| format!("cannot read {} again", dataset.pictures[id].file))
}

fn read_batch(
    dataset: &Dataset,
    preprocess: &Preprocess,
    ids: &[usize],
) -> anyhow::Result<Decoded> {
    let each = preprocess.n_values();
    let mut values = vec![0f32; ids.len() * each];
    let read: Vec<(Option<String>, anyhow::Result<()>)> = ids
        .par_iter()
        .zip(values.par_chunks_exact_mut(each))
        .map(|(&id, values)| {
            let (sha256, picture) = dataset.read(id);
            let cropped = picture.and_then(|picture| preprocess.crop(&picture));
            (sha256, cropped.map(|cropped| preprocess.normalise(&cropped, values)))
        })
        .collect();
    let mut decoded =
        Decoded { ids: vec![], contents: vec![], values, skipped: vec![], manifest: String::new() };
    for (at, (&id, (sha256, done))) in ids.iter().zip(read).enumerate() {
        let picture = &dataset.pictures[id];
        let content = sha256.as_deref().and_then(|it| u64::from_str_radix(&it[..16], 16).ok());
        let line = Line { file: &picture.file, sha256, label: picture.label };
        decoded.manifest += &serde_json::to_string(&line)?;
        decoded.manifest.push('\n');
        match done {
            Ok(()) => {
                // Those that could not be read leave no gap.
                let to = decoded.ids.len();
                if to < at {
                    decoded.values.copy_within(at * each..(at + 1) * each, to * each);
                }
                decoded.ids.push(id);
                decoded.contents.push(content.unwrap_or_default());
            }
            Err(error) => {
                decoded
                    .skipped
                    .push(Skipped { file: picture.file.clone(), reason: format!("{error:#}") });
            }
        }
    }
    decoded.values.truncate(decoded.ids.len() * each);
    Ok(decoded)
}
