//! Pictures in: which there are, how they are read, and what the network sees of them.

pub mod npy;
pub mod preprocess;
pub mod scenes;

mod decode;
mod folder;
mod loader;

pub use decode::decode;
pub use folder::open;
pub use loader::{Batch, Loader, Read, Skipped, read_crop};
pub use preprocess::Preprocess;

use std::path::{Path, PathBuf};

use image::RgbImage;
use scenes::Scenes;

use crate::files::sha256;

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
    pub origin: Origin,
    /// As the user named it.
    pub source: String,
    pub pictures: Vec<Picture>,
    /// Names by class index; empty where only numbers are known.
    pub classes: Vec<String>,
}

/// Where pictures come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Folder(PathBuf),
    Drawn(Scenes),
}

impl Dataset {
    /// The pictures of `demo:N:SEED:SPLIT`; `classes` are the model's class names, empty where nobody knows them.
    pub fn drawn(source: &str, classes: &[String]) -> anyhow::Result<Dataset> {
        let scenes: Scenes = source.parse()?;
        let names = scenes::CLASSES.map(str::to_owned);
        let picture = |number: usize| {
            let name = &names[scenes.label(number)];
            let label = match classes {
                [] => Some(scenes.label(number)),
                _ => classes.iter().position(|it| it == name),
            };
            Picture { file: format!("{name}/{number:07}"), label }
        };
        let pictures = (0..scenes.n).map(picture).collect();
        let classes = if classes.is_empty() { names.to_vec() } else { classes.to_vec() };
        Ok(Dataset { origin: Origin::Drawn(scenes), source: source.to_owned(), pictures, classes })
    }

    /// The pixels of a picture, and the sha256 of the file that holds them, or of themselves where they are drawn.
    /// Without the first the file is damaged, without either it cannot be opened.
    pub fn read(&self, id: usize) -> (Option<String>, anyhow::Result<RgbImage>) {
        match &self.origin {
            Origin::Folder(root) => match std::fs::read(self.path(root, id)) {
                Ok(bytes) => (Some(sha256(&bytes)), decode(&bytes)),
                Err(error) => (None, Err(error.into())),
            },
            Origin::Drawn(scenes) => {
                let picture = scenes.draw(id).picture;
                (Some(sha256(picture.as_raw())), Ok(picture))
            }
        }
    }

    /// The size of a picture's file in bytes, 0 where there is none.
    pub fn file_size(&self, id: usize) -> u64 {
        match &self.origin {
            Origin::Folder(root) => std::fs::metadata(self.path(root, id)).map_or(0, |it| it.len()),
            Origin::Drawn(_) => 0,
        }
    }

    fn path(&self, root: &Path, id: usize) -> PathBuf {
        root.join(&self.pictures[id].file)
    }
}
