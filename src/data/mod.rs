//! Pictures in: which there are, how they are read, and what the network sees of them.

pub mod npy;
pub mod preprocess;

mod decode;
mod folder;
mod loader;

pub use decode::decode;
pub use folder::open;
pub use loader::{Batch, Loader, Read, Skipped, read_crop};
pub use preprocess::Preprocess;

use std::path::PathBuf;

/// A picture of a data set; its place in the list is its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Relative to the data set's folder, parts separated by `/`.
    pub file: String,
    /// The index of its class.
    pub label: Option<usize>,
}

/// An ordered list of pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    pub root: PathBuf,
    /// As the user named it.
    pub source: String,
    pub pictures: Vec<Picture>,
    /// Names by class index; empty where only numbers are known.
    pub classes: Vec<String>,
}
