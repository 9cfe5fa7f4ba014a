//! Exemplars to readings: by the built-in describer, one of our files, or one of the authors'.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::bail;
use rayon::prelude::*;

use super::authors;
use super::compose::Composer;
use super::concepts::{Concepts, Facts, PlaceShares};
use super::decode::{Ending, Speaker};
use super::encoder::Resizing;
use super::look::{Input, Seen, TakePlaces, look, look_around};
use super::{Milan, checkpoint};
use crate::describe::{Config, How, Readings};
use crate::exemplars::{Exemplars, SiteExemplars};
use crate::unit::{Judgement, Reading, Shown, Unit};
use crate::{Progress, inconclusive, usage};

/// Units whose beams go together.
const BATCH: usize = 8;
/// Of the authors' encoder's pictures, in pixels.
const AUTHORS_SIDE: u32 = 224;

/// What is known of every unit, in the order of the exemplars' units.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) readings: Readings,
    /// For each phrase asked about, `units × phrases`.
    pub(crate) evidence: Vec<Vec<f32>>,
    /// For each concept that phrases speak of.
    pub(crate) judged: Vec<BTreeMap<String, Judgement>>,
    pub(crate) shown: BTreeMap<String, Shown>,
}

/// Describes and judges every unit.
pub(crate) fn read(
    file: Option<&Path>,
    how: &How,
    exemplars: &Exemplars,
    config: &Config<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<Known> {
    if let Some(file) = file.filter(|it| is_authors(Some(it))) {
        if let Some(phrase) = config.phrases.first() {
            return Err(usage!(
                "evidence of \"{phrase}\" is asked for, and {} has no critic to give it; use --describer milan",
                file.display()
            ));
        }
        let readings = by_authors(file, how.compat, exemplars, config, progress)?;
        return Ok(Known { readings, ..Known::default() });
    }
    let mut milan = match file {
        Some(file) => Milan::new(checkpoint::open(file)?)?,
        None => Milan::built_in()?,
    };
    if let Some(folder) = &how.sentence_encoder {
        milan.listen_with(folder)?;
    }
    let phrases: Vec<&str> = config.phrases.iter().map(String::as_str).collect();
    let sites = &exemplars.sites;
    if !phrases.is_empty() && exemplars.spread.len() != sites.len() {
        bail!("evidence is asked for, and no places were drawn to find it at");
    }
    let spread = if phrases.is_empty() { &[] } else { exemplars.spread.as_slice() };
    let fires: Vec<&SiteExemplars> = sites.iter().chain(spread).collect();
    let input = &milan.settings.encoder.input;
    let composer = Composer::new(&milan)?;
    let asked = config.concepts;
    let concepts = Concepts::new(&milan, &composer, asked)?;
    let mut places = PlaceShares::default();
    let mut take =
        |ids: &[usize], features: &[f32]| concepts.see_places(&mut places, ids, features);
    let take: Option<TakePlaces<'_>> = match asked {
        [] => None,
        _ => Some(&mut take),
    };
    let pictures = &config.pictures;
    let mut seen = look_around(&milan.encoder, input, &fires, pictures, take, progress)?;
    let spread = seen.split_off(sites.len());
    let n_units = exemplars.n_units();
    let done = AtomicUsize::new(0);
    let tick = |n: usize| progress("describing", done.fetch_add(n, Ordering::Relaxed) + n, n_units);
    let mut readings = Readings::new();
    for (site, seen) in sites.iter().zip(&seen) {
        let read = milan.read(&composer, seen, &tick)?.into_iter().enumerate();
        readings.extend(read.map(|(unit, it)| (Unit::new(&site.site, unit), it)));
    }
    let evidence = if phrases.is_empty() { vec![] } else { milan.evidence(&spread, &phrases)? };
    let judged = judged(&concepts, exemplars, &seen, &places, &readings, config)?;
    let probabilities = judged.iter().flat_map(BTreeMap::values).map(|it| it.probability);
    // What is no number is below every limit, and would let a rule pass.
    if !probabilities.chain(evidence.iter().flatten().copied()).all(f32::is_finite) {
        return Err(inconclusive!(
            "the describer {} gives probabilities that are no numbers; its weights are damaged",
            file.map_or("that is built in".into(), |it| it.display().to_string())
        ));
    }
    let known = (0..asked.len()).filter(|&it| concepts.is_known(it));
    let shown = concepts.shown(&places);
    let shown = known.map(|it| (asked[it].name.clone(), shown[it])).collect();
    Ok(Known { readings, evidence, judged, shown })
}

