//! Over all architectures: an edit of weights computes what the ablated network computes, or is refused.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use milan::edit::plan::{Way, plan, way};
use milan::model::graph::Graph;
use milan::model::run::{Ablate, Network, Untapped};
use milan::model::zoo;
use milan::unit::Unit;
use milan::weights::Change;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::graphs::{formula, pictures};

/// Every tensor of an architecture, made up.
pub(crate) fn filled(graph: &Graph) -> BTreeMap<String, Tensor> {
    let read = graph.parameters().filter(|it| !it.optional);
    read.map(|it| (it.name.clone(), formula(&it.name, &it.shape))).collect()
}

fn network(graph: Graph, tensors: &BTreeMap<String, Tensor>) -> Network {
    Network::new(graph, &Device::Cpu, |name| Ok(tensors[name].clone())).unwrap()
}

/// The tensors with the change's slices set to zero, as the file would hold them.
fn edited(tensors: &BTreeMap<String, Tensor>, changes: &[Change]) -> BTreeMap<String, Tensor> {
    let mut tensors = tensors.clone();
    for Change { tensor, axis, indices } in changes {
        let old = &tensors[tensor];
        let n = old.dim(*axis).unwrap();
        let keep: Vec<f32> = (0..n).map(|i| if indices.contains(&i) { 0. } else { 1. }).collect();
        let mut shape = vec![1; old.rank()];
        shape[*axis] = n;
        let keep = Tensor::from_vec(keep, shape, old.device()).unwrap();
        let new = old.broadcast_mul(&keep).unwrap();
        tensors.insert(tensor.clone(), new);
    }
    tensors
}

fn greatest(xs: &Tensor) -> f32 {
    xs.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// An architecture filled with made-up weights, and its answers.
struct Filled {
    name: String,
    tensors: BTreeMap<String, Tensor>,
    network: Network,
    xs: Tensor,
    ys: Tensor,
}

impl Filled {
    fn new(name: &str) -> Filled {
        let graph = zoo::by_name(name).unwrap().build(10);
        let tensors = filled(&graph);
        let xs = pictures(match name.split('_').next() {
            Some("cifar") => [32, 32],
            Some("vit") => [224, 224],
            _ => [64, 64],
        });
        let network = network(graph, &tensors);
        let ys = network.run(&xs, &mut Untapped).unwrap();
        Filled { name: name.into(), tensors, network, xs, ys }
    }

    fn graph(&self) -> &Graph {
        self.network.graph()
    }

    /// Edits three random units of a site, and says how.
    fn check(&self, site: &str) -> String {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (name, graph) = (&self.name, self.graph());
        let id = graph.find(site).unwrap();
        let units: Vec<Unit> =
            (0..3).map(|_| Unit::new(site, rng.random_range(0..graph.node(id).channels))).collect();
        let plan = plan(graph, "", &units).unwrap();
        if let Some(refused) = plan.refused.first() {
            assert!(plan.changes.is_empty() && !refused.reason.is_empty(), "{name} {site}");
            assert!(way(graph, id).is_err());
            return "refused".into();
        }
        let mut ablate = Ablate::new(graph, units.iter().map(|unit| (id, unit.channel)));
        let wanted = self.network.run(&self.xs, &mut ablate).unwrap();
        let edited = network(graph.clone(), &edited(&self.tensors, &plan.changes));
        let found = edited.run(&self.xs, &mut Untapped).unwrap();
        let difference = greatest(&(&found - &wanted).unwrap());
        let effect = greatest(&(&found - &self.ys).unwrap());
        assert!(difference <= 1e-4 * greatest(&wanted), "{name} {site}: {difference:e}");
        assert!(0. < effect, "{name} {site}: the units move nothing, so the test says nothing");
        match way(graph, id).unwrap() {
            Way::Writers => "writers".into(),
            Way::Readers => "readers".into(),
        }
    }
}

#[track_caller]
fn check(name: &str, wanted: &[&str]) {
    let filled = Filled::new(name);
    let sites = filled.graph().default_sites();
    let found: Vec<String> = sites.iter().map(|site| filled.check(site)).collect();
    println!(
        "{name}: {}",
        sites.iter().zip(&found).map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>().join(", ")
    );
    assert_eq!(found, wanted, "{name}: {sites:?}");
}

#[test]
fn resnets() {
    let ways = ["writers", "readers", "readers", "readers", "readers"];
    for name in ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] {
        check(name, &ways);
    }
}

