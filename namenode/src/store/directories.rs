//! Directories that paths lead through, remembered in memory: which directory a name leads to, who may search it and to whom it is
//! delegated. A read then
//! looks only its last name up in the tables. What changes with every file in a directory (times, counts) is not remembered.
//!
//! A reader's snapshot and this memory must tell the same story. Two numbers see to it. `generation` changes before a batch that
//! concerns something remembered reaches the tables, and again after: who finds the generation of the time of its
//! snapshot still there may believe what it finds. `commits` changes with every batch: only who finds it unchanged may add what it
//! read, because what is not remembered yet could be changed by a batch without notice.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::InodeKind;

use super::error::StoreError;
use super::key::KeyKind;
use super::{dirent, inode};
use crate::store::records::InodeRecord;

/// Names remembered at most; then all is forgotten, and what is still in use comes back within moments.
const ENTRIES_MAX: usize = 1 << 16;

/// Longest name that is remembered: bounds the memory together with [`ENTRIES_MAX`].
const NAME_BYTES_MAX: usize = 64;

/// What a walk needs to know of a directory that it goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Session that it is delegated to; whether that session lives is not remembered.
    pub delegated_to: u64,
}

impl Directory {
    /// What is remembered of an inode; `None` for all but directories, and for those with an access control list.
    pub fn of(inode: &InodeRecord) -> Option<Self> {
        let simple = inode.kind == InodeKind::Directory as i32 && inode.acl.is_empty();
        simple.then_some(Self {
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            delegated_to: inode.delegated_to,
        })
    }
}

#[derive(Default)]
struct Memory {
    entries: HashMap<Vec<u8>, InodeId>,
    directories: HashMap<InodeId, Directory>,
    generation: u64,
    commits: u64,
    /// A batch is on its way into the tables.
    committing: bool,
    /// It changes something that was remembered.
    changing: bool,
}

/// The memory. Held for moments: no table is read under its lock.
#[derive(Default)]
pub(super) struct Directories(RwLock<Memory>);

/// The state of the memory at the time of a snapshot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    generation: u64,
    /// `None` if nothing may be added.
    commits: Option<u64>,
}

/// How far a walk came by memory alone.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing is known of this directory or name.
    Unknown,
    /// This is the directory, and who may search it.
    Known(InodeId, Directory),
}

impl Directories {
    /// To be called before the snapshot is taken. `None` if a batch is just changing what is remembered.
    pub(super) fn moment(&self) -> Option<Moment> {
        let memory = self.read();
        if memory.changing {
            return None;
        }
        Some(Moment {
            generation: memory.generation,
            commits: (!memory.committing).then_some(memory.commits),
        })
    }

    /// What a directory is like.
    pub(super) fn directory(&self, moment: Moment, id: InodeId) -> Found {
        let memory = self.read();
        match memory.directories.get(&id) {
            Some(directory) if memory.generation == moment.generation => {
                Found::Known(id, *directory)
            }
            _ => Found::Unknown,
        }
    }

    /// The directory that a name leads to.
    pub(super) fn entry(&self, moment: Moment, parent: InodeId, name: &[u8]) -> Found {
        let key = dirent::encode(parent, name);
        let memory = self.read();
        if memory.generation != moment.generation {
            return Found::Unknown;
        }
        let found = memory.entries.get(&key);
        match found.and_then(|id| Some((*id, *memory.directories.get(id)?))) {
            Some((id, directory)) => Found::Known(id, directory),
            None => Found::Unknown,
        }
    }

    /// Adds what was read from a snapshot of that moment: a directory, and the name that leads to it unless it is where walks start.
    pub(super) fn remember(
        &self,
        moment: Moment,
        name: Option<(InodeId, &[u8])>,
        id: InodeId,
        directory: Directory,
    ) {
        if name.is_some_and(|(_, name)| name.len() > NAME_BYTES_MAX) {
            return;
        }
        let mut memory = self.write();
        if memory.committing || moment.commits != Some(memory.commits) {
            return;
        }
        if memory.entries.len() >= ENTRIES_MAX || memory.directories.len() >= ENTRIES_MAX {
            memory.entries.clear();
            memory.directories.clear();
        }
        memory.directories.insert(id, directory);
        if let Some((parent, name)) = name {
            memory.entries.insert(dirent::encode(parent, name), id);
        }
    }

