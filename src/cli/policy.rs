//! `milan-audit policy`: writes, checks, shows, tries and explains policies, without a model.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use crate::describe::{Describer, How};
use crate::policy::finding::find;
use crate::policy::matcher::{Trace, Tried};
use crate::policy::{self, Policy, Rule, Similarities, examples, presets};
use crate::report::{self, Report, UnitFacts, counted};
use crate::ruling::{Asked, similarities};
use crate::toml_file::Mistakes;
use crate::unit::{Reading, Unit};
use crate::{cli, files, usage};

#[derive(Subcommand)]
pub(super) enum PolicyCommand {
    /// Write a policy to begin with, its keys explained
    Init {
        /// Built-in policies to build on
        #[arg(
            long,
            value_name = "NAME,…",
            env = "MILAN_PRESET",
            value_delimiter = ',',
            default_value = "faces"
        )]
        preset: Vec<String>,
        /// Where; `-` is stdout. A file that is there is never replaced
        #[arg(default_value = "policy.toml")]
        path: String,
    },
    /// Read policies over: everything that is wrong, with its place, and what can never match
    Check {
        /// Files, or names of built-in policies
        #[arg(required = true)]
        policies: Vec<String>,
        /// Refuse includes without a sha256
        #[arg(long, env = "MILAN_LOCKED")]
        locked: bool,
        /// As JSON
        #[arg(long, value_name = "FORMAT", env = "MILAN_POLICY_OUTPUT")]
        output: Option<Printed>,
    },
    /// Print a policy, or list the built-in ones
    Show {
        policy: Option<String>,
        /// With includes, lists and defaults filled in
        #[arg(long, env = "MILAN_RESOLVED")]
        resolved: bool,
        /// As JSON
        #[arg(long, value_name = "FORMAT", env = "MILAN_POLICY_OUTPUT")]
        output: Option<Printed>,
    },
    /// Try policies on their own examples, [rule.test]
    Test {
        /// Files, or names of built-in policies [default: all built-in ones]
        policies: Vec<String>,
        /// The folder of all-MiniLM-L6-v2, for policies with thresholds for it
        #[arg(long, value_name = "DIR", env = "MILAN_SENTENCE_ENCODER")]
        sentence_encoder: Option<PathBuf>,
    },
    /// Why a rule matches a unit, or a text, or not
    Explain {
        rule: String,
        /// A unit of the report, `layer:unit`
        #[arg(required_unless_present = "text")]
        unit: Option<String>,
        /// Any text, instead of a unit
        #[arg(long, value_name = "TEXT", env = "MILAN_TEXT", conflicts_with = "unit")]
        text: Option<String>,
        /// The report that the unit is in
        #[arg(
            long,
            value_name = "FILE",
            env = "MILAN_REPORT",
            default_value = "reports/demo/report.json"
        )]
        report: PathBuf,
        /// The policy [default: that of the report; with --text the one called like the rule]
        #[arg(long, value_name = "FILE", env = "MILAN_POLICY")]
        policy: Option<String>,
        /// The folder of all-MiniLM-L6-v2, for policies with thresholds for it
        #[arg(long, value_name = "DIR", env = "MILAN_SENTENCE_ENCODER")]
        sentence_encoder: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Printed {
    Json,
}

pub(super) fn run(command: PolicyCommand) -> anyhow::Result<(u8, String)> {
    match command {
        PolicyCommand::Init { preset, path } => init(&preset, &path),
        PolicyCommand::Check { policies, locked, output } => check(&policies, locked, output),
        PolicyCommand::Show { policy, resolved, output } => show(policy, resolved, output),
        PolicyCommand::Test { policies, sentence_encoder } => test(policies, sentence_encoder),
        PolicyCommand::Explain { rule, unit, text, report, policy, sentence_encoder } => {
            let how = with_encoder(sentence_encoder);
            match text {
                Some(text) => explain_text(&rule, &text, policy, &how),
                None => explain_unit(&rule, &unit.unwrap_or_default(), &report, policy, &how),
            }
        }
    }?;
    Ok((0, String::new()))
}

fn with_encoder(folder: Option<PathBuf>) -> How {
    How { sentence_encoder: folder, ..How::from(Describer::Milan(None)) }
}

const TEMPLATE: &str = include_str!("../policy/template.toml");

