//! Notes beside the lines of a change: workflow commands of GitHub, and the Code Quality report of GitLab.

use serde_json::{Value, json};

use super::Report;
use super::issue::{Issue, Severity, clean, issues, verdict};

/// GitHub shows ten annotations of a kind for each step; the last one here counts the others.
const MAX_SHOWN: usize = 9;

/// `::error file=…,line=…,title=…::…`, a line a rule and layer or a gate, the worst first; last a notice of the verdict.
///
/// As GitHub's "Workflow commands for GitHub Actions" describes them.
pub fn github(report: &Report) -> anyhow::Result<String> {
    let issues = issues(report);
    let mut text: String = issues.iter().take(MAX_SHOWN).map(command).collect();
    let mut last = match report.why.first() {
        Some(why) => format!("{}: {why}", verdict(report)),
        None => verdict(report).to_owned(),
    };
    let more = issues.len().saturating_sub(MAX_SHOWN);
    if 0 < more {
        last.push_str(&format!("; {more} more like those above are in the report"));
    }
    let title = format!("{} {}", report.tool.name, report.name());
    text.push_str(&format!(
        "::notice title={}::{}\n",
        property(&clean(&title)),
        data(&clean(&last))
    ));
    Ok(text)
}

fn command(issue: &Issue<'_>) -> String {
    let command = match issue.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "notice",
    };
    format!(
        "::{command} file={},line={},title={}::{}\n",
        property(&issue.place.path),
        issue.place.line,
        property(&issue.title),
        data(&issue.message)
    )
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// An array of issues, the subset of Code Climate's that GitLab's Code Quality reads.
pub fn gitlab(report: &Report) -> anyhow::Result<String> {
    let issue = |it: &Issue<'_>| {
        json!({
            "description": it.message,
            "check_name": it.id,
            "fingerprint": it.fingerprint(),
            "severity": match it.severity {
                Severity::Error => "critical",
                Severity::Warning => "minor",
                Severity::Note => "info",
            },
            "location": { "path": it.place.path, "lines": { "begin": it.place.line } },
        })
    };
    let issues: Vec<Value> = issues(report).iter().map(issue).collect();
    Ok(serde_json::to_string_pretty(&issues)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_is_made_of_is_escaped() {
        assert_eq!(data("50 %,\r\na: b"), "50 %25,%0D%0Aa: b");
        assert_eq!(property("a,b:c%\n"), "a%2Cb%3Ac%25%0A");
    }
}