/// Behind a parameter-free shortcut a stage's output reaches a sum unweighted: it cannot be edited.
#[test]
fn cifar_resnets() {
    for name in ["cifar_resnet20", "cifar_resnet56"] {
        check(name, &["writers", "refused", "refused", "readers"]);
    }
    check("cifar_resnet20_b", &["writers", "readers", "readers", "readers"]);
    // Stages of one block: both branches of the sum can be written.
    check("cifar_resnet8_b", &["writers", "readers", "writers", "writers"]);
}

#[test]
fn mobilenet_and_alexnet() {
    check(
        "mobilenet_v2",
        &[
            "writers", "writers", "writers", "readers", "refused", "readers", "refused", "writers",
            "readers", "writers",
        ],
    );
    check("alexnet", &["writers"; 5]);
}

#[test]
fn efficientnets() {
    for n in 0..5 {
        let ways = [
            "writers", "writers", "readers", "readers", "readers", "readers", "readers", "writers",
            "writers",
        ];
        check(&format!("efficientnet_lite{n}"), &ways);
    }
}

/// Squeeze-and-excitation weighs a channel by its own mean, among others', so that its output has no writers.
#[test]
fn every_kind_of_node_of_squeezing_networks_edits_exactly_or_is_refused() {
    for (name, block, rest) in [
        ("efficientnet_b0", "features.3.0", [("features.8", "writers"), ("features.3", "readers")]),
        (
            "mobilenet_v3_small",
            "features.5",
            [("classifier.1", "writers"), ("features.3", "readers")],
        ),
    ] {
        let filled = Filled::new(name);
        let of_block = [
            ("block.0.0", "writers"),
            ("block.0", "writers"),
            ("block.1", "writers"),
            ("block.2.avgpool", "readers"),
            ("block.2.fc1", "writers"),
            ("block.2.activation", "writers"),
            ("block.2.fc2", "writers"),
            ("block.2.scale_activation", "readers"),
            ("block.2", "readers"),
            ("block.3", "writers"),
        ];
        let of_block = of_block.map(|(node, way)| (format!("{block}.{node}"), way));
        let rest = rest.map(|(node, way)| (node.to_owned(), way));
        for (site, wanted) in of_block.into_iter().chain(rest) {
            assert_eq!(filled.check(&site), wanted, "{name} {site}");
        }
    }
}

#[test]
fn vggs() {
    for name in ["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
    {
        check(name, &["writers"; 5]);
    }
}

/// Neurons are rows of the MLP's first layer: GELU(0) = 0.
#[test]
fn vision_transformers() {
    check("vit_b_32", &["writers"; 4]);
}

/// Ablated at every token, the class token among them, and so edited. What is added to the residual stream stays in it.
#[test]
fn every_kind_of_node_of_a_vision_transformer_edits_exactly_or_is_refused() {
    let name = "vit_tiny_patch16_224";
    let filled = Filled::new(name);
    for (site, wanted) in [
        ("patch_embed.proj", "writers"),
        ("cls_token", "writers"),
        ("pos_embed", "writers"),
        ("blocks.0.norm1", "writers"),
        ("blocks.0.attn.qkv", "writers"),
        ("blocks.0.attn.heads", "writers"),
        ("blocks.0.attn", "writers"),
        ("blocks.0.add", "refused"),
        ("blocks.0.mlp.fc1", "writers"),
        ("blocks.0.mlp.act", "writers"),
        ("blocks.0.mlp", "writers"),
        ("blocks.0", "refused"),
        ("blocks.11", "refused"),
        ("norm", "writers"),
        ("pool", "writers"),
    ] {
        assert_eq!(filled.check(site), wanted, "{site}");
    }
}

/// Every node of every kind of network, not only the sites that are looked at by default.
#[test]
fn every_node_of_a_small_network_edits_exactly_or_is_refused() {
    let name = "cifar_resnet14_b";
    let filled = Filled::new(name);
    let names: Vec<String> =
        filled.graph().nodes().iter().skip(1).map(|node| node.name.clone()).collect();
    let refused: Vec<&String> =
        names.iter().filter(|site| filled.check(site) == "refused").collect();
    // Where a stage begins with an identity, its first sum has neither writers nor readers.
    assert_eq!(refused, ["layer1.0.add", "layer1.0"]);
}
