//! Zeroing slices of a checkpoint: the file is copied in a stream and nothing else is touched.
//!
//! Re-serialising would sort tensors anew and shuffle metadata, so header and order are kept byte by
//! byte. The copy is written beside its target, synced, read back and compared with the source, and
//! only takes its name when it is published.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

use super::header::malformed;
use super::{Weights, shards};
use crate::files::{hex, open_to_all, plain};
use crate::{inconclusive, usage};

/// Slices of one tensor to set to zero: each of `indices` along `axis`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub tensor: String,
    pub axis: usize,
    pub indices: Vec<usize>,
}

/// A written checkpoint that does not have its name yet; removed when dropped unpublished.
#[derive(Debug)]
pub struct Draft {
    place: Place,
    target: PathBuf,
    force: bool,
    sha256: BTreeMap<String, String>,
    bytes_changed: u64,
}

#[derive(Debug)]
enum Place {
    File(NamedTempFile),
    Folder(TempDir),
}

/// Bytes held in memory at a time.
const PIECE: usize = 4 << 20;

/// Writes a copy of `weights` with `changes` applied beside `target`.
///
/// A single file becomes a file, a folder of shards a folder. Errs, leaving nothing behind, when the
/// target exists and `force` is not set, is a link or the source itself, when a tensor's type has no
/// zero made of zero bytes, when space runs out, or when what was written reads back differently.
pub fn write_edited(
    weights: &Weights,
    changes: &[Change],
    target: &Path,
    force: bool,
) -> anyhow::Result<Draft> {
    let mut runs: Vec<Vec<Run>> = weights.files().iter().map(|_| vec![]).collect();
    for change in changes {
        let (file, run) = Run::of(weights, change)?;
        runs[file].push(run);
    }
    check_target(weights, target, force)?;
    let parent = parent(target)?;
    let mut sha256 = BTreeMap::new();
    let mut bytes_changed = 0;
    let place = if weights.source().is_dir() {
        let mut builder = tempfile::Builder::new();
        open_to_all(&mut builder, 0o777);
        let folder = builder
            .prefix(".milan-")
            .tempdir_in(parent)
            .map_err(|error| unwritable(parent, &error))?;
        for (source, runs) in weights.files().iter().zip(&runs) {
            let name = source.path.file_name().context("a shard has no name")?;
            let path = folder.path().join(name);
            let mut file = File::create(&path).map_err(|error| unwritable(&path, &error))?;
            let copy = copy(&source.path, &source.sha256, runs, &mut file, &path, PIECE)?;
            sha256.insert(name.to_string_lossy().into_owned(), copy.sha256);
            bytes_changed += copy.bytes_changed;
        }
        copy_companions(weights, folder.path())?;
        Place::Folder(folder)
    } else {
        let mut builder = tempfile::Builder::new();
        open_to_all(&mut builder, 0o666);
        let mut file = builder
            .prefix(".milan-")
            .suffix(".safetensors")
            .tempfile_in(parent)
            .map_err(|error| unwritable(parent, &error))?;
        let (source, path) = (&weights.files()[0], file.path().to_owned());
        let copy = copy(&source.path, &source.sha256, &runs[0], file.as_file_mut(), &path, PIECE)?;
        let name = target.file_name().context("the target has no name")?;
        sha256.insert(name.to_string_lossy().into_owned(), copy.sha256);
        bytes_changed = copy.bytes_changed;
        Place::File(file)
    };
    Ok(Draft { place, target: target.to_owned(), force, sha256, bytes_changed })
}

impl Draft {
    /// Where it lies for now; [`Weights::open`] reads it.
    pub fn path(&self) -> &Path {
        match &self.place {
            Place::File(file) => file.path(),
            Place::Folder(folder) => folder.path(),
        }
    }

    /// sha256 of each written weight file, by its final name.
    pub fn sha256(&self) -> &BTreeMap<String, String> {
        &self.sha256
    }

    /// Bytes that were not zero before.
    pub fn bytes_changed(&self) -> u64 {
        self.bytes_changed
    }

