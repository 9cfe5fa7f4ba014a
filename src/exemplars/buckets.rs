//! The largest of many values, those that are nearly the same as their number and their range.
//!
//! Values share a bucket that agree in sign, exponent and the first nine bits behind the point: 512 buckets an
//! octave. An octave takes memory once it has a value.

/// Buckets of an octave, in bits.
const BITS: u32 = 9;
const PAGE: usize = 1 << BITS;

/// Bits of a float that its bucket does not tell.
const LOST: u32 = f32::MANTISSA_DIGITS - 1 - BITS;

/// The octaves of both signs.
const PAGES: usize = 1 << (u32::BITS - LOST - BITS);

#[derive(Debug, Clone)]
pub(super) struct Buckets {
    pages: Vec<Option<Box<[Bucket; PAGE]>>>,
    n: u64,
    /// No value lies in a bucket before it.
    lowest: usize,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    n: u64,
    low: f32,
    high: f32,
}

const EMPTY: Bucket = Bucket { n: 0, low: f32::INFINITY, high: f32::NEG_INFINITY };

impl Bucket {
    fn join(&mut self, other: Bucket) {
        self.n += other.n;
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
    }
}

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets { pages: vec![None; PAGES], n: 0, lowest: PAGES * PAGE }
    }
}

impl Buckets {
    pub(super) fn add(&mut self, value: f32) {
        self.join(key(value), Bucket { n: 1, low: value, high: value });
    }

    pub(super) fn merge(&mut self, other: &Buckets) {
        for (page, buckets) in other.pages.iter().enumerate() {
            for (at, bucket) in buckets.iter().flat_map(|it| it.iter()).enumerate() {
                if 0 < bucket.n {
                    self.join(page * PAGE + at, *bucket);
                }
            }
        }
    }

    /// Forgets values that have `keep` others above them. A value that is not above what is returned would be
    /// forgotten, too.
    pub(super) fn keep(&mut self, keep: u64) -> f32 {
        if self.n < keep {
            return f32::NEG_INFINITY;
        }
        loop {
            let (page, at) = (self.lowest / PAGE, self.lowest % PAGE);
            let Some(buckets) = &mut self.pages[page] else {
                self.lowest = (page + 1) * PAGE;
                continue;
            };
            let n = buckets[at].n;
            if self.n - n < keep {
                return least(self.lowest).next_down();
            }
            self.n -= n;
            buckets[at] = EMPTY;
            self.lowest += 1;
            if at + 1 == PAGE {
                self.pages[page] = None;
            }
        }
    }

    /// The value that has so many above it; in a bucket of several they lie evenly between the least and the greatest.
    pub(super) fn largest(&self, at: u64) -> Option<f64> {
        if self.n <= at {
            return None;
        }
        let mut above = 0;
        let mut buckets = self.pages.iter().rev().flatten().flat_map(|page| page.iter().rev());
        let bucket = buckets.find(|it| {
            above += it.n;
            at < above
        })?;
        let share = (above - 1 - at) as f64 / (bucket.n - 1).max(1) as f64;
        let (low, high) = (f64::from(bucket.low), f64::from(bucket.high));
        Some(low + (high - low) * share)
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.pages)
            + self.pages.iter().flatten().count() * size_of::<[Bucket; PAGE]>()
    }

    fn join(&mut self, key: usize, bucket: Bucket) {
        self.n += bucket.n;
        self.lowest = self.lowest.min(key);
        let page = self.pages[key / PAGE].get_or_insert_with(|| Box::new([EMPTY; PAGE]));
        page[key % PAGE].join(bucket);
    }
}

/// The bucket of a value: of greater values it is greater.
fn key(value: f32) -> usize {
    // Both zeros are one.
    let bits = (value + 0.).to_bits();
    let in_order = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    (in_order >> LOST) as usize
}

/// The least value of a bucket.
fn least(key: usize) -> f32 {
    let in_order = (key as u32) << LOST;
    f32::from_bits(if in_order >> 31 == 1 { in_order & !(1 << 31) } else { !in_order })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_order_as_values_do() {
        let values = [f32::MIN, -3.5, -1e-30, 0., 1e-40, 2., 2.01, 1e9, f32::MAX];
        assert!(values.is_sorted_by(|a, b| key(*a) <= key(*b)));
        assert_eq!(key(-0.), key(0.));
        assert!(key(f32::MAX) < PAGES * PAGE);
        for value in values.into_iter().skip(1) {
            let floor = least(key(value)).next_down();
            assert!(floor < value && key(floor) < key(value), "{value} {floor}");
        }
    }

    #[test]
    fn the_largest_are_kept() {
        let mut buckets = Buckets::default();
        let values = [3., -7., 1e-9, 0., 250., 3., -0.];
        values.iter().for_each(|it| buckets.add(*it));
        let largest =
            |buckets: &Buckets| (0..8).map_while(|it| buckets.largest(it)).collect::<Vec<_>>();
        let small = f64::from(1e-9f32);
        assert_eq!(largest(&buckets), [250., 3., 3., small, 0., 0., -7.]);
        assert_eq!(buckets.keep(8), f32::NEG_INFINITY);
        assert!(buckets.keep(5) < 0.);
        assert_eq!(largest(&buckets), [250., 3., 3., small, 0., 0.]);
        let floor = buckets.keep(2);
        assert!((2.9..3.).contains(&floor), "{floor}");
        assert_eq!(largest(&buckets), [250., 3., 3.]);

        let mut others = Buckets::default();
        [3., 4., 1.].iter().for_each(|it| others.add(*it));
        buckets.merge(&others);
        assert!(3.9 < buckets.keep(2));
        assert_eq!(largest(&buckets), [250., 4.]);

        // What was dropped does not come back with others of its octave.
        let mut buckets = Buckets::default();
        [1., 1., 1.5, 1.5].iter().for_each(|it| buckets.add(*it));
        buckets.keep(2);
        let mut others = Buckets::default();
        others.add(1.);
        others.merge(&buckets);
        assert_eq!(largest(&others), [1.5, 1.5, 1.]);
        buckets.merge(&others);
        buckets.keep(2);
        assert_eq!(largest(&buckets), [1.5, 1.5, 1.5, 1.5]);
    }
}
