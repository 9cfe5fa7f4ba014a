//! What both programs share: flags, progress, exit codes.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use candle_core::Device;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::describe::{Describer, How};
use crate::error::{self, Failure, Kind};
use crate::files::write_whole;
use crate::pass::Settings;
use crate::report::{Format, Report, Verdict};
use crate::subject::Source;
use crate::{exemplars, report, usage};

/// The options of both programs. Each has an environment variable, `MILAN_` and its name.
#[derive(Debug, Args)]
pub struct Shared {
    /// The model: `demo`, a .safetensors file, a folder, or `hf:ORG/NAME@REVISION`
    #[arg(long, value_name = "M", env = "MILAN_MODEL", default_value = "demo")]
    pub model: String,
    /// The architecture, when tensor names and shapes do not tell
    #[arg(long, value_name = "NAME", env = "MILAN_ARCH")]
    pub arch: Option<String>,
    /// The pictures: a folder of class folders, or one with a metadata.csv (file_name,label), or drawn ones,
    /// demo:N:SEED:SPLIT
    #[arg(long, value_name = "D", env = "MILAN_DATA")]
    pub data: Option<String>,
    /// Class names, one a line, in the order of the network's outputs
    #[arg(long, value_name = "FILE", env = "MILAN_CLASSES")]
    pub classes: Option<PathBuf>,
    /// The layers whose units are described; `*` stands for a part of a name, `**` for several
    #[arg(long, value_name = "GLOB,…", env = "MILAN_LAYERS", value_delimiter = ',')]
    pub layers: Vec<String>,
    /// How units are described: `milan`, milan:FILE, `labels` or csv:FILE
    #[arg(long, value_name = "D", env = "MILAN_DESCRIBER", default_value = "milan")]
    pub describer: Describer,
    /// Describe as the reference does, mistakes included; for files of the authors
    #[arg(long, env = "MILAN_COMPAT")]
    pub compat: bool,
    /// The folder of all-MiniLM-L6-v2, which understands phrases better than the describer's own small
    /// sentence encoder
    #[arg(long, value_name = "DIR", env = "MILAN_SENTENCE_ENCODER")]
    pub sentence_encoder: Option<PathBuf>,
    /// Pictures kept for each unit
    #[arg(long, value_name = "K", env = "MILAN_TOP_K", default_value_t = 15)]
    pub top_k: usize,
    /// The activation level of the masks, as a quantile over all positions of all pictures
    #[arg(long, value_name = "Q", env = "MILAN_QUANTILE", default_value_t = 0.99)]
    pub quantile: f64,
    /// The share of pictures, 0 to 1, that may be unreadable
    #[arg(long, value_name = "SHARE", env = "MILAN_MAX_UNREADABLE", default_value_t = 0.01)]
    pub max_unreadable: f64,
    /// The run's folder [default: `reports/MODEL`]
    #[arg(long, value_name = "DIR", env = "MILAN_OUT")]
    pub out: Option<PathBuf>,
    /// A report besides those in the run's folder: human, json or csv; `-` is stdout. Repeatable
    #[arg(long, value_name = "FORMAT=PATH", env = "MILAN_OUTPUT", value_delimiter = ',')]
    pub output: Vec<Output>,
    /// Also write the exemplars as the reference implementation does
    #[arg(long, value_name = "FORMAT", env = "MILAN_EXPORT")]
    pub export: Option<Export>,
    /// Where the network runs: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", env = "MILAN_DEVICE", default_value = "cpu")]
    pub device: String,
    /// Compute every convolution as it is defined, not by the faster transforms that round a little more
    #[arg(long, env = "MILAN_EXACT")]
    pub exact: bool,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", env = "MILAN_THREADS")]
    pub threads: Option<usize>,
    /// Pictures that go through the network together
    #[arg(long, value_name = "N", env = "MILAN_BATCH_SIZE", default_value_t = 16)]
    pub batch_size: usize,
    /// The seed of everything random
    #[arg(long, value_name = "N", env = "MILAN_SEED", default_value_t = 0)]
    pub seed: u64,
    /// Never use the network; models come from the local cache
    #[arg(long, env = "MILAN_OFFLINE")]
    pub offline: bool,
    /// Colour in the terminal
    #[arg(long, value_name = "WHEN", env = "MILAN_COLOR", default_value = "auto")]
    pub color: When,
    /// Progress bars on stderr
    #[arg(long, value_name = "WHEN", env = "MILAN_PROGRESS", default_value = "auto")]
    pub progress: When,
    /// Print nothing but errors
    #[arg(short, long, env = "MILAN_QUIET")]
    pub quiet: bool,
    /// Print what was found, layer by layer
    #[arg(short, long, env = "MILAN_VERBOSE")]
    pub verbose: bool,
    /// Do everything but write files
    #[arg(long, env = "MILAN_DRY_RUN")]
    pub dry_run: bool,
}

