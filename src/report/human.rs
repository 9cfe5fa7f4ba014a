//! The summary for a terminal: what was looked at, the verdict, why, and what to do next.

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use super::table::word;
use super::{
    AccuracyReport, EditReport, NearDuplicatesReport, Report, RuleReport, TestReport, Verdict,
};
use crate::evaluate::ClassAccuracy;
use crate::policy::{CheckStatus, ExceptionStatus};

/// One line under the header, and no other.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));
/// Units shown for each rule.
const MAX_UNITS: usize = 10;
/// Classes shown whose accuracy changed most.
const MAX_CLASSES: usize = 3;
const MAX_TEXT: usize = 48;

/// The summary, at most `width` columns wide.
pub fn human(report: &Report, width: usize, color: bool) -> String {
    let mut text = String::new();
    let mut line = |it: String| {
        text.push_str(&it);
        text.push('\n');
    };
    if report.model.source == "demo" {
        line("This is the built-in demo; name a model of yours with --model and pictures with --data".into());
    }
    line(shortened(&headline(report), width));
    if let Some(accuracy) = &report.accuracy {
        line(shortened(&accuracy_line(accuracy), width));
    }
    if !report.rules.is_empty() {
        line(String::new());
        line(rules_table(report, width).trim_fmt());
    }
    for rule in report.rules.iter().filter(|rule| !rule.units.is_empty()) {
        line(String::new());
        line(units_table(report, rule, width).trim_fmt());
        if MAX_UNITS < rule.units.len() {
            line(format!("… and {} more; all are in report.json", rule.units.len() - MAX_UNITS));
        }
    }
    let beside: Vec<String> = report.rules.iter().flat_map(beside_findings).collect();
    if !beside.is_empty() {
        line(String::new());
        beside.iter().flat_map(|it| wrapped(it, width)).for_each(&mut line);
    }
    let held: Vec<String> = gate_lines(report).chain(exception_lines(report)).collect();
    if !held.is_empty() {
        line(String::new());
        held.iter().flat_map(|it| wrapped(it, width)).for_each(&mut line);
    }
    if !report.layers.is_empty() {
        line(String::new());
        line(layers_table(report, width).trim_fmt());
    }
    if let Some(edit) = &report.edit {
        line(String::new());
        edit_lines(edit).into_iter().for_each(|it| line(shortened(&it, width)));
    }
    if !report.tests.is_empty() {
        line(String::new());
        line(tests_table(report, width).trim_fmt());
        report.accuracy.iter().flat_map(class_lines).for_each(|it| line(shortened(&it, width)));
    }
    let near = report.data.near_duplicates.iter().map(near_duplicates);
    let skipped =
        report.data.skipped.iter().map(|it| format!("skipped {}: {}", it.file, it.reason));
    let notes: Vec<String> = report
        .warnings
        .iter()
        .map(|it| format!("warning: {it}"))
        .chain(near)
        .chain(skipped)
        .collect();
    if !notes.is_empty() {
        line(String::new());
        for note in notes.iter().take(MAX_UNITS) {
            wrapped(note, width).into_iter().for_each(&mut line);
        }
        if MAX_UNITS < notes.len() {
            line(format!("… and {} more", notes.len() - MAX_UNITS));
        }
    }
    line(String::new());
    line(verdict_line(report, color));
    if let Some(out) = &report.run.out {
        line(shortened(&format!("Everything is in {}", out.display()), width));
    }
    for next in next_step(report).iter().flat_map(|it| it.lines()) {
        line(shortened(next, width));
    }
    text
}

/// What is to be said of a rule besides the units that count.
fn beside_findings(rule: &RuleReport) -> Vec<String> {
    let RuleReport { id, observed, shown, .. } = rule;
    let mut said = vec![];
    if 0 < observed.possible {
        said.push(format!(
            "{id}: {} possible and do not count (probability .2 to .5); count = \"possible\" in the rule counts them",
            are(observed.possible, "unit")
        ));
    }
    if 0 < observed.improbable {
        said.push(format!(
            "{id}: the words of {} match, but what the exemplars show makes it improbable; `milan-audit policy explain \
             {id} LAYER:UNIT` says why",
            counted(observed.improbable, "unit")
        ));
    }
    if let Some(shown) = shown.filter(|_| rule.uncovered) {
        said.push(format!(
            "{id} is uncovered: {} of {} show what it looks for",
            shown.pictures,
            counted(shown.of, "picture")
        ));
    }
    said
}

