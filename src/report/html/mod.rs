//! The report as one page that needs nothing else: no other file, no network.
//!
//! What decides the verdict is written here and readable without a program; `script.js` adds the picture of the
//! network, the list of all units and the detail of one. Names and descriptions come from strangers' files, so
//! text gets into the page through [`markup!`] alone, which escapes whatever is not [`Html`] already.

mod findings;
mod head;
mod markup;
mod numbers;
mod parts;
mod plots;

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;
use sha2::{Digest, Sha256};

use markup::{Html, markup};

use super::Report;
use super::table::word;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

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
        ("title", markup!("{}: {}", head::title(report.verdict), head::subject(report)).0),
        ("verdict", word(&report.verdict)),
        ("head", head::head(report).0),
        ("report", as_data(report)?),
        ("pictures", as_data(&pictures)?),
    ]);
    let mut contents = Html::default();
    for (id, name, body) in [
        ("rules", "Rules", Some(findings::rules(report))),
        ("gates", "Gates", Some(findings::gates(report))),
        ("exceptions", "Exceptions", Some(findings::exceptions(report))),
        ("edit", "Edit", Some(numbers::edit(report))),
        ("accuracy", "Accuracy", Some(numbers::accuracy(report))),
        ("tests", "Tests and controls", Some(numbers::tests(report))),
        // These two are the script's.
        ("network", "Network", None),
        ("units", "All units", None),
        ("warnings", "Warnings", Some(findings::warnings(report))),
        ("policy", "Policy", Some(findings::policy(report))),
        ("provenance", "Provenance", Some(head::provenance(report))),
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
