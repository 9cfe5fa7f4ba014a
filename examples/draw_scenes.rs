//! Draws some scenes side by side into a PNG and prints what is in the first.
//!
//! `cargo run --release --example draw_scenes -- demo:60:0:mixed scenes.png`

#![allow(clippy::print_stdout)]

use anyhow::Context;
use image::{RgbImage, imageops};
use milan::data::scenes::{CLASSES, SIDE, Scenes};

/// Pictures in a row.
const ACROSS: u32 = 10;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let scenes: Scenes = args.next().context("which? such as demo:60:0:mixed")?.parse()?;
    let file = args.next().context("and into which PNG?")?;
    let rows = (scenes.n as u32).div_ceil(ACROSS);
    let mut sheet = RgbImage::new(ACROSS * SIDE, rows * SIDE);
    for number in 0..scenes.n {
        let scene = scenes.draw(number);
        let (x, y) = (number as u32 % ACROSS * SIDE, number as u32 / ACROSS * SIDE);
        imageops::replace(&mut sheet, &scene.picture, x.into(), y.into());
        if number == 0 {
            println!("the first is a {}:", CLASSES[scene.label]);
            for element in &scene.elements {
                let n = element.mask.iter().filter(|it| **it).count();
                println!("{n:5} pixels: {}", element.phrases.join(", "));
            }
        }
    }
    sheet.save(&file).with_context(|| format!("cannot write {file}"))
}
