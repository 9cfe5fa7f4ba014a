//! EfficientNet-Lite (Tan and Le 2019, <https://arxiv.org/abs/1905.11946>, without squeeze-and-excitation
//! and with ReLU6), named as the PyPI package `efficientnet-lite-pytorch` names it.

use super::efficientnet::STAGES;
use super::graph::{Graph, NodeId};
use super::mbconv::round_to_8;
use super::op::{Op, Padding};

pub(super) struct Config {
    pub(super) width: f64,
    pub(super) depth: f64,
}

/// Stem and head are not scaled, nor are the first and the last stage made deeper.
///
/// Sites are the stem and the head after ReLU6, and the last block of each stage. The package's names
/// for both ReLUs are one, `_swish`, so these two sites have names of their own.
pub(super) fn efficientnet_lite(config: &Config, n_classes: usize) -> Graph {
    let mut g = Graph::new(3);
    let xs = conv(&mut g, "_conv_stem", Graph::INPUT, 32, 3, 2, 1);
    let xs = norm(&mut g, "_bn0", xs);
    let mut xs = g.add("stem", Op::Relu6, &[xs]);
    let mut sites = vec!["stem".to_owned()];
    let mut place = 0;
    for (stage, (depth, kernel, first_stride, expansion, channels)) in
        STAGES.into_iter().enumerate()
    {
        let scaled = 0 < stage && stage < STAGES.len() - 1;
        let depth = if scaled { (depth as f64 * config.depth).ceil() as usize } else { depth };
        let c_out = round_to_8(channels as f64 * config.width);
        for index in 0..depth {
            let stride = if index == 0 { first_stride } else { 1 };
            xs = block(&mut g, &format!("_blocks.{place}"), xs, kernel, stride, expansion, c_out);
            place += 1;
        }
        sites.push(format!("_blocks.{}", place - 1));
    }
    let xs = conv(&mut g, "_conv_head", xs, 1280, 1, 1, 1);
    let xs = norm(&mut g, "_bn1", xs);
    let xs = g.add("head", Op::Relu6, &[xs]);
    // The last call is what a hook on the shared module keeps.
    g.alias("_swish", xs);
    sites.push("head".to_owned());
    let xs = g.add("_avg_pooling", Op::GlobalAvgPool, &[xs]);
    g.add("_fc", Op::Linear { c_out: n_classes }, &[xs]);
    g.set_default_sites(sites);
    g
}

fn block(
    g: &mut Graph,
    name: &str,
    xs: NodeId,
    kernel: usize,
    stride: usize,
    expansion: usize,
    c_out: usize,
) -> NodeId {
    let c_in = g.node(xs).channels;
    let hidden = c_in * expansion;
    let mut ys = xs;
    if expansion != 1 {
        ys = conv(g, &format!("{name}._expand_conv"), ys, hidden, 1, 1, 1);
        ys = norm(g, &format!("{name}._bn0"), ys);
        ys = g.add(format!("{name}._swish0"), Op::Relu6, &[ys]);
    }
    ys = conv(g, &format!("{name}._depthwise_conv"), ys, hidden, kernel, stride, hidden);
    ys = norm(g, &format!("{name}._bn1"), ys);
    ys = g.add(format!("{name}._swish1"), Op::Relu6, &[ys]);
    ys = conv(g, &format!("{name}._project_conv"), ys, c_out, 1, 1, 1);
    ys = norm(g, &format!("{name}._bn2"), ys);
    if stride == 1 && c_in == c_out {
        g.add(name, Op::Add, &[ys, xs])
    } else {
        g.alias(name, ys);
        ys
    }
}

/// Padded as TensorFlow does, from which the weights were converted. The package fixes the padding for
/// one picture size a level; at that size it is the same zeros.
fn conv(
    g: &mut Graph,
    name: &str,
    xs: NodeId,
    c_out: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
) -> NodeId {
    let padding = Padding::Same;
    g.add(name, Op::Conv2d { c_out, kernel, stride, padding, groups, bias: false }, &[xs])
}

fn norm(g: &mut Graph, name: &str, xs: NodeId) -> NodeId {
    g.add(name, Op::BatchNorm { eps: 1e-3 }, &[xs])
}