fn init(names: &[String], path: &str) -> anyhow::Result<()> {
    let mut included = Vec::new();
    for name in names {
        let preset = presets::find(name).ok_or_else(|| {
            usage!(
                "there is no built-in policy `{name}`; there are {}",
                presets::names().join(", ")
            )
        })?;
        included.push(format!("\"{}\"", preset.path()));
    }
    let version = env!("CARGO_PKG_VERSION").rsplit_once('.').map_or("0", |it| it.0);
    let rule = names.first().map_or("faces", |it| it.split('@').next().unwrap_or(it));
    let text = TEMPLATE
        .replace("INCLUDED", &included.join(", "))
        .replace("VERSION", version)
        .replace("RULE", rule)
        .replace("PATH", if path == "-" { "policy.toml" } else { path });
    if path == "-" {
        return cli::print(&text);
    }
    if Path::new(path).exists() {
        return Err(usage!("{path} is there already, and is left as it is; name another file"));
    }
    files::write_whole(Path::new(path), text.as_bytes())?;
    cli::print(&format!("wrote {path}\nNext: milan-audit --policy {path}\n"))
}

/// What there is to say of one policy.
#[derive(Serialize)]
struct CheckedFile {
    path: String,
    rules: usize,
    exceptions: usize,
    mistakes: Vec<serde_json::Value>,
    warnings: Vec<String>,
}

fn check(names: &[String], locked: bool, output: Option<Printed>) -> anyhow::Result<()> {
    let (mut found, mut n_wrong) = (vec![], 0);
    for name in names {
        let policy = match policy::load(name, locked) {
            Ok(policy) => policy,
            Err(error) => {
                let Some(mistakes) = error.downcast_ref::<Mistakes>() else { return Err(error) };
                n_wrong += 1;
                if output.is_none() {
                    cli::show(mistakes);
                }
                found.push(CheckedFile {
                    path: name.clone(),
                    rules: 0,
                    exceptions: 0,
                    mistakes: mistakes.values()?,
                    warnings: vec![],
                });
                continue;
            }
        };
        found.push(CheckedFile {
            path: policy.files[0].path.clone(),
            rules: policy.rules.len(),
            exceptions: policy.exceptions.len(),
            mistakes: vec![],
            warnings: warnings(&policy),
        });
    }
    cli::print(&match output {
        Some(Printed::Json) => serde_json::to_string_pretty(&found)? + "\n",
        None => found.iter().map(CheckedFile::human).collect(),
    })?;
    match n_wrong {
        0 => Ok(()),
        _ => Err(cli::ended(
            2,
            format!("error: {n_wrong} of {} policies cannot be used", names.len()),
        )),
    }
}

impl CheckedFile {
    fn human(&self) -> String {
        let mut text = match (self.mistakes.len(), self.exceptions) {
            (0, 0) => format!("{}: {}, no mistake\n", self.path, counted(self.rules, "rule")),
            (0, n) => {
                let (rules, exceptions) = (counted(self.rules, "rule"), counted(n, "exception"));
                format!("{}: {rules}, {exceptions}, no mistake\n", self.path)
            }
            (n, _) => format!("{}: {}\n", self.path, counted(n, "mistake")),
        };
        for warning in &self.warnings {
            text += &format!("  warning: {warning}\n");
        }
        text
    }
}

/// What is allowed and hardly meant.
fn warnings(policy: &Policy) -> Vec<String> {
    let mut found = vec![];
    for rule in &policy.rules {
        for phrase in examples::never(rule) {
            found.push(format!(
                "`{phrase}` of {} can never match: its `none` strikes it out",
                rule.id
            ));
        }
    }
    let today = Asked::default().today();
    for it in policy.exceptions.iter().filter(|it| it.expires.is_some_and(|day| day < today)) {
        let units: Vec<String> = it.units.iter().map(ToString::to_string).collect();
        found.push(format!("the exception of {} for {} has expired", units.join(", "), it.rule));
    }
    found
}

fn show(name: Option<String>, resolved: bool, output: Option<Printed>) -> anyhow::Result<()> {
    let Some(name) = name else {
        let mut text = String::new();
        for preset in presets::PRESETS {
            let policy = policy::load(&preset.path(), false)?;
            let titles: Vec<&str> =
                policy.rules.iter().filter_map(|it| it.title.as_deref()).collect();
            text += &format!(
                "{:32} {}\n",
                format!("{}@{}", preset.name, preset.revision),
                titles.join(" · ")
            );
        }
        return cli::print(&text);
    };
    let policy = policy::load(&name, false)?;
    match output {
        Some(Printed::Json) => cli::print(&(serde_json::to_string_pretty(&policy)? + "\n")),
        None if resolved => cli::print(&toml::to_string(&policy)?),
        None => {
            let path = &policy.files[0].path;
            match path.strip_prefix("preset:").and_then(presets::find) {
                Some(preset) => cli::print(preset.text),
                None => cli::print(&files::read_text(Path::new(path))?),
            }
        }
    }
}

