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
