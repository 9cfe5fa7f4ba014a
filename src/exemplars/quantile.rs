//! Running quantiles in bounded memory: the sketch of Karnin, Lang and Liberty 2016 (KLL).
//!
//! Values wait in levels; one in level `h` stands for `2^h` of those seen. A full level is sorted,
//! and every second value of it moves up. Three things differ from the paper's pseudocode. The
//! coin that chooses odd or even is a hash of the level and of how often it was thrown, so the same
//! values in the same order give the same answer; every second throw is the opposite of the one
//! before, which cancels part of the error (Ivkin et al. 2019). And the paper's sampler in front of
//! the levels starts once `SAMPLED` values were seen: then one value of each block of `2^s` enters.

use std::iter;

/// Nothing is forgotten up to this many values; the highest level holds as many.
pub const EXACT: usize = 8192;

/// At most about this many values enter the levels while the stream doubles once more. A sample of
/// this size moves the rank of the median by 2e-4 (one standard deviation), of the 0.99 quantile by 4e-5.
const SAMPLED: u64 = 1 << 22;

/// Each level holds this share of the one above it, but at least [`SMALLEST`] values.
const DECAY: f64 = 0.67;
const SMALLEST: usize = 128;

/// A summary of a stream of finite values, from which any quantile can be read.
#[derive(Debug, Clone)]
pub struct Sketch {
    levels: Vec<Level>,
    /// One value in `2^rate` enters the levels, at level `rate`.
    rate: usize,
    block: Block,
    count: u64,
    low: Key,
    high: Key,
}

/// Values that each stand for equally many, as [`key`]s.
#[derive(Debug, Clone, Default)]
struct Level {
    keys: Vec<Key>,
    throws: u64,
}

/// The block of values of which one will enter.
#[derive(Debug, Clone, Default)]
struct Block {
    number: u64,
    seen: usize,
    /// The place in the block of the value to keep.
    pick: usize,
    kept: f32,
}

/// The bits of a float, changed so that they order as the float does.
type Key = u32;

impl Default for Sketch {
    fn default() -> Sketch {
        Sketch {
            levels: vec![Level::default()],
            rate: 0,
            block: Block::default(),
            count: 0,
            low: Key::MAX,
            high: 0,
        }
    }
}

impl Sketch {
    /// Takes all values in and gives the largest; takes none and gives nothing where one of them
    /// is NaN or infinite, or there is none.
    pub fn extend(&mut self, values: &[f32]) -> Option<f32> {
        // NaNs have keys beyond the infinities, so the ends of the range tell.
        let (low, high) = values
            .iter()
            .map(|&value| key(value))
            .fold((Key::MAX, 0), |(low, high), key| (low.min(key), high.max(key)));
        let (least, most) = (key(f32::NEG_INFINITY), key(f32::INFINITY));
        if values.is_empty() || low <= least || high >= most {
            return None;
        }
        while self.count >= SAMPLED << self.rate {
            self.halve_rate();
        }
        self.low = self.low.min(low);
        self.high = self.high.max(high);
        self.count += values.len() as u64;
        if self.rate == 0 {
            self.enter(values);
        } else {
            let sampled = self.block.sample(values, self.rate);
            self.enter(&sampled);
        }
        Some(value(high))
    }

    /// Takes in all that `other` saw.
    pub fn merge(&mut self, mut other: Sketch) {
        self.end_block();
        other.end_block();
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
        self.count += other.count;
        self.rate = self.rate.max(other.rate);
        self.reach(other.levels.len() - 1);
        for (mine, theirs) in iter::zip(&mut self.levels, other.levels) {
            mine.keys.extend(theirs.keys);
            mine.throws += theirs.throws;
        }
        let over = |sketch: &Sketch| {
            (0..sketch.levels.len()).find(|&h| sketch.levels[h].keys.len() > sketch.capacity(h))
        };
        while let Some(h) = over(self) {
            self.compact(h);
        }
    }

