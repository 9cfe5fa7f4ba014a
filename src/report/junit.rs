//! JUnit XML, as Jenkins reads it and other CI systems do.

use super::issue::{held, line, verdict};
use super::table::word;
use super::{Report, RuleReport, Verdict};
use crate::policy::{CheckStatus, Gate};

/// One suite: a case for each rule and gate, and one for the verdict, so that the suite passes just when the run does.
///
/// What is violated fails; what could not be concluded is an error; what warns passes and says so. The rules of an
/// edit are skipped: they were held against the model as it was.
pub fn junit(report: &Report) -> anyhow::Result<String> {
    let mut cases = vec![];
    for rule in &report.rules {
        cases.push(Case { class: "milan.rules", name: &rule.id, came: of_rule(report, rule) });
    }
    for gate in &report.gates {
        cases.push(Case { class: "milan.gates", name: &gate.id, came: of_gate(gate) });
    }
    let why = report.why.join("; ");
    let came = match report.verdict {
        Verdict::Passed => Came::Passed,
        Verdict::Violated => Came::Out("failure", verdict(report).into(), why, String::new()),
        Verdict::Inconclusive => Came::Out("error", verdict(report).into(), why, String::new()),
    };
    cases.push(Case { class: "milan", name: "verdict", came });

    let of = |kind: &str| cases.iter().filter(|it| it.came.kind() == kind).count();
    let (tests, failures, errors, skipped) =
        (cases.len(), of("failure"), of("error"), of("skipped"));
    let counts = format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\"");
    let time = format!("time=\"{:.3}\"", report.run.seconds);
    let tool = &report.tool;
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\" {counts} {time}>\n",
        escaped(&tool.name)
    );
    xml += &format!(
        "  <testsuite name=\"{}\" {counts} skipped=\"{skipped}\" timestamp=\"{}\" {time}>\n    <properties>\n",
        escaped(&report.name()),
        report.run.at(0.)?
    );
    let mut property = |name: &str, value: &str| {
        xml +=
            &format!("      <property name=\"{}\" value=\"{}\"/>\n", escaped(name), escaped(value));
    };
    property("tool", &format!("{} {}", tool.name, tool.version));
    for (name, sha256) in report.model.files.iter().map(|it| (it.path.display(), &it.sha256)) {
        property(&format!("model:{name}"), sha256);
    }
    for file in report.policy.iter().flat_map(|it| &it.files) {
        property(&format!("policy:{}", file.path), &file.sha256);
    }
    xml += "    </properties>\n";
    cases.iter().for_each(|it| xml += &it.xml());
    Ok(xml + "  </testsuite>\n</testsuites>\n")
}

struct Case<'a> {
    class: &'static str,
    name: &'a str,
    came: Came,
}

/// How a case came out.
enum Came {
    Passed,
    /// Passed, and this is worth a word.
    Said(String),
    Skipped(String),
    /// `failure` or `error`; the level, a message, and all of it.
    Out(&'static str, String, String, String),
}

impl Came {
    fn kind(&self) -> &'static str {
        match self {
            Came::Passed | Came::Said(_) => "passed",
            Came::Skipped(_) => "skipped",
            Came::Out(kind, ..) => kind,
        }
    }
}

impl Case<'_> {
    fn xml(&self) -> String {
        let inner = match &self.came {
            Came::Passed => String::new(),
            Came::Said(said) => format!("<system-out>{}</system-out>", text(said)),
            Came::Skipped(why) => format!("<skipped message=\"{}\"/>", escaped(why)),
            Came::Out(kind, level, why, all) => format!(
                "<{kind} type=\"{}\" message=\"{}\">{}</{kind}>",
                escaped(level),
                escaped(why),
                text(all)
            ),
        };
        let case =
            format!("    <testcase classname=\"{}\" name=\"{}\"", self.class, escaped(self.name));
        match inner.is_empty() {
            true => format!("{case}/>\n"),
            false => format!("{case}>{inner}</testcase>\n"),
        }
    }
}

fn of_rule(report: &Report, rule: &RuleReport) -> Came {
    let (level, why) = (word(&rule.level), rule.why.join(", "));
    let listed = || rule.units.iter().map(line).collect::<Vec<_>>().join("\n");
    match rule.status {
        _ if !held(report) => Came::Skipped("held against the model before the edit".into()),
        CheckStatus::Violated => Came::Out("failure", level, why, listed()),
        CheckStatus::Inconclusive => Came::Out("error", level, why, String::new()),
        CheckStatus::Skipped => Came::Skipped(why),
        CheckStatus::Warned => Came::Said(format!("{level}: {why}\n{}", listed())),
        CheckStatus::Passed if rule.units.is_empty() && !rule.excepted.is_empty() => {
            let reasons =
                report.exceptions.iter().filter(|it| it.rule == rule.id && !it.covered.is_empty());
            let reasons = reasons
                .map(|it| format!("\n{} ({}): {}", it.units.join(", "), it.expires, it.reason));
            let all = rule.excepted.len();
            Came::Said(format!("all {all} findings are excepted:{}", reasons.collect::<String>()))
        }
        CheckStatus::Passed => Came::Passed,
    }
}

fn of_gate(gate: &Gate) -> Came {
    let (level, why) = (word(&gate.level), gate.why.clone());
    match gate.status {
        CheckStatus::Violated => Came::Out("failure", level, why, String::new()),
        CheckStatus::Inconclusive => Came::Out("error", level, why, String::new()),
        CheckStatus::Skipped => Came::Skipped(why),
        CheckStatus::Warned => Came::Said(format!("{level}: {why}")),
        CheckStatus::Passed => Came::Passed,
    }
}

/// Text between tags, in which line breaks stay.
fn text(text: &str) -> String {
    escaped(text).replace("&#10;", "\n")
}

/// Text for an attribute, without the characters that XML 1.0 has not (section 2.2), nor others that
/// steer a terminal.
fn escaped(text: &str) -> String {
    let mut found = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => found.push_str("&amp;"),
            '<' => found.push_str("&lt;"),
            '>' => found.push_str("&gt;"),
            '"' => found.push_str("&quot;"),
            // A line break in an attribute would be read as a space.
            '\n' => found.push_str("&#10;"),
            '\t' => found.push_str("&#9;"),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() => {}
            c => found.push(c),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_what_xml_has_not_is_dropped() {
        assert_eq!(escaped("a<&>\"'\n\u{1b}\0\u{fffe}ü"), "a&lt;&amp;&gt;&quot;'&#10;ü");
    }
}
