//! The ways to write a report, by name.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::Context;

use super::{
    Report, card, concise, csv, cyclonedx, github, gitlab, html, human, in_toto, jsonl, junit,
    sarif,
};
use crate::toml_file::closest;
use crate::usage;

/// Of a terminal.
const COLUMNS: usize = 100;

/// A way to write a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a terminal.
    Human,
    /// One line a finding.
    Concise,
    /// The whole report.
    Json,
    /// The same as a stream of lines.
    Jsonl,
    /// One line a unit that a rule matches.
    Csv,
    /// For code scanning.
    Sarif,
    /// For CI systems, as the result of tests.
    Junit,
    /// Workflow commands, which GitHub shows beside the lines of a change.
    Github,
    /// The Code Quality report of GitLab.
    Gitlab,
    /// A section for a model card.
    Md,
    /// A page that loads nothing.
    Html,
    /// A statement to be signed.
    InToto,
    /// A bill of materials.
    Cyclonedx,
}

const FORMATS: &[(&str, Format)] = &[
    ("human", Format::Human),
    ("concise", Format::Concise),
    ("json", Format::Json),
    ("jsonl", Format::Jsonl),
    ("csv", Format::Csv),
    ("sarif", Format::Sarif),
    ("junit", Format::Junit),
    ("github", Format::Github),
    ("gitlab", Format::Gitlab),
    ("md", Format::Md),
    ("html", Format::Html),
    ("in-toto", Format::InToto),
    ("cyclonedx", Format::Cyclonedx),
];

impl Format {
    /// The report in this format. `pictures` are shown on a page, by `layer:unit`; a terminal is `COLUMNS` wide.
    pub fn write(
        self,
        report: &Report,
        pictures: &BTreeMap<String, Vec<u8>>,
        color: bool,
    ) -> anyhow::Result<String> {
        match self {
            Format::Human => Ok(human(report, COLUMNS, color)),
            Format::Html => html(report, pictures),
            Format::Concise => concise(report),
            Format::Json => json(report),
            Format::Jsonl => jsonl(report),
            Format::Csv => csv(report),
            Format::Sarif => sarif(report),
            Format::Junit => junit(report),
            Format::Github => github(report),
            Format::Gitlab => gitlab(report),
            Format::Md => card(report),
            Format::InToto => in_toto(report),
            Format::Cyclonedx => cyclonedx(report),
        }
    }
}

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Format> {
        if let Some((_, format)) = FORMATS.iter().find(|(name, _)| *name == text) {
            return Ok(*format);
        }
        let names: Vec<&str> = FORMATS.iter().map(|(name, _)| *name).collect();
        let like = closest(text, &names);
        let like = like.map_or(String::new(), |it| format!("; did you mean `{it}`?"));
        Err(usage!("`{text}` is no report format; there are {}{like}", names.join(", ")))
    }
}

/// `report.json`.
pub fn json(report: &Report) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(report).context("a report is not JSON")? + "\n")
}
