//! Where the units that people described come from, with what an encoder sees of their exemplars.

use std::path::{Path, PathBuf};

use super::annotations::{self, Annotated};
use super::features::Looker;
use super::milannotations::Layer;
use crate::data::{self, Dataset, Preprocess};
use crate::describe::milan::look::{Crops, Fires, Pictures, Places, Seen};
use crate::files::{digest, sha256};
use crate::{Progress, usage};

/// Where the exemplars of some units lie, and what their pictures show all over.
pub struct Around {
    /// The pictures of each unit's exemplars.
    pub pictures: Vec<Vec<usize>>,
    /// Pictures, and the features of their [places](Places).
    pub places: Vec<(Vec<usize>, Seen)>,
}

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
    /// Everything that this depends on.
    pub inputs: String,
}

impl Source {
    /// Errs before any long work where something that will be needed is not named.
    pub fn read(&self, looker: &Looker<'_>, progress: Progress<'_>) -> anyhow::Result<Known> {
        match (&self.exemplars, self.annotations.is_dir()) {
            (None, true) => self.read_folder(looker, progress),
            (Some(exemplars), false) => self.read_table(exemplars, looker, progress),
            (None, false) => Err(usage!(
                "{} is a table, so --exemplars is wanted: the file of the exemplars that it speaks of",
                self.annotations.display()
            )),
            (Some(exemplars), true) => Err(usage!(
                "{} is a folder with exemplars of its own, so --exemplars {} is not wanted",
                self.annotations.display(),
                exemplars.display()
            )),
        }
    }

    fn read_folder(&self, looker: &Looker<'_>, progress: Progress<'_>) -> anyhow::Result<Known> {
        let layers = Layer::all(&self.annotations)?;
        let file = self.annotations.join("annotations.csv");
        let row =
            |site: usize, number: usize| layers[site].units.iter().position(|it| *it == number);
        let names: Vec<&str> = layers.iter().map(Fires::name).collect();
        let units = annotations::read(&file, &names, row)?;
        let elsewhere = match layers.iter().all(Layer::has_pictures) {
            true => None,
            false => Some(self.pictures()?),
        };
        let preprocess = preprocess();
        let (mut seen, mut inputs) = (vec![], digest(&file)?.1);
        for layer in &layers {
            let one = std::slice::from_ref(layer);
            let name = format!("features-{}", layer.name());
            let mut own = format!("{} {}", layer.name(), layer.files_digest()?);
            match &elsewhere {
                Some((dataset, pictures)) if !layer.has_pictures() => {
                    own = format!("{own} {pictures}");
                    let pictures = Pictures { dataset, preprocess: &preprocess };
                    seen.extend(looker.look(&name, &own, one, &pictures, progress)?);
                }
                _ => seen.extend(looker.look(&name, &own, one, layer, progress)?),
            }
            inputs = format!("{inputs} {own}");
        }
        Ok(Known { units, seen, inputs })
    }

    fn read_table(
        &self,
        exemplars: &Path,
        looker: &Looker<'_>,
        progress: Progress<'_>,
    ) -> anyhow::Result<Known> {
        let sites = annotations::exemplars(exemplars)?;
        let row = |site: usize, number: usize| (number < sites[site].n_units).then_some(number);
        let names: Vec<&str> = sites.iter().map(Fires::name).collect();
        let units = annotations::read(&self.annotations, &names, row)?;
        let (dataset, pictures) = self.pictures()?;
        let inputs = format!("{pictures} {}", digest(exemplars)?.1);
        let pictures = Pictures { dataset: &dataset, preprocess: &preprocess() };
        let seen = looker.look("features", &inputs, &sites, &pictures, progress)?;
        Ok(Known { units, seen, inputs: format!("{inputs} {}", digest(&self.annotations)?.1) })
    }

