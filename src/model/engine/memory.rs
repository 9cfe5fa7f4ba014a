//! Where the outputs of a plan's steps lie, and how many pictures go through which steps together.
//!
//! While maps are large, few pictures at a time go through all steps that follow each other, so that what one step
//! writes is still in the cache when the next one reads it. Where maps are small, many go together, so that weights
//! are fetched once for all of them.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::graph::{Extent, Graph, NodeId};
use super::super::op::Op;
use super::super::run::check_sides;
use super::Plan;
use super::layout::{Around, Maps, Part, PartMut, Shape};
use super::packed::Packed;
use super::{attention, winograd};

/// Bytes of a map that are worth keeping in the cache: of smaller ones several pictures go together.
/// Tests have small maps, and are to see several stretches.
const CACHED: usize = if cfg!(test) { 16 << 10 } else { 1600 << 10 };

/// The memory of one run.
pub(super) struct Memory {
    /// Of how many pictures, and the sides of each input.
    pub(super) sides: (usize, Vec<(usize, usize)>),
    pub(super) stretches: Vec<Stretch>,
    pub(super) scratch: Scratch,
    buffers: Vec<Buffer>,
    /// Of each node that has one, its buffer.
    buffer_of: BTreeMap<NodeId, usize>,
}

/// What kernels write on the way, kept from one step to the next.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) winograd: winograd::Scratch,
    pub(super) attention: attention::Scratch,
    pub(super) patches: Maps,
}

/// Steps that so many pictures go through before the next ones begin with the first of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stretch {
    pub(super) steps: Range<usize>,
    pub(super) together: usize,
}

#[derive(Default)]
struct Buffer {
    maps: Maps,
    /// Whether it holds all pictures of the run, or those that go together.
    whole: bool,
}

impl Buffer {
    fn pictures(&self, pictures: Range<usize>) -> Range<usize> {
        if self.whole { pictures } else { 0..pictures.len() }
    }
}

impl Memory {
    /// For `sides.0` pictures; `sides.1` are the height and width of each of the plan's inputs.
    pub(super) fn new(
        graph: &Graph,
        plan: &Plan,
        sides: (usize, Vec<(usize, usize)>),
        lanes: usize,
    ) -> anyhow::Result<Memory> {
        let n = sides.0;
        let shapes = shapes(graph, plan, &sides.1, lanes)?;
        let stretches = stretches(graph, plan, &shapes, n);
        let mut memory = Memory {
            sides,
            stretches,
            scratch: Scratch::default(),
            buffers: vec![],
            buffer_of: BTreeMap::new(),
        };
        // The last step that reads each output; what is kept is read after all of them.
        let mut last: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (at, (step, _)) in plan.steps.iter().enumerate() {
            last.insert(graph.node(step.first).inputs[0], at);
            if let Some(other) = step.other {
                last.insert(other, at);
            }
        }
        last.extend(plan.kept.iter().map(|&id| (id, plan.steps.len())));

        let mut free = vec![];
        for &id in &plan.inputs {
            memory.place(&mut free, id, shapes[&id], n, true);
        }
        for stretch in memory.stretches.clone() {
            let Range { start, end } = stretch.steps;
            for at in start..end {
                let id = plan.steps[at].0.output;
                if let Some(&shape) = shapes.get(&id) {
                    let whole = last.get(&id).is_some_and(|it| end <= *it);
                    let n = if whole { n } else { stretch.together };
                    memory.place(&mut free, id, shape, n, whole);
                }
                // The next pictures still want what all of them share.
                for (id, _) in last.iter().filter(|it| *it.1 == at) {
                    let buffer = memory.buffer_of.get(id).copied();
                    free.extend(buffer.filter(|&it| !memory.buffers[it].whole));
                }
            }
            for (id, _) in last.iter().filter(|it| (start..end).contains(it.1)) {
                let buffer = memory.buffer_of.get(id).copied();
                free.extend(buffer.filter(|&it| memory.buffers[it].whole));
            }
        }
        Ok(memory)
    }

    /// Gives a node a free buffer of its shape, or a new one.
    fn place(&mut self, free: &mut Vec<usize>, id: NodeId, shape: Shape, n: usize, whole: bool) {
        let is_like = |it: &Buffer| it.maps.shape == shape && it.maps.n == n && it.whole == whole;
        let fits = free.iter().rposition(|&it| is_like(&self.buffers[it]));
        let buffer = fits.map(|it| free.remove(it)).unwrap_or_else(|| {
            self.buffers.push(Buffer { maps: Maps::zeros(n, shape), whole });
            self.buffers.len() - 1
        });
        self.buffer_of.insert(id, buffer);
    }

