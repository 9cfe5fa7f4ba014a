//! Options from files: `milan.toml` of a project, and a user's own for cache, device and looks.
//!
//! Keys are the long names of options. What comes later beats what comes before: the user's file, the project's,
//! environment variables, flags. Paths are meant from the folder of the file that names them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::de::DeValue;

use super::{audit, edit, say};
use crate::toml_file::{self, Mistakes, Table, Value, Walker};
use crate::{files, usage};

/// What a user's own file may say: it must not change what is found.
const OWN: [&str; 6] = ["cache", "device", "threads", "color", "progress", "batch-size"];
/// Options whose values may be paths.
const PATHS: [&str; 13] = [
    "cache",
    "units",
    "model",
    "data",
    "classes",
    "policy",
    "out",
    "sentence-encoder",
    "describer",
    "write",
    "val",
    "test",
    "output",
];
/// Options that are for one run only.
const LEVELS: [&str; 4] = ["deny", "warn", "allow", "exit-zero"];
/// Tables of options that one program alone has.
const TABLES: [&str; 2] = ["audit", "edit"];

/// Sets the defaults of a program's options from the files that there are. `arguments` are looked at for
/// `--isolated`, which reads none, and `--config FILE`, which reads this one instead of searching.
pub(super) fn configured(mut command: Command, arguments: &[OsString]) -> anyhow::Result<Command> {
    let program = command.get_name().strip_prefix("milan-").unwrap_or_default().to_owned();
    if flag(arguments, "--isolated") || !reads_options(arguments) {
        return Ok(command);
    }
    let tells = arguments.iter().any(|it| it == "-v" || it == "--verbose");
    if let Some(path) = own_file().filter(|it| it.is_file()) {
        command = from_file(command, &path, &program, Some(&OWN))?;
    }
    let named = option(arguments, "--config").or_else(|| std::env::var_os("MILAN_CONFIG"));
    let path = match named {
        Some(path) => Some(PathBuf::from(path)),
        None => find(&std::env::current_dir()?),
    };
    let Some(path) = path else { return Ok(command) };
    if tells {
        say(&format!("options of {}", path.display()));
    }
    from_file(command, &path, &program, None)
}

/// Whether it is a run that options are for, and not a question.
fn reads_options(arguments: &[OsString]) -> bool {
    const OTHERS: [&str; 7] = ["policy", "convert", "diff", "card", "completions", "man", "help"];
    const QUESTIONS: [&str; 4] = ["-h", "--help", "-V", "--version"];
    let first = arguments.get(1).and_then(|it| it.to_str()).unwrap_or_default();
    !OTHERS.contains(&first)
        && arguments.iter().all(|it| QUESTIONS.iter().all(|question| it != question))
}

fn flag(arguments: &[OsString], name: &str) -> bool {
    let off = ["", "0", "n", "no", "f", "false", "off"];
    let on = |it: OsString| !off.iter().any(|off| it.eq_ignore_ascii_case(off));
    arguments.iter().any(|it| it == name) || std::env::var_os("MILAN_ISOLATED").is_some_and(on)
}

fn option(arguments: &[OsString], name: &str) -> Option<OsString> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == name {
            return rest.next().cloned();
        }
        let joined = argument.to_str().and_then(|it| it.strip_prefix(name)?.strip_prefix('='));
        if let Some(value) = joined {
            return Some(value.into());
        }
    }
    None
}

/// `milan/milan.toml` in the user's folder for such files.
fn own_file() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
    let folder = std::env::var_os("XDG_CONFIG_HOME").filter(|it| !it.is_empty());
    Some(folder.map(PathBuf::from).or_else(home)?.join("milan").join("milan.toml"))
}

/// The project's file: in this folder or one above it, up to the repository's root; in no repository, in this folder.
fn find(from: &Path) -> Option<PathBuf> {
    let root = from.ancestors().find(|it| it.join(".git").exists()).unwrap_or(from);
    let folders = from.ancestors().take_while(|it| it.starts_with(root));
    let files = folders.flat_map(|it| [it.join("milan.toml"), it.join(".config/milan.toml")]);
    files.into_iter().find(|it| it.is_file())
}

