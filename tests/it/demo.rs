//! The built-in demo, its classifier's training, and judging a describer on it: small versions of each.

use std::path::Path;

use serde_json::Value;

use crate::support::{Ran, check_error, folder, planted_files, run};

/// Less than the demo does by itself: fewer pictures.
const SMALL: [&str; 4] = ["--describer", "milan", "--data", "demo:200:1:train"];

fn report(folder: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join("reports/demo/report.json")).unwrap())
        .unwrap()
}

fn train(folder: &Path, arguments: &[&str]) -> Ran {
    run("milan-train", folder, &[&["classifier"], arguments].concat())
}

#[test]
fn the_demo_reads() {
    let folder = folder();
    let ran = run("milan-audit", folder.path(), &[&SMALL[..], &["--policy", "text"]].concat());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("This is the built-in demo"), "{}", ran.stdout);
    let report = report(folder.path());
    let n = report["rules"][0]["units"].as_array().unwrap().len();
    // The first layers' edges, which people seldom call text, and the last layers' things do not count.
    assert!((8..80).contains(&n), "{n} of 352 units read");
    let top1 = report["accuracy"]["before"]["top1"].as_f64().unwrap();
    assert!(0.9 < top1, "{top1}");
}

/// What the description finds is worth more than what the same order or chance finds.
#[test]
fn without_its_reading_units_the_demo_reads_less() {
    let folder = folder();
    let words = "text,words,letters,lettering,writing";
    let arguments = ["--delete-matching", words, "--curve", "4", "--controls", "2"];
    let layers = ["--describer", "milan", "--layers", "layer2,layer3"];
    let pictures = ["--data", "demo:200:1:train", "--val", "demo:300:2:clean"];
    let tests = ["--test", "adversarial=demo:300:1:adversarial,clean=demo:300:1:clean"];
    let all = [&arguments[..], &layers, &pictures, &tests].concat();
    let ran = run("milan-edit", folder.path(), &all);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let report = report(folder.path());
    let delta = |test: &Value| test["delta"].as_f64().unwrap();
    let adversarial = &report["tests"][0];
    assert!(0.25 < 1. - adversarial["before"].as_f64().unwrap(), "names fool it");
    let controls = report["controls"].as_array().unwrap();
    for control in controls {
        assert!(delta(&control["tests"][0]) < delta(adversarial), "{}", ran.stdout);
    }
    assert!(-0.06 < delta(&report["tests"][1]), "{}", ran.stdout);
    let kinds: Vec<&str> = controls.iter().map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["importance", "random", "random"]);
    assert_eq!(report["edit"]["val"], "demo:300:2:clean");

    let at = folder.path().join("reports/demo");
    let curve = std::fs::read_to_string(at.join("curve.csv")).unwrap();
    let mut rows = csv::Reader::from_reader(curve.as_bytes());
    assert_eq!(rows.headers().unwrap(), vec!["test", "by", "seed", "deleted", "top1"]);
    // Two tests, seven orders, none to four deleted.
    let n = rows.records().filter(|it| it.is_ok()).count();
    assert!((2 * 6 * 5 + 2 * 2..=2 * 7 * 5).contains(&n), "{n}");
    assert!(std::fs::read_to_string(at.join("curve.svg")).unwrap().starts_with("<svg"));
}

#[test]
fn a_slack_is_kept_or_nothing_is_written() {
    let folder = folder();
    let arguments = ["--delete-matching", "text", "--slack", "0", "--curve", "0"];
    let pictures = ["--describer", "csv:said.csv", "--data", "demo:100:1:train"];
    let mut said = "layer,unit,description\n".to_owned();
    (0..160).for_each(|it| said += &format!("layer4,{it},text\n"));
    std::fs::write(folder.path().join("said.csv"), said).unwrap();
    let ran = run("milan-edit", folder.path(), &[&arguments[..], &pictures].concat());
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("would fall by more than 0.00 points"), "{}", ran.stdout);
    let wrong = ["--delete-matching", "text", "--max-units", "0"];
    let ran = run("milan-edit", folder.path(), &wrong);
    assert_eq!(ran.stderr, "error: --max-units wants at least 1\n");
    let wrong = ["--delete-matching", "text", "--slack", "2"];
    let ran = run("milan-edit", folder.path(), &wrong);
    assert_eq!(ran.stderr, "error: --slack wants a share between 0 and 1, not 2\n");
    let wrong = ["--delete-matching", "text", "--curve", "5", "--order", "listed"];
    let ran = run("milan-edit", folder.path(), &wrong);
    assert!(ran.code == 2 && ran.stderr.contains("--order importance is wanted"), "{}", ran.stderr);
}

