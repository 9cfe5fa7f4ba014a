//! Times the forward pass of architectures with random weights, engine and candle in turns.
//!
//! `cargo bench --bench forward -- [--threads N] [--rounds N] [--by winograd|direct|candle] ARCH…`: medians, in
//! milliseconds a picture. `forward.py` beside puts PyTorch and onnxruntime in between.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use candle_core::{Device, Tensor};
use milan::model::engine::Isa;
use milan::model::run::{Compute, Network, Untapped};
use milan::model::zoo;
use milan::pass::TOGETHER;
use rayon::prelude::*;

mod random;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).filter(|it| it != "--bench");
    let (mut threads, mut rounds, mut named, mut archs) = (2, 7, None, vec![]);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--threads" => threads = args.next().unwrap_or_default().parse()?,
            "--rounds" => rounds = args.next().unwrap_or_default().parse()?,
            "--by" => named = args.next(),
            _ => archs.push(arg),
        }
    }
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let isa = Isa::best();
    let ways = [
        ("winograd", Compute::Winograd(isa)),
        ("direct", Compute::Direct(isa)),
        ("candle", Compute::Candle),
    ];
    let ways: Vec<_> =
        ways.into_iter().filter(|it| named.as_deref().is_none_or(|name| it.0 == name)).collect();
    for name in archs {
        let networks = ways
            .iter()
            .map(|it| random::network(zoo::by_name(&name)?.build(1000), it.1))
            .collect::<anyhow::Result<Vec<Network>>>()?;
        let n = 8 * threads;
        let xs = Tensor::rand(-1f32, 1., (n, 3, 224, 224), &Device::Cpu)?;
        let mut times = vec![vec![]; networks.len()];
        for round in 0..=rounds {
            for (network, times) in networks.iter().zip(&mut times) {
                let began = Instant::now();
                (0..n / TOGETHER).into_par_iter().try_for_each(|at| {
                    let xs = xs.narrow(0, at * TOGETHER, TOGETHER)?;
                    network.run(&xs, &mut Untapped).map(|_| ())
                })?;
                if 0 < round {
                    times.push(began.elapsed().as_secs_f64() * 1000. / n as f64);
                }
            }
        }
        print!("{name}");
        for (times, (by, _)) in times.iter_mut().zip(&ways) {
            times.sort_by(f64::total_cmp);
            print!(" {by} {:.2}", times[times.len() / 2]);
        }
        println!(" ms");
    }
    Ok(())
}
