//! Judging a describer where the truth is known: what it says of the demo's classifier against what is drawn
//! where its units fire, and what it says of planted units against what they were made for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::classifier::untrained;
use super::judge::stemmed;
use super::simulate::{Lexicon, Maps, Seen, Told, blurred, measures, places};
use crate::audit::{self, Config as Audit};
use crate::data::Loader;
use crate::data::scenes::{CLASSES, Element, Scenes};
use crate::describe::{Describer, How};
use crate::model::zoo;
use crate::pass::Settings;
use crate::planted::{self, Kind, TRUTH};
use crate::report::{new_table, right};
use crate::subject::{self, Source};
use crate::unit::{Description, Status};
use crate::{Progress, exemplars};

/// What judging needs to know.
pub struct Config {
    /// A describer; `None` is the built-in one.
    pub describer: Option<PathBuf>,
    /// The pictures that descriptions foretell, `demo:N:SEED:SPLIT`.
    pub pictures: String,
    pub threads: usize,
    pub seed: u64,
}

/// The tables.
#[derive(Debug, Serialize)]
pub struct Drawn {
    pub simulation: Vec<Simulation>,
    pub sanity: Vec<Sanity>,
    pub planted: Vec<Planted>,
}

/// How well descriptions foretell where units fire.
#[derive(Debug, Serialize)]
pub struct Simulation {
    pub descriptions: &'static str,
    pub units: usize,
    /// Units whose description speaks of anything that can be drawn.
    pub told: usize,
    /// Means over all units, 0 where nothing is told.
    pub correlation: f64,
    pub auprc: f64,
}

/// Whether a measure falls when the truth is blurred, of what share of the units.
#[derive(Debug, Serialize)]
pub struct Sanity {
    pub measure: &'static str,
    /// Whose descriptions foretell anything.
    pub units: usize,
    /// With half of what is there not noted.
    pub missing: f64,
    /// With as much again noted that is not there.
    pub extra: f64,
}

/// Of planted units of a kind, how many are called what they are.
#[derive(Debug, Serialize)]
pub struct Planted {
    pub kind: Kind,
    pub units: usize,
    pub labels: usize,
    pub milan: usize,
}

const SHUFFLES: usize = 5;
/// A measure must fall by this for a unit to count, and for this share of the units to be trusted.
const FALL: f64 = 0.001;
const TRUSTED: f64 = 0.9;
/// Whoever is surer than this of noise is wrong.
const SURE: f32 = 0.5;
/// A description foretells something where its correlation is above this.
const FORETOLD: f64 = 0.1;
const BATCH: usize = 32;

pub fn evaluate(config: &Config, progress: Progress<'_>) -> anyhow::Result<Drawn> {
    let scratch = tempfile::tempdir()?;
    let (simulation, sanity) = simulated(config, scratch.path(), progress)?;
    let planted = planted(config, &scratch.path().join("planted"), progress)?;
    Ok(Drawn { simulation, sanity, planted })
}

/// Everything to audit a model with a describer, in memory.
fn audit(config: &Config, model: &str, data: &str, describer: Describer, scratch: &Path) -> Audit {
    Audit {
        source: Source::local(model, data, scratch),
        layers: vec![],
        how: How { describer, compat: false, sentence_encoder: None },
        asked: Default::default(),
        pictures: None,
        settings: Settings {
            batch_size: BATCH,
            threads: config.threads,
            max_unreadable: 0.,
            exemplars: exemplars::Config::default(),
        },
        seed: config.seed,
        out: None,
        export: false,
    }
}

/// What is said of the units of a network, and the maps of each.
fn looked(audit: &Audit, progress: Progress<'_>) -> anyhow::Result<(Vec<Description>, Vec<Unit>)> {
    let descriptions = audit::score(audit, &[], progress)?;
    let subject = subject::open(&audit.source)?;
    let graph = subject.model.graph();
    let nodes: Vec<_> = graph.default_sites().iter().filter_map(|it| graph.find(it)).collect();
    let mut maps = Maps::new(&nodes);
    for batch in Loader::new(&subject.probe.dataset, &subject.probe.preprocess, BATCH) {
        subject.model.network.run(&batch?.xs, &mut maps)?;
    }
    Ok((descriptions, maps.units()))
}

