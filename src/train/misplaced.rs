//! Whether named regions lie on what they name.
//!
//! Tables of regions are joined from files of many hands, and one row too many puts every region on another picture.
//! What is inside the regions of a name must differ from what is beside them in the same pictures, and in the same way
//! in pictures that were not looked at. Where it does not, the name teaches, and measures, nothing.

use std::collections::BTreeSet;
use std::fmt;

use candle_core::Tensor;

use super::features::Looker;
use super::measures::auroc;
use super::regions::Regions;
use crate::Progress;
use crate::data;
use crate::describe::milan;
use crate::describe::milan::look::{Crops, Seen};

/// A name whose regions do not lie on what it names.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Misplaced {
    pub name: String,
    pub regions: usize,
    /// How often a region of pictures that were not looked at is told from a place beside one, 0..=1; .5 is chance.
    pub told: f64,
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Misplaced { name, regions, told } = self;
        write!(
            f,
            "{regions} regions are called \"{name}\", and what is in them is told from what is beside them in the same \
             pictures in {:.0} % of all pairs, where chance is 50 % and {:.0} % are wanted",
            100. * told,
            100. * LEAST_TOLD
        )
    }
}

/// Names with fewer regions, or half as many places beside those of each half of their pictures, say too little to be
/// doubted.
const LEAST_REGIONS: usize = 20;
/// Every name of COCO's that has enough regions is told in .92 of the pairs or more, and regions on other pictures than
/// their own in .7, as they keep to the places where pictures have such things.
const LEAST_TOLD: f64 = 0.8;

/// What an encoder sees of regions and of what is [beside](Regions::beside) them, kept as `name`.
pub fn look(
    regions: &Regions,
    name: &str,
    inputs: &str,
    looker: &Looker<'_>,
    crops: &dyn Crops,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Seen>> {
    let inputs = format!("{inputs} {} beside {:?}", regions.keys.concat(), regions.beside_of);
    looker.look(name, &inputs, &[&regions.masks, &regions.beside], &crops, progress)
}

/// The names that are misplaced, by those of the regions that `keep` keeps; `seen` is what is in and beside all regions, and features
/// differ by `mean` and `std`.
pub fn misplaced(
    regions: &Regions,
    keep: impl Fn(usize) -> bool,
    seen: &[Seen],
    (mean, std): (&Tensor, &Tensor),
) -> anyhow::Result<Vec<Misplaced>> {
    // What is drawn is where it is.
    if data::is_drawn(&regions.source) {
        return Ok(vec![]);
    }
    let features = |site: usize, rows: &[usize]| match rows {
        [] => Ok(vec![]),
        _ => milan::standard(&seen[site].features(rows)?, mean, std)?.squeeze(1)?.to_vec2::<f32>(),
    };
    let mut found = vec![];
    for (name, own) in regions.by_name(keep) {
        if own.len() < LEAST_REGIONS {
            continue;
        }
        let pictures: BTreeSet<usize> = own.iter().map(|it| regions.picture(*it)).collect();
        let second: BTreeSet<usize> = pictures.into_iter().skip(1).step_by(2).collect();
        let (first, second): (Vec<usize>, Vec<usize>) =
            own.iter().partition(|it| !second.contains(&regions.picture(**it)));
        let halves = [first, second];
        let mut inside = vec![];
        let mut outside = vec![];
        for half in &halves {
            inside.push(features(0, half)?);
            outside.push(features(1, &regions.beside_rows(half))?);
        }
        if outside.iter().any(|it| it.len() < LEAST_REGIONS / 2) {
            continue;
        }
        let told = [(0, 1), (1, 0)]
            .map(|(from, to)| told([&inside[from], &outside[from]], [&inside[to], &outside[to]]));
        if let [Some(a), Some(b)] = told
            && (a + b) / 2. < LEAST_TOLD
        {
            found.push(Misplaced { name: name.to_owned(), regions: own.len(), told: (a + b) / 2. });
        }
    }
    Ok(found)
}

/// How often the difference between the means of two kinds tells them apart elsewhere.
fn told(from: [&[Vec<f32>]; 2], to: [&[Vec<f32>]; 2]) -> Option<f64> {
    let [a, b] = from.map(mean);
    let direction: Vec<f32> = a?.iter().zip(b?).map(|(a, b)| a - b).collect();
    let score = |it: &Vec<f32>| it.iter().zip(&direction).map(|(a, b)| a * b).sum::<f32>();
    let scores: Vec<f32> = to.iter().flat_map(|it| it.iter().map(score)).collect();
    let truth: Vec<bool> = (0..scores.len()).map(|it| it < to[0].len()).collect();
    auroc(&scores, &truth)
}

/// The mean of some rows, if there are any.
fn mean(rows: &[Vec<f32>]) -> Option<Vec<f32>> {
    let mut sum = rows.first()?.clone();
    for row in &rows[1..] {
        sum.iter_mut().zip(row).for_each(|(sum, it)| *sum += it);
    }
    Some(sum.iter().map(|it| it / rows.len() as f32).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::data::scenes::Scenes;

    /// Whether "letters" are misplaced where what is seen of a region is how much is written there, in a picture so many
    /// further on.
    fn is_misplaced(moved: usize) -> bool {
        let scenes: Scenes = "demo:120:5:mixed".parse().unwrap();
        let mut regions = Regions::named("demo:120:5:mixed").unwrap();
        regions.source = "a folder".into();
        let written: Vec<Vec<bool>> = (0..scenes.n)
            .map(|number| {
                let elements = scenes.draw(number).elements;
                let letters =
                    elements.iter().filter(|it| it.phrases.iter().any(|it| it == "letters"));
                letters.fold(vec![false; 64 * 64], |all, it| {
                    all.iter().zip(&it.mask).map(|(a, b)| *a || *b).collect()
                })
            })
            .collect();
        let seen = [&regions.masks, &regions.beside].map(|site| {
            let mut seen = Seen::new(site.n_units, 1, 1);
            for unit in 0..site.n_units {
                let mask = site.mask(unit, 0, 64);
                let written = &written[(site.ids[unit] + moved) % scenes.n];
                let hit = mask.iter().zip(written).filter(|(a, b)| **a && **b).count();
                seen.set(unit, 0, &[hit as f32 / 100.], 0.1);
            }
            seen
        });
        let (mean, std) = (Tensor::new(&[0f32], &Device::Cpu), Tensor::new(&[1f32], &Device::Cpu));
        let (mean, std) = (mean.unwrap(), std.unwrap());
        let is_letters = |it: usize| regions.names[it].iter().any(|it| it == "letters");
        let found = misplaced(&regions, is_letters, &seen, (&mean, &std)).unwrap();
        found.iter().any(|it| it.name == "letters")
    }

    #[test]
    fn regions_on_other_pictures_than_their_own_are_misplaced() {
        assert!(!is_misplaced(0));
        assert!(is_misplaced(1));
    }
}
