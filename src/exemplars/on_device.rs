//! Maps that lie on another device than the CPU: of them only what their [`Gather`](super::Gather) asks for is copied.
//!
//! Reduced on the device are the least and the greatest value of each map of a unit, and whether all are finite: three
//! numbers. These tell which maps enter a unit's best, and which have values above the unit's floor
//! ([`Tail`](super::tail::Tail)): none, all or some. Of the last the device tells in a bit a value which they are, and
//! these are picked out there. Over a run of some thousand pictures a tenth to two fifths of all values travel. Sorting
//! each map, as for a top-k, would take some fifty passes over all values, and candle sorts no more than 8192 of them
//! together on a GPU.
//!
//! All of it is written in candle's tensor ops, so that it is the same on every device, and tried on the CPU's.

use std::collections::BTreeMap;

use anyhow::ensure;
use candle_core::{DType, Tensor};

use super::maps::Maps;
use crate::model::engine::Survey;

/// Values that are looked at together, where one picture has not more: what is needed beside them on the device is
/// four times as much.
pub(super) const TOGETHER: usize = 1 << 25;

/// Bits that are told in one number: as many as a float holds exactly.
const BITS: usize = f32::MANTISSA_DIGITS as usize;

/// What was copied of the maps of some pictures. A row is the map of a unit on a picture, one picture's units after
/// the other.
pub(super) struct Fetched {
    /// Pictures, channels, height and width.
    dims: (usize, usize, usize, usize),
    /// Of each row, the least and the greatest value; nothing where one is NaN or infinite.
    ranges: Vec<Option<(f32, f32)>>,
    /// Single values, by row and place in it.
    values: BTreeMap<(usize, usize), f32>,
    /// Whole rows.
    maps: BTreeMap<usize, Vec<f32>>,
    /// Of other rows, the values above the unit's floor.
    above: BTreeMap<usize, Vec<f32>>,
}

impl Fetched {
    /// Copies of the maps `ys` `(n, c, h, w)` every range, the values above their unit's floor, those at the `cells` of
    /// their picture, and maps that are wanted as a whole: `is_wanted` is told picture, unit and range.
    /// The first map that has a value which is not finite is copied, too.
    pub(super) fn of(
        ys: &Tensor,
        floors: &[f32],
        cells: &[Vec<(usize, usize)>],
        is_wanted: impl Fn(&Fetched, usize, usize, (f32, f32)) -> bool,
    ) -> anyhow::Result<Fetched> {
        let (n, c, h, w) = ys.dims4()?;
        ensure!(
            n * c * h * w <= u32::MAX as usize,
            "maps {:?} are too large to look at",
            ys.dims()
        );
        let rows = ys.to_dtype(DType::F32)?.contiguous()?.reshape((n * c, h * w))?;
        let mut fetched = Fetched {
            dims: (n, c, h, w),
            ranges: ranges(&rows)?,
            values: BTreeMap::new(),
            maps: BTreeMap::new(),
            above: BTreeMap::new(),
        };

        let own = |(picture, cells): (usize, &Vec<(usize, usize)>)| {
            let one = move |unit, (y, x): (usize, usize)| (picture * c + unit, y * w + x);
            let of = |unit| cells.iter().map(move |&cell| one(unit, cell)).collect::<Vec<_>>();
            (0..c).flat_map(of).collect::<Vec<_>>()
        };
        let places: Vec<(usize, usize)> = cells.iter().enumerate().flat_map(own).collect();
        let flat: Vec<u32> = places.iter().map(|(row, at)| (row * h * w + at) as u32).collect();
        fetched.values = places.into_iter().zip(picked(&rows.flatten_all()?, &flat)?).collect();

        let (mut whole, mut parts, mut part_floors) = (vec![], vec![], vec![]);
        let mut is_sound = true;
        for (row, range) in fetched.ranges.iter().enumerate() {
            let (picture, unit) = (row / c, row % c);
            let Some((least, most)) = *range else {
                if std::mem::take(&mut is_sound) {
                    whole.push(row);
                }
                continue;
            };
            if floors[unit] < least || is_wanted(&fetched, picture, unit, (least, most)) {
                whole.push(row);
            } else if floors[unit] < most {
                parts.push(row);
                part_floors.push(floors[unit]);
            }
        }
        let maps = picked(&rows, &indices(&whole))?;
        fetched.maps = whole.into_iter().zip(maps.chunks(h * w).map(<[f32]>::to_vec)).collect();
        let above = above(&rows, &indices(&parts), part_floors)?;
        fetched.above = parts.into_iter().zip(above).collect();
        Ok(fetched)
    }

    fn row(&self, picture: usize, channel: usize) -> usize {
        picture * self.dims.1 + channel
    }
}

/// What was not copied is not there: a value is `NaN`, a map empty.
impl Maps for Fetched {
    fn dims(&self) -> (usize, usize, usize, usize) {
        self.dims
    }

