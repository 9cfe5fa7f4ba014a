//! A network run so that it learns: every op can be differentiated, and batch norm goes by the pictures at hand.
//!
//! Maps are `(c, n, h, w)` here. So a convolution is one product of matrices over all pictures, its windows side by
//! side, and batch norm's moments are those of rows: several times as fast as candle's own on a CPU.

use std::collections::BTreeMap;

use anyhow::Context;
use candle_core::{Result, Tensor};
use candle_nn::Init;

use super::params::Params;
use crate::model::graph::{Graph, Node};
use crate::model::op::{Op, Padding};
use crate::usage;

/// Mean and variance of each channel that meets a batch norm, `(c, 1)`, by the node's name.
pub type Moments = BTreeMap<String, (Tensor, Tensor)>;

/// A graph with weights that can be trained.
pub struct Learner {
    graph: Graph,
    weights: BTreeMap<String, Tensor>,
}

impl Learner {
    /// Asks `params` for every weight, begun as PyTorch begins its layers. Errs for a graph with an op that is not
    /// learnt here.
    pub fn new(graph: Graph, params: &Params) -> anyhow::Result<Learner> {
        let mut weights = BTreeMap::new();
        let builder = params.builder();
        for node in graph.nodes() {
            check(node)?;
            let parameters = node.parameters(&graph);
            let fan_in = parameters.first().map_or(1, |it| it.shape[1..].iter().product());
            for parameter in parameters.into_iter().filter(|it| !is_moment(&it.name)) {
                let bound = (fan_in as f64).powf(-0.5);
                let init = match node.op {
                    Op::BatchNorm { .. } => {
                        Init::Const(if parameter.name.ends_with("weight") { 1. } else { 0. })
                    }
                    _ => Init::Uniform { lo: -bound, up: bound },
                };
                let tensor = builder.get_with_hints(parameter.shape, &parameter.name, init)?;
                weights.insert(parameter.name, tensor);
            }
        }
        Ok(Learner { graph, weights })
    }

    /// The logits `(n, classes)` of pictures `(3, n, h, w)`, and the moments they were normalised by. `drop` is what
    /// the features before the last layer are multiplied by, `(n, features)`.
    pub fn run(&self, xs: &Tensor, drop: &Tensor) -> anyhow::Result<(Tensor, Moments)> {
        let mut moments = Moments::new();
        let mut values: Vec<Tensor> = vec![xs.clone()];
        for node in &self.graph.nodes()[1..] {
            let weight = |leaf: &str| {
                let name = node.tensor(leaf);
                self.weights.get(&name).with_context(|| format!("`{name}` is not there"))
            };
            let xs = &values[node.inputs[0]];
            let ys = match node.op {
                Op::Conv2d { kernel, stride, padding: Padding::Even(padding), .. } => {
                    conv2d(xs, weight("weight")?, kernel, stride, padding)?
                }
                Op::BatchNorm { eps } => {
                    let (ys, own) = normalised(xs, weight("weight")?, weight("bias")?, eps)?;
                    moments.insert(node.name.clone(), own);
                    ys
                }
                Op::Relu => xs.relu()?,
                Op::Add => (xs + &values[node.inputs[1]])?,
                Op::GlobalAvgPool => xs.flatten_from(2)?.mean(2)?.t()?,
                Op::Linear { .. } => {
                    let xs = (xs * drop)?;
                    xs.matmul(&weight("weight")?.t()?)?.broadcast_add(weight("bias")?)?
                }
                _ => anyhow::bail!("`{}` cannot be learnt", node.name),
            };
            values.push(ys);
        }
        let logits = values.pop().context("a network without nodes has no output")?;
        Ok((logits, moments))
    }
}

/// Errs at a node with an op that [`Learner::run`] has no rule for.
fn check(node: &Node) -> anyhow::Result<()> {
    match node.op {
        Op::Input | Op::BatchNorm { .. } | Op::Relu | Op::Add | Op::GlobalAvgPool => Ok(()),
        Op::Linear { .. } => Ok(()),
        Op::Conv2d { padding: Padding::Even(_), groups: 1, bias: false, .. } => Ok(()),
        _ => Err(usage!(
            "this architecture cannot be trained here because of `{}`; small_resnet10 and the cifar_resnets with `_b` can",
            node.name
        )),
    }
}

/// Whether a tensor is measured and not learnt.
fn is_moment(name: &str) -> bool {
    ["running_mean", "running_var", "num_batches_tracked"].iter().any(|it| name.ends_with(it))
}

