//! Plots in SVG. Lengths are in per cent, so that marks and text keep their size however wide a plot is.

use std::cmp::Ordering;

use super::markup::{Html, markup};

/// The class of what went from one share to another.
fn tone(before: f64, after: f64) -> &'static str {
    match after.total_cmp(&before) {
        Ordering::Less => "fell",
        Ordering::Equal => "same",
        Ordering::Greater => "rose",
    }
}

fn line(class: &str, [x1, x2]: [f64; 2], [y1, y2]: [f64; 2]) -> Html {
    let [x1, x2, y1, y2] = [x1, x2, y1, y2].map(short);
    markup!(r#"<line class="{}" x1="{}%" x2="{}%" y1="{}%" y2="{}%"/>"#, class, x1, x2, y1, y2)
}

fn dot(class: &str, x: f64, y: f64, radius: &str) -> Html {
    markup!(r#"<circle class="{}" cx="{}%" cy="{}%" r="{}"/>"#, class, short(x), short(y), radius)
}

fn short(number: f64) -> String {
    format!("{:.2}", number).trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// From where to where a share went, on a line from 0 to 1.
pub(super) fn change(before: f64, after: f64) -> Html {
    let [x, to] = [before, after].map(|it| 2. + 96. * it);
    let tone = tone(before, after);
    let mut marks = line("axis", [0., 100.], [50., 50.]);
    if before != after {
        marks += line(tone, [x, to], [50., 50.]);
        marks += dot("before", x, 50., "4");
    }
    marks += dot(tone, to, 50., "4.5");
    markup!(r#"<svg aria-hidden="true">{}</svg>"#, marks)
}

/// A difference with its interval, between the least and the greatest of several.
pub(super) fn difference(delta: f64, ci95: [f64; 2], low: f64, high: f64) -> Html {
    let x = |it: f64| 3. + 94. * (it - low) / (high - low).max(1e-9);
    let tone = match ci95 {
        [_, high] if high < 0. => "fell",
        [low, _] if 0. < low => "rose",
        _ => "same",
    };
    let mut marks = line("zero", [x(0.); 2], [-60., 160.]);
    marks += line(tone, ci95.map(x), [50., 50.]);
    marks += dot(tone, x(delta), 50., "4");
    markup!(r#"<svg aria-hidden="true">{}</svg>"#, marks)
}

/// Shares before and after, in order from left to right: a dot before, and a line from there to after.
pub(super) fn overview(shares: &[(f64, f64)], label: &str) -> Html {
    let y = |share: f64| 4. + 92. * (1. - share);
    let mut marks = Html::default();
    for quarter in [0., 0.25, 0.5, 0.75, 1.] {
        let text = format!("{:.0} %", 100. * quarter);
        marks += line("axis", [0., 100.], [y(quarter); 2]);
        marks +=
            markup!("<text x=\"-8\" y=\"{}%\" dy=\".35em\">{}</text>\n", short(y(quarter)), text);
    }
    for (i, &(before, after)) in shares.iter().enumerate() {
        let x = 100. * (i as f64 + 0.5) / shares.len() as f64;
        if before != after {
            marks += line(tone(before, after), [x; 2], [y(before), y(after)]);
        }
        marks += dot("same", x, y(before), "1.5");
        marks += markup!("\n");
    }
    markup!("<svg class=\"overview\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n", label, marks)
}

/// A bar of shares of 100 %, each of a class.
pub(super) fn bar(parts: &[(&str, usize)]) -> Html {
    let all: usize = parts.iter().map(|it| it.1).sum();
    let share = |n: usize| 100. * n as f64 / all.max(1) as f64;
    let (mut marks, mut from) = (Html::default(), 0);
    for &(class, n) in parts {
        let (x, width) = (short(share(from)), short(share(n)));
        marks +=
            markup!(r#"<rect class="{}" x="{}%" width="{}%" height="100%"/>"#, class, x, width);
        from += n;
    }
    markup!(r#"<svg class="coverage" aria-hidden="true">{}</svg>"#, marks)
}
