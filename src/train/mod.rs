//! Training and judging describers.

pub mod annotations;
pub mod calibrate;
pub mod critic;
pub mod describer;
pub mod evaluate;
pub mod features;
pub mod judge;
pub mod measures;
pub mod milannotations;
pub mod overlap;
pub mod params;
pub mod regions;
pub mod sentence;
pub mod source;
pub mod speech;
pub mod stage;