/// The side of a unit's maps, and its activations at all places of all pictures.
type Unit = (usize, Vec<f32>);

fn simulated(
    config: &Config,
    scratch: &Path,
    progress: Progress<'_>,
) -> anyhow::Result<(Vec<Simulation>, Vec<Sanity>)> {
    let scenes: Scenes = config.pictures.parse()?;
    let drawn: Vec<_> = (0..scenes.n).map(|number| scenes.draw(number).elements).collect();
    let lexicon = Lexicon::new(drawn.iter().flatten().flat_map(|it| &it.phrases));
    let seen = |it: Element| Seen { words: lexicon.words(&it), mask: it.mask };
    let pictures: Vec<Vec<Seen>> =
        drawn.into_iter().map(|it| it.into_iter().map(seen).collect()).collect();
    let told = |descriptions: &[Description]| -> Vec<Told> {
        let texts = descriptions.iter().map(|it| it.best().map_or("", |it| it.text.as_str()));
        texts.map(|it| lexicon.told(it)).collect()
    };
    let milan = Describer::Milan(config.describer.clone());
    let ours = audit(config, "demo", &config.pictures, milan.clone(), scratch);
    let (descriptions, units) = looked(&ours, progress)?;
    let own = told(&descriptions);
    let file = scratch.join("untrained.safetensors");
    std::fs::write(&file, untrained(zoo::SMALL, CLASSES.len(), config.seed)?)?;
    let path = file.display().to_string();
    let (other, others) =
        looked(&audit(config, &path, &config.pictures, milan, scratch), progress)?;
    let other = told(&other);
    progress("simulation", 0, 4)?;

    let foretold = |told: &[Told], units: &[Unit]| -> Vec<Option<[f64; 2]>> {
        let pairs = told.par_iter().zip(units);
        pairs.map(|(told, (side, map))| measures(map, &places(told, &pictures, *side))).collect()
    };
    let found = foretold(&own, &units);
    progress("simulation", 1, 4)?;
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let mut shuffled = (vec![], vec![]);
    for _ in 0..SHUFFLES {
        let mut told = own.clone();
        // All by as many places, so that no unit keeps its own.
        told.rotate_left(rng.random_range(1..own.len().max(2)));
        shuffled.1.extend(foretold(&told, &units));
        shuffled.0.extend(told);
    }
    progress("simulation", 2, 4)?;
    let simulation = vec![
        Simulation::of("its own", 1, &own, &found),
        Simulation::of("those of other units", SHUFFLES, &shuffled.0, &shuffled.1),
        Simulation::of(
            "its own, of a network that learnt nothing",
            1,
            &other,
            &foretold(&other, &others),
        ),
    ];
    progress("simulation", 3, 4)?;

    // Only where there is something to lose.
    let known: Vec<(usize, [f64; 2])> = found
        .iter()
        .enumerate()
        .filter_map(|(at, it)| Some((at, (*it)?)).filter(|it| FORETOLD < it.1[0]))
        .collect();
    let falls: Vec<[[bool; 2]; 2]> = known
        .par_iter()
        .map(|&(at, before)| {
            let (side, map) = &units[at];
            let blurred = blurred(&places(&own[at], &pictures, *side), config.seed + at as u64);
            let after = blurred.map(|it| measures(map, &it).unwrap_or_default());
            [0, 1].map(|measure| {
                [0, 1].map(|way: usize| after[way][measure] + FALL < before[measure])
            })
        })
        .collect();
    progress("simulation", 4, 4)?;
    let sanity = ["correlation", "AUPRC"].into_iter().enumerate().map(|(at, measure)| {
        let share = |way: usize| {
            falls.iter().filter(|it| it[at][way]).count() as f64 / falls.len().max(1) as f64
        };
        Sanity { measure, units: falls.len(), missing: share(0), extra: share(1) }
    });
    Ok((simulation, sanity.collect()))
}

