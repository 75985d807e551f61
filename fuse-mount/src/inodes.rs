//! Files that are open in this mount: an `OpenFile` for each open file, which is told of what went wrong with it, and one of the mount's own for each inode, whether the cluster keeps it for us after
//! its last name is gone, and which version of it the kernel's page cache holds.
//!
//! The kernel believes what it is told last, so nothing may be told that is older than what this mount has done itself: an
//! answer that was on its way while a commit of ours arrived is asked for again ([`Inodes::see`]).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cairn_client::{FileSystem, OpenFile};
use cairn_protocol::messages::common::Attributes;
use cairn_protocol::messages::operation::ReadNote;
use tokio::time::Instant;

use crate::reads::{Reads, Times};
use crate::unsettled::Unsettled;

/// Closed files whose version is remembered.
const VERSIONS_MAX: usize = 65_536;

/// How many looks of the keeper a closed file may stay that could not be committed.
const LINGER_LOOKS: u32 = 8;

/// All of them. Locks are held for look-ups alone.
#[derive(Debug, Default)]
pub(crate) struct Inodes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<u64, Open>,
    /// By the number that the kernel has.
    handles: BTreeMap<u64, OpenFile>,
    closed: BTreeMap<u64, Versions>,
    unsettled: Unsettled,
    /// Which inodes have access control lists, and the version at which that was so.
    acls: BTreeMap<u64, (u64, bool)>,
    reads: Reads,
}

/// What is remembered of a closed file.
#[derive(Clone, Copy, Debug)]
struct Versions {
    /// When the kernel last read pages.
    cached: u64,
    /// The newest that this mount knows of.
    newest: u64,
}

#[derive(Debug)]
struct Open {
    file: OpenFile,
    /// None left: the last close could not commit, and the bytes are still there.
    handles: u32,
    lingers: u32,
    claimed: bool,
    mode: u32,
    times: Times,
    cached: u64,
    /// How often bytes had been given up when the kernel last forgot its pages for that.
    losses: u64,
}

/// What opening gave.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The file is as it was when the kernel cached it.
    pub(crate) unchanged: bool,
}

/// A file for the keeper to look after.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) inode: u64,
    pub(crate) claimed: bool,
}

/// What a look found.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    pub(crate) kept: Vec<Kept>,
    /// Closed for good, and claimed.
    pub(crate) claimed: Vec<u64>,
    /// What the kernel has of their content may never become part of them.
    pub(crate) lost: Vec<u64>,
}

impl Open {
    fn has_lost(&self) -> bool {
        self.losses != self.file.losses()
    }

    /// True if bytes were given up since it was last asked.
    fn loses(&mut self) -> bool {
        let losses = self.file.losses();
        std::mem::replace(&mut self.losses, losses) != losses
    }
}

impl State {
    fn remember(&mut self, inode: u64, open: &Open) {
        if self.closed.len() >= VERSIONS_MAX {
            self.closed.clear();
        }
        let versions = Versions {
            cached: open.cached,
            newest: open.file.version(),
        };
        self.closed.insert(inode, versions);
    }

    fn note_acl(&mut self, attributes: &Attributes) {
        if self.acls.len() >= VERSIONS_MAX {
            self.acls.clear();
        }
        let newest = (attributes.version, attributes.has_acl);
        let known = self.acls.entry(attributes.inode).or_insert(newest);
        if known.0 <= attributes.version {
            *known = newest;
        }
    }
}

