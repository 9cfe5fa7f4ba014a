//! How strongly each unit speaks for phrases that somebody asked about.

use super::{new_table, right};
use crate::unit::Description;

/// The units with the most evidence for each phrase, at most `most` of them, best first.
pub fn scores(
    descriptions: &[Description],
    phrases: &[String],
    most: usize,
    width: usize,
) -> String {
    let mut text = String::new();
    for phrase in phrases {
        let ranked = ranked(descriptions, phrase);
        let mut table = new_table(width, &["evidence", "unit", "description"]);
        for (score, it) in ranked.iter().take(most) {
            let said = it.best().map_or("-", |it| it.text.as_str());
            table.add_row([format!("{score:.2}"), it.unit.to_string(), said.to_owned()]);
        }
        right(&mut table, 0..1);
        let n = ranked.len();
        text.push_str(&format!(
            "\"{phrase}\": {} of {n} units\n{}\n\n",
            most.min(n),
            table.trim_fmt()
        ));
    }
    text.trim_end().to_owned() + "\n"
}

/// Columns: layer, unit, phrase, evidence; every unit, best first for each phrase.
pub fn scores_csv(descriptions: &[Description], phrases: &[String]) -> anyhow::Result<String> {
    let mut table = csv::Writer::from_writer(vec![]);
    table.write_record(["layer", "unit", "phrase", "evidence"])?;
    for phrase in phrases {
        for (score, it) in ranked(descriptions, phrase) {
            let (channel, score) = (it.unit.channel.to_string(), format!("{score:.4}"));
            table.write_record([it.unit.site.as_str(), &channel, phrase, &score])?;
        }
    }
    Ok(String::from_utf8(table.into_inner()?)?)
}

/// Units that are not dead, most evidence first; of equals in their order.
fn ranked<'a>(descriptions: &'a [Description], phrase: &str) -> Vec<(f32, &'a Description)> {
    let scored = descriptions.iter().filter_map(|it| Some((*it.evidence.get(phrase)?, it)));
    let mut scored: Vec<(f32, &Description)> = scored.collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{Reading, Status, Unit};

    #[test]
    fn the_most_evidence_comes_first_and_the_dead_are_left_out() {
        let unit = |channel: usize, score: Option<f32>| Description {
            unit: Unit::new("a", channel),
            status: Status::Described,
            readings: vec![Reading { text: format!("say {channel}"), confidence: 0.5 }],
            evidence: score.map(|it| ("dogs".to_owned(), it)).into_iter().collect(),
            judged: Default::default(),
        };
        let units = [unit(0, Some(0.25)), unit(1, None), unit(2, Some(0.75))];
        let csv = scores_csv(&units, &["dogs".into()]).unwrap();
        assert_eq!(csv, "layer,unit,phrase,evidence\na,2,dogs,0.7500\na,0,dogs,0.2500\n");
        let text = scores(&units, &["dogs".into()], 1, 60);
        assert!(text.starts_with("\"dogs\": 1 of 2 units\n") && text.contains("say 2"), "{text}");
        assert!(!text.contains("say 0"), "{text}");
    }
}