/// `1 unit is`, `2 units are`.
fn are(n: usize, what: &str) -> String {
    format!("{} {}", counted(n, what), if n == 1 { "is" } else { "are" })
}

fn near_duplicates(it: &NearDuplicatesReport) -> String {
    let kept = match it.kept {
        0 => "no limit".to_owned(),
        n => format!("{n} kept of a group"),
    };
    let such = it.first.first().map_or(String::new(), |it| {
        let named: Vec<&str> = it.iter().take(2).map(String::as_str).collect();
        format!(", such as {}", named.join(" and "))
    });
    format!(
        "near-duplicates: {} in {}{such} ({kept} by a unit; --max-near-duplicates)",
        counted(it.pictures, "picture"),
        counted(it.groups, "group")
    )
}

fn headline(report: &Report) -> String {
    format!(
        "{} ({}) · {} · {} described by {}",
        file_name(&report.model.source),
        report.model.arch,
        counted(report.data.images, "picture"),
        counted(report.coverage.units, "unit"),
        report.descriptions.method
    )
}

fn accuracy_line(accuracy: &AccuracyReport) -> String {
    let before = &accuracy.before;
    let mut line = format!(
        "accuracy: top-1 {}, top-5 {} on {}",
        percent(before.top1),
        percent(before.top5),
        counted(before.n, "labelled picture")
    );
    if let Some(after) = &accuracy.after {
        line.push_str(&format!(" → top-1 {}, top-5 {}", percent(after.top1), percent(after.top5)));
    }
    line
}

fn rules_table(report: &Report, width: usize) -> Table {
    let any = report.rules.iter().any(|it| 0 < it.observed.saturated);
    let mut header = vec!["rule", "level", "status", "units", "in scope", "unknown", "dead"];
    header.extend(any.then_some("saturated"));
    let mut table = new_table(width, &header);
    for rule in &report.rules {
        let observed = &rule.observed;
        let counts = [observed.units, observed.in_scope, observed.unknown, observed.dead];
        let mut row = vec![rule.id.clone(), word(&rule.level), word(&rule.status)];
        row.extend(
            counts.into_iter().chain(any.then_some(observed.saturated)).map(|it| it.to_string()),
        );
        table.add_row(row);
    }
    right(&mut table, 3..header.len());
    table
}

/// What is not as the gates want it, and how many are.
fn gate_lines(report: &Report) -> impl Iterator<Item = String> {
    let of = |status| report.gates.iter().filter(move |it| it.status == status);
    let n_passed = of(CheckStatus::Passed).count();
    let not = report.gates.iter().filter(|it| {
        matches!(it.status, CheckStatus::Violated | CheckStatus::Warned | CheckStatus::Inconclusive)
    });
    let not = not.map(|it| format!("gate {} {}: {}", it.id, word(&it.status), it.why));
    let asked = 1 < report.gates.len(); // That of finite weights is always there.
    not.chain((asked && 0 < n_passed).then(|| format!("{} passed", counted(n_passed, "gate"))))
}

fn exception_lines(report: &Report) -> impl Iterator<Item = String> {
    let used = report.exceptions.iter().filter(|it| it.status == ExceptionStatus::Used);
    used.map(|it| {
        let until =
            if it.expires == "never" { "for good".into() } else { format!("until {}", it.expires) };
        format!(
            "excepted from {}: {} {until}: {}",
            it.rule,
            counted(it.covered.len(), "unit"),
            it.reason
        )
    })
}

