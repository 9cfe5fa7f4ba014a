//! The interpreter: runs a graph on pictures, and lets a tap look at or change any node's output.

use std::collections::BTreeMap;

use anyhow::Context;
use candle_core::{Device, Tensor};

use super::engine::{Blocks, Engine, Isa};
use super::graph::{Extent, Graph, Node, NodeId};
use super::op::Op;
use super::ops::{self, Params};
use crate::inconclusive;

/// Looks at nodes' outputs, or changes them.
pub trait Tap {
    /// The nodes that it must be called with. With others it may be, and then changes nothing.
    fn wants(&self) -> Vec<NodeId>;

    /// The node's output on some of the pictures, from `first` on; in a run they come in order. What is returned
    /// is what the next nodes see.
    fn at(&mut self, id: NodeId, first: usize, ys: Tensor) -> anyhow::Result<Tensor>;

    /// Whether it is to be called with a node's output before the upper clamp, where the node has one (ReLU6 as if it
    /// were ReLU). What it returns is clamped before the next nodes see it.
    fn sees_unclamped(&self, _: NodeId) -> bool {
        false
    }

    /// Maps where the engine holds them: who takes them so and says `true` is spared the copy that
    /// [`at`](Tap::at) is given.
    fn look(&mut self, _: NodeId, _first: usize, _: &mut Blocks<'_>) -> anyhow::Result<bool> {
        Ok(false)
    }
}

/// Looks at nothing and changes nothing.
pub struct Untapped;

impl Tap for Untapped {
    fn wants(&self) -> Vec<NodeId> {
        vec![]
    }

    fn at(&mut self, _: NodeId, _: usize, ys: Tensor) -> anyhow::Result<Tensor> {
        Ok(ys)
    }
}

/// Keeps the outputs of some nodes.
#[derive(Default)]
pub struct Record {
    kept: BTreeMap<NodeId, Vec<Tensor>>,
    unclamped: bool,
}

impl Record {
    pub fn new(nodes: impl IntoIterator<Item = NodeId>) -> Record {
        let kept = nodes.into_iter().map(|id| (id, vec![])).collect();
        Record { kept, unclamped: false }
    }

    /// Before their upper clamps, as exemplars are ranked.
    pub fn unclamped(nodes: impl IntoIterator<Item = NodeId>) -> Record {
        Record { unclamped: true, ..Record::new(nodes) }
    }

    /// The output of a node that was asked for, after a run. Errs for any other.
    pub fn get(&self, id: NodeId) -> anyhow::Result<Tensor> {
        let parts = self.kept.get(&id).filter(|it| !it.is_empty());
        Ok(Tensor::cat(parts.context("a layer was not reached")?, 0)?)
    }
}

impl Tap for Record {
    fn wants(&self) -> Vec<NodeId> {
        self.kept.keys().copied().collect()
    }

    fn sees_unclamped(&self, id: NodeId) -> bool {
        self.unclamped && self.kept.contains_key(&id)
    }

    fn at(&mut self, id: NodeId, _: usize, ys: Tensor) -> anyhow::Result<Tensor> {
        if let Some(parts) = self.kept.get_mut(&id) {
            parts.push(ys.clone());
        }
        Ok(ys)
    }
}

/// Sets channels of nodes to zero.
#[derive(Default, Clone)]
pub struct Ablate {
    /// For each changed node 1 or 0 a feature, or a channel of a map or of all tokens.
    keep: BTreeMap<NodeId, Vec<f32>>,
}

impl Ablate {
    pub fn new(graph: &Graph, channels: impl IntoIterator<Item = (NodeId, usize)>) -> Ablate {
        let mut ablate = Ablate::default();
        for (id, channel) in channels {
            let node = graph.node(id);
            let positions = node.extent.positions();
            let keep = ablate.keep.entry(id).or_insert_with(|| vec![1.; node.channels * positions]);
            keep[channel * positions..(channel + 1) * positions].fill(0.);
        }
        ablate
    }

