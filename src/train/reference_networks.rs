//! Networks of whose units it is known, without asking anybody, what can be said: what is drawn where the units of the
//! demo's classifier fire, what planted units were made for, and nothing in particular of units that learnt nothing. They
//! teach how probable findings are, beside the units that people described, which are all of one network that learnt well.

use std::collections::BTreeMap;
use std::path::Path;

use super::annotations::Annotated;
use super::classifier::untrained;
use super::concepts::Subjects;
use super::features::Looker;
use super::source::{self, Around};
use crate::Progress;
use crate::data::scenes::{self, CLASSES, Element, NAME, Scenes};
use crate::describe::milan::look::{Pictures, Seen};
use crate::exemplars::{self, SiteExemplars};
use crate::model::run::Ablate;
use crate::model::zoo;
use crate::pass::{self, Settings};
use crate::planted::{self, Kind, TRUTH};
use crate::subject;
use crate::unit::Unit;

/// Some units of such a network; what people would say stands in place of what they said.
pub struct ReferenceNetwork {
    seen: Vec<Seen>,
    units: Vec<Annotated>,
    around: Around,
}

impl ReferenceNetwork {
    pub fn subjects(&self) -> Subjects<'_> {
        Subjects { seen: &self.seen, units: &self.units, around: &self.around }
    }
}

/// Of each layer the first of every so many units is taken: there are to be fewer than people described.
const EVERY: usize = 4;
/// Pictures that no describer learns from: of a seed of their own.
const DRAWN: &str = "demo:300:13:mixed";
/// Something is where a unit fires if it covers so much of its masks, on the average.
const COVERED: f64 = 0.5;
const BATCH: usize = 32;
const SEED: u64 = 0;

/// The demo's classifier, a planted network, and one that learnt nothing, which looks at drawn pictures and, where there
/// are any, at the photographs of `source`.
pub fn all(
    source: &source::Source,
    looker: &Looker<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<ReferenceNetwork>> {
    let scratch = tempfile::tempdir()?;
    let open = |name: &'static str, model: String, data: String| Opening {
        name,
        model,
        data,
        scratch: scratch.path(),
        looker,
    };
    let drawn = Drawn::new(&DRAWN.parse()?);
    let demo = open("reference-demo", "demo".into(), DRAWN.into());
    let mut networks = vec![demo.read(EVERY, &|site, row| drawn.said(site, row), progress)?];

    let files = planted::write(&scratch.path().join("planted"))?;
    let (model, pictures) =
        (files.model.display().to_string(), files.pictures.display().to_string());
    let planted = open("reference-planted", model, pictures);
    networks.push(planted.read(1, &|site, row| planted_for(&site.site, row), progress)?);

    let file = scratch.path().join("untrained.safetensors");
    std::fs::write(&file, untrained(zoo::SMALL, CLASSES.len(), SEED)?)?;
    let model = file.display().to_string();
    let mut pictures = vec![("reference-untrained-drawn", DRAWN.to_owned())];
    pictures
        .extend(source.images.iter().map(|it| ("reference-untrained", it.display().to_string())));
    for (name, pictures) in pictures {
        let nothing = |_: &SiteExemplars, _: usize| Some(vec![]);
        networks.push(open(name, model.clone(), pictures).read(EVERY, &nothing, progress)?);
    }
    Ok(networks)
}

/// A network and its pictures, to be opened and looked at.
struct Opening<'a> {
    /// Under which features are kept.
    name: &'static str,
    model: String,
    data: String,
    scratch: &'a Path,
    looker: &'a Looker<'a>,
}

/// What people would say of a unit of a layer; `None` where nobody knows.
type WouldSay<'a> = &'a dyn Fn(&SiteExemplars, usize) -> Option<Vec<String>>;

impl Opening<'_> {
    /// One of so many units of each layer.
    fn read(
        &self,
        every: usize,
        say: WouldSay<'_>,
        progress: Progress<'_>,
    ) -> anyhow::Result<ReferenceNetwork> {
        let Opening { name, looker, .. } = *self;
        let local = subject::Source::local(&self.model, &self.data, self.scratch);
        let subject = subject::open(&local)?;
        let sites = subject.model.graph().default_sites();
        let settings = Settings {
            batch_size: BATCH,
            threads: rayon::current_num_threads(),
            max_unreadable: 0.01,
            exemplars: exemplars::Config::default(),
        };
        let (network, probe, none) = (&subject.model.network, &subject.probe, Ablate::default());
        let found = pass::pass(network, probe, sites, &none, &settings, "pictures", progress)?;
        let (sites, manifest) = (found.exemplars.sites, found.read.manifest_sha256);
        let (mut units, mut of) = (vec![], vec![]);
        for (site, exemplars) in sites.iter().enumerate() {
            let is_known = |row: &usize| !exemplars.dead[*row] && !exemplars.saturated[*row];
            for row in (0..exemplars.n_units).step_by(every).filter(is_known) {
                let Some(texts) = say(exemplars, row) else { continue };
                let unit = Unit::new(&exemplars.site, row);
                units.push(Annotated { unit, site, row, texts, key: String::new() });
                of.push(exemplars.ids(row).to_vec());
            }
        }
        let weights: Vec<&str> =
            subject.weights.files().iter().map(|it| it.sha256.as_str()).collect();
        let inputs = format!("{manifest} {weights:?}");
        let crops = Pictures { dataset: &probe.dataset, preprocess: &probe.preprocess };
        let seen = looker.look(name, &inputs, &sites, &crops, progress)?;
        let places = format!("{name}-places");
        let places = source::places(looker, &places, &inputs, &of, &crops, progress)?;
        Ok(ReferenceNetwork { seen, units, around: Around { pictures: of, places: vec![places] } })
    }
}

