//! `milan-edit`: zeroes units of a vision model in a new file and reports the accuracy before and after.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use super::{Bars, Policing, Shared};
use crate::audit;
use crate::demo;
use crate::describe::Describer;
use crate::edit::choose::Order;
use crate::policy::presets;
use crate::revise::{self, Config, Selection};
use crate::unit::Unit;
use crate::{cli, files, usage};

/// Zero the matching units of a vision model in a new file, and report accuracy before and after
///
/// Exit codes: 0 written, 1 a gate was violated and nothing was written, 2 bad usage or policy,
/// 3 inconclusive (nothing matched, or units that no edit zeroes exactly), 4 system error.
#[derive(Parser)]
#[command(name = "milan-edit", version, max_term_width = 100)]
struct Cli {
    /// Zero the units described with any of these words, by stem. Repeatable
    #[arg(long, value_name = "WORDS", env = "MILAN_DELETE_MATCHING")]
    delete_matching: Vec<String>,
    /// Zero the units that rules with `edit.action = "zero"` match
    #[arg(long, value_name = "FILE", env = "MILAN_POLICY")]
    policy: Option<String>,
    /// Zero these units: layer:unit,… or a file with one a line
    #[arg(long, value_name = "LAYER:UNIT,…|FILE", env = "MILAN_UNITS")]
    units: Option<String>,
    /// The pictures by which units are ranked and chosen [default: those of --data; for the demo's own --data clean ones]
    #[arg(long, value_name = "D", env = "MILAN_VAL")]
    val: Option<String>,
    /// Pictures that are only measured. Repeatable [default: those of --data; for the demo's own --data clean
    /// and adversarial ones]
    #[arg(long, value_name = "[NAME=]D", env = "MILAN_TEST", value_delimiter = ',')]
    test: Vec<String>,
    /// Which units go first: importance (least important first), confidence, listed [default: importance
    /// where --slack or --curve is given, else listed]
    #[arg(long, value_name = "ORDER", env = "MILAN_ORDER")]
    order: Option<Order>,
    /// Zero no more than so many
    #[arg(long, value_name = "N", env = "MILAN_MAX_UNITS")]
    max_units: Option<usize>,
    /// Zero no more units once top-1 on --val has fallen by more than this share, such as 0.01 [default:
    /// none; for the demo 0.02, unless --units, --max-units or another order is given]
    #[arg(long, value_name = "SHARE", env = "MILAN_SLACK")]
    slack: Option<f64>,
    /// Also measure with up to N units deleted, beside any units in the same order and random ones: curve.csv
    /// and curve.svg [default: 0; for the demo 24]
    #[arg(long, value_name = "N", env = "MILAN_CURVE")]
    curve: Option<usize>,
    /// Write nothing when top-1 falls by more than this share, such as 0.01
    #[arg(long, value_name = "SHARE", env = "MILAN_MAX_DROP")]
    max_drop: Option<f64>,
    /// Delete as many random units so often, to compare with
    #[arg(long, value_name = "N", env = "MILAN_CONTROLS", default_value_t = 3)]
    controls: u64,
    /// Zero what can be zeroed exactly, and leave the other matching units as they are
    #[arg(long, env = "MILAN_SKIP_NOT_EDITABLE")]
    skip_not_editable: bool,
    /// The new model [default: `MODEL-edited.safetensors`]
    #[arg(long, value_name = "FILE", env = "MILAN_WRITE")]
    write: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long, env = "MILAN_FORCE")]
    force: bool,
    #[command(flatten)]
    files: super::Files,
    #[command(flatten)]
    policing: Policing,
    #[command(flatten)]
    shared: Shared,
}

/// What the program does with its command line.
pub fn main() -> ExitCode {
    let matches = match cli::matches(command()) {
        Ok(matches) => matches,
        Err(error) => return cli::end(Err(error), None),
    };
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Err(error) = select(&mut cli, &matches) {
        return cli::end(Err(error), None);
    }
    let output = cli.shared.output.clone();
    cli::end(run(cli), Some(&output))
}

/// Of what says which units go, a flag beats a variable, and that a file's option. Errs where two say so equally loud.
fn select(cli: &mut Cli, matches: &ArgMatches) -> anyhow::Result<()> {
    let loud = |id: &str| match matches.value_source(id) {
        Some(ValueSource::CommandLine) => 3,
        Some(ValueSource::EnvVariable) => 2,
        Some(_) => 1,
        None => 0,
    };
    let said = ["delete_matching", "policy", "units"].map(|id| (loud(id), id));
    let loudest = said.iter().map(|it| it.0).max().unwrap_or_default();
    let heard: Vec<&str> =
        said.iter().filter(|it| 0 < it.0 && it.0 == loudest).map(|it| it.1).collect();
    if let [one, other, ..] = heard[..] {
        let name = |id: &str| format!("--{}", id.replace('_', "-"));
        return Err(usage!(
            "{} and {} both say what to delete; name one of them",
            name(one),
            name(other)
        ));
    }
    if !heard.contains(&"delete_matching") {
        cli.delete_matching.clear();
    }
    if !heard.contains(&"policy") {
        cli.policy = None;
    }
    if !heard.contains(&"units") {
        cli.units = None;
    }
    Ok(())
}

