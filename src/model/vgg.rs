//! VGG (Simonyan and Zisserman 2014, <https://arxiv.org/abs/1409.1556>), named as torchvision names it.

use super::graph::Graph;
use super::op::{Op, Padding};

pub(super) struct Config {
    /// Convolutions in each of the five blocks.
    pub(super) depths: [usize; 5],
    pub(super) batch_norm: bool,
}

/// Sites are the outputs of the blocks before pooling. Without batch norm an in-place ReLU follows the
/// last convolution at once, so the convolution's name means the output after it, as PyTorch's hooks
/// see it; with batch norm between, the site is the ReLU by its own name.
pub(super) fn vgg(config: &Config, n_classes: usize) -> Graph {
    let mut g = Graph::new(3);
    let mut xs = Graph::INPUT;
    let mut place = 0;
    let mut sites = Vec::new();
    for (depth, c_out) in config.depths.into_iter().zip([64, 128, 256, 512, 512]) {
        let mut site = String::new();
        for _ in 0..depth {
            let name = format!("features.{place}");
            let padding = Padding::Even(1);
            let conv = Op::Conv2d { c_out, kernel: 3, stride: 1, padding, groups: 1, bias: true };
            xs = g.add(&name, conv, &[xs]);
            if config.batch_norm {
                place += 1;
                xs = g.add(format!("features.{place}"), Op::BatchNorm { eps: 1e-5 }, &[xs]);
            }
            place += 1;
            xs = g.add(format!("features.{place}"), Op::Relu, &[xs]);
            site = if config.batch_norm { format!("features.{place}") } else { name };
            if !config.batch_norm {
                g.alias(&site, xs);
            }
            place += 1;
        }
        sites.push(site);
        xs = g.add(
            format!("features.{place}"),
            Op::MaxPool { size: 2, stride: 2, padding: 0 },
            &[xs],
        );
        place += 1;
    }
    g.alias("features", xs);
    let xs = g.add("avgpool", Op::AdaptiveAvgPool { side: 7 }, &[xs]);
    let xs = g.add("flatten", Op::Flatten, &[xs]);
    let xs = g.add("classifier.0", Op::Linear { c_out: 4096 }, &[xs]);
    let xs = g.add("classifier.1", Op::Relu, &[xs]);
    let xs = g.add("classifier.3", Op::Linear { c_out: 4096 }, &[xs]);
    let xs = g.add("classifier.4", Op::Relu, &[xs]);
    let ys = g.add("classifier.6", Op::Linear { c_out: n_classes }, &[xs]);
    g.alias("classifier", ys);
    g.set_default_sites(sites);
    g
}
