//! From a picture to what a network reads, as torchvision's
//! `Resize(antialias) → CenterCrop → ToTensor → Normalize` on Pillow pictures.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

/// How a picture is brought to size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// The short side to so many pixels, the long one in proportion.
    ShortSide(u32),
    /// Both sides to so many pixels, unless they are already.
    Exact(u32),
}

/// How pixels are mixed in resizing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    Bilinear,
    Bicubic,
}

/// What is done to each picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    pub resize: Resize,
    pub filter: Filter,
    /// The side of the network's input, in pixels, cut from the middle.
    pub crop: u32,
    /// Of each colour, in 0..=1.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
const HALF: [f32; 3] = [0.5; 3];

impl Preprocess {
    /// The one table: what each architecture was trained with.
    ///
    /// For timm's vision transformers that is Steiner et al. 2021 (`augreg`). DeiT's and DINO's checkpoints have the
    /// same names and want ImageNet's mean and deviation: a `config.json` beside the weights, as timm writes it, says so
    /// ([`from_config`](Preprocess::from_config)) and goes before the table.
    pub fn of(arch: &str) -> Preprocess {
        let is_timm_vit = arch.starts_with("vit_") && arch.contains("_patch");
        let (resize, crop, mean, std) = match arch {
            "efficientnet_b1" => (Resize::ShortSide(256), 240, IMAGENET_MEAN, IMAGENET_STD),
            "efficientnet_b2" => (Resize::ShortSide(288), 288, IMAGENET_MEAN, IMAGENET_STD),
            "efficientnet_b3" => (Resize::ShortSide(320), 300, IMAGENET_MEAN, IMAGENET_STD),
            "efficientnet_b4" => (Resize::ShortSide(384), 380, IMAGENET_MEAN, IMAGENET_STD),
            "efficientnet_b5" => (Resize::ShortSide(456), 456, IMAGENET_MEAN, IMAGENET_STD),
            "efficientnet_b6" => (Resize::ShortSide(528), 528, IMAGENET_MEAN, IMAGENET_STD),
            "efficientnet_b7" => (Resize::ShortSide(600), 600, IMAGENET_MEAN, IMAGENET_STD),
            "efficientnet_lite0" => (Resize::ShortSide(256), 224, HALF, HALF),
            "efficientnet_lite1" => (Resize::ShortSide(272), 240, HALF, HALF),
            "efficientnet_lite2" => (Resize::ShortSide(292), 260, HALF, HALF),
            "efficientnet_lite3" => (Resize::ShortSide(312), 280, HALF, HALF),
            "efficientnet_lite4" => (Resize::ShortSide(332), 300, HALF, HALF),
            "vit_l_16" => (Resize::ShortSide(242), 224, IMAGENET_MEAN, IMAGENET_STD),
            _ if is_timm_vit => (Resize::ShortSide(248), 224, HALF, HALF),
            "small_resnet10" => (Resize::Exact(64), 64, IMAGENET_MEAN, IMAGENET_STD),
            _ if arch.starts_with("cifar_") => (Resize::Exact(32), 32, IMAGENET_MEAN, IMAGENET_STD),
            _ => (Resize::ShortSide(256), 224, IMAGENET_MEAN, IMAGENET_STD),
        };
        let is_bicubic = is_timm_vit || arch.starts_with("efficientnet_b");
        let filter = if is_bicubic { Filter::Bicubic } else { Filter::Bilinear };
        Preprocess { resize, filter, crop, mean, std }
    }

    /// What timm's `config.json` says in `pretrained_cfg`, if it says it.
    pub fn from_config(config: &serde_json::Value) -> Option<Preprocess> {
        let config = config.get("pretrained_cfg")?;
        let three = |key: &str| -> Option<[f32; 3]> {
            let values = config.get(key)?.as_array()?;
            let values: Vec<f32> =
                values.iter().filter_map(|it| Some(it.as_f64()? as f32)).collect();
            values.try_into().ok()
        };
        let crop = config.get("input_size")?.as_array()?.last()?.as_u64()? as u32;
        let share = config.get("crop_pct").and_then(serde_json::Value::as_f64).unwrap_or(0.875);
        if crop == 0 || !(0.1..=1.0).contains(&share) {
            return None;
        }
        let filter = match config.get("interpolation").and_then(serde_json::Value::as_str) {
            Some("bicubic") => Filter::Bicubic,
            _ => Filter::Bilinear,
        };
        let resize = Resize::ShortSide((f64::from(crop) / share).floor() as u32);
        Some(Preprocess { resize, filter, crop, mean: three("mean")?, std: three("std")? })
    }