/// The command line, for completions and manual pages.
pub(super) fn command() -> clap::Command {
    super::lenient(Cli::command())
}

fn run(mut cli: Cli) -> anyhow::Result<(u8, String)> {
    for (name, share) in [("--max-drop", cli.max_drop), ("--slack", cli.slack)] {
        if let Some(share) = share.filter(|it| !(0.0..=1.0).contains(it)) {
            return Err(usage!("{name} wants a share between 0 and 1, not {share}"));
        }
    }
    if cli.max_units == Some(0) {
        return Err(usage!("--max-units wants at least 1"));
    }
    if cli.shared.model == "demo" {
        demo(&mut cli);
    }
    cli.curve = cli.curve.filter(|it| 0 < *it);
    let shared = &cli.shared;
    let settings = shared.check()?;
    let bars = Bars::new(shared.progress, shared.quiet)?;
    let config = Config {
        source: shared.source()?,
        layers: shared.layers.clone(),
        how: shared.how(),
        selection: selection(&cli)?,
        asked: cli.policing.asked(cli.policy.clone(), shared)?,
        val: cli.val.clone(),
        tests: cli.test.iter().map(|it| named(it)).collect(),
        order: cli.order,
        max_units: cli.max_units,
        slack: cli.slack,
        curve: cli.curve,
        max_drop: cli.max_drop,
        controls: cli.controls,
        skip_not_editable: cli.skip_not_editable,
        write: cli.write.clone().unwrap_or_else(|| edited_name(shared)),
        // The demo's file is ours to replace.
        force: cli.force || (shared.model == "demo" && cli.write.is_none()),
        dry_run: shared.dry_run,
        settings,
        seed: shared.seed,
        out: if shared.dry_run { None } else { Some(shared.out()) },
    };
    if let (Selection::Matching(words), Describer::Milan(_), false) =
        (&config.selection, &shared.describer, shared.quiet)
        && let [word] = words.as_slice()
        && presets::names().contains(&word.as_str())
    {
        cli::say(&format!(
            "--delete-matching {word} goes by that word in the descriptions, by stem; --policy {word} goes by what the units' \
             exemplars show"
        ));
    }
    let report = revise::revise(&config, &|stage, done, all| bars.show(stage, done, all))?;
    cli::publish(shared, &report, false)?;
    Ok((report.exit_code, audit::why(&report)))
}

/// What the demo is measured on and how many of its units go, where the user says nothing.
fn demo(cli: &mut Cli) {
    let own = cli.shared.data.as_deref().is_none_or(|it| it == "demo");
    if own && cli.val.is_none() {
        cli.val = Some(demo::VAL.to_owned());
    }
    if own && cli.test.is_empty() {
        cli.test = demo::TESTS.iter().map(|(name, source)| format!("{name}={source}")).collect();
    }
    if cli.units.is_none() && cli.order.is_none_or(|it| it == Order::Importance) {
        cli.slack = cli.slack.or(Some(demo::SLACK).filter(|_| cli.max_units.is_none()));
        cli.curve = cli.curve.or(Some(demo::CURVE));
    }
}

fn selection(cli: &Cli) -> anyhow::Result<Selection> {
    if let Some(units) = &cli.units {
        let path = Path::new(units);
        let text = if path.is_file() {
            files::read_text(path)
                .map_err(|error| usage!("cannot read the units in {units}: {error}"))?
        } else {
            units.clone()
        };
        let names = text.split([',', '\n']).map(str::trim).filter(|it| !it.is_empty());
        let units = names.map(|it| it.parse::<Unit>().map_err(|error| usage!("{error:#}")));
        return Ok(Selection::Units(units.collect::<anyhow::Result<_>>()?));
    }
    let words = cli.delete_matching.iter().flat_map(|it| it.split(',')).map(str::trim);
    let words: Vec<String> = words.filter(|it| !it.is_empty()).map(str::to_owned).collect();
    if !cli.delete_matching.is_empty() && words.is_empty() {
        return Err(usage!(
            "--delete-matching wants at least one word, such as --delete-matching text"
        ));
    }
    if !words.is_empty() {
        return Ok(Selection::Matching(words));
    }
    match &cli.policy {
        Some(_) => Ok(Selection::Policy),
        None => Err(usage!(
            "nothing says what to delete; try --delete-matching text, --policy faces or --units layer:unit"
        )),
    }
}

/// `clean=photos/clean`, or pictures that are called by the last part of where they are.
fn named(test: &str) -> (String, String) {
    let (name, source) = test.split_once('=').unwrap_or_else(|| {
        let last = test.trim_end_matches(['/', '\\']).rsplit(['/', '\\', ':']).next();
        (last.unwrap_or(test), test)
    });
    (name.to_owned(), source.to_owned())
}

/// Beside the model, or in the run's folder where the model is not a file of the user's.
fn edited_name(shared: &Shared) -> PathBuf {
    let model = &shared.model;
    if model == "demo" || model.starts_with("hf:") {
        return shared.out().join("edited.safetensors");
    }
    let path = Path::new(model.trim_end_matches(['/', '\\']));
    let name =
        path.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    match name.strip_suffix(".safetensors") {
        Some(stem) => path.with_file_name(format!("{stem}-edited.safetensors")),
        None => path.with_file_name(format!("{name}-edited")),
    }
}
