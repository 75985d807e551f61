//! Calls to a volume's disk that are under way. A disk that hangs does not fail: nobody hears of it, because the call does not
//! return. So every call is written down while it lasts, and a volume whose oldest one is too old takes nothing new until it returns.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_daemon::disk::watched::{Access, Watcher};
use tokio::time::Instant;

/// What is under way on one volume.
#[derive(Debug)]
pub(super) struct UnderWay {
    /// Older calls are taken for calls of a disk that hangs.
    limit: Duration,
    /// Held for a look or a note only.
    calls: Arc<Mutex<Calls>>,
}

/// Numbered in order, so that the first is the oldest.
#[derive(Debug, Default)]
struct Calls {
    next: u64,
    begun: BTreeMap<u64, Instant>,
}

/// One call, until it is dropped.
pub(super) struct Call {
    number: u64,
    calls: Arc<Mutex<Calls>>,
}

fn lock(calls: &Mutex<Calls>) -> MutexGuard<'_, Calls> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UnderWay {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            calls: Arc::default(),
        }
    }

    /// How long the oldest call has lasted, if that is too long.
    pub(super) fn hangs_for(&self) -> Option<Duration> {
        let begun = *lock(&self.calls).begun.first_key_value()?.1;
        let lasted = begun.elapsed();
        (lasted > self.limit).then_some(lasted)
    }
}

impl Watcher for UnderWay {
    type UnderWay = Call;

    fn begin(&self, _path: &Path, _access: Access) -> io::Result<Call> {
        let now = Instant::now();
        let mut calls = lock(&self.calls);
        let number = calls.next;
        calls.next += 1;
        calls.begun.insert(number, now);
        drop(calls);
        let calls = Arc::clone(&self.calls);
        Ok(Call { number, calls })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        lock(&self.calls).begun.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_call_counts_while_it_lasts() {
        let limit = Duration::from_secs(30);
        let under_way = UnderWay::new(limit);
        let begin = || under_way.begin(Path::new("/"), Access::Read).unwrap();
        let first = begin();
        tokio::time::advance(Duration::from_secs(20)).await;
        let second = begin();
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(under_way.hangs_for(), Some(Duration::from_secs(31)));
        drop(first);
        assert_eq!(under_way.hangs_for(), None);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(under_way.hangs_for(), Some(Duration::from_secs(31)));
        drop(second);
        assert_eq!(under_way.hangs_for(), None);
    }
}
