//! The one integration binary: a module a subject.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod data;
mod exemplars;
mod files;
mod graphs;
mod policies;
