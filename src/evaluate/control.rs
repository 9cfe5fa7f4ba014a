//! What deleting any units at all would have done: the baseline of every claim.

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::unit::Unit;

/// As many random units of each site as `units` has there, none of `units` while others are left.
///
/// `n_channels` gives each site's size; `seed` and `control` choose the draw.
pub fn random_units(
    units: &[Unit],
    n_channels: &BTreeMap<String, usize>,
    seed: u64,
    control: u64,
) -> Vec<Unit> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(control + 1);
    let mut by_site: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for unit in units {
        by_site.entry(&unit.site).or_default().insert(unit.channel);
    }
    let mut drawn = Vec::with_capacity(units.len());
    for (site, taken) in by_site {
        let n = n_channels.get(site).copied().unwrap_or_default();
        let (mut theirs, mut others): (Vec<usize>, Vec<usize>) =
            (0..n).partition(|channel| taken.contains(channel));
        others.shuffle(&mut rng);
        theirs.shuffle(&mut rng);
        let mut channels: Vec<usize> = others.into_iter().chain(theirs).take(taken.len()).collect();
        channels.sort_unstable();
        drawn.extend(channels.into_iter().map(|channel| Unit::new(site, channel)));
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_others_are_drawn_at_each_site() {
        let units: Vec<Unit> = ["a:0", "a:1", "b:2"].map(|it| it.parse().unwrap()).into();
        let n_channels = BTreeMap::from([("a".to_owned(), 100), ("b".to_owned(), 3)]);
        let draw = |seed, control| random_units(&units, &n_channels, seed, control);
        let drawn = draw(0, 0);
        assert_eq!(drawn.iter().map(|it| it.site.as_str()).collect::<Vec<_>>(), ["a", "a", "b"]);
        assert!(drawn.iter().all(|unit| !units.contains(unit)));
        assert_eq!(drawn, draw(0, 0));
        assert!(draw(0, 1) != drawn && draw(1, 0) != drawn);
    }

    #[test]
    fn where_too_few_others_are_left_the_units_themselves_are_drawn() {
        let units: Vec<Unit> = ["b:0", "b:1"].map(|it| it.parse().unwrap()).into();
        let drawn = random_units(&units, &BTreeMap::from([("b".to_owned(), 3)]), 0, 0);
        assert_eq!(drawn.len(), 2);
        assert!(drawn.contains(&Unit::new("b", 2)));
    }
}
