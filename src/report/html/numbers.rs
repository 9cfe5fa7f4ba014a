//! What an edit changed, and what it did to accuracy.

use std::collections::BTreeMap;

use super::markup::{Html, cells, markup};
use super::parts::*;
use super::plots;
use crate::evaluate::ClassAccuracy;
use crate::report::human::points;
use crate::report::{Report, TestReport};

/// Classes with a row of their own; of more only those that changed most have one.
const MAX_CLASSES: usize = 40;
const CHANGED_MOST: usize = 20;

pub(super) fn edit(report: &Report) -> Html {
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

pub(super) fn accuracy(report: &Report) -> Html {
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

pub(super) fn tests(report: &Report) -> Html {
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
