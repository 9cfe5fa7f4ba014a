//! A quantile of a stream in little memory: the sketch of Karnin, Lang and Liberty 2016
//! (<https://arxiv.org/abs/1603.05346>), made deterministic.
//!
//! Values are kept in levels; one of level `l` stands for `2^l` values. A full level is sorted and every
//! other value of it moves up. Which of the two halves moves alternates from one time to the next, where
//! the paper throws a coin: errors of consecutive compactions cancel, and the same stream always gives
//! the same answer. Up to [`EXACT`] values nothing is thrown away.

/// Values that the sketch holds before it approximates.
pub const EXACT: usize = 8192;
/// Each level below the top holds so much of the one above.
const SHRINK: f64 = 0.67;
const SMALLEST: usize = 128;

/// A sketch of one unit's values.
#[derive(Debug, Clone)]
pub struct Sketch {
    /// From weight 1 upwards. The last level is the largest.
    levels: Vec<Level>,
    n: u64,
    min: f32,
    max: f32,
}

#[derive(Debug, Clone, Default)]
struct Level {
    values: Vec<f32>,
    /// Which half moves up at the next compaction.
    odd: bool,
}

impl Default for Sketch {
    fn default() -> Sketch {
        Sketch { levels: vec![Level::default()], n: 0, min: f32::INFINITY, max: f32::NEG_INFINITY }
    }
}

impl Sketch {
    /// Adds values; none may be NaN.
    pub fn extend(&mut self, mut values: &[f32]) {
        self.n += values.len() as u64;
        for &value in values {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        }
        while !values.is_empty() {
            let capacity = self.capacity(0);
            let room = capacity.saturating_sub(self.levels[0].values.len()).min(values.len());
            let (now, later) = values.split_at(room);
            self.levels[0].values.extend_from_slice(now);
            values = later;
            if capacity <= self.levels[0].values.len() {
                self.compact();
            }
        }
    }

    /// Adds all that another sketch has seen.
    pub fn merge(&mut self, other: Sketch) {
        self.n += other.n;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        while self.levels.len() < other.levels.len() {
            self.levels.push(Level::default());
        }
        for (mine, theirs) in self.levels.iter_mut().zip(other.levels) {
            mine.values.extend(theirs.values);
        }
        self.compact();
    }

    /// The number of values seen.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The least and the greatest value seen, exactly.
    pub fn range(&self) -> (f32, f32) {
        (self.min, self.max)
    }

    /// Bytes that the kept values take.
    pub fn n_bytes(&self) -> usize {
        self.levels.iter().map(|level| level.values.capacity() * size_of::<f32>()).sum()
    }

    /// The value below which the share `q`, 0..=1, lies. `None` before the first value.
    ///
    /// As the reference reads it out: a kept value stands in the middle of the weight that it carries,
    /// least and greatest stand at 0 and 1, and in between the value is interpolated. With all values
    /// kept this is Hazen's definition, `(i − ½) / n`.
    pub fn quantile(&self, q: f64) -> Option<f32> {
        let mut weighted: Vec<(f32, f64)> = Vec::new();
        for (level, weight) in
            self.levels.iter().zip(std::iter::successors(Some(1f64), |w| Some(2. * w)))
        {
            weighted.extend(level.values.iter().map(|&value| (value, weight)));
        }
        weighted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let (mut before, mut last) = (0f64, (0f64, self.min));
        for (value, weight) in weighted {
            let here = ((before + weight / 2.) / total, value);
            if q <= here.0 {
                return Some(between(last, here, q));
            }
            before += weight;
            last = here;
        }
        (0 < self.n).then(|| between(last, (1., self.max), q))
    }

    /// So many values a level holds: the top one [`EXACT`], each lower one a third less.
    fn capacity(&self, level: usize) -> usize {
        let below_top = self.levels.len() - 1 - level;
        let capacity = (EXACT as f64 * SHRINK.powi(below_top as i32)).ceil() as usize;
        capacity.next_multiple_of(2).max(SMALLEST)
    }

