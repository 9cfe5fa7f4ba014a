//! The one integration binary: a module a subject.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod ci;
mod demo;
mod describer;
mod edits;
mod exemplars;
mod files;
mod formats;
mod graphs;
mod html;
#[cfg(feature = "hub")]
mod hub;
mod layers;
mod milan;
mod mistakes;
mod pictures;
mod policies;
mod programs;
mod support;
mod train;