    /// A node's output on some pictures of the run.
    pub(super) fn part(&self, id: NodeId, pictures: Range<usize>) -> Part<'_> {
        let buffer = &self.buffers[self.buffer_of[&id]];
        buffer.maps.part(buffer.pictures(pictures))
    }

    pub(super) fn part_mut(&mut self, id: NodeId, pictures: Range<usize>) -> PartMut<'_> {
        let buffer = &mut self.buffers[self.buffer_of[&id]];
        let pictures = buffer.pictures(pictures);
        buffer.maps.part_mut(pictures)
    }

    /// Gives `work` a node's output to write on, with everything else to read.
    pub(super) fn write<T>(
        &mut self,
        id: NodeId,
        pictures: Range<usize>,
        work: impl FnOnce(PartMut<'_>, &Memory, &mut Scratch) -> T,
    ) -> T {
        let place = self.buffer_of[&id];
        let mut out = std::mem::take(&mut self.buffers[place]);
        let mut scratch = std::mem::take(&mut self.scratch);
        let pictures = out.pictures(pictures);
        let done = work(out.maps.part_mut(pictures), self, &mut scratch);
        self.buffers[place] = out;
        self.scratch = scratch;
        done
    }
}

/// The shape of every map, with the zeros that its readers want around it. Errs where pictures are too small.
fn shapes(
    graph: &Graph,
    plan: &Plan,
    sides: &[(usize, usize)],
    lanes: usize,
) -> anyhow::Result<BTreeMap<NodeId, Shape>> {
    let mut side_of: BTreeMap<NodeId, (usize, usize)> =
        plan.inputs.iter().copied().zip(sides.iter().copied()).collect();
    let mut around_of: BTreeMap<NodeId, Around> = BTreeMap::new();
    for (step, packed) in &plan.steps {
        let node = graph.node(step.first);
        let shaped_by = graph.node(step.shaped_by());
        let (h, w) = side_of[&node.inputs[0]];
        check_sides(shaped_by, (h, w))?;
        let own = around_of.entry(node.inputs[0]).or_default();
        *own = own.max(match &**packed {
            Packed::Winograd(_) => winograd::around(h, w),
            _ => around(&node.op, (h, w)),
        });
        side_of.insert(step.output, output_sides(&shaped_by.op, (h, w)));
    }
    let lies_here = |id: &NodeId| !matches!(graph.node(*id).extent, Extent::Flat { .. });
    let shape = |(id, (h, w)): (NodeId, (usize, usize))| {
        let lanes = if id == Graph::INPUT { 1 } else { lanes };
        let node = graph.node(id);
        let around = match node.extent {
            // Behind tokens so many zeros that without the class token they are the rows of a map.
            Extent::Tokens { side } => Around { right: side - 1, ..Around::default() },
            _ => around_of.get(&id).copied().unwrap_or_default(),
        };
        (id, Shape::new((node.channels, h, w), around, lanes))
    };
    Ok(side_of.into_iter().filter(|(id, _)| lies_here(id)).map(shape).collect())
}

/// As many pictures go together as the largest map allows that is still to come.
fn stretches(
    graph: &Graph,
    plan: &Plan,
    shapes: &BTreeMap<NodeId, Shape>,
    n: usize,
) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = vec![];
    let mut largest = 1;
    for (at, (step, _)) in plan.steps.iter().enumerate().rev() {
        let maps = [graph.node(step.first).inputs[0], step.output];
        let bytes = |id: &NodeId| shapes.get(id).map(|it| it.picture() * size_of::<f32>());
        largest = maps.iter().filter_map(bytes).fold(largest, usize::max);
        let together = (CACHED / largest).clamp(1, n.max(1));
        let together = if together < n { 1 << together.ilog2() } else { n.max(1) };
        match stretches.last_mut() {
            Some(next) if next.together == together => next.steps.start = at,
            _ => stretches.push(Stretch { steps: at..at + 1, together }),
        }
    }
    for at in 1..stretches.len() {
        stretches[at].steps.end = stretches[at - 1].steps.start;
    }
    stretches.reverse();
    stretches
}

/// Zeros that an op looks at around its input.
pub(super) fn around(op: &Op, (h, w): (usize, usize)) -> Around {
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
        Op::AdaptiveAvgPool { side } | Op::Patches { side, .. } => (side, side),
        Op::ClassToken => (1, 1 + h * w),
        Op::PadShortcut { stride, .. } => (h.div_ceil(stride), w.div_ceil(stride)),
        _ => (h, w),
    }
}
