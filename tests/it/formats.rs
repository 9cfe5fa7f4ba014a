//! A report in every format: as it was, by the official schemas, and by what readers want beyond them.

use std::collections::BTreeSet;
use std::str::FromStr;

use boon::{Compiler, Schemas};
use milan::report::{
    Format, Report, card, concise, cyclonedx, diff, github, gitlab, in_toto, json, jsonl, junit,
    read, sarif, update_card,
};
use serde_json::{Value, json};

use crate::support::{check_file, folder};

/// An audit in which everything occurs: each status of rules and gates, exceptions, and names and texts that try to
/// break out of any format.
fn sample() -> Report {
    serde_json::from_value(sample_json()).unwrap()
}

fn sample_json() -> Value {
    serde_json::from_str(include_str!("../data/formats/report.json")).unwrap()
}

fn changed(change: impl FnOnce(&mut Value)) -> Report {
    let mut report = sample_json();
    change(&mut report);
    serde_json::from_value(report).unwrap()
}

/// An edit that was written, in two shards.
fn edited() -> Report {
    changed(|it| {
        it["verdict"] = json!("passed");
        it["exit_code"] = json!(0);
        it["why"] = json!([]);
        it["gates"] = json!([
            { "id": "nan", "level": "deny", "status": "passed", "limit": 0.0, "observed": 0.0, "why": "" },
            { "id": "accuracy.max-drop", "level": "warn", "status": "warned", "limit": 0.01, "observed": 0.013,
              "why": "top-1 falls by 1.30 points, 1.00 allowed" },
            { "id": "residual", "level": "deny", "status": "passed", "limit": 0.0, "observed": 0.0, "why": "" },
        ]);
        let accuracy =
            |top1: f64| json!({ "top1": top1, "top5": 0.99, "n": 1000, "per_class": [] });
        it["accuracy"] = json!({
            "before": accuracy(0.907), "after": accuracy(0.894), "delta": -0.013, "ci95": [-0.027, 0.001], "changed": 20
        });
        let test = |name: &str, before: f64, after: f64| {
            let delta = after - before;
            json!({ "name": name, "n": 1000, "before": before, "after": after, "delta": delta,
                    "ci95": [delta - 0.014, delta + 0.014] })
        };
        it["tests"] = json!([test("clean", 0.907, 0.894), test("odd | \"test\"\n", 0.5, 0.625)]);
        it["edit"] = json!({
            "units": ["layer4.1:37", "layer4.1:90"],
            "refused": [{ "unit": "conv1:0", "reason": "it has no exact edit" }],
            "changes": [{ "tensor": "layer4.1.bn2.weight", "axis": 0, "indices": [37, 90] }],
            "bytes_changed": 24,
            "spared": 2,
            "slack": 0.02,
            "val": "pictures",
            "verified": { "images": 16, "max_difference": 1e-6, "max_effect": 0.1 },
            "output": {
                "path": "out/clean",
                "sha256": { "model-00001-of-00002.safetensors": "b".repeat(64),
                            "model-00002-of-00002.safetensors": "c".repeat(64) }
            }
        });
    })
}

/// A run without a policy: nothing passed, and no rule or gate says so.
fn unheld() -> Report {
    changed(|it| {
        it["verdict"] = json!("inconclusive");
        it["exit_code"] = json!(3);
        it["why"] = json!(["no policy was given"]);
        it["policy"] = Value::Null;
        for list in ["rules", "gates", "exceptions", "layers", "units"] {
            it[list] = json!([]);
        }
    })
}

#[test]
fn every_format_is_as_it_was() {
    let (report, edited) = (sample(), edited());
    for (name, found) in [
        ("sample.concise", concise(&report)),
        ("sample.jsonl", jsonl(&report)),
        ("sample.sarif", sarif(&report)),
        ("sample.junit.xml", junit(&report)),
        ("sample.github", github(&report)),
        ("sample.gitlab.json", gitlab(&report)),
        ("sample.md", card(&report)),
        ("sample.in-toto.json", in_toto(&report)),
        ("sample.cdx.json", cyclonedx(&report)),
        ("edited.concise", concise(&edited)),
        ("edited.junit.xml", junit(&edited)),
        ("edited.md", card(&edited)),
        ("edited.in-toto.json", in_toto(&edited)),
        ("edited.cdx.json", cyclonedx(&edited)),
    ] {
        check_file(&format!("tests/data/formats/{name}"), &found.unwrap());
    }
}

