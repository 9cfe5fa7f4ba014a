//! AlexNet (Krizhevsky 2014, <https://arxiv.org/abs/1404.5997>), named as torchvision names it.

use super::graph::Graph;
use super::op::{Op, Padding};

/// (channels, kernel, stride, padding, whether a pooling follows) of each convolution.
const CONVS: [(usize, usize, usize, usize, bool); 5] = [
    (64, 11, 4, 2, true),
    (192, 5, 1, 2, true),
    (384, 3, 1, 1, false),
    (256, 3, 1, 1, false),
    (256, 3, 1, 1, true),
];

/// Sites are the convolutions, seen after the in-place ReLU that follows each.
pub(super) fn alexnet(n_classes: usize) -> Graph {
    let mut g = Graph::new(3);
    let mut xs = Graph::INPUT;
    let mut place = 0;
    let mut sites = Vec::new();
    for (c_out, kernel, stride, padding, pooled) in CONVS {
        let site = format!("features.{place}");
        let padding = Padding::Even(padding);
        xs = g.add(
            &site,
            Op::Conv2d { c_out, kernel, stride, padding, groups: 1, bias: true },
            &[xs],
        );
        xs = g.add(format!("features.{}", place + 1), Op::Relu, &[xs]);
        g.alias(&site, xs);
        sites.push(site);
        place += 2;
        if pooled {
            let pool = Op::MaxPool { size: 3, stride: 2, padding: 0 };
            xs = g.add(format!("features.{place}"), pool, &[xs]);
            place += 1;
        }
    }
    g.alias("features", xs);
    let xs = g.add("avgpool", Op::AdaptiveAvgPool { side: 6 }, &[xs]);
    let xs = g.add("flatten", Op::Flatten, &[xs]);
    let xs = g.add("classifier.1", Op::Linear { c_out: 4096 }, &[xs]);
    let xs = g.add("classifier.2", Op::Relu, &[xs]);
    let xs = g.add("classifier.4", Op::Linear { c_out: 4096 }, &[xs]);
    let xs = g.add("classifier.5", Op::Relu, &[xs]);
    let ys = g.add("classifier.6", Op::Linear { c_out: n_classes }, &[xs]);
    g.alias("classifier", ys);
    g.set_default_sites(sites);
    g
}