/// Every concept that phrases speak of, judged for every unit.
fn judged(
    concepts: &Concepts<'_>,
    exemplars: &Exemplars,
    seen: &[Seen],
    places: &PlaceShares,
    readings: &Readings,
    config: &Config<'_>,
) -> anyhow::Result<Vec<BTreeMap<String, Judgement>>> {
    let known: Vec<usize> =
        (0..config.concepts.len()).filter(|&it| concepts.is_known(it)).collect();
    if known.is_empty() {
        return Ok(vec![]);
    }
    let shares = seen.iter().map(|it| concepts.of_site(it)).collect::<anyhow::Result<Vec<_>>>()?;
    let network = concepts.network(&shares);
    let mut judged = Vec::with_capacity(exemplars.n_units());
    for (site, shares) in exemplars.sites.iter().zip(&shares) {
        let depth = config.depths.get(&site.site).copied().unwrap_or(1.);
        for row in 0..site.n_units {
            let unit = Unit::new(&site.site, row);
            let readings = readings.get(&unit).map(Vec::as_slice).unwrap_or_default();
            let pictures = site.ids(row);
            let network = &network;
            let facts = Facts { shares, row, pictures, places, network, readings, depth };
            let one = |&it: &usize| (config.concepts[it].name.clone(), concepts.judge(&facts, it));
            judged.push(known.iter().map(one).collect());
        }
    }
    Ok(judged)
}

/// Whether a file is one of the authors', by its name.
pub(crate) fn is_authors(file: Option<&Path>) -> bool {
    file.and_then(Path::extension).is_some_and(|it| it == "pth")
}

/// The paper's method with the authors' weights. Nothing says how sure they are, so the confidence is the
/// mean probability of a word, `p(d|E)^(1/n)`.
fn by_authors(
    file: &Path,
    compat: bool,
    exemplars: &Exemplars,
    config: &Config<'_>,
    progress: Progress<'_>,
) -> anyhow::Result<Readings> {
    let (resizing, ending) = match compat {
        true => (Resizing::Reference, Ending::Reference),
        false => (Resizing::Area, Ending::AtStop),
    };
    let it = authors::open(file, resizing)?;
    let input = Input { side: AUTHORS_SIDE, mean: it.mean, std: it.std };
    let seen = look(&it.encoder, &input, &exemplars.sites, &config.pictures, progress)?;
    let speaker = Speaker {
        captioner: &it.captioner,
        lm: it.lm.as_ref(),
        vocabulary: &it.vocabulary,
        length: it.length,
    };
    let say = |seen: &Seen, units: &[usize]| {
        let features = seen.features(units)?;
        let beams = speaker.beam(&it.captioner.regions(&features)?, it.beam_size, None)?;
        let say = |beam: &Vec<super::decode::Sentence>| {
            let (best, _, _) = speaker.rerank(beam, it.temperature, ending)?;
            let sentence = &beam[best];
            let confidence = (sentence.score / sentence.tokens.len() as f32).exp();
            let text = it.vocabulary.reconstruct(&sentence.tokens);
            anyhow::Ok(vec![Reading { text, confidence }])
        };
        beams.iter().map(say).collect::<anyhow::Result<Vec<_>>>()
    };
    let mut readings: Readings = BTreeMap::new();
    let n_units = exemplars.n_units();
    for (site, seen) in exemplars.sites.iter().zip(&seen) {
        let units: Vec<usize> = (0..seen.n_units).collect();
        for some in units.chunks(BATCH * rayon::current_num_threads()) {
            progress("describing", readings.len(), n_units)?;
            let said = some.par_chunks(BATCH).map(|units| say(seen, units));
            let said = said.collect::<anyhow::Result<Vec<_>>>()?.concat();
            readings.extend(some.iter().map(|&it| Unit::new(&site.site, it)).zip(said));
        }
    }
    progress("describing", n_units, n_units)?;
    Ok(readings)
}