    /// How many values were seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The exact smallest and largest value.
    pub fn range(&self) -> Option<(f32, f32)> {
        (self.count > 0).then(|| (value(self.low), value(self.high)))
    }

    /// The `q`-quantile, `0..=1`: exact up to [`EXACT`] values, beyond that of a rank within 1e-3.
    ///
    /// The i-th smallest value lies at the middle of its weight, `(i − 0.5) / n` (Hazen's rule), the
    /// minimum at 0 and the maximum at 1, with straight lines between, as netdissect's `RunningQuantile`.
    pub fn quantile(&self, q: f64) -> Option<f32> {
        let (low, high) = self.range()?;
        let levels = self.levels.iter().enumerate();
        let mut held: Vec<(Key, u64)> = levels
            .flat_map(|(h, level)| level.keys.iter().map(move |&key| (key, 1 << h)))
            .chain((self.block.seen > 0).then_some((key(self.block.kept), self.block.seen as u64)))
            .collect();
        held.sort_unstable();
        let total: u64 = held.iter().map(|&(_, weight)| weight).sum();

        let (mut left, mut below) = ((0.0, low), 0);
        for (key, weight) in held {
            let middle = (below as f64 + weight as f64 / 2.0) / total as f64;
            if middle >= q {
                return Some(between(left, (middle, value(key)), q));
            }
            left = (middle, value(key));
            below += weight;
        }
        Some(between(left, (1.0, high), q))
    }

    /// The memory held by the values, in bytes: at most 4 x 26,096.
    pub fn bytes(&self) -> usize {
        self.levels.iter().map(|level| level.keys.capacity() * size_of::<Key>()).sum()
    }

    /// How many values level `h` may hold: the highest most, those below it less and less.
    fn capacity(&self, h: usize) -> usize {
        let depth = (self.levels.len() - 1).saturating_sub(h);
        let share = EXACT as f64 * DECAY.powi(depth as i32);
        (share.ceil() as usize).next_multiple_of(8).max(SMALLEST)
    }

    /// Puts values into the level that the rate asks for, making room as often as it is full.
    fn enter(&mut self, mut values: &[f32]) {
        let h = self.rate;
        self.reach(h);
        while !values.is_empty() {
            let room = self.capacity(h).saturating_sub(self.levels[h].keys.len());
            let (now, later) = values.split_at(room.min(values.len()));
            self.levels[h].keys.extend(now.iter().map(|&value| key(value)));
            if !later.is_empty() {
                self.compact(h);
            }
            values = later;
        }
    }

    /// From now on only every second of the values that entered so far enters.
    fn halve_rate(&mut self) {
        self.end_block();
        // What waits below the new rate would wait for ever.
        self.compact(self.rate);
        self.rate += 1;
    }

    /// Spreads an unfinished block over the levels by the binary digits of its size.
    fn end_block(&mut self) {
        for h in 0..self.rate {
            if self.block.seen >> h & 1 == 1 {
                self.reach(h);
                self.levels[h].keys.push(key(self.block.kept));
            }
        }
        self.block.seen = 0;
    }

    /// Moves every second value of a level up, where each stands for two.
    fn compact(&mut self, h: usize) {
        self.reach(h + 1);
        let half = self.levels[h].keys.len() / 2;
        let above = self.levels[h + 1].keys.len();
        if above > 1 && above + half > self.capacity(h + 1) {
            self.compact(h + 1);
        }
        let capacity = self.capacity(h);
        let Level { mut keys, throws } = std::mem::take(&mut self.levels[h]);
        if h == self.rate {
            keys.sort_unstable();
        } else {
            keys.sort(); // It is a few sorted runs, which the stable sort merges.
        }
        let odd = if keys.len() % 2 == 1 { keys.pop() } else { None };
        let coin = (hash((h as u64) << 48 | throws >> 1) & 1) ^ (throws & 1);
        let room = self.capacity(h + 1);
        let target = &mut self.levels[h + 1].keys;
        target.reserve_exact(room.max(target.len() + half) - target.len());
        target.extend(keys.iter().skip(coin as usize).step_by(2));
        keys.clear();
        keys.shrink_to(capacity);
        keys.extend(odd);
        self.levels[h] = Level { keys, throws: throws + 1 };
    }

