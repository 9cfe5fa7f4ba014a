//! The tables for people.

use std::fmt::Write;

use super::{Calibration, Evaluation, Method, OnRegions};
use crate::report::{new_table, right};
use crate::train::overlap::Overlap;

/// Of the tables, in columns of text.
const WIDTH: usize = 100;

/// The tables for people.
pub fn table(found: &Evaluation) -> String {
    let mut text = format!("{} units that training never saw\n\n", found.units);
    let number = |it: f64| if it.is_nan() { "-".to_owned() } else { format!("{it:.3}") };
    let maybe = |it: Option<f64>| it.map_or("-".to_owned(), number);

    let mut methods =
        new_table(WIDTH, &["method", "same layer", "all", "words: same", "all", "similarity"]);
    for Method { name, quality: it } in &found.methods {
        let (a, b) = (it.specificity, it.word_specificity);
        let numbers = [a.same_layer, a.all, b.same_layer, b.all, it.similarity].map(number);
        methods.add_row([vec![(*name).to_owned()], numbers.to_vec()].concat());
    }
    right(&mut methods, 1..6);
    let full = found.critic_full.map(|it| ("with the full sentence encoder", it));
    for (name, it) in [("the critic itself", found.critic)].into_iter().chain(full) {
        methods.add_row(vec![name.into(), number(it.same_layer), number(it.all)]);
    }
    let _ = writeln!(
        text,
        "Specificity: how often a description is closer to its own unit's people\n{methods}\n"
    );

    let mut concepts = new_table(
        WIDTH,
        &[
            "concept",
            "≥1 say",
            "AUROC",
            "precision",
            "recall",
            "≥2 say",
            "AUROC",
            "precision",
            "recall",
            "a person",
        ],
    );
    for it in &found.concepts {
        concepts.add_row(vec![
            it.name.to_owned(),
            it.units_any.to_string(),
            maybe(it.auroc_any),
            maybe(it.precision_any),
            maybe(it.recall_any),
            it.units_majority.to_string(),
            maybe(it.auroc_majority),
            maybe(it.precision_majority),
            maybe(it.recall_majority),
            maybe(it.auroc_one_person),
        ]);
    }
    right(&mut concepts, 1..10);
    let _ = writeln!(
        text,
        "AUROC of the critic, and of one person for what all the others named; precision and recall of the sentences\n{concepts}\n"
    );

    let calibration = &found.calibration;
    let mut bins = new_table(WIDTH, &["units", "confidence", "agreed"]);
    for it in &calibration.bins {
        bins.add_row(vec![it.n.to_string(), number(it.confidence), number(it.agreed)]);
    }
    right(&mut bins, 0..3);
    let sure = |it: &Calibration| {
        format!(
            "expected calibration error {} ({} if every confidence were right), AUROC {}",
            number(it.ece),
            number(it.ece_if_right),
            maybe(it.auroc)
        )
    };
    let full = found.calibration_full.as_ref();
    let full =
        full.map_or(String::new(), |it| format!("\nwith the full sentence encoder: {}", sure(it)));
    let _ = writeln!(
        text,
        "Confidence: {}\n{bins}{full}\n\nBLEU-4 {}",
        sure(calibration),
        number(found.bleu)
    );
    if !found.policies.is_empty() {
        let _ = writeln!(text, "\n{}", policies(found));
    }
    if !found.on_regions.is_empty() {
        let _ = writeln!(text, "\n{}", on_regions(&found.on_regions));
    }
    if !found.overlap.is_empty() {
        let _ = writeln!(text, "\n{}", overlap(&found.overlap));
    }
    for it in &found.misplaced {
        let _ = writeln!(text, "\nNothing is held against them: {it}.");
    }
    text
}

