//! The quantile of a stream near its top: only the largest values are kept.
//!
//! Of `n` values the `q`-quantile lies among the largest `(1 - q) n`. The least of so many seen so far never
//! falls, so what is not above it is gone for good, and soon that is nearly everything. Up to [`EXACT`] values
//! are kept as they are; of longer streams those that are nearly the same are put together (`buckets`), which puts
//! the quantile's rank off by a part of those that share its bucket. Either way the order in which values come
//! makes no difference.

use super::buckets::Buckets;

/// The most values above the quantile that are kept one by one: about half a mebibyte.
pub const EXACT: usize = 1 << 16;

/// The largest values of a stream of finite values.
#[derive(Debug, Clone)]
pub struct Tail {
    /// How many of the largest are wanted.
    keep: usize,
    kept: Kept,
    /// Not above it is anything that is still wanted.
    floor: f32,
    count: u64,
    range: Option<(f32, f32)>,
}

#[derive(Debug, Clone)]
enum Kept {
    /// At least the largest `keep` so far, at most twice as many.
    Values(Vec<f32>),
    Buckets(Buckets),
}

impl Tail {
    /// For the `q`-quantile of at most `n` values.
    pub fn new(n: u64, q: f64) -> Tail {
        // Two more: the neighbour from below, and what rounding may move.
        let keep = ((1. - q) * n as f64).ceil() as usize + 2;
        let kept = match keep <= EXACT {
            true => Kept::Values(vec![]),
            false => Kept::Buckets(Buckets::default()),
        };
        Tail { keep, kept, floor: f32::NEG_INFINITY, count: 0, range: None }
    }

    /// Values that are not above it need not be [shown](Tail::extend).
    pub fn floor(&self) -> f32 {
        self.floor
    }

    /// Takes in those of some values that are above the floor.
    pub fn extend(&mut self, values: &[f32]) {
        /// So many may be held beyond what is meant.
        const PART: usize = 64;
        for values in values.chunks(PART) {
            let floor = self.floor;
            let above = values.iter().copied().filter(|it| floor < *it);
            match &mut self.kept {
                Kept::Values(values) => {
                    values.extend(above);
                    if 2 * self.keep <= values.len() {
                        values.select_nth_unstable_by(self.keep - 1, |a, b| b.total_cmp(a));
                        values.truncate(self.keep);
                        // One as large as the least is no better than it, and there are enough.
                        self.floor = values[self.keep - 1];
                    }
                }
                Kept::Buckets(buckets) => {
                    above.for_each(|it| buckets.add(it));
                    self.floor = self.floor.max(buckets.keep(self.keep as u64));
                }
            }
        }
    }

    /// Counts `n` values of that range, whether they were shown or not.
    pub fn count(&mut self, n: usize, (low, high): (f32, f32)) {
        self.count += n as u64;
        let (least, most) = self.range.unwrap_or((low, high));
        self.range = Some((least.min(low), most.max(high)));
    }

    /// Takes in all that `other`, made for the same stream, saw.
    pub fn merge(&mut self, other: Tail) {
        if let Some(range) = other.range {
            self.count(0, range);
            self.count += other.count;
        }
        match (&mut self.kept, other.kept) {
            // Those on the other's floor are among its largest still.
            (_, Kept::Values(values)) => self.extend(&values),
            (Kept::Buckets(mine), Kept::Buckets(others)) => {
                mine.merge(&others);
                self.floor = self.floor.max(mine.keep(self.keep as u64));
            }
            (Kept::Values(_), Kept::Buckets(_)) => {}
        }
        self.floor = self.floor.max(other.floor);
    }

    /// The smallest and the largest value.
    pub fn range(&self) -> Option<(f32, f32)> {
        self.range
    }

    /// The `q`-quantile. Nothing where it lies below what was kept.
    ///
    /// The i-th smallest value lies at the middle of its weight, `(i − 0.5) / n` (Hazen's rule), the minimum at 0
    /// and the maximum at 1, with straight lines between, as netdissect's `RunningQuantile`.
    pub fn quantile(&mut self, q: f64) -> Option<f32> {
        let (low, high) = self.range?;
        let (low, high, n) = (f64::from(low), f64::from(high), self.count as f64);
        // The place of the quantile among all values in order, and from above.
        let place = (q * n - 0.5).clamp(0., n - 1.);
        let from_above = (n - 1. - place.floor()) as usize;
        let left = self.largest(from_above)?;
        let share = q * n - 0.5 - place.floor();
        if share < 0. {
            return Some((low + (left - low) * (q * n / 0.5)) as f32);
        }
        // Beyond the middle of the largest value lies the range's end.
        let right = from_above.checked_sub(1).map_or(Some(high), |it| self.largest(it))?;
        Some((left + (right - left) * share) as f32)
    }

