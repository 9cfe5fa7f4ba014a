//! The pictures that excite a unit most, with the unit's map of each.

/// The `k` best pictures of one unit.
#[derive(Debug, Clone, Default)]
pub(super) struct TopK {
    /// Descending activation; equal ones in the order of the pictures.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The greatest value over all positions.
    pub(super) activation: f32,
    pub(super) picture: usize,
    /// `(h, w)`, row by row.
    pub(super) map: Vec<f32>,
}

impl TopK {
    /// Takes a picture in if it is among the best so far; only then is its map copied.
    pub(super) fn offer(&mut self, k: usize, picture: usize, activation: f32, map: &[f32]) {
        self.insert(k, activation, picture, || map.to_vec());
    }

    pub(super) fn merge(&mut self, k: usize, other: TopK) {
        for entry in other.entries {
            self.insert(k, entry.activation, entry.picture, || entry.map);
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn insert(
        &mut self,
        k: usize,
        activation: f32,
        picture: usize,
        map: impl FnOnce() -> Vec<f32>,
    ) {
        let goes_before = |entry: &Entry| {
            entry.activation < activation
                || (entry.activation == activation && picture < entry.picture)
        };
        let place = self.entries.iter().position(goes_before).unwrap_or(self.entries.len());
        if place < k {
            self.entries.truncate(k - 1);
            self.entries.insert(place, Entry { activation, picture, map: map() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(k: usize, activations: &[(usize, f32)]) -> TopK {
        let mut top = TopK::default();
        activations
            .iter()
            .for_each(|&(picture, activation)| top.offer(k, picture, activation, &[activation]));
        top
    }

    fn pictures(top: &TopK) -> Vec<usize> {
        top.entries().iter().map(|entry| entry.picture).collect()
    }

    #[test]
    fn the_best_are_kept_in_order_and_equal_ones_by_picture() {
        let activations = [(0, 1.), (1, 3.), (2, 2.), (3, 3.), (4, 2.), (5, -1.)];
        assert_eq!(pictures(&top(3, &activations)), [1, 3, 2]);
        assert_eq!(pictures(&top(10, &activations)), [1, 3, 2, 4, 0, 5]);
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let activations = [(0, 1.), (1, 3.), (2, 2.), (3, 3.), (4, 2.)];
        let (first, second) = activations.split_at(2);
        let mut merged = top(3, second);
        merged.merge(3, top(3, first));
        assert_eq!(pictures(&merged), pictures(&top(3, &activations)));
    }
}