fn from_file(
    command: Command,
    path: &Path,
    program: &str,
    only: Option<&[&str]>,
) -> anyhow::Result<Command> {
    let text = files::read_text(path)
        .map_err(|error| usage!("cannot read the options in {}: {error}", path.display()))?;
    let (table, walker) = toml_file::parse(&text);
    // In `.config/milan.toml` paths are meant from the folder that holds `.config`.
    let folder = path.parent().unwrap_or(Path::new(""));
    let folder = match folder.file_name() {
        Some(name) if name == ".config" => folder.parent().unwrap_or(folder),
        _ => folder,
    };
    let mut file = File { walker, folder, only };
    let mut command = file.options(command, table.get_ref(), &TABLES, "the options");
    for name in TABLES {
        if let Some(own) = file.walker.table(table.get_ref(), name) {
            // A table of the other program is checked when that runs.
            if name == program {
                command = file.options(command, own, &[], &format!("[{name}]"));
            }
        }
    }
    let here = std::env::current_dir().unwrap_or_default();
    let shown = path.strip_prefix(here).unwrap_or(path).display().to_string();
    let mut mistakes = Mistakes::default();
    mistakes.add(&shown, &text, file.walker.mistakes);
    match mistakes.is_empty() {
        true => Ok(command),
        false => Err(mistakes.into_error(&shown)),
    }
}

struct File<'a> {
    walker: Walker,
    folder: &'a Path,
    only: Option<&'a [&'a str]>,
}

impl File<'_> {
    /// Takes a table's values as defaults, and notes what is wrong with them.
    fn options(
        &mut self,
        mut command: Command,
        table: &Table<'_>,
        besides: &[&str],
        place: &str,
    ) -> Command {
        for (key, value) in
            table.iter().filter(|(key, _)| !besides.contains(&key.get_ref().as_ref()))
        {
            let name = key.get_ref();
            let known = options_of(&command);
            if self.only.is_some_and(|only| !only.contains(&name.as_ref())) {
                let message = format!(
                    "`{name}` is not for a user's own file, which may say {}; a project's milan.toml may",
                    OWN.join(", ")
                );
                self.walker.mistake("misplaced", key.span(), message);
                continue;
            }
            if LEVELS.contains(&name.as_ref()) {
                let message = format!(
                    "`{name}` sets levels for one run; levels that stay belong into the policy"
                );
                self.walker.mistake("misplaced", key.span(), message);
                continue;
            }
            let Some(arg) = known.iter().find(|it| it.get_long() == Some(name)) else {
                // Both programs read the same file, and each has options that the other lacks.
                let others = [audit::command(), edit::command()];
                let all: Vec<Arg> = others.iter().flat_map(options_of).collect();
                let names: Vec<&str> = all.iter().filter_map(Arg::get_long).collect();
                if !names.contains(&name.as_ref()) {
                    let message = format!("unknown key `{name}` in {place}");
                    self.walker.unknown("unknown-key", key.span(), message, name, &names);
                }
                continue;
            };
            let Some(values) = self.values(arg, name, value) else { continue };
            match with_default(command.clone(), arg.get_id().as_str(), &values) {
                Ok(changed) => command = changed,
                Err(message) => self.walker.mistake("bad-value", value.span(), message),
            }
        }
        command
    }

    /// An option's values, as they would be written on the command line.
    fn values(&mut self, arg: &Arg, name: &str, value: &Value<'_>) -> Option<Vec<String>> {
        let takes_many = matches!(arg.get_action(), ArgAction::Append);
        let one = |file: &mut Self, value: &Value<'_>| match value.get_ref() {
            DeValue::String(text) => Some(file.resolved(name, text)),
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Float(number) => Some(number.to_string()),
            DeValue::Boolean(flag) => Some(flag.to_string()),
            DeValue::Datetime(day) => Some(day.to_string()),
            _ => {
                file.walker.wrong_type(value, "a text, a number, or true or false");
                None
            }
        };
        match value.get_ref() {
            DeValue::Array(list) if takes_many => list.iter().map(|it| one(self, it)).collect(),
            _ => Some(vec![one(self, value)?]),
        }
    }

    /// A path, meant from the folder of the file; anything else as it is.
    fn resolved(&self, name: &str, text: &str) -> String {
        if !PATHS.contains(&name) {
            return text.to_owned();
        }
        // `clean=pictures/clean`, `csv:said.csv`: the path comes after the sign.
        let sign = match name {
            "test" => Some(text.find('=').map_or(0, |at| at + 1)),
            "output" => text.find('=').map(|at| at + 1),
            "describer" => text.find(':').map(|at| at + 1),
            _ => Some(0),
        };
        let Some(at) = sign else { return text.to_owned() };
        let mut path = self.folder.join(&text[at..]);
        let in_policies = self.folder.join("policies").join(format!("{}.toml", &text[at..]));
        if name == "policy" && in_policies.is_file() {
            path = in_policies;
        }
        let is_name = text[at..] == *"demo"
            || ["demo:", "hf:", "preset:"].iter().any(|it| text[at..].starts_with(it));
        let is_path = match name {
            "out" | "write" | "output" => !["", "-"].contains(&&text[at..]),
            "policy" | "units" => path.is_file(),
            "cache" => true,
            _ => path.exists(),
        };
        match is_path && !is_name {
            true => format!("{}{}", &text[..at], path.display()),
            false => text.to_owned(),
        }
    }
}