fn units_table(report: &Report, rule: &RuleReport, width: usize) -> Table {
    let measured = rule.units.iter().any(|unit| unit.importance.is_some());
    let judged = rule.units.iter().any(|unit| !unit.reasons.is_empty());
    let mut header =
        vec![rule.id.as_str(), if judged { "probability" } else { "confidence" }, "description"];
    if measured {
        header.insert(2, report.importance_name());
    }
    let mut table = new_table(width, &header);
    for unit in rule.units.iter().take(MAX_UNITS) {
        let mut row = vec![
            format!("{}:{}", unit.layer, unit.unit),
            format!("{:.2}", if judged { unit.probability } else { unit.confidence }),
            shortened(&unit.description, MAX_TEXT),
        ];
        if measured {
            row.insert(2, unit.importance.map_or(String::new(), |it| report.important(it)));
        }
        table.add_row(row);
    }
    right(&mut table, 1..2 + usize::from(measured));
    table
}

fn layers_table(report: &Report, width: usize) -> Table {
    let all = &report.coverage;
    let any = 0 < all.saturated;
    let mut header = vec!["layer", "units", "described", "unknown", "dead"];
    header.extend(any.then_some("saturated"));
    let mut table = new_table(width, &header);
    let mut add = |name: String, counts: [usize; 4], saturated: usize| {
        let counts = counts.into_iter().chain(any.then_some(saturated));
        table.add_row(std::iter::once(name).chain(counts.map(|it| it.to_string())));
    };
    for it in &report.layers {
        let counts = [it.units, it.described, it.unknown, it.dead];
        add(shortened(&it.name, MAX_TEXT), counts, it.saturated);
    }
    if 1 < report.layers.len() {
        add("all".to_owned(), [all.units, all.described, all.unknown, all.dead], all.saturated);
    }
    right(&mut table, 1..header.len());
    table
}

fn tests_table(report: &Report, width: usize) -> Table {
    let mut table =
        new_table(width, &["top-1 on", "deleted", "before", "after", "difference, points [95 %]"]);
    let mut add = |who: String, test: &TestReport| {
        let difference =
            format!("{} [{}, {}]", points(test.delta), points(test.ci95[0]), points(test.ci95[1]));
        table.add_row(vec![
            shortened(&test.name, 24),
            who,
            percent(test.before),
            percent(test.after),
            difference,
        ]);
    };
    let n_units = report.edit.as_ref().map_or(0, |edit| edit.units.len());
    for test in &report.tests {
        add(counted(n_units, "chosen unit"), test);
        for control in &report.controls {
            let same = control.tests.iter().filter(|it| it.name == test.name);
            same.for_each(|it| {
                let units = counted(control.units.len(), "unit");
                add(
                    match control.kind.as_str() {
                        "random" => format!("{units} random, seed {}", control.seed),
                        _ => format!("{units} by {} alone", control.kind),
                    },
                    it,
                )
            });
        }
    }
    right(&mut table, 2..5);
    table
}

/// The classes that lost or won most.
fn class_lines(accuracy: &AccuracyReport) -> Option<String> {
    let after = accuracy.after.as_ref()?;
    let pairs = accuracy.before.per_class.iter().zip(&after.per_class);
    let mut changed: Vec<_> = pairs.filter(|(before, after)| before.top1 != after.top1).collect();
    changed.sort_by(|a, b| {
        let size =
            |(before, after): &(&ClassAccuracy, &ClassAccuracy)| (after.top1 - before.top1).abs();
        size(b).total_cmp(&size(a))
    });
    let shown = changed.iter().take(MAX_CLASSES).map(|(before, after)| {
        format!(
            "{} {} → {}",
            shortened(&before.name, 24),
            percent(before.top1),
            percent(after.top1)
        )
    });
    let shown: Vec<String> = shown.collect();
    (!shown.is_empty()).then(|| format!("classes that changed most: {}", shown.join(" · ")))
}

