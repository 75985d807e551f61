//! Paths of inodes, for people who look at changes: as the tree is now, or as it was just before what is gone went. An inode knows its
//! directory and not its name there, so names are looked for, and only so many are looked at: where that is not enough, there is no path.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Caller;

use crate::namespace::permission::{self, EXECUTE, READ};
use crate::store::{self, Read, StoreError};

/// Names that are looked at for all paths of one answer.
const LOOKS_MAX: usize = 20_000;

/// Names that are looked at in one directory: one of a million files must not take what the others need.
const LOOKS_IN_ONE_MAX: usize = 4_000;

/// Directories above each other.
const DEPTH_MAX: usize = 256;

/// A longer path is nothing that people read.
const PATH_BYTES_MAX: usize = 4096;

/// A name and the directory that it is in.
type Named = (InodeId, Bytes);

/// Looks for paths with a caller's eyes: a name in a directory that they may not read and search is not told, and nothing below it.
pub struct Paths<'a, R: Read> {
    read: &'a R,
    caller: &'a Caller,
    /// Names that inodes have lately had.
    hints: BTreeMap<InodeId, Named>,
    /// Of inodes that were looked for. That of the root is empty.
    known: BTreeMap<InodeId, Option<Vec<u8>>>,
    looks_left: usize,
}

impl<'a, R: Read> Paths<'a, R> {
    /// Knows nothing yet.
    pub fn new(read: &'a R, caller: &'a Caller) -> Self {
        let root = (InodeId::ROOT, Some(Vec::new()));
        Self {
            read,
            caller,
            hints: BTreeMap::new(),
            known: [root].into(),
            looks_left: LOOKS_MAX,
        }
    }

    /// An inode was given a name, or lost it. Tell later ones later.
    pub fn hint(&mut self, inode: InodeId, directory: InodeId, name: &Bytes) {
        self.hints.insert(inode, (directory, name.clone()));
    }

    /// The path of a name, whether it is still there or not.
    pub fn of_name(
        &mut self,
        directory: InodeId,
        name: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.known_or_found(directory)?;
        Ok(path.and_then(|path| joined(path, name)))
    }

    /// A path of an inode.
    pub fn of(&mut self, inode: InodeId) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.known_or_found(inode)?;
        Ok(path.map(|path| if path.is_empty() { b"/".to_vec() } else { path }))
    }

    fn known_or_found(&mut self, inode: InodeId) -> Result<Option<Vec<u8>>, StoreError> {
        let mut below: Vec<(InodeId, Bytes)> = Vec::new();
        let mut here = inode;
        let mut path = loop {
            if let Some(known) = self.known.get(&here) {
                break known.clone();
            }
            let step = match below.len() < DEPTH_MAX {
                true => self.step(here)?,
                false => None,
            };
            let Some((directory, name)) = step else {
                self.known.insert(here, None);
                break None;
            };
            below.push((here, name));
            here = directory;
        };
        for (inode, name) in below.into_iter().rev() {
            path = path.and_then(|path| joined(path, &name));
            self.known.insert(inode, path.clone());
        }
        Ok(path)
    }

    /// The inode's name, if the caller may know it.
    fn step(&mut self, inode: InodeId) -> Result<Option<Named>, StoreError> {
        let Some((directory, name)) = self.name_of(inode)? else {
            return Ok(None);
        };
        let record = store::inode::get(self.read, directory)?;
        // Nobody can tell any more who might have read one that is gone.
        let may_know = self.caller.uid == 0
            || record
                .is_some_and(|record| permission::allows(self.caller, &record, READ | EXECUTE));
        Ok(may_know.then_some((directory, name)))
    }

    fn name_of(&mut self, inode: InodeId) -> Result<Option<Named>, StoreError> {
        let hint = self.hints.get(&inode).cloned();
        let Some(record) = store::inode::get(self.read, inode)? else {
            return Ok(hint);
        };
        if let Some((directory, name)) = &hint {
            let entry = store::dirent::get(self.read, *directory, name)?;
            if entry.is_some_and(|entry| entry.inode == inode.0) {
                return Ok(hint);
            }
        }
        let directory = InodeId(record.parent);
        let found = self.look(directory, inode)?;
        // One that is open and has no name any more is known by its last one.
        Ok(found.map(|name| (directory, name)).or(hint))
    }

    fn look(&mut self, directory: InodeId, inode: InodeId) -> Result<Option<Bytes>, StoreError> {
        let mut left = self.looks_left.min(LOOKS_IN_ONE_MAX);
        let before = left;
        let mut found = None;
        if left > 0 {
            store::dirent::scan(self.read, directory, b"", &mut |name, entry| {
                left -= 1;
                if entry.inode == inode.0 {
                    found = Some(Bytes::copy_from_slice(name));
                }
                Ok(found.is_none() && left > 0)
            })?;
        }
        self.looks_left -= before - left;
        Ok(found)
    }
}

fn joined(mut path: Vec<u8>, name: &[u8]) -> Option<Vec<u8>> {
    path.push(b'/');
    path.extend_from_slice(name);
    (path.len() <= PATH_BYTES_MAX).then_some(path)
}
