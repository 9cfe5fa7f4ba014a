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

/// One operation. Maps are `(n, c, h, w)`, features `(n, f)`.
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
    /// Reads `weight` `(c_out, c_in)` and `bias` `(c_out,)`.
    Linear {
        c_out: usize,
    },
}

impl Op {
    /// Channels and extent of the output. Panics where the wiring cannot be right.
    pub(super) fn output(&self, name: &str, inputs: &[&Node]) -> (usize, Extent) {
        let n_wanted = match self {
            Op::Input => 0,
            Op::Add => 2,
            _ => 1,
        };
        assert_eq!(inputs.len(), n_wanted, "{name} has the wrong number of inputs");
        let Some(xs) = inputs.first() else { panic!("{name}: a graph has one input") };
        let is_map = !matches!(xs.extent, Extent::Flat { .. });
        match *self {
            Op::Input => unreachable!("asserted above: an input has no inputs"),
            Op::Conv2d { c_out, groups, .. } => {
                assert!(is_map && xs.channels % groups == 0 && c_out % groups == 0, "{name}");
                (c_out, Extent::Map)
            }
            Op::BatchNorm { .. } | Op::Relu | Op::Relu6 => (xs.channels, xs.extent),
            Op::MaxPool { .. } => (xs.channels, Extent::Map),
            Op::AdaptiveAvgPool { side } => (xs.channels, Extent::FixedMap { side }),
            Op::GlobalAvgPool => (xs.channels, Extent::Flat { positions: 1 }),
            Op::Flatten => match xs.extent {
                Extent::FixedMap { side } => (xs.channels, Extent::Flat { positions: side * side }),
                _ => panic!("{name}: flatten needs a map of known size"),
            },
            Op::Add => {
                assert_eq!(inputs[0].channels, inputs[1].channels, "{name} adds unequal shapes");
                (xs.channels, xs.extent)
            }
            Op::PadShortcut { before, c_out, .. } => {
                assert!(before + xs.channels <= c_out, "{name}");
                (c_out, Extent::Map)
            }
            Op::Linear { c_out } => {
                assert!(!is_map, "{name}: a linear layer reads features");
                (c_out, Extent::Flat { positions: 1 })
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
                let positions = match inputs[0].extent {
                    Extent::Flat { positions } => positions,
                    _ => 1,
                };
                let c_in = inputs[0].channels * positions;
                vec![("weight", vec![c_out, c_in], false), ("bias", vec![c_out], false)]
            }
            _ => vec![],
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
            | Op::Flatten => true,
            Op::Input
            | Op::Conv2d { .. }
            | Op::BatchNorm { .. }
            | Op::Add
            | Op::PadShortcut { .. }
            | Op::Linear { .. } => false,
        }
    }
}
