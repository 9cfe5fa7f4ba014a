//! MobileNetV2 (Sandler et al. 2018, <https://arxiv.org/abs/1801.04381>), named as torchvision names it.

use super::graph::{Graph, NodeId};
use super::mbconv::conv_norm;
use super::op::{Op, Padding};

/// Of every batch norm.
const EPS: f64 = 1e-5;

/// (expansion, channels, blocks, stride of the first block), the paper's table 2.
const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// Sites are every other block: after ReLU6 at both ends, the linear bottleneck between.
pub(super) fn mobilenet_v2(n_classes: usize) -> Graph {
    let mut g = Graph::new(3);
    let mut xs = conv_bn_relu6(&mut g, "features.0", Graph::INPUT, [32, 3, 2, 1]);
    let mut place = 1;
    for (expansion, c_out, depth, first_stride) in STAGES {
        for index in 0..depth {
            let stride = if index == 0 { first_stride } else { 1 };
            xs = inverted_residual(
                &mut g,
                &format!("features.{place}"),
                xs,
                expansion,
                c_out,
                stride,
            );
            place += 1;
        }
    }
    let xs = conv_bn_relu6(&mut g, &format!("features.{place}"), xs, [1280, 1, 1, 1]);
    g.alias("features", xs);
    let xs = g.add("avgpool", Op::GlobalAvgPool, &[xs]);
    let ys = g.add("classifier.1", Op::Linear { c_out: n_classes }, &[xs]);
    g.alias("classifier", ys);
    g.set_default_sites((0..=18).step_by(2).map(|i| format!("features.{i}")));
    g
}

fn inverted_residual(
    g: &mut Graph,
    name: &str,
    xs: NodeId,
    expansion: usize,
    c_out: usize,
    stride: usize,
) -> NodeId {
    let c_in = g.node(xs).channels;
    let hidden = c_in * expansion;
    let mut ys = xs;
    let mut step = 0;
    if expansion != 1 {
        ys = conv_bn_relu6(g, &format!("{name}.conv.0"), ys, [hidden, 1, 1, 1]);
        step += 1;
    }
    ys = conv_bn_relu6(g, &format!("{name}.conv.{step}"), ys, [hidden, 3, stride, hidden]);
    let project = Op::Conv2d {
        c_out,
        kernel: 1,
        stride: 1,
        padding: Padding::Even(0),
        groups: 1,
        bias: false,
    };
    ys = g.add(format!("{name}.conv.{}", step + 1), project, &[ys]);
    ys = g.add(format!("{name}.conv.{}", step + 2), Op::BatchNorm { eps: EPS }, &[ys]);
    g.alias(format!("{name}.conv"), ys);
    if stride == 1 && c_in == c_out {
        g.add(name, Op::Add, &[xs, ys])
    } else {
        g.alias(name, ys);
        ys
    }
}

fn conv_bn_relu6(g: &mut Graph, name: &str, xs: NodeId, sizes: [usize; 4]) -> NodeId {
    conv_norm(g, name, xs, sizes, EPS, Some(Op::Relu6))
}
