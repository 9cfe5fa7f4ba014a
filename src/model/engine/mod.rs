//! The same network, compiled for the CPU.
//!
//! Candle runs a graph op by op, each over all pictures, each into new memory. Here a graph becomes a list of
//! steps (`plan`): a convolution with the batch norm folded into its weights, the residual added and the
//! activation cut while its sums are still in registers. Only what someone looks at or changes is written as it
//! is, so a site inside such a group keeps its exact meaning; which nodes those are is known before the run
//! ([`Tap::wants`]), and each such set has its own steps.
//!
//! **Layout.** A map's channels lie in blocks of as many as a vector has lanes (`layout`): 16 with AVX-512, 8 with
//! AVX2. One vector is one position of a block, so every loop works on whole vectors whatever the map's sides,
//! and a position's neighbours lie a vector apart. Zeros around a map are kept there once and for all, since
//! buffers are shared only by maps of the same shape; no loop asks where the map ends.
//!
//! **Registers.** All convolutions come down to one `tile`: some positions by two vectors of output channels.
//! Each weight that is fetched serves all positions, each input value two vectors, and the sums never leave the
//! registers. `direct` walks a tile over its window; `winograd` turns 3×3 convolutions into 36 matrix
//! products with a quarter of the multiplications, done by the same tile.
//!
//! **Vectors.** What the machine has is found when the program runs (`vector`): AVX-512, AVX2 with FMA, NEON, else
//! plain arrays. The code is the same for all of them and has no `unsafe`; tests run it with arrays of 8 and of
//! 16 as well.
//!
//! Nothing here uses more than one thread: callers take a few pictures a thread through the whole network, which
//! needs no waiting inside an op and keeps a step's output in the cache for the next one.

mod depthwise;
mod direct;
mod edges;
mod finish;
mod layout;
mod plan;
mod pool;
mod range;
mod tile;
mod vector;
mod winograd;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use candle_core::Tensor;

use super::graph::{Extent, Graph, NodeId};
use super::op::{Op, Padding};
use super::ops::Params;
use super::run::{Tap, check_sides};
use depthwise::Depthwise;
use direct::{Direct, padded};
use edges::{means, read, tensor};
use finish::Target;
use layout::{Aligned, Around, Maps, Shape};
use plan::Step;
use pool::Each;
use winograd::{Scratch, Winograd};

pub use range::finite_range;
pub use vector::Isa;

/// Runs the maps of a graph; what becomes of them as features is left to candle.
pub(super) struct Engine {
    isa: Isa,
    lanes: usize,
    /// Whether 3×3 convolutions may be computed by Winograd's transforms.
    winograd: bool,
    /// Weights as they are packed.
    packed: Mutex<BTreeMap<Folded, Arc<Packed>>>,
    /// The last plans, the latest last.
    plans: Mutex<Vec<(Key, Arc<Plan>)>>,
}

/// Which nodes run, and which of them are looked at, changed, or needed afterwards.
type Key = (Range<NodeId>, Vec<NodeId>);

/// A node, and the batch norm folded into it.
type Folded = (NodeId, Option<NodeId>);

/// Plans that are kept: those of a run, and of the halves of one that is stopped halfway.
const PLANS: usize = 4;

enum Packed {
    Direct(Direct),
    Winograd(Winograd),
    Depthwise(Depthwise),
    /// A batch norm that could not be folded.
    Affine {
        scale: Aligned,
        shift: Aligned,
    },
    /// No weights.
    None,
}

struct Plan {
    steps: Vec<(Step, Arc<Packed>)>,
    /// The nodes before the first one whose outputs are read.
    inputs: Vec<NodeId>,
    /// Memory of runs that are over.
    idle: Mutex<Vec<State>>,
}

/// The memory of one run.
struct State {
    /// Of how many pictures, and the sides of each input.
    sides: (usize, Vec<(usize, usize)>),
    buffers: Vec<Maps>,
    /// Of each node that has one, its buffer.
    buffer_of: BTreeMap<NodeId, usize>,
    scratch: Scratch,
}

impl Engine {
    pub(super) fn new(isa: Isa, winograd: bool) -> Engine {
        Engine {
            isa,
            lanes: isa.lanes(),
            winograd,
            packed: Mutex::default(),
            plans: Mutex::default(),
        }
    }

    /// The first of `nodes` that is not for the engine.
    fn end(&self, graph: &Graph, nodes: &Range<NodeId>) -> NodeId {
        let mut nodes = nodes.clone();
        let end = nodes.end;
        nodes.find(|&id| !self.is_for_us(graph, id)).unwrap_or(end)
    }

