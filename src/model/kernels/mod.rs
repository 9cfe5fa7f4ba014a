//! Ops that candle computes too slowly on the CPU, each with its plain candle twin as the oracle.

mod depthwise;

pub(super) use depthwise::depthwise;
