//! Files on disk: what identifies them, and how they come to be there whole or not at all.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

/// Size and sha256 of a file, read in pieces.
pub fn digest(path: &Path) -> anyhow::Result<(u64, String)> {
    let reading = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(reading)?;
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
