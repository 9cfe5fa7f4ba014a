//! Batch norm and ReLU6 on the CPU, each in one pass over the values.
//!
//! Candle multiplies, adds, and cuts at either side in four passes, each of which fetches new memory from
//! the system. The values are the same, bit by bit: nothing is fused that rounds differently.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// `x · scale[c] + shift[c]` for each channel `c` of `xs` `(n, c, h, w)`.
pub(crate) fn affine(xs: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    xs.contiguous()?.apply_op3_no_bwd(&scale.contiguous()?, &shift.contiguous()?, &Affine)
}

/// Each value cut to 0..=6.
pub(crate) fn relu6(xs: &Tensor) -> Result<Tensor> {
    xs.contiguous()?.apply_op1_no_bwd(&Relu6)
}

struct Affine;

impl CustomOp3 for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = xs_layout.shape().dims4()?;
        let plane = (h * w).max(1);
        let scale = values(scale, scale_layout)?;
        let shift = values(shift, shift_layout)?;
        let ys = planes(values(xs, xs_layout)?, plane, |at, x| x * scale[at % c] + shift[at % c]);
        Ok((CpuStorage::F32(ys), (n, c, h, w).into()))
    }
}

struct Relu6;

impl CustomOp1 for Relu6 {
    fn name(&self) -> &'static str {
        "relu6"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        /// Values that go together.
        const PART: usize = 1 << 14;
        let ys = planes(values(xs, layout)?, PART, |_, x| {
            // As candle's comparisons: what is not a number stays so.
            let x = if x < 0. { 0. } else { x };
            if 6. < x { 6. } else { x }
        });
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }
}

/// The values of a contiguous tensor.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    Ok(&all[layout.start_offset()..][..layout.shape().elem_count()])
}

/// `f` of each value and of the number of the plane that it lies in.
fn planes(xs: &[f32], plane: usize, f: impl Fn(usize, f32) -> f32 + Sync) -> Vec<f32> {
    let mut ys = vec![0f32; xs.len()];
    ys.par_chunks_mut(plane).zip(xs.par_chunks(plane)).enumerate().for_each(|(at, (ys, xs))| {
        ys.iter_mut().zip(xs).for_each(|(y, &x)| *y = f(at, x));
    });
    ys
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn bits(xs: &Tensor) -> Vec<u32> {
        let values = xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn the_values_are_candles_own() {
        let n = 2 * 3 * 5 * 7;
        let values: Vec<f32> = (0..n).map(|i| ((i * 37) % 101) as f32 * 0.173 - 7.3).collect();
        let xs = Tensor::from_vec(values, (2, 3, 5, 7), &Device::Cpu).unwrap();
        let scale = Tensor::new(&[0.3f32, -1.7, 2.1], &Device::Cpu).unwrap();
        let shift = Tensor::new(&[1.1f32, 0., -3.3], &Device::Cpu).unwrap();
        let wide = |it: &Tensor| it.reshape((1, 3, 1, 1)).unwrap();
        let plain = xs.broadcast_mul(&wide(&scale)).unwrap();
        let plain = plain.broadcast_add(&wide(&shift)).unwrap();
        assert_eq!(bits(&affine(&xs, &scale, &shift).unwrap()), bits(&plain));
        assert_eq!(bits(&relu6(&xs).unwrap()), bits(&xs.clamp(0f32, 6f32).unwrap()));
        // A part of another tensor, and one whose rows are columns.
        let part = xs.narrow(0, 1, 1).unwrap();
        assert_eq!(bits(&relu6(&part).unwrap()), bits(&part.clamp(0f32, 6f32).unwrap()));
        let turned = xs.transpose(2, 3).unwrap();
        assert_eq!(bits(&relu6(&turned).unwrap()), bits(&turned.clamp(0f32, 6f32).unwrap()));
    }
}
