//! The engine against candle, op by op and wired together, with every kind of vector.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Isa;
use crate::model::graph::{Graph, NodeId};
use crate::model::op::{Curve, Op, Padding};
use crate::model::run::{Ablate, Compute, Network, Record, Tap, Untapped};

/// A network with random weights, the same ones for every `by`.
fn network(graph: &Graph, by: Compute) -> Network {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let shapes: std::collections::BTreeMap<String, Vec<usize>> =
        graph.parameters().map(|it| (it.name, it.shape)).collect();
    let network = Network::new(graph.clone(), &Device::Cpu, |name| {
        let shape = &shapes[name];
        let n_inputs = shape.iter().skip(1).product::<usize>().max(1) as f32;
        let (low, high) = match name.ends_with("running_var") {
            true => (0.5, 1.),
            false => (-(3. / n_inputs).sqrt(), (3. / n_inputs).sqrt()),
        };
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| rng.random_range(low..high)).collect();
        Ok(Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?)
    });
    network.unwrap().computed(by)
}

fn pictures(n: usize, c: usize, h: usize, w: usize) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let values: Vec<f32> = (0..n * c * h * w).map(|_| rng.random_range(-1f32..1.)).collect();
    Tensor::from_vec(values, (n, c, h, w), &Device::Cpu).unwrap()
}

fn ways() -> Vec<Compute> {
    let isas = [Isa::best(), Isa::Plain, Isa::Wide];
    isas.into_iter().flat_map(|isa| [Compute::Direct(isa), Compute::Winograd(isa)]).collect()
}

#[track_caller]
fn check_equal(found: &Tensor, wanted: &Tensor, what: &str) {
    assert_eq!(found.dims(), wanted.dims(), "{what}");
    let most = |it: Tensor| it.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let (diff, scale) = (most((found - wanted).unwrap()), most(wanted.clone()));
    assert!(diff <= 3e-5 * scale.max(1.), "{what}: {diff} of {scale}");
}

/// Every node's output is candle's, whether it is looked at alone or with all others.
#[track_caller]
fn check(graph: &Graph, xs: &Tensor) {
    let nodes: Vec<NodeId> = (1..graph.nodes().len()).collect();
    let mut wanted = Record::new(nodes.clone());
    network(graph, Compute::Candle).run(xs, &mut wanted).unwrap();
    for by in ways() {
        let network = network(graph, by);
        let mut found = Record::new(nodes.clone());
        network.run(xs, &mut found).unwrap();
        for &id in &nodes {
            let what = format!("{by:?} {} on {:?}", graph.node(id).name, xs.dims());
            let wanted = &wanted.get(id).unwrap();
            check_equal(&found.get(id).unwrap(), wanted, &what);
            let mut alone = Record::new([id]);
            network.run(xs, &mut alone).unwrap();
            check_equal(&alone.get(id).unwrap(), wanted, &format!("{what}, alone"));
        }
    }
}

fn conv(c_out: usize, kernel: usize, stride: usize, padding: Padding, groups: usize) -> Op {
    Op::Conv2d { c_out, kernel, stride, padding, groups, bias: c_out % 2 == 1 }
}

#[test]
fn every_convolution_is_candles() {
    for (kernel, stride, padding) in [
        (1, 1, Padding::Even(0)),
        (1, 2, Padding::Even(0)),
        (3, 1, Padding::Even(1)),
        (3, 1, Padding::Even(0)),
        (3, 2, Padding::Even(1)),
        (3, 2, Padding::Same),
        (5, 1, Padding::Even(2)),
        (5, 2, Padding::Same),
        (7, 2, Padding::Even(3)),
    ] {
        for (c_in, c_out) in [(3, 5), (8, 16), (20, 33)] {
            for (h, w) in [(7, 7), (8, 9), (13, 17)] {
                let mut graph = Graph::new(c_in);
                let first = graph.add("first", conv(c_in, 3, 1, Padding::Even(1), 1), &[0]);
                graph.add("second", conv(c_out, kernel, stride, padding, 1), &[first]);
                graph.add("straight", conv(c_out, kernel, stride, padding, 1), &[0]);
                graph.add("each", conv(c_in, kernel, stride, padding, c_in), &[first]);
                check(&graph, &pictures(2, c_in, h, w));
            }
        }
    }
}

