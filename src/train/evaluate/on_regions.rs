//! The findings of policies in a network against regions whose names are known: units that are found for what a policy
//! speaks of should fire where regions are that it speaks of, in pictures of whose regions none was learnt.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::Progress;
use crate::describe::milan::Milan;
use crate::describe::milan::look::Pictures;
use crate::describe::{self, Concept, Describer, How};
use crate::exemplars::{self, Exemplars};
use crate::model::run::Ablate;
use crate::pass::{self, Probe, Settings};
use crate::policy::{self, Certainty, Policy};
use crate::ruling;
use crate::subject::{self, Subject};
use crate::train::firing::{Pixels, UnitPixels, places};
use crate::train::misplaced::Misplaced;
use crate::train::overlap::Against;
use crate::train::regions::{Regions, under_masks};
use crate::train::source::Source;
use crate::unit::Description;
use crate::usage;

/// Where the units that a policy finds fire.
#[derive(Debug, Serialize)]
pub struct OnRegions {
    pub policy: String,
    /// The names of regions that the policy speaks of, and the pictures that they are in.
    pub names: Vec<String>,
    pub pictures: usize,
    /// The share of those pictures that the regions cover, 0..=1.
    pub area: f64,
    /// Units of the network, and the hundredth of them of which the greatest share is within such regions of all that
    /// they fire in pictures with regions of any name.
    pub units: usize,
    pub units_most: usize,
    pub likely: Found,
    /// Likely ones are possible, too.
    pub possible: Found,
}

/// Where some units fire.
#[derive(Debug, Serialize)]
pub struct Found {
    pub units: usize,
    /// Of all that they fire in the pictures of the regions, the share within them, over the share of the area.
    pub times_area: Option<f64>,
    /// Of all that they fire in pictures with regions of any name, the share within these, over that of the other units.
    pub times_others: Option<f64>,
    /// How many of those that fire most within the regions are among them.
    pub of_most: usize,
}

impl Found {
    fn new(
        probabilities: &[f32],
        least: Certainty,
        pixels: &Pixels,
        most: &BTreeSet<usize>,
        name: usize,
    ) -> Found {
        let is_found = |it: &usize| Certainty::of(probabilities[*it]).is_some_and(|it| it <= least);
        let (inside, others): (Vec<usize>, Vec<usize>) =
            (0..pixels.units.len()).partition(is_found);
        let units = |of: &[usize]| of.iter().map(|it| &pixels.units[*it]).collect::<Vec<_>>();
        let anywhere = |of: &[usize]| share(units(of), |it| it.all, name);
        let around = share(units(&inside), |it| it.around[name], name);
        Found {
            units: inside.len(),
            times_area: around.and_then(|it| over(it, area(pixels, name))),
            times_others: anywhere(&inside).zip(anywhere(&others)).and_then(|(a, b)| over(a, b)),
            of_most: inside.iter().filter(|it| most.contains(it)).count(),
        }
    }
}

/// One of so many units is of those that fire most within regions.
const MOST: usize = 100;
const BATCH: usize = 32;

/// Holds each policy against the regions, but for those of misplaced names; policies that speak of no other name are left
/// out.
pub(super) fn on_regions(
    (milan, describer): (&Milan, Option<&Path>),
    source: &Source,
    against: &Against,
    misplaced: &[Misplaced],
    names: &[String],
    progress: Progress<'_>,
) -> anyhow::Result<Vec<OnRegions>> {
    let regions = Regions::named(&against.regions)?;
    let policies = names.iter().map(|it| policy::load(it, false));
    let policies = policies.collect::<anyhow::Result<Vec<Policy>>>()?;
    let learnt = regions.pictures_learnt(&milan.seen);
    let mut known = regions.by_name(|it| !learnt.contains(&regions.picture(it)));
    known.retain(|name, _| misplaced.iter().all(|it| it.name != *name));
    // Of each policy the regions that it speaks of.
    let spoken_of = |policy: &Policy| -> (Vec<String>, Vec<Vec<usize>>) {
        let concepts = ruling::concepts(policy);
        let speaks = |name: &str| concepts.iter().any(|it| (it.speaks)(name));
        let spoken = known.iter().filter(|(name, _)| speaks(name));
        spoken.map(|(name, it)| ((*name).to_owned(), it.clone())).unzip()
    };
    let spoken: Vec<(Vec<String>, Vec<Vec<usize>>)> = policies.iter().map(spoken_of).collect();
    let own: Vec<(&str, Vec<usize>)> =
        policies.iter().zip(&spoken).map(|(it, of)| (it.name.as_str(), of.1.concat())).collect();
    if own.iter().all(|it| it.1.is_empty()) {
        return Ok(vec![]);
    }
    let ids: BTreeSet<usize> = (0..regions.keys.len()).map(|it| regions.picture(it)).collect();
    let ids: Vec<usize> = ids.difference(&learnt).copied().collect();

    let (mut dataset, _, geometry) = regions.pictures(source)?;
    let audited = Audited::new(against, &dataset.source, &policies, describer, progress)?;
    dataset
        .only(&ids)
        .map_err(|id| usage!("the regions speak of picture {id}, which is not there"))?;
    let preprocess = under_masks(&audited.subject.probe.preprocess, &geometry);
    let probe = Probe { dataset, preprocess };
    let places = places(&regions, &ids, &own);
    let (network, sites) = (&audited.subject.model.network, &audited.exemplars.sites);
    let shape = (own.len(), 1);
    let pixels = Pixels::count(network, &probe, sites, &places, shape, progress)?.swap_remove(0);
    let row = |(at, (policy, (names, _))): (usize, (&Policy, &(Vec<String>, _)))| {
        let most = most(&pixels.units, at);
        let probabilities = audited.probabilities(policy);
        let found = |least| Found::new(&probabilities, least, &pixels, &most, at);
        OnRegions {
            policy: policy.name.clone(),
            names: names.clone(),
            pictures: places.iter().filter(|it| it.contains_key(&at)).count(),
            area: area(&pixels, at),
            units: pixels.units.len(),
            units_most: most.len(),
            likely: found(Certainty::Likely),
            possible: found(Certainty::Possible),
        }
    };
    let rows = policies.iter().zip(&spoken).enumerate().filter(|it| !it.1.1.0.is_empty());
    Ok(rows.map(row).collect())
}

