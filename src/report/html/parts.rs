//! What the sections of the page are made of.

use serde::Serialize;

use super::markup::{Html, Shown, markup};
use crate::report::human::points;
use crate::report::table::word;
use crate::unit::Unit;

/// Rows of a table that are shown at once; more are scrolled.
const MAX_ROWS: usize = 10;

/// A table; the first cell of a row is its header. Columns have a heading and a class, rows a class and cells.
///
/// On narrow screens rows become paragraphs, in which the cells say their column themselves.
pub(super) fn table(label: &str, columns: &[(&str, &str)], rows: Vec<(String, Vec<Html>)>) -> Html {
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
pub(super) fn fact(name: &str, value: impl Shown, note: impl Shown, over: bool) -> Html {
    let class = if over { "over" } else { "" };
    markup!(
        "<div><dt>{}</dt><dd class=\"{}\">{}<small>{}</small></dd></div>\n",
        name,
        class,
        value,
        note
    )
}

pub(super) fn card(body: Html) -> Html {
    match body.is_empty() {
        true => body,
        false => markup!(r#"<div class="card">{}</div>"#, body),
    }
}

pub(super) fn status(status: &impl Serialize) -> Html {
    markup!(r#"<span class="status">{}</span>"#, word(status).replace('-', " "))
}

pub(super) fn level(level: &impl Serialize) -> Html {
    let level = word(level);
    markup!(r#"<span class="chip {}">{}</span>"#, level, level)
}

/// A link that opens a unit's detail, and can be sent to somebody.
pub(super) fn link(unit: &str) -> Html {
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

pub(super) fn links<'a>(units: impl IntoIterator<Item = &'a Unit>) -> Html {
    joined(units.into_iter().map(|it| link(&it.to_string())), ", ")
}

pub(super) fn joined(parts: impl IntoIterator<Item = Html>, between: &str) -> Html {
    let parts: Vec<String> = parts.into_iter().map(|it| it.0).collect();
    Html(parts.join(between))
}

/// `1 unit`, `1,000 units`.
pub(super) fn counted(n: usize, what: &str) -> String {
    format!("{} {what}{}", n.shown(), if n == 1 { "" } else { "s" })
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", 100. * share)
}

/// `[−2.70, +0.10]`
pub(super) fn interval(ci95: [f64; 2]) -> String {
    format!("[{}, {}]", points(ci95[0]), points(ci95[1]))
}