#[test]
fn every_other_op_is_candles() {
    for (c, h, w) in [(3, 5, 5), (16, 6, 9), (21, 12, 7)] {
        let mut graph = Graph::new(4);
        let xs = graph.add("conv", conv(c, 3, 1, Padding::Even(1), 1), &[0]);
        let norm = graph.add("norm", Op::BatchNorm { eps: 1e-3 }, &[xs]);
        for (name, op) in [
            ("relu", Op::Relu),
            ("relu6", Op::Relu6),
            ("max", Op::MaxPool { size: 3, stride: 2, padding: 1 }),
            ("max2", Op::MaxPool { size: 2, stride: 2, padding: 0 }),
            ("average", Op::AdaptiveAvgPool { side: 3 }),
            ("pad", Op::PadShortcut { stride: 2, before: 3, c_out: c + 7 }),
            ("norm2", Op::BatchNorm { eps: 1e-5 }),
            ("gelu", Op::Curve(Curve::Gelu)),
            ("gelu_tanh", Op::Curve(Curve::GeluTanh)),
            ("silu", Op::Curve(Curve::Silu)),
            ("sigmoid", Op::Curve(Curve::Sigmoid)),
            ("hard_swish", Op::Curve(Curve::HardSwish)),
            ("hard_sigmoid", Op::Curve(Curve::HardSigmoid)),
        ] {
            graph.add(name, op, &[norm]);
        }
        graph.add("sum", Op::Add, &[norm, xs]);
        graph.add("twice", Op::Add, &[norm, norm]);
        let average = graph.find("average").unwrap();
        let flat = graph.add("flat", Op::Flatten, &[average]);
        graph.add("linear", Op::Linear { c_out: 10 }, &[flat]);
        graph.add("mean", Op::GlobalAvgPool, &[norm]);
        let one = graph.add("one", Op::AdaptiveAvgPool { side: 1 }, &[norm]);
        graph.add("scale", Op::Scale, &[xs, one]);
        check(&graph, &pictures(3, 4, h, w));
    }
}

/// A block with a shortcut, an inverted bottleneck with squeeze-and-excitation, and a head.
fn wired() -> Graph {
    let mut g = Graph::new(3);
    let norm = Op::BatchNorm { eps: 1e-5 };
    let mut xs = g.add("stem", conv(24, 7, 2, Padding::Even(3), 1), &[0]);
    xs = g.add("stem_bn", norm, &[xs]);
    xs = g.add("stem_relu", Op::Relu, &[xs]);
    xs = g.add("pool", Op::MaxPool { size: 3, stride: 2, padding: 1 }, &[xs]);
    let mut ys = g.add("a", conv(40, 3, 1, Padding::Even(1), 1), &[xs]);
    ys = g.add("a_bn", norm, &[ys]);
    ys = g.add("a_relu", Op::Relu, &[ys]);
    ys = g.add("b", conv(40, 3, 1, Padding::Even(1), 1), &[ys]);
    ys = g.add("b_bn", norm, &[ys]);
    let mut down = g.add("down", conv(40, 1, 1, Padding::Even(0), 1), &[xs]);
    down = g.add("down_bn", norm, &[down]);
    xs = g.add("add", Op::Add, &[ys, down]);
    xs = g.add("relu", Op::Relu, &[xs]);
    let mut ys = g.add("wide", conv(96, 1, 1, Padding::Even(0), 1), &[xs]);
    ys = g.add("wide_relu", Op::Relu6, &[ys]);
    ys = g.add("each", conv(96, 5, 1, Padding::Same, 96), &[ys]);
    ys = g.add("each_bn", norm, &[ys]);
    ys = g.add("each_silu", Op::Curve(Curve::Silu), &[ys]);
    let mut scales = g.add("squeeze", Op::AdaptiveAvgPool { side: 1 }, &[ys]);
    scales = g.add("fc1", conv(9, 1, 1, Padding::Even(0), 1), &[scales]);
    scales = g.add("fc1_act", Op::Curve(Curve::HardSwish), &[scales]);
    scales = g.add("fc2", conv(96, 1, 1, Padding::Even(0), 1), &[scales]);
    scales = g.add("fc2_act", Op::Curve(Curve::Sigmoid), &[scales]);
    ys = g.add("excite", Op::Scale, &[ys, scales]);
    ys = g.add("narrow", conv(40, 1, 1, Padding::Even(0), 1), &[ys]);
    xs = g.add("add2", Op::Add, &[xs, ys]);
    xs = g.add("mean", Op::GlobalAvgPool, &[xs]);
    g.add("fc", Op::Linear { c_out: 7 }, &[xs]);
    g
}

