//! Accuracy as more and more units are deleted (Hernandez et al. 2022, section 7, figure 8): how many may go, and
//! whether it matters which.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::edit::plan::locate;
use crate::evaluate::{Prediction, accuracy};
use crate::inconclusive;
use crate::model::graph::Graph;
use crate::model::run::{Ablate, Network};
use crate::pass::{self, Probe, Progress, Settings};
use crate::report::{By, Curve, Point};
use crate::unit::Unit;

/// A network to delete units from, in memory.
pub struct Sweep<'a> {
    pub network: &'a Network,
    pub settings: &'a Settings,
    pub progress: Progress<'a>,
}

/// Numbers of units that are tried together while looking for the greatest.
const TOGETHER: usize = 8;
/// Numbers of units that a curve goes through, besides none.
const POINTS: usize = 8;
/// Random orders that a curve is compared with.
const RANDOM: u64 = 5;

/// The network with some channels at zero.
pub fn ablation(graph: &Graph, units: &[Unit]) -> anyhow::Result<Ablate> {
    let channels = units.iter().map(|unit| Ok((locate(graph, unit)?, unit.channel)));
    Ok(Ablate::new(graph, channels.collect::<anyhow::Result<Vec<_>>>()?))
}

impl Sweep<'_> {
    /// How many of the units can be deleted, in their order, before top-1 on `probe` has fallen by more than
    /// `slack`, 0..=1; `known` are the answers with none deleted, if they are known.
    pub fn within(
        &self,
        slack: f64,
        units: &[Unit],
        probe: &Probe,
        known: Option<&[Prediction]>,
    ) -> anyhow::Result<usize> {
        let top1 = |run: &[Prediction]| {
            let labelled = accuracy(run, &[]).map(|it| it.top1);
            labelled.ok_or_else(|| {
                inconclusive!(
                    "{} has no labels, so it is not known how far top-1 falls, and --slack says nothing",
                    probe.dataset.source
                )
            })
        };
        let before = match known {
            Some(known) => top1(known)?,
            None => top1(&self.run(probe, &[Ablate::default()], "deleting nothing")?[0])?,
        };
        let least = before - slack;
        for first in (1..=units.len()).step_by(TOGETHER) {
            let numbers = first..(first + TOGETHER).min(units.len() + 1);
            let stage = format!("deleting {} to {} units", numbers.start, numbers.end - 1);
            let tried = numbers.clone().map(|n| ablation(self.network.graph(), &units[..n]));
            let tried = tried.collect::<anyhow::Result<Vec<_>>>()?;
            for (n, run) in numbers.zip(self.run(probe, &tried, &stage)?) {
                // Shares of whole pictures: what lies between two of them is rounding.
                if top1(&run)? < least - 1e-9 {
                    return Ok(n - 1);
                }
            }
        }
        Ok(units.len())
    }

    /// Accuracy on each test as units go, in the order of `described`, in that of `all`, and in random orders of
    /// `all`; `most` units at most.
    pub fn curve(
        &self,
        described: &[Unit],
        all: &[Unit],
        most: usize,
        tests: &[(&str, &Probe)],
        seed: u64,
    ) -> anyhow::Result<Curve> {
        let most = most.min(all.len());
        let mut orders =
            vec![(By::Description, 0, described.to_vec()), (By::Order, 0, all.to_vec())];
        for draw in 0..RANDOM {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(draw);
            let mut units = all.to_vec();
            // Whatever order they come in, a seed draws the same.
            units.sort();
            units.shuffle(&mut rng);
            orders.push((By::Chance, draw, units));
        }
        // Where none is deleted all orders are one run, the first.
        let (mut ablations, mut runs) = (vec![Ablate::default()], vec![]);
        for (by, seed, units) in &orders {
            runs.push((*by, *seed, 0, 0));
            for n in numbers(most).into_iter().filter(|n| 0 < *n && *n <= units.len()) {
                runs.push((*by, *seed, n, ablations.len()));
                ablations.push(ablation(self.network.graph(), &units[..n])?);
            }
        }
        let mut points = vec![];
        for (name, probe) in tests {
            let found = self.run(probe, &ablations, &format!("{name}, more and more units"))?;
            let top1: Vec<Option<f64>> =
                found.iter().map(|run| accuracy(run, &[]).map(|it| it.top1)).collect();
            points.extend(runs.iter().filter_map(|&(by, seed, deleted, run)| {
                Some(Point { test: (*name).to_owned(), by, seed, deleted, top1: top1[run]? })
            }));
        }
        Ok(Curve { points })
    }

    fn run(
        &self,
        probe: &Probe,
        ablations: &[Ablate],
        stage: &str,
    ) -> anyhow::Result<Vec<Vec<Prediction>>> {
        pass::predict_each(self.network, probe, ablations, self.settings, stage, self.progress)
    }
}

/// None, then up to [`POINTS`] numbers evenly up to `most`.
fn numbers(most: usize) -> Vec<usize> {
    let n = most.min(POINTS);
    (0..=n).map(|at| (at * most).div_ceil(n.max(1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_begins_with_none_and_ends_with_all() {
        assert_eq!(numbers(3), [0, 1, 2, 3]);
        assert_eq!(numbers(24), [0, 3, 6, 9, 12, 15, 18, 21, 24]);
        assert_eq!(numbers(9), [0, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(numbers(0), [0]);
    }
}
