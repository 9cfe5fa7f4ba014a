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
    write_whole(&path, &write::to_bytes(&[("inputs", key)], entries(&made)?))?;
    Ok(made)
}

/// Tensors as a file holds them, in the order of their names.
pub fn entries(tensors: &Tensors) -> candle_core::Result<Vec<Entry>> {
    let entry = |(name, tensor): (&String, &Tensor)| {
        Ok(Entry::f32(name, tensor.dims(), &tensor.flatten_all()?.to_vec1::<f32>()?))
    };
    tensors.iter().map(entry).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_not_done_again_until_its_inputs_change() {
        let folder = tempfile::tempdir().unwrap();
        let mut n_made = 0;
        let mut run = |inputs: &str| {
            let made = stage(folder.path(), "a", inputs, || {
                n_made += 1;
                let value = Tensor::new(&[n_made as f32], &Device::Cpu)?;
                Ok(Tensors::from([("x".to_owned(), value)]))
            });
            made.unwrap()["x"].to_vec1::<f32>().unwrap()[0]
        };
        assert_eq!([run("1"), run("1"), run("2"), run("2"), run("1")], [1., 1., 2., 2., 3.]);
        std::fs::write(folder.path().join("a.safetensors"), "damaged").unwrap();
        let error = stage(folder.path(), "a", "1", || anyhow::bail!("stopped")).err().unwrap();
        assert_eq!(format!("{error:#}"), "cannot make a: stopped");
    }
}
