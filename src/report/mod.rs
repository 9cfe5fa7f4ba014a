//! Results out: plain structs, and one file a format. Never sees a tensor.

mod annotations;
mod card;
mod concise;
mod curve;
mod cyclonedx;
mod diff;
mod format;
mod html;
mod human;
mod intoto;
mod issue;
mod jsonl;
mod junit;
mod reasons;
mod sarif;
mod saved;
mod scores;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::Skipped;
use crate::evaluate::Accuracy;
use crate::policy::{
    Certainty, CheckStatus, ExceptionOutcome, Finding, Gate, Importance, Level, Limit, Observed,
    Place, PolicyFile,
};
use crate::unit::{Description, Judgement, Reading, Shown, Status, Unit};
use crate::weights::{Change, SourceFile};
pub(crate) use reasons::reasons;

pub use annotations::{github, gitlab};
pub use card::{card, update_card};
pub use concise::concise;
pub use curve::{By, Curve, Point};
pub use cyclonedx::cyclonedx;
pub use diff::{Diff, diff};
pub use format::{Format, json};
pub use html::html;
pub use human::{counted, human, new_table, right};
pub use intoto::in_toto;
pub use jsonl::jsonl;
pub use junit::junit;
pub use sarif::sarif;
pub use saved::read;
pub use scores::{scores, scores_csv};
pub use table::{csv, word};

/// Everything that one run found, in the order of `report.json`.
///
/// The same input gives the same bytes, but for what stands under `run`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub schema: String,
    /// Written last: a report without it is cut off.
    pub complete: bool,
    pub verdict: Verdict,
    pub exit_code: u8,
    /// Why the verdict is not `passed`, a line a cause.
    pub why: Vec<String>,
    pub tool: Tool,
    pub policy: Option<PolicyReport>,
    pub model: ModelReport,
    pub data: DataReport,
    pub descriptions: DescriptionsReport,
    pub coverage: Coverage,
    pub layers: Vec<Layer>,
    pub rules: Vec<RuleReport>,
    pub gates: Vec<Gate>,
    pub exceptions: Vec<ExceptionOutcome>,
    pub accuracy: Option<AccuracyReport>,
    pub tests: Vec<TestReport>,
    pub controls: Vec<Control>,
    pub edit: Option<EditReport>,
    /// By what units are important, where that was measured.
    pub importance: Option<Importance>,
    /// Everything that was looked at, in the order of the network.
    pub units: Vec<UnitFacts>,
    /// What the user should know and no verdict depends on.
    pub warnings: Vec<String>,
    pub run: Run,
}

pub const SCHEMA: &str = "milan-report/1";

impl Report {
    /// An importance in words: points of accuracy, or a share of the greatest.
    pub fn important(&self, importance: f64) -> String {
        match self.importance {
            None | Some(Importance::Ablation) => human::points(importance),
            _ => format!("{importance:.2}"),
        }
    }

    /// What the numbers of [`important`](Report::important) are called.
    pub fn importance_name(&self) -> &'static str {
        match self.importance {
            None | Some(Importance::Ablation) => "importance, points",
            Some(Importance::WeightNorm) => "weights' length, of the greatest",
            Some(Importance::Activation) => "activation, of the greatest",
        }
    }

    /// Of a run that has found nothing yet.
    pub fn new(
        model: ModelReport,
        data: DataReport,
        descriptions: DescriptionsReport,
        run: Run,
    ) -> Report {
        Report {
            schema: SCHEMA.to_owned(),
            complete: true,
            verdict: Verdict::Inconclusive,
            exit_code: Verdict::Inconclusive.exit_code(),
            why: vec![],
            tool: Tool {
                name: env!("CARGO_PKG_NAME").to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            policy: None,
            model,
            data,
            descriptions,
            coverage: Coverage::default(),
            layers: vec![],
            rules: vec![],
            gates: vec![],
            exceptions: vec![],
            accuracy: None,
            tests: vec![],
            controls: vec![],
            edit: None,
            importance: None,
            units: vec![],
            warnings: vec![],
            run,
        }
    }

    /// The last part of what the verdict is on, without its ending: `resnet18`.
    fn name(&self) -> String {
        let written = self.edit.iter().find_map(|it| it.output.as_ref());
        let path = match written {
            Some(output) => output.path.display().to_string(),
            None if self.model.source.starts_with("hf:") => {
                self.model.source.split('@').next().unwrap_or_default().to_owned()
            }
            None => self.model.source.clone(),
        };
        let last = path.trim_end_matches(['/', '\\']).rsplit(['/', '\\', ':']).next();
        let last = last.filter(|it| !it.is_empty()).unwrap_or("model");
        last.strip_suffix(".safetensors").unwrap_or(last).to_owned()
    }

    /// Name and sha256 of each file that the verdict is on: those that an edit wrote, else the model's.
    fn subject(&self) -> Vec<(String, &str)> {
        match self.edit.iter().find_map(|it| it.output.as_ref()) {
            Some(output) => {
                output.sha256.iter().map(|(name, sha256)| (name.clone(), sha256.as_str())).collect()
            }
            None => self.source_files(),
        }
    }

    /// Name and sha256 of each file of the model that was looked at.
    fn source_files(&self) -> Vec<(String, &str)> {
        let name = |it: &SourceFile| match it.path.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => it.path.display().to_string(),
        };
        self.model.files.iter().map(|it| (name(it), it.sha256.as_str())).collect()
    }
}

