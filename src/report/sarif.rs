//! SARIF 2.1.0 (OASIS), within what GitHub's code scanning takes.
//!
//! It rejects a file in which any result has no physical location, shows suppressed results as open, and keeps 5,000
//! results.

use serde_json::{Value, json};

use super::human::counted;
use super::issue::{Issue, Severity, clean, gate_id, is_file, issues, relative};
use super::table::word;
use super::{Report, RuleReport, Verdict};
use crate::policy::{Gate, Level};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";
const MAX_RESULTS: usize = 5000;

/// A rule of SARIF for each rule and gate, and for a verdict that none of them shows; a result for each rule and layer
/// with units that break it, and for each gate that is not passed.
pub fn sarif(report: &Report) -> anyhow::Result<String> {
    let issues = issues(report);
    let mut rules: Vec<Value> = report.rules.iter().map(rule).collect();
    rules.extend(report.gates.iter().map(gate));
    if issues.iter().any(|it| it.id == "verdict") {
        let text = "What the run as a whole came to";
        rules.push(descriptor("verdict", text, "See `why` in report.json.", Level::Deny));
    }
    let index = |id: &str| rules.iter().position(|it| it["id"] == id);
    let result = |it: &Issue<'_>| result(it, index(&it.id));
    let results = issues.iter().take(MAX_RESULTS).map(result);
    let results = results.collect::<anyhow::Result<Vec<Value>>>()?;
    let excepted: usize = report.rules.iter().map(|it| it.excepted.len()).sum();
    let run = json!({
        "tool": { "driver": {
            "name": report.tool.name,
            "semanticVersion": report.tool.version,
            "rules": rules,
        } },
        // GitHub takes a new file of the same category for news of the same thing.
        "automationDetails": { "id": format!("{}/{}/", report.tool.name, uri(&report.name())) },
        "invocations": [invocation(report)?],
        "artifacts": artifacts(report),
        "results": results,
        "properties": {
            "verdict": report.verdict,
            "why": report.why,
            "coverage": report.coverage,
            "exceptedUnits": excepted,
            "resultsLeftOut": issues.len().saturating_sub(MAX_RESULTS),
        },
    });
    let log = json!({ "$schema": SCHEMA, "version": "2.1.0", "runs": [run] });
    Ok(serde_json::to_string_pretty(&log)? + "\n")
}

fn rule(rule: &RuleReport) -> Value {
    let title = rule.title.as_ref().unwrap_or(&rule.id);
    let mut help =
        "Look at the units in the run's report. milan-edit writes a model without them; an \
        [[exception]] in the policy lets single ones pass."
            .to_owned();
    if let Some(reason) = &rule.reason {
        help = format!("{reason} {help}");
    }
    let mut found = descriptor(&rule.id, title, &help, rule.level);
    let web = |url: &&String| {
        (url.starts_with("https://") || url.starts_with("http://"))
            && url.bytes().all(|it| it.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&it))
    };
    if let Some(url) = rule.url.as_ref().filter(web) {
        found["helpUri"] = json!(url);
    }
    found
}

fn gate(gate: &Gate) -> Value {
    let help = "The [gate] of the policy says what is wanted.";
    descriptor(&gate_id(gate), &format!("The gate {}", gate.id), help, gate.level)
}

/// A `reportingDescriptor` (section 3.49).
fn descriptor(id: &str, title: &str, help: &str, level: Level) -> Value {
    let (level, severity) = match level {
        Level::Deny => ("error", "error"),
        Level::Warn => ("warning", "warning"),
        Level::Allow => ("note", "recommendation"),
    };
    json!({
        "id": id,
        "name": id,
        "shortDescription": { "text": message(title) },
        "fullDescription": { "text": message(title) },
        "help": { "text": message(help) },
        "defaultConfiguration": { "level": level },
        "properties": { "tags": ["model", "policy"], "problem.severity": severity },
    })
}

/// A `result` (section 3.27).
fn result(issue: &Issue<'_>, rule: Option<usize>) -> anyhow::Result<Value> {
    let fingerprint = issue.fingerprint();
    let mut location = json!({ "physicalLocation": {
        "artifactLocation": { "uri": uri(&issue.place.path) },
        "region": { "startLine": issue.place.line },
    } });
    if let Some(layer) = issue.layer {
        location["logicalLocations"] = json!([{ "fullyQualifiedName": layer, "kind": "module" }]);
    }
    let mut result = json!({
        "ruleId": issue.id,
        "ruleIndex": rule,
        "level": match issue.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        },
        "message": { "text": message(&issue.message) },
        "locations": [location],
        // GitHub knows the first only, and would make it of the line where it is absent.
        "partialFingerprints": {
            "primaryLocationLineHash": format!("{fingerprint}:1"),
            "milanFinding/v1": fingerprint,
        },
    });
    if !issue.units.is_empty() {
        // By its text, which has the digits of a confidence and not those of its double.
        let units: Value = serde_json::from_str(&serde_json::to_string(issue.units)?)?;
        result["properties"] = json!({ "units": units });
    }
    Ok(result)
}

/// An `invocation` (section 3.20). A run that came to no verdict was none that succeeded.
fn invocation(report: &Report) -> anyhow::Result<Value> {
    let mut said: Vec<Value> = vec![];
    if report.verdict == Verdict::Inconclusive {
        said.extend(report.why.iter().map(|it| notification("error", it)));
    }
    said.extend(report.warnings.iter().map(|it| notification("warning", it)));
    let skipped = report.data.skipped.len();
    if 0 < skipped {
        let text = format!("{} could not be read", counted(skipped, "picture"));
        said.push(notification("warning", &text));
    }
    Ok(json!({
        "executionSuccessful": report.verdict != Verdict::Inconclusive,
        "exitCode": report.exit_code,
        "exitCodeDescription": word(&report.verdict),
        "startTimeUtc": format!("{}Z", report.run.at(0.)?),
        "endTimeUtc": format!("{}Z", report.run.at(report.run.seconds)?),
        "toolExecutionNotifications": said,
    }))
}

fn notification(level: &str, text: &str) -> Value {
    json!({ "level": level, "message": { "text": message(&clean(text)) } })
}

/// The model's files and the policy's (section 3.24).
fn artifacts(report: &Report) -> Vec<Value> {
    let artifact = |path: &str, sha256: &str| json!({ "location": { "uri": uri(&relative(path)) }, "hashes": { "sha-256": sha256 } });
    let policy = report.policy.iter().flat_map(|it| &it.files).filter(|it| is_file(&it.path));
    let policy = policy.map(|it| artifact(&it.path, &it.sha256));
    let model = report.model.files.iter().map(|it| {
        let mut found = artifact(&it.path.display().to_string(), &it.sha256);
        found["length"] = json!(it.size);
        found
    });
    model.chain(policy).collect()
}

/// Text with its braces doubled, as section 3.11.5 wants it, and without links (section 3.11.6).
fn message(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}").replace("](", "] (")
}

/// A path as a relative reference of RFC 3986.
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=@".contains(&byte);
    let one = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    path.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_relative_reference() {
        assert_eq!(uri("a b/c:1%[ü].toml"), "a%20b/c%3A1%25%5B%C3%BC%5D.toml");
    }

    #[test]
    fn a_message_has_no_placeholders_and_no_links() {
        assert_eq!(message("a:{1,2} [x](http://y)"), "a:{{1,2}} [x] (http://y)");
    }
}
