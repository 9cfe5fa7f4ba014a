//! A tiny world in which the truth is known: drawn pictures, and a network whose units are planted.
//!
//! Six classes of 32-pixel pictures: a red, green, blue or yellow shape, a face, or a few letters, some of them
//! red. The network is a ResNet-8 whose weights are set by hand: filters for each colour, for thin dark lines
//! (which only letters have), a copy, a dead one, and random ones; behind them units for thin red lines, for the skin
//! of faces, for the corners of squares, and for red or green. Its blocks pass them on, and its last layer reads
//! each class from its own units. So a describer should call the line detectors `text`, and deleting them should take
//! away the letters and nothing else. [`TRUTH`] says what each unit should be called.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use image::{Rgb, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;

use crate::model::zoo;

/// The world's files.
pub struct Planted {
    /// `model.safetensors`.
    pub model: PathBuf,
    /// A folder for each class.
    pub pictures: PathBuf,
}

/// The classes, in the order of the network's outputs, which is that of their names.
pub const CLASSES: [&str; 6] = ["blue", "face", "green", "red", "text", "yellow"];

/// What a unit was made to detect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Colour,
    Shape,
    Text,
    Face,
    /// One of two things.
    Or,
    /// Two things at one place.
    And,
    /// The same as another unit.
    Duplicate,
    /// Nothing, ever.
    Dead,
    /// Weights drawn at random.
    Noise,
}

/// A unit, what it detects, and what it should be called: every group of words must be met by one of its own.
pub type Truth = (&'static str, usize, Kind, &'static [&'static [&'static str]]);

const RED: &[&str] = &["red"];
const TEXT: &[&str] = &["text", "letter", "word", "writing", "lettering", "character"];

/// The planted units. Nothing that is said of noise is right or wrong, but nothing should be sure of it.
pub const TRUTH: [Truth; 16] = [
    ("conv1", 0, Kind::Colour, &[RED]),
    ("conv1", 1, Kind::Colour, &[&["green"]]),
    ("conv1", 2, Kind::Colour, &[&["blue"]]),
    ("conv1", 3, Kind::Colour, &[&["yellow"]]),
    ("layer1", SHAPE, Kind::Shape, &[&["square", "corner", "box", "rectangle", "block", "cube"]]),
    ("conv1", 4, Kind::Text, &[TEXT]),
    ("conv1", 5, Kind::Text, &[TEXT]),
    ("layer1", FACE, Kind::Face, &[&["face", "person", "people", "head", "skin"]]),
    ("layer2", 16, Kind::Or, &[&["red", "green", "colorful", "colored"]]),
    ("layer1", THIN_RED, Kind::And, &[RED, TEXT]),
    ("conv1", 6, Kind::Duplicate, &[RED]),
    ("conv1", 7, Kind::Dead, &[]),
    ("conv1", 11, Kind::Noise, &[]),
    ("conv1", 13, Kind::Noise, &[]),
    ("conv1", 14, Kind::Noise, &[]),
    ("conv1", 15, Kind::Noise, &[]),
];

const PICTURES_PER_CLASS: usize = 40;
const SIDE: u32 = 32;
const SEED: u64 = 0;

