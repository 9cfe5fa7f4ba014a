//! What a run found, written down: its report, and the files of its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use jiff::civil::Date;

use crate::describe::{self, Describer, How, table};
use crate::exemplars::{Exemplars, export, store, strip};
use crate::files::{digest, sha256, write_whole};
use crate::pass::{Pass, Probe, Progress, Settings};
use crate::policy::check::Checked;
use crate::policy::{Importance, Policy};
use crate::report::{
    self, AccuracyReport, Coverage, DataReport, DescriptionsReport, Layer, ModelReport,
    NearDuplicatesReport, Report, Run, UnitFacts,
};
use crate::ruling::{self, Looked};
use crate::subject::{Source, Subject};
use crate::unit::{Description, Status, Unit};
use crate::{data, evaluate};

/// Of which units the exemplars are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shown {
    /// Those that a rule matches.
    Matching,
    All,
}

/// Groups of near-duplicates whose files are named.
const GROUPS: usize = 20;

/// How a run describes, for its report. Errs where a file of it cannot be read.
pub(crate) fn described_by(how: &How) -> anyhow::Result<DescriptionsReport> {
    let weights_sha256 = match &how.describer {
        Describer::Labels => None,
        Describer::Csv(file) | Describer::Milan(Some(file)) => Some(digest(file)?.1),
        Describer::Milan(None) => Some(sha256(describe::milan::BUILT_IN)),
    };
    let encoder = how.sentence_encoder.as_deref();
    let sentence_encoder_sha256 = encoder.map(describe::milan::minilm::digest).transpose()?;
    Ok(DescriptionsReport {
        method: how.describer.to_string(),
        weights_sha256,
        sentence_encoder_sha256,
        compat: how.compat,
    })
}

/// A report of everything but the verdict and the edit. `ruled` is a policy and what came of it.
pub(crate) fn report(
    looked: &Looked<'_>,
    found: &Pass,
    run: Run,
    ruled: Option<(&Policy, Checked)>,
    importance: &BTreeMap<Unit, f64>,
) -> anyhow::Result<Report> {
    let &Looked { subject, descriptions, how, .. } = looked;
    let weights = &subject.weights;
    let accuracy = evaluate::accuracy(&found.predictions, &subject.classes).map(|before| {
        AccuracyReport { before, after: None, delta: None, ci95: None, changed: None }
    });
    let layers = layers(descriptions);
    let coverage = layers.iter().fold(Coverage::default(), |sum, layer| Coverage {
        units: sum.units + layer.units,
        described: sum.described + layer.described,
        unknown: sum.unknown + layer.unknown,
        dead: sum.dead + layer.dead,
        saturated: sum.saturated + layer.saturated,
    });
    let model = ModelReport {
        source: subject.source.model.clone(),
        arch: subject.model.arch.clone(),
        files: weights.files().to_vec(),
        tensors: weights.tensors().len(),
        nan_count: 0,
    };
    let data = DataReport {
        source: subject.probe.dataset.source.clone(),
        images: found.predictions.len(),
        skipped: found.read.skipped.clone(),
        manifest_sha256: found.read.manifest_sha256.clone(),
        near_duplicates: near_duplicates(found, looked),
    };
    let mut report = Report::new(model, data, described_by(how)?, run);
    report.coverage = coverage;
    report.layers = layers;
    report.accuracy = accuracy;
    report.warnings = subject.warnings.clone();
    let of = |unit: &Unit| importance.get(unit).copied();
    report.units = descriptions.iter().map(|it| UnitFacts::of(it, of(&it.unit))).collect();
    if !importance.is_empty() {
        let by = ruled.as_ref().map(|(policy, _)| policy.importance());
        report.importance = by.or(Some(Importance::Ablation));
    }
    if let Some((policy, checked)) = ruled {
        ruling::enter(&mut report, policy, checked, importance)?;
    }
    Ok(report)
}

/// Near-duplicates among the pictures, where there are any.
fn near_duplicates(found: &Pass, looked: &Looked<'_>) -> Option<NearDuplicatesReport> {
    let groups = found.near_duplicates.groups();
    let pictures = &looked.subject.probe.dataset.pictures;
    let file = |&id: &usize| pictures[id].file.clone();
    (!groups.is_empty()).then(|| NearDuplicatesReport {
        kept: looked.settings.exemplars.max_near_duplicates,
        groups: groups.len(),
        pictures: groups.iter().map(Vec::len).sum(),
        first: groups.iter().take(GROUPS).map(|it| it.iter().map(file).collect()).collect(),
    })
}

