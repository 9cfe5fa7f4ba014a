//! What every unit of some sites fires on: decode, forward, top 15, 0.99 quantile, masks.
//!
//! `cargo bench --bench exemplars -- MODEL IMAGES [--threads N] [--sites a,b,…]`: MODEL is a safetensors file.
//! Prints the seconds and the peak memory; without `--sites` those the architecture is looked at by default.
//! `exemplars.py` beside does the same in PyTorch.

#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Instant;

use candle_core::Device;
use milan::exemplars::{Config, SiteExemplars};
use milan::model::run::Ablate;
use milan::pass::{Settings, pass};
use milan::subject::{self, Source};
use rayon::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Side of the masks, in pixels: the reference's.
const SIDE: usize = 224;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).filter(|it| it != "--bench");
    let (mut threads, mut sites, mut named) = (2, None, vec![]);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--threads" => threads = args.next().unwrap_or_default().parse()?,
            "--sites" => sites = args.next(),
            _ => named.push(arg),
        }
    }
    let [model, images] = &named[..] else {
        println!("what is wanted: MODEL IMAGES");
        return Ok(());
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let began = Instant::now();
    let subject = subject::open(&Source {
        model: model.clone(),
        arch: None,
        data: Some(images.clone()),
        classes: None,
        offline: true,
        cache: None,
        device: Device::Cpu,
        exact: false,
        scratch: PathBuf::new(),
    })?;
    let network = &subject.model.network;
    let sites: Vec<String> = match sites {
        Some(sites) => sites.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect(),
        None => network.graph().default_sites().to_vec(),
    };
    let exemplars = Config::default();
    let settings = Settings { batch_size: 32, threads, max_unreadable: 0., exemplars };
    let quiet = |_: &str, _, _| Ok(());
    let opened = began.elapsed().as_secs_f64();
    let found = pass(network, &subject.probe, &sites, &Ablate::default(), &settings, "", &quiet)?;
    let passed = began.elapsed().as_secs_f64();
    let on: usize = found.exemplars.sites.iter().map(masks).sum();
    let all = began.elapsed().as_secs_f64();
    println!(
        "open {opened:.2}  pass {:.2}  masks {:.2}  together {all:.2} s, {} MiB at most, {on} pixels in masks",
        passed - opened,
        all - passed,
        peak()?,
    );
    Ok(())
}

/// Makes the masks of all exemplars and counts the pixels that are on.
fn masks(site: &SiteExemplars) -> usize {
    let all = (0..site.n_units * site.k).into_par_iter();
    all.map(|at| site.mask(at / site.k, at % site.k, SIDE).into_iter().filter(|it| *it).count())
        .sum()
}

/// The most memory held so far, in MiB; 0 where the system does not tell.
fn peak() -> anyhow::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? / 1024)
}