impl Inodes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more handle of an inode with these attributes; `None` if they are older than what was known when it was closed,
    /// and so must be asked for again.
    pub(crate) fn open(&self, fs: &FileSystem, attributes: &Attributes) -> Option<Opened> {
        let (inode, version) = (attributes.inode, attributes.version);
        let mut state = self.lock();
        let before = match state.closed.get(&inode) {
            Some(closed) if closed.newest > version => return None,
            Some(closed) => closed.cached,
            None => 0,
        };
        state.closed.remove(&inode);
        let mut shown = attributes.clone();
        state.reads.show(&mut shown);
        let times = Times::of(&shown);
        let open = state.open.entry(inode).or_insert_with(|| {
            let file = fs.open_file_known(attributes);
            Open {
                handles: 0,
                lingers: 0,
                claimed: false,
                mode: attributes.mode,
                times,
                cached: before,
                // The kernel has nothing from before them: see `look`.
                losses: file.losses(),
                file,
            }
        });
        open.handles += 1;
        open.lingers = 0;
        let unchanged = open.cached == version;
        open.cached = version;
        if open.file.observe(attributes).is_some() {
            open.mode = attributes.mode;
            open.times = times;
        }
        Some(Opened { unchanged })
    }

    /// One handle fewer; true if it was the last of an inode that is claimed. A file that could not be committed stays a while,
    /// so that what is written to it next does not overtake what was written before.
    pub(crate) fn close(&self, inode: u64) -> bool {
        let mut state = self.lock();
        let Some(open) = state.open.get_mut(&inode) else {
            return false;
        };
        open.handles = open.handles.saturating_sub(1);
        // In this order: what is not dirty any more may be lost, and the keeper is to see that.
        if open.handles > 0 || open.file.is_dirty() || open.has_lost() {
            return false;
        }
        state.forget(inode)
    }

    /// Attributes that the cluster has answered with, as this mount has to see them: what is written and not committed is part
    /// of them. `None` if they are older than what is known.
    pub(crate) fn see(&self, mut attributes: Attributes) -> Option<Attributes> {
        let mut state = self.lock();
        state.note_acl(&attributes);
        state.reads.show(&mut attributes);
        let Some(open) = state.open.get_mut(&attributes.inode) else {
            let closed = state.closed.get(&attributes.inode);
            return closed
                .is_none_or(|closed| closed.newest <= attributes.version)
                .then_some(attributes);
        };
        attributes.size = open.file.observe(&attributes)?;
        open.mode = attributes.mode;
        open.times = Times::of(&attributes);
        Some(attributes)
    }

    /// The same of attributes that are a little old: another commit is always on its way. At least the size is right.
    pub(crate) fn see_old(&self, mut attributes: Attributes) -> Attributes {
        if let Some(file) = self.file(attributes.inode) {
            attributes.size = file.size();
        }
        attributes
    }

    /// An open file was read; true if that counts.
    pub(crate) fn note_read(&self, inode: u64, now_ns: u64) -> bool {
        let State { open, reads, .. } = &mut *self.lock();
        open.get_mut(&inode)
            .is_some_and(|open| reads.note(inode, &mut open.times, now_ns))
    }

    /// Something with these attributes, as this mount sees them, was read. True if that counts; they then say so.
    pub(crate) fn note_read_of(&self, attributes: &mut Attributes, now_ns: u64) -> bool {
        let mut times = Times::of(attributes);
        let inode = attributes.inode;
        let counts = self.lock().reads.note(inode, &mut times, now_ns);
        attributes.atime_ns = times.atime_ns();
        counts
    }

    /// An open file is changed here: its next read counts.
    pub(crate) fn changes(&self, inode: u64) {
        if let Some(open) = self.lock().open.get_mut(&inode) {
            open.times.change();
        }
    }

    /// Times of an own file, which were set here.
    pub(crate) fn times_are(&self, attributes: &Attributes) {
        if let Some(open) = self.lock().open.get_mut(&attributes.inode) {
            open.times = Times::of(attributes);
        }
    }

    /// Adds what was read to attributes that were not seen ([`Inodes::see`]).
    pub(crate) fn show_read(&self, attributes: &mut Attributes) {
        self.lock().reads.show(attributes);
    }

    /// True if a read was noted that is not to be told any more.
    pub(crate) fn forget_read(&self, inode: u64) -> bool {
        self.lock().reads.forget(inode)
    }

    /// Reads to tell.
    pub(crate) fn reads(&self, count: usize) -> Vec<ReadNote> {
        self.lock().reads.some(count)
    }

    /// They are told, or never will be.
    pub(crate) fn reads_told(&self, notes: &[ReadNote]) {
        self.lock().reads.told(notes);
    }

    /// True if these attributes are the last ones: nothing is on its way here that will change them, or has changed them.
    pub(crate) fn is_settled(&self, attributes: &Attributes) -> bool {
        let state = self.lock();
        let (inode, version) = (attributes.inode, attributes.version);
        match state.open.get(&inode) {
            Some(open) => !open.file.is_dirty() && open.file.version() <= version,
            None => {
                let closed = state.closed.get(&inode);
                !state.unsettled.contains(inode)
                    && closed.is_none_or(|closed| closed.newest <= version)
            }
        }
    }

    /// True if bytes of a file were given up since this was last asked: the kernel may have them in its pages.
    pub(crate) fn loses(&self, inode: u64) -> bool {
        self.lock().open.get_mut(&inode).is_some_and(Open::loses)
    }

    /// Others have changed the content of a file: if it is open, what is known of it is asked for again.
    pub(crate) fn invalidate(&self, inode: u64) {
        if let Some(file) = self.file(inode) {
            file.invalidate();
        }
    }

    /// True if this inode had no access control list when it was last heard of.
    pub(crate) fn has_no_acl(&self, inode: u64) -> bool {
        let state = self.lock();
        state.acls.get(&inode).is_some_and(|(_, has)| !has)
    }

    /// Mode of an open file as last heard of.
    pub(crate) fn mode(&self, inode: u64) -> Option<u32> {
        self.lock().open.get(&inode).map(|open| open.mode)
    }

    /// True if somebody has it open.
    pub(crate) fn is_open(&self, inode: u64) -> bool {
        self.lock()
            .open
            .get(&inode)
            .is_some_and(|open| open.handles > 0)
    }

    /// The file, if it is open.
    pub(crate) fn file(&self, inode: u64) -> Option<OpenFile> {
        self.lock().open.get(&inode).map(|open| open.file.clone())
    }

    /// Gives the open file that the kernel knows by this number an `OpenFile` of its own.
    pub(crate) fn open_as(&self, inode: u64, handle: u64) {
        let mut state = self.lock();
        if let Some(file) = state.open.get(&inode).map(|open| open.file.open_again()) {
            state.handles.insert(handle, file);
        }
    }

    /// The open file with this number; the mount's own where there is none.
    pub(crate) fn file_of(&self, inode: u64, handle: u64) -> Option<OpenFile> {
        let opened = self.lock().handles.get(&handle).cloned();
        opened.or_else(|| self.file(inode))
    }

    /// The kernel forgets the number.
    pub(crate) fn close_as(&self, handle: u64) {
        let closed = self.lock().handles.remove(&handle);
        // Not under the lock: the last one of a file may begin to write.
        drop(closed);
    }

    /// All open files.
    pub(crate) fn files(&self) -> Vec<OpenFile> {
        let state = self.lock();
        state.open.values().map(|open| open.file.clone()).collect()
    }

    /// Marks an open inode as claimed; false if it is not open.
    pub(crate) fn claim(&self, inode: u64) -> bool {
        match self.lock().open.get_mut(&inode) {
            Some(open) => {
                open.claimed = true;
                true
            }
            None => false,
        }
    }

    /// What the keeper has to look after. Closed files that nothing is left of go, and those that have lingered for too long;
    /// `is_dirty` tells whether something is left of a file that is not known here any more.
    pub(crate) fn look(&self, now: Instant, is_dirty: impl Fn(u64) -> bool) -> Looked {
        let mut state = self.lock();
        let State {
            open, unsettled, ..
        } = &mut *state;
        unsettled.look(now, is_dirty);
        let mut looked = Looked::default();
        let mut gone = Vec::new();
        for (&inode, open) in open {
            // In this order: what is not dirty any more may be lost.
            let dirty = open.file.is_dirty();
            let mut lost = open.loses();
            if open.handles == 0 {
                open.lingers += 1;
                let given_up = dirty && open.lingers > LINGER_LOOKS && unsettled.add(inode, now);
                lost |= given_up;
                // One that has lost something stays until the next look: by then that is known everywhere.
                if (!dirty && !lost) || given_up {
                    gone.push(inode);
                }
            }
            if lost {
                looked.lost.push(inode);
            }
        }
        gone.retain(|&inode| state.forget(inode));
        looked.claimed = gone;
        let kept = |(&inode, open): (&u64, &Open)| Kept {
            inode,
            claimed: open.claimed,
        };
        looked.kept = state.open.iter().map(kept).collect();
        looked
    }
}

impl State {
    /// The file is closed; true if it is claimed.
    fn forget(&mut self, inode: u64) -> bool {
        let Some(open) = self.open.remove(&inode) else {
            return false;
        };
        self.remember(inode, &open);
        open.claimed
    }
}
