//! Nodes to steps: what is computed in one go, and what need not be kept.

use super::super::graph::{Graph, NodeId};
use super::super::op::{Curve, Op};
use super::finish::Cut;

/// Some nodes computed in one go: a first one, and what follows it while its values are in registers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) first: NodeId,
    /// The batch norm behind it, folded into it.
    pub(super) norm: Option<NodeId>,
    /// The maximum that is taken of what a batch norm that could not be folded gives.
    pub(super) pool: Option<NodeId>,
    /// What is added before the values are cut, or what the first node scales by.
    pub(super) other: Option<NodeId>,
    pub(super) cut: Cut,
    /// What the values are bent to at last, be it by the first node.
    pub(super) curve: Option<Curve>,
    /// The node whose output is written.
    pub(super) output: NodeId,
}

/// A node, and the batch norm folded into it.
pub(super) type Folded = (NodeId, Option<NodeId>);

impl Step {
    /// Whose weights it reads.
    pub(super) fn folded(&self) -> Folded {
        (self.first, self.norm)
    }

    /// The node that says what shape comes out.
    pub(super) fn shaped_by(&self) -> NodeId {
        self.pool.unwrap_or(self.first)
    }

    /// The same without the upper clamp of the node whose output is written ([`Op::unclamped`]).
    pub(super) fn unclamped(&self) -> Step {
        let curve = self.curve.map(|curve| match Op::Curve(curve).unclamped() {
            Some((Op::Curve(curve), _)) => curve,
            _ => curve,
        });
        let high = if self.curve.is_none() { f32::INFINITY } else { self.cut.high };
        Step { cut: Cut { high, ..self.cut }, curve, ..self.clone() }
    }

    /// Whether nothing is added or cut yet.
    fn is_plain(&self) -> bool {
        self.other.is_none() && self.cut == Cut::NONE
    }
}

/// The cut that an op is.
fn cut(op: &Op) -> Option<Cut> {
    match op {
        Op::Relu => Some(Cut { low: 0., ..Cut::NONE }),
        Op::Relu6 => Some(Cut { low: 0., high: 6. }),
        _ => None,
    }
}

/// Whether something can be added to what an op gives, and that be cut, before it is written.
fn has_sums(op: &Op) -> bool {
    match op {
        Op::Conv2d { .. }
        | Op::BatchNorm { .. }
        | Op::Relu
        | Op::Relu6
        | Op::MaxPool { .. }
        | Op::AdaptiveAvgPool { .. }
        | Op::Add
        | Op::Linear { .. }
        | Op::Patches { .. } => true,
        Op::Input
        | Op::GlobalAvgPool
        | Op::Flatten
        | Op::PadShortcut { .. }
        | Op::ClassToken
        | Op::Positions
        | Op::LayerNorm { .. }
        | Op::Attention { .. }
        | Op::Curve(_)
        | Op::Scale
        | Op::TakeClass => false,
    }
}

