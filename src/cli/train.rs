//! `milan-train`: trains describers and small classifiers, and judges describers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use super::{Bars, When, device};
use crate::data::scenes::Scenes;
use crate::train::calibrate::Sentences;
use crate::train::overlap::Against;
use crate::train::source::Source;
use crate::train::{classifier, describer, drawn, evaluate};
use crate::{cli, usage};

/// Train describers and small classifiers, and judge descriptions by what people said
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
    Describer(Box<Describer>),
    /// Fit anew what a trained describer's sentences and findings are judged by; its networks stay as they are
    Calibrate(Box<Calibrate>),
    /// Train a small classifier, such as the demo's
    Classifier(Classifier),
    /// Judge a describer on units that it has not seen, and where the truth is known
    Evaluate(Box<Evaluate>),
}

#[derive(Args)]
struct Classifier {
    /// Labelled pictures: a folder of class folders, or demo:N:SEED:SPLIT
    #[arg(long, env = "MILAN_TRAIN_DATA", value_name = "D")]
    data: String,
    /// The architecture: small_resnet10, or a cifar_resnet with `_b`
    #[arg(long, env = "MILAN_TRAIN_ARCH", value_name = "NAME", default_value = crate::model::zoo::SMALL)]
    arch: String,
    /// Pictures that accuracy is measured on at the end. Repeatable
    #[arg(long, env = "MILAN_TRAIN_TEST", value_name = "NAME=D", value_delimiter = ',')]
    test: Vec<String>,
    /// How often the pictures are gone through
    #[arg(long, env = "MILAN_TRAIN_EPOCHS", value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    epochs: u16,
    /// The folder of the model and its card
    #[arg(long, env = "MILAN_TRAIN_OUT", value_name = "DIR", default_value = "classifier")]
    out: PathBuf,
    /// The seed of everything random
    #[arg(long, env = "MILAN_TRAIN_SEED", value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    running: Running,
}

/// Where a command trains.
#[derive(Args)]
struct Where {
    /// Where training is computed: cpu, cuda or cuda:N
    #[arg(long, env = "MILAN_TRAIN_DEVICE", value_name = "DEVICE", default_value = "cpu")]
    device: String,
}

/// How a command runs.
#[derive(Args)]
struct Running {
    /// Threads [default: all cores]
    #[arg(long, env = "MILAN_TRAIN_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// Progress bars on stderr
    #[arg(long, env = "MILAN_TRAIN_PROGRESS", value_name = "WHEN", default_value = "auto")]
    progress: When,
}

impl Running {
    fn begin(&self) -> anyhow::Result<Bars> {
        cli::start_threads(self.threads)?;
        Bars::new(self.progress, false)
    }
}

#[derive(Args)]
struct Describer {
    /// What people said: a CSV with layer,unit,summary, or a folder of MILANNOTATIONS
    #[arg(long, env = "MILAN_TRAIN_ANNOTATIONS", value_name = "PATH")]
    annotations: PathBuf,
    /// The units' exemplars: LAYER.ids, .activations, .maps and .thresholds in one safetensors
    #[arg(long, env = "MILAN_TRAIN_EXEMPLARS", value_name = "FILE")]
    exemplars: Option<PathBuf>,
    /// The pictures that exemplars and regions count, in the order of their file names
    #[arg(long, env = "MILAN_TRAIN_IMAGES", value_name = "DIR")]
    images: Option<PathBuf>,
    /// The folder of all-MiniLM-L6-v2 (model.safetensors, config.json, vocab.txt)
    #[arg(long, env = "MILAN_TRAIN_SENTENCE_ENCODER", value_name = "DIR")]
    sentence_encoder: PathBuf,
    /// The network that looks at pictures: any known one, as safetensors
    #[arg(long, env = "MILAN_TRAIN_ENCODER", value_name = "FILE")]
    encoder: PathBuf,
    /// Regions whose names are known, to learn those too: a folder with regions.csv and regions.safetensors, or
    /// demo:N:SEED:SPLIT. Repeatable
    #[arg(long, env = "MILAN_TRAIN_REGIONS", value_name = "DIR", value_delimiter = ',')]
    regions: Vec<String>,
    /// What people said of units of another network, by depth: a CSV with network,layer,unit,description
    #[arg(long, env = "MILAN_TRAIN_WORDS_BY_DEPTH", value_name = "FILE")]
    words_by_depth: Option<PathBuf>,
    /// The folder of the describer, its card, and finished stages, from which a run goes on
    #[arg(long, env = "MILAN_TRAIN_OUT", value_name = "DIR", default_value = "describer")]
    out: PathBuf,
    /// The seed of everything random
    #[arg(long, env = "MILAN_TRAIN_SEED", value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    running: Running,
}

