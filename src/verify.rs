//! An edited file against the network whose units are zeroed in memory.

use candle_core::Tensor;

use crate::model::Model;
use crate::model::run::{Ablate, Compute, Network, Untapped};
use crate::pass::{self, Settings};
use crate::report::Verified;
use crate::subject::Subject;
use crate::weights::{Draft, Weights};

/// Pictures logits are compared on, to check the written file.
const N_VERIFIED: usize = 16;
/// The greatest difference, relative to the largest logit, at which two networks count as the same.
const TOLERANCE: f64 = 1e-4;

/// The draft as anybody would load it.
pub fn reload(draft: &Draft, subject: &Subject) -> anyhow::Result<Network> {
    let weights = Weights::open(draft.path())?;
    let model = Model::load(&weights, Some(&subject.model.arch), subject.model.network.device())?;
    Ok(model.network.computed(Compute::exact(subject.source.exact)))
}

/// The written file must compute what the ablated network computes.
pub fn verify(
    subject: &Subject,
    edited: &Network,
    ablate: &Ablate,
    settings: &Settings,
) -> anyhow::Result<Verified> {
    let settings = Settings { batch_size: N_VERIFIED, ..*settings };
    let xs = pass::first_batch(&subject.probe, &settings)?;
    let network = &subject.model.network;
    let before = network.run(&xs, &mut Untapped)?;
    let wanted = network.run(&xs, &mut ablate.clone())?;
    let found = edited.run(&xs, &mut Untapped)?;
    let largest = greatest(&wanted)?.max(f64::MIN_POSITIVE);
    let difference = greatest(&(&found - &wanted)?)? / largest;
    let verified = Verified {
        images: xs.dim(0)?,
        max_difference: bound(difference),
        max_effect: two_digits(greatest(&(&found - &before)?)? / largest),
    };
    if difference <= TOLERANCE {
        return Ok(verified);
    }
    anyhow::bail!(
        "the written file differs from the ablated network by {difference:.1e} of the largest logit, more than {TOLERANCE:.0e}; it was removed"
    )
}

/// The power of ten above a difference, 1e-6 at least: what lies below is how the machine rounds.
fn bound(difference: f64) -> f64 {
    let bounds = [1e-6, 1e-5, 1e-4];
    bounds.into_iter().find(|it| difference < *it).unwrap_or(1e-3)
}

/// Beyond the second digit such a number tells of the machine.
fn two_digits(number: f64) -> f64 {
    format!("{number:.1e}").parse().unwrap_or(number)
}

fn greatest(xs: &Tensor) -> anyhow::Result<f64> {
    Ok(f64::from(xs.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?))
}