/// The steps of some nodes in their order. A node that `is_visible` ends its step, so that its own value is
/// there to be looked at or changed; so does one that several nodes read.
pub(super) fn steps(
    graph: &Graph,
    nodes: std::ops::Range<NodeId>,
    is_visible: impl Fn(NodeId) -> bool,
) -> Vec<Step> {
    let mut steps: Vec<Step> = vec![];
    // The step whose output a node is, where it may go on.
    let open = |steps: &[Step], id: NodeId| {
        let at = steps.iter().position(|it| it.output == id)?;
        let goes_on = has_sums(&graph.node(id).op) && graph.readers(id).count() == 1;
        (!is_visible(id) && goes_on).then_some(at)
    };
    for id in nodes {
        let node = graph.node(id);
        let before = node.inputs[0];
        if node.op == Op::Add {
            // Of the two sums the later one goes on, and adds the other.
            let pairs = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])];
            let goes_on = pairs.into_iter().filter_map(|(own, other)| {
                let at = open(&steps, own)?;
                let step = &steps[at];
                let is_there = steps.iter().position(|it| it.output == other) < Some(at);
                (is_there && other != own && step.is_plain()).then_some((at, other))
            });
            if let Some((at, other)) = goes_on.max() {
                steps[at].other = Some(other);
                steps[at].output = id;
                continue;
            }
        } else if let Some(at) = open(&steps, before) {
            let step = &mut steps[at];
            if let Some(cut) = cut(&node.op).filter(|_| step.cut == Cut::NONE) {
                (step.cut, step.output) = (cut, id);
                continue;
            }
            if let Op::Curve(curve) = node.op {
                (step.curve, step.output) = (Some(curve), id);
                continue;
            }
            let folds = matches!(graph.node(step.first).op, Op::Conv2d { .. });
            if matches!(node.op, Op::BatchNorm { .. })
                && folds
                && step.is_plain()
                && step.norm.is_none()
            {
                (step.norm, step.output) = (Some(id), id);
                continue;
            }
            // A cut before the maximum is one after it.
            let pools = matches!(graph.node(step.first).op, Op::BatchNorm { .. });
            if matches!(node.op, Op::MaxPool { .. })
                && pools
                && step.other.is_none()
                && step.pool.is_none()
            {
                (step.pool, step.output) = (Some(id), id);
                continue;
            }
        }
        steps.push(Step {
            first: id,
            norm: None,
            pool: None,
            other: node.inputs.get(1).copied(),
            cut: cut(&node.op).unwrap_or(Cut::NONE),
            curve: if let Op::Curve(curve) = node.op { Some(curve) } else { None },
            output: id,
        });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::op::Padding;

    /// A block as ResNet has it: two convolutions, a shortcut with a convolution of its own.
    fn graph() -> Graph {
        let mut g = Graph::new(16);
        let conv = Op::Conv2d {
            c_out: 16,
            kernel: 3,
            stride: 1,
            padding: Padding::Even(1),
            groups: 1,
            bias: false,
        };
        let norm = Op::BatchNorm { eps: 1e-5 };
        let a = g.add("conv1", conv, &[0]); // 1
        let a = g.add("bn1", norm, &[a]);
        let a = g.add("relu1", Op::Relu, &[a]); // 3
        let b = g.add("conv2", conv, &[a]);
        let b = g.add("bn2", norm, &[b]); // 5
        let c = g.add("down", conv, &[0]);
        let c = g.add("down_bn", norm, &[c]); // 7
        let d = g.add("add", Op::Add, &[b, c]);
        g.add("relu", Op::Relu6, &[d]); // 9
        g
    }

    #[track_caller]
    fn check(visible: &[NodeId], wanted: &[(NodeId, Option<NodeId>, Option<NodeId>, NodeId)]) {
        let steps = steps(&graph(), 1..10, |id| visible.contains(&id));
        let found: Vec<_> =
            steps.iter().map(|it| (it.first, it.norm, it.other, it.output)).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_block_is_three_steps() {
        check(&[], &[(1, Some(2), None, 3), (4, Some(5), None, 5), (6, Some(7), Some(5), 9)]);
    }

    #[test]
    fn what_is_looked_at_is_written_as_it_is() {
        check(
            &[1, 8],
            &[
                (1, None, None, 1),
                (2, None, None, 3),
                (4, Some(5), None, 5),
                (6, Some(7), Some(5), 8),
                (9, None, None, 9),
            ],
        );
        // The later sum must stand as it is, so the earlier one cannot wait for it.
        check(
            &[7],
            &[
                (1, Some(2), None, 3),
                (4, Some(5), None, 5),
                (6, Some(7), None, 7),
                (8, None, Some(7), 9),
            ],
        );
    }

    #[test]
    fn a_curve_ends_a_step() {
        let mut g = graph();
        let conv = g.node(1).op;
        let xs = g.add("conv3", conv, &[9]); // 10
        let xs = g.add("silu", Op::Curve(Curve::Silu), &[xs]);
        g.add("sigmoid", Op::Curve(Curve::Sigmoid), &[xs]); // 12
        let found = |visible: &[NodeId]| {
            let steps = steps(&g, 10..13, |id| visible.contains(&id));
            steps.iter().map(|it| (it.first, it.curve, it.output)).collect::<Vec<_>>()
        };
        let [silu, sigmoid] = [Some(Curve::Silu), Some(Curve::Sigmoid)];
        assert_eq!(found(&[]), [(10, silu, 11), (12, sigmoid, 12)]);
        assert_eq!(found(&[10]), [(10, None, 10), (11, silu, 11), (12, sigmoid, 12)]);
    }

    #[test]
    fn a_norm_that_is_not_folded_is_pooled_where_it_is_read() {
        let mut g = graph();
        let max = Op::MaxPool { size: 3, stride: 2, padding: 1 };
        let xs = g.add("bn", Op::BatchNorm { eps: 1e-5 }, &[9]); // 10
        let xs = g.add("relu2", Op::Relu, &[xs]);
        let xs = g.add("pool", max, &[xs]);
        g.add("pool2", max, &[xs]); // 13
        let found = |visible: &[NodeId]| {
            let steps = steps(&g, 10..14, |id| visible.contains(&id));
            steps.iter().map(|it| (it.first, it.pool, it.output)).collect::<Vec<_>>()
        };
        assert_eq!(found(&[]), [(10, Some(12), 12), (13, None, 13)]);
        assert_eq!(found(&[11]), [(10, None, 11), (12, None, 12), (13, None, 13)]);
    }
}
