//! Regions of pictures whose names are known: they teach the critic what things are called, and tell where
//! a unit ought to fire.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use half::f16;
use safetensors::{Dtype, SafeTensors};

use super::annotations::{columns, part};
use super::source::{self, Source};
use crate::data::preprocess::Resize;
use crate::data::scenes::{self, Scenes};
use crate::data::{self, Dataset, Preprocess};
use crate::exemplars::{SiteExemplars, mask};
use crate::files::{self, sha256};
use crate::model::zoo;
use crate::weights::words;
use crate::{inconclusive, usage};

/// Named regions, in the order of their file.
pub struct Regions {
    /// Each region as a unit with one exemplar, so that whatever looks at exemplars can look at regions.
    pub masks: SiteExemplars,
    /// In the same way, places of the same pictures that do not have a region's names: its mask, moved.
    pub beside: SiteExemplars,
    /// The region that each of those is beside.
    pub beside_of: Vec<usize>,
    /// The names of each, in small letters.
    pub names: Vec<Vec<String>>,
    /// What tells each from the regions of other files.
    pub keys: Vec<String>,
    /// As the user named them.
    pub source: String,
}

impl Regions {
    /// A folder, see [`read`](Regions::read), or `demo:N:SEED:SPLIT`, see [`drawn`](Regions::drawn).
    pub fn named(source: &str) -> anyhow::Result<Regions> {
        match data::is_drawn(source) {
            true => Regions::drawn(source),
            false => Regions::read(Path::new(source)),
        }
    }

    /// The pictures that regions lie on, a digest that tells them from others, and how masks lie on them: those
    /// that were drawn, else those of `images`.
    pub fn pictures(&self, images: &Source) -> anyhow::Result<(Dataset, String, Preprocess)> {
        if data::is_drawn(&self.source) {
            let dataset = Dataset::drawn(&self.source, &[])?;
            return Ok((dataset, self.source.clone(), Preprocess::of(zoo::SMALL)));
        }
        let (dataset, digest) = images.pictures()?;
        Ok((dataset, digest, source::preprocess()))
    }

    /// Every element of drawn pictures that can be seen. As units do, a region knows its place only so well: to one
    /// of 4, 8, 16 or 32 parts of a side.
    pub fn drawn(source: &str) -> anyhow::Result<Regions> {
        /// Pixels without which nothing can be told.
        const LEAST: usize = 12;
        /// Of a mask.
        const SIDE: usize = 32;
        let scenes: Scenes = source.parse()?;
        let (mut masks, mut ids, mut names) = (vec![], vec![], vec![]);
        for number in 0..scenes.n {
            for (at, element) in scenes.draw(number).elements.into_iter().enumerate() {
                if LEAST <= element.mask.iter().filter(|it| **it).count() {
                    let side = [4, 8, 16, 32][part(&format!("{number}/{at}"), 4) as usize];
                    let shares = shares(&element.mask, scenes::SIDE as usize, side);
                    let most = shares.iter().fold(f16::ZERO, |a, b| a.max(*b)).to_f32();
                    masks.extend(mask(&shares, (side, side), most / 2., SIDE));
                    ids.push(number);
                    names.push(element.phrases);
                }
            }
        }
        let masks: Vec<u8> = masks.into_iter().map(|it| if it { 255 } else { 0 }).collect();
        // One move is enough where there are so many.
        Ok(Regions::new(source, ids, names, (SIDE, &masks), &[(1, 1)]))
    }

    /// Reads a folder's `regions.csv` (`image,phrase`, a region a line; `image` counts the pictures of the data
    /// set) and `regions.safetensors` (`masks` `(regions, side, side)`, 0 to 255, in the order of the lines).
    /// Masks lie on the crop that a network sees: to learn from, torchvision's middle 224 of 256 pixels.
    pub fn read(folder: &Path) -> anyhow::Result<Regions> {
        let (ids, phrases) = table(&folder.join("regions.csv"))?;
        let path = folder.join("regions.safetensors");
        let bytes = files::read(&path, files::MAX_DATA)
            .map_err(|error| usage!("cannot read the regions {}: {error}", path.display()))?;
        let masks = || {
            let file = SafeTensors::deserialize(&bytes)
                .map_err(|error| inconclusive!("it is damaged: {error}"))?;
            let masks = file.tensor("masks").map_err(|_| inconclusive!("`masks` is missing"))?;
            match *masks.shape() {
                [n, h, w] if n == ids.len() && h == w && 0 < h && masks.dtype() == Dtype::U8 => {
                    anyhow::Ok((h, words(masks.data(), |[it]: [u8; 1]| it)))
                }
                _ => Err(inconclusive!(
                    "`masks` is {:?} {:?}, and {} square ones of type U8 are wanted",
                    masks.dtype(),
                    masks.shape(),
                    ids.len()
                )),
            }
        };
        let (h, masks) = masks().with_context(|| format!("cannot use {}", path.display()))?;
        let names = phrases.into_iter().map(|it| vec![it]).collect();
        let moves = [(0, 1), (1, 0), (1, 1)];
        Ok(Regions::new(&folder.display().to_string(), ids, names, (h, &masks), &moves))
    }

