//! MILANNOTATIONS as the authors keep them: a folder with `annotations.csv`, and for each layer a folder
//! with `masks.npy` `(units, k, 1, side, side)`, the pictures themselves in `images.npy`
//! `(units, k, 3, side, side)` or their numbers in `ids.csv`, and now and then `units.npy`, the number of
//! each unit (neuron-descriptions, `src/milannotations/datasets.py`).

use std::path::Path;

use anyhow::Context;
use image::RgbImage;

use crate::data::npy::Npy;
use crate::describe::milan::look::{Crops, Fires};
use crate::weights::words;
use crate::{files, inconclusive, usage};

/// One layer's folder.
pub struct Layer {
    pub site: String,
    /// The number of the unit of each row.
    pub units: Vec<usize>,
    k: usize,
    /// Of masks and pictures, in pixels.
    side: usize,
    masks: Npy,
    pictures: Pictures,
}

enum Pictures {
    Here(Npy),
    /// Their numbers in a data set, `(units, k)`.
    Elsewhere(Vec<usize>),
}

impl Layer {
    /// All layers, sorted by name.
    pub fn all(folder: &Path) -> anyhow::Result<Vec<Layer>> {
        let reading = |error| usage!("cannot read the folder {}: {error}", folder.display());
        let mut names = vec![];
        for entry in std::fs::read_dir(folder).map_err(reading)? {
            let entry = entry.map_err(reading)?;
            if entry.path().join("masks.npy").is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        if names.is_empty() {
            return Err(usage!(
                "{} has no folder LAYER with a masks.npy, so it is no MILANNOTATIONS",
                folder.display()
            ));
        }
        let layers = names.iter().map(|name| Layer::open(&folder.join(name), name));
        let layers = layers.collect::<anyhow::Result<Vec<Layer>>>()?;
        if let Some(other) = layers.iter().find(|it| it.k != layers[0].k) {
            return Err(inconclusive!(
                "{}: a unit of {} has {} pictures, and one of {} has {}",
                folder.display(),
                layers[0].site,
                layers[0].k,
                other.site,
                other.k
            ));
        }
        Ok(layers)
    }

    fn open(folder: &Path, site: &str) -> anyhow::Result<Layer> {
        let open = || {
            let masks = Npy::open(&folder.join("masks.npy"))?;
            // Booleans and bytes are the same on disk.
            let is_bytes = ["|u1", "|b1"].contains(&masks.dtype.as_str());
            let (n, k, side) = match masks.shape[..] {
                [n, k, 1, side, wide] if is_bytes && side == wide && 0 < n * k * side => {
                    (n, k, side)
                }
                _ => {
                    return Err(inconclusive!(
                        "masks.npy is {} {:?}, and |u1 (units, k, 1, side, side) is wanted",
                        masks.dtype,
                        masks.shape
                    ));
                }
            };
            let images = folder.join("images.npy");
            let pictures = if images.is_file() {
                let images = Npy::open(&images)?;
                if images.shape != [n, k, 3, side, side] || images.dtype != "|u1" {
                    return Err(inconclusive!(
                        "images.npy is {} {:?}, and masks.npy {:?}",
                        images.dtype,
                        images.shape,
                        masks.shape
                    ));
                }
                Pictures::Here(images)
            } else {
                Pictures::Elsewhere(ids(&folder.join("ids.csv"), n, k)?)
            };
            let units = folder.join("units.npy");
            let units = if units.is_file() { numbers(&units)? } else { (0..n).collect() };
            if units.len() != n {
                return Err(inconclusive!("units.npy has {} units, masks.npy {n}", units.len()));
            }
            Ok(Layer { site: site.to_owned(), units, k, side, masks, pictures })
        };
        open().with_context(|| format!("cannot use the layer {}", folder.display()))
    }

    /// Whether the pictures lie in the layer's own folder.
    pub fn has_pictures(&self) -> bool {
        matches!(self.pictures, Pictures::Here(_))
    }

    /// What tells its files from others.
    pub fn files_digest(&self) -> anyhow::Result<String> {
        let masks = format!("{} {:?}", self.masks.digest()?, self.units);
        Ok(match &self.pictures {
            Pictures::Here(images) => format!("{masks} {}", images.digest()?),
            Pictures::Elsewhere(ids) => format!("{masks} {ids:?}"),
        })
    }
}

impl Fires for Layer {
    fn name(&self) -> &str {
        &self.site
    }

