//! Exemplars to words.

pub mod labels;
pub mod milan;
pub mod table;

use std::path::PathBuf;
use std::str::FromStr;

use crate::exemplars::Exemplars;
use crate::unit::{Description, Reading, Status, Unit};
use crate::usage;

/// Who describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Describer {
    /// The class names that a unit's exemplars share: [`labels`].
    Labels,
    /// Descriptions made elsewhere: [`table`].
    Csv(PathBuf),
}

impl FromStr for Describer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Describer> {
        match text.split_once(':') {
            None if text == "labels" => Ok(Describer::Labels),
            Some(("csv", file)) if !file.is_empty() => Ok(Describer::Csv(PathBuf::from(file))),
            _ => Err(usage!("`{text}` is no describer; there are labels and csv:FILE")),
        }
    }
}

impl std::fmt::Display for Describer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Describer::Labels => f.write_str("labels"),
            Describer::Csv(file) => write!(f, "csv:{}", file.display()),
        }
    }
}

/// What describing needs besides the exemplars.
#[derive(Debug, Clone)]
pub struct Config<'a> {
    /// The class of each picture, by id.
    pub labels: &'a [Option<usize>],
    /// Names by class index.
    pub classes: &'a [String],
    /// Below it a unit is `unknown`.
    pub min_confidence: f32,
    pub seed: u64,
}

/// A description of every unit, site by site. Units that never change are dead and get no words.
pub fn describe(
    describer: &Describer,
    exemplars: &Exemplars,
    config: &Config<'_>,
) -> anyhow::Result<Vec<Description>> {
    let mut readings = match describer {
        Describer::Labels => labels::read(exemplars, config)?,
        Describer::Csv(file) => table::read(file, exemplars)?,
    };
    let dead = exemplars.sites.iter().flat_map(|site| &site.dead);
    let units = exemplars.units().zip(dead);
    Ok(units
        .map(|(unit, &dead)| {
            let readings = if dead { vec![] } else { readings.remove(&unit).unwrap_or_default() };
            let status = status(dead, &readings, config.min_confidence);
            Description { unit, status, readings }
        })
        .collect())
}

/// What was said of each unit, best first.
type Readings = std::collections::BTreeMap<Unit, Vec<Reading>>;

fn status(dead: bool, readings: &[Reading], min_confidence: f32) -> Status {
    match readings.first() {
        _ if dead => Status::Dead,
        Some(best) if min_confidence <= best.confidence => Status::Described,
        _ => Status::Unknown,
    }
}
