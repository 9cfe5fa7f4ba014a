//! Which slices of which tensors to zero so that a unit is zero, exactly.
//!
//! Setting channel `u` of a node's output to zero can be written into weights in two ways:
//!
//! - through the **writers**, where every path into the node ends in a layer that nothing else
//!   reads: row `u` of a convolution or linear layer and its bias, or a norm's weight *and* bias
//!   (batch norm after a zeroed convolution would leave the constant `β − γμ/σ`);
//! - through the **readers**, where only convolutions and linear layers read it: their input slices.
//!   This is how the last block of a ResNet stage is edited, for a residual sum has no filter of its own.
//!
//! In between may stand only ops that turn zeros into zeros ([`Op::keeps_zero`]): a neuron of a transformer's MLP is a
//! row of its first layer and the bias there, since GELU(0) = 0. Where neither way
//! is open, no zeroing of weights equals the ablation, and the unit is [`NotEditable`]. Each change
//! holds whatever else is zeroed, so the changes of several units are simply put together.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::graph::{Graph, NodeId};
use crate::model::op::Op;
use crate::unit::Unit;
use crate::usage;
use crate::weights::Change;

/// How a site's units are zeroed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Writers,
    Readers,
}

/// Why a unit cannot be zeroed by zeroing weights, and where near it one can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{unit} cannot be zeroed exactly: {reason}{}", near(.nearest))]
pub struct NotEditable {
    pub unit: Unit,
    pub reason: String,
    /// The nearest editable sites before and after, by name.
    pub nearest: Vec<String>,
}

/// A change of weights that zeroes some units, and the units it cannot zero.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The units that the changes zero, in the order given, each once.
    pub units: Vec<Unit>,
    /// One entry a tensor and axis, in the order of tensor names.
    pub changes: Vec<Change>,
    pub refused: Vec<NotEditable>,
}

/// One slice to zero: `index` of `axis` of the tensor `name`, a name without the file's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slice {
    name: String,
    axis: usize,
    index: usize,
}

/// Plans to zero `units`; tensor names in the plan begin with `prefix`, as in the file.
///
/// A unit that the network does not have is an error; one that cannot be zeroed exactly is refused.
pub fn plan(graph: &Graph, prefix: &str, units: &[Unit]) -> anyhow::Result<Plan> {
    let mut plan = Plan::default();
    let mut slices: BTreeMap<(String, usize), BTreeSet<usize>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for unit in units {
        let id = locate(graph, unit)?;
        if !seen.insert((id, unit.channel)) {
            continue;
        }
        match slices_of(graph, id, unit.channel) {
            Ok((_, found)) => {
                plan.units.push(unit.clone());
                for Slice { name, axis, index } in found {
                    slices.entry((format!("{prefix}{name}"), axis)).or_default().insert(index);
                }
            }
            Err(reason) => plan.refused.push(NotEditable {
                unit: unit.clone(),
                reason,
                nearest: nearest_editable(graph, id),
            }),
        }
    }
    plan.changes = slices
        .into_iter()
        .map(|((tensor, axis), indices)| Change {
            tensor,
            axis,
            indices: indices.into_iter().collect(),
        })
        .collect();
    Ok(plan)
}

/// The node of a unit, checked to have that channel.
pub fn locate(graph: &Graph, unit: &Unit) -> anyhow::Result<NodeId> {
    let id = graph
        .find(&unit.site)
        .ok_or_else(|| usage!("unit {unit}: the network has no layer `{}`", unit.site))?;
    let n_channels = graph.node(id).channels;
    if n_channels <= unit.channel {
        return Err(usage!("unit {unit}: `{}` has units 0 to {}", unit.site, n_channels - 1));
    }
    Ok(id)
}

/// Whether and how the units of a node can be zeroed.
pub fn way(graph: &Graph, id: NodeId) -> Result<Way, String> {
    slices_of(graph, id, 0).map(|(way, _)| way)
}