/// When to do what depends on the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

/// Other people's exemplar formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Export {
    /// images.npy, masks.npy, ids.csv, activations.csv of neuron-descriptions
    Milan,
}

/// A format and where it goes.
#[derive(Debug, Clone)]
pub struct Output {
    pub format: Format,
    /// `None` is stdout.
    pub path: Option<PathBuf>,
}

impl std::str::FromStr for Output {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Output> {
        let (format, path) = text.split_once('=').unwrap_or((text, "-"));
        let path = if path == "-" { None } else { Some(PathBuf::from(path)) };
        Ok(Output { format: format.parse()?, path })
    }
}

impl Shared {
    /// Checks what clap cannot, and sets the number of threads for the whole process.
    pub fn check(&self) -> anyhow::Result<Settings> {
        if self.batch_size == 0 || self.threads == Some(0) {
            return Err(usage!("--batch-size and --threads want at least 1"));
        }
        if !(0.0..=1.0).contains(&self.max_unreadable) {
            return Err(usage!(
                "--max-unreadable wants a share between 0 and 1, not {}",
                self.max_unreadable
            ));
        }
        let threads = start_threads(self.threads)?;
        let exemplars =
            exemplars::Config { top_k: self.top_k, quantile: self.quantile, spread: None };
        Ok(Settings {
            batch_size: self.batch_size,
            threads,
            max_unreadable: self.max_unreadable,
            exemplars,
        })
    }

    pub fn source(&self) -> anyhow::Result<Source> {
        Ok(Source {
            model: self.model.clone(),
            arch: self.arch.clone(),
            data: self.data.clone(),
            classes: self.classes.clone(),
            offline: self.offline,
            device: device(&self.device)?,
            exact: self.exact,
            scratch: self.out(),
        })
    }

    /// How units are described.
    pub fn how(&self) -> How {
        How {
            describer: self.describer.clone(),
            compat: self.compat,
            sentence_encoder: self.sentence_encoder.clone(),
        }
    }

    /// The run's folder: as asked, else named after the model.
    pub fn out(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| PathBuf::from("reports").join(model_name(&self.model)))
    }

    /// Whether stdout should be coloured.
    pub fn colored(&self) -> bool {
        match self.color {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                std::io::stdout().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
                    && std::env::var_os("TERM").is_none_or(|it| it != "dumb")
            }
        }
    }
}

/// Called first by every program, before there is any thread.
///
/// Candle splits each small operation over threads of its own, which wait for each other spinning and serve
/// one caller at a time. Here whole pictures and units run side by side, so that only costs: describing takes
/// three times as long. The environment is the only way to say so, and a user's own word is kept.
#[allow(unsafe_code)]
pub fn begin() {
    const THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        // SAFETY: no other thread exists that could read the environment.
        unsafe { std::env::set_var(THREADS, "1") };
    }
}

/// Sets the number of threads for the whole process; all cores when none is said.
pub fn start_threads(threads: Option<usize>) -> anyhow::Result<usize> {
    let threads =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start the threads")?;
    Ok(threads)
}

/// `models/resnet18.safetensors` and `hf:timm/resnet18.a1_in1k@main` are both called by their last part.
fn model_name(model: &str) -> String {
    let model = model.strip_prefix("hf:").and_then(|it| it.split('@').next()).unwrap_or(model);
    let last = model.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(model);
    let name = last.strip_suffix(".safetensors").unwrap_or(last);
    if name.is_empty() || name.chars().all(|c| c == '.') { "model".into() } else { name.into() }
}