/// How a run came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Passed,
    Violated,
    Inconclusive,
}

impl Verdict {
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Passed => 0,
            Verdict::Violated => 1,
            Verdict::Inconclusive => 3,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tool {
    pub name: String,
    pub version: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyReport {
    pub files: Vec<PolicyFile>,
    /// The policy as understood, defaults filled in.
    pub resolved: Value,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelReport {
    pub source: String,
    pub arch: String,
    pub files: Vec<SourceFile>,
    pub tensors: usize,
    /// Values that are NaN or infinite; a model with any is refused.
    pub nan_count: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataReport {
    pub source: String,
    /// Pictures that were read.
    pub images: usize,
    pub skipped: Vec<Skipped>,
    pub manifest_sha256: String,
    /// Where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near_duplicates: Option<NearDuplicatesReport>,
}

/// Pictures that are nearly the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearDuplicatesReport {
    /// The most pictures of a group that a unit keeps.
    pub kept: usize,
    pub groups: usize,
    /// Of all groups.
    pub pictures: usize,
    /// The files of the first groups.
    pub first: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DescriptionsReport {
    pub method: String,
    /// Of the describer's own weights or table; `labels` has none.
    pub weights_sha256: Option<String>,
    /// Of the full sentence encoder, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentence_encoder_sha256: Option<String>,
    /// The reference's mistakes were made on purpose.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compat: bool,
}

/// How many units were looked at, and how many of them something is known of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    pub units: usize,
    pub described: usize,
    pub unknown: usize,
    pub dead: usize,
    #[serde(default)]
    pub saturated: usize,
}

impl Coverage {
    /// Units of which nothing is known.
    pub fn unseen(&self) -> usize {
        self.unknown + self.dead + self.saturated
    }
}

/// `9 unknown, 1 dead`, and those that are saturated where there are any.
pub(crate) fn unseen_in_words(unknown: usize, dead: usize, saturated: usize) -> String {
    match saturated {
        0 => format!("{unknown} unknown, {dead} dead"),
        _ => format!("{unknown} unknown, {dead} dead, {saturated} saturated"),
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub name: String,
    pub units: usize,
    pub described: usize,
    pub unknown: usize,
    pub dead: usize,
    #[serde(default)]
    pub saturated: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RuleReport {
    pub id: String,
    pub title: Option<String>,
    pub reason: Option<String>,
    pub url: Option<String>,
    /// Where the rule is written.
    pub place: Option<Place>,
    pub level: Level,
    pub status: CheckStatus,
    /// Which findings count against the limits.
    #[serde(default)]
    pub count: Certainty,
    pub limits: Limit,
    pub observed: Observed,
    pub why: Vec<String>,
    /// Findings that count.
    pub units: Vec<UnitReport>,
    /// Findings that are possible where only likely ones count.
    #[serde(default)]
    pub possible: Vec<UnitReport>,
    /// Units that match and that an exception takes out.
    pub excepted: Vec<UnitReport>,
    /// Where the pictures show what the rule looks for; `None` where the describer cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<Shown>,
    /// Too few pictures show it for a unit that detects it to be found.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uncovered: bool,
}

/// A unit that a rule matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitReport {
    pub layer: String,
    pub unit: usize,
    pub description: String,
    pub confidence: f32,
    /// By the report's measure of it; of ablation the accuracy that zeroing it alone costs, 0..=1.
    pub importance: Option<f64>,
    pub matched: String,
    /// That somebody who looks at the unit's exemplars says that the rule holds, 0..=1.
    #[serde(default)]
    pub probability: f32,
    #[serde(default)]
    pub certainty: Certainty,
    /// What the probability rests on, in words; empty where the words alone decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl UnitReport {
    pub fn of(finding: &Finding, importance: Option<f64>) -> UnitReport {
        UnitReport {
            layer: finding.unit.site.clone(),
            unit: finding.unit.channel,
            description: finding.description.clone(),
            confidence: finding.confidence,
            importance,
            matched: finding.matched.clone(),
            probability: finding.probability,
            certainty: finding.certainty,
            reasons: finding.judgement.as_ref().map(reasons).unwrap_or_default(),
        }
    }
}

/// What is known of one unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitFacts {
    pub layer: String,
    pub unit: usize,
    pub status: Status,
    /// The best first; those of an `unknown` unit are below the policy's confidence.
    pub readings: Vec<Reading>,
    /// For each phrase that the policy asks about.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence: BTreeMap<String, f32>,
    /// By rule, where the describer judges.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub judged: BTreeMap<String, Judgement>,
    /// As in [`UnitReport`].
    pub importance: Option<f64>,
}

impl UnitFacts {
    /// What a rule looks at.
    pub fn description(&self) -> Description {
        Description {
            unit: Unit::new(&self.layer, self.unit),
            status: self.status,
            readings: self.readings.clone(),
            evidence: self.evidence.clone(),
            judged: self.judged.clone(),
        }
    }

    pub fn of(description: &Description, importance: Option<f64>) -> UnitFacts {
        let Description { unit, status, readings, evidence, judged } = description;
        UnitFacts {
            layer: unit.site.clone(),
            unit: unit.channel,
            status: *status,
            readings: readings.clone(),
            evidence: evidence.clone(),
            judged: judged.clone(),
            importance,
        }
    }
}

/// The main test set. An audit has only `before`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccuracyReport {
    pub before: Accuracy,
    pub after: Option<Accuracy>,
    /// Top-1 after less before, of shares in 0..=1.
    pub delta: Option<f64>,
    /// The 95 % interval of `delta`, by a paired bootstrap.
    pub ci95: Option<[f64; 2]>,
    /// Pictures whose first answer changed.
    pub changed: Option<usize>,
}

/// Top-1 on one test set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestReport {
    pub name: String,
    pub n: usize,
    pub before: f64,
    pub after: f64,
    pub delta: f64,
    pub ci95: [f64; 2],
}

/// Other units deleted instead, for comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// `random`, or `importance`: the least important ones, whatever they are.
    pub kind: String,
    pub seed: u64,
    pub units: Vec<Unit>,
    pub tests: Vec<TestReport>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EditReport {
    pub units: Vec<Unit>,
    /// Units that were asked for but have no exact edit, with the reason.
    pub refused: Vec<Refused>,
    pub changes: Vec<Change>,
    pub bytes_changed: u64,
    /// Matching units that stay, because of `--max-units` or the slack.
    pub spared: usize,
    /// The accuracy, 0..=1, that units may cost together, where it was that which spared the rest.
    pub slack: Option<f64>,
    /// The pictures by which units were ranked and chosen.
    pub val: String,
    pub verified: Verified,
    /// `None` when nothing was written: a dry run, or a gate was violated.
    pub output: Option<OutputReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub unit: Unit,
    pub reason: String,
}

/// The written file, loaded afresh, against the network ablated in memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    pub images: usize,
    /// What no difference of a logit reaches, relative to the greatest logit: a power of ten, 1e-6 or more. Below
    /// that machines round differently.
    pub max_difference: f64,
    /// The same between the original network and the edited one: how much the edit moves.
    pub max_effect: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputReport {
    pub path: PathBuf,
    pub sha256: BTreeMap<String, String>,
}

/// What differs from one run to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Seconds since 1970.
    pub started: u64,
    pub seconds: f64,
    pub seed: u64,
    pub device: String,
    pub threads: usize,
    /// The day, in UTC, on which exceptions were held against their end.
    #[serde(default)]
    pub today: String,
    /// Where the run's files are, if any were written.
    pub out: Option<PathBuf>,
}

impl Run {
    /// Date and time, in UTC, so many seconds after the run began.
    fn at(&self, seconds: f64) -> anyhow::Result<DateTime> {
        let since_1970 = (self.started as f64 + seconds.max(0.)) as i64;
        let time = jiff::Timestamp::from_second(since_1970)
            .context("the run began in no year that there is")?;
        Ok(jiff::tz::Offset::UTC.to_datetime(time))
    }
}

/// Where a run's folder has what a unit fires on, to be looked at.
pub fn picture_path(out: &std::path::Path, unit: &Unit) -> PathBuf {
    let layer = unit.site.replace(['/', '\\'], "_");
    out.join("pictures").join(layer).join(format!("{}.jpg", unit.channel))
}

/// The pictures of a run's folder, by `layer:unit`; none where it has none.
pub fn pictures(report: &Report, out: &std::path::Path) -> BTreeMap<String, Vec<u8>> {
    let units = report.units.iter().map(|it| Unit::new(&it.layer, it.unit));
    let read = |it: Unit| Some((it.to_string(), std::fs::read(picture_path(out, &it)).ok()?));
    units.filter_map(read).collect()
}
