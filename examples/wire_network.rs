//! A network of one's own as a graph: wired, run with a tap, and an edit planned from the wiring alone.
//!
//!     cargo run --example wire_network

use candle_core::{DType, Device, Tensor};
use milan::edit::plan::plan;
use milan::model::graph::Graph;
use milan::model::op::{Op, Padding};
use milan::model::run::{Network, Record};

#[allow(clippy::print_stdout)]
fn main() -> anyhow::Result<()> {
    // Nodes are named as the checkpoint names their tensors: `stem.weight`, `norm.running_mean`, …
    let conv = |c_out| {
        let padding = Padding::Even(1);
        Op::Conv2d { c_out, kernel: 3, stride: 1, padding, groups: 1, bias: false }
    };
    let mut graph = Graph::new(3);
    let stem = graph.add("stem", conv(8), &[Graph::INPUT]);
    let norm = graph.add("norm", Op::BatchNorm { eps: 1e-5 }, &[stem]);
    let relu = graph.add("relu", Op::Relu, &[norm]);
    let branch = graph.add("branch", conv(8), &[relu]);
    let sum = graph.add("sum", Op::Add, &[relu, branch]);
    let pooled = graph.add("pool", Op::GlobalAvgPool, &[sum]);
    graph.add("head", Op::Linear { c_out: 10 }, &[pooled]);

    // Which slices make a unit zero? Behind a norm its own row; a sum through what reads it.
    for unit in ["relu:3", "sum:5"] {
        for change in plan(&graph, "", &[unit.parse()?])?.changes {
            let (tensor, axis) = (change.tensor, change.axis);
            println!("{unit}: {tensor}, axis {axis}, {:?}", change.indices);
        }
    }

    // Weights come from wherever they are; here every one is 0.1.
    let shapes: Vec<_> = graph.parameters().collect();
    let weights = |name: &str| {
        let shape = shapes.iter().find(|it| it.name == name).map(|it| it.shape.clone());
        Ok((Tensor::ones(shape.unwrap_or_default(), DType::F32, &Device::Cpu)? * 0.1)?)
    };
    let network = Network::new(graph, &Device::Cpu, weights)?;
    let pictures = Tensor::ones((2, 3, 16, 16), DType::F32, &Device::Cpu)?;
    let mut record = Record::new([sum]);
    let logits = network.run(&pictures, &mut record)?;
    println!("logits {:?}, maps of `sum` {:?}", logits.dims(), record.get(sum)?.dims());
    Ok(())
}
