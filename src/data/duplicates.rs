//! Which pictures are nearly the same: copies, other sizes or qualities of a file, frames that follow each other.
//!
//! Of what a network sees of a picture the brightness of 9 × 8 parts is compared, in two ways. The difference hash (64
//! bits: is a part brighter than the one left of it?) is quick to compare and knows nothing of brightness and contrast;
//! where it is nearly the same the parts must also correlate, since of dark pictures with one bright spot hashes are
//! alike that show different things. A picture of one colour has no differences, so only a copy of it is the same.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::GrayImage;
use rayon::prelude::*;

use super::{Dataset, Preprocess};
use crate::Progress;

const COLUMNS: usize = 9;
const ROWS: usize = 8;
/// The short side, in pixels, of what parts are taken of.
const LEAST_SIDE: u32 = 32;

/// Bits of the hash that may differ, and the least correlation. Among 1,967 photographs of ImageNet, COCO, ICDAR and of
/// faces, none of which is there twice, pairs within 8 bits correlate up to 0.86; the same picture at half the size, at
/// JPEG quality 30, a fifth brighter or cut by a fiftieth is within 8 bits and above 0.95 in 98 of 100 cases.
const MOST_BITS: u32 = 8;
const LEAST_CORRELATION: f64 = 0.95;
/// Grey levels between the darkest and the brightest part below which a picture counts as of one colour.
const LEAST_CONTRAST: u8 = 12;

/// Which pictures of a data set are nearly the same.
///
/// Whoever is nearly the same as a third picture is of its group, so the order of pictures makes no difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearDuplicates {
    /// Of each picture the first of its group.
    group_of: Vec<usize>,
}

impl NearDuplicates {
    /// Each of `n` pictures by itself.
    pub fn none(n: usize) -> NearDuplicates {
        NearDuplicates { group_of: (0..n).collect() }
    }

    /// Looks at every picture in small. One that cannot be read is by itself.
    pub fn find(
        dataset: &Dataset,
        preprocess: &Preprocess,
        progress: Progress<'_>,
    ) -> anyhow::Result<NearDuplicates> {
        let (stage, n) = ("near-duplicates", dataset.pictures.len());
        let done = AtomicUsize::new(0);
        progress(stage, 0, n)?;
        let look = |id| {
            let impression = dataset.read_small(id, LEAST_SIDE).ok().map(|picture| {
                let part = preprocess.seen_part(picture.dimensions());
                Impression::of(&picture, part)
            });
            progress(stage, done.fetch_add(1, Ordering::Relaxed) + 1, n)?;
            Ok(impression)
        };
        let seen = (0..n).into_par_iter().map(look).collect::<anyhow::Result<Vec<_>>>()?;
        let blank =
            |id: &usize| seen[*id].as_ref().is_some_and(|it| it.contrast() < LEAST_CONTRAST);
        let blank: Vec<usize> = (0..n).filter(blank).collect();
        let contents: Vec<Option<String>> =
            blank.par_iter().map(|&id| dataset.read(id).0).collect();
        let mut first_of: BTreeMap<String, usize> = BTreeMap::new();
        let copies = blank.iter().zip(contents).filter_map(|(&id, content)| {
            let first = *first_of.entry(content?).or_insert(id);
            Some((first, id))
        });
        let mut pairs: Vec<(usize, usize)> = copies.collect();
        pairs.extend(alike(&seen));
        Ok(NearDuplicates { group_of: connected(n, &pairs) })
    }

    /// The number of a picture's group.
    pub fn group(&self, id: usize) -> usize {
        self.group_of[id]
    }

    /// The groups of more than one picture, in the order of their first ones.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (id, &group) in self.group_of.iter().enumerate() {
            groups.entry(group).or_default().push(id);
        }
        groups.into_values().filter(|it| 1 < it.len()).collect()
    }
}

/// The brightness of the parts of a picture, row after row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Impression([u8; ROWS * COLUMNS]);

