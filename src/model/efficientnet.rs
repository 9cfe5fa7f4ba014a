//! EfficientNet (Tan and Le 2019, <https://arxiv.org/abs/1905.11946>), named as torchvision names it.

use super::graph::Graph;
use super::mbconv::{Block, Style, round_to_8};
use super::op::{Curve, Op};

pub(super) struct Config {
    pub(super) width: f64,
    pub(super) depth: f64,
    /// Of every batch norm.
    pub(super) eps: f64,
}

/// (blocks, kernel, stride of the first block, expansion, channels), before scaling: the paper's table 1.
pub(super) const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];

/// Sites are the stem, the last block of each stage, and what the head's convolution gives.
pub(super) fn efficientnet(config: &Config, n_classes: usize) -> Graph {
    let mut g = Graph::new(3);
    let style =
        Style { eps: config.eps, squeeze: [Op::Curve(Curve::Silu), Op::Curve(Curve::Sigmoid)] };
    let wide = |channels: usize| round_to_8(channels as f64 * config.width);
    let silu = Some(Op::Curve(Curve::Silu));
    let mut xs = style.conv(&mut g, "features.0", Graph::INPUT, [wide(32), 3, 2, 1], silu);
    for (at, (depth, kernel, first_stride, expansion, channels)) in STAGES.into_iter().enumerate() {
        let stage = format!("features.{}", at + 1);
        for index in 0..(depth as f64 * config.depth).ceil() as usize {
            let c_in = g.node(xs).channels;
            let block = Block {
                kernel,
                stride: if index == 0 { first_stride } else { 1 },
                hidden: c_in * expansion,
                c_out: wide(channels),
                squeezed: Some(c_in / 4),
                activation: Op::Curve(Curve::Silu),
            };
            xs = style.block(&mut g, &format!("{stage}.{index}"), xs, &block);
        }
        g.alias(stage, xs);
    }
    let c = 4 * g.node(xs).channels;
    let xs = style.conv(&mut g, "features.8", xs, [c, 1, 1, 1], silu);
    g.alias("features", xs);
    let xs = g.add("avgpool", Op::GlobalAvgPool, &[xs]);
    let ys = g.add("classifier.1", Op::Linear { c_out: n_classes }, &[xs]);
    g.alias("classifier", ys);
    g.set_default_sites((0..=8).map(|it| format!("features.{it}")));
    g
}