    /// Moves half of every full level up until none is full.
    fn compact(&mut self) {
        let mut at = 0;
        while at < self.levels.len() {
            if self.levels[at].values.len() < self.capacity(at) {
                at += 1;
                continue;
            }
            if at + 1 == self.levels.len() {
                self.levels.push(Level::default());
                // One level more makes the lower ones smaller.
                at = 0;
                continue;
            }
            let capacity = self.capacity(at);
            let level = &mut self.levels[at];
            level.values.sort_unstable_by(f32::total_cmp);
            // An odd one out stays, so that every weight is accounted for.
            let left = if level.values.len() % 2 == 1 { level.values.pop() } else { None };
            let half: Vec<f32> =
                level.values.iter().skip(usize::from(level.odd)).step_by(2).copied().collect();
            level.odd = !level.odd;
            level.values.clear();
            // A level that was the top once keeps no more room than it needs now.
            level.values.shrink_to(capacity);
            level.values.extend(left);
            self.levels[at + 1].values.reserve_exact(half.len());
            self.levels[at + 1].values.extend(half);
            at += 1;
        }
    }
}

fn between((x0, y0): (f64, f32), (x1, y1): (f64, f32), x: f64) -> f32 {
    if x1 <= x0 {
        return y1;
    }
    let share = (x - x0) / (x1 - x0);
    (f64::from(y0) + share * (f64::from(y1) - f64::from(y0))) as f32
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn sketch(values: &[f32]) -> Sketch {
        let mut sketch = Sketch::default();
        values.chunks(3136).for_each(|values| sketch.extend(values));
        sketch
    }

    /// How far, in rank, the sketch's answer lies from the share that was asked for.
    fn rank_error(values: &[f32], sketch: &Sketch, q: f64) -> f64 {
        let found = sketch.quantile(q).unwrap();
        let share = |n: usize| n as f64 / values.len() as f64;
        let below = share(values.iter().filter(|&&value| value < found).count());
        let up_to = share(values.iter().filter(|&&value| value <= found).count());
        if q < below { below - q } else { (q - up_to).max(0.) }
    }

    #[track_caller]
    fn check(values: &[f32]) {
        let whole = sketch(values);
        let (first, second) = values.split_at(values.len() / 3);
        let mut merged = sketch(first);
        merged.merge(sketch(second));
        assert_eq!((whole.n(), whole.range()), (merged.n(), merged.range()));
        for sketch in [&whole, &merged] {
            for q in [0.01, 0.5, 0.9, 0.99, 0.995] {
                let error = rank_error(values, sketch, q);
                assert!(error <= 1e-3, "at {q}: {error}");
            }
            assert!(sketch.n_bytes() <= 160 << 10, "{} bytes", sketch.n_bytes());
        }
    }

    #[test]
    fn few_values_are_exact() {
        // Hazen: the four values stand at 1/8, 3/8, 5/8, 7/8.
        let sketch = sketch(&[3., 1., 2., 4.]);
        let found = [0., 0.125, 0.25, 0.5, 0.875, 1.].map(|q| sketch.quantile(q).unwrap());
        assert_eq!(found, [1., 1., 1.5, 2.5, 4., 4.]);
        assert_eq!(Sketch::default().quantile(0.5), None);
    }

    #[test]
    fn the_rank_is_right_to_a_thousandth_whatever_comes() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let n = 1_000_000;
        let uniform: Vec<f32> = (0..n).map(|_| rng.random()).collect();
        let bell: Vec<f32> =
            (0..n).map(|_| (0..6).map(|_| rng.random_range(-1f32..1.)).sum()).collect();
        let rectified: Vec<f32> = bell.iter().map(|value| value.clamp(0., 1.5)).collect();
        let offset: Vec<f32> = bell.iter().map(|value| 100. + value / 100.).collect();
        let mut ascending = uniform.clone();
        ascending.sort_unstable_by(f32::total_cmp);
        let descending: Vec<f32> = ascending.iter().rev().copied().collect();
        let blocks: Vec<f32> =
            (0..n).map(|i| ((i / 50_000) * 7 % 20) as f32 + uniform[i]).collect();
        for values in [uniform, bell, rectified, offset, ascending, descending, blocks] {
            check(&values);
        }
    }

    #[test]
    fn ten_million_values_stay_small_and_right() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let values: Vec<f32> = (0..10_000_000).map(|_| rng.random::<f32>().powi(8)).collect();
        check(&values);
    }

    #[test]
    fn the_same_stream_gives_the_same_answer() {
        let values: Vec<f32> =
            (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32).collect();
        assert_eq!(sketch(&values).quantile(0.99), sketch(&values).quantile(0.99));
    }
}