    fn n_units(&self) -> usize {
        self.units.len()
    }

    fn k(&self) -> usize {
        self.k
    }

    fn picture(&self, unit: usize, rank: usize) -> usize {
        let place = unit * self.k + rank;
        match &self.pictures {
            Pictures::Here(_) => place,
            Pictures::Elsewhere(ids) => ids[place],
        }
    }

    /// Brought to another side by the nearest pixel.
    fn mask(&self, unit: usize, rank: usize, side: usize) -> anyhow::Result<Vec<bool>> {
        let n = self.side * self.side;
        let own = self.masks.read((unit * self.k + rank) * n, n)?;
        let at = |place: usize| (2 * place + 1) * self.side / (2 * side);
        let on = |y: usize, x: usize| own[at(y) * self.side + at(x)] != 0;
        Ok((0..side).flat_map(|y| (0..side).map(move |x| (y, x))).map(|(y, x)| on(y, x)).collect())
    }
}

/// The layer's own pictures, where it [has](Layer::has_pictures) them: each place counts as one.
impl Crops for Layer {
    fn n_pictures(&self) -> usize {
        if self.has_pictures() { self.units.len() * self.k } else { 0 }
    }

    fn crop(&self, id: usize) -> anyhow::Result<RgbImage> {
        let Pictures::Here(images) = &self.pictures else {
            return Err(inconclusive!("{} has no images.npy", self.site));
        };
        let n = self.side * self.side;
        let bytes = images.read(id * 3 * n, 3 * n)?;
        let pixels = (0..n).flat_map(|at| [bytes[at], bytes[n + at], bytes[2 * n + at]]).collect();
        let side = self.side as u32;
        RgbImage::from_raw(side, side, pixels).context("a picture of another size")
    }
}

fn ids(path: &Path, n: usize, k: usize) -> anyhow::Result<Vec<usize>> {
    let text = files::read_text(path).map_err(|error| {
        inconclusive!("there is neither images.npy nor a readable ids.csv: {error}")
    })?;
    let ids = text.split([',', '\n']).map(str::trim).filter(|it| !it.is_empty());
    let ids: Vec<usize> = ids
        .map(|it| it.parse().map_err(|_| inconclusive!("ids.csv: `{it}` is no picture's number")))
        .collect::<anyhow::Result<_>>()?;
    if ids.len() != n * k {
        return Err(inconclusive!("ids.csv has {} numbers, not {n} x {k}", ids.len()));
    }
    Ok(ids)
}

fn numbers(path: &Path) -> anyhow::Result<Vec<usize>> {
    let array = Npy::open(path)?;
    let ("<i8", &[n]) = (array.dtype.as_str(), &array.shape[..]) else {
        return Err(inconclusive!(
            "units.npy is {} {:?}, and <i8 (units,) is wanted",
            array.dtype,
            array.shape
        ));
    };
    let numbers = words(&array.read(0, 8 * n)?, i64::from_le_bytes).into_iter();
    let numbers: Result<_, _> = numbers.map(usize::try_from).collect();
    numbers.map_err(|_| inconclusive!("units.npy holds a negative number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::npy;
    use crate::error::{Kind, kind};

    fn write(path: &Path, shape: &[usize], bytes: Vec<u8>) {
        std::fs::write(path, [npy::header(shape), bytes].concat()).unwrap();
    }

    #[test]
    fn a_layers_folder_gives_masks_and_pictures() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("layer1");
        std::fs::create_dir(&folder).unwrap();
        let error = |part: &str| {
            let error = format!("{:#}", Layer::all(root.path()).err().unwrap());
            assert!(error.contains(part), "{error}");
        };
        error("no folder LAYER with a masks.npy");
        write(&folder.join("masks.npy"), &[1, 2, 1, 2, 2], vec![0, 1, 0, 0, 1, 1, 0, 0]);
        error("neither images.npy nor a readable ids.csv");
        std::fs::write(folder.join("ids.csv"), "7\n").unwrap();
        error("ids.csv has 1 numbers, not 1 x 2");
        std::fs::write(folder.join("ids.csv"), "7,x\n").unwrap();
        error("`x` is no picture's number");
        std::fs::write(folder.join("ids.csv"), "7,3\n").unwrap();
        let layer = &Layer::all(root.path()).unwrap()[0];
        assert_eq!((layer.picture(0, 1), layer.has_pictures()), (3, false));
        assert_eq!(layer.mask(0, 1, 2).unwrap(), [true, true, false, false]);
        assert_eq!(layer.mask(0, 0, 4).unwrap()[..4], [false, false, true, true]);

        let pixels = (0..24).collect();
        write(&folder.join("images.npy"), &[1, 2, 3, 2, 2], pixels);
        let layer = &Layer::all(root.path()).unwrap()[0];
        assert_eq!(
            (layer.picture(0, 1), layer.n_pictures(), layer.site.as_str()),
            (1, 2, "layer1")
        );
        assert_eq!(layer.crop(1).unwrap().get_pixel(1, 0).0, [13, 17, 21]);
        write(&folder.join("images.npy"), &[1, 2, 3, 1, 1], vec![0; 6]);
        error("images.npy is |u1 [1, 2, 3, 1, 1], and masks.npy [1, 2, 1, 2, 2]");
    }

    #[test]
    fn masks_of_no_size_or_type_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("0");
        std::fs::create_dir(&folder).unwrap();
        for shape in
            [&[2, 1, 1, 0, 0][..], &[1, 0, 1, 2, 2], &[1, 1, 3, 2, 2], &[1, 1, 1, 2, 1], &[4]]
        {
            write(&folder.join("masks.npy"), shape, vec![0; shape.iter().product()]);
            let error = Layer::all(root.path()).err().unwrap();
            assert!(
                format!("{error:#}").contains("(units, k, 1, side, side) is wanted"),
                "{error:#}"
            );
            assert_eq!(kind(&error), Kind::Inconclusive, "{error:#}");
        }
    }

    #[test]
    fn units_may_have_numbers() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("0");
        std::fs::create_dir(&folder).unwrap();
        write(&folder.join("masks.npy"), &[2, 1, 1, 1, 1], vec![1, 0]);
        std::fs::write(folder.join("ids.csv"), "1\n2\n").unwrap();
        let dict =
            |n: usize| format!("{{'descr': '<i8', 'fortran_order': False, 'shape': ({n},), }}\n");
        let bytes = |numbers: &[i64]| {
            let dict = dict(numbers.len());
            let length = (dict.len() as u16).to_le_bytes();
            let numbers = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
            [b"\x93NUMPY\x01\x00".to_vec(), length.to_vec(), dict.into_bytes(), numbers].concat()
        };
        std::fs::write(folder.join("units.npy"), bytes(&[5, 9])).unwrap();
        assert_eq!(Layer::all(root.path()).unwrap()[0].units, [5, 9]);
        for (numbers, part) in [(&[5][..], "has 1 units, masks.npy 2"), (&[5, -1], "negative")] {
            std::fs::write(folder.join("units.npy"), bytes(numbers)).unwrap();
            let error = format!("{:#}", Layer::all(root.path()).err().unwrap());
            assert!(error.contains(part), "{error}");
        }
    }
}
