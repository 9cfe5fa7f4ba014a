//! What an encoder sees of exemplars, computed once and kept.

use std::path::Path;

use anyhow::Context;
use candle_core::{Device, Tensor};
use half::f16;

use super::annotations::Annotated;
use super::stage::{Tensors, stage};
use crate::describe::milan::checkpoint::EncoderSettings;
use crate::describe::milan::encoder::Encoder;
use crate::describe::milan::look::{Crops, Fires, Input, Seen, look};
use crate::files::sha256;
use crate::{Progress, usage};

/// An encoder, and where what it sees is kept.
pub struct Looker<'a> {
    pub encoder: &'a Encoder,
    pub input: Input,
    pub work: &'a Path,
    /// Everything of this that features depend on, in words.
    pub inputs: String,
}

impl<'a> Looker<'a> {
    /// `tensors` are the encoder's, under `encoder.`.
    pub fn new(
        encoder: &'a Encoder,
        settings: &EncoderSettings,
        tensors: &Tensors,
        work: &'a Path,
    ) -> anyhow::Result<Looker<'a>> {
        let mut values = String::new();
        for (name, tensor) in tensors.iter().filter(|(name, _)| name.starts_with("encoder.")) {
            let bytes = tensor.flatten_all()?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = bytes.into_iter().flat_map(f32::to_le_bytes).collect();
            values += &format!("{name} {} ", sha256(&bytes));
        }
        let inputs = format!("{settings:?} {values}");
        Ok(Looker { encoder, input: settings.input.clone(), work, inputs })
    }

    /// The features of every exemplar of every site, kept as `name`; `inputs` says where exemplars and
    /// pictures come from.
    pub fn look(
        &self,
        name: &str,
        inputs: &str,
        sites: &[impl Fires],
        crops: &impl Crops,
        progress: Progress<'_>,
    ) -> anyhow::Result<Vec<Seen>> {
        let inputs = format!("{} {inputs}", self.inputs);
        let tensors = stage(self.work, name, &inputs, || {
            let seen = look(self.encoder, &self.input, sites, crops, progress)?;
            let mut tensors = Tensors::new();
            for (site, seen) in sites.iter().zip(&seen) {
                let (features, areas) = seen.parts();
                let values: Vec<f32> = features.iter().map(|it| it.to_f32()).collect();
                let shape = (seen.n_units, seen.k, seen.n_features);
                tensors
                    .insert(site.name().to_owned(), Tensor::from_vec(values, shape, &Device::Cpu)?);
                let areas = Tensor::new(areas, &Device::Cpu)?;
                tensors.insert(format!("{}.area", site.name()), areas);
            }
            Ok(tensors)
        })?;
        sites
            .iter()
            .map(|site| {
                let features = tensors.get(site.name()).context("features of another layer")?;
                let (n, k, f) = features.dims3()?;
                let values = features.flatten_all()?.to_vec1::<f32>()?;
                let values = values.into_iter().map(f16::from_f32).collect();
                let areas = tensors[&format!("{}.area", site.name())].to_vec1()?;
                Seen::from_parts([n, k, f], values, areas).context("features of another shape")
            })
            .collect()
    }
}

/// Features of some units, `(units, k, features)`.
pub fn gathered(seen: &[Seen], units: &[Annotated]) -> anyhow::Result<Tensor> {
    let one = |it: &Annotated| seen[it.site].features(&[it.row]);
    let all = units.iter().map(one).collect::<candle_core::Result<Vec<_>>>()?;
    if all.is_empty() {
        return Err(usage!("no annotated unit is left to train on; more annotations are wanted"));
    }
    Ok(Tensor::cat(&all, 0)?)
}

/// For each site the place of its first unit among those of all sites.
pub fn starts(seen: &[Seen]) -> Vec<usize> {
    (0..seen.len()).map(|site| seen[..site].iter().map(|it| it.n_units).sum()).collect()
}
