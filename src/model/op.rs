//! What a node does: the closed set of operations, their shapes, and the tensors they read.

use super::graph::{Extent, Node};

/// Zeros put around a map before a convolution looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// The same on all four sides.
    Even(usize),
    /// As TensorFlow's `SAME`: the output has `ceil(side / stride)` positions, an odd zero goes last.
    Same,
}

/// The positions of a side that make up one of `n` nearly equal parts: PyTorch's adaptive pooling. Parts may share a
/// position.
pub fn part(at: usize, n: usize, side: usize) -> std::ops::Range<usize> {
    at * side / n..((at + 1) * side).div_ceil(n)
}

/// An activation that is more than a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// `x · Φ(x)`, by the error function and not its approximation by tanh.
    Gelu,
    /// The approximation: `Φ(x)` is about `(1 + tanh(√(2/π) · (x + 0.044715 · x³))) / 2`.
    GeluTanh,
    /// `x · σ(x)`.
    Silu,
    /// `σ(x) = 1 / (1 + e⁻ˣ)`, which is not zero at zero.
    Sigmoid,
    /// `x · min(max(x + 3, 0), 6) / 6`.
    HardSwish,
    /// `min(max(x + 3, 0), 6) / 6`, which is not zero at zero.
    HardSigmoid,
    /// `max(x + 3, 0) / 6`: the hard sigmoid before its upper clamp. No network has it; units are ranked by it.
    HardSigmoidUnclamped,
}

/// One operation. Maps are `(n, c, h, w)`, tokens `(n, t, c)`, features `(n, f)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    Input,
    /// Reads `weight` `(c_out, c_in / groups, kernel, kernel)` and, with `bias`, `bias` `(c_out,)`.
    Conv2d {
        c_out: usize,
        kernel: usize,
        stride: usize,
        padding: Padding,
        groups: usize,
        bias: bool,
    },
    /// `weight · (x − running_mean) / √(running_var + eps) + bias`, each tensor `(c,)`.
    BatchNorm {
        eps: f64,
    },
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// Padding never wins: it counts as −∞.
    MaxPool {
        size: usize,
        stride: usize,
        padding: usize,
    },
    /// The mean of each of `side × side` nearly equal parts of a map, as PyTorch's adaptive pooling.
    AdaptiveAvgPool {
        side: usize,
    },
    /// The mean over all positions: `(n, c, h, w)` to `(n, c)`.
    GlobalAvgPool,
    /// `(n, c, side, side)` to `(n, c · side · side)`.
    Flatten,
    /// The sum of two equal shapes.
    Add,
    /// Every `stride`-th position, and zero channels `before` and after up to `c_out`: the
    /// parameter-free shortcut, option A, of He et al. 2015.
    PadShortcut {
        stride: usize,
        before: usize,
        c_out: usize,
    },
    /// Of features, or of each token alone. Reads `weight` `(c_out, c_in)` and `bias` `(c_out,)`.
    Linear {
        c_out: usize,
    },
    /// A convolution of `side × side` patches of `size` pixels that do not overlap; pictures of another side are refused.
    /// Reads `weight` `(c_out, c_in, size, size)` and `bias` `(c_out,)`.
    Patches {
        c_out: usize,
        size: usize,
        side: usize,
    },
    /// `(n, c, side, side)` to tokens `(n, 1 + side², c)`: first the same one for all pictures, then the positions
    /// row by row. Reads the tensor `(1, 1, c)` that the node is named after.
    ClassToken,
    /// Adds to each token what stands for its place. Reads the tensor `(1, t, c)` that the node is named after.
    Positions,
    /// Over the channels of a token, `weight · (x − mean) / √(variance + eps) + bias`, each tensor `(c,)`.
    LayerNorm {
        eps: f64,
    },
    /// Queries, keys and values `(n, t, 3 · c)`, each as `heads` parts side by side, to `(n, t, c)`: of each head
    /// `softmax(q · kᵀ / √d) · v`, where `d` is `c / heads`.
    Attention {
        heads: usize,
    },
    /// Of each value alone.
    Curve(Curve),
    /// Each channel of a map times its one value in the second input, `(n, c, 1, 1)`.
    Scale,
    /// The class token: `(n, t, c)` to `(n, c)`.
    TakeClass,
}

