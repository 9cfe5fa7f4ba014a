//! Checkpoints from strangers: every way a file can be wrong, and edits that change nothing else.

use std::path::Path;

use candle_core::Tensor;
use milan::error::{Kind, kind};
use milan::weights::{Change, Weights, write_edited};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

/// A safetensors file by hand: the header's length, the header, the data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Two tensors, `a` (2, 3) and `b` (3,), of f32.
const HEADER: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"F32","shape":[3],"data_offsets":[24,36]}}"#;

fn data() -> Vec<u8> {
    (1..=9u8).flat_map(|i| f32::from(i).to_le_bytes()).collect()
}

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[track_caller]
fn check_refused(bytes: &[u8], wanted: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "m.safetensors", bytes);
    let error = Weights::open(&path).unwrap_err();
    assert_eq!(kind(&error), Kind::Inconclusive);
    let message = format!("{error:#}").replace(&path.display().to_string(), "M");
    assert_eq!(message, format!("M cannot be used: {wanted}"));
}

#[test]
fn a_sound_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let weights = Weights::open(&write(&folder, "m.safetensors", &file(HEADER, &data()))).unwrap();
    assert_eq!(weights.tensors().keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(weights.read("a").unwrap().to_vec2::<f32>().unwrap(), [[1., 2., 3.], [4., 5., 6.]]);
    assert_eq!(weights.files()[0].size as usize, 8 + HEADER.len() + 36);
    assert_eq!(weights.files()[0].sha256.len(), 64);
    // A header may be padded with spaces at its end.
    Weights::open(&write(&folder, "p.safetensors", &file(&format!("{HEADER}   "), &data())))
        .unwrap();
}

#[test]
fn other_files_are_recognised_for_what_they_are() {
    check_refused(b"", "it is empty");
    check_refused(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "it is a Git LFS pointer, not the weights; run `git lfs pull`",
    );
    check_refused(
        b"\n<!DOCTYPE html><html>",
        "it is a web page, not the weights; download the file itself",
    );
    check_refused(
        b"PK\x03\x04rest of a zip",
        "it is a PyTorch pickle, which can run code when loaded; convert it to safetensors where it is trusted",
    );
    check_refused(b"short", "it has 5 bytes; the header's length alone takes 8");
    check_refused(
        b"no safetensors at all",
        "this is no safetensors file: its first eight bytes would have 8387222449776783214 bytes of header follow, and no more than 100000000 are read",
    );
}

#[test]
fn truncated_and_padded_files_are_refused() {
    let whole = file(HEADER, &data());
    let n = HEADER.len();
    check_refused(
        &whole[..n],
        &format!(
            "it is truncated: the header takes {n} bytes, the file goes on for {}; fetch it again",
            n - 8
        ),
    );
    check_refused(
        &whole[..whole.len() - 1],
        &format!(
            "it is truncated: the tensors end at byte {}, the file has {}; fetch it again",
            whole.len(),
            whole.len() - 1
        ),
    );
    check_refused(
        &[&whole[..], b"xx"].concat(),
        "2 bytes follow the last tensor; they belong to nothing",
    );
}