/// What is where in drawn pictures.
struct Drawn(Vec<Vec<Element>>);

impl Drawn {
    fn new(scenes: &Scenes) -> Drawn {
        Drawn((0..scenes.n).map(|number| scenes.draw(number).elements).collect())
    }

    /// The phrases for what is [where](COVERED) a unit fires.
    fn said(&self, site: &SiteExemplars, row: usize) -> Option<Vec<String>> {
        let mut covered = BTreeMap::<&str, f64>::new();
        for (rank, &picture) in site.ids(row).iter().enumerate() {
            let mask = site.mask(row, rank, scenes::SIDE as usize);
            let area = mask.iter().filter(|it| **it).count().max(1);
            let mut inside = BTreeMap::<&str, Vec<bool>>::new();
            for element in &self.0[picture] {
                // What a word says is not there.
                for phrase in element.phrases.iter().filter(|it| !it.starts_with(NAME)) {
                    let of = inside.entry(phrase).or_insert_with(|| vec![false; mask.len()]);
                    let own = mask.iter().zip(&element.mask).map(|(a, b)| *a && *b);
                    of.iter_mut().zip(own).for_each(|(it, own)| *it |= own);
                }
            }
            for (phrase, inside) in inside {
                let n = inside.iter().filter(|it| **it).count();
                *covered.entry(phrase).or_default() += n as f64 / area as f64;
            }
        }
        let least = COVERED * site.k as f64;
        let said = covered.into_iter().filter(|(_, it)| least <= *it);
        Some(said.map(|(phrase, _)| phrase.to_owned()).collect())
    }
}

/// What a planted unit may be called: a word of each group in every text, and every word in some text.
fn planted_for(site: &str, row: usize) -> Option<Vec<String>> {
    let (_, _, kind, groups) = TRUTH.iter().find(|it| it.0 == site && it.1 == row)?;
    let n_texts = groups.iter().map(|group| group.len()).max().unwrap_or_default();
    let text = |at: usize| {
        let words = groups.iter().map(|group| group[at % group.len()]);
        words.collect::<Vec<_>>().join(" ")
    };
    (*kind != Kind::Dead).then(|| (0..n_texts).map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_called_what_is_drawn_where_it_fires() {
        let scenes: Scenes = "demo:20:3:mixed".parse().unwrap();
        let drawn = Drawn::new(&scenes);
        let side = scenes::SIDE as usize;
        // A unit that fires on the letters of the pictures that have any, and one that fires everywhere.
        let is_text = |it: &&Element| it.phrases.iter().any(|it| it == "letters");
        let with_text: Vec<usize> =
            (0..scenes.n).filter(|&it| drawn.0[it].iter().any(|it| is_text(&it))).collect();
        let on_text = |id: usize| drawn.0[id].iter().find(is_text).unwrap().mask.clone();
        let unit = |mask: &dyn Fn(usize) -> Vec<bool>| {
            let maps: Vec<bool> = with_text.iter().flat_map(|it| mask(*it)).collect();
            let maps = maps.into_iter().map(|it| half::f16::from_f32(f32::from(u8::from(it))));
            SiteExemplars {
                site: "layer1".into(),
                n_units: 1,
                k: with_text.len(),
                quantile: 0.99,
                map: (side, side),
                n_pictures: scenes.n,
                ids: with_text.clone(),
                activations: vec![1.; with_text.len()],
                maps: maps.collect(),
                thresholds: vec![0.5],
                dead: vec![false],
                saturated: vec![false],
            }
        };
        let said = drawn.said(&unit(&on_text), 0).unwrap();
        assert!(said.iter().any(|it| it == "written text"), "{said:?}");
        assert!(!said.iter().any(|it| it.starts_with(NAME)), "{said:?}");
        let said = drawn.said(&unit(&|_| vec![true; side * side]), 0).unwrap();
        assert!(!said.iter().any(|it| it == "written text"), "{said:?}");
    }

    #[test]
    fn planted_units_are_called_what_they_were_made_for() {
        let (site, row, _, _) = TRUTH.iter().find(|it| it.2 == Kind::And).unwrap();
        let texts = planted_for(site, *row).unwrap();
        assert!(texts.iter().all(|it| it.starts_with("red ")), "{texts:?}");
        assert!(["red text", "red character"].iter().all(|it| texts.iter().any(|text| text == it)));
        assert_eq!(planted_for(site, 10_000), None);
    }
}
