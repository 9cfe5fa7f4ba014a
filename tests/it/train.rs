//! milan-train from annotations to a describer that is judged and used, on a planted network.

use std::path::Path;
use std::sync::LazyLock;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use tempfile::TempDir;

use crate::support;

/// What people are made to say, in words that the tiny sentence encoder knows.
const SAID: [[&str; 3]; 4] = [
    ["red dogs", "a red dog", "dogs"],
    ["face of a dog", "the face of dogs", "face"],
    ["written text", "text, a letter", "the text"],
    ["a letter", "red letter", "letter of the text"],
];

fn run(program: &str, folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = support::program(program, folder).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn done(program: &str, folder: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run(program, folder, arguments);
    assert_eq!(code, 0, "{stdout}{stderr}");
    stdout
}

fn sentence_encoder() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minilm").display().to_string()
}

const MODEL: [&str; 4] = ["--model", "net.safetensors", "--data", "pictures"];

/// A folder with a planted network, a MILANNOTATIONS of some of its units in `said`, named regions in `regions`, and
/// a describer that was trained on both in `describer`.
struct Trained {
    folder: TempDir,
    arguments: Vec<String>,
}

impl Trained {
    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn train(&self, more: &[&str]) -> String {
        let own = self.arguments.iter().map(String::as_str);
        let all: Vec<&str> = own.chain(more.iter().copied()).collect();
        done("milan-train", self.path(), &all)
    }

    fn describer(&self) -> Vec<u8> {
        std::fs::read(self.path().join("describer/milan.safetensors")).unwrap()
    }
}

static TRAINED: LazyLock<Trained> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    milan::planted::write(path).unwrap();
    std::fs::rename(path.join("model.safetensors"), path.join("net.safetensors")).unwrap();
    let audit = ["--top-k", "3", "--export", "milan", "--layers", "layer2,layer3", "--out", "run"];
    let (code, ..) = run("milan-audit", path, &[&MODEL[..], &audit[..]].concat());
    assert_eq!(code, 3, "no policy is given");
    std::fs::rename(path.join("run/exemplars"), path.join("said")).unwrap();
    let mut said = "layer,unit,summary\n".to_owned();
    for (layer, n) in [("layer2", 32), ("layer3", 64)] {
        for unit in 0..n {
            for text in SAID[unit % 4] {
                said += &format!("{layer},{unit},\"{text}\"\n");
            }
        }
    }
    std::fs::write(path.join("said/annotations.csv"), said).unwrap();
    regions(&path.join("regions"), 60);

    let arguments = [
        "describer",
        "--annotations",
        "said",
        "--images",
        "pictures",
        "--regions",
        "regions",
        "--encoder",
        "net.safetensors",
        "--sentence-encoder",
        &sentence_encoder(),
    ];
    let trained = Trained { arguments: arguments.map(str::to_owned).to_vec(), folder };
    trained.train(&[]);
    trained
});

/// Dogs in the middle of every third picture.
fn regions(folder: &Path, n: usize) {
    std::fs::create_dir(folder).unwrap();
    let mut table = "region,image,phrase\n".to_owned();
    let mut masks = vec![];
    for region in 0..n {
        table += &format!("{region},{},dog\n", 3 * region);
        let middle = |at: usize| (2..6).contains(&at);
        let inside = |at: usize| if middle(at / 8) && middle(at % 8) { 255u8 } else { 0 };
        masks.extend((0..64).map(inside));
    }
    std::fs::write(folder.join("regions.csv"), table).unwrap();
    let masks = TensorView::new(Dtype::U8, vec![n, 8, 8], &masks).unwrap();
    let path = folder.join("regions.safetensors");
    safetensors::serialize_to_file([("masks", masks)], None, &path).unwrap();
}

#[test]
fn a_describer_is_trained_and_the_same_again() {
    let first = TRAINED.describer();
    let card = std::fs::read_to_string(TRAINED.path().join("describer/README.md")).unwrap();
    assert!(card.contains("| encoder | net.safetensors, at "), "{card}");
    // Everything but the last critic is there already; the other folder begins anew.
    std::fs::remove_file(TRAINED.path().join("describer/work/critic-2.safetensors")).unwrap();
    TRAINED.train(&[]);
    assert!(TRAINED.describer() == first);
    let other = TRAINED.train(&["--out", "other", "--seed", "0"]);
    assert!(other.contains("other/milan.safetensors"), "{other}");
    assert!(std::fs::read(TRAINED.path().join("other/milan.safetensors")).unwrap() == first);
}

