//! `milan-audit`: describes every unit of a vision model and holds the descriptions against a policy.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use super::policy::{self, PolicyCommand, Printed};
use super::{Bars, Output, Policing, Shared};
use crate::audit::{self, Config};
use crate::files::{self, write_whole};
use crate::record::Shown;
use crate::report::{self, Verdict, scores};
use crate::{cli, usage};

/// Describe every unit of a vision model in words and hold them against a policy
///
/// Exit codes: 0 passed, 1 policy violated, 2 bad usage or policy, 3 inconclusive, 4 system error.
#[derive(Parser)]
#[command(name = "milan-audit", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    files: super::Files,
    #[command(flatten)]
    audit: Audit,
}

#[derive(Args)]
struct Audit {
    /// The policy: a file, one in policies/, or a built-in one (`milan-audit policy show` lists them)
    #[arg(long, value_name = "FILE", env = "MILAN_POLICY")]
    policy: Option<String>,
    /// Also show what units fire on, in the HTML report and as files: of those that match, or of all
    #[arg(long, value_name = "WHICH", env = "MILAN_PICTURES", num_args = 0..=1, default_missing_value = "matching")]
    pictures: Option<Shown>,
    /// End with 0 where the policy is violated; the report still says so
    #[arg(long, env = "MILAN_EXIT_ZERO")]
    exit_zero: bool,
    #[command(flatten)]
    policing: Policing,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Subcommand)]
enum Command {
    /// The audit; the same as without a command
    Run(Box<Audit>),
    /// How strongly each unit speaks for a phrase, by the describer's critic
    ///
    /// Evidence is the probability, calibrated against all units of the network, that a person
    /// names the phrase. All scores are written to scores.csv in the run's folder.
    Score {
        /// A phrase, such as "written text". Repeatable
        #[arg(long = "phrase", value_name = "TEXT", env = "MILAN_PHRASE", required = true)]
        phrases: Vec<String>,
        /// Units shown for each phrase
        #[arg(long, value_name = "N", env = "MILAN_MOST", default_value_t = 20)]
        most: usize,
        #[command(flatten)]
        shared: Box<Shared>,
    },
    /// Write, check, show, try and explain policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Write a saved report in other formats
    Convert {
        /// A report.json
        report: PathBuf,
        /// FORMAT, or FORMAT=PATH. Repeatable
        #[arg(
            long,
            value_name = "FORMAT=PATH",
            env = "MILAN_TO",
            value_delimiter = ',',
            required = true
        )]
        to: Vec<Output>,
        /// Show the pictures that the run left in its folder
        #[arg(long, env = "MILAN_CONVERT_PICTURES")]
        pictures: bool,
    },
    /// Compare two saved reports; ends with 1 when the new one is worse
    ///
    /// Worse is a rule or gate with a worse status, and a unit that a rule to deny or warn matches only now.
    Diff {
        /// The older report.json
        old: PathBuf,
        /// The newer one
        new: PathBuf,
        /// As JSON
        #[arg(long, value_name = "FORMAT", env = "MILAN_DIFF_OUTPUT")]
        output: Option<Printed>,
    },
    /// Write a saved report into a model card
    Card {
        /// A report.json
        report: PathBuf,
        /// The card, such as README.md: the section between its markers is replaced, or added at the end
        #[arg(long, value_name = "FILE", env = "MILAN_CARD_WRITE")]
        write: Option<PathBuf>,
    },
    /// Print the completions of a shell
    Completions {
        shell: Shell,
        /// Of which program
        #[arg(default_value = "milan-audit", value_parser = PROGRAMS)]
        program: String,
    },
    /// Write the manual pages of all programs into a folder
    Man { folder: PathBuf },
}

const PROGRAMS: [&str; 3] = ["milan-audit", "milan-edit", "milan-train"];

/// What the program does with its command line.
pub fn main() -> ExitCode {
    let matches = match cli::matches(command()) {
        Ok(matches) => matches,
        Err(error) => return cli::end(Err(error), None),
    };
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let output = match &cli.command {
        Some(Command::Run(it)) => it.shared.output.clone(),
        _ => cli.audit.shared.output.clone(),
    };
    cli::end(run(cli), Some(&output))
}

/// The command line, for completions and manual pages.
pub(super) fn command() -> clap::Command {
    super::lenient(Cli::command())
}

