//! The two programs as a user meets them, on planted units and on real files.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use milan::exemplars::store;
use milan::model::zoo;
use serde_json::Value;

use crate::edits::filled;
use crate::support::{check_error, check_file, folder, planted_files, run, shared_data};

fn report(folder: &Path) -> Value {
    serde_json::from_str(
        &std::fs::read_to_string(folder.join("reports/model/report.json")).unwrap(),
    )
    .unwrap()
}

/// The day of the recorded reports.
const DAY: &str = "2026-11-26";

/// What is the same on every machine.
fn without_time(report: &Value) -> String {
    let mut report = report.clone();
    let run = report["run"].as_object_mut().unwrap();
    run["started"] = 0.into();
    run["seconds"] = 0.into();
    run["threads"] = 1.into();
    serde_json::to_string_pretty(&report).unwrap() + "\n"
}

#[test]
fn an_audit_finds_the_units_that_read_text() {
    let (folder, _) = planted_files();
    let ran = run("milan-audit", folder.path(), &["--policy", "text", "--today", DAY]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "violated: text: 42 units found, 0 allowed\n"));
    check_file("reports/planted-audit.txt", &ran.stdout);
    check_file("reports/planted-audit.json", &without_time(&report(folder.path())));
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
            "importance",
            "units",
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
        report["coverage"]["dead"], 6,
        "the planted dead unit is carried through the stages, and two are there for others to begin at"
    );
}

#[test]
fn a_policy_of_faces_finds_the_planted_face_and_no_colour() {
    let (folder, _) = planted_files();
    let ran = run("milan-audit", folder.path(), &["--policy", "faces", "--layers", "layer1"]);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    let report = report(folder.path());
    let rules = report["rules"].as_array().unwrap().iter();
    let units: Vec<&Value> = rules.flat_map(|it| it["units"].as_array().unwrap()).collect();
    let found: Vec<u64> = units.iter().map(|it| it["unit"].as_u64().unwrap()).collect();
    assert!(found.contains(&9) && (0..6).all(|it| !found.contains(&it)), "{found:?}");
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

/// A network whose classes are those of the drawn pictures is audited on them, without a file of pictures.
#[test]
fn drawn_pictures_need_no_folder() {
    let folder = folder();
    let classes = milan::data::scenes::CLASSES;
    let graph = zoo::by_name("cifar_resnet8").unwrap().build(classes.len());
    let model = folder.path().join("drawn.safetensors");
    let tensors: HashMap<String, Tensor> = filled(&graph).into_iter().collect();
    candle_core::safetensors::save(&tensors, &model).unwrap();
    std::fs::write(folder.path().join("classes.txt"), classes.join("\n")).unwrap();
    let arguments = ["--model", "drawn.safetensors", "--data", "demo:60:1:mixed"];
    let more = ["--classes", "classes.txt", "--policy", "text", "--output", "json"];
    let ran = run("milan-audit", folder.path(), &[&arguments[..], &more[..]].concat());
    let report: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr));
    assert_eq!(report["data"]["images"], 60);
    assert_eq!(report["data"]["source"], "demo:60:1:mixed");
}

/// Winograd's transforms round otherwise, and nothing that is said depends on it.
#[test]
fn an_exact_audit_says_the_same() {
    let (folder, _) = planted_files();
    let fast = run("milan-audit", folder.path(), &["--policy", "text"]);
    let exact = run("milan-audit", folder.path(), &["--policy", "text", "--exact"]);
    assert_eq!((exact.code, exact.stdout), (fast.code, fast.stdout));
}

#[test]
fn the_same_audit_gives_the_same_bytes() {
    let files = |threads: &str| {
        let (folder, _) = planted_files();
        run("milan-audit", folder.path(), &["--policy", "text", "--threads", threads]);
        let read =
            |name: &str| std::fs::read(folder.path().join("reports/model").join(name)).unwrap();
        let mut report = report(folder.path());
        report.as_object_mut().unwrap().remove("run");
        (report, read("descriptions.csv"), read("exemplars/layer2/exemplars.safetensors"))
    };
    assert_eq!(files("1"), files("2"));
}

#[test]
fn an_edit_takes_the_letters_away_and_nothing_else() {
    let (folder, _) = planted_files();
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
    // Three in ten are red letters, which another unit sees.
    assert!(top1("after", "text") + 0.4 <= top1("before", "text"));
    for colour in ["red", "green", "blue", "yellow"] {
        assert!(top1("before", colour) - 0.05 <= top1("after", colour), "{colour}");
    }
    let path = folder.path().join(edit["output"]["path"].as_str().unwrap());
    let weights = milan::weights::Weights::open(&path).unwrap();
    assert_eq!(
        weights.files()[0].sha256,
        edit["output"]["sha256"]["model-edited.safetensors"].as_str().unwrap()
    );
}

