//! The first flow: what does each unit of a model fire on, and does the policy allow it?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use crate::describe::milan::look::Pictures;
use crate::describe::{self, Describer, How, table};
use crate::exemplars::{Exemplars, export, store};
use crate::files::{digest, sha256, write_whole};
use crate::model::run::Ablate;
use crate::pass::{self, Pass, Progress, Settings};
use crate::policy::{self, Policy};
use crate::report::{
    AccuracyReport, Coverage, DataReport, DescriptionsReport, Layer, ModelReport, Report, Run,
    SCHEMA, Tool, Verdict, json, scores_csv,
};
use crate::ruling::{self, Looked};
use crate::subject::{self, Source, Subject};
use crate::unit::{Description, Status, Unit};
use crate::{data, evaluate};

/// What an audit needs to know.
pub struct Config {
    pub source: Source,
    /// Layer patterns; none means the describer's or the architecture's own choice.
    pub layers: Vec<String>,
    pub how: How,
    pub asked: ruling::Asked,
    pub settings: Settings,
    pub seed: u64,
    /// The run's folder; `None` writes nothing.
    pub out: Option<PathBuf>,
    /// Also write the reference's exemplar files.
    pub export: bool,
}

/// Describes every unit and holds the descriptions against the policy. Files are written before the
/// verdict is returned.
pub fn audit(config: &Config, progress: Progress<'_>) -> anyhow::Result<Report> {
    let started = Started::now();
    let policy = config.asked.load()?;
    if let Some(policy) = &policy {
        ruling::check_encoder(policy, &config.how)?;
    }
    let today = config.asked.today();
    let phrases = policy.as_ref().map(Policy::evidence_phrases).unwrap_or_default();
    let (subject, found) = look(config, policy.as_ref(), &phrases, progress)?;
    let asked =
        Asked { how: &config.how, policy: policy.as_ref(), phrases: &phrases, seed: config.seed };
    let descriptions = describe(&subject, &found.exemplars, &asked, progress)?;

    let mut report =
        report(&subject, &found, &config.how, &descriptions, config.seed, &config.settings)?;
    let mut importance = BTreeMap::new();
    match &policy {
        Some(policy) => {
            let looked = Looked {
                subject: &subject,
                exemplars: &found.exemplars,
                descriptions: &descriptions,
                how: &config.how,
                settings: &config.settings,
                today,
            };
            let checked;
            (checked, importance) = ruling::hold(policy, &looked, progress)?;
            ruling::enter(&mut report, policy, checked, &importance)?;
            let Report { rules, gates, coverage, .. } = &report;
            (report.verdict, report.why) =
                ruling::verdict(rules, gates, coverage, config.asked.fail_on_warn);
        }
        None => {
            let why = "no policy was given, so nothing was held against the descriptions; try --policy faces";
            report.why = vec![why.to_owned()];
        }
    }
    report.units = ruling::units(&descriptions, &importance);
    report.exit_code = ruling::exit_code(report.verdict, config.asked.exit_zero);
    report.run = started.finish(config.seed, &config.source, &config.settings, config.out.clone());
    report.run.today = today.to_string();
    let of = |unit: &Unit| importance.get(unit).copied();
    if let Some(out) = &config.out {
        write(out, &subject, &found.exemplars, &descriptions, of, config.export)?;
        write_whole(&out.join("report.json"), json(&report)?.as_bytes())?;
    }
    Ok(report)
}

/// How strongly each unit speaks for some phrases, with its description; writes `scores.csv`. The policy is
/// not looked at.
pub fn score(
    config: &Config,
    phrases: &[String],
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Description>> {
    let (subject, found) = look(config, None, phrases, progress)?;
    let asked = Asked { how: &config.how, policy: None, phrases, seed: config.seed };
    let descriptions = describe(&subject, &found.exemplars, &asked, progress)?;
    if let Some(out) = &config.out {
        let text = scores_csv(&descriptions, phrases)?;
        write_whole(&out.join("scores.csv"), text.as_bytes())?;
    }
    Ok(descriptions)
}

/// Opens model and pictures, and gathers what the units fire on.
fn look(
    config: &Config,
    policy: Option<&Policy>,
    phrases: &[String],
    progress: Progress<'_>,
) -> anyhow::Result<(Subject, Pass)> {
    config.settings.exemplars.check()?;
    config.how.check(policy.is_some_and(|it| !it.phrases().is_empty()))?;
    let subject = subject::open(&config.source)?;
    let sites = sites(&subject, &config.how.describer, &config.layers)?;
    let found = pass::pass(
        &subject.model.network,
        &subject.probe,
        &sites,
        &Ablate::default(),
        &drawing(&config.settings, phrases, config.seed),
        "pictures",
        progress,
    )?;
    Ok((subject, found))
}

/// Draws places, too, where evidence for phrases is to be found at them.
pub(crate) fn drawing(settings: &Settings, phrases: &[String], seed: u64) -> Settings {
    let mut settings = *settings;
    settings.exemplars.spread = (!phrases.is_empty()).then_some(seed);
    settings
}

/// Where to look: what the user says, else what the table of descriptions speaks of, else the
/// architecture's own list.
pub(crate) fn sites(
    subject: &Subject,
    describer: &Describer,
    layers: &[String],
) -> anyhow::Result<Vec<String>> {
    let graph = subject.model.graph();
    match describer {
        Describer::Csv(file) if layers.is_empty() => {
            let named = table::layers(file)?;
            let unknown: Vec<&String> =
                named.iter().filter(|layer| graph.find(layer).is_none()).collect();
            if let Some(first) = unknown.first() {
                return Err(crate::usage!(
                    "{} describes {} layers that {} does not have, such as `{first}`; its own are {}",
                    file.display(),
                    unknown.len(),
                    subject.model.arch,
                    graph.default_sites().join(", ")
                ));
            }
            if named.is_empty() { Ok(graph.default_sites().to_vec()) } else { Ok(named) }
        }
        _ => subject::sites(graph, layers),
    }
}

/// How the units are to be described, and for whom.
pub(crate) struct Asked<'a> {
    pub(crate) how: &'a How,
    pub(crate) policy: Option<&'a Policy>,
    /// Phrases whose evidence is wanted.
    pub(crate) phrases: &'a [String],
    pub(crate) seed: u64,
}

