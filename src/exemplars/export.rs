//! Exemplars in the files of the reference implementation (neuron-descriptions, `exemplars/compute.py`):
//! `images.npy`, `masks.npy`, `ids.csv`, `activations.csv` in each layer's folder.

use std::collections::BTreeMap;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::ensure;

use super::SiteExemplars;
use super::store::site_folder;
use crate::data::npy;
use crate::files::{write_beside, write_whole};

/// The reference's side of pictures and masks, in pixels.
pub const SIDE: usize = 224;

/// Writes one site in constant memory. `picture` gives a picture by id, `(3, side, side)` bytes, and is
/// asked once for each: a picture is written at all its places in the file at once.
pub fn export(
    out: &Path,
    site: &SiteExemplars,
    side: usize,
    picture: &mut dyn FnMut(usize) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<()> {
    let folder = site_folder(out, &site.site);
    let (u, k) = (site.n_units, site.k);
    let mut places: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for (place, &id) in site.ids.iter().enumerate() {
        places.entry(id).or_default().push(place as u64);
    }
    write_beside(&folder.join("images.npy"), |file| {
        let header = npy::header(&[u, k, 3, side, side]);
        file.write_all(&header)?;
        for (id, places) in places {
            let bytes = picture(id)?;
            let n = bytes.len();
            ensure!(n == 3 * side * side, "picture {id} is {n} bytes, not 3 x {side} x {side}");
            for place in places {
                file.seek(SeekFrom::Start(header.len() as u64 + place * n as u64))?;
                file.write_all(&bytes)?;
            }
        }
        Ok(())
    })?;
    write_beside(&folder.join("masks.npy"), |file| {
        let mut writer = BufWriter::new(file);
        writer.write_all(&npy::header(&[u, k, 1, side, side]))?;
        for (unit, rank) in (0..u).flat_map(|unit| (0..k).map(move |rank| (unit, rank))) {
            let mask: Vec<u8> = site.mask(unit, rank, side).into_iter().map(u8::from).collect();
            writer.write_all(&mask)?;
        }
        Ok(writer.flush()?)
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
}
