//! Exemplars to words.