    /// Makes sure that there is a level `h`; those below a new one may hold less than before.
    fn reach(&mut self, h: usize) {
        if self.levels.len() <= h {
            self.levels.resize(h + 1, Level::default());
            for h in 0..h {
                let capacity = self.capacity(h);
                self.levels[h].keys.shrink_to(capacity);
            }
        }
    }
}

impl Block {
    /// One value of each block of `2^rate` that ends in `values`.
    fn sample(&mut self, mut values: &[f32], rate: usize) -> Vec<f32> {
        let size = 1 << rate;
        let mut sampled = Vec::with_capacity((values.len() >> rate) + 1);
        while let Some(&first) = values.first() {
            if self.seen == 0 {
                self.number += 1;
                self.pick = (hash(self.number) >> (64 - rate)) as usize;
                self.kept = first; // It stands for the block should the stream end before the pick.
            }
            let taken = values.len().min(size - self.seen);
            if let Some(&picked) = values[..taken].get(self.pick.wrapping_sub(self.seen)) {
                self.kept = picked;
            }
            self.seen += taken;
            values = &values[taken..];
            if self.seen == size {
                self.seen = 0;
                sampled.push(self.kept);
            }
        }
        sampled
    }
}

fn between((x0, y0): (f64, f32), (x1, y1): (f64, f32), x: f64) -> f32 {
    if x1 <= x0 {
        return y1;
    }
    let (low, high) = (f64::from(y0), f64::from(y1));
    (low + (high - low) * ((x - x0) / (x1 - x0)).clamp(0.0, 1.0)) as f32
}

/// Keeps the order of floats in integers: a negative float has all bits turned, others the sign bit.
fn key(value: f32) -> Key {
    let bits = value.to_bits();
    bits ^ ((bits as i32 >> 31) as u32 | 1 << 31)
}

fn value(key: Key) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key ^ 1 << 31 } else { !key })
}

