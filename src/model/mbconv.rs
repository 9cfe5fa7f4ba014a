//! The block of MobileNetV3 and EfficientNet, named as torchvision names it: an inverted bottleneck (Sandler et al. 2018)
//! with squeeze-and-excitation (Hu et al. 2018, <https://arxiv.org/abs/1709.01507>).

use super::graph::{Graph, NodeId};
use super::op::{Op, Padding};

/// What the blocks of a network have in common.
pub(super) struct Style {
    /// Of every batch norm.
    pub(super) eps: f64,
    /// Within squeeze-and-excitation, and at the end of it.
    pub(super) squeeze: [Op; 2],
}

pub(super) struct Block {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// Channels in between.
    pub(super) hidden: usize,
    pub(super) c_out: usize,
    /// Channels that squeeze-and-excitation goes through, if there is one.
    pub(super) squeezed: Option<usize>,
    pub(super) activation: Op,
}

impl Style {
    /// Expands, filters each channel, weighs channels, projects; with a shortcut where the shapes allow it.
    ///
    /// The node that weighs is named after the whole of squeeze-and-excitation, `name.block.2`.
    pub(super) fn block(&self, g: &mut Graph, name: &str, xs: NodeId, block: &Block) -> NodeId {
        let &Block { kernel, stride, hidden, c_out, squeezed, activation } = block;
        let c_in = g.node(xs).channels;
        let mut step = 0;
        let mut next = || {
            step += 1;
            format!("{name}.block.{}", step - 1)
        };
        let mut ys = xs;
        if hidden != c_in {
            ys = self.conv(g, &next(), ys, [hidden, 1, 1, 1], Some(activation));
        }
        ys = self.conv(g, &next(), ys, [hidden, kernel, stride, hidden], Some(activation));
        if let Some(squeezed) = squeezed {
            ys = self.squeeze_and_excite(g, &next(), ys, squeezed);
        }
        ys = self.conv(g, &next(), ys, [c_out, 1, 1, 1], None);
        g.alias(format!("{name}.block"), ys);
        if stride == 1 && c_in == c_out {
            g.add(name, Op::Add, &[xs, ys])
        } else {
            g.alias(name, ys);
            ys
        }
    }

    fn squeeze_and_excite(&self, g: &mut Graph, name: &str, xs: NodeId, squeezed: usize) -> NodeId {
        let conv = |c_out| Op::Conv2d {
            c_out,
            kernel: 1,
            stride: 1,
            padding: Padding::Even(0),
            groups: 1,
            bias: true,
        };
        let c = g.node(xs).channels;
        let ys = g.add(format!("{name}.avgpool"), Op::AdaptiveAvgPool { side: 1 }, &[xs]);
        let ys = g.add(format!("{name}.fc1"), conv(squeezed), &[ys]);
        let ys = g.add(format!("{name}.activation"), self.squeeze[0], &[ys]);
        let ys = g.add(format!("{name}.fc2"), conv(c), &[ys]);
        let ys = g.add(format!("{name}.scale_activation"), self.squeeze[1], &[ys]);
        g.add(name, Op::Scale, &[xs, ys])
    }

    pub(super) fn conv(
        &self,
        g: &mut Graph,
        name: &str,
        xs: NodeId,
        sizes: [usize; 4],
        activation: Option<Op>,
    ) -> NodeId {
        conv_norm(g, name, xs, sizes, self.eps, activation)
    }
}

/// torchvision's `Conv2dNormActivation`: `name.0`, `name.1`, `name.2`, together `name`.
pub(super) fn conv_norm(
    g: &mut Graph,
    name: &str,
    xs: NodeId,
    [c_out, kernel, stride, groups]: [usize; 4],
    eps: f64,
    activation: Option<Op>,
) -> NodeId {
    let padding = Padding::Even(kernel / 2);
    let conv = Op::Conv2d { c_out, kernel, stride, padding, groups, bias: false };
    let mut ys = g.add(format!("{name}.0"), conv, &[xs]);
    ys = g.add(format!("{name}.1"), Op::BatchNorm { eps }, &[ys]);
    if let Some(activation) = activation {
        ys = g.add(format!("{name}.2"), activation, &[ys]);
    }
    g.alias(name, ys);
    ys
}

/// The nearest multiple of 8, but never a tenth less than asked.
pub(super) fn round_to_8(channels: f64) -> usize {
    let rounded = ((channels as usize + 4) / 8 * 8).max(8);
    if (rounded as f64) < 0.9 * channels { rounded + 8 } else { rounded }
}