    fn value(&self, picture: usize, channel: usize, (y, x): (usize, usize)) -> f32 {
        let place = (self.row(picture, channel), y * self.dims.3 + x);
        self.values.get(&place).copied().unwrap_or(f32::NAN)
    }

    fn map(&self, picture: usize, channel: usize) -> Vec<f32> {
        self.maps.get(&self.row(picture, channel)).cloned().unwrap_or_default()
    }

    fn survey(&self, picture: usize, survey: &mut dyn Survey) {
        for channel in 0..self.dims.1 {
            let row = self.row(picture, channel);
            let range = self.ranges[row];
            if let Some(values) = self.maps.get(&row).or_else(|| self.above.get(&row)) {
                survey.above(channel, if range.is_some() { values } else { &[] });
            }
            survey.range(channel, range);
        }
    }
}

fn indices(rows: &[usize]) -> Vec<u32> {
    rows.iter().map(|&row| row as u32).collect()
}

/// The least and the greatest value of each row; nothing where one is NaN or infinite.
fn ranges(rows: &Tensor) -> candle_core::Result<Vec<Option<(f32, f32)>>> {
    // What is not finite is not finite times nothing, either, and spoils the sum. A maximum may overlook it.
    let spoilt = (rows * 0.)?.sum(1)?;
    let ends = Tensor::stack(&[rows.min(1)?, rows.max(1)?, spoilt], 0)?.to_vec2::<f32>()?;
    let range = |row: usize| (ends[2][row] == 0.).then_some((ends[0][row], ends[1][row]));
    Ok((0..ends[0].len()).map(range).collect())
}

/// Some of the values `(n,)`, or of the rows `(n, size)`, one after the other.
fn picked(values: &Tensor, places: &[u32]) -> candle_core::Result<Vec<f32>> {
    if places.is_empty() {
        return Ok(vec![]);
    }
    let places = Tensor::new(places, values.device())?;
    values.index_select(&places, 0)?.flatten_all()?.to_vec1()
}

