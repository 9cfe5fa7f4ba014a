//! MobileNetV3 (Howard et al. 2019, <https://arxiv.org/abs/1905.02244>), named as torchvision names it.

use super::graph::Graph;
use super::mbconv::{Block, Style, round_to_8};
use super::op::{Curve, Op};

/// (kernel, channels in between, channels, whether it squeezes and excites, activation, stride)
type Row = (usize, usize, usize, bool, Op, usize);

pub(super) struct Config {
    pub(super) blocks: &'static [Row],
    /// Features between the two linear layers.
    pub(super) features: usize,
}

const RE: Op = Op::Relu;
const HS: Op = Op::Curve(Curve::HardSwish);

/// The paper's table 1.
pub(super) const LARGE: Config = Config {
    blocks: &[
        (3, 16, 16, false, RE, 1),
        (3, 64, 24, false, RE, 2),
        (3, 72, 24, false, RE, 1),
        (5, 72, 40, true, RE, 2),
        (5, 120, 40, true, RE, 1),
        (5, 120, 40, true, RE, 1),
        (3, 240, 80, false, HS, 2),
        (3, 200, 80, false, HS, 1),
        (3, 184, 80, false, HS, 1),
        (3, 184, 80, false, HS, 1),
        (3, 480, 112, true, HS, 1),
        (3, 672, 112, true, HS, 1),
        (5, 672, 160, true, HS, 2),
        (5, 960, 160, true, HS, 1),
        (5, 960, 160, true, HS, 1),
    ],
    features: 1280,
};

/// The paper's table 2.
pub(super) const SMALL: Config = Config {
    blocks: &[
        (3, 16, 16, true, RE, 2),
        (3, 72, 24, false, RE, 2),
        (3, 88, 24, false, RE, 1),
        (5, 96, 40, true, HS, 2),
        (5, 240, 40, true, HS, 1),
        (5, 240, 40, true, HS, 1),
        (5, 120, 48, true, HS, 1),
        (5, 144, 48, true, HS, 1),
        (5, 288, 96, true, HS, 2),
        (5, 576, 96, true, HS, 1),
        (5, 576, 96, true, HS, 1),
    ],
    features: 1024,
};

/// Sites are the stem, every other block, and what the head's convolution gives.
pub(super) fn mobilenet_v3(config: &Config, n_classes: usize) -> Graph {
    let mut g = Graph::new(3);
    let style = Style { eps: 1e-3, squeeze: [Op::Relu, Op::Curve(Curve::HardSigmoid)] };
    let mut xs = style.conv(&mut g, "features.0", Graph::INPUT, [16, 3, 2, 1], Some(HS));
    for (at, &(kernel, hidden, c_out, squeezes, activation, stride)) in
        config.blocks.iter().enumerate()
    {
        let squeezed = squeezes.then(|| round_to_8(hidden as f64 / 4.));
        let block = Block { kernel, stride, hidden, c_out, squeezed, activation };
        xs = style.block(&mut g, &format!("features.{}", at + 1), xs, &block);
    }
    let last = config.blocks.len() + 1;
    let c = 6 * g.node(xs).channels;
    let xs = style.conv(&mut g, &format!("features.{last}"), xs, [c, 1, 1, 1], Some(HS));
    g.alias("features", xs);
    let xs = g.add("avgpool", Op::GlobalAvgPool, &[xs]);
    let xs = g.add("classifier.0", Op::Linear { c_out: config.features }, &[xs]);
    let xs = g.add("classifier.1", HS, &[xs]);
    let ys = g.add("classifier.3", Op::Linear { c_out: n_classes }, &[xs]);
    g.alias("classifier", ys);
    g.set_default_sites((0..last).step_by(2).chain([last]).map(|it| format!("features.{it}")));
    g
}
