//! The pictures on which a unit is strongest, and its maps there.

use half::f16;

/// The `k` pictures with the highest activation so far, of equal ones the lowest picture.
#[derive(Debug, Clone)]
pub(super) struct TopK {
    k: usize,
    /// The highest first.
    ranks: Vec<Rank>,
    /// One map a slot, one after the other.
    maps: Vec<f16>,
}

#[derive(Debug, Clone, Copy)]
struct Rank {
    activation: f32,
    picture: usize,
    slot: usize,
}

impl TopK {
    pub(super) fn new(k: usize) -> TopK {
        TopK { k, ranks: vec![], maps: vec![] }
    }

    /// Takes a picture in where it is strong enough; only then is its map of so many positions written, by `map`.
    pub(super) fn offer(
        &mut self,
        picture: usize,
        activation: f32,
        size: usize,
        map: impl FnOnce(&mut [f16]),
    ) {
        let place = self.place(picture, activation);
        if place == self.k {
            return;
        }
        let slot = match self.ranks.len() == self.k {
            true => self.ranks.pop().map_or(0, |last| last.slot),
            false => self.ranks.len(),
        };
        if self.maps.is_empty() {
            self.maps.reserve_exact(self.k * size);
        }
        self.maps.resize(self.maps.len().max((slot + 1) * size), f16::ZERO);
        map(&mut self.maps[slot * size..][..size]);
        self.ranks.insert(place, Rank { activation, picture, slot });
    }

    /// Whether a picture would be taken in now. One that is not is not later, either.
    pub(super) fn takes(&self, picture: usize, activation: f32) -> bool {
        self.place(picture, activation) < self.k
    }

    /// How many are before it.
    fn place(&self, picture: usize, activation: f32) -> usize {
        let before = |rank: &Rank| {
            rank.activation > activation
                || (rank.activation == activation && rank.picture < picture)
        };
        self.ranks.partition_point(before)
    }

    pub(super) fn merge(&mut self, other: &TopK) {
        for (picture, activation, map) in other.iter() {
            self.offer(picture, activation, map.len(), |to| to.copy_from_slice(map));
        }
    }

    /// The pictures, activations and maps, the highest activation first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, f32, &[f16])> {
        let size = self.maps.len() / self.ranks.len().max(1);
        let map = move |slot| &self.maps[slot * size..][..size];
        self.ranks.iter().map(move |rank| (rank.picture, rank.activation, map(rank.slot)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(k: usize, offers: &[(usize, f32)], expected: &[(usize, f32)]) {
        let found = |top: &TopK| -> Vec<(usize, f32)> {
            top.iter()
                .map(|(picture, activation, map)| {
                    // Each map holds its picture's number, so a wrong slot shows.
                    assert_eq!(map, [f16::from_f32(picture as f32); 2]);
                    (picture, activation)
                })
                .collect()
        };
        let gather = |offers: &[(usize, f32)]| {
            let mut top = TopK::new(k);
            for &(picture, activation) in offers {
                top.offer(picture, activation, 2, |to| to.fill(f16::from_f32(picture as f32)));
            }
            top
        };
        assert_eq!(found(&gather(offers)), expected);
        for middle in 0..=offers.len() {
            let mut merged = gather(&offers[middle..]);
            merged.merge(&gather(&offers[..middle]));
            assert_eq!(found(&merged), expected, "split at {middle}");
        }
    }

    #[test]
    fn the_highest_come_first() {
        check(
            3,
            &[(0, 1.0), (1, 5.0), (2, -3.0), (3, 2.0), (4, 9.0)],
            &[(4, 9.0), (1, 5.0), (3, 2.0)],
        );
        check(3, &[(0, -1.0), (1, -5.0)], &[(0, -1.0), (1, -5.0)]);
    }

    #[test]
    fn of_equal_activations_the_lower_picture_wins() {
        check(2, &[(3, 6.0), (1, 6.0), (2, 6.0), (0, 0.0)], &[(1, 6.0), (2, 6.0)]);
        check(2, &[(1, -0.0), (0, 0.0), (2, 0.0)], &[(0, 0.0), (1, -0.0)]);
    }
}
