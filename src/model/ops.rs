//! One function an op, on candle tensors: maps are `(n, c, h, w)`, tokens `(n, t, c)`, features `(n, f)`.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::{sigmoid, softmax_last_dim};

use super::op::{Curve, Op, Padding, part};

/// The tensors of one node, made ready once when the model is loaded.
pub(super) enum Params {
    None,
    /// Convolution and patches: `weight` `(c_out, c_in / groups, k, k)`, `bias` `(1, c_out, 1, 1)`.
    Conv {
        weight: Tensor,
        bias: Option<Tensor>,
    },
    /// Batch norm in evaluation is a line for each channel, `scale · x + shift`; so is what follows a layer norm's moments.
    Affine {
        scale: Tensor,
        shift: Tensor,
    },
    /// Linear: `weight` transposed to `(c_in, c_out)`, `bias` `(c_out,)`.
    Linear {
        weight_t: Tensor,
        bias: Tensor,
    },
    /// The class token `(1, 1, c)`, or what stands for places `(1, t, c)`.
    Own(Tensor),
}

impl Params {
    /// Reads and prepares what `op` needs; `tensor` gives a tensor by the last part of its name.
    pub(super) fn read(
        op: &Op,
        mut tensor: impl FnMut(&str) -> anyhow::Result<Tensor>,
    ) -> anyhow::Result<Params> {
        Ok(match *op {
            Op::Conv2d { bias, .. } => Params::Conv {
                weight: tensor("weight")?,
                bias: if bias { Some(tensor("bias")?.reshape((1, (), 1, 1))?) } else { None },
            },
            Op::BatchNorm { eps } => {
                let deviation = (tensor("running_var")? + eps)?.sqrt()?;
                let scale = (tensor("weight")? / deviation)?;
                let shift = (tensor("bias")? - (tensor("running_mean")? * &scale)?)?;
                Params::Affine { scale, shift }
            }
            Op::Linear { .. } => {
                Params::Linear { weight_t: tensor("weight")?.t()?, bias: tensor("bias")? }
            }
            Op::Patches { .. } => {
                let bias = tensor("bias")?.reshape((1, (), 1, 1))?;
                Params::Conv { weight: tensor("weight")?, bias: Some(bias) }
            }
            Op::ClassToken | Op::Positions => Params::Own(tensor("")?),
            Op::LayerNorm { .. } => {
                Params::Affine { scale: tensor("weight")?, shift: tensor("bias")? }
            }
            _ => Params::None,
        })
    }
}

/// `(…, c_in)` times `(c_in, c_out)`. On the CPU always so many rows at a time: the order in which products are added up
/// depends on how many rows there are, and what comes out of a picture must not depend on the pictures beside it.
fn rows_times(xs: &Tensor, weight_t: &Tensor) -> Result<Tensor> {
    const ROWS: usize = 8;
    let mut shape = xs.dims().to_vec();
    let last = shape.len() - 1;
    let rows = xs.reshape(((), shape[last]))?; // of all tokens
    shape[last] = weight_t.dim(1)?;
    let n = rows.dim(0)?;
    let ys = match xs.device().is_cpu() {
        true => {
            let rows = rows.pad_with_zeros(0, 0, n.next_multiple_of(ROWS) - n)?;
            let parts = rows.chunk(rows.dim(0)? / ROWS, 0)?;
            let parts: Vec<Tensor> =
                parts.iter().map(|it| it.matmul(weight_t)).collect::<Result<_>>()?;
            Tensor::cat(&parts, 0)?.narrow(0, 0, n)?
        }
        false => rows.matmul(weight_t)?,
    };
    ys.reshape(shape)
}

