//! The ResNets for 32-pixel pictures (He et al. 2015, section 4.2): three stages of 16, 32 and 64 channels.

use super::graph::{Graph, NodeId};
use super::op::{Op, Padding};

/// How a shortcut widens where a stage begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortcut {
    /// Option A: every other position, and zero channels on both sides. No parameters.
    Pad,
    /// Option B: a strided 1×1 convolution and batch norm, `shortcut.0` and `shortcut.1`.
    Project,
}

/// A network of `6 · blocks + 2` layers, `blocks` in each stage.
pub(super) fn cifar_resnet(blocks: usize, shortcut: Shortcut, n_classes: usize) -> Graph {
    let mut g = Graph::new(3);
    let xs = conv(&mut g, "conv1", Graph::INPUT, 16, 3, 1);
    let xs = norm(&mut g, "bn1", xs);
    let mut xs = g.add("relu", Op::Relu, &[xs]);
    for stage in 0..3 {
        for index in 0..blocks {
            let name = format!("layer{}.{index}", stage + 1);
            let stride = if 0 < stage && index == 0 { 2 } else { 1 };
            xs = block(&mut g, &name, xs, 16 << stage, stride, shortcut);
        }
        g.alias(format!("layer{}", stage + 1), xs);
    }
    let xs = g.add("avgpool", Op::GlobalAvgPool, &[xs]);
    g.add("linear", Op::Linear { c_out: n_classes }, &[xs]);
    g.set_default_sites(["conv1", "layer1", "layer2", "layer3"]);
    g
}

fn block(
    g: &mut Graph,
    name: &str,
    xs: NodeId,
    c_out: usize,
    stride: usize,
    shortcut: Shortcut,
) -> NodeId {
    let ys = conv(g, &format!("{name}.conv1"), xs, c_out, 3, stride);
    let ys = norm(g, &format!("{name}.bn1"), ys);
    let ys = g.add(format!("{name}.relu1"), Op::Relu, &[ys]);
    let ys = conv(g, &format!("{name}.conv2"), ys, c_out, 3, 1);
    let ys = norm(g, &format!("{name}.bn2"), ys);
    let c_in = g.node(xs).channels;
    let skip = match shortcut {
        _ if stride == 1 => xs,
        Shortcut::Pad => {
            let before = (c_out - c_in) / 2;
            g.add(format!("{name}.shortcut"), Op::PadShortcut { stride, before, c_out }, &[xs])
        }
        Shortcut::Project => {
            let skip = conv(g, &format!("{name}.shortcut.0"), xs, c_out, 1, stride);
            let skip = norm(g, &format!("{name}.shortcut.1"), skip);
            g.alias(format!("{name}.shortcut"), skip);
            skip
        }
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