impl Op {
    /// Channels and extent of the output. Panics where the wiring cannot be right.
    pub(super) fn output(&self, name: &str, inputs: &[&Node]) -> (usize, Extent) {
        let n_wanted = match self {
            Op::Input => 0,
            Op::Add | Op::Scale => 2,
            _ => 1,
        };
        assert_eq!(inputs.len(), n_wanted, "{name} has the wrong number of inputs");
        let Some(xs) = inputs.first() else { panic!("{name}: a graph has one input") };
        let is_map = xs.extent.is_map();
        match *self {
            Op::Input => unreachable!("asserted above: an input has no inputs"),
            Op::Conv2d { c_out, groups, .. } => {
                assert!(is_map && xs.channels % groups == 0 && c_out % groups == 0, "{name}");
                (c_out, Extent::Map)
            }
            Op::BatchNorm { .. } | Op::Relu | Op::Relu6 | Op::Curve(_) => (xs.channels, xs.extent),
            Op::Scale => {
                let is_whole = is_map && inputs[1].extent.is_map();
                assert!(
                    is_whole && xs.channels == inputs[1].channels,
                    "{name} scales unequal shapes"
                );
                (xs.channels, xs.extent)
            }
            Op::MaxPool { .. } | Op::AdaptiveAvgPool { .. } | Op::GlobalAvgPool => {
                assert!(is_map, "{name}: pooling needs a map");
                let extent = match *self {
                    Op::AdaptiveAvgPool { side } => Extent::FixedMap { side },
                    Op::GlobalAvgPool => Extent::Flat { positions: 1 },
                    _ => Extent::Map,
                };
                (xs.channels, extent)
            }
            Op::Flatten => match xs.extent {
                Extent::FixedMap { side } => (xs.channels, Extent::Flat { positions: side * side }),
                _ => panic!("{name}: flatten needs a map of known size"),
            },
            Op::Add => {
                assert_eq!(inputs[0].channels, inputs[1].channels, "{name} adds unequal shapes");
                (xs.channels, xs.extent)
            }
            Op::PadShortcut { before, c_out, .. } => {
                assert!(is_map && before + xs.channels <= c_out, "{name}");
                (c_out, Extent::Map)
            }
            Op::Linear { c_out } => {
                assert!(!is_map, "{name}: a linear layer reads features or tokens");
                match xs.extent {
                    Extent::Tokens { side } => (c_out, Extent::Tokens { side }),
                    _ => (c_out, Extent::Flat { positions: 1 }),
                }
            }
            Op::Patches { c_out, side, .. } => {
                assert!(is_map, "{name}: patches are cut from a map");
                (c_out, Extent::FixedMap { side })
            }
            Op::ClassToken => match xs.extent {
                Extent::FixedMap { side } => (xs.channels, Extent::Tokens { side }),
                _ => panic!("{name}: tokens are made of a map of known size"),
            },
            Op::Positions | Op::LayerNorm { .. } | Op::Attention { .. } | Op::TakeClass => {
                assert!(matches!(xs.extent, Extent::Tokens { .. }), "{name} reads tokens");
                match *self {
                    Op::Attention { heads } => {
                        assert_eq!(xs.channels % (3 * heads), 0, "{name} has unequal heads");
                        (xs.channels / 3, xs.extent)
                    }
                    Op::TakeClass => (xs.channels, Extent::Flat { positions: 1 }),
                    _ => (xs.channels, xs.extent),
                }
            }
        }
    }

    /// The tensors it reads: last part of the name, shape, and whether it may be absent.
    pub(super) fn parameters(&self, inputs: &[&Node]) -> Vec<(&'static str, Vec<usize>, bool)> {
        match *self {
            Op::Conv2d { c_out, kernel, groups, bias, .. } => {
                let shape = vec![c_out, inputs[0].channels / groups, kernel, kernel];
                let mut read = vec![("weight", shape, false)];
                if bias {
                    read.push(("bias", vec![c_out], false));
                }
                read
            }
            Op::BatchNorm { .. } => {
                let c = vec![inputs[0].channels];
                vec![
                    ("weight", c.clone(), false),
                    ("bias", c.clone(), false),
                    ("running_mean", c.clone(), false),
                    ("running_var", c, false),
                    ("num_batches_tracked", vec![], true),
                ]
            }
            Op::Linear { c_out } => {
                let c_in = inputs[0].channels * inputs[0].extent.positions();
                vec![("weight", vec![c_out, c_in], false), ("bias", vec![c_out], false)]
            }
            Op::Patches { c_out, size, .. } => {
                let shape = vec![c_out, inputs[0].channels, size, size];
                vec![("weight", shape, false), ("bias", vec![c_out], false)]
            }
            Op::ClassToken => vec![("", vec![1, 1, inputs[0].channels], false)],
            Op::Positions => {
                let Extent::Tokens { side } = inputs[0].extent else { return vec![] };
                vec![("", vec![1, 1 + side * side, inputs[0].channels], false)]
            }
            Op::LayerNorm { .. } => {
                let c = vec![inputs[0].channels];
                vec![("weight", c.clone(), false), ("bias", c, false)]
            }
            _ => vec![],
        }
    }

    /// The op without its upper clamp, and the value at which it clamps.
    ///
    /// Every value beyond the clamp looks the same after it, so which picture excites a unit most is only known before
    /// it. A hard swish is not bounded above, and a sigmoid reaches 1 by rounding alone.
    pub(super) fn unclamped(&self) -> Option<(Op, f32)> {
        match self {
            Op::Relu6 => Some((Op::Relu, 6.)),
            Op::Curve(Curve::HardSigmoid) => Some((Op::Curve(Curve::HardSigmoidUnclamped), 1.)),
            _ => None,
        }
    }

    /// Whether the op works on each channel alone and turns a channel of zeros into zeros.
    ///
    /// Only then does zeroing the channel before it equal zeroing the channel after it.
    pub fn keeps_zero(&self) -> bool {
        match self {
            Op::Relu
            | Op::Relu6
            | Op::MaxPool { .. }
            | Op::AdaptiveAvgPool { .. }
            | Op::GlobalAvgPool
            | Op::Flatten
            | Op::TakeClass => true,
            Op::Curve(curve) => {
                !matches!(curve, Curve::Sigmoid | Curve::HardSigmoid | Curve::HardSigmoidUnclamped)
            }
            Op::Input
            | Op::Conv2d { .. }
            | Op::BatchNorm { .. }
            | Op::Add
            | Op::PadShortcut { .. }
            | Op::Linear { .. }
            | Op::Patches { .. }
            | Op::ClassToken
            | Op::Positions
            | Op::LayerNorm { .. }
            | Op::Attention { .. }
            | Op::Scale => false,
        }
    }
}