fn slices_of(graph: &Graph, id: NodeId, channel: usize) -> Result<(Way, Vec<Slice>), String> {
    let mut slices = Vec::new();
    let no_writers = match writers(graph, id, channel, &mut slices) {
        Ok(()) => return Ok((Way::Writers, slices)),
        Err(reason) => reason,
    };
    slices.clear();
    match readers(graph, id, channel, &mut slices) {
        Ok(()) => Ok((Way::Readers, slices)),
        Err(reason) => Err(format!("{no_writers}, and {reason}")),
    }
}

/// The slices that make `channel` of a node zero, whatever the node is given.
fn writers(
    graph: &Graph,
    id: NodeId,
    channel: usize,
    slices: &mut Vec<Slice>,
) -> Result<(), String> {
    let node = graph.node(id);
    let row = |leaf| Slice { name: node.tensor(leaf), axis: 0, index: channel };
    // What is changed further back must be seen by nobody but this node.
    let only_reader = |input: NodeId| match graph.readers(input).find(|&reader| reader != id) {
        None => Ok(input),
        Some(other) => Err(format!(
            "`{}` cannot be zeroed before it because `{}` reads it too",
            graph.node(input).name,
            graph.node(other).name
        )),
    };
    match node.op {
        Op::Conv2d { bias, .. } => {
            slices.push(row("weight"));
            if bias {
                slices.push(row("bias"));
            }
        }
        Op::BatchNorm { .. } | Op::LayerNorm { .. } | Op::Linear { .. } | Op::Patches { .. } => {
            slices.extend([row("weight"), row("bias")]);
        }
        Op::ClassToken | Op::Positions => {
            slices.push(Slice { name: node.tensor(""), axis: 2, index: channel });
            writers(graph, only_reader(node.inputs[0])?, channel, slices)?;
        }
        Op::Attention { .. } => {
            // A sum over tokens of the same channel of the values, which follow queries and keys.
            let input = only_reader(node.inputs[0])?;
            writers(graph, input, 2 * node.channels + channel, slices)?;
        }
        Op::Add => {
            for &input in &node.inputs {
                writers(graph, only_reader(input)?, channel, slices)?;
            }
        }
        Op::PadShortcut { before, .. } => {
            let input = only_reader(node.inputs[0])?;
            // The other channels are zero already.
            if let Some(from) = channel.checked_sub(before)
                && from < graph.node(input).channels
            {
                writers(graph, input, from, slices)?;
            }
        }
        // Nothing times whatever is nothing.
        Op::Scale => writers(graph, only_reader(node.inputs[0])?, channel, slices)?,
        Op::Input => return Err("a channel of the pictures has no weights before it".into()),
        _ if node.op.keeps_zero() => {
            writers(graph, only_reader(node.inputs[0])?, channel, slices)?;
        }
        _ => return Err(format!("`{}` does not turn zeros into zeros", node.name)),
    }
    Ok(())
}

/// The slices without which nobody sees `channel` of a node.
fn readers(
    graph: &Graph,
    id: NodeId,
    channel: usize,
    slices: &mut Vec<Slice>,
) -> Result<(), String> {
    let node = graph.node(id);
    if id == graph.output() {
        return Err(format!("`{}` is the network's output", node.name));
    }
    for reader_id in graph.readers(id) {
        let reader = graph.node(reader_id);
        let slice = |axis, index| Slice { name: reader.tensor("weight"), axis, index };
        match reader.op {
            Op::Conv2d { groups: 1, .. } => slices.push(slice(1, channel)),
            Op::Conv2d { groups, c_out, .. } if groups == node.channels => {
                // Depthwise: the filters that look at this channel look at nothing else.
                let n_filters = c_out / groups;
                slices.extend(
                    (channel * n_filters..(channel + 1) * n_filters).map(|row| slice(0, row)),
                );
            }
            Op::Linear { .. } => {
                // A flattened map: one channel is as many columns as it had positions.
                let positions = node.extent.positions();
                let columns = channel * positions..(channel + 1) * positions;
                slices.extend(columns.map(|column| slice(1, column)));
            }
            Op::PadShortcut { before, .. } => readers(graph, reader_id, channel + before, slices)?,
            Op::Scale => readers(graph, reader_id, channel, slices)?,
            _ if reader.op.keeps_zero() => readers(graph, reader_id, channel, slices)?,
            _ => {
                return Err(format!(
                    "`{}` reads `{}` and is no convolution or linear layer",
                    reader.name, node.name
                ));
            }
        }
    }
    Ok(())
}

