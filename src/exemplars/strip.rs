//! What a unit fires on, to be looked at: its best pictures side by side, dark but for where it fires.

use std::collections::BTreeMap;

use anyhow::Context;
use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};

use super::SiteExemplars;

/// Pictures in a strip.
const PICTURES: usize = 5;
/// The side of one, in pixels.
const SIDE: u32 = 96;
/// How much of the light is left where the unit does not fire, of 256.
const DIM: u16 = 70;
const QUALITY: f32 = 80.;

/// A JPEG for each of some units of a site. `crop` gives a picture by its id, as the network saw it; it is asked once
/// for each.
pub fn strips(
    site: &SiteExemplars,
    units: &[usize],
    mut crop: impl FnMut(usize) -> anyhow::Result<RgbImage>,
) -> anyhow::Result<BTreeMap<usize, Vec<u8>>> {
    let mut by_picture: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new(); // id: (unit, rank)
    for &unit in units {
        for (rank, &id) in site.ids(unit).iter().enumerate().take(PICTURES) {
            by_picture.entry(id).or_default().push((unit, rank));
        }
    }
    let width = SIDE * PICTURES.min(site.k) as u32;
    let mut strips: BTreeMap<usize, RgbImage> =
        units.iter().map(|&unit| (unit, RgbImage::new(width, SIDE))).collect();
    for (id, places) in by_picture {
        let small = resize(&crop(id)?, SIDE, SIDE, FilterType::Triangle);
        for (unit, rank) in places {
            let mask = site.mask(unit, rank, SIDE as usize);
            let Some(strip) = strips.get_mut(&unit) else { continue };
            for (x, y, pixel) in small.enumerate_pixels() {
                let lit = mask[y as usize * SIDE as usize + x as usize];
                let dim = |it: u8| (u16::from(it) * DIM / 256) as u8;
                let shown = if lit { *pixel } else { Rgb(pixel.0.map(dim)) };
                strip.put_pixel(rank as u32 * SIDE + x, y, shown);
            }
        }
    }
    strips.into_iter().map(|(unit, strip)| Ok((unit, jpeg(&strip)?))).collect()
}

fn jpeg(picture: &RgbImage) -> anyhow::Result<Vec<u8>> {
    let compress = || -> std::io::Result<Vec<u8>> {
        let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
        compress.set_size(picture.width() as usize, picture.height() as usize);
        compress.set_quality(QUALITY);
        let mut started = compress.start_compress(Vec::new())?;
        started.write_scanlines(picture)?;
        started.finish()
    };
    compress().context("cannot write a picture as JPEG")
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn a_strip_is_lit_where_the_unit_fires() {
        let site = SiteExemplars {
            site: "a".into(),
            n_units: 1,
            k: 2,
            quantile: 0.5,
            map: (1, 2),
            n_pictures: 3,
            ids: vec![2, 0],
            activations: vec![1., 1.],
            // It fires on the left of the first picture and nowhere in the second.
            maps: [1., 0., 0., 0.].map(f16::from_f32).to_vec(),
            thresholds: vec![0.9],
            dead: vec![false],
            saturated: vec![false],
        };
        let strips =
            strips(&site, &[0], |_| Ok(RgbImage::from_pixel(8, 8, Rgb([200, 200, 200])))).unwrap();
        let strip = mozjpeg::Decompress::new_mem(&strips[&0]).unwrap();
        assert_eq!(strip.size(), (192, 96));
        let pixels: Vec<[u8; 3]> = strip.rgb().unwrap().read_scanlines().unwrap();
        let at = |x: usize| pixels[48 * 192 + x][0];
        assert!(190 < at(24), "{}", at(24));
        assert!(at(94) < 80 && at(100) < 80, "{} {}", at(94), at(100));
    }
}
