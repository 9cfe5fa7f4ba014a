//! Ops that candle computes too slowly on the CPU, each with its plain candle twin as the oracle.

mod depthwise;
mod pointwise;

pub(super) use depthwise::depthwise;
pub(super) use pointwise::{affine, relu6};
