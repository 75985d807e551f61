//! Files that are open in this mount: one `OpenFile` for all handles of an inode, whether the cluster keeps it for us after
//! its last name is gone, and which version of it the kernel's page cache holds.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cairn_client::{FileSystem, OpenFile};
use cairn_protocol::messages::common::Attributes;

/// Closed files whose version is remembered.
const VERSIONS_MAX: usize = 65_536;

/// All of them. Locks are held for look-ups alone.
#[derive(Debug, Default)]
pub(crate) struct Inodes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<u64, Open>,
    /// Of closed files: version when the kernel last read pages.
    versions: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Open {
    file: OpenFile,
    handles: u32,
    claimed: bool,
}

/// What opening gave.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: OpenFile,
    /// The file is as it was when the kernel cached it.
    pub(crate) unchanged: bool,
}

impl Inodes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more handle of an inode with these attributes, just asked for.
    pub(crate) fn open(&self, fs: &FileSystem, attributes: &Attributes) -> Opened {
        let mut state = self.lock();
        let known = state.versions.get(&attributes.inode).copied();
        if state.versions.len() >= VERSIONS_MAX {
            state.versions.clear();
        }
        state.versions.insert(attributes.inode, attributes.version);
        let open = state.open.entry(attributes.inode).or_insert_with(|| Open {
            file: fs.open_file_known(attributes),
            handles: 0,
            claimed: false,
        });
        open.handles += 1;
        let file = open.file.clone();
        drop(state);
        file.observe(attributes);
        Opened {
            file,
            unchanged: known == Some(attributes.version),
        }
    }

    /// One handle fewer; true if it was the last of an inode that is claimed.
    pub(crate) fn close(&self, inode: u64) -> bool {
        let mut state = self.lock();
        let Some(open) = state.open.get_mut(&inode) else {
            return false;
        };
        open.handles -= 1;
        if open.handles > 0 {
            return false;
        }
        let claimed = open.claimed;
        state.open.remove(&inode);
        claimed
    }

    /// The file, if it is open.
    pub(crate) fn file(&self, inode: u64) -> Option<OpenFile> {
        self.lock().open.get(&inode).map(|open| open.file.clone())
    }

    /// All open files.
    pub(crate) fn files(&self) -> Vec<OpenFile> {
        let state = self.lock();
        state.open.values().map(|open| open.file.clone()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// Marks an open inode as claimed; true if that is new, and so must be told to the cluster.
    pub(crate) fn claim(&self, inode: u64) -> bool {
        match self.lock().open.get_mut(&inode) {
            Some(open) => !std::mem::replace(&mut open.claimed, true),
            None => false,
        }
    }

    /// Takes the mark back: the cluster did not take the claim.
    pub(crate) fn unclaim(&self, inode: u64) {
        if let Some(open) = self.lock().open.get_mut(&inode) {
            open.claimed = false;
        }
    }
}
