//! A tiny world in which the truth is known: drawn pictures, and a network whose units are planted.
//!
//! Five classes of 32-pixel pictures: a red, green, blue or yellow shape, or a few letters. The
//! network is a ResNet-8 whose first filters are set by hand: one a colour, two for thin dark lines
//! (which only letters have), a copy, a dead one, and random ones. Its blocks pass them on, and its
//! last layer reads each class from its own units. So a describer should call the line detectors
//! `text`, and deleting them should take away the letters and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use image::{Rgb, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};

use crate::model::zoo;

/// The demo's files.
pub struct Demo {
    /// `model.safetensors`.
    pub model: PathBuf,
    /// A folder for each class.
    pub pictures: PathBuf,
}

/// The classes, in the order of the network's outputs, which is that of their names.
pub const CLASSES: [&str; 5] = ["blue", "green", "red", "text", "yellow"];

const PICTURES_PER_CLASS: usize = 40;
const SIDE: u32 = 32;
const SEED: u64 = 0;

/// Writes the demo's model and pictures into `folder`; the same bytes every time.
pub fn write(folder: &Path) -> anyhow::Result<Demo> {
    let demo = Demo { model: folder.join("model.safetensors"), pictures: folder.join("pictures") };
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    for class in CLASSES {
        let class_folder = demo.pictures.join(class);
        std::fs::create_dir_all(&class_folder)
            .with_context(|| format!("cannot make the demo's folder {}", class_folder.display()))?;
        for i in 0..PICTURES_PER_CLASS {
            let file = class_folder.join(format!("{i:02}.png"));
            let picture = draw(class, &mut rng);
            picture.save(&file).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    std::fs::write(&demo.model, checkpoint(&mut rng)?)
        .with_context(|| format!("cannot write {}", demo.model.display()))?;
    Ok(demo)
}

/// One picture of a class: a shape or letters on light grey, often with a speck of another colour.
fn draw(class: &str, rng: &mut ChaCha8Rng) -> RgbImage {
    let background = rng.random_range(190..=225u8);
    let mut picture = RgbImage::from_fn(SIDE, SIDE, |_, _| {
        let noise = rng.random_range(0..10u8);
        Rgb([background + noise; 3])
    });
    if class == "text" {
        let at = |rng: &mut ChaCha8Rng, most: u32| rng.random_range(1..=most);
        let y = at(rng, SIDE - 9);
        let x = at(rng, SIDE - 20);
        for letter in 0..3 {
            write_letter(&mut picture, rng.random_range(0..LETTERS.len()), x + 6 * letter, y);
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

/// Letters of 5 × 7 pixels, a row a line.
const LETTERS: [[&str; 7]; 6] = [
    ["#####", "#....", "#....", "####.", "#....", "#....", "#####"], // E
    ["#...#", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"], // H
    ["#....", "#....", "#....", "#....", "#....", "#....", "#####"], // L
    ["#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."], // T
    ["#####", "#....", "#....", "####.", "#....", "#....", "#...."], // F
    ["#####", "#...#", "#...#", "#...#", "#...#", "#...#", "#####"], // O
];

fn write_letter(picture: &mut RgbImage, letter: usize, left: u32, top: u32) {
    for (y, row) in LETTERS[letter].iter().enumerate() {
        for (x, _) in row.bytes().enumerate().filter(|&(_, mark)| mark == b'#') {
            picture.put_pixel(left + x as u32, top + y as u32, Rgb([20; 3]));
        }
    }
}

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
        if let Some((_, old)) = tensors.get_mut(name) {
            assert_eq!(old.len(), values.len(), "{name}");
            *old = values;
        }
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
    // Each stage carries the units before it on, and adds mixtures of a few of them.
    for (stage, n_in) in [(2, 16), (3, 32)] {
        let mut mix = vec![0f32; 2 * n_in * n_in];
        for unit in 0..n_in {
            mix[unit * n_in + unit] = 1.;
            for _ in 0..3 {
                mix[(n_in + unit) * n_in + rng.random_range(8..n_in.min(16))] =
                    rng.random_range(0.1..0.5);
            }
        }
        set(&format!("layer{stage}.0.shortcut.0.weight"), mix);
        set(&format!("layer{stage}.0.shortcut.1.weight"), vec![1.; 2 * n_in]);
    }
    // Each class is read from its own units; letters cover few pixels, so they count for more.
    let mut head = vec![0f32; CLASSES.len() * 64];
    let reads: [(&str, &[usize], f32); 5] = [
        ("blue", &[2], 30.),
        ("green", &[1], 30.),
        ("red", &[0, 6], 15.),
        ("text", &[4, 5], 150.),
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
        7 => ([[0.; 9]; 3], 0.),
        _ => {
            let mut random = || std::array::from_fn(|_| rng.random_range(-0.2..0.2));
            ([random(), random(), random()], 0.)
        }
    }
}
