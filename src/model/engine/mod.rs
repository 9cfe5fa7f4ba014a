//! The same network, compiled for the CPU.
//!
//! Candle runs a graph op by op, each over all pictures, each into new memory. Here a graph becomes a list of
//! steps (`plan`): a convolution with the batch norm folded into its weights, the residual added and the
//! activation cut while its sums are still in registers; an activation that is no cut (`curve`) follows in place.
//! Only what someone looks at or changes is written as it is, so a site inside such a group keeps its exact
//! meaning; which nodes those are is known before the run ([`Tap::wants`]), and each such set has its own steps.
//! Whoever wants to see a value before its upper clamp is shown it, and it is clamped in its place afterwards.
//!
//! **Layout.** A map's channels lie in blocks of as many as a vector has lanes (`layout`): 16 with AVX-512, 8 with
//! AVX2. One vector is one position of a block, so every loop works on whole vectors whatever the map's sides,
//! and a position's neighbours lie a vector apart. Zeros around a map are kept there once and for all, since
//! buffers are shared only by maps of the same shape; no loop asks where the map ends.
//!
//! **Registers.** All convolutions come down to one `tile`: some positions by two vectors of output channels.
//! Each weight that is fetched serves all positions, each input value two vectors, and the sums never leave the
//! registers. `direct` walks a tile over its window; `winograd` turns 3×3 convolutions into 36 matrix
//! products with a quarter of the multiplications, done by the same tile. So are linear layers on tokens and both
//! products of `attention`.
//!
//! **Tokens** are a map of one row, the class token first. Whoever looks at them sees the map of their patches (`blocks`).
//!
//! **Vectors.** What the machine has is found when the program runs (`vector`): AVX-512, AVX2 with FMA, NEON, else
//! plain arrays. The code is the same for all of them and has no `unsafe`; tests run it with arrays of 8 and of
//! 16 as well.
//!
//! A run uses one thread: callers take a few pictures a thread through the network, which needs no waiting inside
//! an op. Of these, as many go through some steps together as keep a step's output in the cache for the next one
//! (`memory`).

mod attention;
mod blocks;
mod curve;
mod depthwise;
mod direct;
mod edges;
mod exp;
mod finish;
mod layout;
mod memory;
mod norm;
mod packed;
mod plan;
mod pool;
mod tile;
mod tokens;
mod vector;
mod winograd;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::graph::{Extent, Graph, NodeId};
use super::op::Op;
use super::ops::Params;
use super::run::Tap;
use edges::{class, means, read, tensor};
use finish::Target;
use layout::Around;
use memory::Memory;
use packed::Packed;
use plan::{Folded, Step};
use pool::Each;

pub use blocks::{Blocks, Survey};
pub use vector::Isa;

/// Runs the maps of a graph; what becomes of them as features is left to candle.
pub(super) struct Engine {
    isa: Isa,
    /// Whether 3×3 convolutions may be computed by Winograd's transforms.
    winograd: bool,
    /// Of each node, whether it is for the engine.
    ours: Vec<bool>,
    plans: Mutex<Plans>,
}

#[derive(Default)]
struct Plans {
    /// The last ones, the latest last.
    plans: Vec<(Key, Arc<Plan>)>,
    packed: BTreeMap<Folded, Arc<Packed>>,
}

/// Which nodes run, the end of those that run after them, and which the tap wants to see.
type Key = (Range<NodeId>, NodeId, Vec<NodeId>);

/// Plans that are kept: those of a run, and of the halves of one that is stopped halfway.
const PLANS: usize = 4;

struct Plan {
    steps: Vec<(Step, Arc<Packed>)>,
    /// The nodes before the first one whose outputs are read.
    inputs: Vec<NodeId>,
    /// The nodes that the tap wants to see.
    shown: Vec<NodeId>,
    /// The nodes whose outputs are read by those that come after, or asked for.
    kept: Vec<NodeId>,
    /// The nodes whose outputs nobody reads any more.
    dropped: Vec<NodeId>,
    /// Memory of runs that are over.
    idle: Mutex<Vec<Memory>>,
}