    /// Of masks `(regions, side, side)`; each is moved by so many halves of a side, down and across, and what leaves the picture
    /// comes in again on the other side.
    fn new(
        source: &str,
        ids: Vec<usize>,
        names: Vec<Vec<String>>,
        (side, masks): (usize, &[u8]),
        moves: &[(usize, usize)],
    ) -> Regions {
        let size = side * side;
        let key = |(at, names): (usize, &Vec<String>)| {
            let mask = sha256(&masks[at * size..][..size]);
            let names = names.join("/");
            sha256(format!("{names}/{}/{mask}", ids[at]).as_bytes())[..12].to_owned()
        };
        let (mut beside, mut beside_of) = (vec![], vec![]);
        let together = together(&ids, &names);
        for (region, others) in together.iter().enumerate() {
            let own = &masks[region * size..][..size];
            let is_named = |at: usize| others.iter().any(|it| 0 < masks[it * size + at]);
            for (down, across) in moves {
                let from = |at: usize| {
                    let (y, x) = (at / side + down * side / 2, at % side + across * side / 2);
                    own[y % side * side + x % side]
                };
                let moved: Vec<u8> =
                    (0..size).map(|at| if is_named(at) { 0 } else { from(at) }).collect();
                // What is cut away must not be most of it: a thin rest is not like a unit's mask.
                let sum = |it: &[u8]| it.iter().map(|it| u32::from(*it)).sum::<u32>();
                if 0 < sum(own) && sum(own) <= 2 * sum(&moved) {
                    beside.extend(moved);
                    beside_of.push(region);
                }
            }
        }
        let ids_beside = beside_of.iter().map(|it| ids[*it]).collect();
        Regions {
            keys: names.iter().enumerate().map(key).collect(),
            masks: as_exemplars("regions", ids, side, masks),
            beside: as_exemplars("beside", ids_beside, side, &beside),
            beside_of,
            names,
            source: source.to_owned(),
        }
    }

    /// The picture that a region lies in.
    pub fn picture(&self, region: usize) -> usize {
        self.masks.ids[region]
    }

    /// Whether a region is there to learn from: those of every second picture, by a hash of its number.
    pub fn is_to_learn(&self, region: usize) -> bool {
        part(&self.picture(region).to_string(), 2) == 0
    }

    /// The pictures of regions that a describer learnt from, by the keys of what it saw.
    pub fn pictures_learnt(&self, seen: &BTreeSet<String>) -> BTreeSet<usize> {
        let learnt = (0..self.keys.len()).filter(|&it| seen.contains(&self.keys[it]));
        learnt.map(|it| self.picture(it)).collect()
    }

    /// The places of what is [beside](Regions::beside) some regions.
    pub fn beside_rows(&self, regions: &[usize]) -> Vec<usize> {
        let regions: BTreeSet<usize> = regions.iter().copied().collect();
        (0..self.beside_of.len()).filter(|&it| regions.contains(&self.beside_of[it])).collect()
    }

    /// The keys of the regions that are there to learn from and have a name that is not left out.
    pub fn learnt_keys(&self, is_left_out: impl Fn(&str) -> bool) -> Vec<String> {
        let is_learnt = |it: &usize| {
            self.is_to_learn(*it) && !self.names[*it].iter().all(|name| is_left_out(name))
        };
        let learnt = (0..self.keys.len()).filter(is_learnt);
        learnt.map(|it| self.keys[it].clone()).collect()
    }

    /// The places of those regions that `keep` keeps, by name.
    pub fn by_name(&self, keep: impl Fn(usize) -> bool) -> BTreeMap<&str, Vec<usize>> {
        let mut names = BTreeMap::<&str, Vec<usize>>::new();
        for (at, own) in self.names.iter().enumerate().filter(|(at, _)| keep(*at)) {
            own.iter().for_each(|name| names.entry(name).or_default().push(at));
        }
        names
    }
}

