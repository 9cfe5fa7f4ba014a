//! The architectures that are known: one table.

use super::alexnet::alexnet;
use super::cifar_resnet::{Shortcut, cifar_resnet};
use super::efficientnet::{self, efficientnet};
use super::efficientnet_lite::{self, efficientnet_lite};
use super::graph::Graph;
use super::mobilenet::mobilenet_v2;
use super::mobilenet_v3::{self, mobilenet_v3};
use super::resnet::{self, resnet};
use super::vgg::{self, vgg};
use super::vit::{self, vit};
use crate::usage;

/// A ResNet of 10 layers for pictures of 64 pixels, which the demo's classifier is.
pub const SMALL: &str = "small_resnet10";

/// A named network, wired for any number of classes.
pub struct Architecture {
    pub name: String,
    /// The last linear layer, which tells the number of classes.
    pub head: &'static str,
    wiring: Wiring,
}

enum Wiring {
    Resnet(resnet::Config),
    CifarResnet { blocks: usize, shortcut: Shortcut },
    MobilenetV2,
    MobilenetV3(mobilenet_v3::Config),
    Efficientnet(efficientnet::Config),
    EfficientnetLite(efficientnet_lite::Config),
    Vgg(vgg::Config),
    Alexnet,
    Vit(vit::Config),
}

impl Architecture {
    pub fn build(&self, n_classes: usize) -> Graph {
        match &self.wiring {
            Wiring::Resnet(config) => resnet(config, n_classes),
            Wiring::CifarResnet { blocks, shortcut } => cifar_resnet(*blocks, *shortcut, n_classes),
            Wiring::MobilenetV2 => mobilenet_v2(n_classes),
            Wiring::MobilenetV3(config) => mobilenet_v3(config, n_classes),
            Wiring::Efficientnet(config) => efficientnet(config, n_classes),
            Wiring::EfficientnetLite(config) => efficientnet_lite(config, n_classes),
            Wiring::Vgg(config) => vgg(config, n_classes),
            Wiring::Alexnet => alexnet(n_classes),
            Wiring::Vit(config) => vit(config, n_classes),
        }
    }
}

/// All names, in short, for messages.
pub(super) const KNOWN: &str = "resnet18, 34, 50, 101, 152; small_resnet10; cifar_resnet8, 14, … 110, with `_b` for projection shortcuts; \
    mobilenet_v2; mobilenet_v3_large, small; efficientnet_b0 to b7; efficientnet_lite0 to 4; vgg11, 13, 16, 19, with `_bn` for batch norm; alexnet; \
    vit_tiny_patch16_224, small, base, vit_base_patch32_224; vit_b_16, vit_b_32, vit_l_16";

/// Every architecture, always in the same order.
pub fn all() -> Vec<Architecture> {
    let mut all = Vec::new();
    let mut add =
        |name: &str, head, wiring| all.push(Architecture { name: name.into(), head, wiring });
    for (name, depths, bottleneck) in [
        ("resnet18", [2, 2, 2, 2], false),
        ("resnet34", [3, 4, 6, 3], false),
        ("resnet50", [3, 4, 6, 3], true),
        ("resnet101", [3, 4, 23, 3], true),
        ("resnet152", [3, 8, 36, 3], true),
    ] {
        let (widths, stem) = (resnet::WIDTHS, resnet::Stem::Pooled);
        add(name, "fc", Wiring::Resnet(resnet::Config { depths, widths, bottleneck, stem }));
    }
    add(
        SMALL,
        "fc",
        Wiring::Resnet(resnet::Config {
            depths: [1; 4],
            widths: [24, 48, 96, 160],
            bottleneck: false,
            stem: resnet::Stem::Small,
        }),
    );
    for (suffix, shortcut) in [("", Shortcut::Pad), ("_b", Shortcut::Project)] {
        for blocks in 1..=18 {
            let name = format!("cifar_resnet{}{suffix}", 6 * blocks + 2);
            add(&name, "linear", Wiring::CifarResnet { blocks, shortcut });
        }
    }
    add("mobilenet_v2", "classifier.1", Wiring::MobilenetV2);
    add("mobilenet_v3_large", "classifier.3", Wiring::MobilenetV3(mobilenet_v3::LARGE));
    add("mobilenet_v3_small", "classifier.3", Wiring::MobilenetV3(mobilenet_v3::SMALL));
    for (name, width, depth, eps) in [
        ("efficientnet_b0", 1.0, 1.0, 1e-5),
        ("efficientnet_b1", 1.0, 1.1, 1e-5),
        ("efficientnet_b2", 1.1, 1.2, 1e-5),
        ("efficientnet_b3", 1.2, 1.4, 1e-5),
        ("efficientnet_b4", 1.4, 1.8, 1e-5),
        ("efficientnet_b5", 1.6, 2.2, 1e-3),
        ("efficientnet_b6", 1.8, 2.6, 1e-3),
        ("efficientnet_b7", 2.0, 3.1, 1e-3),
    ] {
        let config = efficientnet::Config { width, depth, eps };
        add(name, "classifier.1", Wiring::Efficientnet(config));
    }
    for (name, width, depth) in [
        ("efficientnet_lite0", 1.0, 1.0),
        ("efficientnet_lite1", 1.0, 1.1),
        ("efficientnet_lite2", 1.1, 1.2),
        ("efficientnet_lite3", 1.2, 1.4),
        ("efficientnet_lite4", 1.4, 1.8),
    ] {
        add(name, "_fc", Wiring::EfficientnetLite(efficientnet_lite::Config { width, depth }));
    }
    for (suffix, batch_norm) in [("", false), ("_bn", true)] {
        for (name, depths) in [
            ("vgg11", [1, 1, 2, 2, 2]),
            ("vgg13", [2, 2, 2, 2, 2]),
            ("vgg16", [2, 2, 3, 3, 3]),
            ("vgg19", [2, 2, 4, 4, 4]),
        ] {
            let name = format!("{name}{suffix}");
            add(&name, "classifier.6", Wiring::Vgg(vgg::Config { depths, batch_norm }));
        }
    }
    add("alexnet", "classifier.6", Wiring::Alexnet);
    for (name, width, depth, heads, patch, names) in [
        ("vit_tiny_patch16_224", 192, 12, 3, 16, &vit::TIMM),
        ("vit_small_patch16_224", 384, 12, 6, 16, &vit::TIMM),
        ("vit_base_patch16_224", 768, 12, 12, 16, &vit::TIMM),
        ("vit_base_patch32_224", 768, 12, 12, 32, &vit::TIMM),
        ("vit_b_16", 768, 12, 12, 16, &vit::TORCHVISION),
        ("vit_b_32", 768, 12, 12, 32, &vit::TORCHVISION),
        ("vit_l_16", 1024, 24, 16, 16, &vit::TORCHVISION),
    ] {
        let config = vit::Config { width, depth, heads, patch, names };
        add(name, names.head, Wiring::Vit(config));
    }
    all
}

/// The architecture of that name; an unknown one is answered with the closest and the whole list.
pub fn by_name(name: &str) -> anyhow::Result<Architecture> {
    let mut all = all();
    if let Some(at) = all.iter().position(|it| it.name == name) {
        return Ok(all.swap_remove(at));
    }
    let alike = |it: &Architecture| strsim::jaro_winkler(&it.name, name);
    // Reversed, because of equals the last is taken and the first is the plainer name.
    let closest = all.iter().rev().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    let closest = closest.map_or(String::new(), |it| format!(", did you mean `{}`?", it.name));
    Err(usage!("no architecture is called `{name}`{closest} (known: {KNOWN})"))
}
