//! Regions of pictures whose names are known: they teach the critic what things are called, and tell where
//! a unit ought to fire.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use half::f16;
use safetensors::{Dtype, SafeTensors};

use super::annotations::{columns, part};
use crate::exemplars::SiteExemplars;
use crate::files::sha256;
use crate::weights::words;
use crate::{inconclusive, usage};

/// Named regions, in the order of their file.
pub struct Regions {
    /// Each region as a unit with one exemplar, so that whatever looks at exemplars can look at regions.
    pub masks: SiteExemplars,
    /// The name of each, in small letters.
    pub phrases: Vec<String>,
    /// What tells each from the regions of other files.
    pub keys: Vec<String>,
}

impl Regions {
    /// Reads a folder's `regions.csv` (`image,phrase`, a region a line; `image` counts the pictures of the data
    /// set) and `regions.safetensors` (`masks` `(regions, side, side)`, 0 to 255, in the order of the lines).
    /// Masks lie on the crop that a network sees: to learn from, torchvision's middle 224 of 256 pixels.
    pub fn read(folder: &Path) -> anyhow::Result<Regions> {
        let (ids, phrases) = table(&folder.join("regions.csv"))?;
        let path = folder.join("regions.safetensors");
        let bytes = std::fs::read(&path)
            .map_err(|error| usage!("cannot read the regions {}: {error}", path.display()))?;
        let masks = || {
            let file = SafeTensors::deserialize(&bytes)
                .map_err(|error| inconclusive!("it is damaged: {error}"))?;
            let masks = file.tensor("masks").map_err(|_| inconclusive!("`masks` is missing"))?;
            match *masks.shape() {
                [n, h, w] if n == ids.len() && h == w && 0 < h && masks.dtype() == Dtype::U8 => {
                    anyhow::Ok((h, w, words(masks.data(), |[it]: [u8; 1]| it)))
                }
                _ => Err(inconclusive!(
                    "`masks` is {:?} {:?}, and {} square ones of type U8 are wanted",
                    masks.dtype(),
                    masks.shape(),
                    ids.len()
                )),
            }
        };
        let (h, w, masks) = masks().with_context(|| format!("cannot use {}", path.display()))?;
        let key = |(at, phrase): (usize, &String)| {
            let mask = sha256(&masks[at * h * w..][..h * w]);
            sha256(format!("{phrase}/{}/{mask}", ids[at]).as_bytes())[..12].to_owned()
        };
        let n = ids.len();
        Ok(Regions {
            keys: phrases.iter().enumerate().map(key).collect(),
            masks: SiteExemplars {
                site: "regions".into(),
                n_units: n,
                k: 1,
                quantile: 0.5,
                map: (h, w),
                n_pictures: 0,
                ids,
                activations: vec![1.; n],
                maps: masks.iter().map(|&it| f16::from_f32(f32::from(it) / 255.)).collect(),
                thresholds: vec![0.5; n],
                dead: vec![false; n],
            },
            phrases,
        })
    }

    /// The picture that a region lies in.
    pub fn picture(&self, region: usize) -> usize {
        self.masks.ids[region]
    }

    /// Whether a region is there to learn from: those of every second picture, by a hash of its number.
    pub fn is_to_learn(&self, region: usize) -> bool {
        part(&self.picture(region).to_string(), 2) == 0
    }

    /// The keys of the regions that are there to learn from.
    pub fn learnt_keys(&self) -> Vec<String> {
        let learnt = (0..self.keys.len()).filter(|&it| self.is_to_learn(it));
        learnt.map(|it| self.keys[it].clone()).collect()
    }

    /// The places of those regions that `keep` keeps, by name.
    pub fn by_name(&self, keep: impl Fn(usize) -> bool) -> BTreeMap<&str, Vec<usize>> {
        let mut names = BTreeMap::<&str, Vec<usize>>::new();
        for (at, phrase) in self.phrases.iter().enumerate().filter(|(at, _)| keep(*at)) {
            names.entry(phrase).or_default().push(at);
        }
        names
    }
}

/// Pictures and names.
fn table(path: &Path) -> anyhow::Result<(Vec<usize>, Vec<String>)> {
    let mut reader = csv::Reader::from_path(path)
        .map_err(|error| usage!("cannot read the regions {}: {error}", path.display()))?;
    let column = columns(&mut reader, path)?;
    let (image, phrase) = (column("image")?, column("phrase")?);
    let region = column("region").ok();
    let (mut ids, mut phrases) = (vec![], vec![]);
    for record in reader.records() {
        let record = record.map_err(|error| usage!("{}: {error}", path.display()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize| record.get(at).unwrap_or_default().trim();
        ids.push(field(image).parse().map_err(|_| {
            usage!("{}:{line}: `{}` is no picture's number", path.display(), field(image))
        })?);
        if region.is_some_and(|it| field(it) != phrases.len().to_string()) {
            return Err(usage!(
                "{}:{line}: the regions must lie in the order of their masks, and {} is not {}",
                path.display(),
                region.map(field).unwrap_or_default(),
                phrases.len()
            ));
        }
        if field(phrase).is_empty() {
            return Err(usage!("{}:{line}: the region has no name", path.display()));
        }
        phrases.push(field(phrase).to_lowercase());
    }
    if ids.is_empty() {
        return Err(usage!("{} has no region", path.display()));
    }
    Ok((ids, phrases))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::write::{self, Entry};

    #[test]
    fn regions_have_names_and_masks() {
        let folder = tempfile::tempdir().unwrap();
        let check = |text: &str, shape: &[usize]| {
            std::fs::write(folder.path().join("regions.csv"), text).unwrap();
            let n: usize = shape.iter().product();
            let data: Vec<u8> = (0..n).map(|it| 255 * (it % 2) as u8).collect();
            let entry = Entry::new("masks", "U8", shape, &data, |&it| [it]);
            let bytes = write::to_bytes(&[], vec![entry]);
            std::fs::write(folder.path().join("regions.safetensors"), bytes).unwrap();
            Regions::read(folder.path())
        };
        let text = "region,image,phrase,source\n0,4,Sky,x\n1,7,text,x\n2,4,sky,x\n";
        let regions = check(text, &[3, 2, 2]).unwrap();
        assert_eq!(regions.by_name(|_| true), [("sky", vec![0, 2]), ("text", vec![1])].into());
        assert_eq!((regions.picture(1), regions.is_to_learn(0)), (7, regions.is_to_learn(2)));
        assert_eq!(regions.masks.mask(1, 0, 2), [false, true, false, true]);
        // The same mask, name and picture.
        assert_eq!(
            (regions.keys[0] == regions.keys[2], regions.keys[0] == regions.keys[1]),
            (true, false)
        );
        for (text, shape, part) in [
            ("region,phrase\n", [0, 2, 2], "no column `image`"),
            ("image,phrase\nx,sky\n", [1, 2, 2], ":2: `x` is no picture's number"),
            ("image,phrase\n1, \n", [1, 2, 2], ":2: the region has no name"),
            ("image,phrase\n", [0, 2, 2], "has no region"),
            ("image,phrase\n1,sky\n", [1, 0, 0], "`masks` is U8 [1, 0, 0]"),
            ("region,image,phrase\n7,1,sky\n", [1, 2, 2], "7 is not 0"),
            (text, [2, 2, 2], "`masks` is U8 [2, 2, 2], and 3 square ones of type U8 are wanted"),
        ] {
            let error = format!("{:#}", check(text, &shape).err().unwrap());
            assert!(error.contains(part), "{error}");
        }
    }
}
