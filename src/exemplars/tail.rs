//! An exact quantile near the top of a stream whose length is known: only its largest values are kept.
//!
//! Of `n` values the `q`-quantile lies among the largest `(1 - q) n`. The least of so many seen so far never
//! falls, so what is not above it is gone for good, and soon that is nearly everything.

use crate::model::engine::finite_range;

/// The largest values of a stream of finite values.
#[derive(Debug, Clone)]
pub struct Tail {
    /// How many values are wanted.
    keep: usize,
    /// At least the largest `keep` so far, at most twice as many.
    values: Vec<f32>,
    /// Not above it is anything that is still wanted.
    floor: f32,
    count: u64,
    range: Option<(f32, f32)>,
}

impl Tail {
    /// For the `q`-quantile of at most `n` values.
    pub fn new(n: u64, q: f64) -> Tail {
        Tail { keep: kept(n, q), values: vec![], floor: f32::NEG_INFINITY, count: 0, range: None }
    }

    /// Takes all values in and gives the largest; takes none and gives nothing where one of them
    /// is NaN or infinite, or there is none.
    pub fn extend(&mut self, values: &[f32]) -> Option<f32> {
        let (low, high) = finite_range(values)?;
        self.widen((low, high));
        self.count += values.len() as u64;
        if self.floor < high {
            self.enter(values);
        }
        Some(high)
    }

    /// Takes in all that `other` saw.
    pub fn merge(&mut self, other: &Tail) {
        if let Some(range) = other.range {
            self.widen(range);
        }
        self.count += other.count;
        // Those on the other's floor are among its largest still.
        self.enter(&other.values);
        self.floor = self.floor.max(other.floor);
    }

    /// How many values were seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The smallest and the largest value.
    pub fn range(&self) -> Option<(f32, f32)> {
        self.range
    }

    /// The `q`-quantile by Hazen's rule, as [`Sketch::quantile`](super::quantile::Sketch::quantile). Nothing where
    /// it lies below what was kept.
    pub fn quantile(&self, q: f64) -> Option<f32> {
        let (low, high) = self.range?;
        let mut values = self.values.clone();
        values.sort_unstable_by(|a, b| b.total_cmp(a));
        let n = self.count as f64;
        // The place of the quantile among all values in order, and from above.
        let place = (q * n - 0.5).clamp(0., n - 1.);
        let from_above = (n - 1. - place.floor()) as usize;
        // Beyond the middles of the outermost values lie the range's ends.
        let left = f64::from(*values.get(from_above)?);
        let right = f64::from(from_above.checked_sub(1).map_or(high, |it| values[it]));
        let share = q * n - 0.5 - place.floor();
        if share < 0. {
            return Some((f64::from(low) + (left - f64::from(low)) * (q * n / 0.5)) as f32);
        }
        Some((left + (right - left) * share) as f32)
    }

    /// The memory held by the values, in bytes.
    pub fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<f32>()
    }

    fn widen(&mut self, (low, high): (f32, f32)) {
        let (least, most) = self.range.unwrap_or((low, high));
        self.range = Some((least.min(low), most.max(high)));
    }

    fn enter(&mut self, values: &[f32]) {
        /// Values of which most often none is wanted.
        const PART: usize = 16;
        for part in values.chunks(PART) {
            let most = part.iter().fold(f32::NEG_INFINITY, |a, &b| if a < b { b } else { a });
            if self.floor < most {
                let floor = self.floor;
                self.values.extend(part.iter().copied().filter(|it| floor < *it));
                if 2 * self.keep <= self.values.len() {
                    self.drop_small();
                }
            }
        }
    }

    fn drop_small(&mut self) {
        let keep = self.keep;
        self.values.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a));
        self.values.truncate(keep);
        // One as large as the least is no better than it, and there are enough.
        self.floor = self.values[keep - 1];
    }
}

/// How many of the largest of `n` values are kept for the `q`-quantile, one more than its neighbours.
pub fn kept(n: u64, q: f64) -> usize {
    (n as f64 * (1. - q)).ceil() as usize + 2
}

#[cfg(test)]
mod tests {
    use super::super::quantile::Sketch;
    use super::*;

    /// Values with many ties.
    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + i * i) % 1009) as f32 / 16. - 20.).collect()
    }

    #[test]
    fn it_is_the_quantile_of_all_values_in_any_order() {
        for n in [1, 2, 5, 99, 100, 101, 8000] {
            for order in 0..3 {
                let mut all = values(n);
                match order {
                    0 => {}
                    1 => all.sort_unstable_by(f32::total_cmp),
                    _ => all.sort_unstable_by(|a, b| b.total_cmp(a)),
                }
                for q in [0.5, 0.9, 0.99, 0.995] {
                    let mut whole = Sketch::default();
                    whole.extend(&all);
                    let mut tail = Tail::new(n as u64, q);
                    for part in all.chunks(49) {
                        let most = part.iter().copied().reduce(f32::max);
                        assert_eq!(tail.extend(part), most);
                    }
                    assert_eq!(tail.quantile(q), whole.quantile(q), "{n} {q}");
                    assert_eq!((tail.count(), tail.range()), (n as u64, whole.range()));
                    assert!(tail.values.len() <= 2 * tail.keep + 16);

                    let (mut one, mut two) = (Tail::new(n as u64, q), Tail::new(n as u64, q));
                    let (a, b) = all.split_at(n / 3);
                    one.extend(a);
                    two.extend(b);
                    one.merge(&two);
                    assert_eq!(one.quantile(q), tail.quantile(q), "{n} {q} merged");
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_refused_and_leaves_no_trace() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 7, 30] {
                let mut some = vec![1.; 31];
                some[at] = bad;
                let mut tail = Tail::new(100, 0.99);
                assert_eq!((tail.extend(&some), tail.count(), tail.quantile(0.5)), (None, 0, None));
            }
        }
        assert_eq!(Tail::new(100, 0.99).extend(&[]), None);
    }

    #[test]
    fn a_quantile_below_what_was_kept_is_unknown() {
        let mut tail = Tail::new(1000, 0.99);
        tail.extend(&values(1000));
        assert!(tail.quantile(0.99).is_some() && tail.quantile(0.5).is_none());
    }
}