    /// Where the exemplars of some units lie, and what their pictures show all over; kept as `name`.
    pub fn around(
        &self,
        units: &[Annotated],
        name: &str,
        looker: &Looker<'_>,
        progress: Progress<'_>,
    ) -> anyhow::Result<Around> {
        let preprocess = preprocess();
        let pictures_of = |it: &Annotated, fires: &dyn Fires| -> Vec<usize> {
            (0..fires.k()).map(|rank| fires.picture(it.row, rank)).collect()
        };
        let look = |name: &str, inputs: &str, pictures: &[Vec<usize>], crops: &dyn Crops| {
            places(looker, name, inputs, pictures, crops, progress)
        };
        let Some(exemplars) = &self.exemplars else {
            // Layers may have pictures of their own, which are counted from a number of their own.
            let layers = Layer::all(&self.annotations)?;
            let (mut pictures, mut places) = (vec![vec![]; units.len()], vec![]);
            for (site, layer) in layers.iter().enumerate() {
                let own: Vec<usize> =
                    (0..units.len()).filter(|&it| units[it].site == site).collect();
                let of: Vec<Vec<usize>> =
                    own.iter().map(|&it| pictures_of(&units[it], layer)).collect();
                let name = format!("{name}-{}", layer.name());
                let inputs = format!("{} {}", layer.name(), layer.files_digest()?);
                let (mut ids, seen) = match layer.has_pictures() {
                    true => look(&name, &inputs, &of, layer)?,
                    false => {
                        let (dataset, digest) = self.pictures()?;
                        let pictures = Pictures { dataset: &dataset, preprocess: &preprocess };
                        look(&name, &format!("{inputs} {digest}"), &of, &pictures)?
                    }
                };
                let number = |id: usize| layers.len() * id + site;
                ids.iter_mut().for_each(|it| *it = number(*it));
                for (place, of) in own.into_iter().zip(of) {
                    pictures[place] = of.into_iter().map(number).collect();
                }
                places.push((ids, seen));
            }
            return Ok(Around { pictures, places });
        };
        let sites = annotations::exemplars(exemplars)?;
        let (dataset, digest) = self.pictures()?;
        let pictures: Vec<Vec<usize>> =
            units.iter().map(|it| pictures_of(it, &sites[it.site])).collect();
        let crops = Pictures { dataset: &dataset, preprocess: &preprocess };
        let places = vec![look(name, &digest, &pictures, &crops)?];
        Ok(Around { pictures, places })
    }

    /// The pictures, and a digest of their names and sizes.
    pub fn pictures(&self) -> anyhow::Result<(Dataset, String)> {
        let Some(folder) = &self.images else {
            return Err(usage!(
                "--images is wanted: the folder of the pictures that the exemplars or regions count"
            ));
        };
        if !folder.is_dir() {
            return Err(usage!(
                "--images wants a folder of pictures; {} is none",
                folder.display()
            ));
        }
        let dataset = data::open(folder, &[])?;
        let mut list = String::new();
        for (id, picture) in dataset.pictures.iter().enumerate() {
            list += &format!("{} {}\n", picture.file, dataset.file_size(id));
        }
        Ok((dataset, sha256(list.as_bytes())))
    }
}

/// The pictures that some units fire in, and what is to be seen at their places; kept as `name`.
pub(super) fn places(
    looker: &Looker<'_>,
    name: &str,
    inputs: &str,
    pictures: &[Vec<usize>],
    crops: &dyn Crops,
    progress: Progress<'_>,
) -> anyhow::Result<(Vec<usize>, Seen)> {
    let places = Places::of(pictures);
    let inputs = format!("{inputs} {:?}", places.pictures);
    let mut seen = looker.look(name, &inputs, &[&places], &crops, progress)?;
    Ok((places.pictures, seen.swap_remove(0)))
}

/// How the annotated networks saw the pictures: as torchvision's.
pub fn preprocess() -> Preprocess {
    Preprocess::of("resnet152")
}