#[test]
fn headers_that_lie_are_refused() {
    let check = |header: &str, wanted: &str| check_refused(&file(header, &data()), wanted);
    let a = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    check(&format!(" {HEADER}"), "its header does not begin with `{`; this is no safetensors file");
    check(
        &HEADER.replace("[24,36]", "[20,36]"),
        "the bytes of `b` are 20..36: they overlap another tensor's, the next free byte is 24",
    );
    check(
        &HEADER.replace("[24,36]", "[28,40]"),
        "the bytes of `b` are 28..40: they leave a hole, the next free byte is 24",
    );
    check(
        &a("F32", "[9]", "[36,0]"),
        "the bytes of `a` are 36..0: they run backwards, the next free byte is 0",
    );
    check(&a("F32", "[8]", "[0,36]"), "`a` is [8] of F32, that is 32 bytes, but takes 36");
    check(&a("F33", "[9]", "[0,36]"), "`a` is of unknown type `F33`");
    check(
        &a("F32", "[4294967296,4294967296]", "[0,36]"),
        "the shape of `a`, [4294967296, 4294967296], is too large or ends inside a byte",
    );
    check(&a("F4", "[3]", "[0,36]"), "the shape of `a`, [3], is too large or ends inside a byte");
    check(
        &HEADER.replace("\"b\"", "\"a\""),
        "its header: tensor `a` is given twice at line 1 column 143",
    );
    check(
        &HEADER.replace("{\"format\":\"pt\"}", "null"),
        "its header: invalid type: null, expected an object of texts in `__metadata__` at line 1 column 20",
    );
    check(
        &HEADER.replace("{\"format\":\"pt\"}", "{\"x\":\"1\",\"x\":\"2\"}"),
        "its header: metadata key `x` is given twice at line 1 column 33",
    );
    check(
        &HEADER.replace("\"shape\":[3],", "\"shape\":[3],\"extra\":1,"),
        "its header: unknown field `extra`, expected one of `dtype`, `shape`, `data_offsets` at line 1 column 126",
    );
    check_refused(&file("{}", &[]), "it holds no tensor");
    check("{not json", "its header: key must be a string at line 1 column 2");
}

#[test]
fn a_path_that_is_not_there_is_the_users_mistake() {
    let error = Weights::open(Path::new("no/such.safetensors")).unwrap_err();
    assert_eq!(kind(&error), Kind::Usage);
    assert_eq!(
        error.to_string(),
        "cannot open the model no/such.safetensors: there is no such file or folder"
    );
}

#[test]
fn a_tensor_of_integers_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let header = r#"{"a":{"dtype":"I8","shape":[36],"data_offsets":[0,36]}}"#;
    let weights = Weights::open(&write(&folder, "m.safetensors", &file(header, &data()))).unwrap();
    let message = format!("{:#}", weights.read("a").unwrap_err());
    assert!(message.contains("`a` is of type I8"), "{message}");
    let change = [Change { tensor: "a".into(), axis: 0, indices: vec![0] }];
    let error =
        write_edited(&weights, &change, &folder.path().join("e.safetensors"), false).unwrap_err();
    assert!(error.to_string().contains("zero bytes need not mean 0"), "{error}");
}

/// Two shards and their index; `index` may be changed by the caller.
fn sharded(index: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let one = r#"{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}"#;
    write(&folder, "m-1.safetensors", &file(one, &data()));
    write(&folder, "m-2.safetensors", &file(&one.replace("\"a\"", "\"b\""), &data()));
    write(&folder, "m.safetensors.index.json", index.as_bytes());
    folder
}

const INDEX: &str =
    r#"{"metadata":{"total_size":72},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;

#[test]
fn shards_and_index_are_checked_in_both_directions() {
    assert_eq!(Weights::open(sharded(INDEX).path()).unwrap().tensors().len(), 2);
    let check = |index: &str, wanted: &str| {
        let folder = sharded(index);
        let message = Weights::open(folder.path()).unwrap_err().to_string();
        assert_eq!(message.replace(&folder.path().display().to_string(), "D"), wanted);
    };
    check(
        &INDEX.replace("\"b\":", "\"c\":"),
        "D/m.safetensors.index.json cannot be used: index and shards disagree: `c` is in no shard, `b` of m-2.safetensors is not in the index",
    );
    check(
        &INDEX.replace("m-2", "m-3"),
        "D/m.safetensors.index.json cannot be used: shard `m-3.safetensors` is missing; fetch it too",
    );
    check(
        &INDEX.replace("m-2", "../m-2"),
        "D/m.safetensors.index.json cannot be used: shard `../m-2.safetensors` does not lie in the folder",
    );
    check(
        &INDEX.replace("\"a\":\"m-1", "\"a\":\"m-2"),
        "D/m.safetensors.index.json cannot be used: index and shards disagree: `a` is in no shard",
    );
    check(
        "{",
        "D/m.safetensors.index.json cannot be used: it is not an index: EOF while parsing an object at line 1 column 1",
    );
}