#[test]
fn a_describer_is_judged_by_units_it_has_not_seen() {
    let encoder = sentence_encoder();
    let arguments = [
        "evaluate",
        "--annotations",
        "said",
        "--images",
        "pictures",
        "--regions",
        "regions",
        "--network",
        "net.safetensors",
        "--sentence-encoder",
        &encoder,
        "--describer",
        "describer/milan.safetensors",
        "--json",
        "quality.json",
    ];
    let table = done("milan-train", TRAINED.path(), &arguments);
    let found: Value =
        serde_json::from_slice(&std::fs::read(TRAINED.path().join("quality.json")).unwrap())
            .unwrap();
    let n = found["units"].as_u64().unwrap();
    assert!((2..30).contains(&n) && table.starts_with(&format!("{n} units")), "{table}");
    let shipped = found["shipped"].as_str().unwrap();
    let methods = found["methods"].as_array().unwrap();
    let method = methods.iter().find(|it| it["name"] == shipped).unwrap();
    for number in [
        &method["specificity"]["same_layer"],
        &method["word_specificity"]["all"],
        &found["critic"]["all"],
        &found["critic_full"]["all"],
        &found["calibration"]["ece"],
        &found["calibration"]["ece_if_right"],
    ] {
        let number = number.as_f64().unwrap();
        assert!((0. ..=1.).contains(&number), "{number}");
    }
    let dogs = &found["concepts"].as_array().unwrap()[3];
    assert_eq!(dogs["name"], "dogs");
    assert_eq!(dogs["units_majority"], dogs["units_any"]);
    // No region was learnt from: what is in them is told from what is beside them no better than by chance.
    let overlap = &found["overlap"].as_array().unwrap()[0];
    let n_regions = overlap["regions"].as_u64().unwrap();
    assert_eq!((&overlap["phrase"], &overlap["truth"]), (&"dog".into(), &"top 2 %".into()));
    assert_eq!(n_regions, 60);
    assert!(0. < overlap["best"].as_f64().unwrap(), "some unit fires on some dog");
    for number in [&overlap["auroc_half"], &overlap["auroc_other_half"]] {
        let number = number.as_f64().unwrap();
        assert!((0. ..=1.).contains(&number), "{number}");
    }
}

#[test]
fn a_trained_describer_describes() {
    let encoder = sentence_encoder();
    let arguments = [
        "score",
        "--phrase",
        "dogs",
        "--layers",
        "layer3",
        "--describer",
        "milan:describer/milan.safetensors",
        "--out",
        "scored",
    ];
    let arguments = [&arguments[..], &MODEL[..]].concat();
    let words = |table: &str| {
        table.split(|it: char| !it.is_alphabetic()).any(|it| it.eq_ignore_ascii_case("dogs"))
    };
    let own = done("milan-audit", TRAINED.path(), &arguments);
    assert!(words(&own), "{own}");
    let scores = std::fs::read(TRAINED.path().join("scored/scores.csv")).unwrap();
    let full = [&arguments[..], &["--sentence-encoder", &encoder]].concat();
    done("milan-audit", TRAINED.path(), &full);
    assert!(scores != std::fs::read(TRAINED.path().join("scored/scores.csv")).unwrap());

    let labels = ["--describer", "labels", "--sentence-encoder", &encoder];
    let labels = [&labels[..], &MODEL[..]].concat();
    let (code, _, stderr) = run("milan-audit", TRAINED.path(), &labels);
    assert!(code == 2 && stderr.contains("serves a critic, and `labels` has none"), "{stderr}");
    let milan = ["--describer", "milan", "--sentence-encoder", &encoder];
    let (code, _, stderr) = run("milan-audit", TRAINED.path(), &[&milan[..], &MODEL[..]].concat());
    let wanted = "another sentence encoder than the one that this describer was taught by";
    assert!(code == 2 && stderr.contains(wanted), "{stderr}");

    let describer = ["--describer", "milan:describer/milan.safetensors", "--out", "audited"];
    let full = ["--layers", "layer2", "--sentence-encoder", &encoder];
    let (code, ..) = run("milan-audit", TRAINED.path(), &[describer, full, MODEL].concat());
    assert_eq!(code, 3, "no policy is given");
    let report = std::fs::read(TRAINED.path().join("audited/report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let weights = std::fs::read(Path::new(&encoder).join("model.safetensors")).unwrap();
    let digest = milan::files::sha256(&weights);
    assert_eq!(report["descriptions"]["sentence_encoder_sha256"], digest.as_str());
}

#[test]
fn what_is_not_named_is_asked_for() {
    let encoder = sentence_encoder();
    let base = ["evaluate", "--sentence-encoder", &encoder, "--annotations"];
    let table = TRAINED.path().join("said/annotations.csv").display().to_string();
    for (more, wanted) in [
        (vec![table.as_str()], "so --exemplars is wanted"),
        (
            vec!["said", "--exemplars", "x.safetensors"],
            "so --exemplars x.safetensors is not wanted",
        ),
        (vec!["describer"], "has no folder LAYER with a masks.npy"),
        (vec!["said", "--network", "net.safetensors"], "--regions <DIR>"),
    ] {
        let arguments = [&base[..], &more].concat();
        let (code, _, stderr) = run("milan-train", TRAINED.path(), &arguments);
        assert!(code == 2 && stderr.contains(wanted), "{stderr}");
    }
}

#[test]
fn a_device_that_is_not_there_is_refused_before_anything_is_read() {
    let describer =
        ["describer", "--annotations", "x", "--encoder", "x", "--sentence-encoder", "x"];
    let classifier = ["classifier", "--data", "x"];
    let mut cases = vec![("tpu", "--device `tpu` is none of cpu, cuda, cuda:N")];
    if !cfg!(feature = "cuda") {
        cases.push(("cuda:1", "this program was built without the cargo feature `cuda`"));
    }
    let folder = tempfile::tempdir().unwrap();
    for command in [&describer[..], &classifier] {
        for (device, wanted) in &cases {
            let arguments = [command, &["--device", device]].concat();
            let (code, _, stderr) = run("milan-train", folder.path(), &arguments);
            assert!(code == 2 && stderr.contains(wanted), "{stderr}");
        }
    }
    let (code, _, stderr) = run("milan-train", folder.path(), &["evaluate", "--device", "cpu"]);
    assert!(code == 2 && stderr.contains("unexpected argument"), "{stderr}");
}
