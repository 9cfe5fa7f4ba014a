//! Describes every unit of a vision model and holds the descriptions against a policy.

use std::process::ExitCode;

use clap::Parser;
use milan::audit::{self, Config};
use milan::cli::{self, Bars, Shared};
use milan::report::Verdict;

/// Describe every unit of a vision model in words and hold them against a policy
///
/// Exit codes: 0 passed, 1 policy violated, 2 bad usage or policy, 3 inconclusive, 4 system error.
#[derive(Parser)]
#[command(name = "milan-audit", version, max_term_width = 100)]
struct Cli {
    /// The policy: a file, one in policies/, or a built-in one (faces, text)
    #[arg(long, value_name = "FILE", env = "MILAN_POLICY")]
    policy: Option<String>,
    #[command(flatten)]
    shared: Shared,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (code, why) = cli::conclude(run(&cli));
    if let Some(why) = why {
        cli::say(&why);
    }
    code
}

fn run(cli: &Cli) -> anyhow::Result<(Verdict, String)> {
    let shared = &cli.shared;
    let settings = shared.check()?;
    let bars = Bars::new(shared.progress, shared.quiet)?;
    let config = Config {
        source: shared.source()?,
        layers: shared.layers.clone(),
        describer: shared.describer.clone(),
        policy: cli.policy.clone(),
        settings,
        seed: shared.seed,
        out: if shared.dry_run { None } else { Some(shared.out()) },
        export: shared.export.is_some(),
    };
    let report = audit::audit(&config, &|stage, done, all| bars.show(stage, done, all))?;
    cli::publish(shared, &report)?;
    Ok((report.verdict, audit::why(&report)))
}
