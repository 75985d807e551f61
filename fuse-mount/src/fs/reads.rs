//! Reads that count, as `relatime` has it (`crate::reads`): who notices them, and how the cluster hears of them.

use cairn_daemon::Clock;
use cairn_protocol::messages::common::{Attributes, InodeKind};

use super::MountedFs;
use crate::caches::Forgotten;
use crate::reads::AccessTimes;

/// Reads that are told at once.
const READS_MAX: usize = 1024;

impl MountedFs {
    /// The same with times of access, by this clock.
    #[must_use]
    pub fn with_access_times(mut self, which: AccessTimes, clock: Clock) -> Self {
        self.access_times = (which, clock);
        self
    }

    fn notes_reads(&self, kind: i32) -> bool {
        match self.access_times.0 {
            AccessTimes::Off => false,
            AccessTimes::NotOfDirectories => kind != InodeKind::Directory as i32,
            AccessTimes::On => true,
        }
    }

    /// An open file is read. The kernel knows that it has to ask for its attributes again.
    pub(super) fn note_read(&self, inode: u64) {
        if self.notes_reads(InodeKind::File as i32) {
            let now_ns = self.access_times.1.now_ns();
            if self.inodes.note_read(inode, now_ns) {
                self.is_noted(inode);
            }
        }
    }

    /// An open file will be read in pages that the kernel has, without a word to anybody.
    pub fn note_read_in_cache(&self, inode: u64) {
        if self.notes_reads(InodeKind::File as i32) {
            let now_ns = self.access_times.1.now_ns();
            if self.inodes.note_read(inode, now_ns) {
                self.is_noted(inode);
                self.caches.forget_soon(Forgotten::Attributes { inode });
            }
        }
    }

    /// A directory or a symbolic link is read, of which all is known.
    pub fn note_read_of(&self, mut attributes: Attributes) {
        if self.notes_reads(attributes.kind) {
            let now_ns = self.access_times.1.now_ns();
            if self.inodes.note_read_of(&mut attributes, now_ns) {
                self.is_noted(attributes.inode);
            }
        }
    }

    /// What was answered before is not kept.
    fn is_noted(&self, inode: u64) {
        self.changed_here(inode, None);
    }

    /// Somebody sets the time of access: no read of before that is told afterwards.
    pub(super) async fn forget_read(&self, inode: u64) {
        if self.inodes.forget_read(inode) {
            // It may be on its way.
            drop(self.telling_reads.lock().await);
        }
    }

    /// Tells the cluster what was read. Nobody waits for it, and nothing is lost but times of access if that does not work.
    pub async fn tell_reads(&self) {
        let _turn = self.telling_reads.lock().await;
        loop {
            let notes = self.inodes.reads(READS_MAX);
            // What was made here is not known there before that is told.
            if notes.is_empty() || self.tell_all().await.is_err() {
                return;
            }
            match self.fs.note_reads(notes.clone()).await {
                Ok(()) => {
                    for note in &notes {
                        self.behind.read(note);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, count = notes.len(), "reads not told");
                    if error.code().is_retryable() {
                        return;
                    }
                }
            }
            self.inodes.reads_told(&notes);
        }
    }
}