    /// Gives the draft its name.
    pub fn publish(self) -> anyhow::Result<()> {
        let target = &self.target;
        refuse_link(target)?;
        match self.place {
            Place::File(file) => {
                let named =
                    if self.force { file.persist(target) } else { file.persist_noclobber(target) };
                named.map_err(|error| taken_or(target, &error.error))?;
            }
            Place::Folder(folder) => {
                if self.force && target.is_dir() {
                    replace_folder(folder.path(), target)?;
                } else {
                    fs::rename(folder.path(), target).map_err(|error| taken_or(target, &error))?;
                }
                // It has moved: there is nothing left to remove.
                let _ = folder.keep();
            }
        }
        // The name itself must survive a power cut too. Not every file system can sync a folder.
        if let Ok(folder) = File::open(parent(target)?) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

/// The bytes of one change: in each of `n_outer` stretches, `inner` bytes at each index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    /// Where the tensor begins and ends in its file.
    start: u64,
    end: u64,
    /// Bytes from one stretch to the next.
    stride: u64,
    inner: u64,
    indices: Vec<u64>,
}

impl Run {
    fn of(weights: &Weights, change: &Change) -> anyhow::Result<(usize, Run)> {
        let Change { tensor, axis, indices } = change;
        let info = weights
            .tensors()
            .get(tensor)
            .with_context(|| format!("the edit names `{tensor}`, which the model does not have"))?;
        let zeroable =
            [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8_E5M2, Dtype::F8_E4M3];
        if !zeroable.contains(&info.dtype) {
            return Err(inconclusive!(
                "`{tensor}` is of type {:?}, in which zero bytes need not mean 0; it cannot be edited",
                info.dtype
            ));
        }
        let Some(&n) = info.shape.get(*axis) else {
            anyhow::bail!("the edit wants axis {axis} of `{tensor}`, which is {:?}", info.shape);
        };
        if let Some(index) = indices.iter().find(|&&index| n <= index) {
            anyhow::bail!(
                "the edit wants index {index} of axis {axis} of `{tensor}`, which is {:?}",
                info.shape
            );
        }
        let n_inner: usize = info.shape[axis + 1..].iter().product();
        let inner = (n_inner * info.dtype.bitsize() / 8) as u64;
        let mut indices: Vec<u64> = indices.iter().map(|&index| index as u64).collect();
        indices.sort_unstable();
        indices.dedup();
        let (start, end) = (info.bytes.start, info.bytes.end);
        Ok((info.file, Run { start, end, stride: n as u64 * inner, inner, indices }))
    }

    /// Calls `each` with the parts of `piece`, which begins at byte `at` of the file, that are to be zero.
    fn parts(&self, at: u64, len: usize, mut each: impl FnMut(std::ops::Range<usize>)) {
        let until = at + len as u64;
        if until <= self.start || self.end <= at || self.stride == 0 {
            return;
        }
        let first = (at.max(self.start) - self.start) / self.stride;
        let last = (until.min(self.end) - self.start).div_ceil(self.stride);
        for stretch in first..last {
            for index in &self.indices {
                let from = self.start + stretch * self.stride + index * self.inner;
                let (from, to) = (from.max(at), (from + self.inner).min(until));
                if from < to {
                    each((from - at) as usize..(to - at) as usize);
                }
            }
        }
    }
}

struct Copy {
    sha256: String,
    bytes_changed: u64,
}

/// Copies `source` to `target` with `runs` set to zero, syncs, and compares both on disk.
fn copy(
    source: &Path,
    source_sha256: &str,
    runs: &[Run],
    target: &mut File,
    target_path: &Path,
    piece: usize,
) -> anyhow::Result<Copy> {
    let reading = || format!("cannot read {}", source.display());
    let mut input = File::open(source).with_context(reading)?;
    reserve(target, input.metadata().with_context(reading)?.len())
        .map_err(|error| unwritable(target_path, &error))?;
    let mut hash = Sha256::new();
    let mut bytes_changed = 0;
    let mut buffer = vec![0; piece];
    let mut at = 0;
    loop {
        let n = read_full(&mut input, &mut buffer).with_context(reading)?;
        if n == 0 {
            break;
        }
        let bytes = &mut buffer[..n];
        for run in runs {
            run.parts(at, n, |part| {
                bytes_changed +=
                    bytes[part.clone()].iter().filter(|&&byte| byte != 0).count() as u64;
                bytes[part].fill(0);
            });
        }
        hash.update(&*bytes);
        target.write_all(bytes).map_err(|error| unwritable(target_path, &error))?;
        at += n as u64;
    }
    target.sync_all().map_err(|error| unwritable(target_path, &error))?;
    let sha256 = hex(&hash.finalize());
    let found = compare(source, target_path, runs, piece)?;
    if found.source_sha256 != source_sha256 {
        anyhow::bail!("{} changed while it was read; run again", source.display());
    }
    if found.target_sha256 != sha256 || !found.only_planned {
        anyhow::bail!(
            "{} reads back differently from what was written; the disk may be failing",
            target_path.display()
        );
    }
    Ok(Copy { sha256, bytes_changed })
}

struct Compared {
    source_sha256: String,
    target_sha256: String,
    /// No byte differs outside the runs, and all inside are zero.
    only_planned: bool,
}

fn compare(source: &Path, target: &Path, runs: &[Run], piece: usize) -> anyhow::Result<Compared> {
    let open =
        |path: &Path| File::open(path).with_context(|| format!("cannot read {}", path.display()));
    let (mut source, mut target) = (open(source)?, open(target)?);
    let (mut source_hash, mut target_hash) = (Sha256::new(), Sha256::new());
    let (mut wanted, mut found) = (vec![0; piece], vec![0; piece]);
    let (mut at, mut only_planned) = (0, true);
    loop {
        let n = read_full(&mut source, &mut wanted)?;
        let n_found = read_full(&mut target, &mut found)?;
        source_hash.update(&wanted[..n]);
        target_hash.update(&found[..n_found]);
        if n == 0 && n_found == 0 {
            break;
        }
        for run in runs {
            run.parts(at, n, |part| wanted[part].fill(0));
        }
        only_planned &= wanted[..n] == found[..n_found];
        at += n as u64;
    }
    let (source_sha256, target_sha256) =
        (hex(&source_hash.finalize()), hex(&target_hash.finalize()));
    Ok(Compared { source_sha256, target_sha256, only_planned })
}

/// Fills the buffer as far as the file goes.
fn read_full(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

/// Asks for the space now, so that a full disk is met before the first byte and not after an hour.
#[cfg(target_os = "linux")]
fn reserve(file: &File, len: u64) -> std::io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len.max(1)) {
        Err(error) if ![Errno::OPNOTSUPP, Errno::INVAL, Errno::NOSYS].contains(&error) => {
            Err(error.into())
        }
        _ => Ok(file.set_len(0)?),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &File, _: u64) -> std::io::Result<()> {
    Ok(())
}

/// Errs where no edited copy could be written; called early, it spares a user the wait.
pub fn check_target(weights: &Weights, target: &Path, force: bool) -> anyhow::Result<()> {
    refuse_link(target)?;
    parent(target)?;
    let Ok(found) = fs::metadata(target) else { return Ok(()) };
    let sources = weights.files().iter().map(|file| file.path.as_path()).chain([weights.source()]);
    for source in sources {
        if is_same(source, target, &found) {
            return Err(usage!(
                "{} is the model itself, which is never overwritten; name another file",
                target.display()
            ));
        }
    }
    if found.is_dir() != weights.source().is_dir() {
        let (wanted, is) = if found.is_dir() { ("file", "folder") } else { ("folder", "file") };
        return Err(usage!("{} is a {is}; the edited model is a {wanted}", target.display()));
    }
    if !force {
        return Err(usage!("{} exists; --force replaces it", target.display()));
    }
    Ok(())
}

fn is_same(source: &Path, target: &Path, found: &fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let same = |it: fs::Metadata| (it.dev(), it.ino()) == (found.dev(), found.ino());
        let _ = target;
        fs::metadata(source).is_ok_and(same)
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        matches!((source.canonicalize(), target.canonicalize()), (Ok(a), Ok(b)) if a == b)
    }
}

