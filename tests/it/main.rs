//! The one integration binary: a module a subject.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod edits;
mod files;
mod graphs;
mod layers;
mod programs;
mod support;
