//! Training describers and classifiers, and judging describers.

pub mod annotations;
pub mod calibrate;
pub mod classifier;
pub mod concepts;
pub mod critic;
pub mod describer;
pub mod drawn;
pub mod evaluate;
pub mod features;
pub mod firing;
pub mod forward;
pub mod judge;
pub mod measures;
pub mod milannotations;
pub mod misplaced;
pub mod overlap;
pub mod params;
pub mod reference_networks;
pub mod regions;
pub mod reliability;
pub mod sentence;
pub mod simulate;
pub mod source;
pub mod speech;
pub mod stage;
