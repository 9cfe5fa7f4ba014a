//! Weights being trained: begun from a seed, stepped, kept at their best.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{AdamW, Init, Optimizer, ParamsAdamW, VarBuilder};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Variables by name, made when a layer asks for them. Candle's own start cannot be seeded on the CPU.
#[derive(Clone)]
pub struct Params(Arc<Mutex<Inner>>);

struct Inner {
    device: Device,
    rng: ChaCha8Rng,
    vars: BTreeMap<String, Var>,
}

impl Params {
    /// They live on `device`, and begin with the same values on each: those are drawn on the CPU.
    pub fn new(seed: u64, device: &Device) -> Params {
        let (device, rng) = (device.clone(), ChaCha8Rng::seed_from_u64(seed));
        Params(Arc::new(Mutex::new(Inner { device, rng, vars: BTreeMap::new() })))
    }

    pub fn builder(&self) -> VarBuilder<'static> {
        let device = self.inner().device.clone();
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, device)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vars(&self) -> BTreeMap<String, Var> {
        self.inner().vars.clone()
    }

    /// Copies of all values on the CPU, by name.
    pub fn values(&self) -> Result<BTreeMap<String, Tensor>> {
        let copy = |var: Var| var.as_tensor().copy()?.to_device(&Device::Cpu);
        self.vars().into_iter().map(|(name, var)| Ok((name, copy(var)?))).collect()
    }

    pub fn set(&self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        self.vars().iter().try_for_each(|(name, var)| match values.get(name) {
            Some(value) => var.set(&value.to_device(var.device())?),
            None => Ok(()),
        })
    }

    /// AdamW (Loshchilov and Hutter 2019) over all variables, its rate rising for `warmup` of `steps` steps
    /// and falling as a cosine to 0.
    pub fn training(&self, rate: f64, decay: f64, warmup: usize, steps: usize) -> Result<Training> {
        let vars: Vec<Var> = self.vars().into_values().collect();
        let config = ParamsAdamW { lr: rate, weight_decay: decay, ..ParamsAdamW::default() };
        Ok(Training { adam: AdamW::new(vars.clone(), config)?, vars, rate, warmup, steps, step: 0 })
    }
}

/// An optimiser on its way.
pub struct Training {
    adam: AdamW,
    vars: Vec<Var>,
    rate: f64,
    warmup: usize,
    steps: usize,
    step: usize,
}

impl Training {
    /// One step down the gradient of a loss, which is cut to a length of `longest`.
    pub fn step(&mut self, loss: &Tensor, longest: f64) -> Result<()> {
        self.follow(loss.backward()?, longest)
    }

    /// One step down a gradient, cut as in [`step`](Training::step).
    pub fn follow(&mut self, mut gradients: GradStore, longest: f64) -> Result<()> {
        self.cut(&mut gradients, longest)?;
        let warm = (self.step + 1).min(self.warmup) as f64 / self.warmup.max(1) as f64;
        let done = (self.step as f64 / self.steps.max(1) as f64).min(1.);
        self.adam
            .set_learning_rate(self.rate * warm * 0.5 * (1. + (std::f64::consts::PI * done).cos()));
        self.step += 1;
        self.adam.step(&gradients)
    }

    fn cut(&self, gradients: &mut GradStore, longest: f64) -> Result<()> {
        let mut sum = 0.;
        for var in &self.vars {
            if let Some(gradient) = gradients.get(var) {
                sum += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
        }
        let length = sum.sqrt();
        if longest < length {
            for var in &self.vars {
                if let Some(gradient) = gradients.get(var) {
                    let shorter = (gradient * (longest / length))?;
                    gradients.insert(var, shorter);
                }
            }
        }
        Ok(())
    }
}

impl SimpleBackend for Params {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        _: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut inner = self.inner();
        if let Some(var) = inner.vars.get(name) {
            return Ok(var.as_tensor().clone());
        }
        let n = shape.elem_count();
        let uniform = |rng: &mut ChaCha8Rng, low: f64, high: f64| -> Vec<f32> {
            (0..n).map(|_| rng.random_range(low..high) as f32).collect()
        };
        let normal = |rng: &mut ChaCha8Rng, mean: f64, std: f64| -> Vec<f32> {
            let one = |rng: &mut ChaCha8Rng| {
                let (a, b): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.), rng.random());
                (-2. * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
            };
            (0..n).map(|_| (mean + std * one(rng)) as f32).collect()
        };
        let values = match init {
            Init::Const(value) => vec![value as f32; n],
            Init::Uniform { lo, up } => uniform(&mut inner.rng, lo, up),
            Init::Randn { mean, stdev } => normal(&mut inner.rng, mean, stdev),
            // As PyTorch begins its layers, whatever candle's ask for.
            Init::Kaiming { fan, .. } => {
                let bound = (fan.for_shape(&shape) as f64).powf(-0.5);
                uniform(&mut inner.rng, -bound, bound)
            }
        };
        let var = Var::from_tensor(&Tensor::from_vec(values, shape, device)?)?;
        let tensor = var.as_tensor().clone();
        inner.vars.insert(name.to_owned(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        Err(candle_core::Error::Msg(format!("`{name}` is asked for without a shape")))
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
