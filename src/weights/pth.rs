//! Values and tensors out of a file of `torch.save`: a zip archive of one pickle and raw storages.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use zip::ZipArchive;

use super::header::malformed;
use super::pickle::{MAX_VALUES, TensorRef, Value, parse};
use super::words;
use crate::{files, usage};

/// An opened file.
pub struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
    /// The archive's folder, with its slash.
    folder: String,
}

/// The longest pickle that is read, in bytes.
const MAX_PICKLE: u64 = 1 << 30;

impl Archive {
    /// Opens a file and reads its values; tensors stay in it.
    pub fn open(path: &Path) -> anyhow::Result<(Archive, Value)> {
        let file =
            files::open(path).map_err(|error| usage!("cannot open {}: {error}", path.display()))?;
        let zip = ZipArchive::new(BufReader::new(file))
            .map_err(|error| malformed(path, format!("it is no file of torch.save: {error}")))?;
        let name = zip
            .file_names()
            .flatten()
            .find(|name| name.split_once('/').is_some_and(|(_, rest)| rest == "data.pkl"));
        let Some(name) = name.map(|name| name.into_owned()) else {
            return Err(malformed(path, "it holds no data.pkl, so it is no file of torch.save"));
        };
        let mut archive = Archive {
            path: path.to_owned(),
            zip,
            folder: name.trim_end_matches("data.pkl").to_owned(),
        };
        let bytes = archive.bytes(&name, MAX_PICKLE)?;
        let values =
            parse(&bytes).map_err(|error| malformed(path, format!("its pickle: {error:#}")))?;
        Ok((archive, values))
    }

    /// A tensor's values as f32. Errs where the view leaves its storage, and on integers.
    pub fn tensor(&mut self, tensor: &TensorRef) -> anyhow::Result<Tensor> {
        let bytes = self.bytes(&format!("{}data/{}", self.folder, tensor.storage), u64::MAX)?;
        let values = match tensor.kind.as_str() {
            "FloatStorage" => words(&bytes, f32::from_le_bytes),
            "HalfStorage" => words(&bytes, |word| f16::from_le_bytes(word).to_f32()),
            "BFloat16Storage" => words(&bytes, |word| bf16::from_le_bytes(word).to_f32()),
            "DoubleStorage" => words(&bytes, |word| f64::from_le_bytes(word) as f32),
            other => {
                return Err(malformed(
                    &self.path,
                    format!("a tensor is of type {other}, not of floats"),
                ));
            }
        };
        let values = tensor.view(&values).with_context(|| {
            format!("{} cannot be used: storage {}", self.path.display(), tensor.storage)
        })?;
        Ok(Tensor::from_vec(values, tensor.shape.as_slice(), &Device::Cpu)?)
    }

    fn bytes(&mut self, name: &str, limit: u64) -> anyhow::Result<Vec<u8>> {
        let broken = |what: String| malformed(&self.path, format!("`{name}` {what}"));
        let mut file = self.zip.by_name(name).map_err(|error| broken(error.to_string()))?;
        if limit < file.size() {
            return Err(broken(format!("takes {} bytes, more than are read", file.size())));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| broken(error.to_string()))?;
        Ok(bytes)
    }
}

impl TensorRef {
    /// The values in row-major order.
    fn view(&self, storage: &[f32]) -> anyhow::Result<Vec<f32>> {
        let n = self.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
        let n = n.context("a shape is too large")?;
        if n == 0 {
            return Ok(vec![]);
        }
        let steps = self.shape.iter().zip(&self.stride);
        let last = steps.clone().try_fold(self.offset, |last, (&side, &stride)| {
            last.checked_add((side - 1).checked_mul(stride)?)
        });
        ensure!(last.is_some_and(|last| last < storage.len()), "a tensor goes beyond its end");
        // A view may show each value many times, but not more often than memory allows.
        ensure!(n <= MAX_VALUES * 64, "a tensor of {n} values is too large");
        let mut places = vec![self.offset];
        for (&side, &stride) in steps {
            places = places
                .iter()
                .flat_map(|&place| (0..side).map(move |i| place + i * stride))
                .collect();
        }
        Ok(places.into_iter().map(|place| storage[place]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_read_in_their_order_and_stay_in_their_storage() {
        let view = |offset, shape: &[usize], stride: &[usize]| TensorRef {
            storage: "0".into(),
            kind: "FloatStorage".into(),
            offset,
            shape: shape.to_vec(),
            stride: stride.to_vec(),
        };
        let storage = [0., 1., 2., 3., 4., 5.];
        assert_eq!(view(0, &[2, 3], &[3, 1]).view(&storage).unwrap(), storage);
        assert_eq!(view(1, &[2, 2], &[1, 3]).view(&storage).unwrap(), [1., 4., 2., 5.]);
        assert_eq!(view(5, &[], &[]).view(&storage).unwrap(), [5.]);
        assert!(view(9, &[0], &[1]).view(&storage).unwrap().is_empty());
        for wrong in [view(0, &[7], &[1]), view(6, &[], &[]), view(0, &[usize::MAX, 2], &[1, 1])] {
            assert!(wrong.view(&storage).is_err());
        }
        assert!(view(0, &[1 << 40], &[0]).view(&storage).is_err());
    }
}