/// Of maps `(c, n, h, w)` and a weight `(c_out, c, k, k)`.
fn conv2d(
    xs: &Tensor,
    weight: &Tensor,
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (c, n, h, w) = xs.dims4()?;
    let (c_out, ..) = weight.dims4()?;
    let positions = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    let (rows, columns) = (positions(h), positions(w));
    // So many on both sides that every window's every `stride`-th position is there.
    let blocks = |n: usize| n + (kernel - 1) / stride;
    let after = |side: usize| (blocks(positions(side)) * stride).saturating_sub(side + padding);
    let side = |axis: Tensor, dim: usize, old: usize| {
        let wanted = blocks(positions(old)) * stride;
        axis.pad_with_zeros(dim, padding, after(old))?.narrow(dim, 0, wanted)
    };
    let padded = side(side(xs.clone(), 2, h)?, 3, w)?;
    let blocked = (c, n, blocks(rows), stride, blocks(columns), stride);
    let padded = padded.contiguous()?.reshape(blocked)?;
    let mut windows = Vec::with_capacity(kernel * kernel);
    for y in 0..kernel {
        let band = padded.narrow(3, y % stride, 1)?.squeeze(3)?.narrow(2, y / stride, rows)?;
        for x in 0..kernel {
            let one = band.narrow(4, x % stride, 1)?.squeeze(4)?;
            windows.push(one.narrow(3, x / stride, columns)?);
        }
    }
    let windows = Tensor::cat(&windows, 0)?.flatten_from(1)?; // (k·k·c, n·rows·columns)
    let weight = weight.permute((0, 2, 3, 1))?.flatten_from(1)?;
    weight.matmul(&windows)?.reshape((c_out, n, rows, columns))
}

/// Batch norm by the moments of the maps themselves, which are given too: the variance that of a sample.
fn normalised(
    xs: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, (Tensor, Tensor))> {
    let rows = xs.flatten_from(1)?;
    let n = rows.dim(1)? as f64;
    let mean = rows.mean_keepdim(1)?;
    let centred = rows.broadcast_sub(&mean)?;
    let var = centred.sqr()?.mean_keepdim(1)?;
    let column = |it: &Tensor| it.reshape(((), 1));
    let scale = (column(weight)? / (&var + eps)?.sqrt()?)?;
    let ys = centred.broadcast_mul(&scale)?.broadcast_add(&column(bias)?)?.reshape(xs.shape())?;
    Ok((ys, (mean.detach(), (var.detach() * (n / (n - 1.).max(1.)))?)))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::run::{Network, Untapped};
    use crate::model::zoo;

    fn random(seed: u64, shape: &[usize]) -> Tensor {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| rng.random_range(-1f32..1.)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn farthest(a: &Tensor, b: &Tensor) -> f32 {
        let apart = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        apart.max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn a_convolution_is_that_of_candle() {
        for (kernel, stride, padding, h, w) in [
            (3, 1, 1, 5, 8),
            (3, 2, 1, 8, 8),
            (3, 2, 1, 7, 9),
            (1, 2, 0, 8, 7),
            (7, 2, 3, 12, 9),
            (3, 3, 0, 9, 9),
        ] {
            let (xs, weight) = (random(1, &[2, 3, h, w]), random(2, &[4, 3, kernel, kernel]));
            let wanted = xs.conv2d(&weight, padding, stride, 1, 1).unwrap();
            let ys =
                conv2d(&xs.transpose(0, 1).unwrap(), &weight, kernel, stride, padding).unwrap();
            let apart = farthest(&ys.transpose(0, 1).unwrap().contiguous().unwrap(), &wanted);
            assert!(apart < 1e-5, "{kernel} {stride} {padding} {h} {w}: {apart}");
        }
    }

    /// With the batch's own moments for the running ones, the network that is written computes the same.
    #[test]
    fn what_learns_is_what_runs() {
        let graph = zoo::by_name(zoo::SMALL).unwrap().build(10);
        let params = Params::new(3, &Device::Cpu);
        let learner = Learner::new(graph.clone(), &params).unwrap();
        let xs = random(4, &[6, 3, 32, 32]);
        let drop = Tensor::ones((6, 160), candle_core::DType::F32, &Device::Cpu).unwrap();
        let own = xs.transpose(0, 1).unwrap().contiguous().unwrap();
        let (logits, moments) = learner.run(&own, &drop).unwrap();
        let values = params.values().unwrap();
        let network = Network::new(graph, &Device::Cpu, |name| {
            let (node, leaf) = name.rsplit_once('.').unwrap();
            Ok(match (leaf, moments.get(node)) {
                ("running_mean", Some((mean, _))) => mean.flatten_all()?,
                // That of the maps themselves, not of a sample.
                ("running_var", Some((_, var))) => {
                    let stage = node.strip_prefix("layer").and_then(|it| it[..1].parse().ok());
                    let side = 32 >> stage.unwrap_or(1);
                    let n = f64::from(6 * side * side);
                    (var.flatten_all()? * ((n - 1.) / n))?
                }
                _ => values[name].clone(),
            })
        })
        .map_err(|error| format!("{error:#}"))
        .unwrap();
        let wanted = network.run(&xs, &mut Untapped).unwrap();
        assert!(farthest(&logits, &wanted) < 1e-4);
    }

    #[test]
    fn what_has_no_rule_is_refused_by_name() {
        let graph = zoo::by_name("mobilenet_v2").unwrap().build(10);
        let error = Learner::new(graph, &Params::new(0, &Device::Cpu)).err().unwrap().to_string();
        assert!(error.contains("cannot be trained here because of `features.0.2`"), "{error}");
    }
}