/// Of some rows, the values above the floor of each.
fn above(rows: &Tensor, some: &[u32], floors: Vec<f32>) -> candle_core::Result<Vec<Vec<f32>>> {
    let mut found = vec![vec![]; some.len()];
    if some.is_empty() {
        return Ok(found);
    }
    let device = rows.device();
    let rows = rows.index_select(&Tensor::new(some, device)?, 0)?;
    let floors = Tensor::from_vec(floors, (some.len(), 1), device)?;
    let bits = rows.broadcast_gt(&floors)?.to_dtype(DType::F32)?.flatten_all()?;
    let n_values = bits.dim(0)?;
    let bits = bits.pad_with_zeros(0, 0, n_values.next_multiple_of(BITS) - n_values)?;
    let worth: Vec<f32> = (0..BITS).map(|bit| (1u32 << bit) as f32).collect();
    let worth = Tensor::from_vec(worth, (1, BITS), device)?;
    let words = bits.reshape(((), BITS))?.broadcast_mul(&worth)?.sum(1)?.to_vec1::<f32>()?;

    let mut places = vec![];
    for (at, word) in words.into_iter().enumerate() {
        let mut word = word as u32;
        while word != 0 {
            places.push(at as u32 * BITS as u32 + word.trailing_zeros());
            word &= word - 1;
        }
    }
    let size = rows.dim(1)?;
    for (place, value) in places.iter().zip(picked(&rows.flatten_all()?, &places)?) {
        found[*place as usize / size].push(value);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::{Config, Gather, PictureKey};
    use super::*;

    /// Maps of few different values where `n_levels` are few, some of them on a plateau at zero.
    fn maps(rng: &mut ChaCha8Rng, shape: (usize, usize, usize, usize), n_levels: u32) -> Tensor {
        let n = shape.0 * shape.1 * shape.2 * shape.3;
        let mut value = || {
            let level = rng.random_range(0..n_levels) as f32 / n_levels as f32;
            (level * 9. - 4.).max(if rng.random_bool(0.5) { 0. } else { -9. })
        };
        let values: Vec<f32> = (0..n).map(|_| value()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Pictures of which every two are near-duplicates.
    fn keys(ids: &[usize]) -> Vec<PictureKey> {
        let key = |&id: &usize| PictureKey { group: id / 2, ..PictureKey::numbered(id) };
        ids.iter().map(key).collect()
    }

    /// The same batches, seen by the engine and as if on another device.
    fn both(config: Config, n_expected: usize) -> [Gather; 2] {
        [(); 2].map(|_| Gather::new("layer1", config, n_expected))
    }

    #[track_caller]
    fn check(seed: u64, config: Config, (c, h, w): (usize, usize, usize), n: usize, n_levels: u32) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let [mut own, mut other] = both(config, n);
        // In any order, since ties are settled by it.
        let mut ids: Vec<usize> = (0..n).map(|it| (it * 7919) % n).collect();
        ids.sort_by_key(|it| it % 3);
        let mut rest = ids.as_slice();
        while !rest.is_empty() {
            let (some, after) = rest.split_at(rng.random_range(1..=rest.len().min(9)));
            let some = &keys(some);
            let ys = maps(&mut rng, (some.len(), c, h, w), n_levels);
            own.add(&ys, some).unwrap();
            other.see_on_device(&ys, some).unwrap();
            rest = after;
        }
        let wanted = own.finish().unwrap();
        assert!(other.finish().unwrap() == wanted, "{seed} {config:?} {c} {h} {w} {n} {n_levels}");
        assert_eq!(wanted.1.is_some(), config.spread.is_some());
    }

    #[test]
    fn what_is_gathered_is_the_same_as_by_the_engine() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for seed in 0..60 {
            let config = Config {
                top_k: rng.random_range(1..8),
                quantile: [0.5, 0.9, 0.99, 0.995][rng.random_range(0..4)],
                spread: rng.random_bool(0.5).then_some(seed),
                max_near_duplicates: rng.random_range(0..3),
            };
            let shape = (rng.random_range(1..40), rng.random_range(1..15), rng.random_range(1..15));
            let n_levels = [1, 2, 9, 1 << 20][rng.random_range(0..4)];
            check(seed, config, shape, rng.random_range(20..90), n_levels);
        }
    }

    /// As long that buckets are kept, and their floor rises.
    #[test]
    fn so_it_is_of_a_long_stream() {
        let config = Config { top_k: 3, quantile: 0.9, spread: Some(2), max_near_duplicates: 1 };
        for n_levels in [30, 1 << 20] {
            check(7, config, (2, 90, 93), 90, n_levels);
        }
    }

    #[test]
    fn what_is_not_finite_is_refused_in_the_same_words() {
        let config = Config { top_k: 3, quantile: 0.9, spread: Some(2), max_near_duplicates: 1 };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            let [mut own, mut other] = both(config, 8);
            let mut values = vec![1.; 4 * 5 * 6];
            // Of the second picture the fourth unit, of the third the second.
            for at in [30 + 3 * 6 + 2, 30 + 3 * 6 + 5, 60 + 6] {
                values[at] = if at == 30 + 3 * 6 + 2 { bad } else { f32::NAN };
            }
            let ys = Tensor::from_vec(values, (4, 5, 2, 3), &Device::Cpu).unwrap();
            let first = maps(&mut rng, (4, 5, 2, 3), 1 << 20);
            own.add(&first, &keys(&[0, 1, 2, 3])).unwrap();
            other.see_on_device(&first, &keys(&[0, 1, 2, 3])).unwrap();
            let wanted = own.add(&ys, &keys(&[4, 5, 6, 7])).unwrap_err().to_string();
            assert!(wanted.contains("layer1:3 is") && wanted.contains("picture 5"), "{wanted}");
            let found = other.see_on_device(&ys, &keys(&[4, 5, 6, 7])).unwrap_err().to_string();
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn only_what_is_asked_for_is_copied() {
        let (n, c, h, w) = (3, 5, 11, 7);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let ys = maps(&mut rng, (n, c, h, w), 1 << 20);
        let cells = [vec![], vec![(2, 3), (10, 6)], vec![]];
        // All of the first unit, nothing of the second, something of the others.
        let floors = [-100., 100., 1., 2., 3.];
        let asked = |maps: &Fetched, picture, unit, (_, highest): (f32, f32)| {
            let there = maps.greatest(picture, unit, &cells[picture]);
            assert_eq!(there.is_some(), picture == 1);
            assert!(there.is_none_or(|it| it <= highest));
            (picture, unit) == (2, 4)
        };
        let fetched = Fetched::of(&ys, &floors, &cells, asked).unwrap();
        assert_eq!(fetched.maps.keys().copied().collect::<Vec<_>>(), [0, c, 2 * c, 2 * c + 4]);
        assert_eq!(fetched.values.len(), 2 * c);
        for (picture, cells) in cells.iter().enumerate() {
            for (unit, &floor) in floors.iter().enumerate() {
                let map = ys.get(picture).unwrap().get(unit).unwrap().flatten_all().unwrap();
                let map = map.to_vec1::<f32>().unwrap();
                let above: Vec<f32> = map.iter().copied().filter(|it| floor < *it).collect();
                let row = picture * c + unit;
                match fetched.maps.get(&row) {
                    Some(found) => assert_eq!(*found, map),
                    None => assert_eq!(fetched.above.get(&row).cloned().unwrap_or_default(), above),
                }
                for &(y, x) in cells {
                    assert_eq!(fetched.value(picture, unit, (y, x)), map[y * w + x]);
                }
            }
        }
    }
}
