//! What people name: does the critic find its units, and do sentences name it?

use regex::Regex;
use serde::Serialize;

use crate::describe::milan::Milan;
use crate::describe::milan::look::Seen;
use crate::train::annotations::Annotated;
use crate::train::features::starts;
use crate::train::measures::{auroc, mean, precision_recall};

/// Something that people name: does the critic find its units, do the sentences name it?
#[derive(Debug, Serialize)]
pub struct Concept {
    pub name: &'static str,
    /// Units of which at least one person, at least two people, named it.
    pub units_any: usize,
    pub units_majority: usize,
    /// Of the critic's evidence.
    pub auroc_any: Option<f64>,
    pub auroc_majority: Option<f64>,
    /// Of one person, who named it or not, for the units that all the others named: the mean over who the one is.
    pub auroc_one_person: Option<f64>,
    /// Of the sentences, against at least one person, and two.
    pub precision_any: Option<f64>,
    pub recall_any: Option<f64>,
    pub precision_majority: Option<f64>,
    pub recall_majority: Option<f64>,
}

/// A name, the phrases whose evidence is asked for, and what people write.
const CONCEPTS: [(&str, &[&str], &str); 11] = [
    (
        "text",
        &["written text", "letters", "words"],
        r"\b(text|letters?|lettering|words?|writing|numbers?)\b",
    ),
    (
        "people",
        &["people", "a person"],
        r"\b(people|person|humans?|m[ae]n|wom[ae]n|child(ren)?|kids?)\b",
    ),
    ("faces", &["human faces", "faces of people"], r"\bfaces?\b"),
    ("dogs", &["dogs", "a dog"], r"\bdogs?\b"),
    ("birds", &["birds"], r"\bbirds?\b"),
    ("water", &["water"], r"\b(water|ocean|sea)\b"),
    ("vehicles", &["vehicles", "cars"], r"\b(vehicles?|cars?|trucks?|bus(es)?|trains?)\b"),
    ("food", &["food"], r"\b(foods?|fruits?|vegetables?)\b"),
    ("plants", &["plants", "leaves"], r"\b(plants?|leaf|leaves|trees?|flowers?|grass)\b"),
    ("red", &["red objects"], r"\bred\b"),
    ("lines", &["lines", "stripes"], r"\b(lines?|stripes?|striped)\b"),
];

/// Each of [`CONCEPTS`]; `said` are the sentences of the units.
pub(super) fn concepts(
    milan: &Milan,
    seen: &[Seen],
    units: &[Annotated],
    said: &[String],
) -> anyhow::Result<Vec<Concept>> {
    let starts = starts(seen);
    let all_phrases: Vec<&str> = CONCEPTS.iter().flat_map(|it| it.1).copied().collect();
    let all = milan.scores(seen, &all_phrases)?;
    let mut next = 0;
    let mut found = Vec::new();
    for (name, phrases, pattern) in CONCEPTS {
        let pattern = Regex::new(pattern)?;
        let own = next..next + phrases.len();
        next = own.end;
        let score = |it: &Annotated| all[starts[it.site] + it.row][own.clone()].iter().sum::<f32>();
        let scores: Vec<f32> = units.iter().map(score).collect();
        let named = |it: &Annotated| it.texts.iter().filter(|text| pattern.is_match(text)).count();
        let named: Vec<usize> = units.iter().map(named).collect();
        let at_least = |n: usize| -> Vec<bool> { named.iter().map(|it| n <= *it).collect() };
        let (any, majority) = (at_least(1), at_least(2));
        let says: Vec<bool> = said.iter().map(|it| pattern.is_match(&it.to_lowercase())).collect();
        let (precision_any, recall_any) = precision_recall(&says, &any);
        let (precision_majority, recall_majority) = precision_recall(&says, &majority);
        let count = |truth: &[bool]| truth.iter().filter(|it| **it).count();
        found.push(Concept {
            name,
            units_any: count(&any),
            units_majority: count(&majority),
            auroc_any: auroc(&scores, &any),
            auroc_majority: auroc(&scores, &majority),
            auroc_one_person: one_person_finds(units, &pattern),
            precision_any,
            recall_any,
            precision_majority,
            recall_majority,
        });
    }
    Ok(found)
}

fn one_person_finds(units: &[Annotated], pattern: &Regex) -> Option<f64> {
    let several = units.iter().filter(|it| 1 < it.texts.len());
    let named = several.map(|it| it.texts.iter().map(|text| pattern.is_match(text)).collect());
    let named: Vec<Vec<bool>> = named.collect();
    let finds = |one: usize| {
        let others = |it: &Vec<bool>| it.iter().enumerate().all(|(at, named)| at == one || *named);
        let units = named.iter().filter(|it| one < it.len());
        let (says, wanted): (Vec<f32>, Vec<bool>) =
            units.map(|it| (f32::from(u8::from(it[one])), others(it))).unzip();
        auroc(&says, &wanted)
    };
    let most = named.iter().map(Vec::len).max()?;
    mean((0..most).map(finds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Unit;

    #[test]
    fn one_person_finds_what_the_others_named() {
        let unit = |channel: usize, texts: &[&str]| Annotated {
            unit: Unit::new("layer1", channel),
            site: 0,
            row: channel,
            texts: texts.iter().map(|it| (*it).to_owned()).collect(),
            key: String::new(),
        };
        let dogs = Regex::new(r"\bdogs?\b").unwrap();
        let finds = |units: &[Annotated]| one_person_finds(units, &dogs);
        let agreed = unit(0, &["dogs", "a dog", "dog and cat"]);
        let nobody = unit(1, &["sky", "blue", "dogmas"]);
        // Whoever it is says "dog" of the one and not of the other.
        assert_eq!(finds(&[agreed.clone(), nobody.clone()]), Some(1.));
        // The first one misses what both others named; neither of those is missed by one alone.
        let missed = unit(2, &["fur", "dogs", "dogs"]);
        assert_eq!(finds(&[missed, nobody.clone()]), Some(0.5));
        // Nobody can be compared with anybody.
        assert_eq!(finds(&[unit(3, &["dogs"]), unit(4, &["sky"])]), None);
        assert_eq!(finds(&[nobody]), None);
    }
}
