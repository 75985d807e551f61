//! Progress of transfers: bytes, files, rate and time left on a terminal; nothing in a pipe.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::session::watched;

/// A transfer's progress. Cheap to clone; clones are the same bar.
#[derive(Clone)]
pub(crate) struct Progress {
    bar: ProgressBar,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    files_known: std::sync::atomic::AtomicU64,
    files_done: std::sync::atomic::AtomicU64,
}

const RELAXED: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Relaxed;

impl Progress {
    /// A bar on standard error if people watch it.
    pub(crate) fn new(quiet: bool) -> Self {
        let target = if quiet || !watched() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(8)
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let template = "{msg} {bar:24} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        Self {
            bar,
            counts: Arc::default(),
        }
    }

    /// One more file is to be transferred.
    pub(crate) fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
        self.counts.files_known.fetch_add(1, RELAXED);
        self.show();
    }

    /// Bytes have arrived.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// A file is through.
    pub(crate) fn file_done(&self) {
        self.counts.files_done.fetch_add(1, RELAXED);
        self.show();
    }

    /// Runs `print` while the bar is out of the way.
    pub(crate) fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bar.suspend(print)
    }

    fn show(&self) {
        if !self.bar.is_hidden() {
            let (done, known) = (
                self.counts.files_done.load(RELAXED),
                self.counts.files_known.load(RELAXED),
            );
            self.bar.set_message(format!("{done}/{known} files"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // The last one that counts leaves the terminal clean, also after Ctrl-C.
        if Arc::strong_count(&self.counts) == 1 {
            self.bar.finish_and_clear();
        }
    }
}
