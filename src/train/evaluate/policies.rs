//! The rules of policies on units that training did not see: the truth is the same rule on each person's sentence.

use serde::Serialize;

use crate::describe::Concept;
use crate::describe::milan::Milan;
use crate::describe::milan::compose::Composer;
use crate::describe::milan::concepts::Concepts;
use crate::policy::{self, Certainty};
use crate::ruling;
use crate::train::annotations::Annotated;
use crate::train::concepts::{Judge, Subjects};
use crate::train::measures::{auroc, precision_recall};
use crate::train::reliability::{calibration_error, error_if_right};
use crate::unit::{Judgement, Reading};

/// How good the findings of a rule, or of all rules of a policy together, are.
#[derive(Debug, Serialize)]
pub struct PolicyQuality {
    pub policy: String,
    /// `None` is all rules of the policy: a unit is found when one of them finds it.
    pub rule: Option<String>,
    /// Units that at least one person's, at least two people's sentences match.
    pub units_any: usize,
    pub units_majority: usize,
    /// Of all units the share that at least one person's sentence matches, 0..=1.
    pub base_rate: f64,
    pub likely: FindingQuality,
    /// Likely ones are possible, too.
    pub possible: FindingQuality,
    /// What the best sentence alone would find.
    pub words: FindingQuality,
    /// Of the probability, against at least one person.
    pub calibration_error: f64,
    /// What it would be, on the average, if every probability were exactly right.
    pub calibration_error_if_right: f64,
    pub auroc: Option<f64>,
}

/// Findings against what people said.
#[derive(Debug, Serialize)]
pub struct FindingQuality {
    pub found: usize,
    pub precision_any: Option<f64>,
    pub recall_any: Option<f64>,
    pub precision_majority: Option<f64>,
    pub recall_majority: Option<f64>,
    /// Precision over the base rate.
    pub lift: Option<f64>,
}

impl FindingQuality {
    fn new(found: &[bool], named: &[usize]) -> FindingQuality {
        let at_least = |n: usize| -> Vec<bool> { named.iter().map(|it| n <= *it).collect() };
        let (any, majority) = (at_least(1), at_least(2));
        let (precision_any, recall_any) = precision_recall(found, &any);
        let (precision_majority, recall_majority) = precision_recall(found, &majority);
        let base = share(&any);
        FindingQuality {
            found: found.iter().filter(|it| **it).count(),
            precision_any,
            recall_any,
            precision_majority,
            recall_majority,
            lift: precision_any.filter(|_| 0. < base).map(|it| it / base),
        }
    }
}

/// Each policy, and each of its rules where there are several. `readings` are those of the units.
pub(super) fn policies(
    milan: &Milan,
    subjects: Subjects<'_>,
    readings: &[Vec<Reading>],
    names: &[String],
) -> anyhow::Result<Vec<PolicyQuality>> {
    let policies = names.iter().map(|it| policy::load(it, false));
    let policies = policies.collect::<anyhow::Result<Vec<_>>>()?;
    let concepts: Vec<Concept<'_>> = policies.iter().flat_map(ruling::concepts).collect();
    let composer = Composer::new(milan)?;
    let known = Concepts::new(milan, &composer, &concepts)?;
    let judged = Judge::new(&known, subjects)?.units(subjects, readings);
    let mut found = Vec::new();
    let mut first = 0;
    for policy in &policies {
        let all: Vec<usize> = (first..first + ruling::concepts(policy).len()).collect();
        first += all.len();
        let mut parts: Vec<(Option<String>, Vec<usize>)> = vec![(None, all.clone())];
        if 1 < all.len() {
            parts.extend(all.iter().map(|&it| (Some(concepts[it].name.clone()), vec![it])));
        }
        for (rule, own) in parts {
            let surest = |judgements: &Vec<Judgement>| {
                own.iter().map(|it| judgements[*it].probability).fold(0., f32::max)
            };
            let probabilities: Vec<f32> = judged.iter().map(surest).collect();
            let of: Vec<&Concept<'_>> = own.iter().map(|&it| &concepts[it]).collect();
            let units = subjects.units;
            found.push(quality(&policy.name, rule, &of, units, readings, &probabilities));
        }
    }
    Ok(found)
}

fn quality(
    policy: &str,
    rule: Option<String>,
    concepts: &[&Concept<'_>],
    units: &[Annotated],
    readings: &[Vec<Reading>],
    probabilities: &[f32],
) -> PolicyQuality {
    let speaks = |text: &str| concepts.iter().any(|it| (it.speaks)(text));
    let named: Vec<usize> =
        units.iter().map(|it| it.texts.iter().filter(|text| speaks(text)).count()).collect();
    let any: Vec<bool> = named.iter().map(|it| 0 < *it).collect();
    let at_least = |certainty: Certainty| -> Vec<bool> {
        let is = |it: &f32| Certainty::of(*it).is_some_and(|it| it <= certainty);
        probabilities.iter().map(is).collect()
    };
    let says: Vec<bool> =
        readings.iter().map(|it| it.first().is_some_and(|it| speaks(&it.text))).collect();
    PolicyQuality {
        policy: policy.to_owned(),
        rule,
        units_any: any.iter().filter(|it| **it).count(),
        units_majority: named.iter().filter(|it| 2 <= **it).count(),
        base_rate: share(&any),
        likely: FindingQuality::new(&at_least(Certainty::Likely), &named),
        possible: FindingQuality::new(&at_least(Certainty::Possible), &named),
        words: FindingQuality::new(&says, &named),
        calibration_error: calibration_error(probabilities, &any, 10),
        calibration_error_if_right: error_if_right(probabilities, 10),
        auroc: auroc(probabilities, &any),
    }
}

fn share(of: &[bool]) -> f64 {
    of.iter().filter(|it| **it).count() as f64 / of.len().max(1) as f64
}
