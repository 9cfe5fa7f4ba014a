//! Pictures in: which there are, how they are read, and what the network sees of them.

pub mod npy;
pub mod preprocess;
pub mod scenes;

mod decode;
mod duplicates;
mod folder;
mod loader;

pub use decode::decode;
pub use duplicates::NearDuplicates;
pub use folder::open;
pub use loader::{Batch, Loader, Read, Skipped, read_crop};
pub use preprocess::Preprocess;

use std::path::{Path, PathBuf};

use image::{GrayImage, RgbImage};
use scenes::Scenes;

use crate::files::{self, sha256};

/// The most that is read of a picture's file, in bytes.
const MAX_PICTURE: u64 = 256 << 20;

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
    /// The number of each picture among those that could be drawn.
    Drawn(Scenes, Vec<usize>),
}

/// Whether a name means drawn pictures, and no folder.
pub fn is_drawn(source: &str) -> bool {
    source.starts_with("demo:")
}

/// A folder of pictures ([`open`]), or `demo:N:SEED:SPLIT` ([`Dataset::drawn`]); `classes` are the model's class names,
/// empty where nobody knows them.
pub fn named(source: &str, classes: &[String]) -> anyhow::Result<Dataset> {
    match is_drawn(source) {
        true => Dataset::drawn(source, classes),
        false => open(Path::new(source), classes),
    }
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
        let origin = Origin::Drawn(scenes.clone(), (0..scenes.n).collect());
        Ok(Dataset { origin, source: source.to_owned(), pictures, classes })
    }

    /// Whether any picture has a label, so that accuracy can be measured.
    pub fn is_labelled(&self) -> bool {
        self.pictures.iter().any(|it| it.label.is_some())
    }

    /// Keeps some pictures only, in the order given. Errs at the first that is not there.
    pub fn only(&mut self, ids: &[usize]) -> Result<(), usize> {
        let kept = ids.iter().map(|&id| self.pictures.get(id).cloned().ok_or(id));
        let kept = kept.collect::<Result<_, usize>>()?;
        if let Origin::Drawn(_, numbers) = &mut self.origin {
            *numbers = ids.iter().map(|&id| numbers[id]).collect();
        }
        self.pictures = kept;
        Ok(())
    }

    /// The pixels of a picture, and the sha256 of the file that holds them, or of themselves where they are drawn.
    /// Without the first the file is damaged, without either it cannot be opened.
    pub fn read(&self, id: usize) -> (Option<String>, anyhow::Result<RgbImage>) {
        match &self.origin {
            Origin::Folder(root) => match files::read(&self.path(root, id), MAX_PICTURE) {
                Ok(bytes) => (Some(sha256(&bytes)), decode(&bytes)),
                Err(error) => (None, Err(error.into())),
            },
            Origin::Drawn(scenes, numbers) => {
                let picture = scenes.draw(numbers[id]).picture;
                (Some(sha256(picture.as_raw())), Ok(picture))
            }
        }
    }

    /// A picture in grey, as small as its file allows without its short side having fewer than so many pixels.
    fn read_small(&self, id: usize, least_side: u32) -> anyhow::Result<GrayImage> {
        match &self.origin {
            Origin::Folder(root) => {
                decode::decode_small(&files::read(&self.path(root, id), MAX_PICTURE)?, least_side)
            }
            Origin::Drawn(scenes, numbers) => Ok(decode::grey(&scenes.draw(numbers[id]).picture)),
        }
    }

    /// The size of a picture's file in bytes, 0 where there is none.
    pub fn file_size(&self, id: usize) -> u64 {
        match &self.origin {
            Origin::Folder(root) => std::fs::metadata(self.path(root, id)).map_or(0, |it| it.len()),
            Origin::Drawn(..) => 0,
        }
    }

    fn path(&self, root: &Path, id: usize) -> PathBuf {
        root.join(&self.pictures[id].file)
    }
}