    /// The picture resized and cut to `(crop, crop)`.
    pub fn crop(&self, picture: &RgbImage) -> anyhow::Result<RgbImage> {
        let (width, height) = picture.dimensions();
        let (new_width, new_height) = match self.resize {
            Resize::Exact(side) => (side, side),
            Resize::ShortSide(side) => {
                // torchvision cuts the fraction off.
                let long =
                    |short, long| (u64::from(side) * u64::from(long) / u64::from(short)) as u32;
                if width <= height {
                    (side, long(width, height))
                } else {
                    (long(height, width), side)
                }
            }
        };
        let resized = if (new_width, new_height) == (width, height) {
            picture.clone()
        } else {
            resize(picture, new_width, new_height, self.filter)?
        };
        Ok(centre_crop(&resized, self.crop))
    }

    /// The part of a picture of such sides that the network sees: left, top, width and height in its pixels.
    pub(super) fn seen_part(&self, (width, height): (u32, u32)) -> [f64; 4] {
        let (width, height) = (f64::from(width), f64::from(height));
        let crop = f64::from(self.crop);
        let (w, h) = match self.resize {
            Resize::Exact(side) => {
                (width * crop / f64::from(side), height * crop / f64::from(side))
            }
            Resize::ShortSide(side) => {
                let side = width.min(height) * crop / f64::from(side);
                (side, side)
            }
        };
        // What is black around a smaller picture is not of it.
        let (w, h) = (w.min(width), h.min(height));
        [(width - w) / 2., (height - h) / 2., w, h]
    }

    /// Values that a picture becomes.
    pub fn n_values(&self) -> usize {
        3 * self.crop as usize * self.crop as usize
    }

    /// Writes the normalised values `(3, crop, crop)`, row by row, of a picture from [`crop`](Preprocess::crop).
    pub fn normalise(&self, cropped: &RgbImage, values: &mut [f32]) {
        normalise(cropped, &self.mean, &self.std, values);
    }
}

/// Writes `(3, height, width)`: each colour in 0..=1, less its mean, in standard deviations.
pub fn normalise(picture: &RgbImage, mean: &[f32; 3], std: &[f32; 3], values: &mut [f32]) {
    let n = (picture.width() * picture.height()) as usize;
    debug_assert_eq!(values.len(), 3 * n);
    for (channel, values) in values.chunks_exact_mut(n.max(1)).enumerate() {
        for (value, pixel) in values.iter_mut().zip(picture.pixels()) {
            *value = (f32::from(pixel.0[channel]) / 255. - mean[channel]) / std[channel];
        }
    }
}

/// A square crop brought to another side, unless it has it already.
pub fn square(crop: &RgbImage, side: u32) -> anyhow::Result<RgbImage> {
    if crop.dimensions() == (side, side) {
        return Ok(crop.clone());
    }
    resize(crop, side, side, Filter::Bilinear)
}

fn resize(picture: &RgbImage, width: u32, height: u32, filter: Filter) -> anyhow::Result<RgbImage> {
    // Typed, because the crate's own dispatch over pixel types is compiled here for each of them.
    let source =
        TypedImageRef::<U8x3>::from_buffer(picture.width(), picture.height(), picture.as_raw())?;
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    let mut target = TypedImage::<U8x3>::from_buffer(width, height, &mut pixels)?;
    let filter = match filter {
        Filter::Bilinear => FilterType::Bilinear,
        // Pillow's cubic has a = −0.5, which is Catmull-Rom's.
        Filter::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    Resizer::new().resize_typed(&source, &mut target, &options)?;
    RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| anyhow::anyhow!("resizing to {width}x{height} gave too few pixels"))
}