fn device(name: &str) -> anyhow::Result<Device> {
    let index = match name {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => 0,
        _ => name
            .strip_prefix("cuda:")
            .and_then(|index| index.parse().ok())
            .ok_or_else(|| usage!("--device `{name}` is none of cpu, cuda, cuda:N"))?,
    };
    if !cfg!(feature = "cuda") {
        return Err(usage!(
            "--device {name}: this program was built without the cargo feature `cuda`"
        ));
    }
    Device::new_cuda(index).map_err(|_| {
        anyhow::anyhow!("there is no CUDA device {index}, or its driver does not answer")
    })
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Bars on stderr: pictures a second and time left. Also where Ctrl-C ends a run in good order.
pub struct Bars {
    bar: Mutex<Option<(String, ProgressBar)>>,
    visible: bool,
}

impl Bars {
    pub fn new(progress: When, quiet: bool) -> anyhow::Result<Bars> {
        // The first Ctrl-C lets drafts be removed; a second one does not wait for that.
        let stop = || {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::abort();
            }
        };
        ctrlc::set_handler(stop).context("cannot listen for Ctrl-C")?;
        let visible = match progress {
            When::Always => true,
            When::Never => false,
            When::Auto => std::io::stderr().is_terminal() && !quiet,
        };
        Ok(Bars { bar: Mutex::new(None), visible })
    }

    /// Shows how far a stage is. Errs when the user has stopped the run.
    pub fn show(&self, stage: &str, done: usize, all: usize) -> anyhow::Result<()> {
        let mut bar = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if INTERRUPTED.load(Ordering::SeqCst) {
            if let Some((_, bar)) = bar.take() {
                bar.finish_and_clear();
            }
            return Err(Failure {
                kind: Kind::Interrupted,
                message: "stopped; nothing was written".into(),
            }
            .into());
        }
        if !self.visible {
            return Ok(());
        }
        if bar.as_ref().is_none_or(|(name, _)| name != stage) {
            *bar = Some((stage.to_owned(), new_bar(stage, all)));
        }
        if let Some((_, bar)) = bar.as_ref() {
            bar.set_position(done as u64);
            if done == all {
                bar.finish();
            }
        }
        Ok(())
    }
}

fn new_bar(stage: &str, all: usize) -> ProgressBar {
    let template = "{prefix:24} {bar:30} {pos}/{len} · {per_sec} · {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(all as u64), ProgressDrawTarget::stderr());
    bar.set_style(style.with_key(
        "per_sec",
        |state: &indicatif::ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = write!(w, "{:.1}/s", state.per_sec());
        },
    ));
    bar.set_prefix(stage.to_owned());
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// Writes the reports that were asked for: the terminal's unless another one goes to stdout.
pub fn publish(shared: &Shared, report: &Report) -> anyhow::Result<()> {
    for output in shared.output.iter().filter(|_| !shared.dry_run) {
        if let Some(path) = &output.path {
            write_whole(path, render(output.format, report, false)?.as_bytes())?;
        }
    }
    let mut to_stdout: Vec<Format> =
        shared.output.iter().filter(|it| it.path.is_none()).map(|it| it.format).collect();
    if to_stdout.is_empty() && !shared.quiet {
        to_stdout.push(Format::Human);
    }
    for format in to_stdout {
        print(&render(format, report, shared.colored())?)?;
    }
    Ok(())
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
pub fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}

fn render(format: Format, report: &Report, color: bool) -> anyhow::Result<String> {
    Ok(match format {
        Format::Human => report::human(report, 100, color),
        Format::Json => report::json(report)?,
        Format::Csv => report::csv(report)?,
    })
}

/// The exit code, and the one line for stderr that says why it is not 0.
pub fn conclude(result: anyhow::Result<(Verdict, String)>) -> (ExitCode, Option<String>) {
    match result {
        Ok((Verdict::Passed, _)) => (ExitCode::SUCCESS, None),
        Ok((verdict, why)) => (ExitCode::from(verdict.exit_code()), Some(why)),
        Err(error) => {
            let code = match error::kind(&error) {
                Kind::Usage => 2,
                Kind::Inconclusive => 3,
                Kind::System => 4,
                Kind::Interrupted => 130,
            };
            (ExitCode::from(code), Some(format!("error: {error:#}")))
        }
    }
}

/// Says the last line of a run on stderr.
#[allow(clippy::print_stderr)] // This is where the programs speak.
pub fn say(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_after_its_model() {
        for (model, wanted) in [
            ("demo", "demo"),
            ("models/resnet18.safetensors", "resnet18"),
            ("hf:timm/resnet18.a1_in1k@main", "resnet18.a1_in1k"),
            ("some/folder/", "folder"),
            ("..", "model"),
        ] {
            assert_eq!(model_name(model), wanted);
        }
    }

    #[test]
    fn an_unknown_device_is_a_mistake_of_the_user() {
        assert_eq!(error::kind(&device("tpu").unwrap_err()), Kind::Usage);
    }
}
