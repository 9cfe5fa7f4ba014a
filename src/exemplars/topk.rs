//! The pictures on which a unit is strongest, and its maps there.

use std::cmp::Ordering;

use half::f16;

use super::PictureKey;

/// The `k` pictures with the highest activation so far, of near-duplicates only the best few.
///
/// Of equal activations the higher mean of the map wins, then the lower content hash, so that neither names nor the
/// order of pictures decide. What is kept is exactly what sorting all pictures, leaving out those that have enough of
/// their near-duplicates before them, and cutting at `k` would give, and so after [merging](TopK::merge).
#[derive(Debug, Clone)]
pub(super) struct TopK {
    k: usize,
    /// The most pictures of one group of near-duplicates; 0 is no limit.
    per_group: usize,
    /// The best first.
    ranks: Vec<Rank>,
    /// One map a slot, one after the other.
    maps: Vec<f16>,
}

#[derive(Debug, Clone, Copy)]
struct Rank {
    activation: f32,
    /// Of the map.
    mean: f64,
    picture: PictureKey,
    slot: usize,
}

impl Rank {
    fn is_before(&self, other: &Rank) -> bool {
        // Both zeros are one.
        let higher = |a: f64, b: f64| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
        let key = |it: &Rank| (it.picture.content, it.picture.id);
        higher(self.activation.into(), other.activation.into())
            .then(higher(self.mean, other.mean))
            .then(key(self).cmp(&key(other)))
            .is_lt()
    }
}

/// A picture that is kept, with the map's mean and the map.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    pub(super) picture: PictureKey,
    pub(super) activation: f32,
    pub(super) mean: f64,
    pub(super) map: &'a [f16],
}

impl TopK {
    pub(super) fn new(k: usize, per_group: usize) -> TopK {
        TopK { k, per_group, ranks: vec![], maps: vec![] }
    }

    /// Takes a picture in where it is strong enough. `mean` tells the mean of its map where activations are equal, and
    /// only of a picture that is taken in the map of so many positions is written, by `map`.
    pub(super) fn offer(
        &mut self,
        picture: PictureKey,
        activation: f32,
        size: usize,
        mean: impl FnOnce() -> f64,
        map: impl FnOnce(&mut [f16]),
    ) {
        if !self.takes(picture, activation, None) {
            return;
        }
        let mean = mean();
        if !self.takes(picture, activation, Some(mean)) {
            return;
        }
        let slot = match self.leaves(picture) {
            Some(at) => self.ranks.remove(at).slot,
            None => self.ranks.len(),
        };
        if self.maps.is_empty() {
            self.maps.reserve_exact(self.k * size);
        }
        self.maps.resize(self.maps.len().max((slot + 1) * size), f16::ZERO);
        map(&mut self.maps[slot * size..][..size]);
        let rank = Rank { activation, mean, picture, slot };
        let place = self.ranks.partition_point(|it| it.is_before(&rank));
        self.ranks.insert(place, rank);
    }

    /// Whether a picture would be taken in now, or may be where its mean is not known and would decide. One that is
    /// not is not later, either.
    pub(super) fn takes(&self, picture: PictureKey, activation: f32, mean: Option<f64>) -> bool {
        let Some(worst) = self.leaves(picture).map(|at| &self.ranks[at]) else {
            return 0 < self.k;
        };
        match mean {
            None => worst.activation <= activation,
            Some(mean) => Rank { activation, mean, picture, slot: 0 }.is_before(worst),
        }
    }

    /// Who would leave for a picture: the worst of its near-duplicates where there are enough of them, else the worst
    /// of all where there is no more room.
    fn leaves(&self, picture: PictureKey) -> Option<usize> {
        if 0 < self.per_group {
            let is_near = |it: &Rank| it.picture.group == picture.group;
            if self.per_group <= self.ranks.iter().filter(|it| is_near(it)).count() {
                return self.ranks.iter().rposition(is_near);
            }
        }
        if self.k <= self.ranks.len() { self.ranks.len().checked_sub(1) } else { None }
    }

    pub(super) fn merge(&mut self, other: &TopK) {
        for Kept { picture, activation, mean, map } in other.iter() {
            self.offer(picture, activation, map.len(), || mean, |to| to.copy_from_slice(map));
        }
    }

