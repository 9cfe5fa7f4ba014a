//! A network as data: a graph of named nodes, the weights it reads, and the one interpreter.

pub mod graph;
mod kernels;
pub mod op;
mod ops;
pub mod run;