fn edit_lines(edit: &EditReport) -> Vec<String> {
    let n_slices: usize = edit.changes.iter().map(|change| change.indices.len()).sum();
    let mut lines = vec![format!(
        "edit: {} zeroed through {} of {}, {} changed",
        counted(edit.units.len(), "unit"),
        counted(n_slices, "slice"),
        counted(edit.changes.len(), "tensor axis").replace("axiss", "axes"),
        counted(edit.bytes_changed as usize, "byte")
    )];
    let verified = &edit.verified;
    let equal = format!(
        "it answers as the ablated network does (to {:.0e} relative)",
        verified.max_difference
    );
    lines.push(format!("check: reloaded, on {} {equal}", counted(verified.images, "picture")));
    if 0 < edit.spared {
        let why = match edit.slack {
            Some(slack) => {
                format!(
                    "with the next, top-1 on --val would fall by more than {:.2} points",
                    100. * slack
                )
            }
            None => "--max-units".to_owned(),
        };
        lines.push(format!("spared: {} that match too ({why})", counted(edit.spared, "unit")));
    }
    if !edit.refused.is_empty() {
        let first = &edit.refused[0];
        lines.push(format!(
            "left alone: {}, such as {}: {}",
            counted(edit.refused.len(), "unit"),
            first.unit,
            first.reason
        ));
    }
    match &edit.output {
        Some(output) => lines.push(format!("written: {}", output.path.display())),
        None => lines.push("written: nothing".to_owned()),
    }
    lines
}

fn verdict_line(report: &Report, color: bool) -> String {
    let (word, code) = match report.verdict {
        Verdict::Passed => ("PASSED", "32"),
        Verdict::Violated => ("VIOLATED", "31"),
        Verdict::Inconclusive => ("INCONCLUSIVE", "33"),
    };
    let word = if color { format!("\x1b[1;{code}m{word}\x1b[0m") } else { word.to_owned() };
    let coverage = &report.coverage;
    let unseen = coverage.unseen();
    match report.why.first() {
        Some(why) => format!("{word}  {}", shortened(why, 80)),
        None if report.edit.is_none() && 0 < unseen => format!(
            "{word}  as far as described: nothing is known of {unseen} of {}",
            counted(coverage.units, "unit")
        ),
        None => word,
    }
}

/// What a user would do now.
fn next_step(report: &Report) -> Option<String> {
    let policy = report.policy.as_ref()?.files.first()?;
    let policy = policy.path.strip_prefix("preset:").unwrap_or(&policy.path);
    match (report.verdict, &report.edit) {
        (Verdict::Violated, None) => {
            let rule = report.rules.iter().find(|it| !it.units.is_empty())?;
            let unit = rule.units.first()?;
            let out = report
                .run
                .out
                .as_ref()
                .filter(|it| it.as_path() != std::path::Path::new("reports/demo"));
            let at = out
                .map_or_else(String::new, |it| format!(" --report {}/report.json", it.display()));
            Some(format!(
                "Why one matches: milan-audit policy explain {} {}:{}{at}\nNext: milan-edit --policy {policy} writes a model without these units",
                rule.id, unit.layer, unit.unit
            ))
        }
        _ => None,
    }
}

/// An empty table of at most `width` columns of text.
pub fn new_table(width: usize, header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width.min(u16::MAX.into()) as u16)
        .set_header(header.iter().map(Cell::new));
    table
}

/// Sets columns of numbers to the right.
pub fn right(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// `1 unit`, `3 units`.
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", 100. * share)
}

/// A difference of shares in percentage points, with its sign.
pub(super) fn points(difference: f64) -> String {
    let points = format!("{:.2}", 100. * difference.abs());
    match points.trim_matches(['0', '.']).is_empty() {
        true => points,
        false if difference < 0. => format!("−{points}"),
        false => format!("+{points}"),
    }
}

/// At most `width` characters, the last an ellipsis where something is missing.
fn shortened(text: &str, width: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The last part of a path; report.json has the whole.
fn file_name(path: &str) -> String {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    shortened(name, MAX_TEXT)
}

/// Lines of whole words, those after the first indented.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].trim().is_empty()
            && width < lines[last].chars().count() + 1 + word.chars().count()
        {
            lines.push(format!("  {}", shortened(word, width - 2)));
        } else {
            let space = if lines[last].is_empty() { "" } else { " " };
            let added = format!("{space}{}", shortened(word, width - 2));
            lines[last].push_str(&added);
        }
    }
    lines
}