/// The output of one op.
pub(super) fn eval(op: &Op, params: &Params, inputs: &[&Tensor]) -> Result<Tensor> {
    let xs = inputs[0];
    match (*op, params) {
        (Op::Conv2d { kernel, stride, padding, groups, .. }, Params::Conv { weight, bias }) => {
            let ys = conv2d(xs, weight, kernel, stride, padding, groups)?;
            match bias {
                Some(bias) => ys.broadcast_add(bias),
                None => Ok(ys),
            }
        }
        (Op::BatchNorm { .. }, Params::Affine { scale, shift }) => affine(xs, scale, shift),
        (Op::Linear { .. }, Params::Linear { weight_t, bias }) => {
            rows_times(xs, weight_t)?.broadcast_add(bias)
        }
        (Op::Patches { size, .. }, Params::Conv { weight, bias: Some(bias) }) => {
            conv2d(xs, weight, size, size, Padding::Even(0), 1)?.broadcast_add(bias)
        }
        (Op::ClassToken, Params::Own(token)) => {
            let patches = xs.flatten_from(2)?.transpose(1, 2)?; // (n, side², c)
            let (n, _, c) = patches.dims3()?;
            Tensor::cat(&[&token.broadcast_as((n, 1, c))?, &patches], 1)
        }
        (Op::Positions, Params::Own(places)) => xs.broadcast_add(places),
        (Op::LayerNorm { eps }, Params::Affine { scale, shift }) => {
            let xs = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
            let deviation = (xs.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
            xs.broadcast_div(&deviation)?.broadcast_mul(scale)?.broadcast_add(shift)
        }
        (Op::Attention { heads }, _) => attention(xs, heads),
        (Op::Curve(curve), _) => bend(curve, xs),
        (Op::Scale, _) => xs.broadcast_mul(inputs[1]),
        (Op::TakeClass, _) => xs.narrow(1, 0, 1)?.squeeze(1),
        (Op::Relu, _) => xs.relu(),
        (Op::Relu6, _) => xs.clamp(0f32, 6f32),
        (Op::Add, _) => inputs[0] + inputs[1],
        (Op::MaxPool { size, stride, padding }, _) => {
            // Edge pixels repeated are never above the window's own maximum, so this is −∞ padding.
            let xs = xs.pad_with_same(2, padding, padding)?.pad_with_same(3, padding, padding)?;
            xs.max_pool2d_with_stride(size, stride)
        }
        (Op::AdaptiveAvgPool { side }, _) => adaptive_avg_pool(xs, side),
        (Op::GlobalAvgPool, _) => xs.flatten_from(2)?.mean(2), // (n, c)
        (Op::Flatten, _) => xs.flatten_from(1),                // (n, c·h·w)
        (Op::PadShortcut { stride, before, c_out }, _) => {
            let after = c_out - before - xs.dim(1)?;
            every(&every(xs, 2, stride)?, 3, stride)?.pad_with_zeros(1, before, after)
        }
        (
            Op::Input
            | Op::Conv2d { .. }
            | Op::BatchNorm { .. }
            | Op::Linear { .. }
            | Op::Patches { .. }
            | Op::ClassToken
            | Op::Positions
            | Op::LayerNorm { .. },
            _,
        ) => candle_core::bail!("this op was prepared for another"),
    }
}

fn conv2d(
    xs: &Tensor,
    weight: &Tensor,
    kernel: usize,
    stride: usize,
    padding: Padding,
    groups: usize,
) -> Result<Tensor> {
    let (_, _, h, w) = xs.dims4()?;
    let (top, bottom) = padding.around(h, kernel, stride);
    let (left, right) = padding.around(w, kernel, stride);
    if top == bottom && left == right && top == left {
        return xs.conv2d(weight, top, stride, 1, groups);
    }
    let xs = xs.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?;
    xs.conv2d(weight, 0, stride, 1, groups)
}

impl Padding {
    /// Zeros before and after one side of a map.
    pub(super) fn around(self, side: usize, kernel: usize, stride: usize) -> (usize, usize) {
        match self {
            Padding::Even(n) => (n, n),
            Padding::Same => {
                let n_out = side.div_ceil(stride);
                let n = ((n_out - 1) * stride + kernel).saturating_sub(side);
                (n / 2, n - n / 2)
            }
        }
    }
}

fn bend(curve: Curve, xs: &Tensor) -> Result<Tensor> {
    match curve {
        Curve::Gelu => xs.gelu_erf(),
        Curve::GeluTanh => xs.gelu(),
        Curve::Silu => xs.silu(),
        Curve::Sigmoid => sigmoid(xs),
        Curve::HardSwish => hard_sigmoid(xs)? * xs,
        Curve::HardSigmoid => hard_sigmoid(xs),
        Curve::HardSigmoidUnclamped => (xs + 3.)?.relu()? / 6.,
    }
}

fn hard_sigmoid(xs: &Tensor) -> Result<Tensor> {
    (xs + 3.)?.clamp(0f32, 6f32)? / 6.
}

fn affine(xs: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let per_channel =
        |t: &Tensor| if xs.rank() == 4 { t.reshape((1, (), 1, 1)) } else { Ok(t.clone()) };
    xs.broadcast_mul(&per_channel(scale)?)?.broadcast_add(&per_channel(shift)?)
}

/// `(n, t, 3 · c)`, in which queries, keys and values of all heads lie side by side, to `(n, t, c)`.
fn attention(xs: &Tensor, heads: usize) -> Result<Tensor> {
    let (n, t, c) = xs.dims3()?;
    let d = c / 3 / heads;
    let xs = xs.reshape((n, t, 3, heads, d))?.permute((2, 0, 3, 1, 4))?; // (3, n, heads, t, d)
    let part = |at: usize| xs.get(at)?.contiguous();
    let queries = (part(0)? * (d as f64).powf(-0.5))?;
    let scores = queries.matmul(&part(1)?.t()?)?; // (n, heads, t, t)
    let ys = softmax_last_dim(&scores)?.matmul(&part(2)?)?;
    ys.transpose(1, 2)?.flatten_from(2)
}

/// The mean of each part.
fn adaptive_avg_pool(xs: &Tensor, side: usize) -> Result<Tensor> {
    let (_, _, h, w) = xs.dims4()?;
    if (h, w) == (side, side) {
        return Ok(xs.clone());
    }
    let mut rows = Vec::with_capacity(side);
    for own in (0..side).map(|at| part(at, side, h)) {
        let band = xs.narrow(2, own.start, own.len())?.mean_keepdim(2)?; // (n, c, 1, w)
        let mut cells = Vec::with_capacity(side);
        for own in (0..side).map(|at| part(at, side, w)) {
            cells.push(band.narrow(3, own.start, own.len())?.mean_keepdim(3)?);
        }
        rows.push(Tensor::cat(&cells, 3)?);
    }
    Tensor::cat(&rows, 2)
}

/// Every `stride`-th index of an axis, from the first.
fn every(xs: &Tensor, axis: usize, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return Ok(xs.clone());
    }
    let kept: Vec<u32> = (0..xs.dim(axis)?).step_by(stride).map(|i| i as u32).collect();
    xs.index_select(&Tensor::new(kept, xs.device())?, axis)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn same_padding_puts_the_odd_zero_last() {
        assert_eq!(Padding::Same.around(224, 3, 2), (0, 1));
        assert_eq!(Padding::Same.around(65, 3, 2), (1, 1));
        assert_eq!(Padding::Same.around(14, 5, 1), (2, 2));
        assert_eq!(Padding::Same.around(7, 1, 2), (0, 0));
    }

    /// Against `torch.nn.functional.adaptive_avg_pool2d(torch.arange(15.).reshape(1, 1, 3, 5), 2)`.
    #[test]
    fn adaptive_pooling_agrees_with_pytorch() {
        let xs = Tensor::arange(0f32, 15f32, &Device::Cpu).unwrap().reshape((1, 1, 3, 5)).unwrap();
        let ys =
            adaptive_avg_pool(&xs, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(ys, [3.5, 5.5, 8.5, 10.5]);
    }

    #[test]
    fn the_parameter_free_shortcut_takes_every_other_position() {
        let xs = Tensor::arange(0f32, 16f32, &Device::Cpu).unwrap().reshape((1, 1, 4, 4)).unwrap();
        let op = Op::PadShortcut { stride: 2, before: 1, c_out: 3 };
        let ys = eval(&op, &Params::None, &[&xs]).unwrap();
        assert_eq!(ys.dims(), [1, 3, 2, 2]);
        let ys = ys.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(ys, [0., 0., 0., 0., 0., 2., 8., 10., 0., 0., 0., 0.]);
    }

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[track_caller]
    fn check(op: Op, params: &Params, xs: &Tensor, wanted: &[f32]) {
        let ys = eval(&op, params, &[xs]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(ys.len(), wanted.len());
        let close = |(y, wanted): (&f32, &f32)| (y - wanted).abs() <= 2e-6 * wanted.abs().max(1.);
        assert!(ys.iter().zip(wanted).all(close), "{ys:?}, wanted {wanted:?}");
    }

    /// Against `torch.nn.functional.layer_norm(x, (3,), weight, bias, 1e-6)`, variance over all three.
    #[test]
    fn a_layer_norm_agrees_with_pytorch() {
        let xs = tensor(&[1., 2., 6., 1000., 1001., 1002.], &[1, 2, 3]);
        let scale = tensor(&[1., 2., 0.5], &[3]);
        let params = Params::Affine { scale, shift: tensor(&[0., 1., -1.], &[3]) };
        let wanted = [-0.92582, 0.07418001, -0.30563498, -1.224744, 1.0, -0.38762802];
        check(Op::LayerNorm { eps: 1e-6 }, &params, &xs, &wanted);
    }

    /// Against `torch.nn.functional`'s `gelu`, `gelu(approximate="tanh")`, `silu`, `sigmoid`, `hardswish` and
    /// `hardsigmoid`.
    #[test]
    fn curves_agree_with_pytorch() {
        let xs = tensor(&[-6., -1., -0.1, 0., 0.5, 3.], &[1, 2, 3]);
        for (curve, wanted) in [
            (Curve::Gelu, [0.0, -0.15865529, -0.04601721, 0.0, 0.3457312, 2.9959502]),
            (Curve::GeluTanh, [-0.0, -0.158808, -0.04601725, 0.0, 0.345714, 2.9963627]),
            (Curve::Silu, [-0.014835739, -0.26894143, -0.04750208, 0.0, 0.31122968, 2.8577225]),
            (Curve::Sigmoid, [0.002472623, 0.26894143, 0.4750208, 0.5, 0.62245935, 0.95257413]),
            (Curve::HardSwish, [-0.0, -0.33333334, -0.048333336, 0.0, 0.29166666, 3.0]),
            (Curve::HardSigmoid, [0.0, 0.33333334, 0.48333335, 0.5, 0.5833333, 1.0]),
        ] {
            check(Op::Curve(curve), &Params::None, &xs, &wanted);
        }
    }

    /// Against `torch.nn.functional.scaled_dot_product_attention` on two heads of two channels and three tokens.
    #[test]
    fn attention_agrees_with_pytorch() {
        let values: Vec<f32> = (0..36).map(|i| ((i * 7) % 11) as f32 / 4. - 1.).collect();
        check(
            Op::Attention { heads: 2 },
            &Params::None,
            &tensor(&values, &[1, 3, 12]),
            &[
                0.6252152,
                0.017722672,
                0.42755276,
                -0.32372987,
                -0.116306484,
                -0.111002415,
                -0.08997677,
                -0.6122176,
                0.65108454,
                -0.08891431,
                -0.30120513,
                -0.14487949,
            ],
        );
    }

    #[test]
    fn the_class_token_comes_first_and_then_the_patches_row_by_row() {
        let maps = Tensor::arange(0f32, 8f32, &Device::Cpu).unwrap().reshape((1, 2, 2, 2)).unwrap();
        let class = Params::Own(tensor(&[-1., -2.], &[1, 1, 2]));
        check(Op::ClassToken, &class, &maps, &[-1., -2., 0., 4., 1., 5., 2., 6., 3., 7.]);
        let tokens = eval(&Op::ClassToken, &class, &[&maps]).unwrap();
        check(Op::TakeClass, &Params::None, &tokens, &[-1., -2.]);
    }
}
