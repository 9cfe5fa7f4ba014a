//! Pictures as Pillow and torchvision see them, by `tests/data/pictures.py`.

use std::collections::BTreeMap;
use std::path::Path;

use image::RgbImage;
use milan::data::decode;
use milan::data::preprocess::{Filter, Preprocess, Resize};
use serde::Deserialize;

use crate::support::unhex;

#[derive(Deserialize)]
struct Golden {
    /// Pixels in hex by file name.
    files: BTreeMap<String, String>,
    cropped: Vec<Cropped>,
}

#[derive(Deserialize)]
struct Cropped {
    size: (u32, u32),
    resize: u32,
    exact: bool,
    crop: u32,
    filter: String,
    pixels: String,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../data/pictures.json")).unwrap()
}

/// The script's formula.
fn formula(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let edge = if y < x { 120 } else { 0 };
        let value = |c: u32| (x * x / 3 + y * (5 + c) + x * y / 7 + edge + 40 * c) % 256;
        image::Rgb([0, 1, 2].map(|c| value(c) as u8))
    })
}

/// Mean and greatest absolute difference, in levels of 0 to 255.
fn difference(found: &[u8], wanted: &[u8]) -> (f64, u8) {
    assert_eq!(found.len(), wanted.len());
    let each = || found.iter().zip(wanted).map(|(a, b)| a.abs_diff(*b));
    let mean = each().map(f64::from).sum::<f64>() / found.len() as f64;
    (mean, each().max().unwrap())
}

#[test]
fn files_of_every_kind_decode_as_in_pillow() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pictures");
    for (name, pixels) in golden().files {
        let found = decode(&std::fs::read(folder.join(&name)).unwrap()).unwrap();
        let (mean, most) = difference(found.as_raw(), &unhex(&pixels));
        println!("{name}: mean {mean:.3}, most {most}");
        // Decoders of JPEG may round and blend colours a little differently; the others may not.
        let lossy = name.ends_with(".jpg");
        assert!(if lossy { mean <= 1. } else { most == 0 }, "{name}: {mean}, {most}");
    }
}

#[test]
fn resizing_and_cropping_are_torchvisions() {
    for golden in golden().cropped {
        let (width, height) = golden.size;
        let preprocess = Preprocess {
            resize: if golden.exact {
                Resize::Exact(golden.resize)
            } else {
                Resize::ShortSide(golden.resize)
            },
            filter: if golden.filter == "bicubic" { Filter::Bicubic } else { Filter::Bilinear },
            crop: golden.crop,
            mean: [0.; 3],
            std: [1.; 3],
        };
        let found = preprocess.crop(&formula(width, height)).unwrap();
        let (mean, most) = difference(found.as_raw(), &unhex(&golden.pixels));
        let what = format!("{width}x{height} {} {}", golden.resize, golden.filter);
        println!("{what}: mean {mean:.3}, most {most}");
        // A cubic overshoots at edges, and where that is cut off depends on the order of the axes.
        let bound = if golden.filter == "bicubic" { 255 } else { 1 };
        assert!(mean <= 0.5 && most <= bound, "{what}: {mean}, {most}");
    }
}

#[test]
fn damaged_files_are_errors_that_say_so() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pictures");
    let whole = std::fs::read(folder.join("plain.jpg")).unwrap();
    let mut header = whole.clone();
    header[2..40].fill(0);
    let mut huge = whole.clone();
    let frame = whole.windows(2).position(|it| it == [0xff, 0xc0]).unwrap();
    huge[frame + 5..frame + 9].fill(0x7f);
    let cut = |n: usize| whole[..n].to_vec();
    for (bytes, said) in [
        (vec![], "it is no JPEG, PNG, WebP, BMP or GIF"),
        (b"not a picture".to_vec(), "it is no JPEG, PNG, WebP, BMP or GIF"),
        (cut(3), "it is truncated"),
        (cut(whole.len() / 2), "it is truncated"),
        (cut(whole.len() - 30), "it is truncated"),
        (header, "damaged"),
        (huge, "it claims 32639x32639 pixels"),
    ] {
        let error = decode(&bytes).expect_err(said).to_string();
        assert!(error.starts_with(said) && !error.contains('\n'), "{error}");
    }
}
