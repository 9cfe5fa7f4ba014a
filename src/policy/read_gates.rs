//! The `[gate]` and the exceptions of a policy file.

use std::ops::Range;

use jiff::civil::Date;
use toml::de::DeValue;

use super::gates::{AccuracyGate, EffectGate, Importance, Metric, Share};
use super::read::{LEVELS, Reader};
use super::{Exception, Gates, Level, Policy, UnitPattern};
use crate::toml_file::{Table, Value, Walker};

impl Reader<'_> {
    pub(super) fn gates(&mut self, table: &Table<'_>, gates: &mut Gates) {
        let known = [
            "unknown-share",
            "dead-share",
            "nan",
            "unused-rule",
            "unmatched-layers",
            "unused-exception",
            "expired-exception",
            "expiring-soon",
            "accuracy",
            "effect",
            "residual",
        ];
        self.walker.keys(table, &known, "[gate]");
        let walker = &mut self.walker;
        gates.unknown_share = share(walker, table, "unknown-share").or(gates.unknown_share);
        gates.dead_share = share(walker, table, "dead-share").or(gates.dead_share);
        for (key, level) in [
            ("nan", &mut gates.nan),
            ("unmatched-layers", &mut gates.unmatched_layers),
            ("unused-exception", &mut gates.unused_exception),
            ("expired-exception", &mut gates.expired_exception),
        ] {
            *level = walker.choice(table, key, &LEVELS).unwrap_or(*level);
        }
        gates.unused_rule = walker.choice(table, "unused-rule", &LEVELS).or(gates.unused_rule);
        if let Some(text) = walker.text(table, "expiring-soon") {
            let days = text.parse::<jiff::Span>().ok().filter(only_days);
            match days {
                Some(span) => {
                    gates.expiring_soon =
                        i64::from(span.get_days()) + 7 * i64::from(span.get_weeks());
                }
                None => {
                    let message = format!("`{text}` is no number of days; wanted one such as P14D");
                    walker.mistake("wrong-type", table["expiring-soon"].span(), message);
                }
            }
        }
        if let Some(it) = walker.table(table, "accuracy") {
            gates.accuracy = Some(accuracy(walker, it, gates.accuracy));
        }
        if let Some(it) = walker.table(table, "effect") {
            gates.effect = Some(effect(walker, it, gates.effect.take()));
        }
        if let Some(it) = walker.table(table, "residual") {
            walker.keys(it, &["level"], "[gate.residual]");
            gates.residual = walker.choice(it, "level", &LEVELS).or(Some(Level::Deny));
        }
    }

    pub(super) fn exception(
        &mut self,
        table: &Table<'_>,
        at: Range<usize>,
        policy: &Policy,
    ) -> Option<Exception> {
        let known = ["rule", "units", "model", "reason", "expires", "approved-by"];
        self.walker.keys(table, &known, "[[exception]]");
        for key in ["rule", "units", "reason", "expires"] {
            if !table.contains_key(key) {
                let message = match key {
                    "expires" => "the exception has no `expires`; a day such as 2026-12-31, or \"never\" written out".to_owned(),
                    _ => format!("the exception has no `{key}`"),
                };
                self.mistake("missing-key", at.clone(), message);
            }
        }
        let rule = self.walker.text(table, "rule");
        if let Some(rule) = &rule
            && policy.rules.iter().all(|it| it.id != *rule)
        {
            let names: Vec<&str> = policy.rules.iter().map(|it| it.id.as_str()).collect();
            let message = format!("there is no rule `{rule}` for the exception");
            self.walker.unknown("unknown-rule", table["rule"].span(), message, rule, &names);
        }
        let mut units = Vec::new();
        if table.contains_key("units") && self.walker.array(table, "units").is_empty() {
            self.mistake("empty", table["units"].span(), "the exception names no units".into());
        }
        for value in self.walker.array(table, "units") {
            match value.get_ref().as_str().map(UnitPattern::new) {
                Some(Ok(pattern)) => units.push(pattern),
                Some(Err(message)) => self.mistake("bad-unit", value.span(), message),
                None => self.walker.wrong_type(value, "a text such as `layer4.1:37`"),
            }
        }
        let reason = self.walker.text(table, "reason");
        if reason.as_ref().is_some_and(|it| it.trim().is_empty()) {
            let message = "an exception wants a reason that a reader can check";
            self.mistake("empty", table["reason"].span(), message.into());
        }
        let model = self.walker.text(table, "model");
        if let Some(model) = &model {
            let hex = model.strip_prefix("sha256:").unwrap_or_default();
            if hex.len() < 8 || 64 < hex.len() || !hex.bytes().all(|it| it.is_ascii_hexdigit()) {
                let message = format!(
                    "`{model}` names no model; wanted `sha256:` and at least 8 digits of the file's sha256"
                );
                self.mistake("bad-model", table["model"].span(), message);
            }
        }
        let expires = table.get("expires").and_then(|value| self.day(value));
        let approved_by = self.walker.text(table, "approved-by");
        let model = model.map(|it| it.to_ascii_lowercase());
        Some(Exception {
            rule: rule?,
            units,
            model,
            reason: reason?,
            expires: expires?,
            approved_by,
        })
    }

    /// A day, or `Some(None)` for `never`.
    fn day(&mut self, value: &Value<'_>) -> Option<Option<Date>> {
        let day = match value.get_ref() {
            DeValue::String(text) if text == "never" => return Some(None),
            DeValue::Datetime(it) if it.time.is_none() => it.date,
            _ => None,
        };
        let day = day.and_then(|it| Date::new(it.year as i16, it.month as i8, it.day as i8).ok());
        let is_known = self.walker.mistakes.iter().any(|it| it.span.0 == value.span().start);
        if day.is_none() && !is_known {
            self.walker.wrong_type(value, "a day such as 2026-12-31, or \"never\"");
        }
        day.map(Some)
    }
}

