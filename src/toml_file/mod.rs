//! TOML files that users write: walked with their places, so that all mistakes are found at once.
//!
//! An unknown key is a mistake: a misspelt limit must not pass as no limit.

pub mod mistakes;

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use mistakes::{Mistake, Mistakes, place};

pub type Table<'a> = DeTable<'a>;
pub type Value<'a> = Spanned<DeValue<'a>>;

/// Reads values of the types that are wanted, and keeps on after a mistake.
#[derive(Debug, Default)]
pub struct Walker {
    pub mistakes: Vec<Mistake>,
}

/// The file's table, and a walker that knows its mistakes of syntax.
pub fn parse(text: &str) -> (Spanned<Table<'_>>, Walker) {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut walker = Walker::default();
    for error in syntax {
        walker.mistake(mistakes::SYNTAX, error.span().unwrap_or(0..0), error.message().to_owned());
    }
    (table, walker)
}

impl Walker {
    pub fn mistake(&mut self, code: &'static str, at: Range<usize>, message: String) {
        self.mistakes.push(Mistake::new(code, at, message));
    }

    /// A mistake about something that is none of a few known ones.
    pub fn unknown(
        &mut self,
        code: &'static str,
        at: Range<usize>,
        message: String,
        found: &str,
        known: &[&str],
    ) {
        let instead = closest(found, known).map(str::to_owned);
        self.mistakes.push(Mistake { instead, ..Mistake::new(code, at, message) });
    }

    /// Errs on every key that is not among `known`.
    pub fn keys(&mut self, table: &Table<'_>, known: &[&str], place: &str) {
        for (key, _) in table.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let message = format!("unknown key `{name}` in {place}");
            self.unknown("unknown-key", key.span(), message, name, known);
        }
    }

    pub fn wrong_type(&mut self, value: &Value<'_>, wanted: &str) {
        let message = format!("wanted {wanted}, found {}", a_kind(value));
        self.mistake("wrong-type", value.span(), message);
    }

    pub fn text(&mut self, table: &Table<'_>, key: &str) -> Option<String> {
        let value = table.get(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(value, "a text");
        }
        text.map(str::to_owned)
    }

    pub fn table<'a, 'b>(&mut self, table: &'a Table<'b>, key: &str) -> Option<&'a Table<'b>> {
        let value = table.get(key)?;
        let found = value.get_ref().as_table();
        if found.is_none() {
            self.wrong_type(value, "a table");
        }
        found
    }

    pub fn array<'a, 'b>(&mut self, table: &'a Table<'b>, key: &str) -> &'a [Value<'b>] {
        let Some(value) = table.get(key) else { return &[] };
        match value.get_ref().as_array() {
            Some(array) => array,
            None => {
                self.wrong_type(value, "a list");
                &[]
            }
        }
    }

    /// Texts, none of them empty; an empty list is a mistake too.
    pub fn texts(&mut self, table: &Table<'_>, key: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for value in self.array(table, key) {
            match value.get_ref().as_str() {
                Some("") => {
                    self.mistake("empty", value.span(), "an empty text matches nothing".into());
                }
                Some(text) => texts.push(text.to_owned()),
                None => self.wrong_type(value, "a text"),
            }
        }
        if let Some(value) = table.get(key)
            && value.get_ref().as_array().is_some_and(|it| it.is_empty())
        {
            self.mistake("empty", value.span(), "an empty list matches nothing".into());
        }
        texts
    }

    pub fn flag(&mut self, table: &Table<'_>, key: &str) -> Option<bool> {
        let value = table.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type(value, "true or false");
        }
        flag
    }

    pub fn count(&mut self, table: &Table<'_>, key: &str) -> Option<usize> {
        let value = table.get(key)?;
        let count = value
            .get_ref()
            .as_integer()
            .and_then(|it| usize::from_str_radix(it.as_str(), it.radix()).ok());
        if count.is_none() {
            self.wrong_type(value, "a whole number from 0");
        }
        count
    }

    /// A number between the two, both included.
    pub fn number(&mut self, table: &Table<'_>, key: &str, low: f64, high: f64) -> Option<f64> {
        let value = table.get(key)?;
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
            _ => None,
        };
        let number = number.filter(|it| (low..=high).contains(it));
        if number.is_none() {
            self.wrong_type(value, &format!("a number between {low} and {high}"));
        }
        number
    }

    pub fn share(&mut self, table: &Table<'_>, key: &str) -> Option<f64> {
        self.number(table, key, 0., 1.)
    }

    /// One of a few words, with what each means.
    pub fn choice<T: Copy>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let value = table.get(key)?;
        self.text(table, key)?;
        self.one_of(value, key, choices)
    }

    /// The same of a value that stands alone.
    pub fn one_of<T: Copy>(
        &mut self,
        value: &Value<'_>,
        what: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(value, "a text");
            return None;
        };
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let message = format!("`{text}` is no {what}; there are {}", names.join(", "));
            self.unknown("unknown-value", value.span(), message, text, &names);
        }
        found
    }
}

/// What a value is, in words.
fn a_kind(value: &Value<'_>) -> String {
    match value.get_ref() {
        DeValue::String(text) => format!("the text \"{text}\""),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Boolean(it) => it.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The only known name that a misspelt one is a part of, or else the one that it is most like, if it is like any.
pub fn closest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let mut wholes = known.iter().filter(|it| it.split('-').any(|part| part == found));
    if let (Some(name), None) = (wholes.next(), wholes.next()) {
        return Some(name);
    }
    let alike = |name: &str| strsim::jaro_winkler(name, found);
    let best = known.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (0.75 < alike(best)).then_some(*best)
}
