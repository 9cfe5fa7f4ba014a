//! A unit's low-resolution map to a mask of the picture's size.

use half::f16;

/// Where a map `(h, w)`, brought to `(side, side)`, is above the threshold.
///
/// Bilinear, each pixel at its centre, `sy = (y + 0.5) · h / side − 0.5`; positions beyond the map
/// count as 0, so its outer half cell fades. An axis of length 1 has the same value all along. As
/// `upsample.py` of netdissect, on which MILAN's masks rest.
pub fn mask(map: &[f16], (h, w): (usize, usize), threshold: f32, side: usize) -> Vec<bool> {
    // A frame of zeros makes the edges like everything else.
    let stride = w + 2;
    let mut framed = vec![0.0; (h + 2) * stride];
    for (y, row) in map.chunks(w).enumerate() {
        for (x, value) in row.iter().enumerate() {
            framed[(y + 1) * stride + x + 1] = value.to_f32();
        }
    }
    let (rows, columns) = (taps(h, side), taps(w, side));
    let shares: Vec<f32> = columns.iter().map(|tap| tap.share).collect();
    let mut mask = Vec::with_capacity(side * side);
    for Tap { at, share } in rows {
        let (above, below) = framed[at * stride..][..2 * stride].split_at(stride);
        let row: Vec<f32> = above.iter().zip(below).map(|(&a, &b)| blend(a, b, share)).collect();
        // Pixels between the same two neighbours follow each other.
        let mut shares = shares.as_slice();
        for run in columns.chunk_by(|a, b| a.at == b.at) {
            let (own, rest) = shares.split_at(run.len());
            let (left, right) = (row[run[0].at], row[run[0].at + 1]);
            mask.extend(own.iter().map(|&share| blend(left, right, share) > threshold));
            shares = rest;
        }
    }
    mask
}

/// The two neighbours of a pixel along one axis of the framed map: `at` and the next, which has `share`.
struct Tap {
    at: usize,
    share: f32,
}

fn taps(length: usize, side: usize) -> Vec<Tap> {
    if length == 1 {
        return (0..side).map(|_| Tap { at: 1, share: 0.0 }).collect();
    }
    let place = |pixel| (pixel as f64 + 0.5) * length as f64 / side as f64 + 0.5;
    (0..side).map(place).map(|p| Tap { at: p as usize, share: p.fract() as f32 }).collect()
}

/// Written so that two equal values give just that value, and a plateau at the threshold stays out.
fn blend(a: f32, b: f32, share: f32) -> f32 {
    a + (b - a) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(map: &[f32], shape: (usize, usize), threshold: f32, expected: &[&str]) {
        let map: Vec<f16> = map.iter().map(|&value| f16::from_f32(value)).collect();
        let mask = mask(&map, shape, threshold, expected.len());
        let drawn = |on: &[bool]| on.iter().map(|&on| if on { '#' } else { '.' }).collect();
        let drawn: Vec<String> = mask.chunks(expected.len()).map(drawn).collect();
        assert_eq!(drawn, expected);
    }

    #[test]
    fn the_outer_half_cell_fades_towards_zero() {
        check(&[1.0; 4], (2, 2), 0.9, &["....", ".##.", ".##.", "...."]);
        check(&[1.0; 4], (2, 2), 0.6, &[".##.", "####", "####", ".##."]);
        check(&[-1.0; 4], (2, 2), -0.9, &["####", "#..#", "#..#", "####"]);
    }

    #[test]
    fn an_axis_of_one_is_constant() {
        check(&[1.0], (1, 1), 0.5, &["###", "###", "###"]);
        check(&[0.0, 1.0], (1, 2), 0.5, &["..##"; 4]);
        check(&[0.0, 1.0], (2, 1), 0.5, &["....", "....", "####", "####"]);
    }

    #[test]
    fn the_comparison_is_strict_and_a_plateau_stays_exact() {
        check(&[6.0; 9], (3, 3), 6.0, &["....."; 5]);
        check(&[0.1; 1], (1, 1), f16::from_f32(0.1).to_f32(), &["..", ".."]);
    }

    #[test]
    fn a_larger_map_is_read_at_the_pixels_centres() {
        // Rows 0 to 3 to two rows: centres at 0.5 and 2.5, the means of two rows each.
        let map: Vec<f32> = (0..16).map(|i| (i / 4) as f32).collect();
        check(&map, (4, 4), 0.5, &["..", "##"]);
        check(&map, (4, 4), 0.49, &["##", "##"]);
    }
}