impl Engine {
    pub(super) fn new(graph: &Graph, isa: Isa, winograd: bool) -> Engine {
        let ours = (0..graph.nodes().len()).map(|id| is_for_us(graph, id)).collect();
        Engine { isa, winograd, ours, plans: Mutex::default() }
    }

    /// Packs the weights of a run in which `shown` are looked at, on all cores.
    pub(super) fn prepare(
        &self,
        graph: &Graph,
        params: &[Params],
        shown: &[NodeId],
    ) -> anyhow::Result<()> {
        let end = self.end(1..graph.nodes().len());
        let known: Vec<Folded> = lock(&self.plans).packed.keys().copied().collect();
        let packed = plan::steps(graph, 1..end, |id| shown.contains(&id))
            .par_iter()
            .filter(|step| !known.contains(&step.folded()))
            .map(|step| Ok((step.folded(), self.pack(graph, params, step)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        lock(&self.plans).packed.extend(packed);
        Ok(())
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
        let end = self.end(nodes.clone());
        if end == nodes.start {
            return Ok(nodes);
        }
        let ours = nodes.start..end;
        let shown = tap.wants().into_iter().filter(|id| ours.contains(id)).collect();
        let plan = self.plan(graph, params, (ours, nodes.end, shown))?;

        let input = |id: &NodeId| values[*id].clone().context("an output was dropped too early");
        let inputs = plan.inputs.iter().map(input).collect::<anyhow::Result<Vec<_>>>()?;
        let mut memory = self.memory(graph, &plan, &inputs)?;
        let n = memory.sides.0;
        ensure!(0 < n, "a network runs on one picture at least");
        for (&id, xs) in plan.inputs.iter().zip(&inputs) {
            read(&mut memory.part_mut(id, 0..n), xs)?;
        }
        let mut features: BTreeMap<NodeId, Vec<Tensor>> = BTreeMap::new();
        for stretch in memory.stretches.clone() {
            for first in (0..n).step_by(stretch.together) {
                let pictures = first..n.min(first + stretch.together);
                for (step, packed) in &plan.steps[stretch.steps.clone()] {
                    let id = step.output;
                    let node = graph.node(id);
                    let input = || memory.part(node.inputs[0], pictures.clone());
                    let ys = match node.op {
                        Op::GlobalAvgPool => means(input())?,
                        Op::Flatten => tensor(input(), Extent::Map)?.flatten_from(1)?,
                        Op::TakeClass => class(input())?,
                        _ => {
                            let is_shown = plan.shown.contains(&id);
                            let unclamped =
                                node.op.unclamped().filter(|_| is_shown && tap.sees_unclamped(id));
                            let step = match unclamped {
                                Some(_) => &step.unclamped(),
                                None => step,
                            };
                            self.step(graph, step, packed, &mut memory, pictures.clone())?;
                            if is_shown {
                                self.show(graph, tap, id, &mut memory, pictures.clone())?;
                            }
                            if let Some((_, most)) = unclamped {
                                pool::clamp(self.isa, memory.part_mut(id, pictures.clone()), most);
                            }
                            continue;
                        }
                    };
                    features.entry(id).or_default().push(tap.at(id, first, ys)?);
                }
            }
        }
        for &id in &plan.kept {
            values[id] = Some(match features.get(&id) {
                Some(parts) => Tensor::cat(parts, 0)?,
                None => tensor(memory.part(id, 0..n), graph.node(id).extent)?,
            });
        }
        for &id in &plan.dropped {
            values[id] = None;
        }
        lock(&plan.idle).push(memory);
        Ok(end..nodes.end)
    }

    fn plan(&self, graph: &Graph, params: &[Params], key: Key) -> anyhow::Result<Arc<Plan>> {
        let mut known = lock(&self.plans);
        if let Some((_, plan)) = known.plans.iter().find(|it| it.0 == key) {
            return Ok(plan.clone());
        }
        let (nodes, end, shown) = &key;
        // Whoever reads it later, and the last node of all, which is asked for without being read.
        let is_kept = |id: NodeId| id + 1 == *end || graph.readers(id).any(|it| nodes.end <= it);
        let kept: Vec<NodeId> = nodes.clone().filter(|id| is_kept(*id)).collect();
        let is_visible = |id: NodeId| shown.contains(&id) || kept.contains(&id);
        let steps = plan::steps(graph, nodes.clone(), is_visible);
        let mut inputs: Vec<NodeId> = steps
            .iter()
            .flat_map(|it| [Some(graph.node(it.first).inputs[0]), it.other])
            .flatten()
            .filter(|it| *it < nodes.start)
            .collect();
        inputs.sort_unstable();
        inputs.dedup();
        let pack = |step: Step| {
            if let Some(packed) = known.packed.get(&step.folded()) {
                return Ok((step, packed.clone()));
            }
            let packed = self.pack(graph, params, &step)?;
            known.packed.insert(step.folded(), packed.clone());
            Ok((step, packed))
        };
        let steps = steps.into_iter().map(pack).collect::<anyhow::Result<_>>()?;
        let dropped = (0..nodes.end).filter(|id| !is_kept(*id)).collect();
        let (shown, idle) = (shown.clone(), Mutex::default());
        let plan = Arc::new(Plan { steps, inputs, shown, kept, dropped, idle });
        if PLANS <= known.plans.len() {
            known.plans.remove(0);
        }
        known.plans.push((key, plan.clone()));
        Ok(plan)
    }

    fn pack(&self, graph: &Graph, params: &[Params], step: &Step) -> anyhow::Result<Arc<Packed>> {
        Ok(Arc::new(Packed::new(graph, params, step, self.isa.lanes(), self.winograd)?))
    }

    /// The first of some nodes that is not for the engine.
    fn end(&self, nodes: Range<NodeId>) -> NodeId {
        let end = nodes.end;
        nodes.into_iter().find(|&id| !self.ours[id]).unwrap_or(end)
    }

    /// Memory for a run over such inputs: of an earlier run, or new.
    fn memory(&self, graph: &Graph, plan: &Plan, inputs: &[Tensor]) -> anyhow::Result<Memory> {
        let mut sides = (0, vec![]);
        for xs in inputs {
            let (n, h, w) = match *xs.dims() {
                [n, tokens, _] => (n, 1, tokens),
                _ => xs.dims4().map(|(n, _, h, w)| (n, h, w))?,
            };
            sides.0 = n;
            sides.1.push((h, w));
        }
        let mut idle = lock(&plan.idle);
        if let Some(at) = idle.iter().position(|it| it.sides == sides) {
            return Ok(idle.swap_remove(at));
        }
        // Other sides are not likely to come back.
        idle.pop();
        drop(idle);
        Memory::new(graph, plan, sides, self.isa.lanes())
    }

    fn step(
        &self,
        graph: &Graph,
        step: &Step,
        packed: &Packed,
        memory: &mut Memory,
        pictures: Range<usize>,
    ) -> anyhow::Result<()> {
        let node = graph.node(step.first);
        let isa = self.isa;
        memory.write(step.output, pictures.clone(), |out, memory, scratch| {
            let input = memory.part(node.inputs[0], pictures.clone());
            let other = step.other.map(|it| memory.part(it, pictures.clone()));
            let Around { top, left, .. } = memory::around(&node.op, (input.shape.h, input.shape.w));
            let pads = (top, left);
            let mut target = Target { out, residual: other, cut: step.cut };
            match (node.op, packed) {
                (_, Packed::Direct(it)) => it.run(isa, input, pads, target),
                (_, Packed::Winograd(it)) => it.run(isa, input, target, &mut scratch.winograd),
                (_, Packed::Depthwise(it)) => it.run(isa, input, pads, target),
                (_, Packed::Patches(it)) => it.run(isa, input, target, &mut scratch.patches),
                (_, Packed::Norm(it)) => it.run(isa, input, target.out),
                (Op::ClassToken, Packed::Own(it)) => {
                    tokens::with_class(input, it, &mut target.out);
                }
                (_, Packed::Own(it)) => tokens::with_places(input, it, &mut target.out),
                (Op::Attention { heads }, _) => {
                    attention::run(isa, heads, input, target.out, &mut scratch.attention);
                }
                (Op::PadShortcut { stride, before, .. }, _) => {
                    pool::pad(input, stride, before, &mut target.out);
                }
                (Op::Curve(curve), _) => {
                    step.curve.unwrap_or(curve).run(isa, input, target.out);
                }
                (_, Packed::Affine { scale, shift }) => {
                    let scale = scale.as_ref();
                    let each = match graph.node(step.shaped_by()).op {
                        Op::MaxPool { size, stride, padding } => {
                            Each::Max { size, stride, padding, scale }
                        }
                        Op::AdaptiveAvgPool { side } => Each::Average { side },
                        Op::Scale => {
                            let by = target.residual.take();
                            Each::Times { by: by.context("a scale has two inputs")? }
                        }
                        Op::BatchNorm { .. } | Op::Relu | Op::Relu6 | Op::Add => {
                            Each::Same { scale }
                        }
                        _ => bail!("`{}` is not for the engine", node.name),
                    };
                    pool::run(isa, &each, input, shift, target);
                }
            }
            Ok(())
        })?;
        // A curve that is the first node was run above.
        if let Some(curve) = step.curve.filter(|_| step.first != step.output) {
            curve.bend(isa, memory.part_mut(step.output, pictures));
        }
        Ok(())
    }

    /// Shows a tap the maps of some pictures where they lie, or else as a copy, which it may change.
    fn show(
        &self,
        graph: &Graph,
        tap: &mut impl Tap,
        id: NodeId,
        memory: &mut Memory,
        pictures: Range<usize>,
    ) -> anyhow::Result<()> {
        let (first, extent) = (pictures.start, graph.node(id).extent);
        let maps = memory.part_mut(id, pictures.clone());
        let mut blocks = match extent {
            Extent::Tokens { side } => Blocks::of_tokens(self.isa, maps, side),
            _ => Blocks::new(self.isa, maps),
        };
        if tap.look(id, first, &mut blocks)? {
            return Ok(());
        }
        let ys = tensor(memory.part(id, pictures.clone()), extent)?;
        let before = ys.id();
        let ys = tap.at(id, first, ys)?;
        if ys.id() != before {
            read(&mut memory.part_mut(id, pictures), &ys)?;
        }
        Ok(())
    }
}

fn is_for_us(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let is_here = |id: NodeId| !matches!(graph.node(id).extent, Extent::Flat { .. });
    let is_picture = node.inputs.contains(&Graph::INPUT);
    let fits = match node.op {
        Op::Conv2d { stride, groups: 1, .. } => direct::has_tiles(stride, is_picture),
        Op::Conv2d { c_out, groups, stride, .. } => {
            let c_in = graph.node(node.inputs[0]).channels;
            groups == c_out && groups == c_in && depthwise::has_loop(stride) && !is_picture
        }
        Op::BatchNorm { .. }
        | Op::Relu
        | Op::Relu6
        | Op::MaxPool { .. }
        | Op::AdaptiveAvgPool { .. }
        | Op::GlobalAvgPool
        | Op::Flatten
        | Op::Add
        | Op::PadShortcut { .. }
        | Op::Linear { .. }
        | Op::ClassToken
        | Op::Positions
        | Op::LayerNorm { .. }
        | Op::Curve(_)
        | Op::Scale
        | Op::TakeClass => !is_picture,
        Op::Attention { heads } => attention::has_blocks(node.channels / heads),
        Op::Patches { .. } => is_picture,
        Op::Input => false,
    };
    fits && node.inputs.iter().all(|&it| is_here(it))
}

/// A panic elsewhere leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
