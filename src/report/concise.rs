//! One line a finding, as compilers and linters print them.

use serde_json::json;

use super::issue::{clean, held, verdict};
use super::table::word;
use super::{Report, UnitReport};
use crate::policy::CheckStatus;

/// `layer4.1:37: faces (deny): "human faces" 0.71` for every finding, then the rules and gates that are not passed,
/// and last the verdict. Of an edit rules are left out, as they were held against the model before it.
pub fn concise(report: &Report) -> anyhow::Result<String> {
    let mut lines = vec![];
    let zeroed = |unit: &UnitReport| {
        let units = report.edit.iter().flat_map(|it| &it.units);
        units.into_iter().any(|it| it.site == unit.layer && it.channel == unit.unit)
    };
    for rule in &report.rules {
        let level = word(&rule.level);
        for unit in &rule.units {
            let UnitReport { layer, unit: channel, description, confidence, .. } = unit;
            let said = json!(clean(description));
            let zeroed = if zeroed(unit) { " zeroed" } else { "" };
            lines.push(format!(
                "{layer}:{channel}: {} ({level}): {said} {confidence:.2}{zeroed}",
                rule.id
            ));
        }
    }
    let rules = report.rules.iter().filter(|_| held(report));
    let rules = rules.map(|it| (&it.id, it.level, it.status, it.why.join(", ")));
    let gates = report.gates.iter().map(|it| (&it.id, it.level, it.status, it.why.clone()));
    for (id, level, status, why) in rules.chain(gates) {
        if !matches!(status, CheckStatus::Passed | CheckStatus::Skipped) {
            lines.push(format!("{id} ({}): {}: {why}", word(&level), word(&status)));
        }
    }
    lines.push(format!("{}: {}", verdict(report), report.why.join("; ")));
    let lines: Vec<String> =
        lines.iter().map(|it| clean(it.trim_end_matches(": ")) + "\n").collect();
    Ok(lines.concat())
}
