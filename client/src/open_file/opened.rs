//! Finds the state of an inode that is open in this file system. While there is one, nobody makes another: bytes that are
//! still on their way from an earlier open file would arrive after those of a later one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use cairn_protocol::ids::InodeId;

use super::Inner;
use crate::namenode::lock;

/// States of inodes with an open file, or with bytes that are still to be written. Locked for look-ups alone.
#[derive(Default)]
pub(crate) struct OpenFiles(Mutex<BTreeMap<InodeId, Weak<Inner>>>);

impl OpenFiles {
    pub(super) fn find(&self, inode: InodeId) -> Option<Arc<Inner>> {
        lock(&self.0).get(&inode).and_then(Weak::upgrade)
    }

    pub(super) fn find_or(&self, inode: InodeId, make: impl FnOnce() -> Inner) -> Arc<Inner> {
        let mut files = lock(&self.0);
        if let Some(known) = files.get(&inode).and_then(Weak::upgrade) {
            return known;
        }
        let made = Arc::new(make());
        files.insert(inode, Arc::downgrade(&made));
        made
    }

    /// A state is gone; perhaps there is another one by now.
    pub(super) fn forget(&self, inode: InodeId) {
        let mut files = lock(&self.0);
        if files
            .get(&inode)
            .is_some_and(|known| known.strong_count() == 0)
        {
            files.remove(&inode);
        }
    }
}
