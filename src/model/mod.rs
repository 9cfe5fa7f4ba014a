//! A network as data: a graph of named nodes, the weights it reads, and the one interpreter.

pub mod engine;
pub mod graph;
pub mod op;
pub mod run;
pub mod zoo;

mod alexnet;
mod cifar_resnet;
mod efficientnet;
mod efficientnet_lite;
mod mbconv;
mod mobilenet;
mod mobilenet_v3;
mod ops;
mod recognise;
mod resnet;
mod vgg;
mod vit;

use std::collections::BTreeMap;

use anyhow::Context;
use candle_core::{Device, Tensor};

use crate::error::{Failure, Kind};
use crate::weights::{SourceFile, Weights};
use graph::Graph;
use run::Network;

pub use recognise::{Recognised, recognise};

/// A checkpoint whose architecture is known, ready to run.
pub struct Model {
    /// The architecture's name, such as `resnet18`.
    pub arch: String,
    /// What stands before every tensor name in the file (`module.`), often nothing.
    pub prefix: String,
    pub network: Network,
    /// What the user should know, such as tensors that nothing reads.
    pub warnings: Vec<String>,
}

/// Weights that are no numbers; an audit reports them.
#[derive(Debug, thiserror::Error)]
#[error("values that are not finite (NaN or infinite): {where_}; train or export the model anew")]
pub struct NotFinite {
    pub arch: String,
    pub files: Vec<SourceFile>,
    /// Of the checkpoint.
    pub tensors: usize,
    /// Values that are not finite.
    pub count: u64,
    /// In which tensors, in words.
    pub where_: String,
}

impl Model {
    /// Recognises the architecture, or takes `arch`, and reads every tensor that a node needs.
    ///
    /// Errs where tensors are missing or of another shape, all of them said at once, and where a
    /// tensor holds values that are not finite: no number measured on such a network means anything.
    pub fn load(weights: &Weights, arch: Option<&str>, device: &Device) -> anyhow::Result<Model> {
        let shapes: BTreeMap<String, Vec<usize>> = weights
            .tensors()
            .iter()
            .map(|(name, info)| (name.clone(), info.shape.clone()))
            .collect();
        let source = weights.source().display();
        if let Some(name) = arch {
            zoo::by_name(name)?; // What nobody knows is no fault of the file's.
        }
        let Recognised { name, graph, prefix, unread } =
            recognise(&shapes, arch).with_context(|| format!("cannot use {source}"))?;

        let (mut not_finite, mut count) = (Vec::new(), 0);
        let network = Network::new(graph, device, |tensor| {
            let tensor = format!("{prefix}{tensor}");
            let values = weights.read(&tensor)?;
            match count_not_finite(&values)? {
                0 => {}
                n => {
                    not_finite.push(format!("`{tensor}` has {n}"));
                    count += n as u64;
                }
            }
            Ok(values)
        })?;
        if !not_finite.is_empty() {
            let refused = NotFinite {
                arch: name,
                files: weights.files().to_vec(),
                tensors: weights.tensors().len(),
                count,
                where_: not_finite.join(", "),
            };
            let message = format!("cannot use {source}");
            let failure = Failure { kind: Kind::Inconclusive, message };
            return Err(anyhow::Error::new(refused).context(failure));
        }

        let mut warnings = weights.warnings().to_vec();
        if !unread.is_empty() {
            let n = unread.len();
            let names = unread.iter().take(5).map(|name| format!("`{name}`")).collect::<Vec<_>>();
            let more = if 5 < n { format!(" and {} more", n - 5) } else { String::new() };
            warnings.push(format!(
                "{n} tensors are read by no part of {name}: {}{more}",
                names.join(", ")
            ));
        }
        Ok(Model { arch: name, prefix, network, warnings })
    }

    pub fn graph(&self) -> &Graph {
        self.network.graph()
    }

    pub fn n_classes(&self) -> usize {
        self.graph().node(self.graph().output()).channels
    }
}

fn count_not_finite(values: &Tensor) -> anyhow::Result<usize> {
    let values = values.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.iter().filter(|value| !value.is_finite()).count())
}