const FORMATS: [&str; 12] = [
    "human",
    "concise",
    "json",
    "jsonl",
    "csv",
    "sarif",
    "junit",
    "github",
    "gitlab",
    "md",
    "in-toto",
    "cyclonedx",
];

#[test]
fn formats_have_names() {
    for name in FORMATS {
        assert!(Format::from_str(name).is_ok(), "{name}");
    }
    let error = Format::from_str("sarf").unwrap_err().to_string();
    assert!(error.ends_with("; did you mean `sarif`?"), "{error}");
}

/// Only what tells when a run was may differ from one run to the next.
#[test]
fn the_same_findings_give_the_same_bytes() {
    let later = changed(|it| {
        it["run"]["started"] = json!(1_767_300_000u64);
        it["run"]["seconds"] = json!(3.5);
        it["run"]["out"] = Value::Null;
    });
    let timed = ["startTimeUtc", "endTimeUtc", "<testsuite", "\"type\":\"run\""];
    for name in FORMATS.iter().filter(|it| !["human", "json"].contains(it)) {
        let format: Format = name.parse().unwrap();
        let (first, second) = (
            format.write(&sample(), &Default::default(), false).unwrap(),
            format.write(&later, &Default::default(), false).unwrap(),
        );
        assert_eq!(first.lines().count(), second.lines().count(), "{name}");
        for (a, b) in first.lines().zip(second.lines()) {
            assert!(a == b || timed.iter().any(|it| a.contains(it)), "{name}: {a}\n{b}");
        }
    }
}

/// The text must be JSON that the schema takes.
#[track_caller]
fn check_schema(text: &str, url: &str, schema: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap();
    let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
    compiler.add_resource(url, serde_json::from_str(schema).unwrap()).unwrap();
    // Licences and signatures, of which our files have none.
    for (name, any) in [
        ("spdx.SNAPSHOT.schema.json", json!({})),
        ("jsf-0.82.SNAPSHOT.schema.json", json!({ "definitions": { "signature": {} } })),
    ] {
        compiler.add_resource(&format!("http://cyclonedx.org/schema/{name}"), any).unwrap();
    }
    let index = compiler.compile(url, &mut schemas).unwrap();
    if let Err(error) = schemas.validate(&value, index) {
        panic!("{error:#}");
    }
    value
}

