//! The two programs as a user meets them: on the demo, and with every kind of mistake.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candle_core::Tensor;
use milan::model::zoo;
use serde_json::Value;
use tempfile::TempDir;

use crate::edits::filled;
use crate::support::{check_file, shared_data};

/// One run of a program in a folder of its own.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(program: &str, folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = match program {
        "milan-audit" => Command::new(env!("CARGO_BIN_EXE_milan-audit")),
        _ => Command::new(env!("CARGO_BIN_EXE_milan-edit")),
    };
    // Most networks here are the demo's, whose drawings have labels.
    command.env("MILAN_DESCRIBER", "labels");
    let output = command.current_dir(folder).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn report(folder: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join("reports/demo/report.json")).unwrap())
        .unwrap()
}

/// What is the same on every machine.
fn without_time(report: &Value) -> String {
    let mut report = report.clone();
    let run = report["run"].as_object_mut().unwrap();
    run["started"] = 0.into();
    run["seconds"] = 0.into();
    run["threads"] = 1.into();
    serde_json::to_string_pretty(&report).unwrap() + "\n"
}

/// The program must end with this code and this one line on stderr.
#[track_caller]
fn check_error(program: &str, folder: &Path, arguments: &[&str], code: i32, wanted: &str) {
    let ran = run(program, folder, arguments);
    let stderr = ran.stderr.replace(&folder.display().to_string(), "DIR");
    assert_eq!((ran.code, stderr.as_str()), (code, format!("{wanted}\n").as_str()));
}

/// The demo's model and pictures as a user's own: `model.safetensors` and `pictures/`.
fn demo_files() -> (TempDir, PathBuf) {
    let folder = folder();
    milan::demo::write(folder.path()).unwrap();
    let model = folder.path().join("model.safetensors");
    (folder, model)
}

#[test]
fn an_audit_of_the_demo_finds_the_units_that_read_text() {
    let folder = folder();
    let ran = run("milan-audit", folder.path(), &["--policy", "text"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "violated: text: 12 units found, 0 allowed\n"));
    check_file("reports/demo-audit.txt", &ran.stdout);
    check_file("reports/demo-audit.json", &without_time(&report(folder.path())));
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 100));

    let report = report(folder.path());
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "schema",
            "complete",
            "verdict",
            "exit_code",
            "why",
            "tool",
            "policy",
            "model",
            "data",
            "descriptions",
            "coverage",
            "layers",
            "rules",
            "gates",
            "exceptions",
            "accuracy",
            "tests",
            "controls",
            "edit",
            "warnings",
            "run",
        ]
    );
    assert_eq!(
        (&report["verdict"], &report["exit_code"]),
        (&Value::from("violated"), &Value::from(1))
    );
    // The planted line detectors are found, and no planted colour.
    let units = report["rules"][0]["units"].as_array().unwrap();
    let found: Vec<String> = units
        .iter()
        .map(|it| format!("{}:{}", it["layer"].as_str().unwrap(), it["unit"]))
        .collect();
    for planted in ["conv1:4", "conv1:5", "layer1:4", "layer2:5", "layer3:4"] {
        assert!(found.iter().any(|it| it == planted), "{planted} is not in {found:?}");
    }
    for colour in ["conv1:0", "conv1:1", "conv1:2", "conv1:3", "layer3:0"] {
        assert!(!found.iter().any(|it| it == colour), "{colour} is in {found:?}");
    }
    assert_eq!(
        report["coverage"]["dead"], 5,
        "the planted dead unit is carried through the stages"
    );
}

/// Each line that README.md shows of a program is one of a sample report's, which are compared above.
#[test]
fn the_readme_shows_what_the_programs_print() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let printed = read("reports/demo-audit.txt") + &read("reports/demo-edit.txt");
    let printed: Vec<&str> = printed.lines().collect();
    let readme = read("README.md");
    let blocks = readme.split("```text\n").skip(1).filter_map(|it| it.split("\n```").next());
    let mut shown = blocks.flat_map(str::lines).filter(|it| !it.starts_with(['$', '…'])).peekable();
    assert!(shown.peek().is_some());
    for line in shown {
        assert!(printed.contains(&line), "no program prints {line:?}");
    }
}

#[test]
fn the_same_audit_gives_the_same_bytes() {
    let files = |threads: &str| {
        let folder = folder();
        run("milan-audit", folder.path(), &["--policy", "text", "--threads", threads]);
        let read =
            |name: &str| std::fs::read(folder.path().join("reports/demo").join(name)).unwrap();
        let mut report = report(folder.path());
        report.as_object_mut().unwrap().remove("run");
        (report, read("descriptions.csv"), read("exemplars/layer2/exemplars.safetensors"))
    };
    assert_eq!(files("1"), files("2"));
}

