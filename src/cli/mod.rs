//! The programs' command lines, and what they share: flags, progress, exit codes.

pub mod audit;
pub mod edit;
pub mod train;

mod bars;
mod configured;
mod device;
mod policy;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, ValueEnum};

use crate::describe::{Describer, How};
use crate::error::{self, Failure, Kind};
use crate::files::write_whole;
use crate::pass::Settings;
use crate::policy::Level;
use crate::report::{Format, Report};
use crate::ruling::Asked;
use crate::subject::Source;
use crate::toml_file::Mistakes;
use crate::{exemplars, report, usage};

pub use bars::Bars;

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
    /// Pictures kept for each unit, at most, of those that are nearly the same; 0 is no limit
    #[arg(long, value_name = "N", env = "MILAN_MAX_NEAR_DUPLICATES", default_value_t = 1)]
    pub max_near_duplicates: usize,
    /// The share of pictures, 0 to 1, that may be unreadable
    #[arg(long, value_name = "SHARE", env = "MILAN_MAX_UNREADABLE", default_value_t = 0.01)]
    pub max_unreadable: f64,
    /// The run's folder [default: `reports/MODEL`]
    #[arg(long, value_name = "DIR", env = "MILAN_OUT")]
    pub out: Option<PathBuf>,
    /// A report besides those in the run's folder: human, concise, json, jsonl, csv, sarif, junit, github, gitlab, md,
    /// html, in-toto, cyclonedx; `-` is stdout. Repeatable
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
    /// Where models of the Hub are kept [default: where its own programs keep them]
    #[arg(long, value_name = "DIR", env = "MILAN_CACHE")]
    pub cache: Option<PathBuf>,
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

/// Where options come from besides the command line; read before anything else is.
#[derive(Debug, Args)]
pub struct Files {
    /// Options from this file instead of the milan.toml of the project
    #[arg(long, value_name = "FILE", env = "MILAN_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// No options from files, the user's own included
    #[arg(long, env = "MILAN_ISOLATED", global = true)]
    isolated: bool,
}

/// Lets the variables of flags be 1, yes, on and true, or 0, no, off, false and nothing.
fn lenient(command: clap::Command) -> clap::Command {
    let flag = |arg: clap::Arg| match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(FalseyValueParser::new()),
        _ => arg,
    };
    command.mut_args(flag).mut_subcommands(lenient)
}

/// How strictly a policy is held.
#[derive(Debug, Clone, Args)]
pub struct Policing {
    /// Violate on this level or above: deny, or warn as well
    #[arg(long, value_name = "LEVEL", env = "MILAN_FAIL_ON", default_value = "deny")]
    pub fail_on: FailOn,
    /// Deny what this rule or gate finds, whatever the policy's level. Repeatable
    #[arg(short = 'D', long, value_name = "RULE", env = "MILAN_DENY", value_delimiter = ',')]
    pub deny: Vec<String>,
    /// Only warn of what this rule or gate finds. Repeatable
    #[arg(short = 'W', long, value_name = "RULE", env = "MILAN_WARN", value_delimiter = ',')]
    pub warn: Vec<String>,
    /// Allow what this rule or gate finds. Repeatable
    #[arg(short = 'A', long, value_name = "RULE", env = "MILAN_ALLOW", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Refuse whatever could be another policy or model tomorrow: includes without a sha256, presets and hub models
    /// without a revision
    #[arg(long, env = "MILAN_LOCKED")]
    pub locked: bool,
    /// Let a rule pass on pictures that do not show what it looks for, and without all layers described
    #[arg(long, env = "MILAN_ALLOW_UNCOVERED")]
    pub allow_uncovered: bool,
    /// The day on which exceptions are held against their end, such as 2026-12-31 [default: today, in UTC]
    #[arg(long, value_name = "DAY", env = "MILAN_TODAY")]
    pub today: Option<jiff::civil::Date>,
}

/// From which level on a run is violated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    Deny,
    Warn,
}

impl Policing {
    /// The policy as it is to be held. Errs where a rule is given two levels, or a locked run has a moving model.
    pub fn asked(&self, policy: Option<String>, shared: &Shared) -> anyhow::Result<Asked> {
        let levels =
            [(&self.deny, Level::Deny), (&self.warn, Level::Warn), (&self.allow, Level::Allow)];
        let levels = levels
            .into_iter()
            .flat_map(|(ids, level)| ids.iter().map(move |it| (it.clone(), level)));
        let levels: Vec<(String, Level)> = levels.collect();
        if policy.is_none() && !levels.is_empty() {
            return Err(usage!("-D, -W and -A set levels of a policy, and none is named"));
        }
        for (at, (id, level)) in levels.iter().enumerate() {
            if levels[..at].iter().any(|(other, theirs)| other == id && theirs != level) {
                return Err(usage!("`{id}` is given two levels; name it with one of -D, -W, -A"));
            }
        }
        if self.locked && !is_pinned(&shared.model) {
            return Err(usage!(
                "--locked wants a revision that cannot change: {}@ and the 40 digits of a commit",
                shared.model.split('@').next().unwrap_or_default()
            ));
        }
        Ok(Asked {
            policy,
            locked: self.locked,
            levels,
            fail_on_warn: self.fail_on == FailOn::Warn,
            exit_zero: false,
            allow_uncovered: self.allow_uncovered,
            today: self.today,
        })
    }
}

