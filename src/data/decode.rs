//! The bytes of a picture file as red, green and blue.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, bail};
use image::{DynamicImage, ImageReader, Limits, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// The longest side in pixels: a small file can claim a picture that no memory holds.
const MAX_SIDE: usize = 16_384;
const MAX_PIXELS: u64 = 100_000_000;

/// Decodes JPEG, PNG, WebP, BMP and GIF (its first picture) to RGB, as Pillow's `convert("RGB")` does:
/// transparency is dropped, not blended, and the orientation in EXIF is not applied.
///
/// Errs on damaged and truncated files, and on pictures beyond 16,384 pixels a side or 100 megapixels.
pub fn decode(bytes: &[u8]) -> anyhow::Result<RgbImage> {
    // A decoder's own mistake in one file must not end the run.
    let decoded = catch_unwind(AssertUnwindSafe(|| match bytes {
        [0xff, 0xd8, ..] => decode_jpeg(bytes),
        _ => decode_other(bytes),
    }));
    decoded.unwrap_or_else(|_| bail!("the decoder failed on it"))
}

fn decode_jpeg(bytes: &[u8]) -> anyhow::Result<RgbImage> {
    if !bytes.windows(2).rev().any(|it| it == [0xff, 0xd9]) {
        bail!("it is truncated: the JPEG has no end");
    }
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let pixels =
        decoder.decode().map_err(|error| anyhow::anyhow!("damaged JPEG: {}", one_line(&error)))?;
    let (width, height) = decoder.dimensions().context("the JPEG has no size")?;
    RgbImage::from_raw(width as u32, height as u32, pixels)
        .context("the JPEG holds fewer pixels than it says")
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
        DynamicImage::ImageRgb16(_) | DynamicImage::ImageRgba16(_) => {
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