impl Impression {
    /// Of the part `[left, top, width, height]` of a picture.
    fn of(picture: &GrayImage, [left, top, width, height]: [f64; 4]) -> Impression {
        let across = shares(left, width, COLUMNS, picture.width());
        let down = shares(top, height, ROWS, picture.height());
        let mut parts = [0; ROWS * COLUMNS];
        for (row, down) in parts.chunks_exact_mut(COLUMNS).zip(&down) {
            for (part, across) in row.iter_mut().zip(&across) {
                let mut sum = 0.;
                for (y, in_y) in down {
                    for (x, in_x) in across {
                        sum += in_y * in_x * f64::from(picture.get_pixel(*x, *y).0[0]);
                    }
                }
                *part = sum.round() as u8;
            }
        }
        Impression(parts)
    }

    fn contrast(&self) -> u8 {
        let (least, most) =
            self.0.iter().fold((u8::MAX, 0), |(least, most), &it| (least.min(it), most.max(it)));
        most - least
    }

    /// A bit for each two parts beside each other.
    fn hash(&self) -> u64 {
        let rows = self.0.chunks_exact(COLUMNS);
        let pairs = rows.flat_map(|row| row.windows(2));
        pairs.fold(0, |bits, pair| bits << 1 | u64::from(pair[0] < pair[1]))
    }

    fn correlation(&self, other: &Impression) -> f64 {
        let centred = |it: &Impression| {
            let mean = it.0.iter().copied().map(f64::from).sum::<f64>() / it.0.len() as f64;
            it.0.map(|it| f64::from(it) - mean)
        };
        let (a, b) = (centred(self), centred(other));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt().max(f64::MIN_POSITIVE)
    }
}

/// Each of `n` equal parts of a length as pixels of a side with their shares, which sum to 1.
fn shares(start: f64, length: f64, n: usize, side: u32) -> Vec<Vec<(u32, f64)>> {
    let part = length / n as f64;
    let of = |at: usize| {
        let (from, to) = (start + part * at as f64, start + part * (at + 1) as f64);
        let pixels = from as u32..(to.ceil() as u32).min(side);
        let share = |x: u32| (f64::from(x + 1).min(to) - f64::from(x).max(from)).max(0.) / part;
        pixels.map(|x| (x, share(x))).collect()
    };
    (0..n).map(of).collect()
}

/// Pairs of pictures that are nearly the same.
fn alike(seen: &[Option<Impression>]) -> Vec<(usize, usize)> {
    let hashed: Vec<(usize, u64, &Impression)> = seen
        .iter()
        .enumerate()
        .filter_map(|(id, it)| Some((id, it.as_ref()?)))
        .filter(|(_, it)| LEAST_CONTRAST <= it.contrast())
        .map(|(id, it)| (id, it.hash(), it))
        .collect();
    let after = |at: usize| {
        let (id, hash, own) = hashed[at];
        let near =
            hashed[at + 1..].iter().filter(move |it| (it.1 ^ hash).count_ones() <= MOST_BITS);
        near.filter(move |it| LEAST_CORRELATION <= own.correlation(it.2)).map(move |it| (id, it.0))
    };
    (0..hashed.len()).into_par_iter().flat_map_iter(after).collect()
}

/// Of each of `n` things the first that a chain of pairs leads to.
fn connected(n: usize, pairs: &[(usize, usize)]) -> Vec<usize> {
    fn first(first_of: &mut [usize], mut at: usize) -> usize {
        while first_of[at] != at {
            first_of[at] = first_of[first_of[at]];
            at = first_of[at];
        }
        at
    }
    let mut first_of: Vec<usize> = (0..n).collect();
    for &(a, b) in pairs {
        let (a, b) = (first(&mut first_of, a), first(&mut first_of, b));
        first_of[a.max(b)] = a.min(b);
    }
    (0..n).map(|at| first(&mut first_of, at)).collect()
}

#[cfg(test)]
mod tests {
    use image::{Luma, Rgb, RgbImage};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::data;

