//! The verdict and why, and where the report comes from.

use super::markup::{Html, markup};
use super::parts::*;
use super::plots;
use crate::policy::CheckStatus;
use crate::report::{Report, Verdict};

pub(super) fn title(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "Passed",
        Verdict::Violated => "Violated",
        Verdict::Inconclusive => "Inconclusive",
    }
}

pub(super) fn subject(report: &Report) -> String {
    format!("{} ({})", report.model.source, report.model.arch)
}

pub(super) fn head(report: &Report) -> Html {
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
    if 0 < coverage.saturated {
        let saturated = counted(coverage.saturated, "unit");
        unseen.push(markup!("{} equally strong on many pictures (saturated)", saturated));
    }
    let unseen = match unseen.is_empty() {
        true => markup!("Something is known of every one."),
        false => markup!("{}; none of them counts as clean.", joined(unseen, " and ")),
    };
    let mut kinds = vec![
        ("described", coverage.described),
        ("unknown", coverage.unknown),
        ("dead", coverage.dead),
    ];
    kinds.extend((0 < coverage.saturated).then_some(("saturated", coverage.saturated)));
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
    let unseen = report.coverage.unseen();
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

pub(super) fn provenance(report: &Report) -> Html {
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
    if let Some(it) = &data.near_duplicates {
        let n = counted(it.pictures, "picture");
        add("near-duplicates", format!("{n} in {}", counted(it.groups, "group")), None);
    }
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