pub(crate) fn describe(
    subject: &Subject,
    exemplars: &Exemplars,
    asked: &Asked<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Description>> {
    let probe = &subject.probe;
    let classes =
        if subject.classes.is_empty() { &probe.dataset.classes } else { &subject.classes };
    let &Asked { how, policy, phrases, seed } = asked;
    let min_confidence = policy.map_or(policy::file::MIN_CONFIDENCE, |it| it.min_confidence);
    let pictures = Pictures { dataset: &probe.dataset, preprocess: &probe.preprocess };
    let config = describe::Config { pictures, classes, min_confidence, phrases, seed };
    describe::describe(how, exemplars, &config, progress)
}

/// A report of everything but the policy, the edit and the run itself.
pub(crate) fn report(
    subject: &Subject,
    found: &Pass,
    how: &How,
    descriptions: &[Description],
    seed: u64,
    settings: &Settings,
) -> anyhow::Result<Report> {
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
    });
    let weights_sha256 = match &how.describer {
        Describer::Labels => None,
        Describer::Csv(file) | Describer::Milan(Some(file)) => Some(digest(file)?.1),
        Describer::Milan(None) => Some(sha256(describe::milan::BUILT_IN)),
    };
    let encoder = how.sentence_encoder.as_deref();
    let sentence_encoder_sha256 = encoder.map(describe::milan::minilm::digest).transpose()?;
    Ok(Report {
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
        model: ModelReport {
            source: subject.source.model.clone(),
            arch: subject.model.arch.clone(),
            files: weights.files().to_vec(),
            tensors: weights.tensors().len(),
            nan_count: 0,
        },
        data: DataReport {
            source: subject.probe.dataset.source.clone(),
            images: found.predictions.len(),
            skipped: found.read.skipped.clone(),
            manifest_sha256: found.read.manifest_sha256.clone(),
        },
        descriptions: DescriptionsReport {
            method: how.describer.to_string(),
            weights_sha256,
            sentence_encoder_sha256,
            compat: how.compat,
        },
        coverage,
        layers,
        rules: vec![],
        gates: vec![],
        exceptions: vec![],
        accuracy,
        tests: vec![],
        controls: vec![],
        edit: None,
        units: vec![],
        warnings: subject.warnings.clone(),
        run: Started::now().finish(seed, &subject.source, settings, None),
    })
}

/// How many units of each layer are what, in the order of the descriptions.
fn layers(descriptions: &[Description]) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    for description in descriptions {
        let site = &description.unit.site;
        if layers.last().is_none_or(|layer| layer.name != *site) {
            layers.push(Layer { name: site.clone(), units: 0, described: 0, unknown: 0, dead: 0 });
        }
        if let Some(layer) = layers.last_mut() {
            layer.units += 1;
            match description.status {
                Status::Described => layer.described += 1,
                Status::Unknown => layer.unknown += 1,
                Status::Dead => layer.dead += 1,
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

/// The one line that says why the exit code is not 0.
pub fn why(report: &Report) -> String {
    let word = match report.verdict {
        Verdict::Passed => "passed",
        Verdict::Violated => "violated",
        Verdict::Inconclusive => "inconclusive",
    };
    format!("{word}: {}", report.why.join("; "))
}

/// When a run began.
pub(crate) struct Started(SystemTime, Instant);

impl Started {
    pub(crate) fn now() -> Started {
        Started(SystemTime::now(), Instant::now())
    }

    pub(crate) fn finish(
        &self,
        seed: u64,
        source: &Source,
        settings: &Settings,
        out: Option<PathBuf>,
    ) -> Run {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let device = if source.device.is_cpu() { "cpu" } else { "cuda" };
        Run {
            started: since.as_secs(),
            seconds: (self.1.elapsed().as_secs_f64() * 1000.).round() / 1000.,
            seed,
            device: device.into(),
            threads: settings.threads,
            today: String::new(),
            out,
        }
    }
}
