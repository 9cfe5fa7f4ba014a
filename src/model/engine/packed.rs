//! Weights as the kernels want them.

use anyhow::bail;
use candle_core::Tensor;

use super::super::graph::{Graph, NodeId};
use super::super::op::{Op, Padding};
use super::super::ops::Params;
use super::depthwise::Depthwise;
use super::direct::{Direct, padded};
use super::layout::Aligned;
use super::norm::Norm;
use super::plan::Step;
use super::tokens::{self, Patches};
use super::winograd::Winograd;

/// What a step needs beside its inputs.
pub(super) enum Packed {
    Direct(Direct),
    Winograd(Winograd),
    Depthwise(Depthwise),
    Patches(Patches),
    Norm(Norm),
    /// The class token `(blocks, lanes)`, or what stands for places `(blocks, tokens, lanes)`.
    Own(Aligned),
    /// A batch norm that could not be folded; else no `scale`, and zeros for the shift that every step adds.
    Affine {
        scale: Option<Aligned>,
        shift: Aligned,
    },
}

impl Packed {
    /// `winograd` says whether 3×3 convolutions may be computed by Winograd's transforms.
    pub(super) fn new(
        graph: &Graph,
        params: &[Params],
        step: &Step,
        lanes: usize,
        winograd: bool,
    ) -> anyhow::Result<Packed> {
        let node = graph.node(step.first);
        Ok(match (node.op, &params[step.first]) {
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
                    1 if winograd && is_for_winograd(graph, step.first) => {
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
            (Op::Linear { c_out }, Params::Linear { weight_t, bias }) => {
                let (weight, bias) = (values(&weight_t.t()?)?, values(bias)?);
                let sizes = [c_out, weight.len() / c_out, 1];
                Packed::Direct(Direct::new(sizes, 1, false, &weight, &bias, lanes))
            }
            (Op::Patches { c_out, size, .. }, Params::Conv { weight, bias: Some(bias) }) => {
                let sizes = [c_out, weight.dim(1)?, size];
                Packed::Patches(Patches::new(sizes, &values(weight)?, &values(bias)?, lanes))
            }
            (Op::ClassToken | Op::Positions, Params::Own(own)) => {
                Packed::Own(tokens::blocked(&values(own)?, own.dim(2)?, lanes))
            }
            (Op::LayerNorm { eps }, Params::Affine { scale, shift }) => {
                Packed::Norm(Norm::new(eps, &values(scale)?, &values(shift)?, lanes))
            }
            (Op::BatchNorm { .. }, Params::Affine { scale, shift }) => Packed::Affine {
                scale: Some(padded(&values(scale)?, lanes)),
                shift: padded(&values(shift)?, lanes),
            },
            _ => {
                let shift = padded(&vec![0.; graph.node(step.output).channels], lanes);
                Packed::Affine { scale: None, shift }
            }
        })
    }
}

fn values(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

fn is_for_winograd(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    node.inputs[0] != Graph::INPUT
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