/// The commands that options are for, besides the program itself.
const RUNS: [&str; 2] = ["run", "score"];

/// The options of a program and of its runs, each name once.
fn options_of(command: &Command) -> Vec<Arg> {
    let runs = command.get_subcommands().filter(|it| RUNS.contains(&it.get_name()));
    let commands = std::iter::once(command).chain(runs);
    let mut found: Vec<Arg> = Vec::new();
    for arg in commands.flat_map(|it| it.get_arguments()) {
        let is_option = arg.get_long().is_some_and(|it| !["isolated", "config"].contains(&it));
        if is_option && found.iter().all(|it| it.get_long() != arg.get_long()) {
            found.push(arg.clone());
        }
    }
    found
}

/// Gives an option of a program and of its commands another default. Errs with what clap says of the value.
fn with_default(command: Command, id: &str, values: &[String]) -> Result<Command, String> {
    let check = Command::new("check").no_binary_name(true);
    if let Some(arg) = options_of(&command).iter().find(|it| it.get_id() == id) {
        let arg = arg.clone().required(false).env(None::<&str>).default_values(values.to_vec());
        let tried = check.arg(arg).try_get_matches_from(Vec::<OsString>::new());
        if let Err(error) = tried {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            return Err(first.trim_start_matches("error: ").to_owned());
        }
    }
    let change = |command: Command| {
        let has = command.get_arguments().any(|it| it.get_id() == id);
        if has { command.mut_arg(id, |it| it.default_values(values.to_vec())) } else { command }
    };
    let runs = |it: Command| if RUNS.contains(&it.get_name()) { change(it) } else { it };
    Ok(change(command).mut_subcommands(runs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_file_is_found_upwards_to_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let deep = root.join("repository/a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(root.join("milan.toml"), "").unwrap();
        assert_eq!(find(&deep), None);
        std::fs::create_dir(root.join("repository/.git")).unwrap();
        assert_eq!(find(&deep), None, "not above the repository");
        let path = root.join("repository/.config/milan.toml");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(find(&deep), Some(path));
        std::fs::write(root.join("repository/a/milan.toml"), "").unwrap();
        assert_eq!(find(&deep), Some(root.join("repository/a/milan.toml")));
    }
}
