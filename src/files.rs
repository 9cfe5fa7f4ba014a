//! Files on disk: what identifies them, and how they come to be there whole or not at all.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::error::without_numbers;

/// The most that is read of a file that people write by hand, such as a policy, in bytes.
pub const MAX_TEXT: u64 = 4 << 20;
/// The most that is read of a file that programs write, such as a report or a table, in bytes.
pub const MAX_DATA: u64 = 1 << 30;

/// Opens a file for reading. Errs, in words of our own where it is one of the commonest mistakes, where it cannot be read,
/// and where it is a pipe or a device, which may keep who opens or reads it waiting for ever.
pub fn open(path: &Path) -> Result<File> {
    let open = || {
        let is_file = |it: std::fs::Metadata| match it.file_type() {
            it if it.is_file() => Ok(()),
            it if it.is_dir() => Err(Error::other("it is a folder")),
            _ => Err(Error::other("it is a pipe or a device; wanted is a file")),
        };
        is_file(std::fs::metadata(path)?)?;
        let file = File::open(path)?;
        is_file(file.metadata()?)?; // It may be another one by now.
        Ok(file)
    };
    open().map_err(|error: Error| Error::new(error.kind(), plain(&error)))
}

/// What an error says, the commonest in words of our own.
pub fn plain(error: &Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file or folder".into(),
        ErrorKind::PermissionDenied => "permission denied".into(),
        _ => without_numbers(&error.to_string()),
    }
}

/// All of a file of at most so many bytes. Errs as [`open`], and on one that is larger.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::with_capacity(file.metadata()?.len().min(most) as usize);
    file.take(most + 1).read_to_end(&mut bytes)?;
    if most < bytes.len() as u64 {
        return Err(Error::other(format!(
            "it has more than {} MiB, the most that is read",
            most >> 20
        )));
    }
    Ok(bytes)
}

/// All of a text of at most [so many](MAX_TEXT) bytes. Errs as [`read`], and where it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let not_text = |_| Error::new(ErrorKind::InvalidData, "it is no text in UTF-8");
    String::from_utf8(read(path, MAX_TEXT)?).map_err(not_text)
}

/// Size and sha256 of a file, read in pieces.
pub fn digest(path: &Path) -> anyhow::Result<(u64, String)> {
    let reading = || format!("cannot read {}", path.display());
    let mut file = open(path).with_context(reading)?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut piece = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut piece).with_context(reading)?;
        if n == 0 {
            return Ok((size, hex(&hash.finalize())));
        }
        hash.update(&piece[..n]);
        size += n as u64;
    }
}

/// The sha256 of some bytes, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file that is there whole or not at all. Makes its folder.
pub fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_beside(path, |file| Ok(file.write_all(bytes)?))
}

/// Lets `content` write beside the path, then syncs and renames. Makes the folder.
pub fn write_beside(
    path: &Path,
    content: impl FnOnce(&mut NamedTempFile) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let write = || {
        let folder =
            path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut builder = tempfile::Builder::new();
        open_to_all(&mut builder, 0o666);
        let mut file = builder.prefix(".milan-").tempfile_in(folder)?;
        content(&mut file)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        anyhow::Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Temporary files are private by default; what we write is as open as the user's umask says.
pub fn open_to_all(builder: &mut tempfile::Builder<'_, '_>, mode: u32) {
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = (builder, mode);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_some_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a"), "text").unwrap();
        std::fs::write(at("b"), [0xff]).unwrap();
        let message = |it: Result<String>| it.unwrap_err().to_string();
        assert_eq!(read(&at("a"), 4).unwrap(), b"text");
        assert_eq!(read_text(&at("a")).unwrap(), "text");
        assert_eq!(
            read(&at("a"), 3).unwrap_err().to_string(),
            "it has more than 0 MiB, the most that is read"
        );
        assert_eq!(message(read_text(&at("b"))), "it is no text in UTF-8");
        assert_eq!(message(read_text(&at("c"))), "there is no such file or folder");
        assert_eq!(message(read_text(folder.path())), "it is a folder");
    }

    /// Nobody writes into this one, so that who opens it waits.
    #[cfg(unix)]
    #[test]
    fn a_pipe_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.is_ok_and(|it| it.success()));
        let error = read_text(&path).unwrap_err();
        assert_eq!(error.to_string(), "it is a pipe or a device; wanted is a file");
    }
}
