//! Accuracy before and after.
