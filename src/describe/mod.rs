//! Exemplars to words.

pub mod labels;
pub mod likeness;
pub mod milan;
pub mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Progress;
use crate::exemplars::Exemplars;
use crate::unit::{Description, Reading, Shown, Status, Unit};
use crate::usage;
pub use milan::concepts::Concept;
use milan::look::Pictures;
use milan::read::Known;

/// Who describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Describer {
    /// The class names that a unit's exemplars share: [`labels`].
    Labels,
    /// Descriptions made elsewhere: [`table`].
    Csv(PathBuf),
    /// [`milan`]: the built-in weights, a file of ours, or one of the authors' (`.pth`).
    Milan(Option<PathBuf>),
}

impl FromStr for Describer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Describer> {
        match text.split_once(':') {
            None if text == "labels" => Ok(Describer::Labels),
            None if text == "milan" => Ok(Describer::Milan(None)),
            Some(("csv", file)) if !file.is_empty() => Ok(Describer::Csv(PathBuf::from(file))),
            Some(("milan", file)) if !file.is_empty() => {
                Ok(Describer::Milan(Some(PathBuf::from(file))))
            }
            _ => Err(usage!(
                "`{text}` is no describer; there are milan, milan:FILE, labels and csv:FILE"
            )),
        }
    }
}

impl std::fmt::Display for Describer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Describer::Labels => f.write_str("labels"),
            Describer::Csv(file) => write!(f, "csv:{}", file.display()),
            Describer::Milan(None) => f.write_str("milan"),
            Describer::Milan(Some(file)) => write!(f, "milan:{}", file.display()),
        }
    }
}

/// How units are described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct How {
    pub describer: Describer,
    /// The authors' describer makes the mistakes of the reference.
    pub compat: bool,
    /// The folder of a sentence encoder that stands in for the describer's own small one.
    pub sentence_encoder: Option<PathBuf>,
}

impl How {
    /// Errs where a sentence encoder is named that nobody would use; a policy may.
    pub fn check(&self, policy_asks: bool) -> anyhow::Result<()> {
        let critical = match &self.describer {
            Describer::Milan(file) => !milan::read::is_authors(file.as_deref()),
            _ => false,
        };
        match &self.sentence_encoder {
            Some(folder) if critical || policy_asks => {
                milan::minilm::MiniLm::open(folder).map(|_| ())
            }
            Some(_) => Err(usage!(
                "--sentence-encoder serves a critic, and `{}` has none; use --describer milan",
                self.describer
            )),
            None => Ok(()),
        }
    }
}

/// With nothing but the describer's own.
impl From<Describer> for How {
    fn from(describer: Describer) -> How {
        How { describer, compat: false, sentence_encoder: None }
    }
}

/// What describing needs besides the exemplars.
#[derive(Clone, Copy)]
pub struct Config<'a> {
    /// The audited pictures and how the network saw them.
    pub pictures: Pictures<'a>,
    /// Names by class index.
    pub classes: &'a [String],
    /// Below it a unit is `unknown`.
    pub min_confidence: f32,
    /// Phrases whose evidence is asked for.
    pub phrases: &'a [String],
    /// What units are judged by.
    pub concepts: &'a [Concept<'a>],
    /// How deep each layer lies, 0 being the first and 1 the last.
    pub depths: &'a BTreeMap<String, f32>,
    pub seed: u64,
}

/// Descriptions, and where the concepts that were asked about are shown.
#[derive(Default)]
pub struct Described {
    /// In the order of the exemplars' units.
    pub descriptions: Vec<Description>,
    /// By the concept's name; of those that the describer cannot judge nothing.
    pub shown: BTreeMap<String, Shown>,
}

/// A description of every unit, site by site. Units that never change are dead, those whose pictures
/// cannot be ranked are saturated; neither get words.
///
/// Errs when phrases are asked for and the describer has no critic.
pub fn describe(
    how: &How,
    exemplars: &Exemplars,
    config: &Config<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<Described> {
    let describer = &how.describer;
    let worded = |readings| Known { readings, ..Known::default() };
    let Known { mut readings, evidence, mut judged, shown } = match describer {
        Describer::Milan(file) => {
            milan::read::read(file.as_deref(), how, exemplars, config, progress)?
        }
        _ if !config.phrases.is_empty() => {
            return Err(usage!(
                "evidence of \"{}\" is asked for, and `{describer}` has no critic to give it; use --describer milan",
                config.phrases[0]
            ));
        }
        Describer::Labels => {
            let pictures = &config.pictures.dataset.pictures;
            let labels: Vec<Option<usize>> = pictures.iter().map(|it| it.label).collect();
            let Config { classes, seed, .. } = *config;
            worded(labels::read(exemplars, &labels::Known { labels: &labels, classes, seed })?)
        }
        Describer::Csv(file) => worded(table::read(file, exemplars)?),
    };
    let mute = exemplars.sites.iter().flat_map(|it| it.dead.iter().zip(&it.saturated).map(mute));
    let units = exemplars.units().zip(mute).enumerate();
    let descriptions = units
        .map(|(at, (unit, mute))| {
            let readings = readings.remove(&unit).filter(|_| mute.is_none()).unwrap_or_default();
            let status = mute.unwrap_or_else(|| status(&readings, config.min_confidence));
            let evidence = match evidence.get(at) {
                Some(scores) if mute.is_none() => {
                    config.phrases.iter().cloned().zip(scores.iter().copied()).collect()
                }
                _ => Default::default(),
            };
            let judged = judged.get_mut(at).filter(|_| mute.is_none());
            let judged = judged.map(std::mem::take).unwrap_or_default();
            Description { unit, status, readings, evidence, judged }
        })
        .collect();
    Ok(Described { descriptions, shown })
}

/// What was said of each unit, best first.
type Readings = BTreeMap<Unit, Vec<Reading>>;

/// What a unit is of which nothing can be said, by whether it is dead or saturated.
fn mute((&dead, &saturated): (&bool, &bool)) -> Option<Status> {
    match (dead, saturated) {
        (true, _) => Some(Status::Dead),
        (_, true) => Some(Status::Saturated),
        _ => None,
    }
}

fn status(readings: &[Reading], min_confidence: f32) -> Status {
    match readings.first() {
        Some(best) if min_confidence <= best.confidence => Status::Described,
        _ => Status::Unknown,
    }
}
