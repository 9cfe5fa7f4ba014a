//! Networks with random weights.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use milan::model::graph::Graph;
use milan::model::run::{Compute, Network};

/// Values keep about the same size from layer to layer.
pub(crate) fn network(graph: Graph, by: Compute) -> anyhow::Result<Network> {
    let shapes: BTreeMap<String, Vec<usize>> =
        graph.parameters().map(|it| (it.name, it.shape)).collect();
    let network = Network::new(graph, &Device::Cpu, |name| {
        let shape = &shapes[name];
        let fan = shape.iter().skip(1).product::<usize>().max(1) as f32;
        let spread = (3. / fan).sqrt();
        Ok(match name.ends_with("running_var") {
            true => Tensor::ones(shape.as_slice(), DType::F32, &Device::Cpu)?,
            false => Tensor::rand(-spread, spread, shape.as_slice(), &Device::Cpu)?,
        })
    })?;
    Ok(network.computed(by))
}
