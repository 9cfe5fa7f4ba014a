//! How long describing takes, given exemplars.
//!
//! `cargo bench --bench describe -- RUN IMAGES LAYER UNITS`: RUN is the folder of a run of milan-audit,
//! IMAGES its pictures; the audited network must have seen their middle 224 of 256 pixels. All cores are used.
//! `describe.py` beside does the paper's part in the reference's way.

#![allow(clippy::print_stdout)]

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use milan::data::{self, Preprocess};
use milan::describe::milan::Milan;
use milan::describe::milan::compose::Composer;
use milan::describe::milan::decode::Ending;
use milan::describe::milan::look::{Pictures, look};
use milan::exemplars::store;
use rayon::prelude::*;

/// Units whose beams go together.
const BATCH: usize = 8;

// Maps of megabytes come and go with every op; the system's allocator fetches each afresh.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let given: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let [run, images, layer, units] = &given[..] else {
        println!("what is wanted: RUN IMAGES LAYER UNITS");
        return Ok(());
    };
    let quiet = |_: &str, _, _| Ok(());
    let mut exemplars = store::read(Path::new(run), layer)?;
    let n = units.parse::<usize>()?.min(exemplars.n_units);
    let (k, size) = (exemplars.k, exemplars.map.0 * exemplars.map.1);
    exemplars.n_units = n;
    exemplars.ids.truncate(n * k);
    exemplars.maps.truncate(n * k * size);
    let dataset = data::open(Path::new(images), &[])?;
    let preprocess = Preprocess::of("resnet152");

    let mut began = Instant::now();
    let mut lap = |what: &str| {
        println!("{what}: {:.2} s", began.elapsed().as_secs_f64());
        began = Instant::now();
    };
    let milan = Milan::built_in()?;
    lap("load");
    let pictures = Pictures { dataset: &dataset, preprocess: &preprocess };
    let seen =
        look(&milan.encoder, &milan.settings.encoder.input, &[exemplars], &pictures, &quiet)?;
    lap("look");
    let all: Vec<usize> = (0..n).collect();
    let beams = all.par_chunks(BATCH).map(|units| {
        let perceived = milan.perceive(&seen[0].features(units)?)?;
        let speaker = milan.speech.speaker(milan.settings.length);
        let beams = speaker.beam(&perceived.regions, milan.settings.beam_size, None)?;
        let say = |beam: &Vec<_>| {
            let (best, _, _) = speaker.rerank(beam, milan.settings.lambda, Ending::AtStop)?;
            anyhow::Ok(milan.speech.vocabulary.reconstruct(&beam[best].tokens))
        };
        beams.iter().map(say).collect::<anyhow::Result<Vec<String>>>()
    });
    let said = beams.collect::<anyhow::Result<Vec<_>>>()?.concat();
    lap("beam of 50, reranked");
    let composer = Composer::new(&milan)?;
    let readings = milan.read(&composer, &seen[0], &|_| Ok(()))?;
    lap("composed, critic");
    let first = readings[0].first().context("nothing was said")?;
    println!("{n} units; of the first: \"{}\" and \"{}\"", said[0], first.text);
    Ok(())
}
