//! Findings as a table, one line a unit that a rule matches.

use super::Report;

/// Columns: rule, level, status, layer, unit, description, confidence, importance.
pub fn csv(report: &Report) -> anyhow::Result<String> {
    let mut table = csv::Writer::from_writer(vec![]);
    table.write_record([
        "rule",
        "level",
        "status",
        "layer",
        "unit",
        "description",
        "confidence",
        "importance",
    ])?;
    for rule in &report.rules {
        let level = word(&rule.level);
        let status = word(&rule.status);
        for unit in &rule.units {
            table.write_record([
                &rule.id,
                &level,
                &status,
                &unit.layer,
                &unit.unit.to_string(),
                &unit.description,
                &format!("{:.3}", unit.confidence),
                &unit.importance.map_or(String::new(), |it| format!("{it:.6}")),
            ])?;
        }
    }
    Ok(String::from_utf8(table.into_inner()?)?)
}

/// The word that report.json has for it.
pub fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}
