//! What several tests need.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tempfile::TempDir;

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

/// One run of a program in a folder of its own.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The variables by which settings of who runs the tests would reach a program: options, caches, proxies.
pub(crate) fn settings_of_the_user() -> Vec<OsString> {
    let is_setting = |name: &str| {
        let name = name.to_uppercase();
        let own = ["MILAN_", "HF_", "XDG_"].iter().any(|it| name.starts_with(it));
        own || name.ends_with("_PROXY")
            || ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"].contains(&name.as_str())
    };
    let names = std::env::vars_os().map(|it| it.0);
    names.filter(|it| it.to_str().is_some_and(is_setting)).collect()
}

/// A program that runs in a folder, and finds no files of who runs the tests.
pub(crate) fn program(name: &str, folder: &Path) -> Command {
    let mut command = match name {
        "milan-audit" => Command::new(env!("CARGO_BIN_EXE_milan-audit")),
        "milan-train" => Command::new(env!("CARGO_BIN_EXE_milan-train")),
        _ => Command::new(env!("CARGO_BIN_EXE_milan-edit")),
    };
    for name in settings_of_the_user() {
        command.env_remove(name);
    }
    command.env("HOME", folder.join("home")).current_dir(folder);
    command
}

pub(crate) fn run(program: &str, folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = self::program(program, folder);
    // Most networks here are planted, and their drawings have labels.
    command.env("MILAN_DESCRIBER", "labels");
    if folder.join("model.safetensors").exists() && !arguments.contains(&"--model") {
        command.env("MILAN_MODEL", "model.safetensors").env("MILAN_DATA", "pictures");
    }
    let output = command.args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The program must end with this code and this one line on stderr.
#[track_caller]
pub(crate) fn check_error(
    program: &str,
    folder: &Path,
    arguments: &[&str],
    code: i32,
    wanted: &str,
) {
    let ran = run(program, folder, arguments);
    let stderr = ran.stderr.replace(&folder.display().to_string(), "DIR");
    assert_eq!((ran.code, stderr.as_str()), (code, format!("{wanted}\n").as_str()));
}

/// A planted model and its pictures as a user's own: `model.safetensors` and `pictures/`, which [`run`] runs on.
pub(crate) fn planted_files() -> (TempDir, PathBuf) {
    let folder = folder();
    milan::planted::write(folder.path()).unwrap();
    let model = folder.path().join("model.safetensors");
    (folder, model)
}
