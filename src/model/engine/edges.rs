//! Where the engine meets candle: tensors in, features and what someone looks at out.

use anyhow::bail;
use candle_core::{DType, Device, Storage, Tensor};

use super::layout::{Part, PartMut, Shape};

/// The mean over all positions, `(n, c)`.
pub(super) fn means(maps: Part<'_>) -> candle_core::Result<Tensor> {
    let shape = maps.shape;
    let mut means = vec![0f32; maps.n * shape.c];
    for (picture, means) in means.chunks_mut(shape.c).enumerate() {
        for (block, means) in means.chunks_mut(shape.lanes).enumerate() {
            for y in 0..shape.h {
                for position in maps.values[shape.line(picture, block, y)].chunks(shape.lanes) {
                    means.iter_mut().zip(position).for_each(|(sum, value)| *sum += value);
                }
            }
            means.iter_mut().for_each(|it| *it /= (shape.h * shape.w) as f32);
        }
    }
    Tensor::from_vec(means, (maps.n, shape.c), &Device::Cpu)
}

/// As `(n, c, h, w)`.
pub(super) fn tensor(maps: Part<'_>) -> candle_core::Result<Tensor> {
    let Shape { c, h, w, .. } = maps.shape;
    Tensor::from_vec(maps.write(), (maps.n, c, h, w), &Device::Cpu)
}

/// Takes `(n, c, h, w)` in.
pub(super) fn read(maps: &mut PartMut<'_>, xs: &Tensor) -> anyhow::Result<()> {
    let xs = xs.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("the input is not in main memory") };
    let values = &storage.as_slice::<f32>()?[layout.start_offset()..];
    maps.read(&values[..layout.shape().elem_count()]);
    Ok(())
}