    /// Bright and dark spots of many sizes, different for each seed.
    fn scene(seed: u64, width: u32, height: u32) -> RgbImage {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let spots: Vec<[f64; 4]> = (0..30)
            .map(|_| {
                [
                    rng.random(),
                    rng.random(),
                    rng.random_range(0.05..0.3),
                    rng.random_range(-90. ..90.),
                ]
            })
            .collect();
        RgbImage::from_fn(width, height, |x, y| {
            let (x, y) = (f64::from(x) / f64::from(width), f64::from(y) / f64::from(height));
            let of = |it: &[f64; 4]| {
                let far = (x - it[0]).powi(2) + (y - it[1]).powi(2);
                it[3] * (-far / it[2].powi(2)).exp()
            };
            Rgb([(110. + spots.iter().map(of).sum::<f64>()).clamp(0., 255.) as u8; 3])
        })
    }

    fn jpeg(picture: &RgbImage) -> Vec<u8> {
        let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
        compress.set_size(picture.width() as usize, picture.height() as usize);
        let mut started = compress.start_compress(Vec::new()).unwrap();
        started.write_scanlines(picture).unwrap();
        started.finish().unwrap()
    }

    fn found(pictures: &[(&str, RgbImage)]) -> Vec<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, picture) in pictures {
            let path = folder.path().join(name);
            match name.ends_with(".jpg") {
                true => std::fs::write(path, jpeg(picture)).unwrap(),
                false => picture.save(path).unwrap(),
            }
        }
        let dataset = data::open(folder.path(), &[]).unwrap();
        let preprocess = Preprocess::of("resnet18");
        let found = NearDuplicates::find(&dataset, &preprocess, &|_, _, _| Ok(())).unwrap();
        let name = |&id: &usize| dataset.pictures[id].file.clone();
        found.groups().iter().map(|it| it.iter().map(name).collect()).collect()
    }

    #[test]
    fn sizes_formats_and_brightness_are_one_group_and_other_pictures_are_not() {
        let brighter = |it: &RgbImage| {
            RgbImage::from_fn(it.width(), it.height(), |x, y| {
                Rgb(it.get_pixel(x, y).0.map(|it| (f64::from(it) * 0.8 + 20.) as u8))
            })
        };
        let one = scene(1, 320, 240);
        assert_eq!(
            found(&[
                ("a.png", one.clone()),
                ("b.png", scene(2, 320, 240)),
                ("c.jpg", scene(1, 640, 480)),
                ("d.png", scene(3, 320, 240)),
                ("e.jpg", brighter(&one)),
                ("f.jpg", scene(2, 200, 150)),
            ]),
            [vec!["a.png", "c.jpg", "e.jpg"], vec!["b.png", "f.jpg"]]
        );
    }

    #[test]
    fn a_black_picture_is_the_same_as_its_copy_alone() {
        let flat = |level: u8| RgbImage::from_pixel(60, 60, Rgb([level; 3]));
        let mut speck = flat(0);
        speck.put_pixel(30, 30, Rgb([90; 3]));
        let dim = |seed: u64| {
            let mut it = scene(seed, 60, 60);
            it.pixels_mut().for_each(|it| it.0 = it.0.map(|it| it / 5));
            it
        };
        let pictures = [
            ("a.png", flat(0)),
            ("b.png", flat(2)),
            ("c.png", dim(4)),
            ("d.png", dim(5)),
            ("e.png", flat(0)),
            ("f.png", speck),
        ];
        assert_eq!(found(&pictures), [["a.png", "e.png"]]);
    }

    #[test]
    fn who_is_alike_to_a_third_is_of_its_group() {
        assert_eq!(connected(6, &[(4, 5), (1, 4), (0, 2)]), [0, 1, 0, 3, 1, 1]);
        assert_eq!(connected(6, &[(1, 5), (0, 2), (4, 5)]), [0, 1, 0, 3, 1, 1]);
    }

    #[test]
    fn parts_are_means() {
        let picture = GrayImage::from_fn(18, 4, |x, _| Luma([10 * (x as u8 / 2)]));
        let parts = Impression::of(&picture, [0., 0., 18., 4.]);
        assert_eq!(parts.0[..9], [0, 10, 20, 30, 40, 50, 60, 70, 80]);
        // A part begins in the middle of a pixel.
        let halves = Impression::of(&picture, [0.5, 0., 9., 4.]);
        assert_eq!(halves.0[..5], [0, 5, 10, 15, 20]);
        assert_eq!((parts.contrast(), parts.hash()), (80, u64::MAX));
    }
}