#[derive(Args)]
struct Calibrate {
    /// The describer
    #[arg(long, env = "MILAN_TRAIN_DESCRIBER", value_name = "FILE")]
    describer: PathBuf,
    /// What people said, as for training: units that it learnt from and the tenth that chooses
    #[arg(long, env = "MILAN_TRAIN_ANNOTATIONS", value_name = "PATH")]
    annotations: PathBuf,
    /// The units' exemplars: LAYER.ids, .activations, .maps and .thresholds in one safetensors
    #[arg(long, env = "MILAN_TRAIN_EXEMPLARS", value_name = "FILE")]
    exemplars: Option<PathBuf>,
    /// The pictures that exemplars count, in the order of their file names
    #[arg(long, env = "MILAN_TRAIN_IMAGES", value_name = "DIR")]
    images: Option<PathBuf>,
    /// The folder of all-MiniLM-L6-v2 (model.safetensors, config.json, vocab.txt)
    #[arg(long, env = "MILAN_TRAIN_SENTENCE_ENCODER", value_name = "DIR")]
    sentence_encoder: PathBuf,
    /// What people said of units of another network, by depth: a CSV with network,layer,unit,description
    #[arg(long, env = "MILAN_TRAIN_WORDS_BY_DEPTH", value_name = "FILE")]
    words_by_depth: Option<PathBuf>,
    /// Fit findings alone: how sentences are chosen, and how sure they are, stays as it is
    #[arg(long, env = "MILAN_TRAIN_FINDINGS_ONLY")]
    findings_only: bool,
    /// The new describer
    #[arg(long, env = "MILAN_TRAIN_OUT", value_name = "FILE", default_value = "milan.safetensors")]
    out: PathBuf,
    /// Where features are kept [default: not kept]
    #[arg(long, env = "MILAN_TRAIN_WORK", value_name = "DIR")]
    work: Option<PathBuf>,
    #[command(flatten)]
    running: Running,
}

#[derive(Args)]
struct Evaluate {
    /// What people said: a CSV with layer,unit,summary, or a folder of MILANNOTATIONS
    #[arg(
        long,
        env = "MILAN_TRAIN_ANNOTATIONS",
        value_name = "PATH",
        required_unless_present = "drawn",
        requires = "sentence_encoder"
    )]
    annotations: Option<PathBuf>,
    /// The units' exemplars: LAYER.ids, .activations, .maps and .thresholds in one safetensors
    #[arg(long, env = "MILAN_TRAIN_EXEMPLARS", value_name = "FILE", requires = "annotations")]
    exemplars: Option<PathBuf>,
    /// The pictures that exemplars and regions count, in the order of their file names
    #[arg(long, env = "MILAN_TRAIN_IMAGES", value_name = "DIR", requires = "annotations")]
    images: Option<PathBuf>,
    /// The folder of all-MiniLM-L6-v2 (model.safetensors, config.json, vocab.txt)
    #[arg(
        long,
        env = "MILAN_TRAIN_SENTENCE_ENCODER",
        value_name = "DIR",
        requires = "annotations"
    )]
    sentence_encoder: Option<PathBuf>,
    /// Judge it where the truth is known: on drawn pictures, demo:N:SEED:SPLIT, and planted units
    #[arg(long, env = "MILAN_TRAIN_DRAWN", value_name = "D", num_args = 0..=1, default_missing_value = "demo:300:3:mixed")]
    drawn: Option<String>,
    /// The describer [default: the built-in one]
    #[arg(long, env = "MILAN_TRAIN_DESCRIBER", value_name = "FILE")]
    describer: Option<PathBuf>,
    /// Regions whose names are known: does the critic find the units that fire there? As for training
    #[arg(
        long,
        env = "MILAN_TRAIN_REGIONS",
        value_name = "DIR",
        requires = "network",
        requires = "annotations"
    )]
    regions: Option<String>,
    /// The network whose units are held against the regions
    #[arg(long, env = "MILAN_TRAIN_NETWORK", value_name = "FILE", requires = "regions")]
    network: Option<PathBuf>,
    /// Its layers, as patterns [default: its architecture's own choice]
    #[arg(
        long,
        env = "MILAN_TRAIN_LAYERS",
        value_name = "GLOB",
        value_delimiter = ',',
        requires = "network"
    )]
    layers: Vec<String>,
    /// Policies whose rules are held against what people said, by name or path
    #[arg(
        long,
        env = "MILAN_TRAIN_POLICY",
        value_name = "POLICY",
        value_delimiter = ',',
        requires = "annotations"
    )]
    policy: Vec<String>,
    /// Also write the tables as JSON
    #[arg(long, env = "MILAN_TRAIN_JSON", value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where features are kept [default: not kept]
    #[arg(long, env = "MILAN_TRAIN_WORK", value_name = "DIR", requires = "annotations")]
    work: Option<PathBuf>,
    #[command(flatten)]
    running: Running,
}

