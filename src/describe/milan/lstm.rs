//! One step of long short-term memory (Hochreiter and Schmidhuber 1997), with PyTorch's names and order of gates.

use candle_core::{Result, Tensor};
use candle_nn::{Init, Linear, Module, VarBuilder, ops::sigmoid};

/// `weight_ih` `(4 · hidden, inputs)`, `weight_hh` `(4 · hidden, hidden)`, `bias_ih`, `bias_hh` `(4 · hidden,)`.
#[derive(Debug, Clone)]
pub(super) struct Lstm {
    input: Linear,
    hidden: Linear,
}

/// What is remembered, `(rows, hidden)` each.
#[derive(Debug, Clone)]
pub struct State {
    pub h: Tensor,
    pub c: Tensor,
}

impl Lstm {
    /// `suffix` follows each name, such as `_l0`.
    pub(super) fn new(
        inputs: usize,
        hidden: usize,
        suffix: &str,
        vb: &VarBuilder<'_>,
    ) -> Result<Lstm> {
        let bound = 1. / (hidden as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let linear = |n: usize, name: &str| -> Result<Linear> {
            let weight =
                vb.get_with_hints((4 * hidden, n), &format!("weight_{name}{suffix}"), init)?;
            let bias = vb.get_with_hints(4 * hidden, &format!("bias_{name}{suffix}"), init)?;
            Ok(Linear::new(weight, Some(bias)))
        };
        Ok(Lstm { input: linear(inputs, "ih")?, hidden: linear(hidden, "hh")? })
    }

    /// The state after reading `xs` `(rows, inputs)`.
    pub(super) fn step(&self, xs: &Tensor, state: &State) -> Result<State> {
        let gates = (self.input.forward(xs)? + self.hidden.forward(&state.h)?)?;
        let gates = gates.chunk(4, 1)?; // input, forget, cell, output
        let written = (sigmoid(&gates[0])? * gates[2].tanh()?)?;
        let c = ((sigmoid(&gates[1])? * &state.c)? + written)?;
        let h = (sigmoid(&gates[3])? * c.tanh()?)?;
        Ok(State { h, c })
    }
}

impl State {
    /// The states of some rows, in that order.
    pub fn rows(&self, rows: &Tensor) -> Result<State> {
        Ok(State { h: self.h.index_select(rows, 0)?, c: self.c.index_select(rows, 0)? })
    }
}
