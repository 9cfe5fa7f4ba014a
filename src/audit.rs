//! The first flow: what does each unit of a model fire on, and does the policy allow it?

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::civil::Date;

use crate::describe::milan::look::Pictures;
use crate::describe::{self, Described, Describer, How, table};
use crate::exemplars::Exemplars;
use crate::files::write_whole;
use crate::model::NotFinite;
use crate::model::run::Ablate;
use crate::pass::{self, Pass, Progress, Settings};
use crate::policy::gates::Gate;
use crate::policy::{self, Level, Policy};
use crate::record::{self, Started};
use crate::report::{DataReport, ModelReport, Report, Run, Verdict, scores_csv};
use crate::ruling::{self, Looked};
use crate::subject::{self, Source, Subject};
use crate::unit::{Description, Unit};

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
    /// Also write what units fire on, to be looked at.
    pub pictures: Option<record::Shown>,
}

impl Config {
    fn run(&self, today: Date) -> Run {
        let Config { seed, source, settings, out, .. } = self;
        record::run(*seed, source, settings, today, out.clone())
    }
}

/// Describes every unit and holds the descriptions against the policy. Files are written before the
/// verdict is returned.
pub fn audit(config: &Config, progress: Progress<'_>) -> anyhow::Result<Report> {
    let started = Started::now();
    let policy = config.asked.load()?;
    let today = config.asked.today();
    let phrases = policy.as_ref().map(Policy::evidence_phrases).unwrap_or_default();
    let looked = look(config, policy.as_ref(), &phrases, progress);
    let (subject, found) = match (looked, &policy) {
        (Err(error), Some(policy)) => match error.downcast_ref::<NotFinite>() {
            Some(it) if policy.gates.nan == Level::Deny => {
                return not_finite(config, it, config.run(today), started);
            }
            _ => return Err(error),
        },
        (looked, _) => looked?,
    };
    let asked =
        Asked { how: &config.how, policy: policy.as_ref(), phrases: &phrases, seed: config.seed };
    let Described { descriptions, shown } = describe(&subject, &found.exemplars, &asked, progress)?;

    let looked = Looked {
        subject: &subject,
        exemplars: &found.exemplars,
        descriptions: &descriptions,
        shown: &shown,
        allow_uncovered: config.asked.allow_uncovered,
        how: &config.how,
        settings: &config.settings,
        today,
    };
    let (ruled, importance) = match &policy {
        Some(policy) => {
            let (checked, importance) = ruling::hold(policy, &looked, progress)?;
            (Some((policy, checked)), importance)
        }
        None => (None, BTreeMap::new()),
    };
    let mut report = record::report(&looked, &found, config.run(today), ruled, &importance)?;
    if policy.is_some() {
        let Report { rules, gates, coverage, .. } = &report;
        (report.verdict, report.why) =
            ruling::verdict(rules, gates, coverage, config.asked.fail_on_warn);
    } else {
        let why =
            "no policy was given, so nothing was held against the descriptions; try --policy faces";
        report.why = vec![why.to_owned()];
    }
    report.exit_code = ruling::exit_code(report.verdict, config.asked.exit_zero);
    let of = |unit: &Unit| importance.get(unit).copied();
    if let Some(out) = &config.out {
        record::write(out, &subject, &found.exemplars, &descriptions, of, config.export)?;
        let shown = record::units_shown(config.pictures, &report);
        record::write_pictures(out, &subject, &found.exemplars, &shown, progress)?;
    }
    started.close(&mut report)?;
    Ok(report)
}

/// A report on a model that nothing can be measured on: the gate on its values decides.
fn not_finite(
    config: &Config,
    it: &NotFinite,
    run: Run,
    started: Started,
) -> anyhow::Result<Report> {
    let model = ModelReport {
        source: config.source.model.clone(),
        arch: it.arch.clone(),
        files: it.files.clone(),
        tensors: it.tensors,
        nan_count: it.count,
    };
    let data = DataReport {
        source: config.source.data.clone().unwrap_or_default(),
        images: 0,
        skipped: vec![],
        manifest_sha256: String::new(),
        near_duplicates: None,
    };
    let mut report = Report::new(model, data, record::described_by(&config.how)?, run);
    let why = Some(it.to_string());
    report.gates = vec![Gate::new("nan", Level::Deny, Some(0.), Some(it.count as f64), why)];
    (report.verdict, report.why) = ruling::verdict(&[], &report.gates, &report.coverage, false);
    report.exit_code = ruling::exit_code(report.verdict, config.asked.exit_zero);
    started.close(&mut report)?;
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
    let descriptions = describe(&subject, &found.exemplars, &asked, progress)?.descriptions;
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
    ruling::check_how(policy, &config.how)?;
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
) -> anyhow::Result<Described> {
    let probe = &subject.probe;
    let classes =
        if subject.classes.is_empty() { &probe.dataset.classes } else { &subject.classes };
    let &Asked { how, policy, phrases, seed } = asked;
    let min_confidence = policy.map_or(policy::file::MIN_CONFIDENCE, |it| it.min_confidence);
    let pictures = Pictures { dataset: &probe.dataset, preprocess: &probe.preprocess };
    let concepts = policy.map(ruling::concepts).unwrap_or_default();
    let graph = subject.model.graph();
    let sites = exemplars.sites.iter().map(|it| it.site.as_str());
    let depths = sites.map(|site| (site.to_owned(), subject::depth(graph, site))).collect();
    let config = describe::Config {
        pictures,
        classes,
        min_confidence,
        phrases,
        concepts: &concepts,
        depths: &depths,
        seed,
    };
    describe::describe(how, exemplars, &config, progress)
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