/// What the program does with its command line.
pub fn main() -> ExitCode {
    cli::begin();
    let cli = Cli::parse();
    cli::end(run(cli.command), None)
}

/// The command line, for completions and manual pages.
pub(super) fn command() -> clap::Command {
    Cli::command()
}

fn run(command: Command) -> anyhow::Result<(u8, String)> {
    match command {
        Command::Describer(it) => describer(*it),
        Command::Calibrate(it) => calibrate(*it),
        Command::Classifier(it) => classifier(it),
        Command::Evaluate(it) => evaluate(*it),
    }?;
    Ok((0, String::new()))
}

fn describer(it: Describer) -> anyhow::Result<()> {
    let bars = it.running.begin()?;
    let source = Source { annotations: it.annotations, exemplars: it.exemplars, images: it.images };
    let config = describer::Config {
        source,
        encoder: it.encoder,
        regions: it.regions,
        sentence_encoder: it.sentence_encoder,
        words_by_depth: it.words_by_depth,
        out: it.out,
        seed: it.seed,
        device: device::open(&it.place.device)?,
    };
    let trained = describer::train(&config, &|stage, done, all| bars.show(stage, done, all))?;
    for it in &trained.left_out {
        cli::say(&format!("warning: {it}; do they lie on other pictures? It was not learnt"));
    }
    cli::print(&format!("wrote {}\n", trained.file.display()))
}

fn calibrate(it: Calibrate) -> anyhow::Result<()> {
    let bars = it.running.begin()?;
    let config = describer::Calibration {
        source: Source { annotations: it.annotations, exemplars: it.exemplars, images: it.images },
        describer: it.describer,
        sentence_encoder: it.sentence_encoder,
        words_by_depth: it.words_by_depth,
        sentences: if it.findings_only { Sentences::AsTheyAre } else { Sentences::Anew },
        work: it.work,
        out: it.out,
    };
    describer::calibrated(&config, &|stage, done, all| bars.show(stage, done, all))?;
    cli::print(&format!("wrote {}\n", config.out.display()))
}

fn classifier(it: Classifier) -> anyhow::Result<()> {
    let bars = it.running.begin()?;
    let test = |test: &String| match test.split_once('=') {
        Some((name, source)) => Ok((name.to_owned(), source.to_owned())),
        None => Err(usage!("--test wants NAME=D, not `{test}`")),
    };
    let config = classifier::Config {
        data: it.data,
        arch: it.arch,
        tests: it.test.iter().map(test).collect::<anyhow::Result<_>>()?,
        epochs: it.epochs.into(),
        out: it.out,
        seed: it.seed,
        device: device::open(&it.place.device)?,
    };
    let file = classifier::train(&config, &|stage, done, all| bars.show(stage, done, all))?;
    cli::print(&format!("wrote {}\n", file.display()))
}

fn evaluate(it: Evaluate) -> anyhow::Result<()> {
    let bars = it.running.begin()?;
    let progress = |stage: &str, done, all| bars.show(stage, done, all);
    if let Some(pictures) = &it.drawn {
        pictures.parse::<Scenes>()?;
    }
    let mut tables = serde_json::Map::new();
    if let Some((annotations, sentence_encoder)) = it.annotations.zip(it.sentence_encoder) {
        let overlap = it.regions.zip(it.network).map(|(regions, network)| Against {
            network,
            layers: it.layers,
            regions,
            threads: rayon::current_num_threads(),
        });
        let config = evaluate::Config {
            source: Source { annotations, exemplars: it.exemplars, images: it.images },
            sentence_encoder,
            describer: it.describer.clone(),
            overlap,
            policies: it.policy,
            work: it.work,
        };
        let found = evaluate::evaluate(&config, &progress)?;
        cli::print(&evaluate::table(&found))?;
        if let serde_json::Value::Object(own) = serde_json::to_value(&found)? {
            tables.extend(own);
        }
    }
    if let Some(pictures) = it.drawn {
        let threads = rayon::current_num_threads();
        let config = drawn::Config { describer: it.describer, pictures, threads, seed: 0 };
        let found = drawn::evaluate(&config, &progress)?;
        cli::print(&drawn::table(&found))?;
        tables.insert("drawn".into(), serde_json::to_value(&found)?);
    }
    if let Some(path) = it.json {
        let text = serde_json::to_string_pretty(&tables)? + "\n";
        crate::files::write_whole(&path, text.as_bytes())?;
    }
    Ok(())
}