/// Without the unit that sees yellow no yellow picture is known.
#[test]
fn a_slack_that_no_unit_keeps_writes_nothing() {
    let (folder, _) = planted_files();
    std::fs::write(folder.path().join("d.csv"), "layer,unit,description\nconv1,3,text\n").unwrap();
    let arguments = ["--describer", "csv:d.csv", "--delete-matching", "text", "--slack", "0.05"];
    check_error(
        "milan-edit",
        folder.path(),
        &arguments,
        3,
        "error: zeroing conv1:3 alone costs more than the 5.00 points of top-1 that --slack allows; nothing was written",
    );
    assert!(!folder.path().join("model-edited.safetensors").exists());
}

#[test]
fn a_classifier_is_trained_and_the_same_again() {
    let folder = folder();
    let at = folder.path();
    let arguments =
        ["--data", "demo:128:0:train", "--epochs", "2", "--test", "clean=demo:64:1:clean"];
    let ran = train(at, &arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let model = std::fs::read(at.join("classifier/model.safetensors")).unwrap();
    let card = std::fs::read_to_string(at.join("classifier/README.md")).unwrap();
    assert!(card.contains("--data demo:128:0:train --arch small_resnet10 --epochs 2"), "{card}");
    assert!(card.contains("| clean | 64 | "), "{card}");
    train(at, &[&arguments[..], &["--out", "again", "--threads", "1"]].concat());
    assert!(model == std::fs::read(at.join("again/model.safetensors")).unwrap());

    // Its folder is a model like any other, and knows its classes.
    let audit = ["--model", "classifier", "--data", "demo:40:1:clean", "--layers", "conv1"];
    let ran = run("milan-audit", at, &[&audit[..], &["--output", "json"]].concat());
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["model"]["arch"], "small_resnet10");
    assert_eq!(
        report["accuracy"]["before"]["per_class"][0]["name"],
        milan::data::scenes::CLASSES[0]
    );

    for (arguments, code, wanted) in [
        (&["--data", "demo:20:0:train"][..], 2, "has 20 pictures; 64 are wanted at least"),
        (
            &["--data", "demo:64:0:train", "--arch", "mobilenet_v2"],
            2,
            "cannot be trained here because of",
        ),
        (
            &["--data", "demo:64:0:train", "--arch", "resnet"],
            2,
            "no architecture is called `resnet`",
        ),
        (&["--data", "demo:64:0:train", "--test", "clean"], 2, "--test wants NAME=D"),
        (&["--data", "nowhere"], 2, "nowhere is not there"),
    ] {
        let ran = train(at, arguments);
        assert!(ran.code == code && ran.stderr.contains(wanted), "{arguments:?}: {}", ran.stderr);
    }
}

/// The bar that must not fall: planted units are called what they are, and descriptions foretell.
#[test]
fn the_describer_knows_planted_units_and_drawn_pictures() {
    let folder = folder();
    let arguments = ["evaluate", "--drawn", "demo:60:3:mixed", "--json", "found.json"];
    let ran = run("milan-train", folder.path(), &arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let found = std::fs::read_to_string(folder.path().join("found.json")).unwrap();
    let found: Value = serde_json::from_str(&found).unwrap();
    let planted = found["drawn"]["planted"].as_array().unwrap();
    for (kind, labels, milan) in [
        ("colour", 4, 4),
        ("shape", 0, 1),
        ("text", 2, 2),
        ("face", 1, 1),
        ("or", 1, 1),
        ("and", 0, 1),
        ("duplicate", 1, 1),
        ("dead", 1, 1),
    ] {
        let row = planted.iter().find(|it| it["kind"] == kind).unwrap();
        let hits = [&row["labels"], &row["milan"]].map(|it| it.as_u64().unwrap());
        assert!(labels <= hits[0] && milan <= hits[1], "{kind}: {hits:?}\n{}", ran.stdout);
    }
    let correlation = |at: usize| found["drawn"]["simulation"][at]["correlation"].as_f64().unwrap();
    let [own, other, untrained] = [0, 1, 2].map(correlation);
    assert!(1.3 * other < own && untrained < own, "{}", ran.stdout);
    let sanity = &found["drawn"]["sanity"][0];
    assert!(0.9 < sanity["missing"].as_f64().unwrap() && 0.9 < sanity["extra"].as_f64().unwrap());
}
