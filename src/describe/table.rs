//! Descriptions made elsewhere, and the `descriptions.csv` of a run.
//!
//! Read are tables with the columns `layer`, `unit` and one of `description`, `caption`, `label`, in any
//! order and with others beside them (MILAN, CLIP-Dissect, our own), and Describe-and-Dissect's
//! `Neuron ID`, `Label 1`, `Label 2`, … where one layer is looked at. A column `confidence` is taken as
//! such; a similarity is no probability, so without that column every description counts fully.

use std::collections::BTreeSet;
use std::path::Path;

use super::Readings;
use crate::exemplars::Exemplars;
use crate::unit::{Description, Reading, Status, Unit};
use crate::{files, usage};

/// Where a table has what.
struct Columns {
    layer: Option<usize>,
    unit: usize,
    /// Text and, if known, confidence; best first.
    readings: Vec<(usize, Option<usize>)>,
}

/// The descriptions of the units in `exemplars`; units that a table does not name stay unnamed.
///
/// Errs with the line on malformed rows, and when the table names units that the network does not have.
pub(super) fn read(path: &Path, exemplars: &Exemplars) -> anyhow::Result<Readings> {
    let mut readings = Readings::new();
    let mut strangers = Vec::new();
    for row in rows(path)? {
        let Row { line, layer, channel, texts } = row;
        let site = match (&layer, exemplars.sites.as_slice()) {
            (Some(layer), _) => exemplars.site(layer),
            (None, [only]) => Some(only),
            (None, sites) => {
                return Err(usage!(
                    "{} has no column `layer`, and {} layers are looked at; name one with --layers",
                    path.display(),
                    sites.len()
                ));
            }
        };
        // A table may describe more layers than are looked at now.
        let Some(site) = site else { continue };
        if site.n_units <= channel {
            strangers.push(format!("{}:{channel} (line {line})", site.site));
            continue;
        }
        if readings.insert(Unit::new(&site.site, channel), texts).is_some() {
            return Err(usage!(
                "{}:{line}: unit {}:{channel} is described twice",
                path.display(),
                site.site
            ));
        }
    }
    if !strangers.is_empty() {
        return Err(usage!(
            "{} describes {} units that the network does not have: {}",
            path.display(),
            strangers.len(),
            strangers.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
        ));
    }
    if readings.is_empty() {
        return Err(usage!(
            "{} describes none of the layers looked at: {}",
            path.display(),
            site_names(exemplars)
        ));
    }
    Ok(readings)
}

/// The layers that a table describes, each once, in the order of the table.
pub fn layers(path: &Path) -> anyhow::Result<Vec<String>> {
    let mut seen = BTreeSet::new();
    let layers = rows(path)?.into_iter().filter_map(|row| row.layer);
    Ok(layers.filter(|layer| seen.insert(layer.clone())).collect())
}

/// A run's `descriptions.csv`. `importance` gives a unit's, where it was measured.
pub fn write(
    descriptions: &[Description],
    importance: impl Fn(&Unit) -> Option<f64>,
) -> anyhow::Result<String> {
    let mut table = csv::Writer::from_writer(vec![]);
    table.write_record([
        "layer",
        "unit",
        "description",
        "confidence",
        "importance",
        "status",
        "description_2",
        "confidence_2",
        "description_3",
        "confidence_3",
    ])?;
    for description in descriptions {
        let reading = |place: usize| match description.readings.get(place) {
            Some(reading) => [reading.text.clone(), format!("{:.3}", reading.confidence)],
            None => [String::new(), String::new()],
        };
        let status = match description.status {
            Status::Described => "described",
            Status::Unknown => "unknown",
            Status::Dead => "dead",
            Status::Saturated => "saturated",
        };
        let [text, confidence] = reading(0);
        let importance =
            importance(&description.unit).map_or(String::new(), |it| format!("{it:.6}"));
        let mut record = vec![
            description.unit.site.clone(),
            description.unit.channel.to_string(),
            text,
            confidence,
            importance,
            status.to_owned(),
        ];
        record.extend([1, 2].into_iter().flat_map(reading));
        table.write_record(record)?;
    }
    Ok(String::from_utf8(table.into_inner()?)?)
}