#[test]
fn a_folder_with_one_file_needs_no_index_and_with_two_it_does() {
    let folder = tempfile::tempdir().unwrap();
    assert!(
        Weights::open(folder.path())
            .unwrap_err()
            .to_string()
            .ends_with("holds no .safetensors file")
    );
    write(&folder, "one.safetensors", &file(HEADER, &data()));
    assert_eq!(Weights::open(folder.path()).unwrap().files().len(), 1);
    write(&folder, "two.safetensors", &file(HEADER, &data()));
    assert!(
        Weights::open(folder.path())
            .unwrap_err()
            .to_string()
            .ends_with("holds 2 .safetensors files and no index; name one of them")
    );
}

/// Over random shapes: the edited file decodes to the original with exactly those slices zero, and no
/// byte outside them differs.
#[test]
fn an_edit_changes_exactly_the_planned_slices() {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for round in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let rank = rng.random_range(1..=4);
        let shape: Vec<usize> = (0..rank).map(|_| rng.random_range(1..=6)).collect();
        let n: usize = shape.iter().product();
        let data: Vec<u8> = (0..n + 3).flat_map(|i| (i as f32 + 1.).to_le_bytes()).collect();
        let header = format!(
            r#"{{"x":{{"dtype":"F32","shape":{shape:?},"data_offsets":[12,{}]}},"y":{{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}}}"#,
            12 + 4 * n
        );
        let original = file(&header, &data);
        let weights = Weights::open(&write(&folder, "m.safetensors", &original)).unwrap();
        let change = || {
            let axis = round % rank;
            let indices = (0..shape[axis]).filter(|i| (i + round) % 2 == 0).collect();
            Change { tensor: "x".into(), axis, indices }
        };
        let changes = [change(), Change { tensor: "y".into(), axis: 0, indices: vec![1] }];
        let target = folder.path().join("e.safetensors");
        write_edited(&weights, &changes, &target, false).unwrap().publish().unwrap();

        let edited = Weights::open(&target).unwrap();
        let Change { axis, indices, .. } = &changes[0];
        let keep: Vec<f32> =
            (0..shape[*axis]).map(|i| if indices.contains(&i) { 0. } else { 1. }).collect();
        let mut broadcast = vec![1; rank];
        broadcast[*axis] = shape[*axis];
        let keep = Tensor::from_vec(keep, broadcast, &candle_core::Device::Cpu).unwrap();
        let wanted = weights.read("x").unwrap().broadcast_mul(&keep).unwrap();
        let flat = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(&edited.read("x").unwrap()), flat(&wanted));
        assert_eq!(flat(&edited.read("y").unwrap()), [1., 0., 3.]);

        let bytes = std::fs::read(&target).unwrap();
        let differing = bytes.iter().zip(&original).filter(|(a, b)| a != b).count();
        let zeroed = flat(&wanted).iter().filter(|&&value| value == 0.).count() + 1;
        assert_eq!(bytes.len(), original.len());
        assert!(differing <= 4 * zeroed, "{differing} bytes differ, {zeroed} values were zeroed");
        assert_eq!(bytes[..8 + header.len()], original[..8 + header.len()], "the header stays");
    }
}