impl Simulation {
    fn of(
        descriptions: &'static str,
        rounds: usize,
        told: &[Told],
        found: &[Option<[f64; 2]>],
    ) -> Simulation {
        let mean = |at: usize| {
            found.iter().flatten().map(|it| it[at]).sum::<f64>() / found.len().max(1) as f64
        };
        Simulation {
            descriptions,
            units: told.len() / rounds,
            told: told.iter().filter(|it| !it.is_empty()).count() / rounds,
            correlation: mean(0),
            auprc: mean(1),
        }
    }
}

fn planted(config: &Config, folder: &Path, progress: Progress<'_>) -> anyhow::Result<Vec<Planted>> {
    let files = planted::write(folder)?;
    let (model, pictures) =
        (files.model.display().to_string(), files.pictures.display().to_string());
    let mut kinds: BTreeMap<Kind, Planted> = BTreeMap::new();
    for describer in [Describer::Labels, Describer::Milan(config.describer.clone())] {
        let own = describer == Describer::Labels;
        let said =
            audit::score(&audit(config, &model, &pictures, describer, folder), &[], progress)?;
        for (site, channel, kind, words) in TRUTH {
            let unit = said.iter().find(|it| it.unit.site == site && it.unit.channel == channel);
            let hit = unit.is_some_and(|it| is_hit(it, kind, words));
            let none = Planted { kind, units: 0, labels: 0, milan: 0 };
            let kind = kinds.entry(kind).or_insert(none);
            kind.units += usize::from(own);
            *if own { &mut kind.labels } else { &mut kind.milan } += usize::from(hit);
        }
    }
    Ok(kinds.into_values().collect())
}

/// Whether a planted unit is called what it is: every group of words is met by one of its own.
fn is_hit(said: &Description, kind: Kind, words: &[&[&str]]) -> bool {
    match kind {
        Kind::Dead => said.status == Status::Dead,
        Kind::Noise => said.best().is_none_or(|it| it.confidence < SURE),
        _ => said.best().is_some_and(|it| {
            let stems = stemmed(&it.text);
            let met = |group: &&[&str]| {
                group.iter().flat_map(|it| stemmed(it)).any(|it| stems.contains(&it))
            };
            words.iter().all(met)
        }),
    }
}

/// The tables for a terminal.
pub fn table(found: &Drawn) -> String {
    let mut simulation =
        new_table(100, &["descriptions", "units", "of drawn things", "correlation", "AUPRC"]);
    for it in &found.simulation {
        simulation.add_row(vec![
            it.descriptions.to_owned(),
            it.units.to_string(),
            it.told.to_string(),
            format!("{:.3}", it.correlation),
            format!("{:.3}", it.auprc),
        ]);
    }
    right(&mut simulation, 1..5);
    let mut sanity = new_table(
        100,
        &["measure", "units", "falls, half not noted", "falls, twice noted", "trusted"],
    );
    for it in &found.sanity {
        let trusted = TRUSTED < it.missing.min(it.extra);
        sanity.add_row(vec![
            it.measure.to_owned(),
            it.units.to_string(),
            format!("{:.1} %", 100. * it.missing),
            format!("{:.1} %", 100. * it.extra),
            if trusted { "yes" } else { "no" }.to_owned(),
        ]);
    }
    right(&mut sanity, 1..4);
    let mut planted = new_table(100, &["planted", "units", "hit by labels", "hit by milan"]);
    for it in &found.planted {
        planted.add_row(vec![
            format!("{:?}", it.kind).to_lowercase(),
            it.units.to_string(),
            it.labels.to_string(),
            it.milan.to_string(),
        ]);
    }
    right(&mut planted, 1..4);
    format!(
        "Do descriptions foretell where in drawn pictures units fire?\n{simulation}\n\nDo the measures fall when the truth is blurred?\n{sanity}\n\nAre planted units called what they are?\n{planted}\n"
    )
}
