//! Exemplars in the files of the reference implementation (neuron-descriptions, `exemplars/compute.py`):
//! `images.npy`, `masks.npy`, `ids.csv`, `activations.csv` in each layer's folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;

use super::SiteExemplars;
use super::store::{site_folder, write_whole};

/// The reference's side of pictures and masks, in pixels.
pub const SIDE: usize = 224;

/// Pictures kept decoded: the best ones recur over many units.
const CACHED: usize = 256;

/// Writes one site in constant memory. `picture` gives a picture by id, `(3, side, side)` bytes.
pub fn export(
    out: &Path,
    site: &SiteExemplars,
    side: usize,
    picture: &mut dyn FnMut(usize) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<()> {
    let folder = site_folder(out, &site.site);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let (u, k) = (site.n_units, site.k);
    let mut cache = BTreeMap::new();
    write_npy(&folder.join("images.npy"), &[u, k, 3, side, side], |file| {
        for &id in &site.ids {
            if !cache.contains_key(&id) {
                if CACHED <= cache.len() {
                    cache.pop_first();
                }
                cache.insert(id, picture(id)?);
            }
            file.write_all(&cache[&id])?;
        }
        Ok(())
    })?;
    write_npy(&folder.join("masks.npy"), &[u, k, 1, side, side], |file| {
        for unit in 0..u {
            for rank in 0..k {
                let mask: Vec<u8> = site.mask(unit, rank, side).into_iter().map(u8::from).collect();
                file.write_all(&mask)?;
            }
        }
        Ok(())
    })?;
    write_whole(&folder.join("ids.csv"), table(&site.ids, k, usize::to_string).as_bytes())?;
    write_whole(&folder.join("activations.csv"), table(&site.activations, k, scientific).as_bytes())
}

/// `(units, k)` values, a unit a line, as numpy's `savetxt` with commas.
fn table<T>(values: &[T], k: usize, text: impl Fn(&T) -> String) -> String {
    let line = |row: &[T]| row.iter().map(&text).collect::<Vec<_>>().join(",") + "\n";
    values.chunks(k).map(line).collect()
}

/// C's `%.5e`, which has a sign and at least two digits in the exponent.
fn scientific(value: &f32) -> String {
    let text = format!("{value:.5e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or_default();
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        None => text,
    }
}

/// Unsigned bytes in numpy's format 1.0, written beside and renamed.
fn write_npy(
    path: &Path,
    shape: &[usize],
    content: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let writing = || format!("cannot write {}", path.display());
    let folder = path.parent().with_context(writing)?;
    let file = tempfile::NamedTempFile::new_in(folder).with_context(writing)?;
    let mut writer: BufWriter<&File> = BufWriter::new(file.as_file());
    writer.write_all(&npy_header(shape)).with_context(writing)?;
    content(&mut writer).with_context(writing)?;
    writer.flush().with_context(writing)?;
    drop(writer);
    file.persist(path).with_context(writing)?;
    Ok(())
}

/// Magic, version, and a Python dict padded with spaces so that the data begins at a multiple of 64.
fn npy_header(shape: &[usize]) -> Vec<u8> {
    let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let mut dict = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape}), }}");
    let unpadded = 10 + dict.len() + 1;
    dict.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    dict.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((dict.len() as u16).to_le_bytes());
    header.extend(dict.into_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_c_writes_them() {
        let values = [0f32, 1., 123.456, -0.001_234_5, 1e-12, 3.4e30].map(|it| scientific(&it));
        assert_eq!(
            values,
            [
                "0.00000e+00",
                "1.00000e+00",
                "1.23456e+02",
                "-1.23450e-03",
                "1.00000e-12",
                "3.40000e+30"
            ]
        );
    }

    /// The bytes of `numpy.lib.format.write_array_header_1_0` for `uint8` of this shape.
    #[test]
    fn the_npy_header_is_numpys() {
        let header = npy_header(&[2, 15, 3, 224, 224]);
        assert_eq!(header.len(), 128);
        let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 15, 3, 224, 224), }";
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(&header[10..10 + text.len()], text.as_bytes());
        assert_eq!(header.last(), Some(&b'\n'));
    }
}