fn run(cli: Cli) -> anyhow::Result<(u8, String)> {
    let done = (0, String::new());
    match cli.command {
        None => audit(cli.audit),
        Some(Command::Run(it)) => audit(*it),
        Some(Command::Score { phrases, most, shared }) => score(&phrases, most, &shared),
        Some(Command::Policy(it)) => policy::run(it),
        Some(Command::Convert { report: path, to, pictures }) => {
            let report = report::read(&path)?;
            let folder = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
            let pictures = match folder {
                Some(folder) if pictures => report::pictures(&report, folder),
                _ => Default::default(),
            };
            to.iter().try_for_each(|it| cli::write(it, &report, &pictures, false))?;
            Ok(done)
        }
        Some(Command::Diff { old, new, output }) => {
            let diff = report::diff(&report::read(&old)?, &report::read(&new)?);
            cli::print(&match output {
                Some(Printed::Json) => diff.json()?,
                None => diff.human(),
            })?;
            Ok((u8::from(diff.worse), format!("worse: {}", diff.why.join("; "))))
        }
        Some(Command::Card { report, write }) => {
            let section = report::card(&report::read(&report)?)?;
            match write {
                Some(path) => update(&path, &section)?,
                None => cli::print(&section)?,
            }
            Ok(done)
        }
        Some(Command::Completions { shell, program }) => {
            let mut text = vec![];
            clap_complete::generate(shell, &mut program_named(&program), program, &mut text);
            cli::print(&String::from_utf8_lossy(&text))?;
            Ok(done)
        }
        Some(Command::Man { folder }) => {
            let pages = || {
                std::fs::create_dir_all(&folder)?;
                let mut programs = PROGRAMS.into_iter().map(program_named);
                programs.try_for_each(|it| clap_mangen::generate_to(it, &folder))
            };
            pages().map_err(|error| {
                anyhow::anyhow!("cannot write manual pages to {}: {error}", folder.display())
            })?;
            Ok(done)
        }
    }
}

/// Puts a section into a card, which is made where there is none.
fn update(path: &Path, section: &str) -> anyhow::Result<()> {
    let text = match files::read_text(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        text => text.map_err(|error| usage!("cannot read the card {}: {error}", path.display()))?,
    };
    let updated = report::update_card(&text, section)
        .with_context(|| format!("cannot update {}", path.display()))?;
    write_whole(path, updated.as_bytes())?;
    cli::print(&format!("wrote {}\n", path.display()))
}

fn program_named(name: &str) -> clap::Command {
    match name {
        "milan-edit" => super::edit::command(),
        "milan-train" => super::train::command(),
        _ => command(),
    }
}

fn audit(it: Audit) -> anyhow::Result<(u8, String)> {
    let shared = &it.shared;
    let mut config = config(shared)?;
    config.pictures = it.pictures;
    config.asked = it.policing.asked(it.policy, shared)?;
    config.asked.exit_zero = it.exit_zero;
    let bars = Bars::new(shared.progress, shared.quiet)?;
    let report = audit::audit(&config, &|stage, done, all| bars.show(stage, done, all))?;
    cli::publish(shared, &report, config.pictures.is_some())?;
    if report.exit_code == 0 && report.verdict != Verdict::Passed {
        cli::say(&format!("{}; the exit code is 0, as --exit-zero asks", audit::why(&report)));
    }
    Ok((report.exit_code, audit::why(&report)))
}

fn score(phrases: &[String], most: usize, shared: &Shared) -> anyhow::Result<(u8, String)> {
    if phrases.iter().any(|it| it.trim().is_empty()) {
        return Err(usage!("--phrase wants a text"));
    }
    let config = config(shared)?;
    let bars = Bars::new(shared.progress, shared.quiet)?;
    let found = audit::score(&config, phrases, &|stage, done, all| bars.show(stage, done, all))?;
    if !shared.quiet {
        cli::print(&scores(&found, phrases, most, 100))?;
    }
    Ok((0, String::new()))
}

fn config(shared: &Shared) -> anyhow::Result<Config> {
    let settings = shared.check()?;
    Ok(Config {
        source: shared.source()?,
        layers: shared.layers.clone(),
        how: shared.how(),
        asked: Default::default(),
        settings,
        seed: shared.seed,
        out: if shared.dry_run { None } else { Some(shared.out()) },
        export: shared.export.is_some(),
        pictures: None,
    })
}