    /// Wants to be called with all that any of `others` wants, and changes no more than before: networks that are
    /// ablated in many ways are compiled once.
    pub fn beside(mut self, others: &[Ablate]) -> Ablate {
        for (id, keep) in others.iter().flat_map(|it| &it.keep) {
            self.keep.entry(*id).or_insert_with(|| vec![1.; keep.len()]);
        }
        self
    }
}

impl Tap for Ablate {
    fn wants(&self) -> Vec<NodeId> {
        self.keep.keys().copied().collect()
    }

    fn at(&mut self, id: NodeId, _: usize, ys: Tensor) -> anyhow::Result<Tensor> {
        let Some(keep) = self.keep.get(&id) else { return Ok(ys) };
        let keep = Tensor::new(keep.as_slice(), ys.device())?;
        let keep = if ys.rank() == 4 { keep.reshape((1, (), 1, 1))? } else { keep };
        Ok(ys.broadcast_mul(&keep)?)
    }

    /// As [`at`](Tap::at), but that what is not a number becomes zero as well.
    fn look(&mut self, id: NodeId, _: usize, maps: &mut Blocks<'_>) -> anyhow::Result<bool> {
        let keep = self.keep.get(&id).into_iter().flatten().enumerate();
        keep.filter(|it| *it.1 == 0.).for_each(|(channel, _)| maps.silence(channel));
        Ok(true)
    }
}

/// By what the maps of a network are computed on the CPU.
#[derive(Debug, Clone, Copy)]
pub enum Compute {
    /// Candle, op by op: the oracle.
    Candle,
    /// The engine, every convolution as it is defined.
    Direct(Isa),
    /// The engine, 3×3 convolutions by Winograd's transforms: the fastest.
    Winograd(Isa),
}

impl Default for Compute {
    fn default() -> Compute {
        Compute::Winograd(Isa::best())
    }
}

impl Compute {
    /// Every convolution as it is defined, or the fastest way.
    pub fn exact(exact: bool) -> Compute {
        if exact { Compute::Direct(Isa::best()) } else { Compute::default() }
    }
}

/// A graph with its weights in memory, ready to run.
pub struct Network {
    graph: Graph,
    params: Vec<Params>,
    last_readers: Vec<Option<NodeId>>,
    device: Device,
    /// Takes the maps off candle's hands where it can.
    engine: Option<Engine>,
}

/// The outputs that the nodes after `at` still need: from here the rest of the network can be run
/// again and again.
pub struct Halfway {
    at: NodeId,
    values: Vec<Option<Tensor>>,
}

impl Network {
    /// Prepares every node; `tensor` gives a tensor by its full name, f32 and of the shape that
    /// [`Graph::parameters`] says.
    pub fn new(
        graph: Graph,
        device: &Device,
        mut tensor: impl FnMut(&str) -> anyhow::Result<Tensor>,
    ) -> anyhow::Result<Network> {
        let mut params = Vec::with_capacity(graph.nodes().len());
        for node in graph.nodes() {
            let read = |leaf: &str| Ok(tensor(&node.tensor(leaf))?.to_device(device)?);
            params.push(
                Params::read(&node.op, read)
                    .with_context(|| format!("cannot load `{}`", node.name))?,
            );
        }
        let last_readers = graph.last_readers();
        let network = Network { graph, params, last_readers, device: device.clone(), engine: None };
        Ok(network.computed(Compute::default()))
    }

    /// Computes by these means from now on; on another device than the CPU always by candle.
    pub fn computed(self, by: Compute) -> Network {
        let engine = match by {
            _ if !self.device.is_cpu() => None,
            Compute::Candle => None,
            Compute::Direct(isa) => Some(Engine::new(&self.graph, isa, false)),
            Compute::Winograd(isa) => Some(Engine::new(&self.graph, isa, true)),
        };
        Network { engine, ..self }
    }

