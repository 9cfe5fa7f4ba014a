//! An in-toto Statement v1 with a test result v0.1: what was held against which files, to be signed by others.

use serde_json::{Value, json};

use super::issue::held;
use super::table::word;
use super::{Report, Verdict};
use crate::policy::CheckStatus;

/// The subject is what the verdict is on: the model's files, or those that an edit wrote.
///
/// A test is `rule/ID` or `gate/ID`; what was skipped is none. The predicate knows no inconclusive result, so that is
/// `FAILED`; the annotations of the subject have the verdict, and why.
pub fn in_toto(report: &Report) -> anyhow::Result<String> {
    let annotations =
        json!({ "verdict": word(&report.verdict), "why": report.why, "coverage": report.coverage });
    let subject = report.subject().into_iter().map(|(name, sha256)| {
        json!({ "name": name, "digest": { "sha256": sha256 }, "annotations": annotations })
    });
    let configuration = report.policy.iter().flat_map(|it| &it.files);
    let configuration =
        configuration.map(|it| json!({ "name": it.path, "digest": { "sha256": it.sha256 } }));
    let rules = report.rules.iter().filter(|_| held(report));
    let rules = rules.map(|it| (format!("rule/{}", it.id), it.status));
    let gates = report.gates.iter().map(|it| (format!("gate/{}", it.id), it.status));
    let tests: Vec<(String, CheckStatus)> = rules.chain(gates).collect();
    let of = |wanted: &[CheckStatus]| -> Vec<&str> {
        tests.iter().filter(|it| wanted.contains(&it.1)).map(|it| it.0.as_str()).collect()
    };
    let warned = of(&[CheckStatus::Warned]);
    let result = match report.verdict {
        Verdict::Passed if warned.is_empty() => "PASSED",
        Verdict::Passed => "WARNED",
        Verdict::Violated | Verdict::Inconclusive => "FAILED",
    };
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject.collect::<Vec<Value>>(),
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {
            "result": result,
            "configuration": configuration.collect::<Vec<Value>>(),
            "passedTests": of(&[CheckStatus::Passed]),
            "warnedTests": warned,
            "failedTests": of(&[CheckStatus::Violated, CheckStatus::Inconclusive]),
        },
    });
    Ok(serde_json::to_string_pretty(&statement)? + "\n")
}