    fn is_for_us(&self, graph: &Graph, id: NodeId) -> bool {
        let node = graph.node(id);
        let on_maps = |id: NodeId| !matches!(graph.node(id).extent, Extent::Flat { .. });
        let is_picture = node.inputs.contains(&Graph::INPUT);
        let fits = match node.op {
            Op::Conv2d { stride, groups: 1, .. } => direct::has_tiles(stride, is_picture),
            Op::Conv2d { c_out, groups, stride, .. } => {
                let c_in = graph.node(node.inputs[0]).channels;
                groups == c_out && groups == c_in && depthwise::has_loop(stride) && !is_picture
            }
            Op::Input | Op::Linear { .. } => false,
            _ => !is_picture,
        };
        fits && node.inputs.iter().all(|&it| on_maps(it))
    }

    /// Runs as many of `nodes` as it can, from the values of those before to those of all that come after.
    /// Returns the nodes that are left.
    pub(super) fn advance(
        &self,
        graph: &Graph,
        params: &[Params],
        values: &mut [Option<Tensor>],
        nodes: Range<NodeId>,
        tap: &mut impl Tap,
    ) -> anyhow::Result<Range<NodeId>> {
        let end = self.end(graph, &nodes);
        if end == nodes.start {
            return Ok(nodes);
        }
        let ours = nodes.start..end;
        let looked_at = tap.wants();
        // Whoever reads it later, and the last node of all, which is asked for without being read.
        let needed = |id: NodeId| id + 1 == nodes.end || graph.readers(id).any(|it| end <= it);
        let visible: Vec<NodeId> =
            ours.clone().filter(|id| looked_at.contains(id) || needed(*id)).collect();
        let plan = self.plan(graph, params, (ours.clone(), visible.clone()))?;

        let input = |id: &NodeId| values[*id].clone().context("an output was dropped too early");
        let inputs = plan.inputs.iter().map(input).collect::<anyhow::Result<Vec<_>>>()?;
        let mut state = self.state(graph, &plan, &inputs)?;
        for (id, xs) in plan.inputs.iter().zip(&inputs) {
            let buffer = state.buffer_of[id];
            read(&mut state.buffers[buffer], xs)?;
        }
        for (step, packed) in &plan.steps {
            let id = step.output;
            let is_visible = visible.contains(&id);
            match graph.node(id).op {
                Op::GlobalAvgPool => {
                    let ys = means(&state.buffers[state.buffer_of[&graph.node(id).inputs[0]]])?;
                    values[id] = Some(tap.at(id, ys)?);
                }
                Op::Flatten => {
                    let maps = &state.buffers[state.buffer_of[&graph.node(id).inputs[0]]];
                    let ys = tensor(maps)?;
                    values[id] = Some(tap.at(id, ys.flatten_from(1)?)?);
                }
                _ => {
                    self.step(graph, step, packed, &mut state)?;
                    if is_visible {
                        let buffer = &mut state.buffers[state.buffer_of[&id]];
                        let ys = tensor(buffer)?;
                        let before = ys.id();
                        let ys = tap.at(id, ys)?;
                        if ys.id() != before {
                            read(buffer, &ys)?;
                        }
                        values[id] = needed(id).then_some(ys);
                    }
                }
            }
        }
        for (_, value) in values[..end].iter_mut().enumerate().filter(|(id, _)| !needed(*id)) {
            *value = None;
        }
        lock(&plan.idle).push(state);
        Ok(end..nodes.end)
    }

    fn plan(&self, graph: &Graph, params: &[Params], key: Key) -> anyhow::Result<Arc<Plan>> {
        if let Some((_, plan)) = lock(&self.plans).iter().find(|it| it.0 == key) {
            return Ok(plan.clone());
        }
        let (nodes, visible) = &key;
        let steps = plan::steps(graph, nodes.clone(), |id| visible.contains(&id));
        let mut inputs: Vec<NodeId> = steps
            .iter()
            .flat_map(|it| [Some(graph.node(it.first).inputs[0]), it.residual])
            .flatten()
            .filter(|it| *it < nodes.start)
            .collect();
        inputs.sort_unstable();
        inputs.dedup();
        let pack = |step: Step| {
            let packed = self.pack(graph, params, &step)?;
            Ok((step, packed))
        };
        let steps = steps.into_iter().map(pack).collect::<anyhow::Result<_>>()?;
        let plan = Arc::new(Plan { steps, inputs, idle: Mutex::default() });
        let mut plans = lock(&self.plans);
        if PLANS <= plans.len() {
            plans.remove(0);
        }
        plans.push((key, plan.clone()));
        Ok(plan)
    }

