//! Vision transformers (Dosovitskiy et al. 2021, <https://arxiv.org/abs/2010.11929>), named as timm or as
//! torchvision names them. DeiT's and DINO's checkpoints have timm's names.

use super::graph::{Graph, NodeId};
use super::op::{Curve, Op};

/// Of the pictures, in pixels.
const SIDE: usize = 224;

const NORM: Op = Op::LayerNorm { eps: 1e-6 };

/// Which of the family.
pub(super) struct Config {
    /// Channels of a token.
    pub(super) width: usize,
    pub(super) depth: usize,
    pub(super) heads: usize,
    /// Side of a patch, in pixels.
    pub(super) patch: usize,
    pub(super) names: &'static Names,
}

/// What a checkpoint calls its parts; those of a block come after the block's own name.
pub(super) struct Names {
    patches: &'static str,
    class_token: &'static str,
    positions: &'static str,
    /// Before the number of a block.
    blocks: &'static str,
    norm1: &'static str,
    /// Ends in `qkv` and `proj`.
    attention: &'static str,
    qkv: &'static str,
    proj: &'static str,
    norm2: &'static str,
    /// Ends in `fc1`, `gelu` and `fc2`.
    mlp: &'static str,
    fc1: &'static str,
    gelu: &'static str,
    fc2: &'static str,
    norm: &'static str,
    pub(super) head: &'static str,
}

pub(super) const TIMM: Names = Names {
    patches: "patch_embed.proj",
    class_token: "cls_token",
    positions: "pos_embed",
    blocks: "blocks.",
    norm1: "norm1",
    attention: "attn",
    qkv: "qkv",
    proj: "proj",
    norm2: "norm2",
    mlp: "mlp",
    fc1: "fc1",
    gelu: "act",
    fc2: "fc2",
    norm: "norm",
    head: "head",
};

pub(super) const TORCHVISION: Names = Names {
    patches: "conv_proj",
    class_token: "class_token",
    positions: "encoder.pos_embedding",
    blocks: "encoder.layers.encoder_layer_",
    norm1: "ln_1",
    attention: "self_attention",
    qkv: "in_proj",
    proj: "out_proj",
    norm2: "ln_2",
    mlp: "mlp",
    fc1: "0",
    gelu: "1",
    fc2: "3",
    norm: "encoder.ln",
    head: "heads.head",
};

/// Sites are the neurons of four blocks' MLPs, a quarter of the depth apart, before their GELU: where MILAN
/// looks at DINO (Hernandez et al. 2022).
pub(super) fn vit(config: &Config, n_classes: usize) -> Graph {
    let Config { width, depth, patch, names, .. } = *config;
    let mut g = Graph::new(3);
    let patches = Op::Patches { c_out: width, size: patch, side: SIDE / patch };
    let xs = g.add(names.patches, patches, &[Graph::INPUT]);
    let xs = g.add(names.class_token, Op::ClassToken, &[xs]);
    let mut xs = g.add(names.positions, Op::Positions, &[xs]);
    for index in 0..depth {
        xs = block(&mut g, config, index, xs);
    }
    let xs = g.add(names.norm, NORM, &[xs]);
    let xs = g.add("pool", Op::TakeClass, &[xs]);
    g.add(names.head, Op::Linear { c_out: n_classes }, &[xs]);
    let Names { blocks, mlp, fc1, .. } = names;
    let quarters = (1..=4).map(|quarter| quarter * depth / 4 - 1);
    g.set_default_sites(quarters.map(|index| format!("{blocks}{index}.{mlp}.{fc1}")));
    g
}

/// Attention and an MLP, each behind a norm and added to what came in.
fn block(g: &mut Graph, config: &Config, index: usize, xs: NodeId) -> NodeId {
    let Config { width, heads, names, .. } = *config;
    let name = format!("{}{index}", names.blocks);
    let linear = |c_out| Op::Linear { c_out };

    let attention = format!("{name}.{}", names.attention);
    let ys = g.add(format!("{name}.{}", names.norm1), NORM, &[xs]);
    let ys = g.add(format!("{attention}.{}", names.qkv), linear(3 * width), &[ys]);
    let ys = g.add(format!("{attention}.heads"), Op::Attention { heads }, &[ys]);
    let ys = g.add(format!("{attention}.{}", names.proj), linear(width), &[ys]);
    g.alias(attention, ys);
    let xs = g.add(format!("{name}.add"), Op::Add, &[xs, ys]);

    let mlp = format!("{name}.{}", names.mlp);
    let ys = g.add(format!("{name}.{}", names.norm2), NORM, &[xs]);
    let ys = g.add(format!("{mlp}.{}", names.fc1), linear(4 * width), &[ys]);
    let ys = g.add(format!("{mlp}.{}", names.gelu), Op::Curve(Curve::Gelu), &[ys]);
    let ys = g.add(format!("{mlp}.{}", names.fc2), linear(width), &[ys]);
    g.alias(mlp, ys);
    g.add(name, Op::Add, &[xs, ys])
}
