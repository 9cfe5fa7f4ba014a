//! The built-in describer, its file, and the sentence encoder it was taught by.

use std::path::{Path, PathBuf};

use milan::describe::milan::checkpoint::{self, Contents};
use milan::describe::milan::minilm::MiniLm;
use milan::describe::milan::phrases::{n_words, words};
use milan::describe::milan::{BUILT_IN, Milan};
use milan::error::{Kind, kind};
use serde::Deserialize;

use crate::support::program;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    vectors: Vec<Vec<f32>>,
}

fn tiny_encoder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minilm")
}

/// tests/data/minilm.py made the files.
#[test]
fn the_sentence_encoder_gives_what_pytorch_gives() {
    let golden: Golden = serde_json::from_str(include_str!("../data/minilm/golden.json")).unwrap();
    let texts: Vec<&str> = golden.texts.iter().map(String::as_str).collect();
    let found = MiniLm::open(&tiny_encoder()).unwrap().encode(&texts).unwrap();
    let found = found.to_vec2::<f32>().unwrap();
    for ((text, found), wanted) in texts.iter().zip(&found).zip(&golden.vectors) {
        let most = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0., f32::max);
        assert!(most <= 1e-5, "{text}: {most}");
    }
}

#[test]
fn a_folder_that_is_no_sentence_encoder_is_the_users_mistake() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "vocab.txt", "model.safetensors"] {
        let error = MiniLm::open(folder.path()).err().unwrap();
        assert_eq!(kind(&error), Kind::Usage, "{error:#}");
        assert!(error.to_string().contains("is no sentence encoder"), "{error:#}");
        std::fs::copy(tiny_encoder().join(file), folder.path().join(file)).unwrap();
    }
    MiniLm::open(folder.path()).unwrap();
    std::fs::write(folder.path().join("vocab.txt"), "[UNK]\n[CLS]\n[SEP]\n").unwrap();
    let error = MiniLm::open(folder.path()).err().unwrap().to_string();
    assert!(
        error.contains("`embeddings.word_embeddings.weight` is [19, 24], wanted [3, 24]"),
        "{error}"
    );
}

fn contents() -> Contents {
    checkpoint::from_bytes(BUILT_IN).unwrap()
}

#[test]
fn the_built_in_describer_is_small_and_knows_what_is_alike() {
    assert!(BUILT_IN.len() <= 24_000_000, "{} bytes", BUILT_IN.len());
    let milan = Milan::built_in().unwrap();
    let alike = |a: &str, b: &str| milan.sentences.similarity(a, b).unwrap();
    assert!((alike("a dog", "a dog") - 1.).abs() < 1e-5);
    for (near, far) in [("dogs", "written text"), ("puppies", "buildings"), ("animals", "letters")]
    {
        assert!(alike("a dog", near) > alike("a dog", far), "{near}, {far}");
    }
    // What is composed is generated: not one of the people's sentences is carried along.
    let lengths = milan.phrases.texts().iter().map(|it| n_words(&words(it)));
    assert!(lengths.max() <= Some(4), "without articles");
}

#[test]
fn a_describer_reads_back_as_written() {
    let written = contents();
    let read = checkpoint::from_bytes(&checkpoint::to_bytes(&written).unwrap()).unwrap();
    assert_eq!((read.settings, read.words), (written.settings, written.words));
    assert_eq!(
        (read.pieces, read.phrases, read.seen),
        (written.pieces, written.phrases, written.seen)
    );
    assert!(read.tensors.keys().eq(written.tensors.keys()));
    for (name, wanted) in &written.tensors {
        let off = (&read.tensors[name] - wanted).unwrap().abs().unwrap().flatten_all().unwrap();
        let off = off.max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(off <= 1e-5, "{name} is off by {off}");
    }
}

#[track_caller]
fn check_refused(contents: &Contents, part: &str) {
    let bytes = checkpoint::to_bytes(contents).unwrap();
    let error = checkpoint::from_bytes(&bytes).and_then(Milan::new).err().expect("a refusal");
    assert!(format!("{error:#}").contains(part), "{error:#}");
}

#[test]
fn a_describer_that_is_not_whole_is_refused() {
    for bytes in [&BUILT_IN[..100], &BUILT_IN[..BUILT_IN.len() - 1], b"not a file at all"] {
        let error = checkpoint::from_bytes(bytes).err().unwrap();
        assert_eq!(kind(&error), Kind::Inconclusive);
        assert!(error.to_string().contains("damaged"), "{error:#}");
    }
    let whole = contents();
    let mut other = whole.clone();
    other.settings.format = 7;
    check_refused(&other, "its format is 7, and this program reads 6");
    let mut other = whole.clone();
    let bias = other.tensors.remove("critic.0.unit.bias").unwrap();
    check_refused(&other, "`critic.0.unit.bias` is missing");
    other.tensors.insert("critic.0.unit.bias".into(), bias.narrow(0, 0, 3).unwrap());
    check_refused(&other, "`critic.0.unit.bias` is [3], wanted [256]");
    let mut other = whole.clone();
    other.tensors.insert("encoder.extra".into(), bias.clone());
    check_refused(&other, "its encoder's tensor `extra` is read by nothing");
    let mut other = whole.clone();
    other.tensors.insert("extra".into(), bias);
    check_refused(&other, "`extra` is read by nothing");
    let mut other = whole.clone();
    other.words.pop();
    check_refused(&other, "captioner");
    let mut other = whole;
    other.phrases = "{}".into();
    check_refused(&other, "its phrases");
}

fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = program("milan-audit", folder).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The describer of photographs on the demo's drawings: every unit that fires gets words, whatever they are.
#[test]
fn units_are_described_and_scored_by_the_built_in_describer() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("p.toml"),
        "policy-version = 1\nname = \"p\"\n[[rule]]\nid = \"letters\"\n[rule.match]\n\
         any = [{ evidence = \"written text\", min = 0.0 }]\n[rule.limit]\nmax-units = 0\n",
    )
    .unwrap();
    let base = ["--describer", "milan", "--layers", "conv1", "--top-k", "3"];
    let audit = [&base[..], &["--policy", "p.toml", "--out", "run"]].concat();
    let (code, stdout, stderr) = run(folder.path(), &audit);
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(folder.path().join("run/exemplars/conv1/spread.safetensors").is_file());
    let table = std::fs::read_to_string(folder.path().join("run/descriptions.csv")).unwrap();
    let mut rows = csv::Reader::from_reader(table.as_bytes());
    for row in rows.records() {
        let row = row.unwrap();
        let confidence: f32 = row[3].parse().unwrap_or(0.);
        assert!((0.0..=1.0).contains(&confidence), "{row:?}");
        // Three pictures may well excite a unit equally.
        assert!(["dead", "saturated"].contains(&&row[5]) || 2 <= row[2].len(), "{row:?}");
    }
    let report = std::fs::read_to_string(folder.path().join("run/report.json")).unwrap();
    assert!(report.contains("evidence of \\\"written text\\\"") || report.contains("written text"));

    let score = [&["score", "--phrase", "red things", "--out", "again"], &base[..]].concat();
    let (code, stdout, stderr) = run(folder.path(), &score);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("\"red things\": "), "{stdout}");
    let scores = std::fs::read_to_string(folder.path().join("again/scores.csv")).unwrap();
    assert!(scores.starts_with("layer,unit,phrase,evidence\nconv1,"), "{scores}");

    let (code, _, stderr) = run(folder.path(), &["--policy", "p.toml", "--describer", "labels"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("`labels` has no critic to give it"), "{stderr}");
}