/// The finaliser of SplitMix64 (Steele et al. 2014): 64 well-mixed bits.
fn hash(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest distance of the sketch's quantiles from a rank they may have, over many `q`.
    fn rank_error(sketch: &Sketch, values: &[f32]) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f32::total_cmp);
        let n = values.len() as f64;
        let error = |q: f64| {
            let found = sketch.quantile(q).unwrap();
            let below = sorted.partition_point(|&value| value < found) as f64 / n;
            let up_to = sorted.partition_point(|&value| value <= found) as f64 / n;
            // A quantile between two values has the rank of their gap: half a value either way.
            (below - q).max(q - up_to).max(0.0)
        };
        (1..200).map(|i| f64::from(i) / 200.0).chain([0.999]).map(error).fold(0.0, f64::max)
    }

    #[track_caller]
    fn check(values: &[f32], chunk: usize) {
        let mut sketch = Sketch::default();
        for values in values.chunks(chunk) {
            let most = values.iter().copied().reduce(f32::max);
            assert_eq!(sketch.extend(values), most);
        }
        let error = rank_error(&sketch, values);
        assert!(error <= 1e-3, "{error}");
        assert!(sketch.bytes() <= 4 * 26_096, "{} bytes", sketch.bytes());
        assert_eq!(sketch.count(), values.len() as u64);

        let halves = values.split_at(values.len() / 3);
        let mut merged = Sketch::default();
        let mut rest = Sketch::default();
        merged.extend(halves.0);
        rest.extend(halves.1);
        merged.merge(rest);
        let error = rank_error(&merged, values);
        assert!(error <= 1e-3, "{error} when merged");
        assert!(merged.bytes() <= 4 * 26_096, "{} bytes when merged", merged.bytes());
        assert_eq!(merged.range(), sketch.range());
    }

    /// `n` evenly spread values in `0..1`, in no order.
    fn uniform(n: usize) -> Vec<f32> {
        (0..n as u64).map(|i| (hash(i) >> 40) as f32 / (1 << 24) as f32).collect()
    }

    /// Nearly normal values: the sum of twelve uniform ones, less six.
    fn normal(n: usize) -> Vec<f32> {
        uniform(12 * n).chunks(12).map(|twelve| twelve.iter().sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn uniform_values() {
        check(&uniform(300_000), 12_544);
        check(&uniform(300_000), 49);
    }

    #[test]
    fn normal_values() {
        check(&normal(300_000), 3_136);
    }

    #[test]
    fn sorted_values() {
        let mut values = uniform(300_000);
        values.sort_unstable_by(f32::total_cmp);
        check(&values, 784);
        values.reverse();
        check(&values, 784);
    }

    #[test]
    fn many_ties() {
        let relu: Vec<f32> = normal(300_000).iter().map(|value| value.max(0.0)).collect();
        check(&relu, 12_544);
        let relu6: Vec<f32> = relu.iter().map(|value| (value * 5.0).min(6.0)).collect();
        check(&relu6, 12_544);
    }

    #[test]
    fn tiny_noise_on_a_large_offset() {
        let values: Vec<f32> = normal(300_000).iter().map(|value| 1e4 + value * 1e-2).collect();
        check(&values, 3_136);
    }

    /// Pictures that differ in turn are what a strict alternation of odd and even would fall for.
    #[test]
    fn alternating_pictures() {
        let mut values = uniform(300_000);
        for picture in values.chunks_mut(512).step_by(2) {
            picture.iter_mut().for_each(|value| *value *= 3.0);
        }
        check(&values, 512);
    }

    #[test]
    fn ten_million_values() {
        check(&uniform(10_000_000), 12_544);
    }

    #[test]
    fn few_values_are_exact_by_hazens_rule() {
        let mut sketch = Sketch::default();
        sketch.extend(&[4.0, 1.0, 3.0, 2.0]);
        for (q, wanted) in
            [(0.0, 1.0), (0.1, 1.0), (0.25, 1.5), (0.5, 2.5), (0.75, 3.5), (0.9, 4.0), (1.0, 4.0)]
        {
            assert_eq!(sketch.quantile(q), Some(wanted), "{q}");
        }
        let values = uniform(EXACT);
        let mut sketch = Sketch::default();
        values.chunks(49).for_each(|values| assert!(sketch.extend(values).is_some()));
        let mut sorted = values.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let at = 0.99 * EXACT as f64 - 0.5;
        let (low, high) = (sorted[at as usize], sorted[at as usize + 1]);
        let wanted = f64::from(low) + f64::from(high - low) * at.fract();
        assert!((f64::from(sketch.quantile(0.99).unwrap()) - wanted).abs() < 1e-7);
    }

    #[test]
    fn an_empty_sketch_has_no_quantile() {
        let mut sketch = Sketch::default();
        assert_eq!((sketch.quantile(0.5), sketch.range()), (None, None));
        assert_eq!(sketch.extend(&[]), None);
        sketch.merge(Sketch::default());
        assert_eq!(sketch.count(), 0);
    }

    #[test]
    fn what_is_not_finite_is_refused_and_leaves_no_trace() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut sketch = Sketch::default();
            assert_eq!(sketch.extend(&[1.0, bad, 2.0]), None);
            assert_eq!(sketch.count(), 0);
        }
    }

    #[test]
    fn keys_keep_the_order_of_floats() {
        let floats = [f32::MIN, -1.5, -1e-40, -0.0, 0.0, 1e-40, 1.5, f32::MAX];
        assert!(floats.map(key).is_sorted());
        assert_eq!(floats.map(|float| value(key(float))), floats);
    }
}
