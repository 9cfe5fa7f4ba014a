//! A folder of pictures as a [`Dataset`]: class folders, a `metadata.csv`, or pictures alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Component, Path};

use anyhow::{Context, anyhow};
use walkdir::{DirEntry, WalkDir};

use super::{Dataset, Origin, Picture};
use crate::{files, usage};

const METADATA: &str = "metadata.csv";
const ENDINGS: [&str; 7] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "jfif"];

/// Folders within folders of a class. Nobody sorts pictures deeper, and links can make any number of paths.
const MAX_DEPTH: usize = 16;

/// Opens a folder, in the order of file names.
///
/// `metadata.csv` has the columns `file_name` and `label`; an empty label is none, a number is a class
/// index, a name is one of `classes`, the model's own names, or else of the names in the file, sorted.
/// Class folders are looked up in `classes` when all of them are there, and numbered in the order of
/// their names otherwise. Pictures that lie in the folder itself have no labels.
pub fn open(path: &Path, classes: &[String]) -> anyhow::Result<Dataset> {
    if !path.is_dir() {
        let what = match path.as_os_str().is_empty() {
            true => "an empty name names no folder",
            false if path.exists() => " is no folder",
            false => " is not there",
        };
        return Err(usage!(
            "{}{what}; --data wants a folder of class folders, or of pictures with a metadata.csv",
            path.display()
        ));
    }
    let metadata = path.join(METADATA);
    let (labelled, own_classes) = match metadata.exists() {
        true => read_metadata(path, &metadata)?,
        false => walk_classes(path)?,
    };
    let (pictures, classes) = number(labelled, own_classes, classes, path)?;
    if pictures.is_empty() {
        return Err(usage!("{} holds no picture ({})", path.display(), ENDINGS.join(", ")));
    }
    let origin = Origin::Folder(path.to_owned());
    Ok(Dataset { origin, source: path.display().to_string(), pictures, classes })
}

/// A file and what it is labelled with.
type Labelled = (String, Option<String>);

/// Turns label texts into class indices.
fn number(
    labelled: Vec<Labelled>,
    own_classes: Vec<String>,
    model_classes: &[String],
    path: &Path,
) -> anyhow::Result<(Vec<Picture>, Vec<String>)> {
    let index = |names: &[String], label: &str| names.iter().position(|name| name == label);
    let all_numbers =
        !own_classes.is_empty() && own_classes.iter().all(|it| it.parse::<usize>().is_ok());
    let known = own_classes.iter().all(|it| index(model_classes, it).is_some());
    let (classes, by_number) = if known && !own_classes.is_empty() {
        (model_classes.to_vec(), false)
    } else if all_numbers && path.join(METADATA).exists() {
        (model_classes.to_vec(), true)
    } else {
        (own_classes, false)
    };
    let mut wrong = Vec::new();
    let mut pictures = Vec::with_capacity(labelled.len());
    for (file, label) in labelled {
        let label = match label.as_deref() {
            None => None,
            Some(label) if by_number => label.parse::<usize>().ok(),
            Some(label) => index(&classes, label),
        };
        if let Some(label) = label
            && !classes.is_empty()
            && classes.len() <= label
        {
            wrong.push(format!("{file} has label {label}"));
        }
        pictures.push(Picture { file, label });
    }
    if !wrong.is_empty() {
        return Err(usage!(
            "{}: the classes are 0 to {}, but {}",
            path.display(),
            classes.len() - 1,
            some(&wrong)
        ));
    }
    Ok((pictures, classes))
}

/// Files and labels of class folders, and the folders' names; else of the folder's own pictures.
fn walk_classes(path: &Path) -> anyhow::Result<(Vec<Labelled>, Vec<String>)> {
    let mut labelled = Vec::new();
    let mut classes = Vec::new();
    let (folders, files) = list(path)?;
    for class in folders {
        let mut found = Vec::new();
        walk(path, &class, &mut found)?;
        if !found.is_empty() {
            labelled.extend(found.into_iter().map(|file| (file, Some(class.clone()))));
            classes.push(class);
        }
    }
    if labelled.is_empty() {
        labelled =
            files.into_iter().filter(|file| is_picture(file)).map(|file| (file, None)).collect();
    }
    Ok((labelled, classes))
}