    /// How many pictures are kept.
    pub(super) fn len(&self) -> usize {
        self.ranks.len()
    }

    /// The pictures, the best first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Kept<'_>> {
        let size = self.maps.len() / self.ranks.len().max(1);
        self.ranks.iter().map(move |&Rank { activation, mean, picture, slot }| Kept {
            picture,
            activation,
            mean,
            map: &self.maps[slot * size..][..size],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture by its number, its activation, the mean of its map and the group of its near-duplicates.
    type Offered = (usize, f32, f64, usize);

    fn gather(k: usize, per_group: usize, offers: &[Offered]) -> TopK {
        let mut top = TopK::new(k, per_group);
        for &(id, activation, mean, group) in offers {
            let picture = PictureKey { id, content: 100 - id as u64, group };
            let map = |to: &mut [f16]| to.fill(f16::from_f32(id as f32));
            top.offer(picture, activation, 2, || mean, map);
        }
        top
    }

    fn found(top: &TopK) -> Vec<usize> {
        let id = |it: Kept<'_>| {
            // Each map holds its picture's number, so a wrong slot shows.
            assert_eq!(it.map, [f16::from_f32(it.picture.id as f32); 2]);
            it.picture.id
        };
        top.iter().map(id).collect()
    }

    #[track_caller]
    fn check(k: usize, per_group: usize, offers: &[Offered], wanted: &[usize]) {
        assert_eq!(found(&gather(k, per_group, offers)), wanted);
        let backwards: Vec<Offered> = offers.iter().rev().copied().collect();
        assert_eq!(found(&gather(k, per_group, &backwards)), wanted, "backwards");
        for middle in 0..=offers.len() {
            let mut merged = gather(k, per_group, &offers[middle..]);
            merged.merge(&gather(k, per_group, &offers[..middle]));
            assert_eq!(found(&merged), wanted, "split at {middle}");
        }
    }

    #[test]
    fn the_highest_come_first() {
        let one = |id, activation| (id, activation, 0., id);
        let offers = [one(0, 1.), one(1, 5.), one(2, -3.), one(3, 2.), one(4, 9.)];
        check(3, 1, &offers, &[4, 1, 3]);
        check(3, 1, &[one(0, -1.), one(1, -5.)], &[0, 1]);
    }

    #[test]
    fn of_equal_activations_the_higher_mean_wins_and_then_the_content() {
        check(2, 1, &[(3, 6., 1., 3), (1, 6., 2., 1), (2, 6., 1., 2), (0, 0., 9., 0)], &[1, 3]);
        check(2, 0, &[(1, -0., 0., 1), (0, 0., -0., 0), (2, 0., 0., 2)], &[2, 1]);
    }

    #[test]
    fn of_near_duplicates_the_best_are_kept() {
        let offers =
            [(0, 5., 0., 7), (1, 6., 0., 7), (2, 4., 0., 2), (3, 5.5, 0., 7), (4, 1., 0., 4)];
        check(3, 0, &offers, &[1, 3, 0]);
        check(3, 1, &offers, &[1, 2, 4]);
        check(3, 2, &offers, &[1, 3, 2]);
        check(5, 1, &offers, &[1, 2, 4]);
    }

    /// Against sorting all of them.
    #[test]
    fn any_stream_gives_what_sorting_would() {
        for seed in 0..200usize {
            let value = |i: usize, n: usize| (i * 7919 + seed * 31 + i * i * (seed % 7)) % n;
            let offers: Vec<Offered> = (0..40)
                .map(|i| (i, value(i, 9) as f32, value(i, 5) as f64, value(i, 11)))
                .collect();
            let (k, per_group) = (1 + seed % 8, seed % 4);
            let mut sorted = offers.clone();
            // The content is the lower the greater the number.
            sorted
                .sort_by(|a, b| b.1.total_cmp(&a.1).then(b.2.total_cmp(&a.2)).then(b.0.cmp(&a.0)));
            let mut wanted: Vec<Offered> = vec![];
            for it in sorted {
                let near = wanted.iter().filter(|other| other.3 == it.3).count();
                if per_group == 0 || near < per_group {
                    wanted.push(it);
                }
            }
            let wanted: Vec<usize> = wanted.iter().take(k).map(|it| it.0).collect();
            check(k, per_group, &offers, &wanted);
        }
    }
}