/// The middle, rounded as torchvision does; a picture that is smaller gets black around it.
fn centre_crop(picture: &RgbImage, side: u32) -> RgbImage {
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    let wanted = i64::from(side);
    let start = |size: i64| {
        if size < wanted {
            // torchvision pads ⌊missing / 2⌋ before.
            -((wanted - size) / 2)
        } else {
            // Python rounds halves to even.
            let spare = size - wanted;
            if spare % 2 == 1 && spare / 2 % 2 == 1 { spare / 2 + 1 } else { spare / 2 }
        }
    };
    let (left, top) = (start(width), start(height));
    RgbImage::from_fn(side, side, |x, y| {
        let (x, y) = (i64::from(x) + left, i64::from(y) + top);
        if (0..width).contains(&x) && (0..height).contains(&y) {
            *picture.get_pixel(x as u32, y as u32)
        } else {
            image::Rgb([0; 3])
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_rounded_to_even() {
        // A picture whose red channel is the column: what is the first column kept?
        let first = |width: u32, side: u32| {
            let picture = RgbImage::from_fn(width, side, |x, _| image::Rgb([x as u8, 0, 0]));
            centre_crop(&picture, side).get_pixel(0, 0).0[0]
        };
        // int(round((w - s) / 2.0)) of Python: 0.5 → 0, 1.5 → 2, 2.5 → 2.
        assert_eq!([first(9, 8), first(11, 8), first(13, 8), first(12, 8)], [0, 2, 2, 2]);
    }

    #[test]
    fn a_smaller_picture_gets_black_around_it() {
        let picture = RgbImage::from_pixel(2, 3, image::Rgb([9, 9, 9]));
        let cropped = centre_crop(&picture, 4);
        let column: Vec<u8> = (0..4).map(|y| cropped.get_pixel(1, y).0[0]).collect();
        let row: Vec<u8> = (0..4).map(|x| cropped.get_pixel(x, 0).0[0]).collect();
        assert_eq!((column, row), (vec![9, 9, 9, 0], vec![0, 9, 9, 0]));
    }

    /// Against `EfficientNet_B0_Weights` and `EfficientNet_B4_Weights` of torchvision.
    #[test]
    fn efficientnets_are_larger_by_the_level() {
        for (arch, resize, crop) in [("efficientnet_b0", 256, 224), ("efficientnet_b4", 384, 380)] {
            let found = Preprocess::of(arch);
            assert_eq!((found.resize, found.crop), (Resize::ShortSide(resize), crop));
            assert_eq!((found.filter, found.mean), (Filter::Bicubic, IMAGENET_MEAN));
        }
    }

    /// timm's `vit_small_patch16_224.augreg_in21k_ft_in1k` beside what says how DINO was trained.
    #[test]
    fn a_config_goes_before_the_table() {
        let table = Preprocess::of("vit_small_patch16_224");
        let config = |mean: [f32; 3], std: [f32; 3], crop_pct: f64| {
            serde_json::json!({ "pretrained_cfg": { "input_size": [3, 224, 224], "crop_pct": crop_pct,
                "interpolation": "bicubic", "mean": mean, "std": std } })
        };
        assert_eq!(Preprocess::from_config(&config(HALF, HALF, 0.9)).unwrap(), table);
        let dino = config(IMAGENET_MEAN, IMAGENET_STD, 0.875);
        let dino = Preprocess::from_config(&dino).unwrap();
        assert_eq!((dino.mean, dino.resize), (IMAGENET_MEAN, Resize::ShortSide(256)));
        let torchvision = Preprocess::of("vit_b_16");
        assert_eq!((torchvision.mean, torchvision.filter), (IMAGENET_MEAN, Filter::Bilinear));
    }

    #[test]
    fn timm_says_how_in_its_config() {
        let config = serde_json::json!({ "pretrained_cfg": {
            "input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25] } });
        let found = Preprocess::from_config(&config).unwrap();
        assert_eq!((found.resize, found.filter), (Resize::ShortSide(235), Filter::Bicubic));
        assert_eq!(Preprocess::from_config(&serde_json::json!({ "pretrained_cfg": {} })), None);
    }
}
