//! Depthwise convolution on the CPU.
//!
//! Candle cuts a grouped convolution into one small convolution a channel and joins the results.
//! Here each channel of each picture is a plane of its own: the output row is a sum of shifted
//! input rows, which compilers turn into vector code.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Convolves each channel of `xs` `(n, c, h, w)` with its own filter of `weight` `(c, 1, k, k)`.
///
/// `pads` are the zeros at the top, bottom, left and right.
pub(crate) fn depthwise(
    xs: &Tensor,
    weight: &Tensor,
    stride: usize,
    pads: [usize; 4],
) -> Result<Tensor> {
    xs.contiguous()?.apply_op2_no_bwd(&weight.contiguous()?, &Depthwise { stride, pads })
}

struct Depthwise {
    stride: usize,
    pads: [usize; 4],
}

impl CustomOp2 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise-conv2d"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = xs_layout.shape().dims4()?;
        let (_, _, k, _) = weight_layout.shape().dims4()?;
        let xs = &xs.as_slice::<f32>()?[xs_layout.start_offset()..][..n * c * h * w];
        let weight = &weight.as_slice::<f32>()?[weight_layout.start_offset()..][..c * k * k];
        let [top, bottom, left, right] = self.pads;
        let (Some(span_h), Some(span_w)) =
            ((h + top + bottom).checked_sub(k), (w + left + right).checked_sub(k))
        else {
            candle_core::bail!("a {h}x{w} map is smaller than the {k}x{k} filter")
        };
        let (h_out, w_out) = (span_h / self.stride + 1, span_w / self.stride + 1);

        let mut ys = vec![0f32; n * c * h_out * w_out];
        ys.par_chunks_mut(h_out * w_out).zip(xs.par_chunks(h * w)).enumerate().for_each(
            |(plane, (ys, xs))| {
                let filter = &weight[plane % c * k * k..][..k * k];
                let input = Plane { values: xs, h, w, top, left };
                convolve_plane(ys, w_out, &input, filter, k, self.stride);
            },
        );
        Ok((CpuStorage::F32(ys), (n, c, h_out, w_out).into()))
    }
}

/// One channel of one picture, and the zeros before its first row and column.
struct Plane<'a> {
    values: &'a [f32],
    h: usize,
    w: usize,
    top: usize,
    left: usize,
}

fn convolve_plane(
    ys: &mut [f32],
    w_out: usize,
    xs: &Plane<'_>,
    filter: &[f32],
    k: usize,
    stride: usize,
) {
    for (y, row_out) in ys.chunks_exact_mut(w_out).enumerate() {
        for filter_y in 0..k {
            let Some(source_y) = (y * stride + filter_y).checked_sub(xs.top) else { continue };
            if xs.h <= source_y {
                continue;
            }
            let row_in = &xs.values[source_y * xs.w..][..xs.w];
            for filter_x in 0..k {
                let weight = filter[filter_y * k + filter_x];
                // Output columns whose input column, `x · stride + filter_x − left`, lies in the row.
                let first = xs.left.saturating_sub(filter_x).div_ceil(stride);
                let last = (xs.w + xs.left).saturating_sub(filter_x).div_ceil(stride).min(w_out);
                if last <= first {
                    continue;
                }
                let source = &row_in[first * stride + filter_x - xs.left..];
                let target = &mut row_out[first..last];
                if stride == 1 {
                    target.iter_mut().zip(source).for_each(|(y, x)| *y += weight * x);
                } else {
                    target
                        .iter_mut()
                        .zip(source.iter().step_by(stride))
                        .for_each(|(y, x)| *y += weight * x);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Candle's own grouped convolution is the oracle, over every edge case of size and padding.
    #[test]
    fn agrees_with_candle() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut random = |shape: (usize, usize, usize, usize)| {
            let len = shape.0 * shape.1 * shape.2 * shape.3;
            let values: Vec<f32> = (0..len).map(|_| rng.random_range(-1f32..1.)).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        for k in [1, 3, 5, 7] {
            for stride in [1, 2, 3] {
                for (h, w) in [(1, 1), (2, 7), (7, 2), (8, 8), (9, 12)] {
                    for pads in [[k / 2; 4], [0, 1, 0, 1], [0; 4], [2, 3, 1, 0]] {
                        let [top, bottom, left, right] = pads;
                        if h + top + bottom < k || w + left + right < k {
                            continue;
                        }
                        let (xs, weight) = (random((2, 3, h, w)), random((3, 1, k, k)));
                        let padded = xs.pad_with_zeros(2, top, bottom).unwrap();
                        let padded = padded.pad_with_zeros(3, left, right).unwrap();
                        let wanted = padded.conv2d(&weight, 0, stride, 1, 3).unwrap();
                        let found = depthwise(&xs, &weight, stride, pads).unwrap();
                        assert_eq!(found.dims(), wanted.dims());
                        let diff = (found - wanted).unwrap().abs().unwrap().max_all().unwrap();
                        let diff = diff.to_scalar::<f32>().unwrap();
                        assert!(diff < 1e-5, "k {k} stride {stride} {h}x{w} {pads:?}: {diff}");
                    }
                }
            }
        }
    }
}
