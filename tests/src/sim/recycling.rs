//! Counts the segments of a namenode's log that lived before as another one: what is left of their former life must never be read, and
//! seeds try that only if it happens in them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cairn_daemon::disk::sim::SimDisk;
use cairn_daemon::disk::watched::{Access, WatchedDisk, Watcher};

/// Watches one process.
pub(crate) struct Recycling {
    /// Spare files that are new, or that are counted already.
    known: Mutex<BTreeSet<PathBuf>>,
    recycled: Arc<AtomicU64>,
}

impl Recycling {
    /// This disk, and whatever is recycled on it counted.
    pub(crate) fn watched(disk: SimDisk, recycled: Arc<AtomicU64>) -> WatchedDisk<Self> {
        let watcher = Self {
            known: Mutex::default(),
            recycled,
        };
        WatchedDisk::new(Arc::new(disk), Arc::new(watcher))
    }
}

impl Watcher for Recycling {
    type UnderWay = ();

    /// A new spare is created first; one that was a segment is there by its new name when it is opened.
    fn begin(&self, path: &Path, access: Access) -> io::Result<()> {
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("spare-")) {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.insert(path.to_owned()) && access == Access::Read {
                self.recycled.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
