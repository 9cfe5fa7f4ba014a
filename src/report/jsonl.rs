//! The report as a stream: one JSON object a line, for programs that read as they go.

use serde::Serialize;
use serde_json::json;

use super::{Report, RuleReport, UnitReport};

/// `{"type": …}` a line: `run` with what was looked at; `rule`, `finding`, `gate`, `exception`, `accuracy`, `test`,
/// `control`, `edit`, `warning` where there are any; and last `verdict`. A stream without a verdict is cut off.
///
/// The other fields of a line are those of `report.json`.
pub fn jsonl(report: &Report) -> anyhow::Result<String> {
    let Report { schema, tool, policy, model, data, descriptions, coverage, run, .. } = report;
    let policy = policy.as_ref().map(|it| &it.files);
    let start = json!({
        "schema": schema, "tool": tool, "policy": policy, "model": model, "data": data,
        "descriptions": descriptions, "coverage": coverage, "run": run,
    });
    let Report { verdict, exit_code, why, complete, .. } = report;
    let end =
        json!({ "verdict": verdict, "exit_code": exit_code, "why": why, "complete": complete });
    let said: Vec<_> = report.warnings.iter().map(|it| json!({ "text": it })).collect();
    Ok([
        lines("run", &[start])?,
        report.rules.iter().map(rule).collect::<anyhow::Result<String>>()?,
        lines("gate", &report.gates)?,
        lines("exception", &report.exceptions)?,
        lines("accuracy", report.accuracy.as_slice())?,
        lines("test", &report.tests)?,
        lines("control", &report.controls)?,
        lines("edit", report.edit.as_slice())?,
        lines("warning", &said)?,
        lines("verdict", &[end])?,
    ]
    .concat())
}

/// A rule's line, and one for each unit that it matches.
fn rule(rule: &RuleReport) -> anyhow::Result<String> {
    let mut alone = serde_json::to_value(rule)?;
    if let Some(fields) = alone.as_object_mut() {
        fields.retain(|key, _| !["units", "possible", "excepted"].contains(&key.as_str()));
    }
    let finding = |excepted| move |unit| Finding { rule: &rule.id, excepted, unit };
    let counted = rule.units.iter().map(finding(false));
    let found: Vec<_> = counted.chain(rule.excepted.iter().map(finding(true))).collect();
    let possible: Vec<_> = rule.possible.iter().map(finding(false)).collect();
    Ok(lines("rule", &[alone])? + &lines("finding", &found)? + &lines("possible", &possible)?)
}

#[derive(Serialize)]
struct Finding<'a> {
    rule: &'a str,
    excepted: bool,
    #[serde(flatten)]
    unit: &'a UnitReport,
}

#[derive(Serialize)]
struct Line<'a, T> {
    r#type: &'a str,
    #[serde(flatten)]
    fields: &'a T,
}

fn lines<T: Serialize>(kind: &str, values: &[T]) -> anyhow::Result<String> {
    let line = |fields| Ok(serde_json::to_string(&Line { r#type: kind, fields })? + "\n");
    values.iter().map(line).collect()
}