#[test]
fn an_edit_of_the_demo_takes_the_letters_away_and_nothing_else() {
    let folder = folder();
    let ran = run("milan-edit", folder.path(), &["--units", "conv1:4,conv1:5", "--controls", "1"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    let report = report(folder.path());
    let edit = &report["edit"];
    assert_eq!(
        edit["changes"],
        serde_json::json!([{ "tensor": "conv1.weight", "axis": 0, "indices": [4, 5] }])
    );
    assert!(edit["verified"]["max_difference"].as_f64().unwrap() <= 1e-4);
    let top1 = |when: &str, class: &str| {
        let classes = report["accuracy"][when]["per_class"].as_array().unwrap();
        classes.iter().find(|it| it["name"] == class).unwrap()["top1"].as_f64().unwrap()
    };
    assert!(0.8 <= top1("before", "text") && top1("after", "text") <= 0.2);
    for colour in ["red", "green", "blue", "yellow"] {
        assert!(top1("before", colour) - 0.05 <= top1("after", colour), "{colour}");
    }
    let path = folder.path().join(edit["output"]["path"].as_str().unwrap());
    let weights = milan::weights::Weights::open(&path).unwrap();
    assert_eq!(
        weights.files()[0].sha256,
        edit["output"]["sha256"]["edited.safetensors"].as_str().unwrap()
    );
}

#[test]
fn an_edit_by_description_is_reported_in_full() {
    let folder = folder();
    let ran = run(
        "milan-edit",
        folder.path(),
        &["--delete-matching", "text", "--order", "importance", "--max-units", "4"],
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    check_file("reports/demo-edit.txt", &ran.stdout);
    check_file("reports/demo-edit.json", &without_time(&report(folder.path())));
    // Again, on the file just written: what was deleted is dead now.
    let edited = "reports/demo/edited.safetensors";
    let again = run(
        "milan-audit",
        folder.path(),
        &[
            "--model",
            edited,
            "--data",
            "reports/demo/demo/pictures",
            "--policy",
            "text",
            "--output",
            "json",
        ],
    );
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert!(
        5 < again["coverage"]["dead"].as_u64().unwrap()
            || again["rules"][0]["observed"]["units"].as_u64().unwrap() < 12
    );
}

#[test]
fn a_gate_that_is_violated_writes_nothing() {
    let folder = folder();
    let ran = run(
        "milan-edit",
        folder.path(),
        &["--delete-matching", "text", "--max-drop", "0.01", "--controls", "0"],
    );
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.starts_with("violated: top-1 falls by ")
            && ran.stderr.ends_with("nothing was written\n"),
        "{}",
        ran.stderr
    );
    assert!(!folder.path().join("reports/demo/edited.safetensors").exists());
    assert_eq!(report(folder.path())["gates"][0]["passed"], false);
}

#[test]
fn a_dry_run_writes_nothing_at_all_of_its_own() {
    let (folder, _) = demo_files();
    let arguments = [
        "--model",
        "model.safetensors",
        "--data",
        "pictures",
        "--units",
        "conv1:0",
        "--dry-run",
        "--controls",
        "0",
    ];
    let ran = run("milan-edit", folder.path(), &arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["model.safetensors", "pictures"]);
}

#[test]
fn what_cannot_be_edited_is_refused_with_the_reason() {
    let (folder, model) = demo_files();
    let graph = zoo::by_name("cifar_resnet14_b").unwrap().build(5);
    let tensors: HashMap<String, Tensor> = filled(&graph).into_iter().collect();
    candle_core::safetensors::save(&tensors, &model).unwrap();
    let base = ["--model", "model.safetensors", "--data", "pictures", "--controls", "0", "--units"];
    let refused = "layer1.0.add:0 cannot be zeroed exactly: `relu` cannot be zeroed before it because \
        `layer1.0.conv1` reads it too, and";
    let ran = run("milan-edit", folder.path(), &[&base[..], &["layer1.0.add:0,conv1:3"]].concat());
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains(refused), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("nearest layers that can be edited: `layer1.0.bn2`"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.ends_with("; --skip-not-editable zeroes the other 1; nothing was written\n"),
        "{}",
        ran.stderr
    );
    let ran = run(
        "milan-edit",
        folder.path(),
        &[&base[..], &["layer1.0.add:0,conv1:3", "--skip-not-editable"]].concat(),
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(folder.path().join("model-edited.safetensors").is_file());
}

#[test]
fn exemplars_are_exported_as_the_reference_writes_them() {
    let folder = folder();
    run(
        "milan-audit",
        folder.path(),
        &["--policy", "text", "--layers", "conv1", "--top-k", "3", "--export", "milan"],
    );
    let layer = folder.path().join("reports/demo/exemplars/conv1");
    let size = |name: &str| std::fs::metadata(layer.join(name)).unwrap().len();
    assert_eq!(size("images.npy"), 128 + 16 * 3 * 3 * 32 * 32);
    assert_eq!(size("masks.npy"), 128 + 16 * 3 * 32 * 32);
    let ids = std::fs::read_to_string(layer.join("ids.csv")).unwrap();
    assert_eq!(ids.lines().count(), 16);
    assert!(ids.lines().all(|line| line.split(',').count() == 3
        && line.split(',').all(|id| id.parse::<usize>().unwrap() < 200)));
    let activations = std::fs::read_to_string(layer.join("activations.csv")).unwrap();
    assert!(
        activations.lines().all(|line| line.split(',').all(|it| it.contains('e'))),
        "{activations}"
    );
}

#[test]
fn mistakes_of_the_user_end_with_2_and_one_line() {
    let (folder, _) = demo_files();
    let at = folder.path();
    std::fs::write(
        at.join("bad.toml"),
        "policy-version = 1\n[[rule]]\nid = \"a\"\nmatch.any = [\"x\"]\nlimit.max-unit = 3\n",
    )
    .unwrap();
    std::fs::create_dir(at.join("empty")).unwrap();
    check_error(
        "milan-audit",
        at,
        &["--policy", "bad.toml"],
        2,
        "error: bad.toml:5:7: unknown key `max-unit` in [rule.limit]; did you mean `max-units`?",
    );
    check_error(
        "milan-audit",
        at,
        &["--policy", "nosuch"],
        2,
        "error: there is no policy `nosuch`, neither as a file nor in policies/; built in are faces, text",
    );
    check_error(
        "milan-audit",
        at,
        &["--model", "none.safetensors", "--data", "pictures"],
        2,
        "error: cannot open the model none.safetensors: there is no such file or folder",
    );
    check_error(
        "milan-audit",
        at,
        &["--model", "model.safetensors"],
        2,
        "error: no pictures were named: --data FOLDER wants class folders, or pictures with a metadata.csv",
    );
    check_error(
        "milan-audit",
        at,
        &["--model", "model.safetensors", "--data", "empty"],
        2,
        "error: empty holds no picture (jpg, jpeg, png, webp, bmp, gif, jfif)",
    );
    check_error(
        "milan-audit",
        at,
        &["--layers", "conv7"],
        2,
        "error: --layers: `conv7` matches no layer of the network; its own choice is conv1, layer1, layer2, layer3",
    );
    check_error("milan-audit", at, &["--top-k", "0"], 2, "error: --top-k wants at least 1");
    check_error(
        "milan-audit",
        at,
        &["--arch", "resnet81"],
        2,
        "error: no architecture is called `resnet81`, did you mean `resnet18`? (known: resnet18, 34, 50, 101, 152; cifar_resnet8, 14, … 110, with `_b` for projection shortcuts; mobilenet_v2; efficientnet_lite0 to 4; vgg11, 13, 16, 19, with `_bn` for batch norm; alexnet)",
    );
    check_error(
        "milan-edit",
        at,
        &["--units", "conv1:99"],
        2,
        "error: unit conv1:99: `conv1` has units 0 to 15",
    );
    check_error(
        "milan-edit",
        at,
        &["--units", "conv1"],
        2,
        "error: `conv1` is not a unit; wanted `layer:channel`, such as `layer4.1:37`",
    );
    let ran = run("milan-audit", at, &["--describer", "magic"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr
            .contains("`magic` is no describer; there are milan, milan:FILE, labels and csv:FILE"),
        "{}",
        ran.stderr
    );
    assert_eq!(run("milan-edit", at, &[]).code, 2, "nothing says what to edit");
}

#[test]
fn what_cannot_be_concluded_ends_with_3_and_one_line() {
    let (folder, model) = demo_files();
    let at = folder.path();
    let whole = std::fs::read(&model).unwrap();
    let own = |name: &'static str| ["--model", name, "--data", "pictures", "--policy", "text"];

    std::fs::write(at.join("cut.safetensors"), &whole[..whole.len() - 10]).unwrap();
    check_error(
        "milan-audit",
        at,
        &own("cut.safetensors"),
        3,
        &format!(
            "error: cut.safetensors cannot be used: it is truncated: the tensors end at byte {}, the file has {}; fetch it again",
            whole.len(),
            whole.len() - 10
        ),
    );

    // The last four bytes belong to the last tensor of the file.
    let mut nan = whole.clone();
    let n = nan.len();
    nan[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(at.join("nan.safetensors"), nan).unwrap();
    let ran = run("milan-audit", at, &own("nan.safetensors"));
    assert_eq!(ran.code, 3);
    assert!(
        ran.stderr.starts_with(
            "error: cannot use nan.safetensors: values that are not finite (NaN or infinite): `"
        ) && ran.stderr.contains("` has 1;"),
        "{}",
        ran.stderr
    );

    let text = String::from_utf8_lossy(&whole[8..]).find("\"conv1.weight\"").unwrap() + 8;
    let mut renamed = whole.clone();
    renamed[text + 1..text + 6].copy_from_slice(b"conv9");
    std::fs::write(at.join("renamed.safetensors"), renamed).unwrap();
    check_error(
        "milan-audit",
        at,
        &own("renamed.safetensors"),
        3,
        "error: cannot use renamed.safetensors: the tensors fit no known architecture; the closest is cifar_resnet8_b: missing `conv1.weight`; 1 tensor is read by nothing: `conv9.weight`",
    );

    check_error(
        "milan-audit",
        at,
        &["--top-k", "500", "--policy", "text"],
        3,
        "error: 200 pictures are too few to keep the best 500 of each unit; add pictures or lower --top-k",
    );
    check_error(
        "milan-edit",
        at,
        &["--delete-matching", "zebra"],
        3,
        "error: none of the 128 units matches, so there is nothing to delete; nothing was written",
    );
    let ran = run("milan-audit", at, &[]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.starts_with("inconclusive: no policy was given"), "{}", ran.stderr);
}

#[test]
fn unreadable_pictures_are_listed_and_too_many_end_the_run() {
    let (folder, _) = demo_files();
    let at = folder.path();
    std::fs::write(at.join("pictures/red/00.png"), "not a picture").unwrap();
    let arguments = [
        "--model",
        "model.safetensors",
        "--data",
        "pictures",
        "--policy",
        "text",
        "--output",
        "json",
    ];
    let ran = run("milan-audit", at, &arguments);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["data"]["images"], 199);
    assert_eq!(
        report["data"]["skipped"],
        serde_json::json!([{ "file": "red/00.png", "reason": "it is no JPEG, PNG, WebP, BMP or GIF" }])
    );

    let whole = std::fs::read(at.join("pictures/red/01.png")).unwrap();
    std::fs::write(at.join("pictures/red/01.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(at.join("pictures/red/02.png"), "").unwrap();
    check_error(
        "milan-audit",
        at,
        &arguments,
        3,
        "error: 3 of 200 pictures in pictures cannot be read, more than --max-unreadable 0.01; the first is red/00.png: it is no JPEG, PNG, WebP, BMP or GIF",
    );
}

#[test]
fn descriptions_made_elsewhere_drive_an_edit() {
    let (folder, _) = demo_files();
    let at = folder.path();
    std::fs::write(
        at.join("d.csv"),
        "layer,unit,description\nconv1,4,printed letters\nconv1,5,a sword\nconv1,0,red things\n",
    )
    .unwrap();
    let arguments = [
        "--model",
        "model.safetensors",
        "--data",
        "pictures",
        "--describer",
        "csv:d.csv",
        "--delete-matching",
        "letter",
        "--controls",
        "2",
    ];
    let ran = run("milan-edit", at, &arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report: Value = serde_json::from_str(
        &std::fs::read_to_string(at.join("reports/model/report.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(report["edit"]["units"], serde_json::json!(["conv1:4"]));
    assert_eq!(report["controls"].as_array().unwrap().len(), 2);
    assert!(at.join("model-edited.safetensors").is_file());
    check_error(
        "milan-edit",
        at,
        &arguments,
        2,
        "error: model-edited.safetensors exists; --force replaces it",
    );
}

/// The command of the README on a real network, with fewer pictures.
#[test]
fn a_real_network_is_audited_on_photographs() {
    let Some(data) = shared_data("models/cifar_resnet20.safetensors") else { return };
    let Some(pictures) = shared_data("cifar10_test") else { return };
    let folder = folder();
    let arguments = [
        "--model",
        data.to_str().unwrap(),
        "--data",
        pictures.to_str().unwrap(),
        "--policy",
        "faces",
        "--layers",
        "layer3",
    ];
    let ran = run("milan-audit", folder.path(), &arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let text =
        std::fs::read_to_string(folder.path().join("reports/cifar_resnet20/report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    let top1 = report["accuracy"]["before"]["top1"].as_f64().unwrap();
    assert!((top1 - 0.8135).abs() <= 0.003, "{top1}");
}
