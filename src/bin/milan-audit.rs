//! Describes every unit of a vision model and holds the descriptions against a policy.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use milan::audit::{self, Config};
use milan::cli::{self, Bars, Shared};
use milan::report::{Verdict, scores};

/// Describe every unit of a vision model in words and hold them against a policy
///
/// Exit codes: 0 passed, 1 policy violated, 2 bad usage or policy, 3 inconclusive, 4 system error.
#[derive(Parser)]
#[command(name = "milan-audit", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The policy: a file, one in policies/, or a built-in one (faces, text)
    #[arg(long, value_name = "FILE", env = "MILAN_POLICY")]
    policy: Option<String>,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Subcommand)]
enum Command {
    /// How strongly each unit speaks for a phrase, by the describer's critic
    ///
    /// Evidence is the probability, calibrated against all units of the network, that a person
    /// names the phrase. All scores are written to scores.csv in the run's folder.
    Score {
        /// A phrase, such as "written text". Repeatable
        #[arg(long = "phrase", value_name = "TEXT", required = true)]
        phrases: Vec<String>,
        /// Units shown for each phrase
        #[arg(long, value_name = "N", default_value_t = 20)]
        most: usize,
        #[command(flatten)]
        shared: Box<Shared>,
    },
}

// Maps of megabytes come and go with every op; the system's allocator fetches each afresh.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::begin();
    let cli = Cli::parse();
    let (code, why) = cli::conclude(run(&cli));
    if let Some(why) = why {
        cli::say(&why);
    }
    code
}

fn run(cli: &Cli) -> anyhow::Result<(Verdict, String)> {
    match &cli.command {
        Some(Command::Score { phrases, most, shared }) => score(phrases, *most, shared),
        None => audit(&cli.shared, cli.policy.clone()),
    }
}

fn audit(shared: &Shared, policy: Option<String>) -> anyhow::Result<(Verdict, String)> {
    let config = config(shared, policy)?;
    let bars = Bars::new(shared.progress, shared.quiet)?;
    let report = audit::audit(&config, &|stage, done, all| bars.show(stage, done, all))?;
    cli::publish(shared, &report)?;
    Ok((report.verdict, audit::why(&report)))
}

fn score(phrases: &[String], most: usize, shared: &Shared) -> anyhow::Result<(Verdict, String)> {
    let config = config(shared, None)?;
    let bars = Bars::new(shared.progress, shared.quiet)?;
    let found = audit::score(&config, phrases, &|stage, done, all| bars.show(stage, done, all))?;
    if !shared.quiet {
        cli::print(&scores(&found, phrases, most, 100))?;
    }
    Ok((Verdict::Passed, String::new()))
}

fn config(shared: &Shared, policy: Option<String>) -> anyhow::Result<Config> {
    let settings = shared.check()?;
    Ok(Config {
        source: shared.source()?,
        layers: shared.layers.clone(),
        how: shared.how(),
        asked: milan::ruling::Asked { policy, ..Default::default() },
        settings,
        seed: shared.seed,
        out: if shared.dry_run { None } else { Some(shared.out()) },
        export: shared.export.is_some(),
    })
}
