//! The folders of `src` only use folders before them: the data flows one way.

use std::path::{Path, PathBuf};

/// In the order of the data. A folder may use itself and those before it.
const ORDER: &[&str] = &[
    "error",
    "files",
    "toml_file",
    "unit",
    "weights",
    "data",
    "model",
    "demo",
    "planted",
    "exemplars",
    "describe",
    "policy",
    "edit",
    "evaluate",
    "report",
    "pass",
    "subject",
    "importance",
    "ruling",
    "record",
    "sweep",
    "measure",
    "verify",
    "audit",
    "revise",
    "train",
    "cli",
];

/// What a folder must not know although it comes before.
const NARROWER: &[(&str, &[&str])] = &[
    (
        "policy",
        &[
            "candle_core",
            "crate::weights",
            "crate::model",
            "crate::data",
            "crate::exemplars",
            "crate::describe",
        ],
    ),
    ("report", &["candle_core", "crate::weights::Weights", "crate::model", "crate::exemplars"]),
    ("edit", &["crate::policy", "std::fs"]),
    ("model", &["crate::data", "std::fs"]),
    ("evaluate", &["candle_core", "crate::model"]),
];

#[test]
fn folders_only_use_the_ones_before_them() {
    let mut wrong = Vec::new();
    for (rank, folder) in ORDER.iter().enumerate() {
        let never =
            NARROWER.iter().filter(|(it, _)| it == folder).flat_map(|(_, never)| never.iter());
        let later = ORDER[rank + 1..].iter().map(|it| format!("crate::{it}"));
        let forbidden: Vec<String> = later.chain(never.map(|it| (*it).to_owned())).collect();
        for file in files_of(folder) {
            let text = std::fs::read_to_string(&file).unwrap();
            for name in forbidden.iter().filter(|name| uses(&text, name)) {
                wrong.push(format!("{} uses {name}", file.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_folder_has_its_place_in_the_order() {
    let listed = std::fs::read_to_string(src().join("lib.rs")).unwrap();
    let modules =
        listed.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let unplaced: Vec<&str> = modules.filter(|module| !ORDER.contains(module)).collect();
    assert_eq!(unplaced, Vec::<&str>::new());
}

/// Whether the path is used, and not only as the beginning of a longer name.
fn uses(text: &str, path: &str) -> bool {
    text.match_indices(path).any(|(at, _)| {
        !text[at + path.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files_of(module: &str) -> Vec<PathBuf> {
    let mut files = vec![];
    let file = src().join(format!("{module}.rs"));
    if file.exists() {
        files.push(file);
    }
    collect(&src().join(module), &mut files);
    assert!(!files.is_empty(), "{module} is listed but is not there");
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}
