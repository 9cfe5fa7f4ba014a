//! What was held against the model: rules, gates, exceptions, and the policy that has them.

use super::markup::{Html, Shown, cells, markup};
use super::parts::*;
use crate::report::table::word;
use crate::report::{Report, RuleReport, UnitReport};

/// Units named in a cell.
const MAX_NAMED: usize = 12;

pub(super) fn rules(report: &Report) -> Html {
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
    let mut unseen =
        format!("{} unknown, {} dead", observed.unknown.shown(), observed.dead.shown());
    if 0 < observed.saturated {
        unseen += &format!(", {} saturated", observed.saturated.shown());
    }
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
    .chain(rule.shown.map(|it| {
        let of = format!("of {} pictures", it.of.shown());
        fact("pictures that show it", it.pictures, of, rule.uncovered)
    }))
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
    if !rule.possible.is_empty() {
        units += markup!("<h3>{} possible</h3>\n", counted(rule.possible.len(), "unit"));
        units += matching(report, &format!("possible units of {}", rule.id), &rule.possible);
    }
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
    let judged = units.iter().any(|it| !it.reasons.is_empty());
    if judged {
        columns.extend([("probability", "number"), ("because", "wide")]);
    }
    if units.iter().any(|it| it.importance.is_some()) {
        columns.push((report.importance_name(), "number"));
    }
    let row = |it: &UnitReport| {
        let mut cells = cells![
            link(&format!("{}:{}", it.layer, it.unit)),
            it.description,
            it.matched,
            format!("{:.2}", it.confidence),
        ];
        if judged {
            cells.extend(cells![format!("{:.2}", it.probability), it.reasons.join("; ")]);
        }
        cells.extend(cells![it.importance.map(|it| report.important(it))]);
        (String::new(), cells)
    };
    table(label, &columns, units.iter().map(row).collect())
}

pub(super) fn gates(report: &Report) -> Html {
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

pub(super) fn exceptions(report: &Report) -> Html {
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

pub(super) fn warnings(report: &Report) -> Html {
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

pub(super) fn policy(report: &Report) -> Html {
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