/// A vision transformer in small, whose tokens fill no whole number of vectors.
fn transformer(side: usize) -> Graph {
    let mut g = Graph::new(3);
    let (norm, linear) = (Op::LayerNorm { eps: 1e-6 }, |c_out| Op::Linear { c_out });
    let xs = g.add("proj", Op::Patches { c_out: 32, size: 5, side }, &[0]);
    let xs = g.add("cls_token", Op::ClassToken, &[xs]);
    let mut xs = g.add("pos_embed", Op::Positions, &[xs]);
    for block in 0..2 {
        let ys = g.add(format!("{block}.norm1"), norm, &[xs]);
        let ys = g.add(format!("{block}.qkv"), linear(96), &[ys]);
        let ys = g.add(format!("{block}.heads"), Op::Attention { heads: 2 - block }, &[ys]);
        let ys = g.add(format!("{block}.out"), linear(32), &[ys]);
        xs = g.add(format!("{block}.add"), Op::Add, &[xs, ys]);
        let ys = g.add(format!("{block}.norm2"), norm, &[xs]);
        let ys = g.add(format!("{block}.fc1"), linear(44), &[ys]);
        let ys = g.add(format!("{block}.gelu"), Op::Curve(Curve::Gelu), &[ys]);
        let ys = g.add(format!("{block}.fc2"), linear(32), &[ys]);
        xs = g.add(format!("{block}"), Op::Add, &[xs, ys]);
    }
    let xs = g.add("norm", norm, &[xs]);
    let xs = g.add("pool", Op::TakeClass, &[xs]);
    g.add("head", linear(7), &[xs]);
    g
}

#[test]
fn a_transformer_is_candles_at_every_site() {
    for (n, side) in [(1, 1), (3, 4), (2, 7)] {
        check(&transformer(side), &pictures(n, 3, 5 * side, 5 * side));
    }
}

/// Channels that fill no whole blocks; heads that do not are left to candle.
#[test]
fn every_op_on_tokens_is_candles() {
    for (c, heads, size, side) in [(5, 1, 4, 2), (21, 3, 1, 5), (33, 3, 2, 3), (48, 1, 3, 2)] {
        let mut graph = Graph::new(2);
        let xs = graph.add("proj", Op::Patches { c_out: c, size, side }, &[0]);
        let xs = graph.add("cls_token", Op::ClassToken, &[xs]);
        let xs = graph.add("pos_embed", Op::Positions, &[xs]);
        let norm = graph.add("norm", Op::LayerNorm { eps: 1e-6 }, &[xs]);
        graph.add("gelu", Op::Curve(Curve::Gelu), &[norm]);
        graph.add("relu", Op::Relu, &[norm]);
        graph.add("class", Op::TakeClass, &[norm]);
        let wide = graph.add("wide", Op::Linear { c_out: 3 * c }, &[norm]);
        graph.add("heads", Op::Attention { heads }, &[wide]);
        graph.add("sum", Op::Add, &[xs, norm]);
        check(&graph, &pictures(2, 2, size * side, size * side));
    }
}

#[test]
fn a_network_is_candles_at_every_site_whatever_the_pictures_sides() {
    for (n, h, w) in [(1, 32, 32), (3, 45, 37)] {
        check(&wired(), &pictures(n, 3, h, w));
    }
}

