//! The report as one page that needs nothing else: no other file, no network.
//!
//! What decides the verdict is written here and readable without a program; `script.js` adds the picture of the
//! network, the list of all units and the detail of one. Names and descriptions come from strangers' files, so
//! text gets into the page through [`markup!`] alone, which escapes whatever is not [`Html`] already.

mod markup;
mod plots;

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;
use sha2::{Digest, Sha256};

use markup::{Html, Shown, cells, markup};

use super::human::points;
use super::table::word;
use super::{Report, RuleReport, TestReport, UnitReport, Verdict};
use crate::evaluate::ClassAccuracy;
use crate::policy::CheckStatus;
use crate::unit::Unit;

const PAGE: &str = include_str!("html/page.html");
const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/script.js");
/// Rows of a table that are shown at once; more are scrolled.
const MAX_ROWS: usize = 10;
/// Classes with a row of their own; of more only those that changed most have one.
const MAX_CLASSES: usize = 40;
const CHANGED_MOST: usize = 20;
/// Units named in a cell.
const MAX_NAMED: usize = 12;

/// `report.html`. `pictures` has a JPEG for units by name, such as `layer4.1:37`; none is needed.
pub fn html(report: &Report, pictures: &BTreeMap<String, Vec<u8>>) -> anyhow::Result<String> {
    // A checkout may have other line ends than a browser's parser makes of them, and they count in a hash.
    let [style, script] = [STYLE, SCRIPT].map(|it| it.replace("\r\n", "\n"));
    let csp = format!(
        "default-src 'none'; style-src {}; script-src {}; img-src data:; base-uri 'none'; form-action 'none'",
        hash(&style),
        hash(&script)
    );
    let pictures: BTreeMap<&String, String> =
        pictures.iter().map(|(unit, it)| (unit, base64(it))).collect();
    let mut slots = BTreeMap::from([
        ("csp", csp),
        ("style", style),
        ("script", script),
        ("title", markup!("{}: {}", title(report.verdict), subject(report)).0),
        ("verdict", word(&report.verdict)),
        ("head", head(report).0),
        ("report", as_data(report)?),
        ("pictures", as_data(&pictures)?),
    ]);
    let mut contents = Html::default();
    for (id, name, body) in [
        ("rules", "Rules", Some(rules(report))),
        ("gates", "Gates", Some(gates(report))),
        ("exceptions", "Exceptions", Some(exceptions(report))),
        ("edit", "Edit", Some(edit(report))),
        ("accuracy", "Accuracy", Some(accuracy(report))),
        ("tests", "Tests and controls", Some(tests(report))),
        // These two are the script's.
        ("network", "Network", None),
        ("units", "All units", None),
        ("warnings", "Warnings", Some(warnings(report))),
        ("policy", "Policy", Some(policy(report))),
        ("provenance", "Provenance", Some(provenance(report))),
    ] {
        let Some(body) = body else {
            contents += markup!("<a href=\"#{}\" class=\"screen\" hidden>{}</a>\n", id, name);
            continue;
        };
        let mut section = Html::default();
        if !body.is_empty() {
            contents += markup!("<a href=\"#{}\">{}</a>\n", id, name);
            section = markup!(
                "<section id=\"{}\" aria-labelledby=\"{}-title\">\n<h2 id=\"{}-title\">{}</h2>\n{}\n</section>",
                id,
                id,
                id,
                name,
                body
            );
        }
        slots.insert(id, section.0);
    }
    slots.insert("contents", contents.0);
    fill(PAGE, &slots)
}

/// Puts texts into the `{{slots}}` of a page, in one pass: what is put in is not searched for slots.
fn fill(page: &str, slots: &BTreeMap<&str, String>) -> anyhow::Result<String> {
    let mut parts = page.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").context("a slot of the page has no end")?;
        let text =
            slots.get(name).with_context(|| format!("the page has an unknown slot `{name}`"))?;
        filled.push_str(text);
        filled.push_str(rest);
    }
    Ok(filled)
}