/// Writes the model and the pictures into `folder`; the same bytes every time.
pub fn write(folder: &Path) -> anyhow::Result<Planted> {
    let planted =
        Planted { model: folder.join("model.safetensors"), pictures: folder.join("pictures") };
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    for class in CLASSES {
        let class_folder = planted.pictures.join(class);
        std::fs::create_dir_all(&class_folder)
            .with_context(|| format!("cannot make the folder {}", class_folder.display()))?;
        for i in 0..PICTURES_PER_CLASS {
            let file = class_folder.join(format!("{i:02}.png"));
            let picture = draw(class, &mut rng);
            picture.save(&file).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    std::fs::write(&planted.model, checkpoint(&mut rng)?)
        .with_context(|| format!("cannot write {}", planted.model.display()))?;
    Ok(planted)
}

/// One picture of a class: a shape or letters on light grey, often with a speck of another colour.
fn draw(class: &str, rng: &mut ChaCha8Rng) -> RgbImage {
    let background = rng.random_range(190..=225u8);
    let mut picture = RgbImage::from_fn(SIDE, SIDE, |_, _| {
        let noise = rng.random_range(0..10u8);
        Rgb([background + noise; 3])
    });
    if class == "face" {
        draw_face(&mut picture, rng);
    } else if class == "text" {
        let ink = if rng.random_bool(0.3) { colour("red", rng) } else { Rgb([20; 3]) };
        let at = |rng: &mut ChaCha8Rng, most: u32| rng.random_range(1..=most);
        let y = at(rng, SIDE - 9);
        let x = at(rng, SIDE - 20);
        for letter in 0..3 {
            write_letter(&mut picture, rng.random_range(0..LETTERS.len()), x + 6 * letter, y, ink);
        }
    } else {
        let radius = rng.random_range(5..=9);
        fill_shape(&mut picture, colour(class, rng), radius, rng);
    }
    if rng.random_bool(0.4) {
        let speck = ["blue", "green", "red", "yellow"][rng.random_range(0..4)];
        fill_shape(&mut picture, colour(speck, rng), 2, rng);
    }
    picture
}

fn colour(class: &str, rng: &mut ChaCha8Rng) -> Rgb<u8> {
    let (bright, dark) = (rng.random_range(200..=255), rng.random_range(0..=40));
    Rgb(match class {
        "red" => [bright, dark, dark],
        "green" => [dark, bright, dark],
        "blue" => [dark, dark, bright],
        _ => [bright, bright, dark],
    })
}

/// A disc, a square or a diamond somewhere in the picture.
fn fill_shape(picture: &mut RgbImage, colour: Rgb<u8>, radius: i32, rng: &mut ChaCha8Rng) {
    let side = SIDE as i32;
    let mut centre = || rng.random_range(radius..side - radius);
    let (cx, cy) = (centre(), centre());
    let shape = rng.random_range(0..3);
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let (dx, dy) = ((x as i32 - cx).abs(), (y as i32 - cy).abs());
        let inside = match shape {
            0 => dx * dx + dy * dy <= radius * radius,
            1 => dx.max(dy) <= radius,
            _ => dx + dy <= radius,
        };
        if inside {
            *pixel = colour;
        }
    }
}

/// Skin, hair, two eyes and a mouth.
fn draw_face(picture: &mut RgbImage, rng: &mut ChaCha8Rng) {
    let radius = rng.random_range(7..=10);
    let (cx, cy) = (rng.random_range(radius..32 - radius), rng.random_range(radius..32 - radius));
    let shade = rng.random_range(0..=20u8);
    let hair = Rgb([60 + shade, 40, 30]);
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let (dx, dy) = (x as i32 - cx, y as i32 - cy);
        if radius * radius < dx * dx + dy * dy {
            continue;
        }
        let eye = dy == -radius / 5 && (dx.abs() - radius * 2 / 5).abs() <= 1;
        let mouth = dy == radius / 2 && dx.abs() <= radius / 3;
        *pixel = match (dy < -radius / 2, eye, mouth) {
            (true, ..) => hair,
            (_, true, _) => Rgb([40, 30, 30]),
            // Not just as red in each face, else none would excite the unit for skin most.
            (_, _, true) => Rgb([150 - shade, 50, 50]),
            _ => Rgb([235 - shade, 175 - shade, 140 - shade]),
        };
    }
}

