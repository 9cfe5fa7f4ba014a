//! Progress on stderr, and where Ctrl-C ends a run in good order.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::When;
use crate::error::{Failure, Kind};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Bars on stderr: pictures a second and time left. Also where Ctrl-C ends a run in good order.
pub struct Bars {
    bar: Mutex<Option<(String, ProgressBar)>>,
    visible: bool,
}

impl Bars {
    pub fn new(progress: When, quiet: bool) -> anyhow::Result<Bars> {
        // The first Ctrl-C lets drafts be removed; a second one does not wait for that.
        let stop = || {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::abort();
            }
        };
        ctrlc::set_handler(stop).context("cannot listen for Ctrl-C")?;
        let visible = match progress {
            When::Always => true,
            When::Never => false,
            When::Auto => std::io::stderr().is_terminal() && !quiet,
        };
        Ok(Bars { bar: Mutex::new(None), visible })
    }

    /// Shows how far a stage is. Errs when the user has stopped the run.
    pub fn show(&self, stage: &str, done: usize, all: usize) -> anyhow::Result<()> {
        let mut bar = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if INTERRUPTED.load(Ordering::SeqCst) {
            if let Some((_, bar)) = bar.take() {
                bar.finish_and_clear();
            }
            return Err(Failure {
                kind: Kind::Interrupted,
                message: "stopped; nothing was written".into(),
            }
            .into());
        }
        if !self.visible {
            return Ok(());
        }
        if bar.as_ref().is_none_or(|(name, _)| name != stage) {
            *bar = Some((stage.to_owned(), new_bar(stage, all)));
        }
        if let Some((_, bar)) = bar.as_ref() {
            bar.set_position(done as u64);
            if done == all {
                bar.finish();
            }
        }
        Ok(())
    }
}

fn new_bar(stage: &str, all: usize) -> ProgressBar {
    let template = "{prefix:24} {bar:30} {pos}/{len} · {per_sec} · {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(all as u64), ProgressDrawTarget::stderr());
    bar.set_style(style.with_key(
        "per_sec",
        |state: &indicatif::ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = write!(w, "{:.1}/s", state.per_sec());
        },
    ));
    bar.set_prefix(stage.to_owned());
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
