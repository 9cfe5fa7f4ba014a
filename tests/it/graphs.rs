//! The wiring of every architecture, against PyTorch and against real checkpoints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use milan::data::{Loader, Preprocess};
use milan::model::graph::Graph;
use milan::model::run::{Compute, Network, Untapped};
use milan::model::{Model, recognise, zoo};
use milan::weights::Weights;

use crate::support::shared_data;

/// Of the largest logit.
const TOLERANCE: f32 = 1e-4;

#[test]
fn resnets_agree_with_pytorch() {
    check_logits("resnet");
}

#[test]
fn cifar_resnets_agree_with_pytorch() {
    check_logits("cifar_resnet");
}

#[test]
fn mobilenet_agrees_with_pytorch() {
    check_logits("mobilenet_v2");
}

#[test]
fn mobilenet_v3_agrees_with_pytorch() {
    check_logits("mobilenet_v3");
}

#[test]
fn efficientnet_agrees_with_pytorch() {
    check_logits("efficientnet_b");
}

#[test]
fn efficientnet_lite_agrees_with_pytorch() {
    check_logits("efficientnet_lite");
}

#[test]
fn vgg_agrees_with_pytorch() {
    check_logits("vgg");
}

#[test]
fn alexnet_agrees_with_pytorch() {
    check_logits("alexnet");
}

#[test]
fn vision_transformers_agree_with_pytorch() {
    check_logits("vit");
}

#[test]
fn every_architecture_has_its_golden_logits() {
    let known: Vec<String> = zoo::all().into_iter().map(|it| it.name).collect();
    let golden = golden("formula");
    let mut checked: Vec<&String> = golden.iter().map(|(name, _)| name).collect();
    let mut known: Vec<&String> = known.iter().collect();
    known.sort();
    checked.sort();
    assert_eq!(known, checked);
}

#[test]
fn real_checkpoints_agree_with_pytorch() {
    let Some(models) = shared_data("models") else { return };
    for (name, golden) in golden("real") {
        let model = load(&models.join(format!("{name}.safetensors")));
        let ys = model.network.run(&pictures(golden.sides), &mut Untapped).unwrap();
        let kept = ys.narrow(1, 0, golden.logits[0].len()).unwrap();
        compare(&name, &kept, &golden);
    }
}

/// The engine with Winograd's transforms gives the answers of candle's convolutions, on real networks and pictures.
#[test]
fn real_answers_do_not_depend_on_what_computes_them() {
    let Some(data) = shared_data("") else { return };
    for (name, pictures, n) in
        [("cifar_resnet56", "cifar10_test", 500), ("mobilenet_v2", "images", 40)]
    {
        let path = data.join(format!("models/{name}.safetensors"));
        let model = load(&path);
        let oracle = load(&path).network.computed(Compute::Candle);
        let mut dataset = milan::data::open(&data.join(pictures), &[]).unwrap();
        let step = (dataset.pictures.len() / n).max(1);
        dataset.pictures = dataset.pictures.into_iter().step_by(step).collect();
        let mut n_seen = 0;
        for batch in Loader::new(&dataset, &Preprocess::of(&model.arch), 20) {
            let xs = batch.unwrap().xs;
            let found = model.network.run(&xs, &mut Untapped).unwrap();
            let wanted = oracle.run(&xs, &mut Untapped).unwrap();
            let top = |it: &Tensor| it.argmax(1).unwrap().to_vec1::<u32>().unwrap();
            assert_eq!(top(&found), top(&wanted), "{name}");
            let most = |it: Tensor| it.abs().unwrap().max_all().unwrap().to_scalar().unwrap();
            let (diff, scale): (f32, f32) = (most((&found - &wanted).unwrap()), most(wanted));
            assert!(diff <= TOLERANCE * scale, "{name}: {diff} of {scale}");
            n_seen += top(&found).len();
        }
        assert!(n <= n_seen);
    }
}

#[test]
fn real_checkpoints_are_recognised_and_read_to_the_last_tensor() {
    let Some(models) = shared_data("models") else { return };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(models).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|it| it == "safetensors"));
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let model = load(&file);
        assert_eq!(model.arch, file.file_stem().unwrap().to_str().unwrap());
        assert_eq!(model.warnings, Vec::<String>::new());
    }
}

