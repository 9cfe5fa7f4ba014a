//! Architectures against PyTorch: golden logits, sites, and the checkpoints of the field.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use milan::model::Model;
use milan::model::graph::{Graph, Parameter};
use milan::model::run::{Network, Untapped};
use milan::model::zoo;
use milan::weights::Weights;

use crate::support::shared_data;

/// The rule by which both sides fill tensors: `values` of tests/data/golden_logits.py.
pub(crate) fn values(parameter: &Parameter) -> Tensor {
    let Parameter { name, shape, .. } = parameter;
    let n: usize = shape.iter().product();
    let tile = splitmix64(fnv1a(name), n.min(65_521));
    let leaf = name.rsplit('.').next().unwrap();
    let scale: Box<dyn Fn(f32) -> f32> = match leaf {
        "running_var" => Box::new(|unit| 0.5 + unit),
        "running_mean" | "bias" => Box::new(|unit| (unit - 0.5) * 0.2),
        _ if shape.len() == 1 => Box::new(|unit| 0.3 + unit * 0.4),
        _ => {
            let fan_in: usize = shape[1..].iter().product();
            let spread = (2. * (6. / fan_in as f64).sqrt()) as f32;
            Box::new(move |unit| (unit - 0.5) * spread)
        }
    };
    let tile: Vec<f32> = tile.into_iter().map(scale).collect();
    let values: Vec<f32> = tile.iter().copied().cycle().take(n).collect();
    Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap()
}

/// Two made-up pictures, `(2, 3, side, side)`.
pub(crate) fn pictures(side: usize) -> Tensor {
    let values = splitmix64(fnv1a("input"), 2 * 3 * side * side);
    let values: Vec<f32> = values.into_iter().map(|unit| (unit - 0.5) * 4.).collect();
    Tensor::from_vec(values, (2, 3, side, side), &Device::Cpu).unwrap()
}

/// Every tensor of an architecture by the rule.
pub(crate) fn filled(graph: &Graph) -> BTreeMap<String, Tensor> {
    let read = graph.parameters().filter(|it| !it.optional);
    read.map(|parameter| (parameter.name.clone(), values(&parameter))).collect()
}

pub(crate) fn network(graph: Graph, tensors: &BTreeMap<String, Tensor>) -> Network {
    Network::new(graph, &Device::Cpu, |name| Ok(tensors[name].clone())).unwrap()
}

/// 24 bits of each number as a fraction in 0..1, exact in f32.
fn splitmix64(seed: u64, n: usize) -> Vec<f32> {
    (1..=n as u64)
        .map(|i| {
            let z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
        })
        .collect()
}

fn fnv1a(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    text.bytes().fold(0xCBF2_9CE4_8422_2325, step)
}

fn golden(kind: &str, name: &str) -> serde_json::Value {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../data/golden_logits.json")).unwrap();
    golden[kind][name].clone()
}

/// The first ten logits of each picture must be PyTorch's, within 1e-4 of the greatest.
#[track_caller]
fn check_logits(name: &str, golden: &serde_json::Value, network: &Network) {
    let side = golden["side"].as_u64().unwrap() as usize;
    let wanted: Vec<f64> =
        golden["logits"].as_array().unwrap().iter().map(|it| it.as_f64().unwrap()).collect();
    let logits = network.run(&pictures(side), &mut Untapped).unwrap();
    let found: Vec<f32> =
        logits.narrow(1, 0, 10).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let greatest = wanted.iter().fold(0f64, |most, it| most.max(it.abs()));
    let greatest = golden["max"].as_f64().unwrap_or(greatest);
    let difference =
        wanted.iter().zip(&found).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0., f64::max);
    println!("{name}: {:.1e} of the greatest logit", difference / greatest);
    assert!(difference <= 1e-4 * greatest, "{name}: {difference:e} of {greatest:e}");
}

#[track_caller]
fn check_random(names: &[&str]) {
    for name in names {
        let graph = zoo::by_name(name).unwrap().build(10);
        let tensors = filled(&graph);
        check_logits(name, &golden("random", name), &network(graph, &tensors));
    }
}

#[test]
fn resnets_agree_with_pytorch() {
    check_random(&["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]);
}

#[test]
fn cifar_resnets_agree_with_pytorch() {
    check_random(&["cifar_resnet8", "cifar_resnet20", "cifar_resnet56"]);
    check_random(&["cifar_resnet8_b", "cifar_resnet20_b", "cifar_resnet56_b"]);
}

#[test]
fn mobilenet_and_alexnet_agree_with_pytorch() {
    check_random(&["mobilenet_v2", "alexnet"]);
}

#[test]
fn vggs_agree_with_pytorch() {
    check_random(&["vgg11", "vgg13", "vgg16", "vgg19"]);
    check_random(&["vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]);
}

#[test]
fn efficientnets_agree_with_pytorch() {
    check_random(&["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]);
    check_random(&["efficientnet_lite3", "efficientnet_lite4"]);
}

#[test]
fn real_checkpoints_are_recognised_and_agree_with_pytorch() {
    let Some(data) = shared_data("models") else { return };
    for name in ["mobilenet_v2", "efficientnet_lite0", "cifar_resnet20", "cifar_resnet56"] {
        let weights = Weights::open(&data.join(format!("{name}.safetensors"))).unwrap();
        let model = Model::load(&weights, None, &Device::Cpu).unwrap();
        assert_eq!((model.arch.as_str(), model.warnings), (name, vec![]));
        check_logits(name, &golden("real", name), &model.network);
    }
}

#[track_caller]
fn check_units(name: &str, wanted: &[usize]) {
    let graph = zoo::by_name(name).unwrap().build(1000);
    let channels = |site: &String| graph.node(graph.find(site).unwrap()).channels;
    let found: Vec<usize> = graph.default_sites().iter().map(channels).collect();
    assert_eq!(found, wanted, "{name}");
}

/// The counts of the reference's table of layers.
#[test]
fn default_sites_have_the_references_units() {
    check_units("resnet18", &[64, 64, 128, 256, 512]);
    check_units("resnet152", &[64, 256, 512, 1024, 2048]);
    check_units("vgg16", &[64, 128, 256, 512, 512]);
    check_units("alexnet", &[64, 192, 384, 256, 256]);
    check_units("mobilenet_v2", &[32, 24, 32, 32, 64, 64, 96, 160, 160, 1280]);
    check_units("cifar_resnet20", &[16, 16, 32, 64]);
}

#[test]
fn an_unknown_architecture_is_answered_with_the_closest() {
    let message = zoo::by_name("resnet-50").err().unwrap().to_string();
    assert!(message.contains("did you mean `resnet50`?"), "{message}");
}
