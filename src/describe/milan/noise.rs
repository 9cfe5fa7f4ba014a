//! Dropout (Srivastava et al. 2014) whose mask comes from a seed: candle's own has none on the CPU.

use candle_core::{Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Noise while training; none afterwards.
pub struct Noise(Option<ChaCha8Rng>);

impl Noise {
    pub fn none() -> Noise {
        Noise(None)
    }

    pub fn seeded(seed: u64) -> Noise {
        Noise(Some(ChaCha8Rng::seed_from_u64(seed)))
    }

    /// Sets a share `p` of the values to 0 and makes the others as much greater.
    pub fn drop(&mut self, xs: &Tensor, p: f32) -> Result<Tensor> {
        let Some(rng) = &mut self.0 else { return Ok(xs.clone()) };
        // A byte a value is fine enough, and four times as fast as a float.
        let limit = (p * 256.).round() as u8;
        let mut bytes = vec![0u8; xs.elem_count()];
        rng.fill(bytes.as_mut_slice());
        let kept = 1. / (1. - f32::from(limit) / 256.);
        let mask: Vec<f32> =
            bytes.into_iter().map(|byte| if byte < limit { 0. } else { kept }).collect();
        xs * Tensor::from_vec(mask, xs.shape(), xs.device())?
    }
}