/// What an audit finds in a network, on all pictures.
struct Audited {
    subject: Subject,
    exemplars: Exemplars,
    descriptions: Vec<Description>,
}

impl Audited {
    fn new(
        against: &Against,
        data: &str,
        policies: &[Policy],
        describer: Option<&Path>,
        progress: Progress<'_>,
    ) -> anyhow::Result<Audited> {
        let network = against.network.display().to_string();
        let local = subject::Source::local(&network, data, &std::env::temp_dir());
        let subject = subject::open(&local)?;
        let graph = subject.model.graph();
        let sites = subject::sites(graph, &against.layers)?;
        let settings = Settings {
            batch_size: BATCH,
            threads: against.threads,
            max_unreadable: 0.01,
            exemplars: exemplars::Config::default(),
        };
        let (probe, none) = (&subject.probe, Ablate::default());
        let network = &subject.model.network;
        let pass = pass::pass(network, probe, &sites, &none, &settings, "pictures", progress)?;
        let mut concepts = vec![];
        for policy in policies {
            let own = ruling::concepts(policy).into_iter();
            concepts.extend(own.map(|it| Concept { name: rule(policy, &it.name), ..it }));
        }
        let depths = sites.iter().map(|it| (it.clone(), subject::depth(graph, it))).collect();
        let describer = Describer::Milan(describer.map(Path::to_owned));
        let how = How { describer, compat: false, sentence_encoder: None };
        let config = describe::Config {
            pictures: Pictures { dataset: &probe.dataset, preprocess: &probe.preprocess },
            classes: &subject.classes,
            min_confidence: 0.,
            phrases: &[],
            concepts: &concepts,
            depths: &depths,
            seed: 0,
        };
        let exemplars = pass.exemplars;
        let descriptions = describe::describe(&how, &exemplars, &config, progress)?.descriptions;
        Ok(Audited { subject, exemplars, descriptions })
    }

    /// For each unit, the surest that a rule of a policy holds.
    fn probabilities(&self, policy: &Policy) -> Vec<f32> {
        let rules: Vec<String> =
            ruling::concepts(policy).iter().map(|it| rule(policy, &it.name)).collect();
        let surest = |it: &Description| {
            let judged = rules.iter().filter_map(|rule| it.judged.get(rule));
            judged.map(|it| it.probability).fold(0., f32::max)
        };
        self.descriptions.iter().map(surest).collect()
    }
}

/// The name of a rule among those of several policies, which may have rules of the same name.
fn rule(policy: &Policy, name: &str) -> String {
    format!("{}/{name}", policy.name)
}

/// The units that fire [most](MOST) within the regions of a name.
fn most(units: &[UnitPixels], name: usize) -> BTreeSet<usize> {
    let within = |unit: &usize| share([&units[*unit]], |it| it.all, name).unwrap_or_default();
    let mut order: Vec<usize> = (0..units.len()).filter(|it| 0. < within(it)).collect();
    order.sort_by(|a, b| within(b).total_cmp(&within(a)));
    order.into_iter().take(units.len().div_ceil(MOST)).collect()
}

/// A quotient, where there is one.
fn over(a: f64, b: f64) -> Option<f64> {
    (0. < b).then(|| a / b)
}

/// The share of the pictures of a name that its regions cover.
fn area(pixels: &Pixels, name: usize) -> f64 {
    pixels.regions[name] as f64 / pixels.pictures[name].max(1) as f64
}

/// Of what some units fire, as `fired` counts it, the share within the regions of a name; `None` where they do not fire.
fn share<'a>(
    units: impl IntoIterator<Item = &'a UnitPixels>,
    fired: impl Fn(&UnitPixels) -> usize,
    name: usize,
) -> Option<f64> {
    let (mut all, mut within) = (0, 0);
    for unit in units {
        all += fired(unit);
        within += unit.within[name];
    }
    (0 < all).then(|| within as f64 / all as f64)
}
