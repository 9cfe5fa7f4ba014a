//! Where the units that people described come from, with what an encoder sees of their exemplars.

use std::path::{Path, PathBuf};

use super::annotations::{self, Annotated};
use super::features::Looker;
use super::milannotations::Layer;
use crate::data::{self, Dataset, Preprocess};
use crate::describe::milan::look::{Fires, Pictures, Seen};
use crate::describe::milan::seen_key;
use crate::files::{digest, sha256};
use crate::{Progress, usage};

/// What the user named.
#[derive(Debug, Clone)]
pub struct Source {
    /// A table `layer,unit,summary`, or a folder of MILANNOTATIONS.
    pub annotations: PathBuf,
    /// For a table: the exemplars of all layers in one file.
    pub exemplars: Option<PathBuf>,
    /// The folder of the pictures that exemplars and regions count.
    pub images: Option<PathBuf>,
}

/// What there is to learn from, or to be judged by.
pub struct Known {
    pub units: Vec<Annotated>,
    /// Of every layer.
    pub seen: Vec<Seen>,
    /// Everything that this depends on, in words.
    pub inputs: String,
}

impl Source {
    pub fn read(&self, looker: &Looker<'_>, progress: Progress<'_>) -> anyhow::Result<Known> {
        let preprocess = preprocess();
        let said_in = |file: &Path| anyhow::Ok(digest(file)?.1);
        if self.annotations.is_dir() {
            let layers = Layer::all(&self.annotations)?;
            let file = self.annotations.join("annotations.csv");
            let row =
                |site: usize, number: usize| layers[site].units.iter().position(|it| *it == number);
            let names: Vec<&str> = layers.iter().map(Fires::name).collect();
            let key = |site: usize, row: usize| {
                let layer = &layers[site];
                let text = format!("{}/{row}/{}", layer.name(), layer.digest(row)?);
                Ok(sha256(text.as_bytes())[..12].to_owned())
            };
            let units = annotations::read(&file, &names, row, key)?;
            let (mut seen, mut inputs) = (vec![], said_in(&file)?);
            for layer in &layers {
                let one = std::slice::from_ref(layer);
                let name = format!("features-{}", layer.name());
                let own = layer.files_digest()?;
                inputs = format!("{inputs} {own}");
                seen.extend(if layer.has_pictures() {
                    looker.look(&name, &own, one, layer, progress)?
                } else {
                    let (dataset, folder) = self.pictures()?;
                    let pictures = Pictures { dataset: &dataset, preprocess: &preprocess };
                    looker.look(&name, &format!("{folder} {own}"), one, &pictures, progress)?
                });
            }
            return Ok(Known { units, seen, inputs });
        }
        let Some(exemplars) = &self.exemplars else {
            return Err(usage!(
                "{} is a table, so --exemplars is wanted: the file of the exemplars that it speaks of",
                self.annotations.display()
            ));
        };
        let sites = annotations::exemplars(exemplars)?;
        let row = |site: usize, number: usize| (number < sites[site].n_units).then_some(number);
        let key = |site: usize, row: usize| Ok(seen_key(&sites[site], row));
        let names: Vec<&str> = sites.iter().map(Fires::name).collect();
        let units = annotations::read(&self.annotations, &names, row, key)?;
        let (dataset, folder) = self.pictures()?;
        let pictures = Pictures { dataset: &dataset, preprocess: &preprocess };
        let inputs = format!("{folder} {}", digest(exemplars)?.1);
        let seen = looker.look("features", &inputs, &sites, &pictures, progress)?;
        Ok(Known { units, seen, inputs: format!("{inputs} {}", said_in(&self.annotations)?) })
    }

    /// The pictures, and what tells them from others, in words.
    pub fn pictures(&self) -> anyhow::Result<(Dataset, String)> {
        let Some(folder) = &self.images else {
            return Err(usage!(
                "--images is wanted: the folder of the pictures that the exemplars or regions count"
            ));
        };
        let place = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        Ok((data::open(folder, &[])?, format!("{place:?}")))
    }
}

/// How the annotated networks saw the pictures: as torchvision's.
pub fn preprocess() -> Preprocess {
    Preprocess::of("resnet152")
}
