//! The header of a safetensors file, checked as if an enemy had written it.
//!
//! Stricter than the `safetensors` crate, which lets pass names given twice, repeated metadata keys,
//! a header that begins with a space, extra keys of a tensor, and null metadata.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use anyhow::Context;
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};

use crate::inconclusive;

/// A checked header.
#[derive(Debug)]
pub struct Header {
    pub tensors: BTreeMap<String, Entry>,
    pub warnings: Vec<String>,
}

/// One tensor of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Its bytes, counted from the beginning of the file.
    pub bytes: Range<u64>,
}

/// The crate's own limit.
const MAX_HEADER: u64 = 100_000_000;
/// The Hugging Face Hub refuses longer ones.
const HUB_MAX_HEADER: u64 = 25_000_000;

/// An error about a file that breaks the format; exit code 3.
pub(crate) fn malformed(path: &Path, what: impl std::fmt::Display) -> anyhow::Error {
    inconclusive!("{} cannot be used: {what}", path.display())
}

/// Reads and checks the header; `file` stands at its beginning.
pub fn read(file: &mut File, path: &Path) -> anyhow::Result<Header> {
    let reading = || format!("cannot read {}", path.display());
    let len = file.metadata().with_context(reading)?.len();
    let mut start = Vec::new();
    file.take(512).read_to_end(&mut start).with_context(reading)?;
    if let Some(what) = other_kind(&start) {
        return Err(malformed(path, what));
    }
    let Some(n_header) = start.first_chunk::<8>().map(|it| u64::from_le_bytes(*it)) else {
        return Err(malformed(
            path,
            format!("it has {len} bytes; the header's length alone takes 8"),
        ));
    };
    if MAX_HEADER < n_header {
        return Err(malformed(
            path,
            format!(
                "this is no safetensors file: its first eight bytes would have {n_header} bytes of header follow, and no more than {MAX_HEADER} are read"
            ),
        ));
    }
    if len - 8 < n_header {
        return Err(malformed(
            path,
            format!(
                "it is truncated: the header takes {n_header} bytes, the file goes on for {}; fetch it again",
                len - 8
            ),
        ));
    }
    let mut text = start[8..].to_vec();
    if n_header as usize <= text.len() {
        text.truncate(n_header as usize);
    } else {
        file.take(n_header - text.len() as u64).read_to_end(&mut text).with_context(reading)?;
    }
    parse(&text, len, path)
}

/// What a file that is no safetensors file looks like, and what to do.
fn other_kind(start: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(start).trim_start().to_lowercase();
    if start.is_empty() {
        Some("it is empty")
    } else if start.starts_with(b"version https://git-lfs") {
        Some("it is a Git LFS pointer, not the weights; run `git lfs pull`")
    } else if text.starts_with("<!doctype") || text.starts_with("<html") {
        Some("it is a web page, not the weights; download the file itself")
    } else if start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80\x02") {
        Some(
            "it is a PyTorch pickle, which can run code when loaded; convert it to safetensors where it is trusted",
        )
    } else if start.starts_with(b"GGUF") || start.starts_with(b"\x89HDF") {
        Some("it is of another format (GGUF or HDF5); convert it to safetensors")
    } else {
        None
    }
}

fn parse(text: &[u8], len: u64, path: &Path) -> anyhow::Result<Header> {
    if text.first() != Some(&b'{') {
        return Err(malformed(
            path,
            "its header does not begin with `{`; this is no safetensors file",
        ));
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let raw = json.deserialize_map(HeaderVisitor).and_then(|raw| json.end().map(|()| raw));
    let raw = raw.map_err(|error| malformed(path, format!("its header: {error}")))?;

    let mut warnings = Vec::new();
    if HUB_MAX_HEADER < text.len() as u64 {
        warnings.push(format!("{}: the header takes {} bytes; the Hugging Face Hub refuses more than {HUB_MAX_HEADER}", path.display(), text.len()));
    }
    let data_start = 8 + text.len() as u64;
    let mut in_order: Vec<(&String, &RawEntry)> = raw.iter().collect();
    in_order.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut tensors = BTreeMap::new();
    let mut end = 0u64;
    for (name, entry) in in_order {
        let (from, to) = entry.data_offsets;
        if from != end || to < from {
            let what = match from.cmp(&end) {
                _ if to < from => "they run backwards",
                std::cmp::Ordering::Less => "they overlap another tensor's",
                _ => "they leave a hole",
            };
            return Err(malformed(
                path,
                format!(
                    "the bytes of `{name}` are {from}..{to}: {what}, the next free byte is {end}"
                ),
            ));
        }
        let dtype = dtype(&entry.dtype).ok_or_else(|| {
            malformed(path, format!("`{name}` is of unknown type `{}`", entry.dtype))
        })?;
        let n_bytes = n_bytes(&entry.shape, dtype).ok_or_else(|| {
            malformed(
                path,
                format!(
                    "the shape of `{name}`, {:?}, is too large or ends inside a byte",
                    entry.shape
                ),
            )
        })?;
        if n_bytes != to - from {
            return Err(malformed(
                path,
                format!(
                    "`{name}` is {:?} of {}, that is {n_bytes} bytes, but takes {}",
                    entry.shape,
                    entry.dtype,
                    to - from
                ),
            ));
        }
        let shape = entry.shape.iter().map(|&n| usize::try_from(n)).collect::<Result<Vec<_>, _>>();
        let shape = shape.map_err(|_| {
            malformed(path, format!("the shape of `{name}` is too large for this machine"))
        })?;
        tensors.insert(
            name.clone(),
            Entry { dtype, shape, bytes: data_start + from..data_start + to },
        );
        end = to;
    }
    let wanted = data_start + end;
    if len < wanted {
        return Err(malformed(
            path,
            format!(
                "it is truncated: the tensors end at byte {wanted}, the file has {len}; fetch it again"
            ),
        ));
    }
    if wanted < len {
        return Err(malformed(
            path,
            format!("{} bytes follow the last tensor; they belong to nothing", len - wanted),
        ));
    }
    if tensors.is_empty() {
        return Err(malformed(path, "it holds no tensor"));
    }
    Ok(Header { tensors, warnings })
}

fn dtype(name: &str) -> Option<Dtype> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).ok()
}

fn n_bytes(shape: &[u64], dtype: Dtype) -> Option<u64> {
    let bits = shape.iter().try_fold(dtype.bitsize() as u64, |bits, &n| bits.checked_mul(n))?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Serde's own maps would let a name given twice overwrite the first.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = BTreeMap<String, RawEntry>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = BTreeMap::new();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if has_metadata {
                    return Err(A::Error::custom("`__metadata__` is given twice"));
                }
                has_metadata = true;
                map.next_value_seed(Metadata)?;
            } else if tensors.insert(name.clone(), map.next_value()?).is_some() {
                return Err(A::Error::custom(format!("tensor `{name}` is given twice")));
            }
        }
        Ok(tensors)
    }
}

/// Text by text, each key once. The content is not used.
struct Metadata;

impl<'de> DeserializeSeed<'de> for Metadata {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of texts in `__metadata__`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = BTreeSet::new();
        while let Some((key, _)) = map.next_entry::<String, String>()? {
            if !keys.insert(key.clone()) {
                return Err(A::Error::custom(format!("metadata key `{key}` is given twice")));
            }
        }
        Ok(())
    }
}
