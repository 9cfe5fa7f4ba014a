//! Training and judging describers.

pub mod measures;