/// How many units of each layer are what, in the order of the descriptions.
fn layers(descriptions: &[Description]) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    for description in descriptions {
        let site = &description.unit.site;
        if layers.last().is_none_or(|layer| layer.name != *site) {
            layers.push(Layer { name: site.clone(), ..Layer::default() });
        }
        if let Some(layer) = layers.last_mut() {
            layer.units += 1;
            match description.status {
                Status::Described => layer.described += 1,
                Status::Unknown => layer.unknown += 1,
                Status::Dead => layer.dead += 1,
                Status::Saturated => layer.saturated += 1,
            }
        }
    }
    layers
}

/// Everything of a run but its report.
pub(crate) fn write(
    out: &Path,
    subject: &Subject,
    exemplars: &Exemplars,
    descriptions: &[Description],
    importance: impl Fn(&Unit) -> Option<f64>,
    with_export: bool,
) -> anyhow::Result<()> {
    let dataset = &subject.probe.dataset;
    write_whole(&out.join("descriptions.csv"), table::write(descriptions, importance)?.as_bytes())?;
    let files: Vec<&str> = dataset.pictures.iter().map(|it| it.file.as_str()).collect();
    store::write(out, exemplars, &files)?;
    if with_export {
        let preprocess = &subject.probe.preprocess;
        let side = preprocess.crop as usize;
        let mut picture = |id: usize| {
            let cropped = data::read_crop(dataset, preprocess, id)?;
            let channels =
                (0..3).flat_map(|channel| cropped.pixels().map(move |pixel| pixel.0[channel]));
            Ok(channels.collect())
        };
        for site in &exemplars.sites {
            export::export(out, site, side, &mut picture)?;
        }
    }
    Ok(())
}

/// Which units of a report are shown.
pub(crate) fn units_shown(shown: Option<Shown>, report: &Report) -> BTreeSet<Unit> {
    let matching = report.rules.iter().flat_map(|it| it.units.iter().chain(&it.excepted));
    match shown {
        None => BTreeSet::new(),
        Some(Shown::Matching) => matching.map(|it| Unit::new(&it.layer, it.unit)).collect(),
        Some(Shown::All) => report.units.iter().map(|it| Unit::new(&it.layer, it.unit)).collect(),
    }
}

/// `pictures/LAYER/UNIT.jpg` for each of some units.
pub(crate) fn write_pictures(
    out: &Path,
    subject: &Subject,
    exemplars: &Exemplars,
    shown: &BTreeSet<Unit>,
    progress: Progress<'_>,
) -> anyhow::Result<()> {
    let Probe { dataset, preprocess } = &subject.probe;
    let mut done = 0;
    for site in &exemplars.sites {
        let of_it = shown.iter().filter(|it| it.site == site.site).map(|it| it.channel);
        let units: Vec<usize> = of_it.collect();
        for (unit, strip) in
            strip::strips(site, &units, |id| data::read_crop(dataset, preprocess, id))?
        {
            write_whole(&report::picture_path(out, &Unit::new(&site.site, unit)), &strip)?;
        }
        done += units.len();
        progress("exemplars to look at", done, shown.len())?;
    }
    Ok(())
}

/// When a run began.
pub(crate) struct Started(SystemTime, Instant);

impl Started {
    pub(crate) fn now() -> Started {
        Started(SystemTime::now(), Instant::now())
    }

    /// Ends a run: says in its report how long it took, and writes `report.json`, the last of the folder's files.
    pub(crate) fn close(&self, report: &mut Report) -> anyhow::Result<()> {
        report.run.started = self.since_1970();
        report.run.seconds = (self.1.elapsed().as_secs_f64() * 1000.).round() / 1000.;
        match &report.run.out {
            Some(out) => write_whole(&out.join("report.json"), report::json(report)?.as_bytes()),
            None => Ok(()),
        }
    }

    fn since_1970(&self) -> u64 {
        self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

/// A run that has found nothing yet.
pub(crate) fn run(
    seed: u64,
    source: &Source,
    settings: &Settings,
    today: Date,
    out: Option<PathBuf>,
) -> Run {
    let device = if source.device.is_cpu() { "cpu" } else { "cuda" };
    Run {
        started: 0,
        seconds: 0.,
        seed,
        device: device.into(),
        threads: settings.threads,
        today: today.to_string(),
        out,
    }
}
