//! Ten everyday things, faces and words.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::brush::{Brush, Colour, Look, block, disc, dome, oval, polygon};

const DARK: Colour = [0.12, 0.12, 0.14];
const PALE: Colour = [0.95, 0.93, 0.88];
const WOOD: Colour = [0.45, 0.28, 0.15];
const GREEN: Colour = [0.2, 0.55, 0.2];
const GLASS: Colour = [0.75, 0.87, 0.95];

/// The classes, in the order of their names.
pub const CLASSES: [&str; 10] =
    ["balloon", "boat", "car", "cup", "fish", "flower", "house", "mushroom", "tree", "umbrella"];

/// Draws a thing of a class where the brush is.
pub(super) fn thing(brush: &mut Brush, class: &str, look: Look, rng: &mut ChaCha8Rng) {
    let shape = rng.random_range(0..3u32);
    match class {
        "balloon" => {
            brush.line(&[(0., 0.4), (0.08, 0.7), (-0.05, 1.)], 0.06, DARK);
            brush.fill(polygon(&[(0., 0.35), (-0.14, 0.56), (0.14, 0.56)]), look.colour);
            brush.cover(oval((0., -0.3), ([0.5, 0.6, 0.62][shape as usize], 0.68)), look);
        }
        "boat" => {
            brush.line(&[(0., 0.35), (0., -0.95)], 0.08, WOOD);
            brush.cover(polygon(&[(0.08, -0.9), (0.75, 0.15), (0.08, 0.15)]), look);
            if shape != 0 {
                brush.fill(polygon(&[(-0.08, -0.6), (-0.55, 0.15), (-0.08, 0.15)]), PALE);
            }
            let hull = if shape == 2 { WOOD } else { look.colour };
            brush.fill(polygon(&[(-0.95, 0.3), (0.95, 0.3), (0.6, 0.8), (-0.6, 0.8)]), hull);
        }
        "car" => {
            let roof = [0.3, 0.1, 0.55][shape as usize];
            let cabin = [(-0.55, 0.), (-0.32, -0.5), (roof, -0.5), (roof + 0.25, 0.)];
            brush.fill(polygon(&cabin), look.colour);
            brush.fill(block((-0.3, -0.4), (roof - 0.05, -0.05)), GLASS);
            brush.cover(block((-0.95, -0.05), (0.95, 0.42)), look);
            for x in [-0.52, 0.52] {
                brush.fill(disc((x, 0.45), 0.23), DARK);
                brush.fill(disc((x, 0.45), 0.1), PALE);
            }
        }
        "cup" => {
            let wide = [0.5, 0.62, 0.42][shape as usize];
            brush.fill(disc((wide, 0.), 0.34), look.colour);
            brush.fill(disc((wide, 0.), 0.19), PALE);
            let foot = wide * 0.7;
            brush.cover(polygon(&[(-wide, -0.6), (wide, -0.6), (foot, 0.7), (-foot, 0.7)]), look);
            brush.fill(oval((0., -0.6), (wide, 0.12)), WOOD);
        }
        "fish" => {
            brush.fill(polygon(&[(0.4, 0.), (0.98, -0.45), (0.98, 0.45)]), look.colour);
            if shape != 0 {
                brush.fill(polygon(&[(-0.3, -0.3), (0.3, -0.3), (0.1, -0.75)]), look.colour);
            }
            brush.cover(oval((-0.15, 0.), (0.75, [0.4, 0.5, 0.58][shape as usize])), look);
            brush.fill(disc((-0.58, -0.1), 0.12), PALE);
            brush.fill(disc((-0.6, -0.1), 0.06), DARK);
        }
        "flower" => {
            brush.line(&[(0., 0.2), (0.05, 1.)], 0.1, GREEN);
            brush.fill(oval((0.25, 0.72), (0.22, 0.1)), GREEN);
            // Six petals: the corners of a hexagon, no sine needed.
            let far = [0.42, 0.46, 0.5][shape as usize];
            for (x, y) in
                [(1., 0.), (0.5, 0.866), (-0.5, 0.866), (-1., 0.), (-0.5, -0.866), (0.5, -0.866)]
            {
                brush.cover(disc((x * far, y * far - 0.25), 0.3), look);
            }
            brush.fill(disc((0., -0.25), 0.24), [0.95, 0.8, 0.2]);
        }
        "house" => {
            brush.cover(block((-0.65, -0.1), (0.65, 0.85)), look);
            let top = [-0.95, -0.7, -0.85][shape as usize];
            let roof = [[0.6, 0.2, 0.15], DARK, WOOD][shape as usize];
            brush.fill(polygon(&[(-0.85, -0.1), (0., top), (0.85, -0.1)]), roof);
            brush.fill(block((-0.15, 0.35), (0.15, 0.85)), WOOD);
            for x in [-0.5, 0.3] {
                brush.fill(block((x, 0.05), (x + 0.22, 0.3)), GLASS);
            }
        }
        "mushroom" => {
            let stalk = [0.2, 0.26, 0.3][shape as usize];
            brush.fill(oval((0., 0.45), (stalk, 0.5)), PALE);
            brush.cover(dome((0., 0.15), (0.85, [0.75, 0.9, 0.6][shape as usize])), look);
        }
        "tree" => {
            brush.fill(block((-0.13, 0.1), (0.13, 0.98)), WOOD);
            match shape {
                0 => brush.cover(disc((0., -0.3), 0.65), look),
                1 => {
                    brush.cover(polygon(&[(-0.7, 0.45), (0., -0.4), (0.7, 0.45)]), look);
                    brush.cover(polygon(&[(-0.5, -0.1), (0., -0.98), (0.5, -0.1)]), look);
                }
                _ => {
                    for at in [(-0.38, -0.1), (0.38, -0.1), (0., -0.55)] {
                        brush.cover(disc(at, 0.42), look);
                    }
                }
            }
        }
        _ => {
            brush.line(&[(0., -0.5), (0., 0.75), (-0.14, 0.9), (-0.28, 0.75)], 0.08, DARK);
            brush.cover(dome((0., 0.), (0.95, [0.8, 0.95, 0.65][shape as usize])), look);
            for x in [-0.63, 0., 0.63] {
                brush.fill(dome((x, 0.02), (0.3, 0.14)), DARK);
            }
        }
    }
}