/// The pictures below a folder, those of a folder before those of the folders in it. Links are followed.
///
/// Errs on a link to a folder that holds it, and on folders within folders beyond [`MAX_DEPTH`].
fn walk(root: &Path, folder: &str, found: &mut Vec<String>) -> anyhow::Result<()> {
    let start = root.join(folder);
    let entries = WalkDir::new(&start)
        .follow_links(true)
        .sort_by(|a, b| {
            let key = |it: &DirEntry| (it.file_type().is_dir(), it.file_name().to_owned());
            key(a).cmp(&key(b))
        })
        .into_iter()
        .filter_entry(|it| it.depth() == 0 || !is_hidden(it.file_name()));
    for entry in entries {
        let (path, is_dir, depth) = match &entry {
            Ok(entry) => (entry.path(), entry.file_type().is_dir(), entry.depth()),
            // A link to nothing is a picture that cannot be read, and is counted as one.
            Err(error) => match (error.io_error().map(std::io::Error::kind), error.path()) {
                (Some(ErrorKind::NotFound), Some(path)) => (path, false, error.depth()),
                _ => return Err(cannot_walk(&start, error)),
            },
        };
        if MAX_DEPTH < depth {
            let path = path.display();
            return Err(usage!("{path} lies more than {MAX_DEPTH} folders below {folder}"));
        }
        let inner = path.strip_prefix(root).unwrap_or(path);
        let Some(file) = inner.to_str() else { return Err(not_utf8(path)) };
        if !is_dir && is_picture(file) {
            found.push(file.to_owned());
        }
    }
    Ok(())
}

fn cannot_walk(start: &Path, error: &walkdir::Error) -> anyhow::Error {
    let at = error.path().unwrap_or(start).display();
    match (error.loop_ancestor(), error.io_error()) {
        (Some(holder), _) => {
            usage!("{at} is a link to {}, which holds it; remove the link", holder.display())
        }
        (None, Some(error)) => anyhow!("cannot list {at}: {}", files::plain(error)),
        (None, None) => anyhow!("cannot list {at}"),
    }
}

fn not_utf8(path: &Path) -> anyhow::Error {
    usage!("the name of the file {path:?} is not UTF-8")
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Names of the folders and of the files in a folder, each sorted bytewise. Hidden ones are left out.
fn list(path: &Path) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let listing = || format!("cannot list {}", path.display());
    let (mut folders, mut files) = (vec![], vec![]);
    for entry in std::fs::read_dir(path).with_context(listing)? {
        let entry = entry.with_context(listing)?;
        if is_hidden(&entry.file_name()) {
            continue;
        }
        let Ok(name) = entry.file_name().into_string() else {
            return Err(not_utf8(&entry.path()));
        };
        if entry.path().is_dir() { folders.push(name) } else { files.push(name) }
    }
    folders.sort();
    files.sort();
    Ok((folders, files))
}

fn is_picture(file: &str) -> bool {
    let ending = Path::new(file).extension().and_then(|it| it.to_str()).unwrap_or_default();
    ENDINGS.contains(&ending.to_lowercase().as_str())
}

