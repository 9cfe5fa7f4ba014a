//! What a policy wants besides its rules: that enough is known, that an edit costs little and does what it says.

use serde::{Deserialize, Serialize};

use super::Level;
use super::check::CheckStatus;

/// The `[gate]` of a policy.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Gates {
    /// Units that nothing is known of though they fire, saturated ones among them, of all that were looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_share: Option<Share>,
    /// Units that never change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_share: Option<Share>,
    /// Values of the weights that are NaN or infinite.
    pub nan: Level,
    /// A rule in whose scope there is no unit; `None`: the run is inconclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unused_rule: Option<Level>,
    /// A layer pattern that matches nothing that was looked at, in a rule whose other patterns do.
    pub unmatched_layers: Level,
    pub unused_exception: Level,
    pub expired_exception: Level,
    /// Days before an exception ends in which that is said.
    pub expiring_soon: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<AccuracyGate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<EffectGate>,
    /// The edited model is described again: nothing that an edit should remove may match any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residual: Option<Level>,
}

/// A share that must not be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Share {
    /// 0..=1.
    pub max: f64,
    pub level: Level,
}

/// What an edit may cost on the main test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AccuracyGate {
    pub level: Level,
    pub metric: Metric,
    /// By what units are important.
    pub importance: Importance,
    /// With fewer labelled pictures nothing is concluded.
    pub min_images: usize,
    /// Absolute, 0..=1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_drop: Option<f64>,
    /// What the drop may be at the worse end of its 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_drop_upper: Option<f64>,
    /// Of any single class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_class_drop: Option<f64>,
}

impl AccuracyGate {
    /// Whether anything is to be held; it may only say how importance is measured.
    pub fn asks(&self) -> bool {
        self.max_drop.or(self.max_drop_upper).or(self.max_class_drop).is_some()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    Top1,
    Top5,
}

/// How important a unit is, and what is measured for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Importance {
    /// The top-1 that zeroing it alone costs (Hernandez et al. 2022, section 7).
    Ablation,
    /// The length of its own weights, of the longest of its layer.
    WeightNorm,
    /// Its activation quantile, of the greatest of its layer.
    Activation,
}

/// Whether an edit does what any edit of the size would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EffectGate {
    pub level: Level,
    /// How often as many random units are deleted.
    pub random_controls: usize,
    /// By how much top-1 must be better than the mean with random units deleted, 0..=1.
    pub min_gap: f64,
    /// On which test; `None`: on any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
}

/// What a policy that says nothing wants.
impl Default for Gates {
    fn default() -> Gates {
        Gates {
            unknown_share: None,
            dead_share: None,
            nan: Level::Deny,
            unused_rule: None,
            unmatched_layers: Level::Warn,
            unused_exception: Level::Warn,
            expired_exception: Level::Warn,
            expiring_soon: 14,
            accuracy: None,
            effect: None,
            residual: None,
        }
    }
}

impl Gates {
    /// Sets the level of a gate by its id; `false` where there is none of that name.
    pub(super) fn set_level(&mut self, id: &str, level: Level) -> bool {
        let place = match id {
            "nan" => &mut self.nan,
            "unmatched-layers" => &mut self.unmatched_layers,
            "unused-exception" => &mut self.unused_exception,
            "expired-exception" => &mut self.expired_exception,
            "unused-rule" => self.unused_rule.get_or_insert(level),
            "residual" => self.residual.get_or_insert(level),
            "unknown-share" | "dead-share" => {
                let share = if id == "unknown-share" {
                    &mut self.unknown_share
                } else {
                    &mut self.dead_share
                };
                match share {
                    Some(share) => &mut share.level,
                    None => return false,
                }
            }
            "accuracy" => match &mut self.accuracy {
                Some(gate) => &mut gate.level,
                None => return false,
            },
            "effect" => match &mut self.effect {
                Some(gate) => &mut gate.level,
                None => return false,
            },
            _ => return false,
        };
        *place = level;
        true
    }
}

/// Something other than a rule that was held against a limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// As `[gate]` names it.
    pub id: String,
    pub level: Level,
    pub status: CheckStatus,
    /// In the unit of `observed`; `None` where the gate has no number.
    pub limit: Option<f64>,
    pub observed: Option<f64>,
    /// Empty when passed.
    pub why: String,
}

impl Gate {
    /// Passed unless there is a reason against it.
    pub fn new(
        id: &str,
        level: Level,
        limit: Option<f64>,
        observed: Option<f64>,
        why: Option<String>,
    ) -> Gate {
        let status = match (&why, level) {
            (None, _) | (_, Level::Allow) => CheckStatus::Passed,
            (_, Level::Deny) => CheckStatus::Violated,
            (_, Level::Warn) => CheckStatus::Warned,
        };
        Gate { id: id.to_owned(), level, status, limit, observed, why: why.unwrap_or_default() }
    }

    /// What could not be held against its limit.
    pub fn inconclusive(id: &str, level: Level, limit: Option<f64>, why: String) -> Gate {
        let status = match level {
            Level::Allow => CheckStatus::Skipped,
            _ => CheckStatus::Inconclusive,
        };
        Gate { id: id.to_owned(), level, status, limit, observed: None, why }
    }

    /// What this run does not measure.
    pub fn skipped(id: &str, level: Level, why: &str) -> Gate {
        Gate {
            id: id.to_owned(),
            level,
            status: CheckStatus::Skipped,
            limit: None,
            observed: None,
            why: why.to_owned(),
        }
    }
}

/// How much of a network something is known of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    pub units: usize,
    pub unknown: usize,
    pub dead: usize,
    pub saturated: usize,
}

/// The gates on what was looked at.
pub(super) fn on_known(gates: &Gates, known: Known) -> Vec<Gate> {
    let unknown = if known.saturated == 0 { "are unknown" } else { "are unknown or saturated" };
    let shares = [
        ("unknown-share", gates.unknown_share, known.unknown + known.saturated, unknown),
        ("dead-share", gates.dead_share, known.dead, "are dead"),
    ];
    let gate = |(id, share, n, are): (&str, Option<Share>, usize, &str)| {
        let Share { max, level } = share?;
        if known.units == 0 {
            return Some(Gate::inconclusive(id, level, Some(max), "no unit was looked at".into()));
        }
        let observed = n as f64 / known.units as f64;
        let why = || {
            let all = known.units;
            let (found, allowed) = (100. * observed, 100. * max);
            format!("{n} of {all} units {are} ({found:.1} %), {allowed:.1} % allowed")
        };
        Some(Gate::new(id, level, Some(max), Some(observed), (max < observed).then(why)))
    };
    shares.into_iter().filter_map(gate).collect()
}

/// Gates that only an edit can be held against; an audit names them as skipped.
pub(super) fn of_edits(gates: &Gates) -> Vec<Gate> {
    let why = "milan-edit holds this against an edit";
    let accuracy = gates.accuracy.filter(AccuracyGate::asks);
    let mut skipped = Vec::new();
    skipped.extend(accuracy.map(|it| Gate::skipped("accuracy", it.level, why)));
    skipped.extend(gates.effect.as_ref().map(|it| Gate::skipped("effect", it.level, why)));
    skipped.extend(gates.residual.map(|it| Gate::skipped("residual", it, why)));
    skipped
}

/// A list in words: the first few, and how many there are.
pub(super) fn some<T: ToString>(them: &[T]) -> String {
    let shown: Vec<String> = them.iter().take(3).map(T::to_string).collect();
    let more = if shown.len() < them.len() {
        format!(" and {} more", them.len() - 3)
    } else {
        String::new()
    };
    shown.join(", ") + &more
}