/// Characters of a description; policies go through its words from each to each.
const LONGEST: usize = 2000;

struct Row {
    line: u64,
    layer: Option<String>,
    channel: usize,
    texts: Vec<Reading>,
}

fn rows(path: &Path) -> anyhow::Result<Vec<Row>> {
    let bytes = files::read(path, files::MAX_DATA)
        .map_err(|error| usage!("cannot read the descriptions in {}: {error}", path.display()))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let at = |error: &csv::Error| match error.position() {
        Some(position) => format!("{}:{}", path.display(), position.line()),
        None => path.display().to_string(),
    };
    let broken = |error: csv::Error| match error.kind() {
        csv::ErrorKind::Utf8 { .. } => usage!("{}: the text is not UTF-8", at(&error)),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            usage!("{}: {len} columns, the header has {expected_len}", at(&error))
        }
        _ => usage!("{}: {error}", at(&error)),
    };
    let mut reader = csv::ReaderBuilder::new().from_reader(bytes);
    let columns = columns(reader.headers().map_err(broken)?, path)?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(broken)?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |column: usize| record.get(column).unwrap_or_default().trim();
        let channel = field(columns.unit).parse().map_err(|_| {
            usage!("{}:{line}: `{}` is no unit number", path.display(), field(columns.unit))
        })?;
        let mut texts = Vec::new();
        for &(text, confidence) in &columns.readings {
            let confidence = match confidence.map(field) {
                None | Some("") => 1.,
                Some(value) => {
                    value.parse::<f32>().ok().filter(|it| (0.0..=1.).contains(it)).ok_or_else(
                        || {
                            usage!(
                                "{}:{line}: `{value}` is no confidence between 0 and 1",
                                path.display()
                            )
                        },
                    )?
                }
            };
            let n = field(text).chars().count();
            if LONGEST < n {
                return Err(usage!(
                    "{}:{line}: a description of {n} characters is none; {LONGEST} are read at most",
                    path.display()
                ));
            }
            // A text without a letter, such as a dash, describes nothing.
            if field(text).chars().any(char::is_alphanumeric) {
                texts.push(Reading { text: field(text).to_owned(), confidence });
            }
        }
        rows.push(Row {
            line,
            layer: columns.layer.map(|column| field(column).to_owned()),
            channel,
            texts,
        });
    }
    Ok(rows)
}

fn columns(header: &csv::StringRecord, path: &Path) -> anyhow::Result<Columns> {
    let names: Vec<String> = header.iter().map(|name| name.trim().to_lowercase()).collect();
    let find = |wanted: &[&str]| {
        wanted.iter().find_map(|wanted| names.iter().position(|name| name == wanted))
    };
    let unit = find(&["unit", "neuron id", "neuron"]);
    let first = find(&["description", "caption", "label", "summary", "label 1"]);
    let (Some(unit), Some(first)) = (unit, first) else {
        return Err(usage!(
            "{}:1: wanted the columns layer, unit and description (or caption); found {}",
            path.display(),
            header.iter().collect::<Vec<_>>().join(", ")
        ));
    };
    let mut readings = vec![(first, find(&["confidence"]))];
    for (text, confidence) in [
        ("description_2", "confidence_2"),
        ("description_3", "confidence_3"),
        ("label 2", ""),
        ("label 3", ""),
    ] {
        if let Some(text) = find(&[text]) {
            readings.push((text, find(&[confidence])));
        }
    }
    Ok(Columns { layer: find(&["layer"]), unit, readings })
}

