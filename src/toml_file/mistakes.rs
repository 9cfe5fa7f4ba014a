//! What is wrong with a file that a user wrote, shown at its place as rustc does.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};
use anyhow::Context;
use serde::Serialize;

use crate::error::{Failure, Kind};

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Bytes of the file.
    pub span: Range2,
    /// Stable, such as `unknown-key`.
    pub code: &'static str,
    pub message: String,
    /// What stands at the place.
    pub label: String,
    /// What to write instead.
    pub instead: Option<String>,
}

/// The code of mistakes of syntax.
pub(super) const SYNTAX: &str = "syntax";

/// A range that can be ordered.
pub type Range2 = (usize, usize);

/// All mistakes of some files, in the order of their places.
#[derive(Debug, Clone, Default)]
pub struct Mistakes {
    /// Path to text.
    sources: BTreeMap<String, String>,
    found: Vec<(String, Mistake)>,
    /// Those beyond the first [few](MOST).
    more: usize,
}

/// Mistakes that are kept: nobody reads more.
const MOST: usize = 100;

impl Mistakes {
    /// Where a file's syntax is wrong, keys out of place behind it and what the file as a whole lacks are but a consequence,
    /// and left out.
    pub fn add(&mut self, path: &str, text: &str, mut found: Vec<Mistake>) {
        let first = found.iter().filter(|it| it.code == SYNTAX).map(|it| it.span.0).min();
        if let Some(first) = first {
            let is_out_of_place = |it: &Mistake| it.code == "unknown-key" && first < it.span.0;
            found.retain(|it| it.code == SYNTAX || !is_out_of_place(it) && it.span != (0, 0));
        }
        if !found.is_empty() {
            self.sources.insert(path.to_owned(), text.to_owned());
        }
        self.found.extend(found.into_iter().map(|it| (path.to_owned(), it)));
        self.found.sort();
        self.found.dedup();
        self.more += self.found.len().saturating_sub(MOST);
        self.found.truncate(MOST);
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The file and the code of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Mistake)> {
        self.found.iter().map(|(path, it)| (path.as_str(), it))
    }

    /// An error of usage that carries them: `what` is wrong.
    pub fn into_error(self, what: &str) -> anyhow::Error {
        let n = self.found.len() + self.more;
        let message = format!("{what} has {n} mistake{}", if n == 1 { "" } else { "s" });
        let failure = Failure { kind: Kind::Usage, message };
        match Err::<(), _>(self).context(failure) {
            Err(error) => error,
            Ok(()) => unreachable!("an error was put in"),
        }
    }

    /// Every mistake at its place in the file.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let show = |(path, it): &(String, Mistake)| {
            let text = self.sources[path].as_str();
            let span = it.span.0..it.span.1;
            let snippet = Snippet::source(text)
                .path(path.as_str())
                .annotation(AnnotationKind::Primary.span(span.clone()).label(it.label.as_str()));
            let title = Level::ERROR.primary_title(it.message.as_str()).id(it.code);
            let mut groups = vec![Group::with_title(title).element(snippet)];
            if let Some(instead) = &it.instead {
                // A value stands in its quotes, a key does not.
                let quote = text.get(span.clone()).and_then(|it| it.chars().next());
                let quote =
                    quote.filter(|it| ['"', '\''].contains(it)).map_or("".into(), String::from);
                let patch = Patch::new(span, format!("{quote}{instead}{quote}"));
                let patch = Snippet::source(text).path(path.as_str()).patch(patch);
                let title = Level::HELP.secondary_title("there is a similar one");
                groups.push(Group::with_title(title).element(patch));
            }
            renderer.render(&groups)
        };
        let shown = self.found.iter().map(show).collect::<Vec<_>>().join("\n\n");
        shown + &self.and_more("\n\n") + "\n"
    }

    /// How many are not shown, behind the separator.
    fn and_more(&self, separator: &str) -> String {
        match self.more {
            0 => String::new(),
            n => format!("{separator}and {n} more"),
        }
    }

    /// The same for programs.
    pub fn json(&self) -> anyhow::Result<String> {
        let mistakes = serde_json::json!({ "mistakes": self.values()? });
        Ok(serde_json::to_string_pretty(&mistakes)? + "\n")
    }

    /// An object a mistake.
    pub fn values(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        #[derive(Serialize)]
        struct Line<'a> {
            code: &'a str,
            message: &'a str,
            path: &'a str,
            line: usize,
            column: usize,
            end_line: usize,
            end_column: usize,
            instead: &'a Option<String>,
        }
        let line = |(path, it): &(String, Mistake)| {
            let text = self.sources.get(path).map_or("", String::as_str);
            let (line, column) = place(text, it.span.0);
            let (end_line, end_column) = place(text, it.span.1);
            serde_json::to_value(Line {
                code: it.code,
                message: &it.message,
                path,
                line,
                column,
                end_line,
                end_column,
                instead: &it.instead,
            })
        };
        Ok(self.found.iter().map(line).collect::<Result<Vec<_>, _>>()?)
    }
}

/// One a line, as compilers do for editors.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (path, it)) in self.found.iter().enumerate() {
            let (line, column) =
                place(self.sources.get(path).map_or("", String::as_str), it.span.0);
            let end = if at + 1 == self.found.len() { "" } else { "\n" };
            let instead = match &it.instead {
                Some(instead) => format!("; did you mean `{instead}`?"),
                None => String::new(),
            };
            write!(f, "{path}:{line}:{column}: {}{instead}{end}", it.message)?;
        }
        f.write_str(&self.and_more("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// Line and column, from 1, of a byte of a text.
pub fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    (line, before.chars().rev().take_while(|&c| c != '\n').count() + 1)
}

impl Mistake {
    pub fn new(code: &'static str, at: Range<usize>, message: String) -> Mistake {
        Mistake { span: (at.start, at.end), code, message, label: String::new(), instead: None }
    }
}