/// Files and labels of a `metadata.csv`, and the distinct labels, sorted. All wrong rows are said at once.
fn read_metadata(root: &Path, path: &Path) -> anyhow::Result<(Vec<Labelled>, Vec<String>)> {
    let bytes = files::read(path, files::MAX_DATA)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(bytes.as_slice());
    let header = reader.headers().map_err(|error| usage!("{}: {error}", path.display()))?.clone();
    let column =
        |name: &str| header.iter().position(|it| it.trim_start_matches('\u{feff}').trim() == name);
    let Some(file_column) = column("file_name") else {
        return Err(usage!(
            "{}:1: there is no column `file_name`; its columns are {}",
            path.display(),
            header.iter().collect::<Vec<_>>().join(", ")
        ));
    };
    let label_column = column("label");

    let (mut by_file, mut wrong) = (BTreeMap::new(), Vec::new());
    for record in reader.records() {
        let record = record.map_err(|error| usage!("{}: {error}", path.display()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let file = record.get(file_column).unwrap_or_default().to_owned();
        let label = label_column.and_then(|column| record.get(column)).map(str::trim);
        let stays = Path::new(&file).components().all(|it| matches!(it, Component::Normal(_)));
        if file.is_empty() || !stays {
            wrong.push(format!("line {line} names `{file}`, which does not lie in the folder"));
        } else if !root.join(&file).is_file() {
            wrong.push(format!("line {line} names {file}, which is not there"));
        } else if by_file
            .insert(file.clone(), label.filter(|it| !it.is_empty()).map(str::to_owned))
            .is_some()
        {
            wrong.push(format!("line {line} names {file} again"));
        }
    }
    if !wrong.is_empty() {
        return Err(usage!("{}: {}", path.display(), some(&wrong)));
    }
    let labels: BTreeSet<String> = by_file.values().flatten().cloned().collect();
    Ok((by_file.into_iter().collect(), labels.into_iter().collect()))
}

/// The first five, and how many more.
fn some(items: &[String]) -> String {
    let mut text = items.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
    if 5 < items.len() {
        text.push_str(&format!("; and {} more", items.len() - 5));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files; a file named `metadata.csv` gets the text.
    fn folder(files: &[&str], metadata: Option<&str>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        if let Some(text) = metadata {
            std::fs::write(root.path().join(METADATA), text).unwrap();
        }
        root
    }

    fn names(classes: &[&str]) -> Vec<String> {
        classes.iter().map(|it| (*it).to_owned()).collect()
    }

    #[track_caller]
    fn check(
        root: &tempfile::TempDir,
        model_classes: &[&str],
        wanted: &[(&str, Option<usize>)],
    ) -> Dataset {
        let dataset = open(root.path(), &names(model_classes)).unwrap();
        let found: Vec<_> =
            dataset.pictures.iter().map(|it| (it.file.as_str(), it.label)).collect();
        assert_eq!(found, wanted);
        dataset
    }

    #[track_caller]
    fn check_wrong(root: &tempfile::TempDir, model_classes: &[&str], wanted: &str) {
        let error = open(root.path(), &names(model_classes)).unwrap_err();
        assert_eq!(crate::error::kind(&error), crate::error::Kind::Usage);
        let message = error.to_string().replace(&root.path().display().to_string(), "DIR");
        assert_eq!(message, wanted);
    }

    #[test]
    fn class_folders_are_numbered_in_the_order_of_their_names() {
        let root = folder(
            &["dog/b.jpg", "dog/a.PNG", "cat/deep/c.jpeg", "cat/notes.txt", ".git/x.jpg"],
            None,
        );
        let dataset = check(
            &root,
            &[],
            &[("cat/deep/c.jpeg", Some(0)), ("dog/a.PNG", Some(1)), ("dog/b.jpg", Some(1))],
        );
        assert_eq!(dataset.classes, ["cat", "dog"]);
    }

    #[test]
    fn class_folders_that_the_model_knows_get_its_numbers() {
        let root = folder(&["dog/a.jpg", "cat/b.jpg"], None);
        check(&root, &["frog", "dog", "cat"], &[("cat/b.jpg", Some(2)), ("dog/a.jpg", Some(1))]);
    }

    #[test]
    fn pictures_alone_have_no_labels() {
        check(&folder(&["b.jpg", "a.jpg"], None), &["x"], &[("a.jpg", None), ("b.jpg", None)]);
    }

    #[test]
    fn metadata_labels_are_numbers_or_names_or_nothing() {
        let root =
            folder(&["a.jpg", "b.jpg"], Some("file_name,label,source\nb.jpg,1,web\na.jpg,,web\n"));
        check(&root, &["x", "y"], &[("a.jpg", None), ("b.jpg", Some(1))]);
        let root =
            folder(&["a.jpg", "b.jpg"], Some("\u{feff}label,file_name\r\ny,b.jpg\r\nx,a.jpg\r\n"));
        check(&root, &["y", "x"], &[("a.jpg", Some(1)), ("b.jpg", Some(0))]);
        check(&root, &["other"], &[("a.jpg", Some(0)), ("b.jpg", Some(1))]);
    }

    #[test]
    fn what_is_wrong_in_metadata_is_said_all_at_once() {
        let root =
            folder(&["a.jpg"], Some("file_name,label\na.jpg,0\nb.jpg,0\n../a.jpg,0\na.jpg,1\n"));
        check_wrong(
            &root,
            &[],
            "DIR/metadata.csv: line 3 names b.jpg, which is not there; line 4 names `../a.jpg`, which does not lie in the folder; line 5 names a.jpg again",
        );
        check_wrong(
            &folder(&["a.jpg"], Some("name\na.jpg\n")),
            &[],
            "DIR/metadata.csv:1: there is no column `file_name`; its columns are name",
        );
        let root = folder(&["a.jpg"], Some("file_name,label\na.jpg,7\n"));
        check_wrong(&root, &["x", "y"], "DIR: the classes are 0 to 1, but a.jpg has label 7");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_but_not_in_circles() {
        let root = folder(&["dog/a.jpg", "other/b.jpg"], None);
        let link = |to: &str, at: &str| {
            std::os::unix::fs::symlink(root.path().join(to), root.path().join(at)).unwrap();
        };
        link("other", "dog/more");
        link("nowhere.jpg", "dog/gone.jpg");
        check(
            &root,
            &[],
            &[
                ("dog/a.jpg", Some(0)),
                ("dog/gone.jpg", Some(0)),
                ("dog/more/b.jpg", Some(0)),
                ("other/b.jpg", Some(1)),
            ],
        );
        link("dog", "dog/circle");
        check_wrong(
            &root,
            &[],
            "DIR/dog/circle is a link to DIR/dog, which holds it; remove the link",
        );
    }

    #[test]
    fn a_folder_without_pictures_is_refused() {
        check_wrong(
            &folder(&["notes.txt"], None),
            &[],
            "DIR holds no picture (jpg, jpeg, png, webp, bmp, gif, jfif)",
        );
        let missing = open(Path::new("no/such/folder"), &[]).unwrap_err().to_string();
        assert!(missing.starts_with("no/such/folder is not there;"), "{missing}");
    }
}