    /// The memory held by the values, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.kept {
            Kept::Values(values) => values.capacity() * size_of::<f32>(),
            Kept::Buckets(buckets) => buckets.bytes(),
        }
    }

    /// The value that has so many above it.
    fn largest(&mut self, at: usize) -> Option<f64> {
        match &mut self.kept {
            Kept::Values(values) if values.len() <= at => None,
            Kept::Values(values) => {
                let (_, value, _) = values.select_nth_unstable_by(at, |a, b| b.total_cmp(a));
                Some(f64::from(*value))
            }
            Kept::Buckets(buckets) => buckets.largest(at as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `(values, tail)` sees them, a part at a time.
    fn tail(values: &[f32], n: usize, q: f64) -> Tail {
        let mut tail = Tail::new(n as u64, q);
        for part in values.chunks(101) {
            tail.extend(part);
            part.iter().for_each(|&it| tail.count(1, (it, it)));
        }
        tail
    }

    /// Hazen's rule on all values.
    fn exact(values: &[f32], q: f64) -> f32 {
        let mut sorted: Vec<f64> = values.iter().copied().map(f64::from).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let n = sorted.len();
        let place = q * n as f64 - 0.5;
        if place < 0. {
            return (sorted[0]) as f32;
        }
        let at = (place as usize).min(n - 1);
        let next = sorted[(at + 1).min(n - 1)];
        (sorted[at] + (next - sorted[at]) * (place - at as f64)) as f32
    }

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + i * i) % 1009) as f32 / 16. - 20.).collect()
    }

    fn orders(values: &[f32]) -> [Vec<f32>; 3] {
        let (mut rising, mut falling) = (values.to_vec(), values.to_vec());
        rising.sort_unstable_by(f32::total_cmp);
        falling.sort_unstable_by(|a, b| b.total_cmp(a));
        [values.to_vec(), rising, falling]
    }

    #[test]
    fn it_is_the_quantile_of_all_values_in_any_order_and_in_parts() {
        for n in [1, 2, 5, 99, 100, 101, 8000] {
            for all in orders(&values(n)) {
                for q in [0.5, 0.9, 0.99, 0.995] {
                    let mut whole = tail(&all, n, q);
                    let (low, high) = whole.range().unwrap();
                    assert!(all.iter().all(|it| (low..=high).contains(it)));
                    assert!(whole.bytes() <= (4 * whole.keep + 128) * 4);
                    assert_eq!(whole.quantile(q), Some(exact(&all, q)), "{n} {q}");
                    let mut one = tail(&all[..n / 3], n, q);
                    one.merge(tail(&all[n / 3..], n, q));
                    assert_eq!(one.quantile(q), Some(exact(&all, q)), "{n} {q} merged");
                }
            }
        }
    }

    /// A stream as long as those of which buckets are kept, of which only the start comes.
    #[test]
    fn of_long_streams_the_rank_is_right_whatever_the_order() {
        let (n, q) = (200_000, 0.5);
        let uniform = |i: usize| ((i * 7919 + i * i) % 1_000_003) as f32 / 1_000_003.;
        let even: Vec<f32> = (0..n).map(uniform).collect();
        let of = |f: fn(f32) -> f32| even.iter().copied().map(f).collect::<Vec<f32>>();
        for (kind, all) in [
            ("even", even.clone()),
            ("wide", of(|it| (it * 12. - 6.).exp())),
            ("below zero", of(|it| it - 3.)),
            ("on a plateau", of(|it| if it < 0.45 { it } else { 6.013 })),
            ("mostly zero", of(|it| (it - 0.7).max(-0.))),
        ] {
            let found = orders(&all).map(|it| tail(&it, n, q).quantile(q).unwrap());
            assert_eq!([found[0]; 3], found, "{kind}");
            let mut parts = tail(&all[n / 3..], n, q);
            parts.merge(tail(&all[..n / 3], n, q));
            assert_eq!(parts.quantile(q), Some(found[0]), "{kind} merged");
            let (below, same) = (
                all.iter().filter(|it| **it < found[0]).count() as f64 / n as f64,
                all.iter().filter(|it| **it == found[0]).count() as f64 / n as f64,
            );
            assert!(below <= q + 5e-4 && q - 5e-4 <= below + same, "{kind}: {below} {same}");
        }
    }

    #[test]
    fn a_quantile_below_what_was_kept_is_unknown() {
        for n in [1000, 10_000_000] {
            let mut some = tail(&values(1000), n, 0.99);
            if n == 10_000_000 {
                some.extend(&values(300_000));
                some.count(n - 1000, (0., 0.));
            }
            assert!(some.clone().quantile(0.99).is_some() && some.quantile(0.5).is_none());
        }
        assert_eq!(Tail::new(100, 0.99).quantile(0.99), None);
    }

    #[test]
    fn buckets_stay_few() {
        let mut tail = Tail::new(1 << 30, 0.99);
        for i in 0..3_000_000u64 {
            tail.extend(&[((i * 7919) % 1_000_003) as f32]);
        }
        assert!(tail.bytes() <= 1 << 19, "{}", tail.bytes());
    }
}
