//! Strictness: weights of which none may be missing, of another shape, or left over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use crate::inconclusive;

/// Tensors to build layers from, that notes which were asked for and what was wrong with them.
#[derive(Clone)]
pub(in crate::describe) struct Shelf(Arc<Mutex<Asked>>);

struct Asked {
    tensors: BTreeMap<String, Tensor>,
    taken: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Shelf {
    pub(in crate::describe) fn new(tensors: BTreeMap<String, Tensor>) -> Shelf {
        Shelf(Arc::new(Mutex::new(Asked { tensors, taken: BTreeSet::new(), wrong: vec![] })))
    }

    /// Layers are built from it by their names.
    pub(in crate::describe) fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }

    /// Errs with everything that was missing, of another shape, or left over.
    pub(in crate::describe) fn finish(&self) -> anyhow::Result<()> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = asked.tensors.keys().filter(|name| !asked.taken.contains(*name));
        let left: Vec<String> = left.map(|name| format!("`{name}` is read by nothing")).collect();
        asked.wrong.extend(left);
        if asked.wrong.is_empty() {
            return Ok(());
        }
        let n = asked.wrong.len();
        let more = if 20 < n { format!("; and {} more", n - 20) } else { String::new() };
        Err(inconclusive!("{}{more}", asked.wrong[..n.min(20)].join("; ")))
    }
}

impl SimpleBackend for Shelf {
    /// Zeros in the place of what is wrong, so that all of it is found.
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.taken.insert(name.to_owned());
        match asked.tensors.get(name) {
            Some(tensor) if *tensor.shape() == shape => return Ok(tensor.clone()),
            Some(tensor) => {
                let found = format!("`{name}` is {:?}, wanted {:?}", tensor.dims(), shape.dims());
                asked.wrong.push(found);
            }
            None => asked.wrong.push(format!("`{name}` is missing")),
        }
        Tensor::zeros(shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked
            .tensors
            .get(name)
            .cloned()
            .ok_or_else(|| candle_core::Error::Msg(format!("`{name}` is missing")))
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.tensors.contains_key(name)
    }
}