/// Stopped at any node and taken up again, ablated there or elsewhere, it is candle's run.
#[test]
fn ablated_and_halved_runs_are_candles() {
    check_ablated_and_halved(wired(), pictures(3, 3, 40, 33));
    check_ablated_and_halved(transformer(3), pictures(3, 3, 15, 15));
}

fn check_ablated_and_halved(graph: Graph, xs: Tensor) {
    let oracle = network(&graph, Compute::Candle);
    let networks: Vec<Network> = ways().into_iter().map(|by| network(&graph, by)).collect();
    for id in 1..graph.nodes().len() - 1 {
        let channels = [(id, 0), (id, graph.node(id).channels - 1)];
        let ablate = Ablate::new(&graph, channels);
        let wanted = oracle.run(&xs, &mut ablate.clone()).unwrap();
        let plain = oracle.run(&xs, &mut Untapped).unwrap();
        for network in &networks {
            let what = graph.node(id).name.as_str();
            check_equal(&network.run(&xs, &mut ablate.clone()).unwrap(), &wanted, what);
            let halfway = network.run_until(&xs, id).unwrap();
            check_equal(&network.resume(&halfway, &mut ablate.clone()).unwrap(), &wanted, what);
            check_equal(&network.resume(&halfway, &mut Untapped).unwrap(), &plain, what);
        }
    }
}

