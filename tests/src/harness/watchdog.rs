//! A test that hangs fails by name, instead of holding up all others until somebody ends the run.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Far above what any test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Ends the process if it is not dropped in time.
#[derive(Debug)]
pub struct Watchdog(#[expect(dead_code, reason = "its end is the sign")] Sender<()>);

impl Watchdog {
    /// Watches over the test of the calling thread.
    #[must_use]
    pub fn start() -> Self {
        let test = thread::current().name().unwrap_or("a test").to_owned();
        let (alive, ended) = mpsc::channel();
        thread::spawn(move || {
            if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{test}: not over after {LIMIT:?}");
                std::process::abort();
            }
        });
        Self(alive)
    }
}
