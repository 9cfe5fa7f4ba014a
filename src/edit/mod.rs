//! Units to a change of weights. Takes units, not findings, and opens no file.

pub mod choose;
pub mod plan;
