//! A network as data.

pub mod graph;
pub mod op;
