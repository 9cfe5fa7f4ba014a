//! Arrays in numpy's format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use regex::Regex;

use crate::{files, inconclusive};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// The start of a file of unsigned bytes in format 1.0: magic, version, and a Python dict padded with
/// spaces so that the data begins at a multiple of 64.
pub fn header(shape: &[usize]) -> Vec<u8> {
    let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let mut dict = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape}), }}");
    let unpadded = 10 + dict.len() + 1;
    dict.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    dict.push('\n');
    let mut header = MAGIC.to_vec();
    header.extend([1, 0]);
    header.extend((dict.len() as u16).to_le_bytes());
    header.extend(dict.into_bytes());
    header
}

/// An array on disk, row by row, of which parts are read.
pub struct Npy {
    path: PathBuf,
    pub shape: Vec<usize>,
    /// As numpy writes it, such as `|u1`.
    pub dtype: String,
    /// Where the data begins, in bytes.
    start: u64,
    file: Mutex<File>,
}

impl Npy {
    /// Errs where the file is no array, is laid out by columns, or is shorter than its shape.
    pub fn open(path: &Path) -> anyhow::Result<Npy> {
        let open = || {
            let mut file = files::open(path)?;
            let mut read = |n: usize| {
                let mut bytes = vec![0; n];
                file.read_exact(&mut bytes)
                    .map_err(|error| inconclusive!("it is cut off: {error}"))?;
                anyhow::Ok(bytes)
            };
            let start = read(8)?;
            if &start[..6] != MAGIC {
                return Err(inconclusive!("it is no array of numpy's"));
            }
            // The header's length has two bytes in version 1, and four later.
            let n_length = if start[6] == 1 { 2 } else { 4 };
            let length = read(n_length)?;
            let length = length.iter().rev().fold(0usize, |sum, &it| sum << 8 | usize::from(it));
            if 1 << 16 < length {
                return Err(inconclusive!("its header is {length} bytes long"));
            }
            let header = String::from_utf8_lossy(&read(length)?).into_owned();
            let field = |pattern: &str| {
                let found = Regex::new(pattern)?.captures(&header).map(|it| it[1].to_owned());
                found.ok_or_else(|| inconclusive!("its header is `{}`", header.trim()))
            };
            let dtype = field(r"'descr': '([^']*)'")?;
            if field("'fortran_order': (True|False)")? == "True" {
                return Err(inconclusive!("it is laid out by columns"));
            }
            let shape = field(r"'shape': \(([0-9, ]*)\)")?;
            let shape = shape.split(',').map(str::trim).filter(|it| !it.is_empty());
            let shape: Result<Vec<usize>, _> = shape.map(str::parse).collect();
            let width = dtype.trim_start_matches(|it: char| !it.is_ascii_digit()).parse::<u64>();
            let (Ok(shape), Ok(width)) = (shape, width) else {
                return Err(inconclusive!("its header is `{}`", header.trim()));
            };
            let start = (8 + n_length + length) as u64;
            let size = shape.iter().try_fold(width, |n, &it| n.checked_mul(it as u64));
            let (found, wanted) = (file.metadata()?.len(), size.map(|it| it.saturating_add(start)));
            if wanted.is_none_or(|it| found < it) {
                return Err(inconclusive!("it is cut off: {dtype} {shape:?} in {found} bytes"));
            }
            Ok(Npy { path: path.to_owned(), shape, dtype, start, file: Mutex::new(file) })
        };
        open().with_context(|| format!("cannot use {}", path.display()))
    }

    /// sha256 of the whole file.
    pub fn digest(&self) -> anyhow::Result<String> {
        Ok(crate::files::digest(&self.path)?.1)
    }

    /// So many bytes of the data from a place on.
    pub fn read(&self, from: usize, n: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.start + from as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, kind};

    /// The bytes of `numpy.lib.format.write_array_header_1_0` for `uint8` of this shape.
    #[test]
    fn the_header_is_numpys() {
        let header = header(&[2, 15, 3, 224, 224]);
        assert_eq!(header.len(), 128);
        let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 15, 3, 224, 224), }";
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(&header[10..10 + text.len()], text.as_bytes());
        assert_eq!(header.last(), Some(&b'\n'));
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        let open = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Npy::open(&path)
        };
        let whole = [header(&[2, 3]), vec![1, 2, 3, 4, 5, 6]].concat();
        let array = open(&whole).unwrap();
        assert_eq!((&array.shape[..], array.dtype.as_str()), (&[2, 3][..], "|u1"));
        assert_eq!(array.read(3, 2).unwrap(), [4, 5]);
        let text = |from: &str, to: &str| {
            let text: Vec<u8> = whole[10..128].to_vec();
            let text = String::from_utf8(text).unwrap().replace(from, to);
            [&whole[..10], text.as_bytes(), &whole[128..]].concat()
        };
        for (bytes, part) in [
            (b"PK\x03\x04 and more".to_vec(), "no array of numpy's"),
            (whole[..whole.len() - 1].to_vec(), "cut off: |u1 [2, 3]"),
            (text("False", "True "), "by columns"),
            (text("'descr'", "'other'"), "its header is"),
            (text("(2, 3)", "(-2, )"), "its header is"),
            (text("|u1", "|O "), "its header is"),
            (whole[..5].to_vec(), "cut off"),
        ] {
            let error = open(&bytes).err().unwrap();
            assert!(format!("{error:#}").contains(part), "{error:#}");
            assert_eq!(kind(&error), Kind::Inconclusive, "{error:#}");
        }
    }
}
