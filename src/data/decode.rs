//! The bytes of a picture file as red, green and blue.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, bail};
use image::{DynamicImage, GrayImage, ImageReader, Limits, RgbImage};
use mozjpeg::{ColorSpace, Decompress};

/// The longest side in pixels: a small file can claim a picture that no memory holds.
const MAX_SIDE: usize = 16_384;
const MAX_PIXELS: u64 = 100_000_000;

/// Decodes JPEG, PNG, WebP, BMP and GIF (its first picture) to RGB, as Pillow's `convert("RGB")` does:
/// transparency is dropped, not blended, and the orientation in EXIF is not applied.
///
/// Errs on damaged and truncated files, and on pictures beyond 16,384 pixels a side or 100 megapixels.
pub fn decode(bytes: &[u8]) -> anyhow::Result<RgbImage> {
    guarded(|| match bytes {
        [0xff, 0xd8, ..] => decode_jpeg(bytes),
        _ => decode_other(bytes),
    })
}

/// Decodes to grey, and a JPEG only to an eighth, a quarter or a half where the short side keeps so many pixels: a part of
/// what [`decode`] costs, for who wants no more than an impression.
pub(super) fn decode_small(bytes: &[u8], least_side: u32) -> anyhow::Result<GrayImage> {
    guarded(|| match bytes {
        [0xff, 0xd8, ..] => small_jpeg(bytes, least_side),
        _ => decode_other(bytes).map(|it| grey(&it)),
    })
}

/// As JPEG weighs colours.
pub(super) fn grey(picture: &RgbImage) -> GrayImage {
    GrayImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [r, g, b] = picture.get_pixel(x, y).0.map(u32::from);
        image::Luma([((299 * r + 587 * g + 114 * b + 500) / 1000) as u8])
    })
}

/// libjpeg's errors unwind, and a decoder's own mistake in one file must not end the run.
fn guarded<T>(decode: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    decoded.unwrap_or_else(|thrown| match thrown.downcast_ref::<String>() {
        Some(what) => bail!("damaged: {}", what.trim_start_matches("libjpeg fatal error: ")),
        None => bail!("the decoder failed on it"),
    })
}

fn small_jpeg(bytes: &[u8], least_side: u32) -> anyhow::Result<GrayImage> {
    let mut decoder = open_jpeg(bytes)?;
    if is_of_inks(&decoder) {
        return decode_jpeg(bytes).map(|it| grey(&it));
    }
    let (width, height) = decoder.size();
    let short = width.min(height);
    decoder
        .scale([1, 2, 4].into_iter().find(|it| least_side as usize <= short * it / 8).unwrap_or(8)
            as u8);
    let mut started = decoder.grayscale().map_err(broken)?;
    let (width, height) = (started.width(), started.height());
    let pixels = started.read_scanlines::<u8>().map_err(broken)?;
    started.finish().map_err(broken)?;
    GrayImage::from_raw(width as u32, height as u32, pixels)
        .context("the JPEG holds fewer pixels than it says")
}

fn broken(error: std::io::Error) -> anyhow::Error {
    anyhow::anyhow!("damaged JPEG: {}", one_line(&error))
}

fn is_of_inks<R>(decoder: &Decompress<R>) -> bool {
    [ColorSpace::JCS_CMYK, ColorSpace::JCS_YCCK].contains(&decoder.color_space())
}

/// Errs where a file is cut off, or claims to be larger than is read.
fn open_jpeg(bytes: &[u8]) -> anyhow::Result<Decompress<&[u8]>> {
    // libjpeg paints what is missing grey. The end must come after the last scan begins: an earlier one is
    // that of a thumbnail.
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|it| it == marker);
    if last([0xff, 0xd9]) <= last([0xff, 0xda]) {
        bail!("it is truncated: the JPEG has no end");
    }
    let decoder = Decompress::new_mem(bytes).map_err(broken)?;
    let (width, height) = decoder.size();
    if MAX_SIDE < width.max(height) || MAX_PIXELS < (width * height) as u64 {
        bail!("it claims {width}x{height} pixels, more than is read");
    }
    Ok(decoder)
}

fn decode_jpeg(bytes: &[u8]) -> anyhow::Result<RgbImage> {
    let decoder = open_jpeg(bytes)?;
    let (width, height) = decoder.size();
    let pixels = if is_of_inks(&decoder) {
        let mut started = decoder.to_colorspace(ColorSpace::JCS_CMYK).map_err(broken)?;
        let inks: Vec<[u8; 4]> = started.read_scanlines().map_err(broken)?;
        started.finish().map_err(broken)?;
        inks.into_iter().flat_map(light).collect()
    } else {
        let mut started = decoder.rgb().map_err(broken)?;
        let pixels = started.read_scanlines::<u8>().map_err(broken)?;
        started.finish().map_err(broken)?;
        pixels
    };
    RgbImage::from_raw(width as u32, height as u32, pixels)
        .context("the JPEG holds fewer pixels than it says")
}

/// Inks to red, green and blue as Pillow mixes them; JPEG files hold them inverted.
fn light([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let share = |ink: u8| {
        let product = u32::from(255 - ink) * u32::from(k) + 128;
        k - (((product >> 8) + product) >> 8) as u8
    };
    [c, m, y].map(share)
}

fn decode_other(bytes: &[u8]) -> anyhow::Result<RgbImage> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    if reader.format().is_none() {
        bail!("it is no JPEG, PNG, WebP, BMP or GIF");
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    limits.max_alloc = Some(8 * MAX_PIXELS);
    reader.limits(limits);
    let picture =
        reader.decode().map_err(|error| anyhow::anyhow!("damaged: {}", one_line(&error)))?;
    Ok(match picture {
        // Sixteen bits to eight as Pillow does: the high byte.
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => {
            let wide = picture.to_rgb16();
            RgbImage::from_fn(wide.width(), wide.height(), |x, y| {
                image::Rgb(wide.get_pixel(x, y).0.map(|value| (value >> 8) as u8))
            })
        }
        other => other.to_rgb8(),
    })
}

fn one_line(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(120).collect()
}