fn test(names: Vec<String>, sentence_encoder: Option<PathBuf>) -> anyhow::Result<()> {
    let started = Instant::now();
    let how = with_encoder(sentence_encoder);
    let own = || presets::PRESETS.iter().map(presets::Preset::path).collect();
    let names = if names.is_empty() { own() } else { names };
    let (mut text, mut n, mut failed) = (String::new(), 0, 0);
    for name in &names {
        let policy = policy::load(name, false)?;
        let similar = similarities(&policy, &how, examples::texts(&policy))?;
        let tested = examples::test(&policy, &similar);
        n += tested.n;
        failed += tested.failed.len();
        let passed = tested.n - tested.failed.len();
        text += &format!("{}: {passed} of {} examples\n", policy.files[0].path, tested.n);
        for it in &tested.failed {
            text += &match &it.matched {
                Some(matched) => format!(
                    "  {} matches \"{}\", by \"{matched}\", and should not\n",
                    it.rule, it.text
                ),
                None => format!("  {} does not match \"{}\", and should\n", it.rule, it.text),
            };
        }
        for rule in &tested.untested {
            text += &format!("  {rule} has no [rule.test]\n");
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    text += &format!(
        "{} of {n} examples came out as written, in {:.0} ms\n",
        n - failed,
        1000. * seconds
    );
    cli::print(&text)?;
    match failed {
        0 if n == 0 => Err(cli::ended(
            3,
            "inconclusive: no rule has a [rule.test], so nothing was tried".into(),
        )),
        0 => Ok(()),
        _ => Err(cli::ended(1, format!("{failed} of {n} examples came out otherwise"))),
    }
}

fn rule_of<'a>(policy: &'a Policy, id: &str) -> anyhow::Result<&'a Rule> {
    policy.rules.iter().find(|it| it.id == id).ok_or_else(|| {
        let known: Vec<&str> = policy.rules.iter().map(|it| it.id.as_str()).collect();
        usage!("policy `{}` has no rule `{id}`; its rules are {}", policy.name, known.join(", "))
    })
}

fn explain_text(id: &str, text: &str, policy: Option<String>, how: &How) -> anyhow::Result<()> {
    let policy = policy::load(policy.as_deref().unwrap_or(id), false)?;
    let rule = rule_of(&policy, id)?;
    let similar = similarities(&policy, how, std::iter::once(text))?;
    let trace = rule.matcher.trace(text, &similar);
    let answer = if trace.found.is_some() { "matches" } else { "does not match" };
    cli::print(&format!("\"{text}\" {answer} {id}\n{}", tried(&trace)))
}

fn explain_unit(
    id: &str,
    unit: &str,
    path: &Path,
    policy: Option<String>,
    how: &How,
) -> anyhow::Result<()> {
    let unit: Unit = unit.parse().map_err(|error| usage!("{error:#}"))?;
    let report = report::read(path)?;
    let named = report.policy.as_ref().and_then(|it| it.files.first()).map(|it| it.path.clone());
    // A report of a stranger's may name any file, whose mistakes would be shown.
    let named = named.filter(|it| it.ends_with(".toml") || it.starts_with("preset:"));
    let Some(name) = policy.or(named) else {
        return Err(usage!(
            "{} names no policy that it was held against; name one with --policy",
            path.display()
        ));
    };
    let policy = policy::load(&name, false)?;
    let rule = rule_of(&policy, id)?;
    let facts = report.units.iter().find(|it| it.layer == unit.site && it.unit == unit.channel);
    let facts = facts.ok_or_else(|| {
        let units = match report.layers.iter().find(|it| it.name == unit.site) {
            Some(layer) if 0 < layer.units => {
                format!("those of {} are 0 to {}", layer.name, layer.units - 1)
            }
            _ => format!("its layers are {}", layers(&report)),
        };
        usage!("{} has no unit {unit}; {units}", path.display())
    })?;
    let texts = facts.readings.iter().map(|it| it.text.as_str());
    let similar = similarities(&policy, how, texts)?;
    let then = report.policy.as_ref().map(|it| it.files.as_slice());
    if then.is_some_and(|it| it != policy.files) {
        cli::print("the policy is another one than that of the report\n")?;
    }
    cli::print(&explained(&policy, rule, facts, &similar))
}

fn layers(report: &Report) -> String {
    let names: Vec<&str> = report.layers.iter().map(|it| it.name.as_str()).collect();
    names.join(", ")
}

