//! What of a unit matches a rule, and how probable it is.

use serde::Serialize;

use super::matcher::Similarities;
use super::{Certainty, Rule};
use crate::unit::{Description, Judgement, Reading, Unit};

/// A unit that a rule matches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub unit: Unit,
    /// The reading that matched, and how sure it is.
    pub description: String,
    pub confidence: f32,
    /// What of the description matched.
    pub matched: String,
    /// That somebody who looks at the unit's exemplars says that the rule holds, 0..=1.
    pub probability: f32,
    pub certainty: Certainty,
    /// What the probability rests on; `None` where the words alone decide.
    pub judgement: Option<Judgement>,
}

/// What of a unit matches a rule: evidence that the rule asks for, else what the describer's critics judge probable,
/// else, where they do not judge, the first reading that is sure enough.
pub fn find(rule: &Rule, description: &Description, similar: &Similarities) -> Option<Finding> {
    let unit = description.unit.clone();
    let best = |otherwise: &str| {
        description.best().map_or_else(|| otherwise.to_owned(), |it| it.text.clone())
    };
    if let Some((phrase, score)) = rule.matcher.evident(&description.evidence) {
        return Some(Finding {
            unit,
            description: best(phrase),
            confidence: score,
            matched: format!("evidence of \"{phrase}\""),
            probability: score,
            certainty: Certainty::Likely,
            judgement: None,
        });
    }
    let said = said(rule, description, similar);
    let Some(judgement) = rule.judgement(description) else {
        let (reading, matched) = said?;
        return Some(Finding {
            unit,
            description: reading.text.clone(),
            confidence: reading.confidence,
            matched,
            probability: reading.confidence,
            certainty: Certainty::Likely,
            judgement: None,
        });
    };
    let certainty = Certainty::of(judgement.probability)?;
    let (text, confidence, matched) = match said {
        Some((reading, matched)) => (reading.text.clone(), reading.confidence, matched),
        None => {
            let confidence = description.best().map_or(0., |it| it.confidence);
            (best(&rule.id), confidence, "what its exemplars show".to_owned())
        }
    };
    Some(Finding {
        unit,
        description: text,
        confidence,
        matched,
        probability: judgement.probability,
        certainty,
        judgement: Some(*judgement),
    })
}

/// The first reading that is sure enough and speaks of what a rule looks for, and what of it does.
pub(super) fn said<'a>(
    rule: &Rule,
    description: &'a Description,
    similar: &Similarities,
) -> Option<(&'a Reading, String)> {
    let sure = description.readings.iter().filter(|it| rule.scope.min_confidence <= it.confidence);
    sure.filter_map(|it| Some((it, rule.matcher.find(&it.text, similar)?))).next()
}