/// All names at once, so that two architectures with the same tensors would show.
#[test]
fn every_architecture_is_recognised_by_its_tensors_under_any_prefix() {
    for (architecture, prefix) in
        zoo::all().iter().zip(["", "module.", "model.net."].iter().cycle())
    {
        let graph = architecture.build(7);
        let shapes: BTreeMap<String, Vec<usize>> =
            graph.parameters().map(|it| (format!("{prefix}{}", it.name), it.shape)).collect();
        let found = recognise(&shapes, None).unwrap();
        assert_eq!((&found.name, found.prefix.as_str()), (&architecture.name, *prefix));
        assert_eq!(found.unread, Vec::<String>::new());
        assert_eq!(found.graph.node(found.graph.output()).channels, 7);
    }
}

#[test]
fn an_unknown_architecture_is_answered_with_the_closest() {
    for (asked, meant) in [
        ("resnet-18", "resnet18"),
        ("ResNet50", "resnet50"),
        ("mobilenetv2", "mobilenet_v2"),
        ("vgg16bn", "vgg16_bn"),
        ("efficientnet-lite3", "efficientnet_lite3"),
        ("EfficientNet-B4", "efficientnet_b4"),
        ("mobilenetv3_small", "mobilenet_v3_small"),
        ("vit_small_patch16", "vit_small_patch16_224"),
        ("ViT-B/16", "vit_b_16"),
    ] {
        let error = zoo::by_name(asked).err().unwrap();
        assert_eq!(milan::error::kind(&error), milan::error::Kind::Usage);
        let wanted = format!("no architecture is called `{asked}`, did you mean `{meant}`?");
        assert!(error.to_string().starts_with(&wanted), "{error}");
    }
}

#[test]
fn default_sites_are_those_of_milan() {
    let stages = "conv1 layer1 layer2 layer3 layer4";
    check_sites("resnet18", stages, &[64, 64, 128, 256, 512]);
    check_sites("resnet34", stages, &[64, 64, 128, 256, 512]);
    for name in ["resnet50", "resnet101", "resnet152"] {
        check_sites(name, stages, &[64, 256, 512, 1024, 2048]);
    }
    for name in ["cifar_resnet20", "cifar_resnet56_b"] {
        check_sites(name, "conv1 layer1 layer2 layer3", &[16, 16, 32, 64]);
    }
    check_sites(
        "mobilenet_v2",
        "features.0 features.2 features.4 features.6 features.8 features.10 features.12 \
         features.14 features.16 features.18",
        &[32, 24, 32, 32, 64, 64, 96, 160, 160, 1280],
    );
    check_sites(
        "efficientnet_lite0",
        "stem _blocks.0 _blocks.2 _blocks.4 _blocks.7 _blocks.10 _blocks.14 _blocks.15 head",
        &[32, 16, 24, 40, 80, 112, 192, 320, 1280],
    );
    check_sites(
        "mobilenet_v3_small",
        "features.0 features.2 features.4 features.6 features.8 features.10 features.12",
        &[16, 24, 40, 40, 48, 96, 576],
    );
    check_sites(
        "efficientnet_b0",
        "features.0 features.1 features.2 features.3 features.4 features.5 features.6 features.7 features.8",
        &[32, 16, 24, 40, 80, 112, 192, 320, 1280],
    );
    let blocks = [64, 128, 256, 512, 512];
    check_sites("vgg11", "features.0 features.3 features.8 features.13 features.18", &blocks);
    check_sites("vgg13", "features.2 features.7 features.12 features.17 features.22", &blocks);
    check_sites("vgg16", "features.2 features.7 features.14 features.21 features.28", &blocks);
    check_sites("vgg19", "features.2 features.7 features.16 features.25 features.34", &blocks);
    check_sites("vgg11_bn", "features.2 features.6 features.13 features.20 features.27", &blocks);
    check_sites("vgg16_bn", "features.5 features.12 features.22 features.32 features.42", &blocks);
    check_sites(
        "alexnet",
        "features.0 features.3 features.6 features.8 features.10",
        &[64, 192, 384, 256, 256],
    );
    check_sites(
        "vit_small_patch16_224",
        "blocks.2.mlp.fc1 blocks.5.mlp.fc1 blocks.8.mlp.fc1 blocks.11.mlp.fc1",
        &[1536; 4],
    );
    let layer = |index: usize| format!("encoder.layers.encoder_layer_{index}.mlp.0");
    check_sites("vit_l_16", &[5, 11, 17, 23].map(layer).join(" "), &[4096; 4]);
}

