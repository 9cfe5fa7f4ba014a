//! Units that a rule lets pass: for which model, until when, and whether that was of any use.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::gates::{Gate, some};
use super::{Exception, Gates, Level};
use crate::unit::Unit;

/// What became of an exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExceptionStatus {
    Used,
    /// It covers no unit that its rule matches.
    Unused,
    Expired,
    /// It holds for a model with another sha256.
    OtherModel,
}

/// An exception, and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionOutcome {
    pub rule: String,
    /// Patterns, as written.
    pub units: Vec<String>,
    pub model: Option<String>,
    pub reason: String,
    /// A day, `2026-12-31`, or `never`.
    pub expires: String,
    pub approved_by: Option<String>,
    pub status: ExceptionStatus,
    /// The units that it takes out.
    pub covered: Vec<Unit>,
}

impl ExceptionOutcome {
    /// Before any unit was held against it.
    pub(super) fn new(exception: &Exception, model: &[String], today: Date) -> ExceptionOutcome {
        let status = match exception.expires {
            _ if !is_of(exception, model) => ExceptionStatus::OtherModel,
            Some(day) if day < today => ExceptionStatus::Expired,
            _ => ExceptionStatus::Unused,
        };
        ExceptionOutcome {
            rule: exception.rule.clone(),
            units: exception.units.iter().map(ToString::to_string).collect(),
            model: exception.model.clone(),
            reason: exception.reason.clone(),
            expires: exception.expires.map_or_else(|| "never".to_owned(), |it| it.to_string()),
            approved_by: exception.approved_by.clone(),
            status,
            covered: vec![],
        }
    }

    /// Whether it takes this unit out of a rule's findings; notes that it did.
    pub(super) fn takes(&mut self, exception: &Exception, rule: &str, unit: &Unit) -> bool {
        let holds = matches!(self.status, ExceptionStatus::Unused | ExceptionStatus::Used);
        if !holds || exception.rule != rule || !exception.units.iter().any(|it| it.matches(unit)) {
            return false;
        }
        self.status = ExceptionStatus::Used;
        self.covered.push(unit.clone());
        true
    }
}

/// The gates on exceptions that do nothing, or soon will not.
pub(super) fn gates(
    gates: &Gates,
    exceptions: &[Exception],
    outcomes: &[ExceptionOutcome],
    today: Date,
) -> Vec<Gate> {
    let named = |it: &ExceptionOutcome| format!("{} ({})", it.units.join(", "), it.rule);
    let of = |status: ExceptionStatus| -> Vec<String> {
        outcomes.iter().filter(|it| it.status == status).map(named).collect()
    };
    let count = |id: &str, level: Level, them: Vec<String>, what: &str| {
        let n = them.len() as f64;
        let why = (!them.is_empty()).then(|| format!("{what}: {}", some(&them)));
        Gate::new(id, level, Some(0.), Some(n), why)
    };
    if exceptions.is_empty() {
        return vec![];
    }
    let soon = outcomes.iter().zip(exceptions).filter_map(|(outcome, exception)| {
        let left = (exception.expires? - today).get_days();
        let ends =
            outcome.status == ExceptionStatus::Used && i64::from(left) <= gates.expiring_soon;
        ends.then(|| format!("{} on {}", named(outcome), outcome.expires))
    });
    vec![
        count(
            "unused-exception",
            gates.unused_exception,
            of(ExceptionStatus::Unused),
            "exceptions that cover no matching unit",
        ),
        count(
            "expired-exception",
            gates.expired_exception,
            of(ExceptionStatus::Expired),
            "exceptions that have expired",
        ),
        count("expiring-soon", Level::Warn, soon.collect(), "exceptions that end soon"),
    ]
}

/// Whether an exception speaks of the model with files of these sha256.
fn is_of(exception: &Exception, model: &[String]) -> bool {
    let prefix = exception.model.as_deref().map(|it| it.trim_start_matches("sha256:"));
    prefix.is_none_or(|prefix| model.iter().any(|it| it.starts_with(prefix)))
}
