//! Describes the units of a vision model in words, holds the words against a policy, and writes an
//! edited model in which the matching units are zero.
//!
//! ```text
//! weights ─► model (a graph of named nodes) ─┐
//! data (pictures, labels) ───────────────────┴► exemplars ─► describe ─► policy ─► edit ─► evaluate ─► report
//! ```
//!
//! [`audit`] and [`revise`] are that flow, a screen each. The modules stand below in the order in
//! which the data passes through them, and each uses only the ones before it.

/// Told how far a stage is: its name, steps done, steps in all. An error from it ends the run.
pub type Progress<'a> = &'a (dyn Fn(&str, usize, usize) -> anyhow::Result<()> + Sync);

pub mod error;
pub mod files;
pub mod toml_file;
pub mod unit;

pub mod weights;

pub mod data;

pub mod model;

pub mod demo;
pub mod planted;

pub mod exemplars;

pub mod describe;

pub mod policy;

pub mod edit;

pub mod evaluate;

pub mod report;

pub mod importance;
pub mod pass;
pub mod record;
pub mod ruling;
pub mod subject;

pub mod audit;
pub mod measure;
pub mod revise;
pub mod sweep;
pub mod verify;

pub mod train;

pub mod cli;