/// JSON that cannot end the script element it stands in.
fn as_data(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string(value).context("a report is not JSON")?.replace('<', "\\u003c"))
}

/// How a content security policy names an inline script or style.
fn hash(text: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(text)))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= three.len() { digit.into() } else { '=' });
        }
    }
    text
}

/// A table; the first cell of a row is its header. Columns have a heading and a class, rows a class and cells.
///
/// On narrow screens rows become paragraphs, in which the cells say their column themselves.
fn table(label: &str, columns: &[(&str, &str)], rows: Vec<(String, Vec<Html>)>) -> Html {
    let heads: Html = columns
        .iter()
        .map(|(head, class)| markup!(r#"<th scope="col" class="{}">{}</th>"#, class, head))
        .collect();
    let long = MAX_ROWS < rows.len();
    let body: Html = rows
        .into_iter()
        .map(|(class, cells)| {
            let cells: Html = cells
                .into_iter()
                .zip(columns)
                .enumerate()
                .map(|(i, (cell, (head, class)))| match i {
                    0 => markup!(r#"<th scope="row" class="{}">{}</th>"#, class, cell),
                    _ => markup!(r#"<td class="{}" data-label="{}">{}</td>"#, class, head, cell),
                })
                .collect();
            markup!("<tr class=\"{}\">{}</tr>\n", class, cells)
        })
        .collect();
    let open = match long {
        true => {
            markup!(r#"<div class="box long" role="region" tabindex="0" aria-label="{}">"#, label)
        }
        false => markup!(r#"<div class="box">"#),
    };
    markup!(
        "{}<table><thead><tr>{}</tr></thead><tbody>\n{}</tbody></table></div>\n",
        open,
        heads,
        body
    )
}

/// A number with what it is, and what is to be said of it.
fn fact(name: &str, value: impl Shown, note: impl Shown, over: bool) -> Html {
    let class = if over { "over" } else { "" };
    markup!(
        "<div><dt>{}</dt><dd class=\"{}\">{}<small>{}</small></dd></div>\n",
        name,
        class,
        value,
        note
    )
}

fn card(body: Html) -> Html {
    match body.is_empty() {
        true => body,
        false => markup!(r#"<div class="card">{}</div>"#, body),
    }
}

fn status(status: &impl Serialize) -> Html {
    markup!(r#"<span class="status">{}</span>"#, word(status).replace('-', " "))
}

fn level(level: &impl Serialize) -> Html {
    let level = word(level);
    markup!(r#"<span class="chip {}">{}</span>"#, level, level)
}

/// A link that opens a unit's detail, and can be sent to somebody.
fn link(unit: &str) -> Html {
    let encoded: String = unit
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect();
    markup!(r##"<a href="#unit={}" data-unit="{}">{}</a>"##, encoded, unit, unit)
}

fn links<'a>(units: impl IntoIterator<Item = &'a Unit>) -> Html {
    joined(units.into_iter().map(|it| link(&it.to_string())), ", ")
}

fn joined(parts: impl IntoIterator<Item = Html>, between: &str) -> Html {
    let parts: Vec<String> = parts.into_iter().map(|it| it.0).collect();
    Html(parts.join(between))
}

/// `1 unit`, `1,000 units`.
fn counted(n: usize, what: &str) -> String {
    format!("{} {what}{}", n.shown(), if n == 1 { "" } else { "s" })
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100. * share)
}

/// `[−2.70, +0.10]`
fn interval(ci95: [f64; 2]) -> String {
    format!("[{}, {}]", points(ci95[0]), points(ci95[1]))
}

// The parts of the page, in its order. An empty one is left out.

fn title(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "Passed",
        Verdict::Violated => "Violated",
        Verdict::Inconclusive => "Inconclusive",
    }
}

fn subject(report: &Report) -> String {
    format!("{} ({})", report.model.source, report.model.arch)
}

fn head(report: &Report) -> Html {
    let coverage = &report.coverage;
    let why: Html = why(report).iter().map(|it| markup!("<li>{}</li>\n", it)).collect();
    let mut unseen = vec![];
    if 0 < coverage.unknown {
        unseen.push(markup!(
            "<strong>Nothing is known of {}</strong>",
            counted(coverage.unknown, "unit")
        ));
    }
    if 0 < coverage.dead {
        let change = if coverage.dead == 1 { "changes" } else { "change" };
        unseen.push(markup!("{} never {} (dead)", counted(coverage.dead, "unit"), change));
    }
    let unseen = match unseen.is_empty() {
        true => markup!("Something is known of every one."),
        false => markup!("{}; none of them counts as clean.", joined(unseen, " and ")),
    };
    let kinds =
        [("described", coverage.described), ("unknown", coverage.unknown), ("dead", coverage.dead)];
    let key: Html = kinds
        .iter()
        .map(|(kind, n)| markup!(r#"<span><i class="{}"></i>{} {}</span> "#, kind, n, kind))
        .collect();
    markup!(
        "<p class=\"kind\">{} of <b>{}</b> ({})</p>
<h1>{}</h1>
<ul class=\"why\">
{}</ul>
<p>Looked at: {} of {}, described by {} on {}. {}</p>
{}
<p class=\"note keys\">{}</p>",
        if report.edit.is_some() { "Edit" } else { "Audit" },
        report.model.source,
        report.model.arch,
        title(report.verdict),
        why,
        counted(coverage.units, "unit"),
        counted(report.layers.len(), "layer"),
        report.descriptions.method,
        counted(report.data.images, "picture"),
        unseen,
        plots::bar(&kinds),
        key
    )
}

/// Why the verdict is what it is, a line a cause.
fn why(report: &Report) -> Vec<String> {
    if !report.why.is_empty() {
        return report.why.clone();
    }
    let unseen = report.coverage.unknown + report.coverage.dead;
    let as_far = if 0 < unseen { ", as far as the units are described" } else { "" };
    let first = match report.rules.is_empty() && report.gates.is_empty() {
        true => "No rule and no gate was held against it.".to_owned(),
        false => format!("No rule and no gate is violated{as_far}."),
    };
    let warned = |status: CheckStatus| status == CheckStatus::Warned;
    let rules = report.rules.iter().filter(|it| warned(it.status));
    let rules = rules.map(|it| format!("Warned: {}: {}", it.id, it.why.join("; ")));
    let gates = report.gates.iter().filter(|it| warned(it.status));
    let gates = gates.map(|it| format!("Warned: {}: {}", it.id, it.why));
    std::iter::once(first).chain(rules).chain(gates).collect()
}

fn rules(report: &Report) -> Html {
    report.rules.iter().map(|it| rule(report, it)).collect()
}

fn rule(report: &Report, rule: &RuleReport) -> Html {
    let (limits, observed) = (&rule.limits, &rule.observed);
    let at_most = |limit: Option<String>| match limit {
        Some(limit) => format!("at most {limit}"),
        None => "no limit".to_owned(),
    };
    let over = |observed: f64, limit: Option<f64>| limit.is_some_and(|limit| limit < observed);
    let share = |name, observed, limit: Option<f64>| {
        fact(name, percent(observed), at_most(limit.map(percent)), over(observed, limit))
    };
    let unseen = format!("{} unknown, {} dead", observed.unknown.shown(), observed.dead.shown());
    let facts: Html = [
        fact(
            "matching units",
            observed.units,
            at_most(limits.max_units.map(|it| it.shown())),
            limits.max_units.is_some_and(|limit| limit < observed.units),
        ),
        share("of the units in scope", observed.share, limits.max_share),
        share("in the layer with most", observed.max_share_per_layer, limits.max_share_per_layer),
        fact("in scope", observed.in_scope, unseen, false),
    ]
    .into_iter()
    .collect();
    let mut notes = Html::default();
    if let Some(reason) = &rule.reason {
        notes += markup!("<p class=\"note\">{}</p>\n", reason);
    }
    match &rule.url {
        Some(url) if ["https://", "http://"].iter().any(|it| url.starts_with(it)) => {
            notes += markup!(
                "<p class=\"note\"><a href=\"{}\" rel=\"noreferrer\">{}</a></p>\n",
                url,
                url
            );
        }
        Some(url) => notes += markup!("<p class=\"note\">{}</p>\n", url),
        None => {}
    }
    if let Some(place) = &rule.place {
        let line = place.line.to_string();
        notes += markup!("<p class=\"note\"><code>{}:{}</code></p>\n", place.path, line);
    }
    let mut units = matching(report, &format!("units that {} matches", rule.id), &rule.units);
    if !rule.excepted.is_empty() {
        units += markup!("<h3>{} excepted</h3>\n", counted(rule.excepted.len(), "unit"));
        units += matching(report, &format!("units excepted from {}", rule.id), &rule.excepted);
    }
    markup!(
        "<article class=\"card rule {}\">
<h3>{}{}</h3>
<p>{} {} {}</p>
{}<dl class=\"facts\">
{}</dl>
{}</article>
",
        word(&rule.status),
        rule.id,
        rule.title.as_ref().map(|it| format!(": {it}")),
        status(&rule.status),
        level(&rule.level),
        rule.why.join("; "),
        notes,
        facts,
        units
    )
}

/// Units that a rule matches.
fn matching(report: &Report, label: &str, units: &[UnitReport]) -> Html {
    if units.is_empty() {
        return Html::default();
    }
    let mut columns = vec![
        ("unit", "name"),
        ("description", "wide bare"),
        ("matched by", ""),
        ("confidence", "number"),
    ];
    if units.iter().any(|it| it.importance.is_some()) {
        columns.push((report.importance_name(), "number"));
    }
    let row = |it: &UnitReport| {
        let cells = cells![
            link(&format!("{}:{}", it.layer, it.unit)),
            it.description,
            it.matched,
            format!("{:.2}", it.confidence),
            it.importance.map(|it| report.important(it)),
        ];
        (String::new(), cells)
    };
    table(label, &columns, units.iter().map(row).collect())
}

fn gates(report: &Report) -> Html {
    // Gates have units of their own, so that a number is only rounded.
    let number = |it: Option<f64>| it.map(|it| ((1e4 * it).round() / 1e4).to_string());
    let columns = [
        ("gate", ""),
        ("status", ""),
        ("level", ""),
        ("observed", "number"),
        ("limit", "number"),
        ("why", "wide bare"),
    ];
    let rows: Vec<_> = report
        .gates
        .iter()
        .map(|it| {
            let cells = cells![
                it.id,
                status(&it.status),
                level(&it.level),
                number(it.observed),
                number(it.limit),
                it.why,
            ];
            (word(&it.status), cells)
        })
        .collect();
    if rows.is_empty() { Html::default() } else { card(table("gates", &columns, rows)) }
}

fn exceptions(report: &Report) -> Html {
    let columns = [
        ("rule", ""),
        ("units", "name"),
        ("status", ""),
        ("expires", "date"),
        ("approved by", ""),
        ("reason", "wide"),
        ("covers", "wide"),
    ];
    let rows: Vec<_> = report
        .exceptions
        .iter()
        .map(|it| {
            let model = it.model.as_ref().map(|it| format!(" of {it}"));
            let mut covered = links(it.covered.iter().take(MAX_NAMED));
            if MAX_NAMED < it.covered.len() {
                covered += markup!(" and {} more", it.covered.len() - MAX_NAMED);
            } else if it.covered.is_empty() {
                covered = markup!("nothing");
            }
            let cells = cells![
                it.rule,
                markup!("{}{}", it.units.join(", "), model),
                status(&it.status),
                it.expires,
                it.approved_by.as_deref().unwrap_or("nobody named"),
                it.reason,
                covered,
            ];
            (word(&it.status), cells)
        })
        .collect();
    if rows.is_empty() { Html::default() } else { card(table("exceptions", &columns, rows)) }
}

fn edit(report: &Report) -> Html {
    let Some(edit) = &report.edit else { return Html::default() };
    let slices: usize = edit.changes.iter().map(|it| it.indices.len()).sum();
    let mut body = markup!(
        "<p>{} zeroed through {} of {}, {} changed.</p>\n",
        counted(edit.units.len(), "unit"),
        counted(slices, "slice"),
        counted(edit.changes.len(), "tensor axis").replace("axiss", "axes"),
        counted(edit.bytes_changed as usize, "byte")
    );
    let verified = &edit.verified;
    body += markup!(
        "<p>Loaded afresh, on {} it answers as the ablated network does (to {} relative).</p>\n",
        counted(verified.images, "picture"),
        format!("{:.0e}", verified.max_difference)
    );
    if 0 < edit.spared {
        let why = match edit.slack {
            Some(slack) => {
                format!("the next would cost more than {:.2} points of top-1", 100. * slack)
            }
            None => "more were not allowed to go".to_owned(),
        };
        let match_too = if edit.spared == 1 { "matches" } else { "match" };
        let spared = counted(edit.spared, "unit");
        body += markup!("<p>Spared: {} that {} too ({}).</p>\n", spared, match_too, why);
    }
    body += match &edit.output {
        Some(output) => {
            markup!("<p>Written: <code>{}</code></p>\n", output.path.display().to_string())
        }
        None => markup!("<p>Written: nothing.</p>\n"),
    };
    if !edit.units.is_empty() {
        let n = counted(edit.units.len(), "zeroed unit");
        let units = links(&edit.units);
        body +=
            markup!("<details><summary>{}</summary><p class=\"name\">{}</p></details>\n", n, units);
    }
    if !edit.refused.is_empty() {
        let reasons: Html = edit
            .refused
            .iter()
            .map(|it| markup!("<li>{}: {}</li>\n", link(&it.unit.to_string()), it.reason))
            .collect();
        let n = counted(edit.refused.len(), "unit");
        body += markup!(
            "<details><summary>{} left alone</summary><ul>\n{}</ul></details>\n",
            n,
            reasons
        );
    }
    card(body)
}

/// A class, and its top-1 after the edit.
type Class<'a> = (&'a ClassAccuracy, Option<f64>);

fn accuracy(report: &Report) -> Html {
    let Some(accuracy) = &report.accuracy else { return Html::default() };
    let (before, after) = (&accuracy.before, accuracy.after.as_ref());
    let pair = |before: f64, after: Option<f64>| match after {
        Some(after) => format!("{} → {}", percent(before), percent(after)),
        None => percent(before),
    };
    let mut facts = fact("top-1", pair(before.top1, after.map(|it| it.top1)), "", false);
    facts += fact("top-5", pair(before.top5, after.map(|it| it.top5)), "", false);
    if let (Some(delta), Some(ci95)) = (accuracy.delta, accuracy.ci95) {
        facts +=
            fact("difference, points", points(delta), format!("95 %: {}", interval(ci95)), false);
    }
    if let Some(changed) = accuracy.changed {
        facts += fact("first answers changed", changed, "", false);
    }
    facts += fact("labelled pictures", before.n, "", false);

    let of_class = |it: &ClassAccuracy| (it.class, it.top1);
    let later: BTreeMap<usize, f64> =
        after.map(|it| it.per_class.iter().map(of_class).collect()).unwrap_or_default();
    let with_after = |it| -> Class { (it, later.get(&it.class).copied()) };
    let mut classes: Vec<Class> = before.per_class.iter().map(with_after).collect();
    let mut body = markup!("<dl class=\"facts\">\n{}</dl>\n", facts);
    if after.is_some() {
        body += markup!(
            "<p class=\"note keys\"><span><i class=\"key before\"></i>before</span> <span><i class=\"key fell\"></i>after, \
             fell</span> <span><i class=\"key rose\"></i>after, rose</span> <span><i class=\"key same\"></i>unchanged</span></p>\n"
        );
    }
    let change = |(before, after): &Class| after.map_or(0., |after| after - before.top1);
    if classes.len() <= MAX_CLASSES {
        classes.sort_by(|a, b| change(a).total_cmp(&change(b)).then(a.0.top1.total_cmp(&b.0.top1)));
        body += classes_table("classes", &classes, after.is_some(), true);
        return card(body);
    }
    classes.sort_by(|a, b| b.0.top1.total_cmp(&a.0.top1));
    let shares: Vec<(f64, f64)> =
        classes.iter().map(|(it, after)| (it.top1, after.unwrap_or(it.top1))).collect();
    let label = format!("top-1 of {} classes, the best first", classes.len());
    body += plots::overview(&shares, &label);
    let all = classes_table("all classes", &classes, after.is_some(), false);
    let n = classes.len();
    classes.sort_by(|a, b| {
        change(b).abs().total_cmp(&change(a).abs()).then(a.0.top1.total_cmp(&b.0.top1))
    });
    classes.truncate(CHANGED_MOST);
    let label =
        if after.is_some() { "Classes that changed most" } else { "Classes that are hardest" };
    let shown = classes_table(label, &classes, after.is_some(), true);
    body += markup!(
        "<h3>{}</h3>\n{}<details><summary>All {} classes</summary>\n{}</details>\n",
        label,
        shown,
        n,
        all
    );
    card(body)
}

fn classes_table(label: &str, classes: &[Class], edited: bool, plotted: bool) -> Html {
    let mut columns = vec![("class", ""), ("pictures", "number")];
    match edited {
        true => columns.extend([("before", "number"), ("after", "number"), ("points", "number")]),
        false => columns.push(("top-1", "number")),
    }
    if plotted {
        columns.push(("0 to 100 %", "plot"));
    }
    let row = |(class, after): &Class| {
        let mut cells = cells![class.name, class.n, percent(class.top1)];
        if edited {
            cells.extend(cells![after.map(percent), after.map(|it| points(it - class.top1))]);
        }
        if plotted {
            cells.push(plots::change(class.top1, after.unwrap_or(class.top1)));
        }
        (String::new(), cells)
    };
    table(label, &columns, classes.iter().map(row).collect())
}

fn tests(report: &Report) -> Html {
    let chosen = report.edit.as_ref().map_or(0, |it| it.units.len());
    let mut rows: Vec<(&str, String, &TestReport)> = vec![];
    for test in &report.tests {
        rows.push(("main", counted(chosen, "chosen unit"), test));
        for control in &report.controls {
            let units = counted(control.units.len(), "unit");
            let who = match control.kind.as_str() {
                "random" => format!("{units} random, seed {}", control.seed),
                kind => format!("{units} by {kind} alone"),
            };
            let same = control.tests.iter().filter(|it| it.name == test.name);
            rows.extend(same.map(|it| ("", who.clone(), it)));
        }
    }
    if rows.is_empty() {
        return Html::default();
    }
    let ends = || rows.iter().flat_map(|(_, _, it)| [it.ci95[0], it.ci95[1], it.delta, 0.]);
    let (low, high) = (ends().fold(0., f64::min), ends().fold(0., f64::max));
    let row = |(class, who, test): &(&str, String, &TestReport)| {
        let cells = cells![
            test.name,
            who,
            test.n,
            percent(test.before),
            percent(test.after),
            markup!(r#"{} <span class="note">{}</span>"#, points(test.delta), interval(test.ci95)),
            plots::difference(test.delta, test.ci95, low, high),
        ];
        ((*class).to_owned(), cells)
    };
    let columns = [
        ("top-1 on", ""),
        ("deleted", "wide bare"),
        ("pictures", "number"),
        ("before", "number"),
        ("after", "number"),
        ("points [95 %]", "number"),
        ("difference", "plot"),
    ];
    card(table("tests and controls", &columns, rows.iter().map(row).collect()))
}

fn warnings(report: &Report) -> Html {
    let skipped = report.data.skipped.iter();
    let skipped = skipped.map(|it| format!("skipped {}: {}", it.file, it.reason));
    let items: Html = report
        .warnings
        .iter()
        .cloned()
        .chain(skipped)
        .map(|it| markup!("<li>{}</li>\n", it))
        .collect();
    if items.is_empty() { items } else { markup!("<ul class=\"card list\">\n{}</ul>", items) }
}

fn policy(report: &Report) -> Html {
    let Some(policy) = &report.policy else { return Html::default() };
    let files: Html = policy
        .files
        .iter()
        .map(|it| {
            markup!(
                "<p><code>{}</code><br><code class=\"note\">sha256 {}</code></p>\n",
                it.path,
                it.sha256
            )
        })
        .collect();
    let resolved = serde_json::to_string_pretty(&policy.resolved).unwrap_or_default();
    card(markup!(
        "{}<details><summary>As it was understood, defaults filled in</summary><pre>{}</pre></details>\n",
        files,
        resolved
    ))
}

fn provenance(report: &Report) -> Html {
    let mut list = Html::default();
    let mut add = |name: &str, what: String, sha256: Option<&String>| {
        let sha256 = sha256.map_or(Html::default(), |it| {
            markup!(r#"<br><code class="note">sha256 {}</code>"#, it)
        });
        list += markup!("<dt>{}</dt><dd>{}{}</dd>\n", name, what, sha256);
    };
    let model = &report.model;
    add("model", format!("{}, {}", subject(report), counted(model.tensors, "tensor")), None);
    for file in &model.files {
        let size = counted(file.size as usize, "byte");
        add("model file", format!("{}, {size}", file.path.display()), Some(&file.sha256));
    }
    for (file, sha256) in report.edit.iter().flat_map(|it| &it.output).flat_map(|it| &it.sha256) {
        add("written file", file.clone(), Some(sha256));
    }
    let data = &report.data;
    let pictures = format!("{}, {}", data.source, counted(data.images, "picture"));
    add("pictures", pictures, Some(&data.manifest_sha256));
    let describer = &report.descriptions;
    let compat = if describer.compat { ", with the reference's mistakes" } else { "" };
    add("describer", format!("{}{compat}", describer.method), describer.weights_sha256.as_ref());
    if let Some(sha256) = &describer.sentence_encoder_sha256 {
        add("sentence encoder", String::new(), Some(sha256));
    }
    let tool = &report.tool;
    add(
        "program",
        format!("{} {}, report format {}", tool.name, tool.version, report.schema),
        None,
    );
    let run = &report.run;
    let started =
        i64::try_from(run.started).ok().and_then(|it| jiff::Timestamp::from_second(it).ok());
    let started = started.map_or(String::new(), |it| it.to_string());
    let threads = counted(run.threads, "thread");
    add("run", format!("{started}, {:.1} seconds on {}, {threads}", run.seconds, run.device), None);
    add("seed", run.seed.to_string(), None);
    markup!("<dl class=\"card plain\">\n{}</dl>", list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let pairs =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (text, wanted) in pairs {
            assert_eq!(base64(text.as_bytes()), wanted);
        }
    }

    #[test]
    fn a_slot_is_filled_once_and_must_be_known() {
        let slots = BTreeMap::from([("a", "{{b}}".to_owned()), ("b", "B".to_owned())]);
        assert_eq!(fill("<{{a}}-{{b}}>", &slots).unwrap(), "<{{b}}-B>");
        assert!(fill("{{c}}", &slots).is_err());
    }
}