#[test]
fn an_edit_by_description_is_reported_in_full() {
    let (folder, _) = planted_files();
    let by = ["--delete-matching", "text", "--order", "importance", "--max-units", "4"];
    let ran = run("milan-edit", folder.path(), &[&by[..], &["--today", DAY]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    check_file("reports/planted-edit.txt", &ran.stdout);
    check_file("reports/planted-edit.json", &without_time(&report(folder.path())));
    // Again, on the file just written: what was deleted is dead now.
    let edited = "model-edited.safetensors";
    let again = run(
        "milan-audit",
        folder.path(),
        &["--model", edited, "--data", "pictures", "--policy", "text", "--output", "json"],
    );
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert!(
        5 < again["coverage"]["dead"].as_u64().unwrap()
            || again["rules"][0]["observed"]["units"].as_u64().unwrap() < 43
    );
}

#[test]
fn a_gate_that_is_violated_writes_nothing() {
    let (folder, _) = planted_files();
    let ran = run(
        "milan-edit",
        folder.path(),
        &["--delete-matching", "text", "--max-drop", "0.01", "--controls", "0"],
    );
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.starts_with("violated: max-drop: top-1 falls by ")
            && ran.stderr.ends_with("nothing was written\n"),
        "{}",
        ran.stderr
    );
    assert!(!folder.path().join("model-edited.safetensors").exists());
    let report = report(folder.path());
    let gate = report["gates"].as_array().unwrap().last().unwrap();
    assert_eq!((&gate["id"], &gate["status"]), (&"max-drop".into(), &"violated".into()));
}

#[test]
fn a_dry_run_writes_nothing_at_all_of_its_own() {
    let (folder, _) = planted_files();
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
    let (folder, model) = planted_files();
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
    let (folder, _) = planted_files();
    run(
        "milan-audit",
        folder.path(),
        &["--policy", "text", "--layers", "conv1", "--top-k", "3", "--export", "milan"],
    );
    let layer = folder.path().join("reports/model/exemplars/conv1");
    let size = |name: &str| std::fs::metadata(layer.join(name)).unwrap().len();
    assert_eq!(size("images.npy"), 128 + 16 * 3 * 3 * 32 * 32);
    assert_eq!(size("masks.npy"), 128 + 16 * 3 * 32 * 32);
    let ids = std::fs::read_to_string(layer.join("ids.csv")).unwrap();
    assert_eq!(ids.lines().count(), 16);
    assert!(ids.lines().all(|line| line.split(',').count() == 3
        && line.split(',').all(|id| id.parse::<usize>().unwrap() < 240)));
    let activations = std::fs::read_to_string(layer.join("activations.csv")).unwrap();
    assert!(
        activations.lines().all(|line| line.split(',').all(|it| it.contains('e'))),
        "{activations}"
    );
}

#[test]
fn descriptions_made_elsewhere_drive_an_edit() {
    let (folder, _) = planted_files();
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
    // Without the other layers nothing is concluded, unless that is asked for.
    let ran = run("milan-audit", folder.path(), &arguments);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("were not looked at (conv1, layer1, layer2)"), "{}", ran.stderr);
    let ran = run("milan-audit", folder.path(), &[&arguments[..], &["--allow-uncovered"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let text =
        std::fs::read_to_string(folder.path().join("reports/cifar_resnet20/report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    let top1 = report["accuracy"]["before"]["top1"].as_f64().unwrap();
    assert!((top1 - 0.8135).abs() <= 0.003, "{top1}");
}

#[test]
fn near_duplicates_are_reported_and_kept_once() {
    let (folder, _) = planted_files();
    let pictures = folder.path().join("pictures");
    // A second and a third of each face, under other names.
    for i in 0..40 {
        let face = pictures.join(format!("face/{i:02}.png"));
        for copy in ["a", "b"] {
            std::fs::copy(&face, pictures.join(format!("face/{copy}{i:02}.png"))).unwrap();
        }
    }
    let audit = ["--policy", "faces", "--layers", "layer1", "--max-near-duplicates"];
    let with = |limit: &str| {
        let ran = run("milan-audit", folder.path(), &[&audit[..], &[limit]].concat());
        assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
        let site = store::read(&folder.path().join("reports/model"), "layer1").unwrap();
        let table = folder.path().join("reports/model/exemplars/pictures.csv");
        let table = std::fs::read_to_string(table).unwrap();
        let files: Vec<&str> =
            table.lines().skip(1).map(|it| it.rsplit(',').next().unwrap()).collect();
        // The unit of faces: how often each face is among its pictures.
        let mut times = HashMap::<String, usize>::new();
        for &id in site.ids(9) {
            *times
                .entry(files[id].replace("face/a", "face/").replace("face/b", "face/"))
                .or_default() += 1;
        }
        (ran.stdout, times.into_values().max())
    };
    let (stdout, most) = with("1");
    assert_eq!(most, Some(1));
    let found = &report(folder.path())["data"]["near_duplicates"];
    assert!(40 <= found["groups"].as_u64().unwrap() && 120 <= found["pictures"].as_u64().unwrap());
    assert_eq!((&found["kept"], found["first"][0].as_array().unwrap().len()), (&1.into(), 3));
    assert!(stdout.contains("\nnear-duplicates: "), "{stdout}");
    assert_eq!(with("2").1, Some(2));
    assert_eq!(with("0").1, Some(3));

    let few = tempfile::tempdir().unwrap();
    std::fs::copy(folder.path().join("model.safetensors"), few.path().join("model.safetensors"))
        .unwrap();
    std::fs::create_dir(few.path().join("pictures")).unwrap();
    for i in 0..20 {
        let from = pictures.join(if i < 3 { "face/00.png" } else { "text/00.png" });
        std::fs::copy(from, few.path().join(format!("pictures/{i}.png"))).unwrap();
    }
    let wanted = "error: 20 pictures are too few to keep the best 3 of each unit: with --max-near-duplicates 1 only 2 of them differ enough; add other pictures, lower --top-k, or raise that limit (0 is none)";
    check_error("milan-audit", few.path(), &["--top-k", "3"], 3, wanted);
}