    /// Gets the weights ready for runs with such a tap, on all cores. Without it the first run does so alone, and
    /// others wait for it.
    pub fn prepare(&self, tap: &impl Tap) -> anyhow::Result<()> {
        match &self.engine {
            Some(engine) => engine.prepare(&self.graph, &self.params, &tap.wants()),
            None => Ok(()),
        }
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The network's output for `xs` `(n, 3, h, w)`: logits `(n, classes)`.
    pub fn run(&self, xs: &Tensor, tap: &mut impl Tap) -> anyhow::Result<Tensor> {
        self.resume(&self.start(xs)?, tap)
    }

    /// Runs as far as the node `at`, which a later [`resume`](Network::resume) sees anew.
    pub fn run_until(&self, xs: &Tensor, at: NodeId) -> anyhow::Result<Halfway> {
        let mut halfway = self.start(xs)?;
        self.advance(&mut halfway.values, 1..at + 1, &mut Untapped)?;
        halfway.at = at;
        Ok(halfway)
    }

    /// Runs what lies behind, the tap seeing the node stopped at first, and that one clamped in any case.
    pub fn resume(&self, halfway: &Halfway, tap: &mut impl Tap) -> anyhow::Result<Tensor> {
        let mut values = halfway.values.clone();
        let stopped = values[halfway.at].take().context("a run was stopped before it began")?;
        values[halfway.at] = Some(tap.at(halfway.at, 0, stopped)?);
        self.advance(&mut values, halfway.at + 1..self.graph.nodes().len(), tap)?;
        values.pop().flatten().context("a network without nodes has no output")
    }

    fn start(&self, xs: &Tensor) -> anyhow::Result<Halfway> {
        let mut values = vec![None; self.graph.nodes().len()];
        values[Graph::INPUT] = Some(xs.to_device(&self.device)?);
        Ok(Halfway { at: Graph::INPUT, values })
    }

    fn advance(
        &self,
        values: &mut [Option<Tensor>],
        nodes: std::ops::Range<NodeId>,
        tap: &mut impl Tap,
    ) -> anyhow::Result<()> {
        let nodes = match &self.engine {
            Some(engine) => engine.advance(&self.graph, &self.params, values, nodes, tap)?,
            None => nodes,
        };
        for id in nodes {
            let node = self.graph.node(id);
            let inputs: Vec<&Tensor> = node
                .inputs
                .iter()
                .map(|&input| values[input].as_ref().context("an output was dropped too early"))
                .collect::<anyhow::Result<_>>()?;
            if let [_, _, h, w] = *inputs[0].dims() {
                check_sides(node, (h, w))?;
            }
            let unclamped = node.op.unclamped().filter(|_| tap.sees_unclamped(id));
            let op = unclamped.map_or(node.op, |it| it.0);
            let ys = ops::eval(&op, &self.params[id], &inputs)
                .with_context(|| format!("cannot run `{}` on {:?}", node.name, inputs[0].dims()))?;
            let ys = tap.at(id, 0, ys)?;
            values[id] = Some(match unclamped {
                Some((_, most)) => ys.minimum(most)?,
                None => ys,
            });
            for &input in &node.inputs {
                if self.last_readers[input] == Some(id) {
                    values[input] = None;
                }
            }
        }
        Ok(())
    }
}

/// The only thing that the check at loading cannot foresee: pictures too small for the network, or of another size
/// than the one for which it has positions.
pub(super) fn check_sides(node: &Node, (h, w): (usize, usize)) -> anyhow::Result<()> {
    if let Op::Patches { size, side, .. } = node.op
        && (h, w) != (size * side, size * side)
    {
        let wanted = size * side;
        return Err(inconclusive!(
            "this network reads pictures of {wanted}x{wanted} pixels only: `{}` cuts {side}x{side} patches of {size}x{size} and is given {h}x{w}; resize or crop them to {wanted}x{wanted}",
            node.name
        ));
    }
    let (window, padding) = match node.op {
        Op::Conv2d { kernel, padding: super::op::Padding::Even(padding), .. } => (kernel, padding),
        Op::MaxPool { size, padding, .. } => (size, padding),
        _ => return Ok(()),
    };
    if h.min(w) + 2 * padding < window {
        return Err(inconclusive!(
            "the pictures are too small for this network: `{}` looks at {window}x{window} positions and is given {h}x{w}",
            node.name
        ));
    }
    Ok(())
}

/// A node's output as maps `(n, channels, h, w)`. Features become maps of one row; tokens lie where their patches
/// did, and the class token, which lies nowhere, is left out.
pub fn as_maps(node: &Node, ys: &Tensor) -> candle_core::Result<Tensor> {
    match node.extent {
        Extent::Flat { positions } => ys.reshape((ys.dim(0)?, node.channels, 1, positions)),
        Extent::Tokens { side } => {
            let patches = ys.narrow(1, 1, side * side)?.transpose(1, 2)?; // (n, c, side²)
            patches.reshape((ys.dim(0)?, node.channels, side, side))
        }
        Extent::Map | Extent::FixedMap { .. } => Ok(ys.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels over 3×3 patches: the brightness, and its negative.
    fn tokens() -> (Network, NodeId) {
        let mut graph = Graph::new(1);
        let xs = graph.add("proj", Op::Patches { c_out: 2, size: 2, side: 3 }, &[Graph::INPUT]);
        let xs = graph.add("cls_token", Op::ClassToken, &[xs]);
        let id = graph.add("pos_embed", Op::Positions, &[xs]);
        let tensor = |name: &str| {
            let (values, shape) = match name {
                "proj.weight" => (vec![1f32, 1., 1., 1., -1., -1., -1., -1.], vec![2, 1, 2, 2]),
                "proj.bias" => (vec![0.; 2], vec![2]),
                // Stronger than any patch.
                "cls_token" => (vec![1000.; 2], vec![1, 1, 2]),
                _ => (vec![0.; 20], vec![1, 10, 2]),
            };
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
        };
        (Network::new(graph, &Device::Cpu, tensor).unwrap(), id)
    }

    /// MILAN's own code left out the last token instead of the class token until 2023, which moved every map by one.
    #[test]
    fn the_map_of_tokens_has_each_patch_in_its_place_and_no_class_token() {
        let (network, id) = tokens();
        for (row, column) in [(0, 0), (0, 2), (1, 2), (2, 2)] {
            let mut pixels = vec![0f32; 36];
            pixels[(2 * row + 1) * 6 + 2 * column] = 5.;
            let xs = Tensor::from_vec(pixels, (1, 1, 6, 6), &Device::Cpu).unwrap();
            let ys = network.run(&xs, &mut Untapped).unwrap();
            let maps = as_maps(network.graph().node(id), &ys).unwrap();
            assert_eq!(maps.dims(), [1, 2, 3, 3]);
            let mut wanted = vec![0f32; 18];
            wanted[row * 3 + column] = 5.;
            wanted[9 + row * 3 + column] = -5.;
            assert_eq!(maps.flatten_all().unwrap().to_vec1::<f32>().unwrap(), wanted);
        }
    }

    #[test]
    fn a_channel_is_ablated_at_every_token_the_class_token_among_them() {
        let (network, id) = tokens();
        let xs = Tensor::ones((1, 1, 6, 6), candle_core::DType::F32, &Device::Cpu).unwrap();
        let mut ablate = Ablate::new(network.graph(), [(id, 0)]);
        let ys = network.run(&xs, &mut ablate).unwrap();
        let mut wanted = [[0f32, -4.]; 10];
        wanted[0] = [0., 1000.];
        assert_eq!(ys.flatten_all().unwrap().to_vec1::<f32>().unwrap(), wanted.concat());
    }
}
