//! How important units are, by what a policy or an edit asks for.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::edit::plan::{locate, plan};
use crate::exemplars::Exemplars;
use crate::pass::{self, Probe, Progress, Settings};
use crate::policy::gates::Importance;
use crate::subject::Subject;
use crate::unit::Unit;

/// What there is to measure with.
pub struct Measure<'a> {
    pub subject: &'a Subject,
    /// Labelled pictures, for ablation.
    pub val: &'a Probe,
    pub exemplars: &'a Exemplars,
    pub settings: &'a Settings,
}

/// The importance of each unit. A unit for which the measure has no answer is left out.
///
/// Errs where pictures without labels are to tell what an ablation costs.
pub fn importance(
    by: Importance,
    units: &[Unit],
    with: &Measure<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<BTreeMap<Unit, f64>> {
    if units.is_empty() {
        return Ok(BTreeMap::new());
    }
    match by {
        Importance::Ablation => ablation(units, with, progress),
        Importance::WeightNorm => {
            let lengths = |site: &str, n: usize| weight_lengths(with.subject, site, n);
            relative(units, with, lengths)
        }
        Importance::Activation => {
            let levels = |site: &str, _: usize| {
                let site = with.exemplars.site(site);
                let levels = site.map(|it| it.thresholds.iter().map(|&it| Some(f64::from(it))));
                Ok(levels.map(Iterator::collect).unwrap_or_default())
            };
            relative(units, with, levels)
        }
    }
}

/// The top-1 that zeroing each unit alone costs.
fn ablation(
    units: &[Unit],
    with: &Measure<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<BTreeMap<Unit, f64>> {
    let graph = with.subject.model.graph();
    let places = units.iter().map(|unit| Ok((locate(graph, unit)?, unit.channel)));
    let places = places.collect::<anyhow::Result<Vec<_>>>()?;
    let network = &with.subject.model.network;
    let lost = pass::importance(network, with.val, &places, with.settings, progress)?;
    Ok(units.iter().cloned().zip(lost).collect())
}

/// A value of each unit's, of the greatest of its layer.
fn relative(
    units: &[Unit],
    with: &Measure<'_>,
    values: impl Fn(&str, usize) -> anyhow::Result<Vec<Option<f64>>>,
) -> anyhow::Result<BTreeMap<Unit, f64>> {
    let mut by_site: BTreeMap<&str, Vec<&Unit>> = BTreeMap::new();
    for unit in units {
        by_site.entry(&unit.site).or_default().push(unit);
    }
    let graph = with.subject.model.graph();
    let mut found = BTreeMap::new();
    for (site, units) in by_site {
        let n = graph.node(locate(graph, units[0])?).channels;
        let values = values(site, n)?;
        let greatest = values.iter().flatten().fold(f64::MIN_POSITIVE, |a, b| a.max(b.abs()));
        for unit in units {
            if let Some(value) = values.get(unit.channel).copied().flatten() {
                found.insert(unit.clone(), (value / greatest).max(0.));
            }
        }
    }
    Ok(found)
}

/// The length (L2) of all the weights that an edit of a unit would zero, for each unit of a layer; `None` where no
/// edit does.
fn weight_lengths(subject: &Subject, site: &str, n: usize) -> anyhow::Result<Vec<Option<f64>>> {
    let (graph, prefix) = (subject.model.graph(), &subject.model.prefix);
    // The squares of a tensor, summed over all but one axis: `(tensor, axis)` to a value an index.
    let mut sums: BTreeMap<(String, usize), Vec<f64>> = BTreeMap::new();
    let mut lengths = Vec::with_capacity(n);
    for channel in 0..n {
        let plan = plan(graph, prefix, &[Unit::new(site, channel)])?;
        if plan.units.is_empty() {
            lengths.push(None);
            continue;
        }
        let mut square = 0.;
        for change in &plan.changes {
            let key = (change.tensor.clone(), change.axis);
            if !sums.contains_key(&key) {
                let values = squares(&subject.weights.read(&change.tensor)?, change.axis)?;
                sums.insert(key.clone(), values);
            }
            square += change.indices.iter().map(|&at| sums[&key][at]).sum::<f64>();
        }
        lengths.push(Some(square.sqrt()));
    }
    Ok(lengths)
}

fn squares(values: &Tensor, axis: usize) -> anyhow::Result<Vec<f64>> {
    let n = values.dim(axis)?;
    let rows = values.transpose(0, axis)?.contiguous()?.reshape((n, ()))?;
    let sums = rows.sqr()?.sum(1)?.to_vec1::<f32>()?;
    Ok(sums.into_iter().map(f64::from).collect())
}
