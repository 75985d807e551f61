//! A disk on which so many changes succeed: then everything fails, as nothing happens any more when a process has ended.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_daemon::disk::RealDisk;
use cairn_daemon::disk::watched::{Access, WatchedDisk, Watcher};

/// Counts what is left.
pub(super) struct Changes(AtomicU64);

impl Changes {
    /// The real disk, and the changes that it still takes.
    pub(super) fn on_disk() -> (Arc<WatchedDisk<Self>>, Arc<Self>) {
        let changes = Arc::new(Self(AtomicU64::new(u64::MAX)));
        let disk = WatchedDisk::new(Arc::new(RealDisk), Arc::clone(&changes));
        (Arc::new(disk), changes)
    }

    pub(super) fn stop_after(&self, changes: u64) {
        self.0.store(changes, Ordering::SeqCst);
    }
}

impl Watcher for Changes {
    type UnderWay = ();

    fn begin(&self, _path: &Path, access: Access) -> io::Result<()> {
        if access == Access::Read {
            return Ok(());
        }
        let one_less = |left: u64| left.checked_sub(1);
        let counted = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        counted
            .map(|_| ())
            .map_err(|_| io::Error::other("the process has ended"))
    }
}
