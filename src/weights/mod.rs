//! Bytes on disk to named tensors, and back.
//!
//! A checkpoint is one `.safetensors` file, or a folder with one or with several and an index. Files
//! come from strangers: every header is checked by [`header`] before anything else looks at it.

pub mod header;
pub mod hub;
pub mod pickle;
pub mod pth;
pub mod write;

mod edit;
mod read;
mod shards;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::Tensor;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::files::digest;
use crate::{files, usage};

pub use edit::{Change, Draft, check_target, write_edited};
pub(crate) use read::words;

/// One tensor of a checkpoint: what it is, and where its bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Which of [`Weights::files`] holds it.
    pub file: usize,
    /// Its bytes, counted from the beginning of that file.
    pub bytes: Range<u64>,
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    pub path: PathBuf,
    pub size: u64,
    pub sha256: String,
}

/// A checkpoint whose headers are read and checked; the tensors themselves stay on disk.
#[derive(Debug, Clone)]
pub struct Weights {
    source: PathBuf,
    files: Vec<SourceFile>,
    tensors: BTreeMap<String, TensorInfo>,
    warnings: Vec<String>,
}

impl Weights {
    /// Opens a `.safetensors` file, or a folder with exactly one, or with an index and its shards.
    ///
    /// A path that is not there or is of another kind is the user's mistake; a file that breaks a
    /// rule of the format is malformed, and the error says which rule and where.
    pub fn open(path: &Path) -> anyhow::Result<Weights> {
        let metadata = std::fs::metadata(path).map_err(|error| {
            usage!("cannot open the model {}: {}", path.display(), files::plain(&error))
        })?;
        let paths = if metadata.is_dir() { shards::files_of(path)? } else { vec![path.to_owned()] };
        let mut weights = Weights {
            source: path.to_owned(),
            files: vec![],
            tensors: BTreeMap::new(),
            warnings: vec![],
        };
        for path in paths {
            weights.add_file(&path)?;
        }
        if metadata.is_dir() {
            shards::check_index(path, &weights)?;
        }
        Ok(weights)
    }

    fn add_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut file =
            files::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let header = header::read(&mut file, path)?;
        self.warnings.extend(header.warnings);
        let place = self.files.len();
        for (name, entry) in header.tensors {
            let info = TensorInfo {
                dtype: entry.dtype,
                shape: entry.shape,
                file: place,
                bytes: entry.bytes,
            };
            if self.tensors.contains_key(&name) {
                return Err(header::malformed(
                    path,
                    format!("tensor `{name}` is in another shard too"),
                ));
            }
            self.tensors.insert(name, info);
        }
        let (size, sha256) = digest(path)?;
        self.files.push(SourceFile { path: path.to_owned(), size, sha256 });
        Ok(())
    }

    /// The file or folder that was opened.
    pub fn source(&self) -> &Path {
        &self.source
    }

    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// What is allowed but worth a word, such as a header that other tools refuse.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A tensor's values as f32 on the CPU. Integers are refused: they may be quantised.
    pub fn read(&self, name: &str) -> anyhow::Result<Tensor> {
        let info =
            self.tensors.get(name).with_context(|| format!("there is no tensor `{name}`"))?;
        let path = &self.files[info.file].path;
        read::tensor(path, name, info)
            .with_context(|| format!("cannot read `{name}` of {}", path.display()))
    }

    /// The `config.json` beside the weights, if there is one.
    pub fn config(&self) -> anyhow::Result<Option<serde_json::Value>> {
        let folder =
            if self.source.is_dir() { Some(self.source.as_path()) } else { self.source.parent() };
        let Some(path) = folder.map(|folder| folder.join("config.json")) else { return Ok(None) };
        if !path.is_file() {
            return Ok(None);
        }
        let text =
            files::read_text(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let config = serde_json::from_str(&text)
            .map_err(|error| header::malformed(&path, format!("it is not JSON: {error}")))?;
        Ok(Some(config))
    }
}