    fn pack(&self, graph: &Graph, params: &[Params], step: &Step) -> anyhow::Result<Arc<Packed>> {
        let key = (step.first, step.norm);
        if let Some(packed) = lock(&self.packed).get(&key) {
            return Ok(packed.clone());
        }
        let values = |it: &Tensor| it.flatten_all()?.to_vec1::<f32>();
        let lanes = self.lanes;
        let node = graph.node(step.first);
        let packed = match (node.op, &params[step.first]) {
            (Op::Conv2d { c_out, kernel, stride, groups, .. }, Params::Conv { weight, bias }) => {
                let mut weight = values(weight)?;
                let mut bias = bias.as_ref().map_or(Ok(vec![0.; c_out]), values)?;
                if let Some(norm) = step.norm {
                    let Params::Affine { scale, shift } = &params[norm] else {
                        bail!("`{}` was prepared for another op", graph.node(norm).name)
                    };
                    let (scale, shift) = (values(scale)?, values(shift)?);
                    let each = weight.len() / c_out;
                    for (filter, scale) in weight.chunks_mut(each).zip(&scale) {
                        filter.iter_mut().for_each(|it| *it *= scale);
                    }
                    for ((bias, scale), shift) in bias.iter_mut().zip(&scale).zip(&shift) {
                        *bias = *bias * scale + shift;
                    }
                }
                let c_in = graph.node(node.inputs[0]).channels;
                let planar = node.inputs[0] == Graph::INPUT;
                match groups {
                    1 if self.is_winograd(graph, step.first) => {
                        Packed::Winograd(Winograd::new([c_out, c_in], &weight, &bias, lanes))
                    }
                    1 => {
                        let sizes = [c_out, c_in, kernel];
                        Packed::Direct(Direct::new(sizes, stride, planar, &weight, &bias, lanes))
                    }
                    _ => Packed::Depthwise(Depthwise::new(
                        [c_out, kernel],
                        stride,
                        &weight,
                        &bias,
                        lanes,
                    )),
                }
            }
            (Op::BatchNorm { .. }, Params::Affine { scale, shift }) => Packed::Affine {
                scale: padded(&values(scale)?, lanes),
                shift: padded(&values(shift)?, lanes),
            },
            _ => Packed::None,
        };
        let packed = Arc::new(packed);
        lock(&self.packed).insert(key, packed.clone());
        Ok(packed)
    }

    fn is_winograd(&self, graph: &Graph, id: NodeId) -> bool {
        let node = graph.node(id);
        let input = node.inputs[0];
        self.winograd
            && input != Graph::INPUT
            && matches!(
                node.op,
                Op::Conv2d {
                    kernel: 3,
                    stride: 1,
                    groups: 1,
                    padding: Padding::Even(1) | Padding::Same,
                    ..
                }
            )
    }

    /// Memory for a run over such inputs: of an earlier run, or new.
    fn state(&self, graph: &Graph, plan: &Plan, inputs: &[Tensor]) -> anyhow::Result<State> {
        let mut n = 0;
        let mut sides = vec![];
        for xs in inputs {
            let (pictures, _, h, w) = xs.dims4()?;
            n = pictures;
            sides.push((h, w));
        }
        let sides = (n, sides);
        if let Some(state) = lock(&plan.idle).pop().filter(|it| it.sides == sides) {
            return Ok(state);
        }
        // The sides of every output, and the zeros that its readers want around it.
        let mut side_of: BTreeMap<NodeId, (usize, usize)> =
            plan.inputs.iter().copied().zip(sides.1.iter().copied()).collect();
        let mut around_of: BTreeMap<NodeId, Around> = BTreeMap::new();
        for (step, packed) in &plan.steps {
            let node = graph.node(step.first);
            let (h, w) = side_of[&node.inputs[0]];
            check_sides(node, (h, w))?;
            let own = around_of.entry(node.inputs[0]).or_default();
            *own = own.max(match &**packed {
                Packed::Winograd(_) => winograd::around(h, w),
                _ => around(&node.op, (h, w)),
            });
            side_of.insert(step.output, output_sides(&node.op, (h, w)));
        }
        let mut state = State {
            sides,
            buffers: vec![],
            buffer_of: BTreeMap::new(),
            scratch: Scratch::default(),
        };
        // The last step that reads each output.
        let mut last: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (at, (step, _)) in plan.steps.iter().enumerate() {
            last.insert(graph.node(step.first).inputs[0], at);
            if let Some(residual) = step.residual {
                last.insert(residual, at);
            }
        }
        let mut free: Vec<usize> = vec![];
        let place = |state: &mut State, free: &mut Vec<usize>, id: NodeId| {
            let (h, w) = side_of[&id];
            let lanes = if id == Graph::INPUT { 1 } else { self.lanes };
            let around = around_of.get(&id).copied().unwrap_or_default();
            let shape = Shape::new((graph.node(id).channels, h, w), around, lanes);
            let fits = free.iter().rposition(|&it| state.buffers[it].shape == shape);
            let buffer = fits.map(|it| free.remove(it)).unwrap_or_else(|| {
                state.buffers.push(Maps::zeros(n, shape));
                state.buffers.len() - 1
            });
            state.buffer_of.insert(id, buffer);
        };
        for &id in &plan.inputs {
            place(&mut state, &mut free, id);
        }
        for (at, (step, _)) in plan.steps.iter().enumerate() {
            if !matches!(graph.node(step.output).extent, Extent::Flat { .. }) {
                place(&mut state, &mut free, step.output);
            }
            for (id, _) in last.iter().filter(|it| *it.1 == at) {
                free.extend(state.buffer_of.get(id));
            }
        }
        Ok(state)
    }