    /// To be called before a batch is written: forgets what it changes.
    pub(super) fn begin_commit<'a>(
        &self,
        changes: impl Iterator<Item = (&'a Vec<u8>, Option<&'a [u8]>)>,
    ) -> Result<(), StoreError> {
        let mut memory = self.write();
        memory.commits += 1;
        memory.committing = true;
        for (key, value) in changes {
            memory.forget_if_changed(key, value)?;
        }
        if memory.changing {
            memory.generation += 1;
        }
        Ok(())
    }

    /// To be called after the batch is written. If it could not be, the state machine stops, and nobody believes the memory any more.
    pub(super) fn end_commit(&self) {
        let mut memory = self.write();
        memory.committing = false;
        if memory.changing {
            memory.changing = false;
            memory.generation += 1;
        }
    }

    // A panic of another thread cannot leave the memory half changed in a way that `commits` and `generation` do not show.
    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn forget_if_changed(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        const INODE: u8 = KeyKind::Inode as u8;
        const DIRENT: u8 = KeyKind::Dirent as u8;
        match key.first() {
            Some(&DIRENT) if self.entries.contains_key(key) => {
                let (parent, name) = dirent::decode(key)?;
                let new = value.map(|value| dirent::decode_value(parent, name, value));
                let new = new.transpose()?.map(|record| InodeId(record.inode));
                if self.entries.get(key).copied() != new {
                    self.entries.remove(key);
                    self.changing = true;
                }
            }
            Some(&INODE) => {
                // A key that is none of ours is not remembered.
                let known = inode::decode(key).ok();
                let known = known.and_then(|id| Some((id, self.directories.get(&id)?)));
                let Some((id, known)) = known else {
                    return Ok(());
                };
                let new = value
                    .map(|value| inode::decode_value(id, value))
                    .transpose()?;
                if new.as_ref().and_then(Directory::of) != Some(*known) {
                    self.directories.remove(&id);
                    self.changing = true;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Directories, Directory, Found};
    use crate::store::records::{DirentRecord, InodeRecord};
    use crate::store::{dirent, inode};
    use cairn_protocol::ids::InodeId;
    use cairn_protocol::messages::common::InodeKind;
    use prost::Message;

    const A: InodeId = InodeId(7);

    fn facts(mode: u32) -> Directory {
        Directory {
            mode,
            uid: 1,
            gid: 2,
            delegated_to: 0,
        }
    }

    fn record(mode: u32, mtime_ns: u64) -> Vec<u8> {
        let record = InodeRecord {
            kind: InodeKind::Directory as i32,
            mode,
            uid: 1,
            gid: 2,
            mtime_ns,
            ..InodeRecord::default()
        };
        record.encode_to_vec()
    }

    fn entry(id: InodeId) -> Vec<u8> {
        let kind = InodeKind::Directory as i32;
        let record = DirentRecord { inode: id.0, kind };
        record.encode_to_vec()
    }

    fn commit(memory: &Directories, key: Vec<u8>, value: Option<Vec<u8>>) {
        memory
            .begin_commit([(&key, value.as_deref())].into_iter())
            .unwrap();
        memory.end_commit();
    }

    fn remembered() -> Directories {
        let memory = Directories::default();
        let moment = memory.moment().unwrap();
        memory.remember(moment, Some((InodeId::ROOT, b"a")), A, facts(0o755));
        let found = memory.entry(memory.moment().unwrap(), InodeId::ROOT, b"a");
        assert_eq!(found, Found::Known(A, facts(0o755)));
        memory
    }

    #[test]
    fn a_new_file_in_a_directory_changes_nothing_that_is_remembered() {
        let memory = remembered();
        let before = memory.moment().unwrap();
        commit(&memory, inode::encode(A), Some(record(0o755, 99)));
        commit(&memory, dirent::encode(A, b"file"), Some(entry(InodeId(9))));
        let found = memory.entry(before, InodeId::ROOT, b"a");
        assert_eq!(found, Found::Known(A, facts(0o755)));
    }

    #[test]
    fn a_change_is_forgotten_and_older_snapshots_believe_nothing_any_more() {
        let delegated = InodeRecord {
            delegated_to: 5,
            ..InodeRecord::decode(record(0o755, 0).as_slice()).unwrap()
        };
        let changes = [
            (inode::encode(A), Some(record(0o700, 0))),
            (inode::encode(A), Some(delegated.encode_to_vec())),
            (inode::encode(A), None),
            (dirent::encode(InodeId::ROOT, b"a"), None),
            (dirent::encode(InodeId::ROOT, b"a"), Some(entry(InodeId(8)))),
        ];
        for (key, value) in changes {
            let memory = remembered();
            let moment = memory.moment().unwrap();
            memory.remember(moment, Some((A, b"b")), InodeId(9), facts(0o711));
            let before = memory.moment().unwrap();
            commit(&memory, key, value);
            assert_eq!(memory.entry(before, A, b"b"), Found::Unknown);
            let after = memory.moment().unwrap();
            assert_eq!(memory.entry(after, InodeId::ROOT, b"a"), Found::Unknown);
        }
    }

    #[test]
    fn nobody_believes_or_adds_anything_while_a_change_is_written() {
        let memory = remembered();
        let before = memory.moment().unwrap();
        let key = inode::encode(A);
        memory.begin_commit([(&key, None)].into_iter()).unwrap();
        assert!(memory.moment().is_none());
        memory.remember(before, None, A, facts(0o755));
        memory.end_commit();
        let after = memory.moment().unwrap();
        assert_eq!(memory.directory(after, A), Found::Unknown);
    }

    #[test]
    fn what_was_read_before_a_batch_is_not_added_after_it() {
        let memory = remembered();
        let before = memory.moment().unwrap();
        // Not remembered, so the batch passes without notice.
        commit(&memory, dirent::encode(A, b"b"), None);
        memory.remember(before, Some((A, b"b")), InodeId(9), facts(0o755));
        let after = memory.moment().unwrap();
        assert_eq!(memory.entry(after, A, b"b"), Found::Unknown);
        assert_eq!(memory.directory(after, A), Found::Known(A, facts(0o755)));
    }
}