/// How a face looks at one.
pub(super) const EXPRESSIONS: [&str; 3] = ["smiling", "sad", "surprised"];

/// A human face.
pub(super) fn face(brush: &mut Brush, expression: &str, rng: &mut ChaCha8Rng) {
    let skins = [[0.98, 0.85, 0.73], [0.87, 0.67, 0.5], [0.62, 0.43, 0.3], [0.4, 0.27, 0.19]];
    let hairs = [DARK, WOOD, [0.85, 0.65, 0.25], [0.6, 0.6, 0.62], [0.6, 0.22, 0.1]];
    let (skin, hair) = (skins[rng.random_range(0..4)], hairs[rng.random_range(0..5)]);
    if rng.random_bool(0.5) {
        brush.fill(oval((0., 0.1), (0.95, 0.9)), hair);
    }
    for x in [-0.78, 0.78] {
        brush.fill(disc((x, 0.1), 0.14), skin);
    }
    brush.fill(oval((0., 0.08), (0.76, 0.9)), skin);
    brush.fill(dome((0., -0.3), (0.8, 0.72)), hair);
    for x in [-0.3, 0.3] {
        brush.fill(oval((x, -0.05), (0.15, 0.11)), PALE);
        brush.fill(disc((x, -0.05), 0.08), DARK);
    }
    if rng.random_bool(0.25) {
        brush.line(&[(-0.55, -0.05), (0.55, -0.05)], 0.06, DARK);
    }
    let mouth = [0.6, 0.15, 0.15];
    match expression {
        "smiling" => {
            brush.line(&[(-0.35, 0.42), (-0.15, 0.58), (0.15, 0.58), (0.35, 0.42)], 0.11, mouth)
        }
        "sad" => {
            brush.line(&[(-0.32, 0.62), (-0.13, 0.48), (0.13, 0.48), (0.32, 0.62)], 0.11, mouth)
        }
        _ => brush.fill(oval((0., 0.54), (0.15, 0.19)), mouth),
    }
}

/// A word, as wide as the brush's measure on both sides of its middle.
pub(super) fn word(brush: &mut Brush, word: &str, ink: Colour, plate: Option<Colour>) {
    let n = word.len() as f32;
    // Letters are five cells wide and seven high, with one between them.
    let cell = 2. / (6. * n - 1.);
    if let Some(plate) = plate {
        brush.fill(block((-1. - 2. * cell, -5. * cell), (1. + 2. * cell, 5. * cell)), plate);
    }
    for (at, letter) in word.bytes().enumerate() {
        let rows = LETTERS.iter().find(|it| it.0 == letter).map_or([0; 7], |it| it.1);
        for (y, row) in rows.into_iter().enumerate() {
            for x in (0..5).filter(|x| row >> (4 - x) & 1 == 1) {
                let left = -1. + (6 * at + x) as f32 * cell;
                let top = (y as f32 - 3.5) * cell;
                // A little more than a cell, lest there are seams.
                brush.fill(block((left, top), (left + 1.05 * cell, top + 1.05 * cell)), ink);
            }
        }
    }
}

/// Capitals, a row a number whose bits are the cells.
const LETTERS: [(u8, [u8; 7]); 17] = [
    (b'a', [0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001]),
    (b'b', [0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110]),
    (b'c', [0b01110, 0b10001, 0b10000, 0b10000, 0b10000, 0b10001, 0b01110]),
    (b'e', [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111]),
    (b'f', [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b10000]),
    (b'h', [0b10001, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001]),
    (b'i', [0b01110, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110]),
    (b'l', [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111]),
    (b'm', [0b10001, 0b11011, 0b10101, 0b10101, 0b10001, 0b10001, 0b10001]),
    (b'n', [0b10001, 0b11001, 0b10101, 0b10011, 0b10001, 0b10001, 0b10001]),
    (b'o', [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110]),
    (b'p', [0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000]),
    (b'r', [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001]),
    (b's', [0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110]),
    (b't', [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100]),
    (b'u', [0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110]),
    (b'w', [0b10001, 0b10001, 0b10001, 0b10101, 0b10101, 0b11011, 0b10001]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_can_be_written() {
        for letter in CLASSES.iter().flat_map(|it| it.bytes()) {
            assert!(LETTERS.iter().any(|it| it.0 == letter), "{}", letter as char);
        }
    }
}