/// A picture's answer does not depend on the pictures beside it, nor on what ran before.
#[test]
fn the_same_picture_gives_the_same_bytes() {
    // A head of many classes, which products of one row and of several reckon otherwise.
    let mut wide = Graph::new(3);
    let xs = wide.add("pool", Op::AdaptiveAvgPool { side: 8 }, &[Graph::INPUT]);
    let xs = wide.add("flatten", Op::Flatten, &[xs]);
    wide.add("head", Op::Linear { c_out: 300 }, &[xs]);
    let all = [
        (wired(), pictures(5, 3, 37, 41)),
        (transformer(4), pictures(5, 3, 20, 20)),
        (wide, pictures(5, 3, 20, 20)),
    ];
    for (by, (graph, xs)) in ways().into_iter().flat_map(|by| all.iter().map(move |it| (by, it))) {
        let network = network(graph, by);
        let bits = |xs: &Tensor| -> Vec<u32> {
            let ys = network.run(xs, &mut Untapped).unwrap().flatten_all().unwrap();
            ys.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
        };
        let all = bits(xs);
        let each = (0..5).flat_map(|at| bits(&xs.narrow(0, at, 1).unwrap())).collect::<Vec<_>>();
        assert!(all == each && all == bits(xs), "{by:?}");
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    let graph = wired();
    let xs = pictures(1, 3, 32, 32);
    let xs = (xs * f64::NAN).unwrap();
    for by in ways() {
        let mut record = Record::new([3]);
        network(&graph, by).run(&xs, &mut record).unwrap();
        let ys = record.get(3).unwrap().to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        assert!(ys.to_vec1::<f32>().unwrap().iter().all(|it| it.is_nan()), "{by:?}");
        let xs = xs.narrow(2, 0, 15).unwrap().narrow(3, 0, 15).unwrap();
        let ys = network(&transformer(3), by).run(&xs, &mut Untapped).unwrap();
        let ys = ys.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(ys.iter().all(|it| it.is_nan()), "{by:?}");
    }
}

/// Changes what it is shown, and asks for one node only.
struct Negate(NodeId);

impl Tap for Negate {
    fn wants(&self) -> Vec<NodeId> {
        vec![self.0]
    }

    fn at(&mut self, id: NodeId, _: usize, ys: Tensor) -> anyhow::Result<Tensor> {
        if id == self.0 { Ok(ys.neg()?) } else { Ok(ys) }
    }
}

#[test]
fn what_a_tap_gives_back_is_what_the_next_nodes_see() {
    let both = [(wired(), pictures(3, 3, 32, 40)), (transformer(3), pictures(3, 3, 15, 15))];
    for (graph, xs) in both {
        for id in 1..graph.nodes().len() {
            let wanted = network(&graph, Compute::Candle).run(&xs, &mut Negate(id)).unwrap();
            for by in ways() {
                let found = network(&graph, by).run(&xs, &mut Negate(id)).unwrap();
                check_equal(&found, &wanted, &format!("{by:?} {}", graph.node(id).name));
            }
        }
    }
}

/// Keeps what it sees before an upper clamp.
struct BeforeClamp(Record);

impl Tap for BeforeClamp {
    fn wants(&self) -> Vec<NodeId> {
        self.0.wants()
    }

    fn sees_unclamped(&self, _: NodeId) -> bool {
        true
    }

    fn at(&mut self, id: NodeId, first: usize, ys: Tensor) -> anyhow::Result<Tensor> {
        self.0.at(id, first, ys)
    }
}

/// Clamps behind a convolution, a batch norm, a sum, and alone.
fn clamped() -> Graph {
    let mut g = Graph::new(3);
    let norm = Op::BatchNorm { eps: 1e-5 };
    let hard = Op::Curve(Curve::HardSigmoid);
    let mut xs = g.add("a", conv(24, 3, 2, Padding::Even(1), 1), &[0]);
    xs = g.add("a_bn", norm, &[xs]);
    xs = g.add("a_relu6", Op::Relu6, &[xs]);
    let mut ys = g.add("b", conv(24, 3, 1, Padding::Even(1), 24), &[xs]);
    ys = g.add("b_hard", hard, &[ys]);
    xs = g.add("sum", Op::Add, &[xs, ys]);
    xs = g.add("sum_relu6", Op::Relu6, &[xs]);
    g.add("again", Op::Relu6, &[xs]);
    xs = g.add("alone", hard, &[xs]);
    xs = g.add("mean", Op::GlobalAvgPool, &[xs]);
    xs = g.add("fc", Op::Linear { c_out: 7 }, &[xs]);
    g.add("fc_relu6", Op::Relu6, &[xs]);
    g
}

#[test]
fn who_sees_values_before_a_clamp_changes_nothing_behind_it() {
    let graph = clamped();
    let xs = (pictures(3, 3, 33, 40) * 30.).unwrap();
    let clamps: Vec<NodeId> =
        (1..graph.nodes().len()).filter(|&id| graph.node(id).op.unclamped().is_some()).collect();
    assert_eq!(clamps.len(), 6);
    let oracle = network(&graph, Compute::Candle);
    let plain = oracle.run(&xs, &mut Untapped).unwrap();
    for nodes in clamps.iter().map(|&it| vec![it]).chain([clamps.clone()]) {
        let mut wanted = BeforeClamp(Record::new(nodes.clone()));
        check_equal(&oracle.run(&xs, &mut wanted).unwrap(), &plain, "candle");
        let mut clamped = Record::new(nodes.clone());
        oracle.run(&xs, &mut clamped).unwrap();
        for by in ways() {
            let network = network(&graph, by);
            let mut seen = BeforeClamp(Record::new(nodes.clone()));
            check_equal(&network.run(&xs, &mut seen).unwrap(), &plain, "the network's answer");
            // One that wants to see it clamped is shown it so, though the plan is the same.
            let mut again = Record::new(nodes.clone());
            network.run(&xs, &mut again).unwrap();
            for &id in &nodes {
                let what = format!("{by:?} {}", graph.node(id).name);
                let (seen, wanted) = (seen.0.get(id).unwrap(), wanted.0.get(id).unwrap());
                check_equal(&seen, &wanted, &what);
                check_equal(&again.get(id).unwrap(), &clamped.get(id).unwrap(), &what);
                let most = graph.node(id).op.unclamped().unwrap().1;
                let cut = seen.minimum(most).unwrap();
                check_equal(&cut, &clamped.get(id).unwrap(), &what);
                let highest = seen.flatten_all().unwrap().max(0).unwrap();
                // The others are given what was clamped before.
                if ["a_relu6", "b_hard", "sum_relu6"].contains(&graph.node(id).name.as_str()) {
                    assert!(most < highest.to_scalar::<f32>().unwrap(), "{what}");
                }
            }
        }
    }
}
