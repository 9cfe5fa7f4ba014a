//! ResNet (He et al. 2015, <https://arxiv.org/abs/1512.03385>), named as torchvision and timm name it.

use super::graph::{Graph, NodeId};
use super::op::{Op, Padding};

pub(super) struct Config {
    /// Blocks in each of `layer1` to `layer4`.
    pub(super) depths: [usize; 4],
    /// Channels of the blocks' 3×3 convolutions in each stage.
    pub(super) widths: [usize; 4],
    /// Three convolutions a block, 1×1, 3×3, 1×1 (ResNet-50 and deeper), instead of two 3×3.
    pub(super) bottleneck: bool,
    pub(super) stem: Stem,
}

/// What halves the picture before the stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stem {
    /// A 7×7 convolution of stride 2, and pooling, which halves it again.
    Pooled,
    /// A 3×3 convolution of stride 2, for small pictures.
    Small,
}

/// The widths of the paper.
pub(super) const WIDTHS: [usize; 4] = [64, 128, 256, 512];

/// Sites as in Hernandez et al. 2022: `conv1` before batch norm, and the stages' outputs.
pub(super) fn resnet(config: &Config, n_classes: usize) -> Graph {
    let mut g = Graph::new(3);
    let kernel = if config.stem == Stem::Pooled { 7 } else { 3 };
    let xs = conv(&mut g, "conv1", Graph::INPUT, config.widths[0], kernel, 2);
    let xs = norm(&mut g, "bn1", xs);
    let mut xs = g.add("relu", Op::Relu, &[xs]);
    if config.stem == Stem::Pooled {
        xs = g.add("maxpool", Op::MaxPool { size: 3, stride: 2, padding: 1 }, &[xs]);
    }
    for (stage, (depth, width)) in config.depths.into_iter().zip(config.widths).enumerate() {
        for index in 0..depth {
            let name = format!("layer{}.{index}", stage + 1);
            let stride = if 0 < stage && index == 0 { 2 } else { 1 };
            xs = block(&mut g, config, &name, xs, width, stride);
        }
        g.alias(format!("layer{}", stage + 1), xs);
    }
    let xs = g.add("avgpool", Op::GlobalAvgPool, &[xs]);
    g.add("fc", Op::Linear { c_out: n_classes }, &[xs]);
    g.set_default_sites(["conv1", "layer1", "layer2", "layer3", "layer4"]);
    g
}

fn block(
    g: &mut Graph,
    config: &Config,
    name: &str,
    xs: NodeId,
    width: usize,
    stride: usize,
) -> NodeId {
    // (channels, kernel, stride) of each convolution; torchvision strides the 3×3.
    let convs = match config.bottleneck {
        true => vec![(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)],
        false => vec![(width, 3, stride), (width, 3, 1)],
    };
    let mut ys = xs;
    for (i, (c_out, kernel, stride)) in convs.into_iter().enumerate() {
        if 0 < i {
            ys = g.add(format!("{name}.relu{i}"), Op::Relu, &[ys]);
        }
        ys = conv(g, &format!("{name}.conv{}", i + 1), ys, c_out, kernel, stride);
        ys = norm(g, &format!("{name}.bn{}", i + 1), ys);
    }
    let c_out = g.node(ys).channels;
    let skip = if g.node(xs).channels == c_out && stride == 1 {
        xs
    } else {
        let skip = conv(g, &format!("{name}.downsample.0"), xs, c_out, 1, stride);
        let skip = norm(g, &format!("{name}.downsample.1"), skip);
        g.alias(format!("{name}.downsample"), skip);
        skip
    };
    let ys = g.add(format!("{name}.add"), Op::Add, &[ys, skip]);
    g.add(name, Op::Relu, &[ys])
}

fn conv(
    g: &mut Graph,
    name: &str,
    xs: NodeId,
    c_out: usize,
    kernel: usize,
    stride: usize,
) -> NodeId {
    let padding = Padding::Even(kernel / 2);
    g.add(name, Op::Conv2d { c_out, kernel, stride, padding, groups: 1, bias: false }, &[xs])
}

fn norm(g: &mut Graph, name: &str, xs: NodeId) -> NodeId {
    g.add(name, Op::BatchNorm { eps: 1e-5 }, &[xs])
}