/// Whether the units that policies find fire where regions are that they speak of.
fn on_regions(policies: &[OnRegions]) -> String {
    let header = [
        "policy",
        "regions",
        "pictures",
        "of the area",
        "what counts",
        "units",
        "times the area",
        "times the others",
        "of those with most",
    ];
    let mut table = new_table(WIDTH, &header);
    let times = |it: Option<f64>| it.map_or("-".to_owned(), |it| format!("{it:.2}"));
    for it in policies {
        for (at, (kind, found)) in
            [("likely", &it.likely), ("possible", &it.possible)].into_iter().enumerate()
        {
            let first = |text: String| if at == 0 { text } else { String::new() };
            table.add_row(vec![
                first(it.policy.clone()),
                first(it.names.join(", ")),
                first(it.pictures.to_string()),
                first(format!("{:.3}", it.area)),
                kind.to_owned(),
                format!("{} of {}", found.units, it.units),
                times(found.times_area),
                times(found.times_others),
                format!("{} of {}", found.of_most, it.units_most),
            ]);
        }
    }
    right(&mut table, 2..4);
    right(&mut table, 5..9);
    format!(
        "Findings in the network, against where its units fire in pictures of whose regions none was learnt\n{table}\n\
         of those with most: of the hundredth of the units of which most is within the regions of all that they fire."
    )
}

/// Whether evidence finds the units that fire where things of a name are.
fn overlap(names: &[Overlap]) -> String {
    let number = |it: f64| format!("{it:.3}");
    let maybe = |it: Option<f64>| it.map_or("-".to_owned(), number);
    let header = [
        "phrase",
        "regions",
        "told",
        "best IoU",
        "wanted",
        "units",
        "AUROC",
        "average precision",
        "half",
        "other half",
    ];
    let mut table = new_table(WIDTH, &header);
    for it in names {
        table.add_row(vec![
            it.phrase.clone(),
            it.regions.to_string(),
            maybe(it.told),
            number(it.best),
            it.truth.to_owned(),
            it.units_true.to_string(),
            maybe(it.auroc),
            maybe(it.average_precision),
            maybe(it.auroc_half),
            maybe(it.auroc_other_half),
        ]);
    }
    right(&mut table, 1..4);
    right(&mut table, 5..10);
    format!(
        "Does the critic find the units of {} that fire on regions of a name?\n{table}\n\
         told: how often the critic finds a region likelier to be called so than a place beside one. half: how well it\n\
         finds those that overlap most with half of the pictures' regions; other half: how well the overlap with the\n\
         other half does.",
        names.first().map_or("", |it| it.network.as_str())
    )
}

/// What policies find, against what at least one person, and two, said.
fn policies(found: &Evaluation) -> String {
    let maybe = |it: Option<f64>| it.map_or("-".to_owned(), |it| format!("{it:.2}"));
    let header = [
        "policy, rule",
        "≥1 say",
        "≥2 say",
        "what counts",
        "found",
        "precision ≥1",
        "≥2",
        "recall ≥1",
        "≥2",
        "lift",
    ];
    let mut table = new_table(WIDTH, &header);
    let mut calibration = String::new();
    for it in &found.policies {
        let name = it.rule.as_ref().map_or(it.policy.clone(), |rule| format!("  {rule}"));
        let _ = writeln!(
            calibration,
            "{}: base rate {:.3}, calibration error {:.3} ({:.3} if every probability were right), AUROC {}",
            name.trim(),
            it.base_rate,
            it.calibration_error,
            it.calibration_error_if_right,
            maybe(it.auroc)
        );
        let kinds =
            [("likely", &it.likely), ("possible", &it.possible), ("words alone", &it.words)];
        for (at, (kind, quality)) in kinds.into_iter().enumerate() {
            let first = |text: String| if at == 0 { text } else { String::new() };
            table.add_row(vec![
                first(name.clone()),
                first(it.units_any.to_string()),
                first(it.units_majority.to_string()),
                kind.to_owned(),
                quality.found.to_string(),
                maybe(quality.precision_any),
                maybe(quality.precision_majority),
                maybe(quality.recall_any),
                maybe(quality.recall_majority),
                maybe(quality.lift),
            ]);
        }
    }
    right(&mut table, 1..3);
    right(&mut table, 4..10);
    format!(
        "Findings of policies, against the same rules on each person's sentence\n{table}\n{calibration}"
    )
}