/// How a network's pictures lie under masks: on the crop that it sees, or, where masks lie on whole pictures, as they do
/// for `masks`, whole.
pub fn under_masks(network: &Preprocess, masks: &Preprocess) -> Preprocess {
    let mut preprocess = network.clone();
    if let Resize::Exact(_) = masks.resize {
        preprocess.resize = Resize::Exact(preprocess.crop);
    }
    preprocess
}

/// Masks `(regions, side, side)`, of pictures each, as units with one exemplar.
fn as_exemplars(site: &str, ids: Vec<usize>, side: usize, masks: &[u8]) -> SiteExemplars {
    let n = ids.len();
    SiteExemplars {
        site: site.into(),
        n_units: n,
        k: 1,
        quantile: 0.5,
        map: (side, side),
        n_pictures: 0,
        ids,
        activations: vec![1.; n],
        maps: masks.iter().map(|&it| f16::from_f32(f32::from(it) / 255.)).collect(),
        thresholds: vec![0.5; n],
        dead: vec![false; n],
        saturated: vec![false; n],
    }
}

/// For each region, it and the others of its picture that share a name with it.
fn together(ids: &[usize], names: &[Vec<String>]) -> Vec<Vec<usize>> {
    let mut of_picture = BTreeMap::<usize, Vec<usize>>::new();
    ids.iter().enumerate().for_each(|(at, id)| of_picture.entry(*id).or_default().push(at));
    let share = |a: usize, b: usize| names[a].iter().any(|it| names[b].contains(it));
    let of = |(at, id): (usize, &usize)| {
        of_picture[id].iter().copied().filter(|it| share(at, *it)).collect()
    };
    ids.iter().enumerate().map(of).collect()
}

/// How much of each of `to × to` parts of a picture a mask `(from, from)` covers, `to` dividing `from`.
fn shares(mask: &[bool], from: usize, to: usize) -> Vec<f16> {
    let mut n = vec![0u32; to * to];
    count(mask, from, to, &mut n);
    let all = (from / to).pow(2) as f32;
    n.into_iter().map(|it| f16::from_f32(it as f32 / all)).collect()
}

/// Adds the pixels of a mask `(from, from)` to the counts of the `to × to` parts that they lie in, `to` dividing `from`.
pub(super) fn count(mask: &[bool], from: usize, to: usize, counts: &mut [u32]) {
    let cell = from / to;
    for (at, _) in mask.iter().enumerate().filter(|it| *it.1) {
        counts[at / from / cell * to + at % from / cell] += 1;
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
    fn drawn_elements_are_regions() {
        let regions = Regions::named("demo:30:5:mixed").unwrap();
        let names = regions.by_name(|_| true);
        let places = |name: &str| names.get(name).cloned().unwrap_or_default();
        assert!(5 < places("letters").len() && places("letters") == places("written text"));
        assert!(5 < places("a face").len());
        let scenes: Scenes = regions.source.parse().unwrap();
        for at in places("letters") {
            // Where the letters are, and around them.
            let mask = regions.masks.mask(at, 0, 32);
            let drawn = scenes.draw(regions.picture(at)).elements;
            let words = drawn.iter().filter(|it| it.phrases.iter().any(|it| it == "letters"));
            let inside = |it: &[bool], at: usize| it[at / 32 * 128 + at % 32 * 2];
            let hit =
                words.map(|it| (0..1024).filter(|&at| mask[at] && inside(&it.mask, at)).count());
            assert!(0 < hit.max().unwrap_or_default());
            assert!(mask.iter().filter(|it| **it).count() < 512);
        }
        assert_eq!(shares(&[true, true, false, false], 2, 1), [f16::from_f32(0.5)]);
    }

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
        // Moved across they cover what they did not; moved down they lie on themselves.
        assert_eq!(regions.beside_of, [0, 0, 1, 1, 2, 2]);
        assert_eq!(regions.beside.mask(2, 0, 2), [true, false, true, false]);
        let learnt: Vec<usize> = (0..3).filter(|&it| regions.is_to_learn(it)).collect();
        let keys = |left_out: &[&str]| regions.learnt_keys(|name| left_out.contains(&name));
        let of =
            |these: &[usize]| these.iter().map(|it| regions.keys[*it].clone()).collect::<Vec<_>>();
        assert!(!learnt.is_empty() && keys(&[]) == of(&learnt));
        let without_sky: Vec<usize> = learnt.into_iter().filter(|it| *it == 1).collect();
        assert_eq!(keys(&["sky"]), of(&without_sky));
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