#[track_caller]
fn check_sarif(report: &Report) -> Value {
    let url = "https://raw.githubusercontent.com/oasis-tcs/sarif-spec/master/Schemata/sarif-schema-2.1.0.json";
    let schema = include_str!("../data/schemas/sarif-2.1.0.schema.json");
    let log = check_schema(&sarif(report).unwrap(), url, schema);
    let run = &log["runs"][0];
    let mut seen = BTreeSet::new();
    for result in run["results"].as_array().unwrap() {
        let place = &result["locations"][0]["physicalLocation"];
        let uri = place["artifactLocation"]["uri"].as_str().unwrap();
        assert!(place["region"]["startLine"].as_u64().unwrap() >= 1);
        let wrong =
            uri.starts_with('/') || uri.contains("..") || uri.contains('\\') || uri.contains(':');
        assert!(!wrong && !uri.is_empty(), "{uri}");
        let rule = &run["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().unwrap() as usize];
        assert_eq!(rule["id"], result["ruleId"]);
        for text in ["shortDescription", "fullDescription", "help"] {
            assert!(!rule[text]["text"].as_str().unwrap().is_empty());
        }
        assert!(seen.insert(result["partialFingerprints"].to_string()), "{result}");
        assert!(result.get("suppressions").is_none());
    }
    run.clone()
}

#[test]
fn sarif_is_what_code_scanning_takes() {
    check_sarif(&edited());
    check_sarif(&unheld());
    let run = check_sarif(&sample());
    let results: Vec<(&str, &str)> = run["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["ruleId"].as_str().unwrap(), it["level"].as_str().unwrap()))
        .collect();
    let wanted = [
        ("faces", "error"),
        ("faces", "error"),
        ("medical", "error"),
        ("gate.unused-exception", "error"),
        ("gate.effect", "error"),
        ("text", "warning"),
        ("gate.unknown-share", "warning"),
        ("gate.expiring-soon", "warning"),
        ("dogs", "note"),
    ];
    assert_eq!(results, wanted);
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    assert!(
        rules.iter().any(|it| it["id"] == "cats") && rules.iter().any(|it| it["id"] == "logos")
    );
    assert!(
        !run["results"].to_string().contains("faces of statues"),
        "an excepted unit is left out"
    );
    assert_eq!(run["invocations"][0]["exitCode"], 1);
    // A built-in rule stands where the user's own policy does.
    let place = &run["results"][5]["locations"][0]["physicalLocation"];
    assert_eq!(
        place["artifactLocation"]["uri"],
        "policies/faces%20&%20%C3%BCn%C3%AF%3A%20100%25.toml"
    );
    assert_eq!(place["region"]["startLine"], 1);
}

#[test]
fn sarif_fingerprints_do_not_know_lines() {
    let moved = changed(|it| it["rules"][0]["place"]["line"] = json!(99));
    let of = |report: &Report| -> Vec<Value> {
        let run = check_sarif(report);
        run["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["partialFingerprints"].clone())
            .collect()
    };
    assert_eq!(of(&sample()), of(&moved));
}

#[test]
fn sarif_keeps_the_worst_five_thousand() {
    let many = changed(|it| {
        let unit = |layer: usize| {
            json!({ "layer": format!("layer{layer}"), "unit": 0, "description": "dogs", "confidence": 0.5,
                    "importance": null, "matched": "dogs" })
        };
        it["rules"][3]["units"] = (0..6000).map(unit).collect();
    });
    let run = check_sarif(&many);
    assert_eq!(run["results"].as_array().unwrap().len(), 5000);
    assert_eq!(run["properties"]["resultsLeftOut"], 6000 + 8 - 5000);
    assert_eq!(run["results"][0]["level"], "error");
}

#[test]
fn paths_of_other_folders_become_names() {
    let elsewhere = changed(|it| {
        it["policy"]["files"] = json!([{ "path": "preset:text@1", "sha256": "1".repeat(64) }]);
        it["model"]["files"][0]["path"] = json!("/home/someone/models/a.safetensors");
        it["rules"][0]["place"]["path"] = json!("../policies/faces.toml");
    });
    let run = check_sarif(&elsewhere);
    let uri = |at: usize| {
        run["results"][at]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].clone()
    };
    assert_eq!((uri(0), uri(5)), (json!("policies/faces.toml"), json!("a.safetensors")));
    assert!(!github(&elsewhere).unwrap().contains("/home"));
    assert!(!gitlab(&elsewhere).unwrap().contains("/home"));
}

#[test]
fn junit_is_xml_that_fails_when_the_run_does() {
    let text = junit(&sample()).unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    let suites = document.root_element();
    let suite = suites.first_element_child().unwrap();
    let count =
        |tag: &str| suite.descendants().filter(|it| it.has_tag_name(tag)).count().to_string();
    assert_eq!(suite.attribute("tests"), Some(count("testcase").as_str()));
    assert_eq!(suite.attribute("failures"), Some(count("failure").as_str()));
    assert_eq!(suite.attribute("errors"), Some(count("error").as_str()));
    assert_eq!(suite.attribute("skipped"), Some(count("skipped").as_str()));
    assert_eq!(suites.attribute("failures"), suite.attribute("failures"));
    assert_eq!(suite.attribute("timestamp"), Some("2026-01-01T00:00:00"));
    let case = |name: &str| {
        let case = suite.descendants().find(|it| it.attribute("name") == Some(name)).unwrap();
        case.first_element_child().map_or("passed", |it| it.tag_name().name())
    };
    for (name, wanted) in [
        ("faces", "failure"),
        ("text", "system-out"),
        ("logos", "system-out"),
        ("dogs", "passed"),
        ("cats", "passed"),
        ("medical", "error"),
        ("late", "skipped"),
        ("nan", "passed"),
        ("unknown-share", "system-out"),
        ("unused-exception", "failure"),
        ("effect", "error"),
        ("residual", "skipped"),
        ("verdict", "failure"),
    ] {
        assert_eq!(case(name), wanted, "{name}");
    }
    let logos = suite.descendants().find(|it| it.attribute("name") == Some("logos")).unwrap();
    assert!(
        logos
            .first_element_child()
            .unwrap()
            .text()
            .unwrap()
            .starts_with("all 1 findings are excepted")
    );
    let failure = suite.descendants().find(|it| it.has_tag_name("failure")).unwrap();
    assert!(failure.text().unwrap().contains("pwned  [31m]]>"), "{failure:?}");
    let text = junit(&edited()).unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    assert!(
        !document.descendants().any(|it| it.has_tag_name("failure") || it.has_tag_name("error"))
    );
}

#[test]
fn workflow_commands_stay_on_their_lines() {
    let text = github(&sample()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 10);
    for line in &lines {
        let rest = ["::error file=", "::warning file=", "::notice "]
            .iter()
            .find_map(|it| line.strip_prefix(it));
        let (properties, message) = rest.unwrap().split_once("::").unwrap();
        assert!(properties.split(',').all(|it| !it.contains(':')) && !message.is_empty(), "{line}");
        assert!(!line.chars().any(char::is_control), "{line}");
    }
    assert!(lines[0].starts_with("::error file=policies/faces & ünï%3A 100%25.toml,line=19,title=faces in layer4.1::2 of 8 units in layer4.1 match faces"));
    assert!(lines[9].contains("VIOLATED: faces"));
    let more = changed(|it| it["rules"][6] = it["rules"][1].clone());
    let text = github(&more).unwrap();
    assert_eq!(text.lines().count(), 10);
    assert!(text.trim_end().ends_with("; 1 more like those above are in the report"), "{text}");
}

#[test]
fn code_quality_has_what_gitlab_wants() {
    let issues: Vec<Value> = serde_json::from_str(&gitlab(&sample()).unwrap()).unwrap();
    let mut seen = BTreeSet::new();
    for issue in &issues {
        assert!(issue["description"].is_string() && issue["check_name"].is_string());
        assert!(
            ["info", "minor", "major", "critical", "blocker"]
                .contains(&issue["severity"].as_str().unwrap())
        );
        assert!(
            issue["location"]["lines"]["begin"].is_u64() && issue["location"]["path"].is_string()
        );
        assert!(seen.insert(issue["fingerprint"].as_str().unwrap()));
    }
    assert_eq!(issues.len(), 9);
}

#[test]
fn a_stream_begins_with_the_run_and_ends_with_the_verdict() {
    let text = jsonl(&sample()).unwrap();
    let lines: Vec<Value> = text.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    assert_eq!(
        (&lines[0]["type"], &lines[lines.len() - 1]["type"]),
        (&json!("run"), &json!("verdict"))
    );
    let of = |kind: &str| lines.iter().filter(|it| it["type"] == kind).count();
    assert_eq!((of("rule"), of("finding"), of("gate"), of("exception")), (7, 8, 6, 3));
    assert_eq!(lines.iter().filter(|it| it["excepted"] == true).count(), 2);
}

#[test]
fn a_run_that_did_not_pass_passes_in_no_format() {
    // `--fail-on-warn`: only warnings, and the run fails.
    let strict = changed(|it| {
        it["why"] = json!(["text: 1 unit found, 0 allowed"]);
        it["rules"] = json!([it["rules"][1]]);
        it["gates"] = json!([]);
    });
    for report in [unheld(), strict] {
        let results = check_sarif(&report)["results"].to_string();
        assert!(
            results.contains("\"ruleId\":\"verdict\"") && results.contains("\"level\":\"error\"")
        );
        let text = junit(&report).unwrap();
        assert!(text.contains("<error ") || text.contains("<failure "), "{text}");
        assert!(github(&report).unwrap().contains("::error "));
        assert!(gitlab(&report).unwrap().contains("\"critical\""));
        assert!(in_toto(&report).unwrap().contains("\"result\": \"FAILED\""));
        assert!(!concise(&report).unwrap().lines().last().unwrap().starts_with("PASSED"));
        assert!(!card(&report).unwrap().contains("PASSED"));
    }
    assert_eq!(check_sarif(&unheld())["invocations"][0]["executionSuccessful"], false);
}

#[test]
fn a_statement_is_on_what_was_written() {
    let of =
        |report: &Report| -> Value { serde_json::from_str(&in_toto(report).unwrap()).unwrap() };
    let found = of(&sample());
    assert_eq!(found["subject"][0]["digest"]["sha256"], "a".repeat(64));
    assert_eq!(
        found["predicate"]["warnedTests"],
        json!(["rule/text", "gate/unknown-share", "gate/expiring-soon"])
    );
    let failed = ["rule/faces", "rule/medical", "gate/unused-exception", "gate/effect"];
    assert_eq!(found["predicate"]["failedTests"], json!(failed));
    let found = of(&edited());
    assert_eq!(found["predicate"]["result"], "WARNED");
    assert_eq!(found["subject"][1]["name"], "model-00002-of-00002.safetensors");
    assert_eq!(found["predicate"]["failedTests"], json!([]));
    assert_eq!(found["predicate"]["configuration"].as_array().unwrap().len(), 2);
}

#[test]
fn cyclonedx_holds_by_its_schema() {
    let url = "http://cyclonedx.org/schema/bom-1.6.schema.json";
    let schema = include_str!("../data/schemas/bom-1.6.schema.json");
    for report in [sample(), unheld()] {
        let bom = check_schema(&cyclonedx(&report).unwrap(), url, schema);
        assert_eq!(bom["metadata"]["component"]["hashes"][0]["content"], "a".repeat(64));
        assert!(bom["metadata"]["component"].get("pedigree").is_none());
    }
    let bom = check_schema(&cyclonedx(&edited()).unwrap(), url, schema);
    let model = &bom["metadata"]["component"];
    assert_eq!(model["name"], "clean");
    assert_eq!(model["components"].as_array().unwrap().len(), 2);
    assert_eq!(model["pedigree"]["ancestors"][0]["hashes"][0]["content"], "a".repeat(64));
}

#[test]
fn a_card_is_one_section_whatever_is_in_it() {
    let section = card(&sample()).unwrap();
    assert_eq!(section.matches("<!-- milan-audit:end -->").count(), 1);
    let readme = "---\nlicense: mit\n---\r\n# Model\n\nText";
    let with = update_card(readme, &section).unwrap();
    assert!(with.starts_with(readme));
    let after = update_card(&with, &card(&edited()).unwrap()).unwrap();
    assert!(after.starts_with(readme) && !after.contains("VIOLATED") && after.contains("PASSED"));
}

#[test]
fn a_saved_report_is_read_back() {
    let folder = folder();
    let text = json(&sample()).unwrap();
    std::fs::write(folder.path().join("report.json"), &text).unwrap();
    assert_eq!(json(&read(folder.path()).unwrap()).unwrap(), text);
}

#[test]
fn a_new_unit_is_worse_and_a_lost_one_only_where_nothing_is_known_of_it() {
    let old = sample();
    assert!(!diff(&old, &old).worse);
    let fewer = |status: &str| {
        changed(|it| {
            it["rules"][0]["units"].as_array_mut().unwrap().remove(0);
            it["units"][5] = json!({ "layer": "layer4.1", "unit": 37, "status": status, "readings": [], "importance": null });
        })
    };
    let found = diff(&old, &fewer("dead"));
    assert!(!found.worse && found.warnings.is_empty(), "{found:?}");
    assert_eq!((found.rules[0].gone.len(), found.rules[0].gone[0].now.as_str()), (1, "dead"));
    for status in ["unknown", "saturated"] {
        let why = diff(&old, &fewer(status)).why;
        assert_eq!(why, ["faces: 1 unit not described any more"]);
    }
    let found = diff(&fewer("dead"), &old);
    assert_eq!((found.worse, found.why), (true, vec!["faces: 1 new unit".to_owned()]));
}

#[test]
fn a_diff_says_what_differs_and_whether_that_is_fair() {
    let new = changed(|it| {
        it["model"]["files"][0]["sha256"] = json!("f".repeat(64));
        it["policy"]["resolved"]["rule"] = json!([]);
        it["descriptions"]["weights_sha256"] = json!("9".repeat(64));
        it["coverage"] = json!({ "units": 20, "described": 10, "unknown": 9, "dead": 1 });
        // An exception takes one unit out, another one is described otherwise, and an exception has ended.
        let gone = it["rules"][0]["units"].as_array_mut().unwrap().remove(0);
        let back = it["rules"][0]["excepted"].as_array_mut().unwrap().remove(0);
        it["rules"][0]["excepted"] = json!([gone]);
        it["rules"][0]["units"].as_array_mut().unwrap().push(back);
        it["rules"][0]["units"][0]["description"] = json!("a face");
        it["units"][7]["readings"][0]["text"] = json!("a face");
        it["rules"][1]["status"] = json!("passed");
        it["rules"][1]["units"] = json!([]);
        it["rules"].as_array_mut().unwrap().remove(6);
        it["gates"][0]["status"] = json!("violated");
        it["layers"].as_array_mut().unwrap().remove(2);
    });
    let found = diff(&sample(), &new);
    assert!(found.worse);
    assert_eq!(
        found.why,
        [
            "faces: 1 new unit",
            "cats: passed → not held",
            "nan: passed → violated",
            "not looked at any more: odd, \"layer\":100%\n<1>"
        ]
    );
    assert!(!found.same.policy && !found.same.describer && !found.same.model && found.same.data);
    assert_eq!((found.described_otherwise, found.units_in_both), (1, 10));
    check_file("tests/data/formats/diff.txt", &found.human());
    check_file("tests/data/formats/diff.json", &found.json().unwrap());
}
