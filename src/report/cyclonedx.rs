//! CycloneDX 1.6: the model as a component of a bill of materials, with its model card and what it was made from.

use serde_json::{Value, json};

use super::human::{counted, percent, points};
use super::issue::{clean, held};
use super::table::word;
use super::{AccuracyReport, Coverage, EditReport, Report};

/// One component, the model that the verdict is on; an edited one has the original as its ancestor.
pub fn cyclonedx(report: &Report) -> anyhow::Result<String> {
    let edit = report.edit.as_ref().filter(|it| it.output.is_some());
    let mut model = component(&report.name(), &report.subject());
    model["bom-ref"] = json!("model");
    if let Some(edit) = edit {
        let files: Vec<(String, &str)> = report.source_files();
        let by = format!("{} {}", report.tool.name, report.tool.version);
        model["pedigree"] = json!({
            "ancestors": [component(&report.model.source, &files)],
            "notes": format!("{} set to zero by {by}", counted(edit.units.len(), "unit")),
        });
    }
    let mut considerations = json!({ "technicalLimitations": limitations(report) });
    if let (Some(edit), Some(accuracy)) = (edit, &report.accuracy) {
        considerations["performanceTradeoffs"] = json!([tradeoff(edit, accuracy)]);
    }
    model["modelCard"] = json!({
        "modelParameters": {
            "task": "image-classification",
            "modelArchitecture": report.model.arch,
        },
        "quantitativeAnalysis": { "performanceMetrics": metrics(report) },
        "considerations": considerations,
    });
    model["properties"] = json!(properties(report));
    let bom = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": { "components": [{
                "type": "application",
                "name": report.tool.name,
                "version": report.tool.version,
            }] },
            "component": model,
        },
    });
    Ok(serde_json::to_string_pretty(&bom)? + "\n")
}

/// The hashes of a component are those of one file, so shards are components of their own.
fn component(name: &str, files: &[(String, &str)]) -> Value {
    let hashes = |sha256: &str| json!([{ "alg": "SHA-256", "content": sha256 }]);
    let mut component = json!({ "type": "machine-learning-model", "name": name });
    match files {
        [(_, sha256)] => component["hashes"] = hashes(sha256),
        _ => {
            let file = |(name, sha256): &(String, &str)| json!({ "type": "file", "name": name, "hashes": hashes(sha256) });
            component["components"] = json!(files.iter().map(file).collect::<Vec<Value>>());
        }
    }
    component
}

/// Shares, 0..=1. The interval is that of a difference.
fn metrics(report: &Report) -> Vec<Value> {
    let number = |it: f64| format!("{it:.4}");
    let mut found = vec![];
    if let (Some(accuracy), true) = (&report.accuracy, report.tests.is_empty()) {
        let before = &accuracy.before;
        found.push(json!({ "type": "top-1 accuracy", "value": number(before.top1) }));
        found.push(json!({ "type": "top-5 accuracy", "value": number(before.top5) }));
    }
    for test in &report.tests {
        let metric = |kind: &str, value: f64, when: &str| json!({ "type": kind, "value": number(value), "slice": clean(&format!("{}{when}", test.name)) });
        found.push(metric("top-1 accuracy", test.before, ", before the edit"));
        found.push(metric("top-1 accuracy", test.after, ", after the edit"));
        let mut difference = metric("top-1 accuracy, difference", test.delta, "");
        let [low, high] = test.ci95.map(number);
        difference["confidenceInterval"] = json!({ "lowerBound": low, "upperBound": high });
        found.push(difference);
    }
    found
}

fn limitations(report: &Report) -> Vec<String> {
    let Coverage { units, unknown, dead, saturated, .. } = report.coverage;
    let unseen = report.coverage.unseen();
    let kinds = super::unseen_in_words(unknown, dead, saturated);
    let share = percent(if units == 0 { 0. } else { unseen as f64 / units as f64 });
    let layers: Vec<&str> = report.layers.iter().map(|it| it.name.as_str()).collect();
    vec![
        format!(
            "Units are described by a program ({}), not by people.",
            report.descriptions.method
        ),
        format!("Of {unseen} of {} ({share}) nothing is known: {kinds}.", counted(units, "unit")),
        clean(&format!("Only these layers were looked at: {}.", layers.join(", "))),
    ]
}

fn tradeoff(edit: &EditReport, accuracy: &AccuracyReport) -> String {
    let units = counted(edit.units.len(), "unit");
    match (accuracy.delta, accuracy.ci95) {
        (Some(delta), Some([low, high])) => format!(
            "{} points of top-1 [95 %: {}, {}] for {units} set to zero",
            points(delta),
            points(low),
            points(high)
        ),
        _ => format!("what {units} set to zero cost was not measured"),
    }
}

fn properties(report: &Report) -> Vec<Value> {
    let mut found = vec![];
    let mut property = |name: &str, value: &str| {
        found.push(json!({ "name": format!("milan:{name}"), "value": value }));
    };
    property("verdict", &word(&report.verdict));
    property("data:manifest-sha256", &report.data.manifest_sha256);
    property("describer", &report.descriptions.method);
    if let Some(sha256) = &report.descriptions.weights_sha256 {
        property("describer:sha256", sha256);
    }
    for it in report.policy.iter().flat_map(|it| &it.files) {
        property(&format!("policy-sha256:{}", it.path), &it.sha256);
    }
    for it in &report.rules {
        let rule = if held(report) { "rule" } else { "rule-before-edit" };
        property(&format!("{rule}:{}", it.id), &word(&it.status));
    }
    for it in &report.gates {
        property(&format!("gate:{}", it.id), &word(&it.status));
    }
    found
}