/// What a vision transformer has no positions for is said with what to do, before anything is computed.
#[test]
fn pictures_of_another_size_are_refused_where_there_are_no_positions_for_them() {
    let name = "vit_b_32";
    let graph = graph(name);
    let shapes: BTreeMap<_, _> = graph.parameters().map(|it| (it.name, it.shape)).collect();
    let tensor = |name: &str| Ok(formula(name, &shapes[name]));
    let network = Network::new(graph, &Device::Cpu, tensor).unwrap();
    for (sides, given) in [([384, 384], "384x384"), ([224, 225], "224x225"), ([32, 32], "32x32")] {
        let error = network.run(&pictures(sides), &mut Untapped).unwrap_err();
        assert_eq!(milan::error::kind(&error), milan::error::Kind::Inconclusive);
        assert_eq!(
            error.to_string(),
            format!(
                "this network reads pictures of 224x224 pixels only: `conv_proj` cuts 7x7 patches of 32x32 and is \
                 given {given}; resize or crop them to 224x224"
            )
        );
    }
}

/// Where PyTorch's hook sees an in-place ReLU's result, or a container's, ours sees that node.
#[test]
fn names_mean_the_output_that_a_pytorch_hook_keeps() {
    for (name, pairs) in [
        ("resnet50", "layer1 layer1.2; layer2.0.downsample layer2.0.downsample.1; conv1 conv1"),
        ("cifar_resnet8_b", "layer3 layer3.0; layer3.0.shortcut layer3.0.shortcut.1"),
        (
            "mobilenet_v2",
            "features.0 features.0.2; features.1 features.1.conv.2; features.2 features.2.conv.3",
        ),
        (
            "mobilenet_v2",
            "features.3 features.3; features.18 features.18.2; classifier classifier.1",
        ),
        (
            "mobilenet_v3_large",
            "features.4 features.4.block.3.1; features.4.block.2 features.4.block.2; features features.16.2",
        ),
        ("efficientnet_b2", "features.3 features.3.2; features.3.0 features.3.0.block.3.1"),
        ("vgg16", "features.28 features.29; features.29 features.29; features features.30"),
        ("vgg16_bn", "features.40 features.40; features.42 features.42"),
        ("alexnet", "features.10 features.11; features features.12; classifier classifier.6"),
        ("efficientnet_lite0", "_blocks.1 _blocks.1._bn2; _blocks.2 _blocks.2; _swish head"),
        ("vit_tiny_patch16_224", "blocks.3.attn blocks.3.attn.proj; blocks.3.mlp blocks.3.mlp.fc2"),
        (
            "vit_b_16",
            "encoder.layers.encoder_layer_0.self_attention encoder.layers.encoder_layer_0.self_attention.out_proj",
        ),
    ] {
        let graph = graph(name);
        for pair in pairs.split("; ") {
            let (asked, meant) = pair.split_once(' ').unwrap();
            let found = graph.find(asked).unwrap_or_else(|| panic!("{name} has no {asked}"));
            assert_eq!(graph.node(found).name, meant, "{asked} of {name}");
        }
    }
}

#[track_caller]
fn check_sites(name: &str, sites: &str, n_units: &[usize]) {
    let graph = graph(name);
    assert_eq!(graph.default_sites().join(" "), sites, "{name}");
    let channels = |site: &String| graph.node(graph.find(site).unwrap()).channels;
    let found: Vec<usize> = graph.default_sites().iter().map(channels).collect();
    assert_eq!(found, n_units, "{name}");
}

