//! A folder of weights: one file, or shards with an index that is checked in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

use super::Weights;
use super::header::malformed;
use crate::{files, usage};

const INDEX_ENDING: &str = ".safetensors.index.json";

#[derive(Deserialize)]
struct Index {
    /// Tensor name to file name.
    weight_map: BTreeMap<String, String>,
}

/// The weight files of a folder, by name.
pub(super) fn files_of(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if let Some(index_path) = index_of(folder)? {
        let index = read_index(&index_path)?;
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        return shards.into_iter().map(|shard| shard_path(folder, shard, &index_path)).collect();
    }
    let mut files = with_ending(folder, ".safetensors")?;
    match files.len() {
        1 => Ok(vec![files.remove(0)]),
        0 => Err(usage!("{} holds no .safetensors file", folder.display())),
        n => Err(usage!(
            "{} holds {n} .safetensors files and no index; name one of them",
            folder.display()
        )),
    }
}

/// Errs unless index and shards name the same tensors in the same files.
pub(super) fn check_index(folder: &Path, weights: &Weights) -> anyhow::Result<()> {
    let Some(index_path) = index_of(folder)? else { return Ok(()) };
    let index = read_index(&index_path)?;
    let mut wrong = Vec::new();
    for (name, shard) in &index.weight_map {
        match weights.tensors().get(name) {
            None => wrong.push(format!("`{name}` is in no shard")),
            Some(info) => {
                let found = file_name(&weights.files()[info.file].path);
                if found != *shard {
                    wrong.push(format!("`{name}` is in {found}, the index says {shard}"));
                }
            }
        }
    }
    let unlisted =
        weights.tensors().iter().filter(|(name, _)| !index.weight_map.contains_key(*name));
    for (name, info) in unlisted {
        let shard = file_name(&weights.files()[info.file].path);
        wrong.push(format!("`{name}` of {shard} is not in the index"));
    }
    let n_wrong = wrong.len();
    if n_wrong == 0 {
        return Ok(());
    }
    wrong.truncate(5);
    if 5 < n_wrong {
        wrong.push(format!("and {} more", n_wrong - 5));
    }
    Err(malformed(&index_path, format!("index and shards disagree: {}", wrong.join(", "))))
}

/// The folder's index, if it has one.
pub(super) fn index_of(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let mut found = with_ending(folder, INDEX_ENDING)?;
    match found.len() {
        0 => Ok(None),
        1 => Ok(Some(found.remove(0))),
        n => Err(usage!("{} holds {n} indexes; name a folder with one model", folder.display())),
    }
}

fn read_index(path: &Path) -> anyhow::Result<Index> {
    let text = files::read_text(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .map_err(|error| malformed(path, format!("it is not an index: {error}")))
}

/// A shard must lie in the folder itself. It may be a link: the Hub's cache is made of links.
fn shard_path(folder: &Path, shard: &str, index: &Path) -> anyhow::Result<PathBuf> {
    let mut components = Path::new(shard).components();
    let is_plain =
        matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    if !is_plain {
        return Err(malformed(index, format!("shard `{shard}` does not lie in the folder")));
    }
    let path = folder.join(shard);
    if !path.is_file() {
        return Err(malformed(index, format!("shard `{shard}` is missing; fetch it too")));
    }
    Ok(path)
}

fn with_ending(folder: &Path, ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let listing = || format!("cannot list {}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(listing)? {
        let path = entry.with_context(listing)?.path();
        let name = file_name(&path);
        if name.ends_with(ending) && !name.starts_with('.') {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())
}
