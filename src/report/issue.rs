//! What code hosts show beside files: an issue is a message with a level, a place and a fingerprint.
//!
//! SARIF and the annotations are made of these, so that they cannot disagree.

use std::path::Path;

use super::human::counted;
use super::{Report, RuleReport, UnitReport, Verdict};
use crate::files::sha256;
use crate::policy::{CheckStatus, Gate, Level, Place};

/// Units named in a message; a report has them all.
const MAX_UNITS: usize = 10;

/// What an issue means for the run. The worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// The run does not pass.
    Error,
    /// It passes, and somebody should look.
    Warning,
    Note,
}

/// The units of one layer that a rule matches, a rule or gate that is not passed, or a verdict that none of those
/// shows.
#[derive(Debug)]
pub(super) struct Issue<'a> {
    /// The rule's id, `gate.` and the gate's, or `verdict`.
    pub(super) id: String,
    pub(super) severity: Severity,
    /// A line in plain text, as is the message.
    pub(super) title: String,
    pub(super) message: String,
    pub(super) layer: Option<&'a str>,
    pub(super) units: &'a [UnitReport],
    pub(super) place: Place,
}

impl Issue<'_> {
    /// The same as long as the same rule finds something in the same layer, wherever the rule is written.
    pub(super) fn fingerprint(&self) -> String {
        let text = format!("{}\0{}", self.id, self.layer.unwrap_or_default());
        sha256(text.as_bytes())[..32].to_owned()
    }
}

/// All issues, the worst first, else in the order of the policy and the network.
///
/// A rule that is passed gives none, and what an exception takes out is left out. A run that did not pass has at
/// least one error.
pub(super) fn issues(report: &Report) -> Vec<Issue<'_>> {
    let mut issues: Vec<Issue<'_>> =
        report.rules.iter().flat_map(|it| of_rule(report, it)).collect();
    issues.extend(report.gates.iter().filter_map(|it| of_gate(report, it)));
    let shown = issues.iter().any(|it| it.severity == Severity::Error);
    if report.verdict != Verdict::Passed && !shown {
        let why = report.why.join("; ");
        let message = clean(&format!("{}: {why}", verdict(report)));
        issues.push(Issue {
            id: "verdict".into(),
            severity: Severity::Error,
            title: verdict(report).into(),
            message,
            layer: None,
            units: &[],
            place: place(report, None),
        });
    }
    issues.sort_by_key(|it| it.severity);
    issues
}

fn of_rule<'a>(report: &'a Report, rule: &'a RuleReport) -> Vec<Issue<'a>> {
    let mut issues = counting(report, rule);
    issues.extend(possible(report, rule));
    issues
}

/// A note on the findings of a rule that are possible and do not count.
fn possible<'a>(report: &'a Report, rule: &'a RuleReport) -> Option<Issue<'a>> {
    let first = rule.possible.first()?;
    let n = rule.possible.len();
    let message = format!(
        "{} possible and {} not count against {}, such as {}",
        if n == 1 { "1 unit is".to_owned() } else { format!("{n} units are") },
        if n == 1 { "does" } else { "do" },
        rule.id,
        line(first)
    );
    Some(Issue {
        id: rule.id.clone(),
        severity: Severity::Note,
        title: clean(&format!("possible {}", rule.id)),
        message: clean(&message),
        layer: None,
        units: &rule.possible,
        place: place(report, Some(rule)),
    })
}

/// The findings that count, a layer each.
fn counting<'a>(report: &'a Report, rule: &'a RuleReport) -> Vec<Issue<'a>> {
    let severity = match (rule.status, rule.level) {
        _ if !held(report) => Severity::Note,
        (CheckStatus::Violated | CheckStatus::Inconclusive, _) => Severity::Error,
        (CheckStatus::Warned, _) => Severity::Warning,
        (_, Level::Allow) => Severity::Note,
        _ => return vec![],
    };
    let id = rule.id.as_str();
    let issue = |title: String, message: String, layer, units| Issue {
        id: id.to_owned(),
        severity,
        title: clean(&title),
        message: clean(&message),
        layer,
        units,
        place: place(report, Some(rule)),
    };
    let why = rule.why.join(", ");
    if rule.units.is_empty() && severity == Severity::Error {
        return vec![issue(id.to_owned(), format!("{id}: {why}"), None, &[])];
    }
    let why = if why.is_empty() { why } else { format!(" ({why})") };
    let layers = rule.units.chunk_by(|a, b| a.layer == b.layer);
    let of_layer = |units: &'a [UnitReport]| {
        let layer = units[0].layer.as_str();
        let all = report.layers.iter().find(|it| it.name == layer);
        let found = match all {
            Some(all) => format!("{} of {}", units.len(), counted(all.units, "unit")),
            None => counted(units.len(), "unit"),
        };
        let match_ = if units.len() == 1 { "matches" } else { "match" };
        let named: Vec<String> = units.iter().take(MAX_UNITS).map(named).collect();
        let more = match units.len().saturating_sub(MAX_UNITS) {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        let before = if held(report) { "" } else { " before the edit" };
        let message =
            format!("{found} in {layer} {match_} {id}{before}{why}: {}{more}", named.join(", "));
        issue(format!("{id} in {layer}"), message, Some(layer), units)
    };
    layers.map(of_layer).collect()
}