    fn step(
        &self,
        graph: &Graph,
        step: &Step,
        packed: &Packed,
        state: &mut State,
    ) -> anyhow::Result<()> {
        let node = graph.node(step.first);
        let place = state.buffer_of[&step.output];
        let mut out = std::mem::take(&mut state.buffers[place]);
        let input = &state.buffers[state.buffer_of[&node.inputs[0]]];
        let residual = step.residual.map(|it| &state.buffers[state.buffer_of[&it]]);
        let Around { top, left, .. } = around(&node.op, (input.shape.h, input.shape.w));
        let pads = (top, left);
        let c_out = out.shape.c;
        let target = Target { out: &mut out, residual, cut: step.cut };
        let nothing = || Aligned::zeros(c_out.next_multiple_of(self.lanes));
        match (packed, node.op) {
            (Packed::Direct(it), _) => it.run(self.isa, input, pads, target),
            (Packed::Winograd(it), _) => it.run(self.isa, input, target, &mut state.scratch),
            (Packed::Depthwise(it), _) => it.run(self.isa, input, pads, target),
            (Packed::Affine { scale, shift }, _) => {
                pool::run(self.isa, &Each::Same { scale: Some(scale) }, input, shift, target);
            }
            (Packed::None, Op::MaxPool { size, stride, padding }) => {
                let each = Each::Max { size, stride, padding };
                pool::run(self.isa, &each, input, &nothing(), target);
            }
            (Packed::None, Op::AdaptiveAvgPool { side }) => {
                pool::run(self.isa, &Each::Average { side }, input, &nothing(), target);
            }
            (Packed::None, Op::PadShortcut { stride, before, .. }) => {
                pool::pad(input, stride, before, &mut out);
            }
            (Packed::None, Op::Relu | Op::Relu6 | Op::Add) => {
                pool::run(self.isa, &Each::Same { scale: None }, input, &nothing(), target);
            }
            (Packed::None, _) => bail!("`{}` is not for the engine", node.name),
        }
        state.buffers[place] = out;
        Ok(())
    }
}

/// Zeros that an op looks at around its input.
fn around(op: &Op, (h, w): (usize, usize)) -> Around {
    match *op {
        Op::Conv2d { kernel, stride, padding, .. } => {
            let (top, bottom) = padding.around(h, kernel, stride);
            let (left, right) = padding.around(w, kernel, stride);
            Around { top, bottom, left, right }
        }
        _ => Around::default(),
    }
}

fn output_sides(op: &Op, (h, w): (usize, usize)) -> (usize, usize) {
    let windows = |side: usize, size: usize, stride: usize| (side - size) / stride + 1;
    match *op {
        Op::Conv2d { kernel, stride, .. } => {
            let Around { top, bottom, left, right } = around(op, (h, w));
            (windows(h + top + bottom, kernel, stride), windows(w + left + right, kernel, stride))
        }
        Op::MaxPool { size, stride, padding } => {
            (windows(h + 2 * padding, size, stride), windows(w + 2 * padding, size, stride))
        }
        Op::AdaptiveAvgPool { side } => (side, side),
        Op::PadShortcut { stride, .. } => (h.div_ceil(stride), w.div_ceil(stride)),
        _ => (h, w),
    }
}

/// A panic elsewhere leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
