//! The bytes of a tensor as f32.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;

use super::TensorInfo;
use crate::{files, inconclusive};

/// Reads one tensor; what is not a float of 16, 32 or 64 bits is refused with the reason.
pub(super) fn tensor(path: &Path, name: &str, info: &TensorInfo) -> anyhow::Result<Tensor> {
    let mut file = files::open(path)?;
    file.seek(SeekFrom::Start(info.bytes.start))?;
    let mut bytes = vec![0; (info.bytes.end - info.bytes.start) as usize];
    file.read_exact(&mut bytes)?;
    let values: Vec<f32> = match info.dtype {
        Dtype::F32 => words(&bytes, f32::from_le_bytes),
        Dtype::F16 => words(&bytes, |word| f16::from_le_bytes(word).to_f32()),
        Dtype::BF16 => words(&bytes, |word| bf16::from_le_bytes(word).to_f32()),
        Dtype::F64 => words(&bytes, |word| f64::from_le_bytes(word) as f32),
        other => {
            return Err(inconclusive!(
                "`{name}` is of type {other:?}; networks are run from F16, BF16, F32 and F64 (an integer \
                 tensor may be quantised, and its scale is not known)"
            ));
        }
    };
    Ok(Tensor::from_vec(values, info.shape.as_slice(), &Device::Cpu)?)
}

/// The values of words of `N` bytes.
pub(crate) fn words<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (words, _) = bytes.as_chunks::<N>();
    words.iter().map(|word| value(*word)).collect()
}