/// Letters of 5 × 7 pixels, a row a line.
const LETTERS: [[&str; 7]; 6] = [
    ["#####", "#....", "#....", "####.", "#....", "#....", "#####"], // E
    ["#...#", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"], // H
    ["#....", "#....", "#....", "#....", "#....", "#....", "#####"], // L
    ["#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."], // T
    ["#####", "#....", "#....", "####.", "#....", "#....", "#...."], // F
    ["#####", "#...#", "#...#", "#...#", "#...#", "#...#", "#####"], // O
];

fn write_letter(picture: &mut RgbImage, letter: usize, left: u32, top: u32, ink: Rgb<u8>) {
    for (y, row) in LETTERS[letter].iter().enumerate() {
        for (x, _) in row.bytes().enumerate().filter(|&(_, mark)| mark == b'#') {
            picture.put_pixel(left + x as u32, top + y as u32, ink);
        }
    }
}

/// Units of `layer1`: thin red lines, skin, corners of squares.
const THIN_RED: usize = 8;
const FACE: usize = 9;
const SHAPE: usize = 10;
/// The first filter for red alone, and red's own.
const REDDER: usize = 12;
const RED_UNIT: usize = 0;
/// How the architecture is called.
const ARCH: &str = "cifar_resnet8_b";
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The weights: what is not planted is zero, or 1 where zero would divide.
fn checkpoint(rng: &mut ChaCha8Rng) -> anyhow::Result<Vec<u8>> {
    let graph = zoo::by_name(ARCH)?.build(CLASSES.len());
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for parameter in graph.parameters().filter(|it| !it.optional) {
        let value = if parameter.name.ends_with("running_var") { 1. } else { 0. };
        let len = parameter.shape.iter().product();
        tensors.insert(parameter.name, (parameter.shape, vec![value; len]));
    }
    let mut set = |name: &str, values: Vec<f32>| {
        let old = tensors.get_mut(name).map(|it| &mut it.1);
        assert_eq!(old.as_ref().map(|it| it.len()), Some(values.len()), "{name}");
        old.into_iter().for_each(|old| old.clone_from(&values));
    };

    // The first filters, and how far each must rise above the background to count.
    let mut filters = Vec::new();
    let mut offsets = Vec::new();
    for unit in 0..16 {
        let (filter, offset) = planted(unit, rng);
        // Pictures arrive normalised: undo that, so that the filter sees brightness in 0..1.
        let mut restored = offset;
        for (channel, window) in filter.iter().enumerate() {
            filters.extend(window.iter().map(|weight| weight * STD[channel]));
            restored += window.iter().sum::<f32>() * MEAN[channel];
        }
        offsets.push(restored);
    }
    set("conv1.weight", filters);
    set("bn1.weight", vec![1.; 16]);
    set("bn1.bias", offsets);
    let (inner, outer, offsets) = block();
    set("layer1.0.conv1.weight", inner);
    set("layer1.0.bn1.weight", vec![1.; 16]);
    set("layer1.0.bn1.bias", offsets);
    set("layer1.0.conv2.weight", outer);
    set("layer1.0.bn2.weight", vec![1.; 16]);
    // Each stage carries the units before it on, and adds mixtures of a few of them.
    for (stage, n_in) in [(2, 16), (3, 32)] {
        let mut mix = vec![0f32; 2 * n_in * n_in];
        for unit in 0..n_in {
            mix[unit * n_in + unit] = 1.;
            for _ in 0..3 {
                mix[(n_in + unit) * n_in + rng.random_range(0..8)] = rng.random_range(0.1..0.5);
            }
        }
        if stage == 2 {
            mix[16 * 16..][..16].fill(0.);
            mix[16 * 16..][..2].fill(1.); // Red or green.
        }
        set(&format!("layer{stage}.0.shortcut.0.weight"), mix);
        set(&format!("layer{stage}.0.shortcut.1.weight"), vec![1.; 2 * n_in]);
    }
    // Each class is read from its own units; letters cover few pixels, so they count for more.
    let mut head = vec![0f32; CLASSES.len() * 64];
    let reads: [(&str, &[usize], f32); 6] = [
        ("blue", &[2], 30.),
        ("face", &[FACE], 300.),
        ("green", &[1], 30.),
        ("red", &[0, 6], 15.),
        ("text", &[4, 5, THIN_RED], 150.),
        ("yellow", &[3], 90.),
    ];
    for (class, &(_, units, weight)) in reads.iter().enumerate() {
        units.iter().for_each(|unit| head[class * 64 + unit] = weight);
    }
    set("linear.weight", head);

    let bytes: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, values))| (name, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = tensors
        .iter()
        .map(|(name, (shape, _))| {
            Ok((name, TensorView::new(Dtype::F32, shape.clone(), &bytes[name])?))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(safetensors::serialize(views, None)?)
}

/// The two convolutions of `layer1`, `(16, 16, 3, 3)`, and what is added between them: they see the first units, so
/// they can tell what no filter on pixels can.
fn block() -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (mut inner, mut outer, mut offsets) =
        (vec![0f32; 16 * 16 * 9], vec![0f32; 16 * 16 * 9], vec![0f32; 16]);
    let place = |to: usize, from: usize, y: usize, x: usize| (to * 16 + from) * 9 + 3 * y + x;
    let around = || (0..3).flat_map(|y| (0..3).map(move |x| (y, x)));
    // Three red ones in a column, and none beside them.
    for (y, x) in around() {
        inner[place(THIN_RED, RED_UNIT, y, x)] = if x == 1 { 1. / 3. } else { -1. / 3. };
    }
    offsets[THIN_RED] = -0.3;
    outer[place(THIN_RED, THIN_RED, 1, 1)] = 1.;
    // What is skin or red, less what is red.
    inner[place(FACE, REDDER, 1, 1)] = 1.;
    outer[place(FACE, FACE, 1, 1)] = -4.;
    // Inside on two sides, outside on the other two, of whatever colour; four ways, then any of them.
    for (way, (right, below)) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate() {
        for (colour, (y, x)) in (0..4).flat_map(|colour| around().map(move |at| (colour, at))) {
            let inside = (x == 1 || x == 2 * (1 - right)) && (y == 1 || y == 2 * (1 - below));
            inner[place(SHAPE + way, colour, y, x)] = if inside { 0.25 } else { -0.25 };
        }
        offsets[SHAPE + way] = -0.5;
        outer[place(SHAPE, SHAPE + way, 1, 1)] = 1.;
    }
    (inner, outer, offsets)
}

/// The 3 × 3 filter of a first unit for each colour, on brightness in 0..1, and its offset.
fn planted(unit: usize, rng: &mut ChaCha8Rng) -> ([[f32; 9]; 3], f32) {
    let centre = |r, g, b| [r, g, b].map(|weight| [0., 0., 0., 0., weight, 0., 0., 0., 0.]);
    let third = 1. / 3.;
    match unit {
        0 | 6 => (centre(1., -1.2, 0.), -0.05),
        1 => (centre(-1.2, 1., 0.), -0.05),
        2 => (centre(-0.6, -0.6, 1.), -0.05),
        3 => (centre(0.5, 0.5, -1.2), -0.58),
        // Darker than both neighbours: a thin vertical line, a thin horizontal one.
        4 => ([[0., 0., 0., third, -2. * third, third, 0., 0., 0.]; 3], -0.9),
        5 => ([[0., third, 0., 0., -2. * third, 0., 0., third, 0.]; 3], -0.9),
        // Skin or red, and red alone: `layer1` takes the one from the other.
        FACE => (centre(1., -1., 0.), -0.1),
        REDDER => (centre(1., -1., 0.), -0.45),
        7 | THIN_RED | SHAPE => ([[0.; 9]; 3], 0.),
        _ => {
            let mut random = || std::array::from_fn(|_| rng.random_range(-0.2..0.2));
            ([random(), random(), random()], 0.)
        }
    }
}
