//! Which changes somebody is told. Ids tell nothing about what they belong to, so everybody may hear them; a name is for those who
//! may read its directory.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::messages::common::{Caller, InodeKind};
use cairn_protocol::messages::feed;

use super::paths::Paths;
use crate::namespace::path::DEPTH_MAX;
use crate::namespace::permission::{self, READ};
use crate::store::{self, Change, ChangeSet, Read, StoreError, What};

/// What somebody wants to hear of.
#[derive(Clone, Debug, Default)]
pub struct Interest {
    /// These inodes, and what lies in them.
    pub inodes: BTreeSet<InodeId>,
    /// This directory and all below it. Without either, everything.
    pub below: Option<InodeId>,
    /// Not what this session did.
    pub without_session: SessionId,
    /// With the paths of the last changes, for people.
    pub paths: bool,
}

/// Changes of one answer whose paths are looked for, the last ones.
const PATHS_MAX: usize = 64;

/// Looks at changes for one caller, as the tree is now: what was inside of a directory may have moved since.
pub struct Onlooker<'a, R: Read> {
    read: &'a R,
    caller: &'a Caller,
    interest: &'a Interest,
    /// Directories that the caller may read, or not.
    readable: BTreeMap<InodeId, bool>,
    /// Directories inside of `interest.below`, or not.
    inside: BTreeMap<InodeId, bool>,
    /// Where directories were that may be gone by now.
    former: BTreeMap<InodeId, InodeId>,
}

impl<'a, R: Read> Onlooker<'a, R> {
    /// Looks with the caller's eyes.
    pub fn new(read: &'a R, caller: &'a Caller, interest: &'a Interest) -> Self {
        Self {
            read,
            caller,
            interest,
            readable: BTreeMap::new(),
            inside: BTreeMap::new(),
            former: BTreeMap::new(),
        }
    }

    /// What the caller is told of some sets.
    pub fn see<'s>(
        &mut self,
        sets: impl Iterator<Item = &'s ChangeSet> + Clone,
    ) -> Result<Vec<feed::ChangeSet>, StoreError> {
        let lost_names = sets.clone().flat_map(|set| &set.changes);
        let directory = InodeKind::Directory as i32;
        let lost_names = lost_names.filter(|c| c.kind == directory && c.what == What::Unnamed);
        self.former.extend(lost_names.map(|c| (c.inode, c.parent)));
        let mut seen = Vec::new();
        for set in sets.clone() {
            seen.extend(self.see_one(set)?);
        }
        if self.interest.paths {
            self.add_paths(sets.flat_map(|set| &set.changes), &mut seen)?;
        }
        Ok(seen)
    }

    fn add_paths<'s>(
        &self,
        changes: impl Iterator<Item = &'s Change>,
        seen: &mut [feed::ChangeSet],
    ) -> Result<(), StoreError> {
        let mut paths = Paths::new(self.read, self.caller);
        for change in changes {
            if matches!(change.what, What::Named | What::Unnamed) {
                paths.hint(change.inode, change.parent, &change.name);
            }
        }
        let told = seen.iter_mut().rev();
        let told = told.flat_map(|set| set.changes.iter_mut().rev());
        for change in told.take(PATHS_MAX) {
            let path = match change.kind() {
                feed::ChangeKind::Named | feed::ChangeKind::Unnamed if change.name.is_empty() => {
                    None
                }
                feed::ChangeKind::Named | feed::ChangeKind::Unnamed => {
                    paths.of_name(InodeId(change.parent), &change.name)?
                }
                _ => paths.of(InodeId(change.inode))?,
            };
            change.path = path.unwrap_or_default().into();
        }
        Ok(())
    }

    fn see_one(&mut self, set: &ChangeSet) -> Result<Option<feed::ChangeSet>, StoreError> {
        let own = self.interest.without_session;
        if own.0 != 0 && set.session == own {
            return Ok(None);
        }
        let mut changes = Vec::new();
        for change in &set.changes {
            if self.is_wanted(change)? {
                changes.push(self.tell(change)?);
            }
        }
        Ok((!changes.is_empty()).then_some(feed::ChangeSet {
            index: set.index,
            session: set.session.0,
            changes,
        }))
    }

    fn is_wanted(&mut self, change: &Change) -> Result<bool, StoreError> {
        let interest = self.interest;
        if interest.inodes.contains(&change.inode) || interest.inodes.contains(&change.parent) {
            return Ok(true);
        }
        let Some(root) = interest.below else {
            return Ok(interest.inodes.is_empty());
        };
        // A directory is below itself; whether its name is, its parent says.
        let directory = change.kind == InodeKind::Directory as i32;
        let named = matches!(change.what, What::Named | What::Unnamed);
        let from = if directory && !named {
            change.inode
        } else {
            change.parent
        };
        self.is_inside(root, from)
    }

    fn is_inside(&mut self, root: InodeId, from: InodeId) -> Result<bool, StoreError> {
        let mut passed = Vec::new();
        let mut id = from;
        let answer = loop {
            if id == root {
                break true;
            }
            if let Some(known) = self.inside.get(&id) {
                break *known;
            }
            let outside = id == InodeId::ROOT || id.0 == 0 || passed.len() >= DEPTH_MAX;
            if outside {
                break false;
            }
            let parent = match store::inode::get(self.read, id)? {
                Some(inode) => Some(InodeId(inode.parent)),
                None => self.former.get(&id).copied(),
            };
            let Some(parent) = parent else {
                break false;
            };
            passed.push(id);
            id = parent;
        };
        self.inside
            .extend(passed.into_iter().map(|id| (id, answer)));
        Ok(answer)
    }

    fn tell(&mut self, change: &Change) -> Result<feed::Change, StoreError> {
        let kind = match change.what {
            What::Attributes => feed::ChangeKind::Attributes,
            What::Content => feed::ChangeKind::Content,
            What::Named => feed::ChangeKind::Named,
            What::Unnamed => feed::ChangeKind::Unnamed,
            What::Gone => feed::ChangeKind::Gone,
        };
        let secret = !change.name.is_empty() && !self.may_read(change.parent)?;
        Ok(feed::Change {
            inode: change.inode.0,
            inode_kind: change.kind,
            parent: change.parent.0,
            kind: kind as i32,
            name: if secret {
                Bytes::new()
            } else {
                change.name.clone()
            },
            path: Bytes::new(),
        })
    }

    fn may_read(&mut self, directory: InodeId) -> Result<bool, StoreError> {
        if self.caller.uid == 0 {
            return Ok(true);
        }
        if let Some(known) = self.readable.get(&directory) {
            return Ok(*known);
        }
        let inode = store::inode::get(self.read, directory)?;
        let answer = inode.is_some_and(|inode| permission::allows(self.caller, &inode, READ));
        self.readable.insert(directory, answer);
        Ok(answer)
    }
}