fn site_names(exemplars: &Exemplars) -> String {
    exemplars.sites.iter().map(|site| site.site.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exemplars::SiteExemplars;

    fn exemplars(sites: &[(&str, usize)]) -> Exemplars {
        let site = |&(site, n_units): &(&str, usize)| SiteExemplars {
            site: site.into(),
            n_units,
            k: 0,
            quantile: 0.99,
            map: (1, 1),
            n_pictures: 0,
            ids: vec![],
            activations: vec![],
            maps: vec![],
            thresholds: vec![0.; n_units],
            dead: vec![false; n_units],
            saturated: vec![false; n_units],
        };
        Exemplars { sites: sites.iter().map(site).collect(), ..Exemplars::default() }
    }

    fn read_text(
        text: &str,
        sites: &[(&str, usize)],
    ) -> Result<Vec<(String, String, f32)>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let found = read(file.path(), &exemplars(sites)).map_err(|error| {
            assert_eq!(crate::error::kind(&error), crate::error::Kind::Usage);
            error.to_string().replace(&file.path().display().to_string(), "T")
        })?;
        let all = found.into_iter().flat_map(|(unit, readings)| {
            readings.into_iter().map(move |it| (unit.to_string(), it.text, it.confidence))
        });
        Ok(all.collect())
    }

    #[test]
    fn the_tables_of_other_tools_are_read() {
        let wanted = vec![("a:1".to_owned(), "dogs, and cats".to_owned(), 1.)];
        for text in [
            "layer,unit,description\r\na,1,\"dogs, and cats\"\r\n",
            "\u{feff}layer,unit,caption\na,1,\"dogs, and cats\"\n",
            "layer,unit,description,similarity\na,1,\"dogs, and cats\",0.21\n",
            "Neuron ID,Label 1\n1,\"dogs, and cats\"\n",
        ] {
            assert_eq!(read_text(text, &[("a", 2)]), Ok(wanted.clone()), "{text}");
        }
    }

    #[test]
    fn what_a_run_wrote_reads_back() {
        let reading = |text: &str, confidence| Reading { text: text.into(), confidence };
        let unit = Unit::new("a", 0);
        let description = Description {
            unit,
            status: Status::Described,
            readings: vec![reading("red", 0.9), reading("a \"word\"", 0.5)],
            evidence: Default::default(),
            judged: Default::default(),
        };
        let text = write(&[description], |_| Some(0.25)).unwrap();
        assert_eq!(
            text,
            "layer,unit,description,confidence,importance,status,description_2,confidence_2,description_3,confidence_3\na,0,red,0.900,0.250000,described,\"a \"\"word\"\"\",0.500,,\n"
        );
        let found = read_text(&text, &[("a", 1)]).unwrap();
        assert_eq!(
            found,
            [("a:0".into(), "red".into(), 0.9), ("a:0".into(), "a \"word\"".into(), 0.5)]
        );
    }

    #[test]
    fn every_mistake_names_its_line() {
        let check = |text: &str, wanted: &str| {
            assert_eq!(read_text(text, &[("a", 2), ("b", 1)]), Err(wanted.to_owned()))
        };
        check(
            "layer,number\na,1\n",
            "T:1: wanted the columns layer, unit and description (or caption); found layer, number",
        );
        check("layer,unit,description\na,x,dogs\n", "T:2: `x` is no unit number");
        check("layer,unit,description\na,1,dogs\na,1,cats\n", "T:3: unit a:1 is described twice");
        check(
            "layer,unit,description\na,1,dogs\na,7,cats\n",
            "T describes 1 units that the network does not have: a:7 (line 3)",
        );
        check(
            "layer,unit,description\nz,1,dogs\n",
            "T describes none of the layers looked at: a, b",
        );
        check(
            "layer,unit,description,confidence\na,1,dogs,1.5\n",
            "T:2: `1.5` is no confidence between 0 and 1",
        );
        check("layer,unit,description\na,1\n", "T:2: 2 columns, the header has 3");
        check(
            "unit,description\n1,dogs\n",
            "T has no column `layer`, and 2 layers are looked at; name one with --layers",
        );
    }
}
