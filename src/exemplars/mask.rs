//! From a unit's low-resolution map to the region of the picture where it fires.

/// The positions of a `(side, side)` picture where the upsampled map is above the threshold.
///
/// The geometry is netdissect's (`upsample.py`, plain centred scaling): bilinear between the centres
/// of the map's cells, source coordinate `(y + ½) · h / side − ½`, and zeros beyond the edge, so that
/// the outer half cell fades. A map one cell high is the same at every row.
pub fn mask(map: &[f32], (h, w): (usize, usize), threshold: f32, side: usize) -> Vec<bool> {
    let columns: Vec<[(usize, f32); 2]> = (0..side).map(|x| neighbours(x, w, side)).collect();
    let mut mask = Vec::with_capacity(side * side);
    for y in 0..side {
        let rows = neighbours(y, h, side);
        for column in &columns {
            let mut value = 0.;
            for (row, row_weight) in rows {
                for (column, column_weight) in column {
                    value += row_weight * column_weight * map[row * w + column];
                }
            }
            mask.push(threshold < value);
        }
    }
    mask
}

/// The two cells that a position lies between, and their weights; a cell beyond the edge has weight 0.
fn neighbours(position: usize, cells: usize, side: usize) -> [(usize, f32); 2] {
    if cells == 1 {
        return [(0, 1.), (0, 0.)];
    }
    let source = (position as f32 + 0.5) * cells as f32 / side as f32 - 0.5;
    let before = source.floor();
    let share = source - before;
    let cell = |index: f32, weight: f32| {
        if (0.0..=cells as f32 - 1.).contains(&index) { (index as usize, weight) } else { (0, 0.) }
    };
    [cell(before, 1. - share), cell(before + 1., share)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_fades_towards_the_edge() {
        // One bright cell in the corner of a 2 × 2 map, upsampled to 4 × 4: weights along an axis are
        // 0.75 (the outer neighbour is zero), 0.75, 0.25, 0.
        let found = mask(&[1., 0., 0., 0.], (2, 2), 0.5, 4);
        let wanted = [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(found, wanted.map(|it| it == 1));
    }

    #[test]
    fn a_single_cell_fills_the_picture() {
        assert!(mask(&[2.], (1, 1), 1., 3).iter().all(|&it| it));
        assert!(
            mask(&[1.], (1, 1), 1., 3).iter().all(|&it| !it),
            "the threshold itself is not above it"
        );
    }
}
