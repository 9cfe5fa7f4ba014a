//! A section for a model card: what was looked at, what was found, and how.
//!
//! Its heading is that of Hugging Face's model card template. Two comments mark where it begins and ends, so that a
//! later run can put its own in its place.

use super::human::{counted, percent, points};
use super::issue::{clean, held, verdict};
use super::table::word;
use super::{Report, RuleReport};
use crate::policy::{CheckStatus, ExceptionOutcome, Limit};
use crate::usage;

const BEGIN: &str = "<!-- milan-audit:begin -->";
const END: &str = "<!-- milan-audit:end -->";

/// The section, in Markdown.
pub fn card(report: &Report) -> anyhow::Result<String> {
    let mut parts = vec![format!("{BEGIN}\n## Model Examination"), head(report), looked_at(report)];
    if !report.rules.is_empty() {
        parts.push(rules(report));
    }
    let gates = report
        .gates
        .iter()
        .filter(|it| !matches!(it.status, CheckStatus::Passed | CheckStatus::Skipped));
    let gates =
        gates.map(|it| format!("- {}, {}: {}", text(&it.id), word(&it.status), text(&it.why)));
    let gates: Vec<String> = gates.collect();
    if !gates.is_empty() {
        parts.push(format!("Other conditions of the policy:\n\n{}", gates.join("\n")));
    }
    if !report.exceptions.is_empty() {
        let lines = report.exceptions.iter().map(exception).collect::<Vec<String>>();
        parts.push(format!("### Exceptions\n\n{}", lines.join("\n")));
    }
    parts.extend(accuracy(report));
    parts.push(format!("### How this was made\n\n{}\n{END}", made(report).join("\n")));
    Ok(parts.join("\n\n") + "\n")
}

fn head(report: &Report) -> String {
    let why = report.why.iter().map(|it| format!("\n- {}", text(it)));
    let why = why.collect::<String>();
    let gap = if why.is_empty() { "" } else { "\n" };
    let edited = match &report.edit {
        Some(edit) if edit.output.is_some() => {
            format!(" {} of this model were set to zero.", counted(edit.units.len(), "unit"))
        }
        _ => String::new(),
    };
    format!(
        "The units of this model were described in words by a program, and the words were held against a policy.{edited}\n\n\
         **{}**{gap}{why}",
        verdict(report)
    )
}

fn looked_at(report: &Report) -> String {
    let all = &report.coverage;
    let layers: Vec<String> = report.layers.iter().map(|it| text(&it.name)).collect();
    let unseen = all.unseen();
    let share = if all.units == 0 { 0. } else { unseen as f64 / all.units as f64 };
    format!(
        "{} in {} ({}) were looked at on {}: {} described, {}. \
         Of {unseen} of them ({}) nothing is known; they do not count as clean.",
        counted(all.units, "unit"),
        counted(layers.len(), "layer"),
        layers.join(", "),
        counted(report.data.images, "picture"),
        all.described,
        super::unseen_in_words(all.unknown, all.dead, all.saturated),
        percent(share)
    )
}

fn rules(report: &Report) -> String {
    let mut lines = vec![
        "| rule | what it matches | level | status | units | allowed | excepted | nothing known | in scope |".to_owned(),
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |".to_owned(),
    ];
    for rule in &report.rules {
        let RuleReport { id, title, observed, .. } = rule;
        lines.push(format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            text(id),
            title.as_deref().map_or(String::new(), text),
            word(&rule.level),
            word(&rule.status),
            observed.units,
            allowed(&rule.limits),
            rule.excepted.len(),
            observed.unseen(),
            observed.in_scope
        ));
    }
    let table = lines.join("\n");
    match held(report) {
        true => table,
        false => format!(
            "{table}\n\nThe rules were held against the model as it was before units were set to zero."
        ),
    }
}