/// A link may lead into a shared cache, and renaming onto it would replace the link by a file.
fn refuse_link(target: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_symlink() => {
            Err(usage!("{} is a link; name the file it should become", target.display()))
        }
        _ => Ok(()),
    }
}

fn parent(target: &Path) -> anyhow::Result<&Path> {
    let parent = target.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(usage!(
            "cannot write {}: there is no folder {}",
            target.display(),
            parent.display()
        ));
    }
    Ok(parent)
}

fn unwritable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    match error.kind() {
        std::io::ErrorKind::StorageFull => {
            anyhow::anyhow!("no space left in {}; nothing was written", folder.display())
        }
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!(
                "{} cannot be written to ({error}); name another place with --write",
                path.display()
            )
        }
        _ => anyhow::anyhow!("cannot write in {}: {}", folder.display(), plain(error)),
    }
}

fn taken_or(target: &Path, error: &std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::DirectoryNotEmpty => {
            usage!("{} exists; --force replaces it", target.display())
        }
        _ => unwritable(target, error),
    }
}

/// Swaps the new folder in; the old one is removed only after that.
fn replace_folder(new: &Path, target: &Path) -> anyhow::Result<()> {
    let aside = tempfile::Builder::new().prefix(".milan-old-").tempdir_in(parent(target)?)?;
    let old = aside.path().join("old");
    fs::rename(target, &old).map_err(|error| unwritable(target, &error))?;
    fs::rename(new, target)
        .or_else(|error| {
            // Put it back as it was.
            fs::rename(&old, target)?;
            Err(error)
        })
        .map_err(|error| unwritable(target, &error))
}

/// The index, and the small files that belong to a model.
fn copy_companions(weights: &Weights, folder: &Path) -> anyhow::Result<()> {
    let mut companions: Vec<PathBuf> = shards::index_of(weights.source())?.into_iter().collect();
    companions.push(weights.source().join("config.json"));
    for companion in companions.iter().filter(|it| it.is_file()) {
        let name = companion.file_name().with_context(|| malformed(companion, "it has no name"))?;
        fs::copy(companion, folder.join(name)).map_err(|error| unwritable(folder, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_wherever_a_piece_begins_and_ends() {
        // A (2, 3, 2) tensor of one-byte values from byte 10: index 1 of axis 1.
        let run = Run { start: 10, end: 22, stride: 6, inner: 2, indices: vec![1] };
        let wanted: Vec<u64> = vec![12, 13, 18, 19];
        for len in 1..30 {
            let mut found = vec![];
            for at in (0..30).step_by(len) {
                run.parts(at as u64, len, |part| found.extend(part.map(|i| (at + i) as u64)));
            }
            assert_eq!(found, wanted, "pieces of {len}");
        }
    }
}