/// Whether a model cannot be another one tomorrow: a file of the user's, or a commit of a hub.
fn is_pinned(model: &str) -> bool {
    let is_commit = |it: &str| it.len() == 40 && it.bytes().all(|it| it.is_ascii_hexdigit());
    !model.starts_with("hf:") || model.split_once('@').is_some_and(|(_, it)| is_commit(it))
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
        if self.batch_size == 0 {
            return Err(usage!("--batch-size wants at least 1"));
        }
        if !(0.0..=1.0).contains(&self.max_unreadable) {
            return Err(usage!(
                "--max-unreadable wants a share between 0 and 1, not {}",
                self.max_unreadable
            ));
        }
        let threads = start_threads(self.threads)?;
        let Shared { top_k, quantile, max_near_duplicates, .. } = *self;
        let exemplars = exemplars::Config { top_k, quantile, spread: None, max_near_duplicates };
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
            cache: self.cache.clone(),
            device: device::open(&self.device)?,
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
            When::Auto => std::io::stdout().is_terminal() && is_colorful(),
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

/// Begins a program: what its command line and the files of options say. Errs on mistakes in those files; on a mistake
/// in the command line the program ends.
fn matches(command: clap::Command) -> anyhow::Result<clap::ArgMatches> {
    begin();
    let arguments: Vec<_> = std::env::args_os().collect();
    Ok(configured::configured(command, &arguments)?.get_matches_from(arguments))
}

/// Sets the number of threads for the whole process; all cores when none is said.
pub fn start_threads(threads: Option<usize>) -> anyhow::Result<usize> {
    const MOST: usize = 1024;
    let threads =
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    if !(1..=MOST).contains(&threads) {
        return Err(usage!("--threads wants 1 to {MOST}, not {threads}"));
    }
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

/// Writes the reports that were asked for: the terminal's unless another one goes to stdout. With `pictures` a page
/// shows those of the run's folder.
pub fn publish(shared: &Shared, report: &Report, pictures: bool) -> anyhow::Result<()> {
    let color = shared.colored();
    let pictures = match &report.run.out {
        Some(out) if pictures => report::pictures(report, out),
        _ => BTreeMap::new(),
    };
    let (files, shown): (Vec<&Output>, Vec<&Output>) =
        shared.output.iter().partition(|it| it.path.is_some());
    if !shared.dry_run {
        files.into_iter().try_for_each(|it| write(it, report, &pictures, false))?;
    }
    if shown.is_empty() && !shared.quiet {
        let terminal = Output { format: Format::Human, path: None };
        return write(&terminal, report, &pictures, color);
    }
    shown.into_iter().try_for_each(|it| write(it, report, &pictures, color))
}

/// Writes a report where it is wanted.
fn write(
    output: &Output,
    report: &Report,
    pictures: &BTreeMap<String, Vec<u8>>,
    color: bool,
) -> anyhow::Result<()> {
    let text = output.format.write(report, pictures, color)?;
    match &output.path {
        Some(path) => write_whole(path, text.as_bytes()),
        None => print(&text),
    }
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

/// Ends a program: the exit code, and on stderr the one line that says why it is not 0. Mistakes in a file are shown
/// before it, and on stdout where `output` asks for JSON there.
pub fn end(result: anyhow::Result<(u8, String)>, output: Option<&[Output]>) -> ExitCode {
    let result = result.or_else(|error| match error.downcast_ref::<Ended>() {
        Some(it) => Ok((it.code, it.why.clone())),
        None => Err(error),
    });
    let error = match result {
        Ok((0, _)) => return ExitCode::SUCCESS,
        Ok((code, why)) => {
            say(&why);
            return ExitCode::from(code);
        }
        Err(error) => error,
    };
    if let Some(mistakes) = error.downcast_ref::<Mistakes>() {
        show(mistakes);
        let to_stdout = |it: &Output| it.format == Format::Json && it.path.is_none();
        let shown = match output.is_some_and(|it| it.iter().any(to_stdout)) {
            true => mistakes.json().and_then(|text| print(&text)),
            false => Ok(()),
        };
        match (shown, error.downcast_ref::<Failure>()) {
            (Ok(()), Some(failure)) => say(&format!("error: {failure}")),
            (Err(error), _) => say(&format!("error: {error:#}")),
            (Ok(()), None) => say(&format!("error: {error}")),
        }
    } else {
        say(&format!("error: {}", error::without_numbers(&format!("{error:#}"))));
    }
    ExitCode::from(match error::kind(&error) {
        Kind::Usage => 2,
        Kind::Inconclusive => 3,
        Kind::System => 4,
        Kind::Interrupted => 130,
    })
}

/// Shows mistakes in a file on stderr.
fn show(mistakes: &Mistakes) {
    say(&mistakes.render(std::io::stderr().is_terminal() && is_colorful()));
}

/// A way to end that is neither a verdict nor a failure of the machine: a code, and why.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Ended {
    code: u8,
    why: String,
}

/// An error that ends a program with this code and line.
pub(crate) fn ended(code: u8, why: String) -> anyhow::Error {
    Ended { code, why }.into()
}

/// Whether the environment lets us colour.
fn is_colorful() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
        && std::env::var_os("TERM").is_none_or(|it| it != "dumb")
}

/// Says a line on stderr: the last one of a run, or a warning.
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

    /// Every option, of every command of every program.
    #[test]
    fn every_option_has_its_environment_variable() {
        fn check(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
            for arg in command.get_arguments().filter(|it| it.get_env().is_none()) {
                let long = arg.get_long().filter(|it| !["help", "version"].contains(it));
                missing.extend(long.map(|it| format!("{path} --{it}")));
            }
            for it in command.get_subcommands() {
                check(it, &format!("{path} {}", it.get_name()), missing);
            }
        }
        let mut missing = vec![];
        for command in [audit::command(), edit::command(), train::command()] {
            command.clone().debug_assert();
            check(&command, command.get_name(), &mut missing);
        }
        assert_eq!(missing, [] as [&str; 0]);
    }
}
