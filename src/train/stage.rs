//! Work that is done once: what a stage made is kept, and read again when its inputs are the same.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

use crate::files::{sha256, write_whole};
use crate::weights::words;
use crate::weights::write::{self, Entry};

pub type Tensors = BTreeMap<String, Tensor>;

/// Gives what `make` gives. `inputs` is everything that the result depends on, in words.
pub fn stage(
    folder: &Path,
    name: &str,
    inputs: &str,
    make: impl FnOnce() -> anyhow::Result<Tensors>,
) -> anyhow::Result<Tensors> {
    let path = folder.join(format!("{name}.safetensors"));
    let key = sha256(inputs.as_bytes());
    if let Some(kept) = std::fs::read(&path).ok().and_then(|bytes| kept(&bytes, &key)) {
        return Ok(kept);
    }
    let made = make().with_context(|| format!("cannot make {name}"))?;
    let entry = |(name, tensor): (&String, &Tensor)| {
        Ok(Entry::f32(name, tensor.dims(), &tensor.flatten_all()?.to_vec1::<f32>()?))
    };
    let entries = made.iter().map(entry).collect::<candle_core::Result<_>>()?;
    write_whole(&path, &write::to_bytes(&[("inputs", key)], entries))?;
    Ok(made)
}

fn kept(bytes: &[u8], key: &str) -> Option<Tensors> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    if header.metadata().as_ref()?.get("inputs")? != key {
        return None;
    }
    let file = SafeTensors::deserialize(bytes).ok()?;
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let values = words(view.data(), f32::from_le_bytes);
        Some((name, Tensor::from_vec(values, view.shape(), &Device::Cpu).ok()?))
    };
    file.tensors().into_iter().map(tensor).collect()
}
