//! An audit from a program of one's own: which units read text, and how many of them are there?
//!
//!     cargo run --example audit_model [MODEL.safetensors FOLDER_OF_PICTURES]

use candle_core::Device;
use milan::audit::{Config, audit};
use milan::describe::Describer;
use milan::exemplars;
use milan::pass::Settings;
use milan::ruling::Asked;
use milan::subject::Source;

#[allow(clippy::print_stdout)]
fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let scratch = tempfile::tempdir()?;
    let config = Config {
        source: Source {
            model: arguments.next().unwrap_or_else(|| "demo".into()),
            arch: None,
            data: arguments.next(),
            classes: None,
            offline: true,
            cache: None,
            device: Device::Cpu,
            exact: false,
            scratch: scratch.path().to_owned(),
        },
        layers: vec![],
        how: Describer::Labels.into(),
        asked: Asked::of("text"),
        pictures: None,
        settings: Settings {
            batch_size: 16,
            threads: 2,
            max_unreadable: 0.01,
            exemplars: exemplars::Config::default(),
        },
        seed: 0,
        out: None,
        export: false,
    };
    let report = audit(&config, &|_, _, _| Ok(()))?;
    for rule in &report.rules {
        println!("{}: {} of {} units", rule.id, rule.units.len(), rule.observed.in_scope);
        for unit in &rule.units {
            println!("  {}:{} {}", unit.layer, unit.unit, unit.description);
        }
    }
    Ok(())
}