/// The closest editable site on each side, by any name that a user would know it by.
fn nearest_editable(graph: &Graph, id: NodeId) -> Vec<String> {
    let sites = graph.sites();
    let editable = |&&(_, site): &&(&str, NodeId)| way(graph, site).is_ok();
    let before = sites.iter().rev().filter(|(_, site)| *site < id).find(editable);
    let after = sites.iter().filter(|(_, site)| id < *site).find(editable);
    before.into_iter().chain(after).map(|(name, _)| (*name).to_owned()).collect()
}

fn near(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        names => format!("; nearest layers that can be edited: `{}`", names.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::op::{Curve, Padding};

    fn conv(c_out: usize, groups: usize, bias: bool) -> Op {
        Op::Conv2d { c_out, kernel: 3, stride: 1, padding: Padding::Even(1), groups, bias }
    }

    /// A residual net in small: stem, two blocks that share a stream, a flattened head.
    fn residual() -> Graph {
        let mut g = Graph::new(3);
        let stem = g.add("stem", conv(4, 1, false), &[Graph::INPUT]);
        let bn = g.add("bn", Op::BatchNorm { eps: 1e-5 }, &[stem]);
        let relu = g.add("relu", Op::Relu, &[bn]);
        let a = g.add("a", conv(4, 4, true), &[relu]);
        let one = g.add("one", Op::Add, &[relu, a]);
        let b = g.add("b", conv(4, 1, true), &[one]);
        let two = g.add("two", Op::Add, &[one, b]);
        let pool = g.add("pool", Op::AdaptiveAvgPool { side: 2 }, &[two]);
        let flat = g.add("flatten", Op::Flatten, &[pool]);
        g.add("fc", Op::Linear { c_out: 10 }, &[flat]);
        g
    }

    /// A vision transformer in small: one block of attention and half an MLP.
    fn transformer() -> Graph {
        let mut g = Graph::new(3);
        let patches = g.add("proj", Op::Patches { c_out: 4, size: 8, side: 2 }, &[Graph::INPUT]);
        let tokens = g.add("cls_token", Op::ClassToken, &[patches]);
        let xs = g.add("pos_embed", Op::Positions, &[tokens]);
        let ys = g.add("norm", Op::LayerNorm { eps: 1e-6 }, &[xs]);
        let ys = g.add("attn.in_proj", Op::Linear { c_out: 12 }, &[ys]);
        let ys = g.add("heads", Op::Attention { heads: 2 }, &[ys]);
        let xs = g.add("add", Op::Add, &[xs, ys]);
        let xs = g.add("fc1", Op::Linear { c_out: 16 }, &[xs]);
        let xs = g.add("act", Op::Curve(Curve::Gelu), &[xs]);
        let xs = g.add("pool", Op::TakeClass, &[xs]);
        g.add("head", Op::Linear { c_out: 10 }, &[xs]);
        g
    }

    #[track_caller]
    fn check(unit: &str, wanted: &[&str]) {
        check_in(&residual(), unit, wanted);
    }

    #[track_caller]
    fn check_in(graph: &Graph, unit: &str, wanted: &[&str]) {
        let plan = plan(graph, "net.", &[unit.parse().unwrap()]).unwrap();
        assert_eq!(plan.refused, []);
        let found: Vec<String> = plan
            .changes
            .iter()
            .map(|c| format!("{} {} {:?}", c.tensor, c.axis, c.indices))
            .collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_convolution_is_edited_itself() {
        check("stem:3", &["net.stem.weight 0 [3]"]);
        check("a:1", &["net.a.bias 0 [1]", "net.a.weight 0 [1]"]);
    }

    #[test]
    fn behind_batch_norm_weight_and_bias_are_zeroed() {
        check("relu:2", &["net.bn.bias 0 [2]", "net.bn.weight 0 [2]"]);
    }

    #[test]
    fn a_flattened_sum_is_edited_through_its_reader_one_column_a_position() {
        check("two:1", &["net.fc.weight 1 [4, 5, 6, 7]"]);
    }

    #[test]
    fn a_neuron_of_an_mlp_is_its_row_and_bias() {
        for unit in ["fc1:9", "act:9", "pool:9"] {
            check_in(&transformer(), unit, &["net.fc1.bias 0 [9]", "net.fc1.weight 0 [9]"]);
        }
    }

    #[test]
    fn what_heads_give_is_zero_where_their_values_are() {
        let wanted = ["net.attn.in_proj_bias 0 [11]", "net.attn.in_proj_weight 0 [11]"];
        check_in(&transformer(), "heads:3", &wanted);
    }

    #[test]
    fn a_channel_of_the_embedding_goes_from_patches_class_token_and_positions() {
        let wanted = [
            "net.cls_token 2 [1]",
            "net.pos_embed 2 [1]",
            "net.proj.bias 0 [1]",
            "net.proj.weight 0 [1]",
        ];
        check_in(&transformer(), "pos_embed:1", &wanted);
    }

    #[test]
    fn a_residual_stream_that_norms_read_is_refused() {
        let mut g = transformer();
        let add = g.find("add").unwrap();
        g.add("norm2", Op::LayerNorm { eps: 1e-6 }, &[add]);
        let plan = plan(&g, "", &[Unit::new("add", 0)]).unwrap();
        assert_eq!(
            plan.refused[0].to_string(),
            "add:0 cannot be zeroed exactly: `pos_embed` cannot be zeroed before it because `norm` reads it too, \
             and `norm2` reads `add` and is no convolution or linear layer; nearest layers that can be edited: \
             `heads`, `fc1`"
        );
    }

    #[test]
    fn a_sum_inside_a_stage_is_refused_with_the_reason_and_the_nearest_sites() {
        let plan = plan(&residual(), "", &[Unit::new("one", 0)]).unwrap();
        assert_eq!((plan.units.len(), plan.changes.len()), (0, 0));
        assert_eq!(
            plan.refused[0].to_string(),
            "one:0 cannot be zeroed exactly: `relu` cannot be zeroed before it because `a` reads it \
             too, and `two` reads `one` and is no convolution or linear layer; nearest layers that \
             can be edited: `a`, `b`"
        );
    }

    #[test]
    fn units_are_put_together_and_named_once() {
        let units: Vec<Unit> = ["stem:3", "stem:1", "stem:3"].map(|u| u.parse().unwrap()).into();
        let plan = plan(&residual(), "", &units).unwrap();
        assert_eq!(plan.units.len(), 2);
        assert_eq!(plan.changes[0].indices, [1, 3]);
    }

    #[test]
    fn a_unit_that_is_not_there_is_an_error() {
        let unknown = plan(&residual(), "", &[Unit::new("conv9", 0)]).unwrap_err().to_string();
        assert_eq!(unknown, "unit conv9:0: the network has no layer `conv9`");
        let beyond = plan(&residual(), "", &[Unit::new("stem", 4)]).unwrap_err().to_string();
        assert_eq!(beyond, "unit stem:4: `stem` has units 0 to 3");
    }
}