fn allowed(limits: &Limit) -> String {
    let units = limits.max_units.map(|it| it.to_string());
    let share = limits.max_share.map(percent);
    let per_layer = limits.max_share_per_layer.map(|it| format!("{} of a layer", percent(it)));
    [units, share, per_layer].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn exception(it: &ExceptionOutcome) -> String {
    let approved =
        it.approved_by.as_deref().map_or(String::new(), |by| format!(", approved by {}", text(by)));
    format!(
        "- {} of {}: {} (expires {}{approved}; {}, takes out {})",
        text(&it.units.join(", ")),
        text(&it.rule),
        text(&it.reason),
        text(&it.expires),
        word(&it.status),
        counted(it.covered.len(), "unit")
    )
}

/// Of an edit before and after; of an audit as it is.
fn accuracy(report: &Report) -> Option<String> {
    if report.tests.is_empty() {
        let before = &report.accuracy.as_ref()?.before;
        let n = counted(before.n, "labelled picture");
        let (top1, top5) = (percent(before.top1), percent(before.top5));
        return Some(format!("### Accuracy\n\nTop-1 {top1}, top-5 {top5} on {n}."));
    }
    let mut lines = vec![
        "| top-1 on | pictures | before | after | difference, points [95 %] |".to_owned(),
        "| --- | ---: | ---: | ---: | ---: |".to_owned(),
    ];
    lines.extend(report.tests.iter().map(|it| {
        format!(
            "| {} | {} | {} | {} | {} [{}, {}] |",
            text(&it.name),
            it.n,
            percent(it.before),
            percent(it.after),
            points(it.delta),
            points(it.ci95[0]),
            points(it.ci95[1])
        )
    }));
    Some(format!("### Accuracy\n\n{}", lines.join("\n")))
}

fn made(report: &Report) -> Vec<String> {
    let said = &report.descriptions;
    let with = said.weights_sha256.as_ref().map_or(String::new(), |it| format!(", sha256 `{it}`"));
    let mut lines = vec![
        format!("- Tool: {} {}", text(&report.tool.name), text(&report.tool.version)),
        format!("- Describer: {}{with}", text(&said.method)),
    ];
    let file = |path: &str| text(path.rsplit(['/', '\\']).next().unwrap_or(path));
    let edited = report.edit.as_ref().and_then(|it| it.output.as_ref());
    let was = if edited.is_some() { "Model before" } else { "Model" };
    for it in &report.model.files {
        lines.push(format!(
            "- {was}: {}, sha256 `{}`",
            file(&it.path.display().to_string()),
            it.sha256
        ));
    }
    for (name, sha256) in edited.iter().flat_map(|it| &it.sha256) {
        lines.push(format!("- Model: {}, sha256 `{sha256}`", file(name)));
    }
    for it in report.policy.iter().flat_map(|it| &it.files) {
        lines.push(format!("- Policy: {}, sha256 `{}`", file(&it.path), it.sha256));
    }
    let (n, manifest) = (counted(report.data.images, "picture"), &report.data.manifest_sha256);
    lines.push(format!("- Data: {n}, sha256 of their manifest `{manifest}`"));
    lines
}

/// Text that stays text in Markdown, on one line.
fn text(text: &str) -> String {
    let mut found = String::with_capacity(text.len());
    for c in clean(text).trim().chars() {
        match c {
            '<' => found.push_str("&lt;"),
            '&' => found.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '$' | '@' => {
                found.extend(['\\', c])
            }
            c => found.push(c),
        }
    }
    found
}

/// Puts a [`card`] into the text of a model card: in the place of the one that is there, else at the end.
///
/// No other byte changes, and lines end as the card's do. Errs where the marks are not one pair in order.
pub fn update_card(text: &str, section: &str) -> anyhow::Result<String> {
    let crlf = text.find('\n').is_some_and(|at| text[..at].ends_with('\r'));
    let end_of_line = if crlf { "\r\n" } else { "\n" };
    let section = section.trim_end().replace('\n', end_of_line);
    let of = |mark: &str| text.match_indices(mark).map(|(at, _)| at).collect::<Vec<usize>>();
    match (of(BEGIN).as_slice(), of(END).as_slice()) {
        ([], []) => {
            let blank = [end_of_line, end_of_line].concat();
            let gap = match text {
                "" => "",
                _ if text.ends_with(&blank) => "",
                _ if text.ends_with('\n') => end_of_line,
                _ => &blank,
            };
            Ok([text, gap, &section, end_of_line].concat())
        }
        (&[begin], &[end]) if begin < end => {
            Ok([&text[..begin], &section, &text[end + END.len()..]].concat())
        }
        (begins, ends) => Err(usage!(
            "the card has {} and {}, and wants one of each, in this order, or neither; set them right by hand",
            counted(begins.len(), &format!("`{BEGIN}`")).trim_end_matches('s'),
            counted(ends.len(), &format!("`{END}`")).trim_end_matches('s')
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "<!-- milan-audit:begin -->\nnew\n<!-- milan-audit:end -->\n";

    #[track_caller]
    fn check(card: &str, wanted: &str) {
        let found = update_card(card, NEW).unwrap();
        assert_eq!(found, wanted);
        assert_eq!(update_card(&found, NEW).unwrap(), wanted);
    }

    #[test]
    fn a_section_is_appended() {
        let new = NEW;
        check("", new);
        check("---\na: b\n---\n# M\n", &format!("---\na: b\n---\n# M\n\n{new}"));
        check("# M", &format!("# M\n\n{new}"));
        check("# M\n\n", &format!("# M\n\n{new}"));
    }

    #[test]
    fn a_section_takes_the_place_of_an_older_one() {
        let old = "<!-- milan-audit:begin -->\nold\nolder\n<!-- milan-audit:end -->";
        check(
            &format!("\u{feff}a\n{old} b\r\n\n c"),
            &format!("\u{feff}a\n{} b\r\n\n c", NEW.trim_end()),
        );
    }

    #[test]
    fn lines_end_as_those_of_the_card() {
        check("# M\r\n", &format!("# M\r\n\r\n{}", NEW.replace('\n', "\r\n")));
    }

    #[test]
    fn marks_that_are_no_pair_are_a_mistake() {
        for card in
            [BEGIN, END, &[END, BEGIN].concat(), &[NEW, NEW].concat(), &[BEGIN, NEW].concat()]
        {
            let error = update_card(card, NEW).unwrap_err();
            assert_eq!(crate::error::kind(&error), crate::error::Kind::Usage, "{card}");
        }
        let error = update_card(BEGIN, NEW).unwrap_err().to_string();
        assert!(
            error.starts_with("the card has 1 `<!-- milan-audit:begin -->` and 0 `<!--"),
            "{error}"
        );
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(text("a|b <!-- c -->\n*d* [e](f)"), "a\\|b &lt;!-- c --> \\*d\\* \\[e\\](f)");
    }
}