fn only_days(span: &jiff::Span) -> bool {
    let days = jiff::Span::new().weeks(span.get_weeks()).days(span.get_days());
    span.fieldwise() == days.fieldwise() && !span.is_negative()
}

/// `{ max = 0.2, level = "warn" }`
fn share(walker: &mut Walker, table: &Table<'_>, key: &str) -> Option<Share> {
    let it = walker.table(table, key)?;
    walker.keys(it, &["max", "level"], key);
    let level = walker.choice(it, "level", &LEVELS).unwrap_or(Level::Deny);
    if !it.contains_key("max") {
        walker.mistake("missing-key", table[key].span(), format!("{key} wants `max`"));
    }
    Some(Share { max: walker.share(it, "max")?, level })
}

/// What is not named stays as it was `before`, where it is included.
fn accuracy(walker: &mut Walker, table: &Table<'_>, before: Option<AccuracyGate>) -> AccuracyGate {
    let before = before.unwrap_or(AccuracyGate {
        level: Level::Deny,
        metric: Metric::Top1,
        importance: Importance::Ablation,
        min_images: 1,
        max_drop: None,
        max_drop_upper: None,
        max_class_drop: None,
    });
    let known = [
        "level",
        "metric",
        "importance",
        "min-images",
        "max-drop",
        "max-drop-upper",
        "max-class-drop",
    ];
    walker.keys(table, &known, "[gate.accuracy]");
    let importances = [
        ("ablation", Importance::Ablation),
        ("weight-norm", Importance::WeightNorm),
        ("activation", Importance::Activation),
    ];
    let metrics = [("top1", Metric::Top1), ("top5", Metric::Top5)];
    let metric = walker.choice(table, "metric", &metrics).unwrap_or(before.metric);
    if metric == Metric::Top5 && table.contains_key("max-drop-upper") {
        let message = "the interval is measured for top1 only".to_owned();
        walker.mistake("misplaced", table["max-drop-upper"].span(), message);
    }
    AccuracyGate {
        level: walker.choice(table, "level", &LEVELS).unwrap_or(before.level),
        metric,
        importance: walker.choice(table, "importance", &importances).unwrap_or(before.importance),
        min_images: walker.count(table, "min-images").unwrap_or(before.min_images),
        max_drop: walker.share(table, "max-drop").or(before.max_drop),
        max_drop_upper: walker.share(table, "max-drop-upper").or(before.max_drop_upper),
        max_class_drop: walker.share(table, "max-class-drop").or(before.max_class_drop),
    }
}

fn effect(walker: &mut Walker, table: &Table<'_>, before: Option<EffectGate>) -> EffectGate {
    let before = before.unwrap_or(EffectGate {
        level: Level::Deny,
        random_controls: 3,
        min_gap: 0.,
        test: None,
    });
    walker.keys(table, &["level", "random-controls", "min-gap", "test"], "[gate.effect]");
    EffectGate {
        level: walker.choice(table, "level", &LEVELS).unwrap_or(before.level),
        random_controls: walker
            .count(table, "random-controls")
            .unwrap_or(before.random_controls)
            .max(1),
        min_gap: walker.share(table, "min-gap").unwrap_or(before.min_gap),
        test: walker.text(table, "test").or(before.test),
    }
}
