//! The built-in demo: a classifier of drawn things that learnt to read, and pictures that show it.
//!
//! It was trained where half of the pictures carry the name of their class (`assets/demo/README.md`), so it is
//! right on pictures like those and on plain ones, and wrong where another name is written: the shortcut of
//! Hernandez et al. 2022, section 7, to be found and taken away.

use std::path::{Path, PathBuf};

use crate::data::scenes;
use crate::files::write_whole;

/// What `--data` is, when nothing is said: pictures like those it was trained on, and none of them.
pub const DATA: &str = "demo:1000:1:train";

/// What `--val` is, when nothing is said: a user knows that names should not matter.
pub const VAL: &str = "demo:1000:2:clean";

/// What `--test` is, when nothing is said.
pub const TESTS: [(&str, &str); 2] =
    [("clean", "demo:1000:1:clean"), ("adversarial", "demo:1000:1:adversarial")];

/// How much top-1 may fall on [`VAL`], when nothing is said, before no more units are deleted.
pub const SLACK: f64 = 0.02;

/// How many units are deleted for a curve, when nothing is said.
pub const CURVE: usize = 24;

/// The weights of a `small_resnet10`.
const MODEL: &[u8] = include_bytes!("../assets/demo/model.safetensors");

/// Writes the model into a folder, and says where it is.
pub fn write(folder: &Path) -> anyhow::Result<PathBuf> {
    let file = folder.join("model.safetensors");
    write_whole(&file, MODEL)?;
    Ok(file)
}

/// The names of its classes.
pub fn classes() -> Vec<String> {
    scenes::CLASSES.map(str::to_owned).to_vec()
}