/// All that decides whether a rule matches a unit, in the order in which it is looked at.
fn explained(policy: &Policy, rule: &Rule, facts: &UnitFacts, similar: &Similarities) -> String {
    let unit = Unit::new(&facts.layer, facts.unit);
    let description = facts.description();
    let place =
        rule.place.as_ref().map_or(String::new(), |it| format!(", {}:{}", it.path, it.line));
    let level = report::word(&rule.level);
    let status = report::word(&facts.status);
    let mut text = format!("{unit} is {status}; rule {} ({level}{place})\n", rule.id);
    let in_layers = rule.scope.layers.matches(&unit.site);
    if !in_layers {
        let patterns = rule.scope.layers.patterns().join(", ");
        text += &format!("  its layer is out of scope: {patterns}\n");
    }
    for (phrase, score) in &facts.evidence {
        let asked = rule.matcher.evidence.iter().find(|it| it.phrase == *phrase);
        if let Some(asked) = asked {
            text += &format!("  evidence of \"{phrase}\": {score:.2}, {:.2} wanted\n", asked.min);
        }
    }
    if facts.readings.is_empty() {
        text += "  nothing is said of it\n";
    }
    for Reading { text: said, confidence } in &facts.readings {
        if *confidence < rule.scope.min_confidence {
            let min = rule.scope.min_confidence;
            text += &format!(
                "  \"{said}\" (confidence {confidence:.2}) is not looked at: below {min:.2}\n"
            );
            continue;
        }
        let trace = rule.matcher.trace(said, similar);
        let answer = if trace.found.is_some() { "matches" } else { "does not match" };
        text += &format!("  \"{said}\" (confidence {confidence:.2}) {answer}\n{}", tried(&trace));
    }
    if let Some(judgement) = rule.judgement(&description) {
        let probability = judgement.probability;
        let certainty = match policy::Certainty::of(probability) {
            Some(it) => report::word(&it),
            None => "improbable".to_owned(),
        };
        text += &format!(
            "  that at least one of three people who look at its exemplars says so has the probability {probability:.2}: {certainty}\n"
        );
        for reason in report::reasons(judgement) {
            text += &format!("    {reason}\n");
        }
    }
    let found =
        find(rule, &description, similar).filter(|it| in_layers && it.certainty <= rule.count);
    let important = match (rule.scope.min_importance, facts.importance) {
        (Some(min), Some(importance)) if importance < min => {
            text += &format!("  its importance is {importance:.4}, {min:.4} wanted\n");
            false
        }
        _ => true,
    };
    let covering = policy
        .exceptions
        .iter()
        .find(|it| it.rule == rule.id && it.units.iter().any(|pattern| pattern.matches(&unit)));
    if let Some(exception) = covering {
        let until = exception.expires.map_or_else(|| "for good".into(), |it| format!("until {it}"));
        text += &format!("  an exception covers it {until}: {}\n", exception.reason);
    }
    text += match (found.is_some() && important, covering) {
        (true, None) => "it counts against the rule\n",
        (true, Some(_)) => "it matches, and the exception decides\n",
        (false, _) => "it does not count against the rule\n",
    };
    text
}

/// The patterns that covered anything, and how alike phrases were.
fn tried(trace: &Trace) -> String {
    tried_within(&trace.tried, "    ")
}

/// What a match tried, each line behind the indentation.
fn tried_within(all: &[Tried], indent: &str) -> String {
    let mut lines = BTreeSet::new();
    let mut text = String::new();
    for it in all {
        let within = match it.within.iter().any(Tried::covers_anything) {
            true => tried_within(&it.within, &format!("{indent}  ")),
            false => String::new(),
        };
        let (part, pattern) = (it.part, it.pattern.as_str());
        // Its patterns follow in lines of their own.
        let pattern = if within.is_empty() { pattern } else { "a match within the match" };
        let line = match (it.hits.as_slice(), it.similarity) {
            (hits, Some(score)) => {
                let far = if hits.is_empty() { ", too far" } else { "" };
                format!("{indent}{part}: {pattern}: {score:.2}{far}\n")
            }
            ([], None) if within.is_empty() => continue,
            ([], None) => format!("{indent}{part}: {pattern} covers nothing\n"),
            (hits, None) => {
                let what = if it.part == "none" { "strikes out" } else { "covers" };
                let hits: Vec<String> = hits.iter().map(|it| format!("\"{it}\"")).collect();
                format!("{indent}{part}: {pattern} {what} {}\n", hits.join(", "))
            }
        };
        let lines_here = line + &within;
        if lines.insert(lines_here.clone()) {
            text += &lines_here;
        }
    }
    let nothing = |part: &str| {
        all.iter().any(|it| it.part == part)
            && all.iter().all(|it| it.part != part || it.hits.is_empty())
    };
    for part in ["any", "all"] {
        if nothing(part) {
            text += &format!("{indent}{part}: nothing covers any of it\n");
        }
    }
    text
}