fn named(unit: &UnitReport) -> String {
    format!("{} \"{}\" {:.2}", unit.unit, unit.description, unit.confidence)
}

fn of_gate<'a>(report: &'a Report, gate: &'a Gate) -> Option<Issue<'a>> {
    let severity = match gate.status {
        CheckStatus::Violated | CheckStatus::Inconclusive => Severity::Error,
        CheckStatus::Warned => Severity::Warning,
        CheckStatus::Passed | CheckStatus::Skipped => return None,
    };
    Some(Issue {
        id: gate_id(gate),
        severity,
        title: clean(&format!("gate {}", gate.id)),
        message: clean(&format!("{}: {}", gate.id, gate.why)),
        layer: None,
        units: &[],
        place: place(report, None),
    })
}

/// A gate among rules.
pub(super) fn gate_id(gate: &Gate) -> String {
    format!("gate.{}", gate.id)
}

/// Whether the verdict rests on the rules. That of an edit does not: they were held against the model as it was.
pub(super) fn held(report: &Report) -> bool {
    report.edit.is_none()
}

/// `PASSED`.
pub(super) fn verdict(report: &Report) -> &'static str {
    match report.verdict {
        Verdict::Passed => "PASSED",
        Verdict::Violated => "VIOLATED",
        Verdict::Inconclusive => "INCONCLUSIVE",
    }
}

/// Where a rule is written, below the working directory. A built-in rule, and what is no rule, stands at the first
/// line of the user's policy file, or of the model's where there is none.
fn place(report: &Report, rule: Option<&RuleReport>) -> Place {
    let own = rule.and_then(|it| it.place.clone()).filter(|it| is_file(&it.path));
    let policy = || {
        let files = report.policy.iter().flat_map(|it| &it.files);
        let path = files.map(|it| &it.path).find(|path| is_file(path))?;
        Some(Place { path: path.clone(), line: 1 })
    };
    let model = || {
        let file = report.model.files.first();
        let path = file.map_or(report.model.source.clone(), |it| it.path.display().to_string());
        Place { path, line: 1 }
    };
    let found = own.or_else(policy).unwrap_or_else(model);
    Place { path: relative(&found.path), line: found.line.max(1) }
}

/// Whether a policy is a file and not built in.
pub(super) fn is_file(policy: &str) -> bool {
    !policy.starts_with("preset:")
}

/// A path below the working directory, with forward slashes and no `.` or `..`; of a file elsewhere its name alone.
pub(super) fn relative(path: &str) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    below(path, &here)
}

fn below(path: &str, here: &Path) -> String {
    let inside = Path::new(path).strip_prefix(here).ok().and_then(Path::to_str);
    let inside = inside.unwrap_or(path).replace('\\', "/");
    let drive = inside.as_bytes().get(1) == Some(&b':');
    if drive || inside.starts_with('/') {
        return inside.rsplit('/').find(|it| !it.is_empty()).unwrap_or("model").to_owned();
    }
    let mut parts: Vec<&str> = vec![];
    for part in inside.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    if parts.is_empty() { "model".into() } else { parts.join("/") }
}

/// `layer4.1:37 "human faces" 0.71`, for people.
pub(super) fn line(unit: &UnitReport) -> String {
    let UnitReport { layer, unit, description, confidence, .. } = unit;
    clean(&format!("{layer}:{unit} \"{description}\" {confidence:.2}"))
}

/// Text for people on one line: whatever would break it, or turn its direction, is a space.
pub(super) fn clean(text: &str) -> String {
    let breaks =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if breaks(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_working_directory() {
        for (path, wanted) in [
            ("policies/faces.toml", "policies/faces.toml"),
            ("./policies//faces.toml", "policies/faces.toml"),
            ("../../policies/x/../faces.toml", "policies/faces.toml"),
            ("policies\\faces.toml", "policies/faces.toml"),
            ("/here/policies/faces.toml", "policies/faces.toml"),
            ("/elsewhere/faces.toml", "faces.toml"),
            ("C:\\models\\a.safetensors", "a.safetensors"),
            ("..", "model"),
        ] {
            assert_eq!(below(path, Path::new("/here")), wanted, "{path}");
        }
    }

    #[test]
    fn clean_text_is_one_line() {
        assert_eq!(clean("a\nb\u{1b}[31m\u{202e}c ü"), "a b [31m c ü");
    }
}
