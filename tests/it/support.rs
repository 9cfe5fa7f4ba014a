//! What several tests need.

use std::path::{Path, PathBuf};

/// A folder of the research data beside the project; says the test's name and is `None` where it is absent.
#[track_caller]
pub(crate) fn shared_data(what: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(what);
    if path.exists() {
        return Some(path);
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    println!("skipped {test}: ../shared/data/{what} is absent");
    None
}

/// A text must be that of a file of the repository. With `BLESS=1` in the environment the file is written.
#[track_caller]
pub(crate) fn check_file(path: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "not {}; BLESS=1 writes it anew:\n{found}", path.display());
}

/// Bytes written in hex.
pub(crate) fn unhex(hex: &str) -> Vec<u8> {
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(byte).collect()
}
