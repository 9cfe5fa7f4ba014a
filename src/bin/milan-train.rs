//! Trains describers and judges them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use milan::cli::{self, Bars, When};
use milan::report::Verdict;
use milan::train::overlap::Against;
use milan::train::source::Source;
use milan::train::{describer, evaluate};

/// Train describers, and judge them by what people said
///
/// Exit codes: 0 done, 2 bad usage, 3 unusable input, 4 system error.
#[derive(Parser)]
#[command(name = "milan-train", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a describer on what people said of units
    Describer {
        #[command(flatten)]
        material: Material,
        /// The network that looks at pictures: any known one, as safetensors
        #[arg(long, value_name = "FILE")]
        encoder: PathBuf,
        /// Regions whose names are known, to learn those too: regions.csv, regions.safetensors
        #[arg(long, value_name = "DIR")]
        regions: Option<PathBuf>,
        /// The folder of the describer, its card, and finished stages, from which a run goes on
        #[arg(long, value_name = "DIR", default_value = "describer")]
        out: PathBuf,
        /// The seed of everything random
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
    },
    /// Judge a describer on units that it has not seen
    Evaluate {
        #[command(flatten)]
        material: Material,
        /// The describer [default: the built-in one]
        #[arg(long, value_name = "FILE")]
        describer: Option<PathBuf>,
        /// Regions whose names are known: does the critic find the units that fire there?
        #[arg(long, value_name = "DIR", requires = "network")]
        regions: Option<PathBuf>,
        /// The network whose units are held against the regions
        #[arg(long, value_name = "FILE", requires = "regions")]
        network: Option<PathBuf>,
        /// Its layers, as patterns [default: its architecture's own choice]
        #[arg(long, value_name = "GLOB", value_delimiter = ',', requires = "network")]
        layers: Vec<String>,
        /// Also write the tables as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Where features are kept [default: not kept]
        #[arg(long, value_name = "DIR")]
        work: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Material {
    /// What people said: a CSV with layer,unit,summary, or a folder of MILANNOTATIONS
    #[arg(long, value_name = "PATH")]
    annotations: PathBuf,
    /// The units' exemplars: LAYER.ids, .activations, .maps and .thresholds in one safetensors
    #[arg(long, value_name = "FILE")]
    exemplars: Option<PathBuf>,
    /// The pictures that exemplars and regions count, in the order of their file names
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// The folder of all-MiniLM-L6-v2 (model.safetensors, config.json, vocab.txt)
    #[arg(long, value_name = "DIR")]
    sentence_encoder: PathBuf,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Progress bars on stderr
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    progress: When,
}

impl Material {
    fn source(&self) -> Source {
        Source {
            annotations: self.annotations.clone(),
            exemplars: self.exemplars.clone(),
            images: self.images.clone(),
        }
    }
}

// Maps of megabytes come and go with every op; the system's allocator fetches each afresh.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::begin();
    let cli = Cli::parse();
    let (code, why) = cli::conclude(run(cli.command));
    if let Some(why) = why {
        cli::say(&why);
    }
    code
}

fn run(command: Command) -> anyhow::Result<(Verdict, String)> {
    match command {
        Command::Describer { material, encoder, regions, out, seed } => {
            cli::start_threads(material.threads)?;
            let bars = Bars::new(material.progress, false)?;
            let config = describer::Config {
                source: material.source(),
                encoder,
                regions,
                sentence_encoder: material.sentence_encoder,
                out,
                seed,
            };
            let file = describer::train(&config, &|stage, done, all| bars.show(stage, done, all))?;
            cli::print(&format!("wrote {}\n", file.display()))?;
        }
        Command::Evaluate { material, describer, regions, network, layers, json, work } => {
            cli::start_threads(material.threads)?;
            let overlap = regions.zip(network).map(|(regions, network)| Against {
                network,
                layers,
                regions,
                threads: rayon::current_num_threads(),
            });
            let bars = Bars::new(material.progress, false)?;
            let config = evaluate::Config {
                source: material.source(),
                sentence_encoder: material.sentence_encoder,
                describer,
                overlap,
                work,
            };
            let found =
                evaluate::evaluate(&config, &|stage, done, all| bars.show(stage, done, all))?;
            cli::print(&evaluate::table(&found))?;
            if let Some(path) = json {
                let text = serde_json::to_string_pretty(&found)? + "\n";
                milan::files::write_whole(&path, text.as_bytes())?;
            }
        }
    }
    Ok((Verdict::Passed, String::new()))
}