#[test]
fn shards_become_a_folder_and_only_the_changed_one_differs() {
    let folder = sharded(INDEX);
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let weights = Weights::open(folder.path()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("edited");
    let change = [Change { tensor: "b".into(), axis: 0, indices: vec![2, 4] }];
    let draft = write_edited(&weights, &change, &target, false).unwrap();
    assert_eq!(draft.bytes_changed(), 4, "3.0 and 5.0 have two bytes each that are not zero");
    draft.publish().unwrap();
    let edited = Weights::open(&target).unwrap();
    assert_eq!(
        edited.read("b").unwrap().to_vec1::<f32>().unwrap(),
        [1., 2., 0., 4., 0., 6., 7., 8., 9.]
    );
    assert_eq!(edited.files()[0].sha256, weights.files()[0].sha256);
    assert!(target.join("config.json").is_file());
    let again = write_edited(&weights, &change, &target, false).unwrap_err();
    assert!(again.to_string().ends_with("exists; --force replaces it"), "{again}");
    write_edited(&weights, &change, &target, true).unwrap().publish().unwrap();
    assert_eq!(names_in(place.path()), ["edited"]);
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn change() -> [Change; 1] {
    [Change { tensor: "b".into(), axis: 0, indices: vec![0] }]
}

#[test]
fn nothing_is_left_behind_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let source = write(&folder, "m.safetensors", &file(HEADER, &data()));
    let weights = Weights::open(&source).unwrap();
    let target = folder.path().join("e.safetensors");

    drop(write_edited(&weights, &change(), &target, false).unwrap());
    assert_eq!(names_in(folder.path()), ["m.safetensors"], "a draft that is dropped is gone");

    std::fs::write(&target, "precious").unwrap();
    let refused = |target: &Path, force, wanted: &str| {
        let error = write_edited(&weights, &change(), target, force).unwrap_err();
        assert!(error.to_string().ends_with(wanted), "{error}");
    };
    refused(&target, false, "exists; --force replaces it");
    refused(&source, true, "is the model itself, which is never overwritten; name another file");
    refused(&folder.path().join("none/e.safetensors"), false, "none");
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    // It may also appear while the draft is being written.
    let late = folder.path().join("late.safetensors");
    let draft = write_edited(&weights, &change(), &late, false).unwrap();
    std::fs::write(&late, "precious").unwrap();
    assert!(draft.publish().unwrap_err().to_string().ends_with("exists; --force replaces it"));
    assert_eq!(std::fs::read(&late).unwrap(), b"precious");
    write_edited(&weights, &change(), &late, true).unwrap().publish().unwrap();
    assert_eq!(names_in(folder.path()), ["e.safetensors", "late.safetensors", "m.safetensors"]);
}

#[cfg(unix)]
#[test]
fn links_are_not_written_through_and_the_mode_follows_the_umask() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let source = write(&folder, "m.safetensors", &file(HEADER, &data()));
    let weights = Weights::open(&source).unwrap();
    let link = folder.path().join("link.safetensors");
    symlink(&source, &link).unwrap();
    let error = write_edited(&weights, &change(), &link, true).unwrap_err().to_string();
    assert!(error.ends_with("is a link; name the file it should become"), "{error}");
    let hard = folder.path().join("hard.safetensors");
    std::fs::hard_link(&source, &hard).unwrap();
    let error = write_edited(&weights, &change(), &hard, true).unwrap_err().to_string();
    assert!(error.contains("is the model itself"), "{error}");

    let target = folder.path().join("e.safetensors");
    write_edited(&weights, &change(), &target, false).unwrap().publish().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&target), mode(&source), "as any file that is made here");
}

/// A full disk needs a disk of its own; mounting one takes rights that a test may not have.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_met_before_the_first_byte() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&disk)
        .output();
    if !mount.is_ok_and(|it| it.status.success()) {
        println!(
            "skipped a_full_disk_is_met_before_the_first_byte: a small disk cannot be mounted here"
        );
        return;
    }
    let n = 100_000;
    let header = format!(r#"{{"b":{{"dtype":"F32","shape":[{n}],"data_offsets":[0,{}]}}}}"#, 4 * n);
    let weights =
        Weights::open(&write(&folder, "m.safetensors", &file(&header, &vec![1; 4 * n]))).unwrap();
    let error = write_edited(&weights, &change(), &disk.join("e.safetensors"), false).unwrap_err();
    let left = names_in(&disk);
    std::process::Command::new("umount").arg(&disk).output().unwrap();
    assert_eq!(kind(&error), Kind::System);
    assert!(error.to_string().starts_with("no space left in"), "{error}");
    assert_eq!(left, Vec::<String>::new());
}

/// Rights do not bind the superuser, but nobody can make files in `/proc`.
#[cfg(target_os = "linux")]
#[test]
fn a_read_only_target_is_an_error_of_the_system() {
    let folder = tempfile::tempdir().unwrap();
    let weights = Weights::open(&write(&folder, "m.safetensors", &file(HEADER, &data()))).unwrap();
    let target = Path::new("/proc/e.safetensors");
    let error = write_edited(&weights, &change(), target, false).unwrap_err();
    assert_eq!(kind(&error), Kind::System);
    assert!(error.to_string().contains("/proc"), "{error}");
}