/// Every architecture whose name begins so, filled by the formula, against PyTorch's logits.
#[track_caller]
fn check_logits(family: &str) {
    let golden: Vec<_> =
        golden("formula").into_iter().filter(|(name, _)| name.starts_with(family)).collect();
    assert!(!golden.is_empty());
    for (name, golden) in golden {
        let graph = zoo::by_name(&name).unwrap().build(golden.logits[0].len());
        let shapes: BTreeMap<_, _> = graph.parameters().map(|it| (it.name, it.shape)).collect();
        let tensor = |name: &str| Ok(formula(name, &shapes[name]));
        let network = Network::new(graph, &Device::Cpu, tensor).unwrap();
        compare(&name, &network.run(&pictures(golden.sides), &mut Untapped).unwrap(), &golden);
    }
}

#[track_caller]
fn compare(name: &str, ys: &Tensor, golden: &Golden) {
    let ys = ys.to_vec2::<f32>().unwrap().concat();
    let wanted = golden.logits.concat();
    assert_eq!(ys.len(), wanted.len(), "{name}");
    let largest = wanted.iter().fold(0f32, |max, y| max.max(y.abs()));
    let differences = ys.iter().zip(&wanted).map(|(y, wanted)| (y - wanted).abs());
    // NaN must not hide behind `max`, which ignores it.
    let worst = differences.fold(0f32, |max, it| if it <= max { max } else { it }) / largest;
    println!("{name}: {worst:.1e}");
    assert!(worst <= TOLERANCE, "{name} differs from PyTorch by {worst:e} of its largest logit");
}

struct Golden {
    sides: [usize; 2],
    /// A row for each picture.
    logits: Vec<Vec<f32>>,
}

/// What `tests/data/golden_logits.py` wrote, in its order.
fn golden(section: &str) -> Vec<(String, Golden)> {
    let text = include_str!("../data/golden_logits.json");
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let read = |(name, golden): (&String, &serde_json::Value)| {
        let sides = serde_json::from_value(golden["sides"].clone()).unwrap();
        let logits = serde_json::from_value(golden["logits"].clone()).unwrap();
        (name.clone(), Golden { sides, logits })
    };
    json[section].as_object().unwrap().iter().map(read).collect()
}

/// 65,521 numbers in -1..1 that follow from a name; `tile` of the script computes the same.
fn tile(name: &str) -> Vec<f32> {
    let hash = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    let mut state = name.bytes().fold(0xCBF2_9CE4_8422_2325, hash);
    let mut next = || {
        state = u64::wrapping_add(state, 0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..65_521).map(|_| (next() >> 40) as f32 / (1 << 23) as f32 - 1.).collect()
}

/// A tensor in the range its kind usually has; `formula` of the script computes the same.
pub(crate) fn formula(name: &str, shape: &[usize]) -> Tensor {
    let mut values = tile(name);
    let mut each = |change: &dyn Fn(f32) -> f32| values.iter_mut().for_each(|it| *it = change(*it));
    if 1 < shape.len() {
        let fan_in: usize = shape[1..].iter().product();
        let bound = (6. / fan_in as f64).sqrt() as f32;
        each(&|it| bound * it);
    } else if name.ends_with("running_var") {
        each(&|it| 1. + 0.5 * it);
    } else if name.ends_with("weight") {
        each(&|it| 1. + 0.5 * it);
        let ends = [
            ".bn2.weight",
            ".bn3.weight",
            "._bn2.weight",
            ".conv.3.weight",
            ".block.2.1.weight",
            ".block.3.1.weight",
        ];
        if ends.iter().any(|end| name.ends_with(end)) {
            each(&|it| 0.4 * it);
        }
    } else {
        each(&|it| 0.1 * it);
    }
    repeated(&values, shape)
}

pub(crate) fn pictures([h, w]: [usize; 2]) -> Tensor {
    let values: Vec<f32> = tile("pictures").iter().map(|it| 2. * it).collect();
    repeated(&values, &[2, 3, h, w])
}

fn repeated(values: &[f32], shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    let mut all = Vec::with_capacity(n);
    while all.len() < n {
        all.extend_from_slice(&values[..values.len().min(n - all.len())]);
    }
    Tensor::from_vec(all, shape, &Device::Cpu).unwrap()
}

fn graph(name: &str) -> Graph {
    zoo::by_name(name).unwrap().build(10)
}

fn load(file: &Path) -> Model {
    Model::load(&Weights::open(file).unwrap(), None, &Device::Cpu).unwrap()
}
