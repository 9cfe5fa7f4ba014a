//! Where the engine meets candle: tensors in, features and what someone looks at out.

use anyhow::bail;
use candle_core::{DType, Device, Storage, Tensor};

use super::super::graph::Extent;
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

/// As `(n, c, h, w)`; tokens as `(n, t, c)`.
pub(super) fn tensor(maps: Part<'_>, extent: Extent) -> candle_core::Result<Tensor> {
    let Shape { c, h, w, .. } = maps.shape;
    match extent {
        Extent::Tokens { .. } => Tensor::from_vec(maps.write(), (maps.n, c, w), &Device::Cpu)?
            .transpose(1, 2)?
            .contiguous(),
        _ => Tensor::from_vec(maps.write(), (maps.n, c, h, w), &Device::Cpu),
    }
}

/// The class token, `(n, c)`.
pub(super) fn class(tokens: Part<'_>) -> candle_core::Result<Tensor> {
    let Shape { c, lanes, .. } = tokens.shape;
    let mut values = Vec::with_capacity(tokens.n * c);
    for picture in 0..tokens.n {
        for block in 0..tokens.shape.blocks() {
            let first = &tokens.values[tokens.shape.line(picture, block, 0)];
            values.extend_from_slice(&first[..lanes.min(c - block * lanes)]);
        }
    }
    Tensor::from_vec(values, (tokens.n, c), &Device::Cpu)
}

/// Takes `(n, c, h, w)` in, or tokens `(n, t, c)`.
pub(super) fn read(maps: &mut PartMut<'_>, xs: &Tensor) -> anyhow::Result<()> {
    let xs = if xs.rank() == 3 { xs.transpose(1, 2)? } else { xs.clone() };
    let xs = xs.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("the input is not in main memory") };
    let values = &storage.as_slice::<f32>()?[layout.start_offset()..];
    maps.read(&values[..layout.shape().elem_count()]);
    Ok(())
}
