//! Paths of what changes: changes name inodes, people think in paths. What is not remembered is looked up: where a directory is,
//! and under which name.

use std::collections::BTreeMap;

use cairn_client::FileSystem;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::feed::Change;

use crate::paths::join;

/// Names that are remembered; then all are forgotten, and those in use come back.
const NAMES_MAX: usize = 1 << 16;

/// Longest way up.
const DEPTH_MAX: usize = 4096;

/// Where things are, as far as it is known.
pub(super) struct Names {
    fs: FileSystem,
    root: InodeId,
    root_path: Vec<u8>,
    places: BTreeMap<InodeId, (InodeId, Vec<u8>)>,
}

impl Names {
    /// `root` is what is watched.
    pub(super) fn new(fs: FileSystem, root: InodeId, root_path: Vec<u8>) -> Self {
        Self {
            fs,
            root,
            root_path,
            places: BTreeMap::new(),
        }
    }

    /// Nothing that is remembered is certain any more.
    pub(super) fn forget(&mut self) {
        self.places.clear();
    }

    /// A name has come: its path.
    pub(super) async fn named(&mut self, change: &Change) -> Option<Vec<u8>> {
        let path = self.path_of_name(change).await;
        if InodeId(change.inode) == self.root {
            self.root_path = path.clone()?;
        } else if !change.name.is_empty() {
            self.remember(change.inode, change.parent, &change.name);
        }
        path
    }

    /// A name has gone: its path.
    pub(super) async fn unnamed(&mut self, change: &Change) -> Option<Vec<u8>> {
        let inode = InodeId(change.inode);
        if inode == self.root {
            return Some(self.root_path.clone());
        }
        let path = self.path_of_name(change).await;
        let place = (InodeId(change.parent), change.name.to_vec());
        if self.places.get(&inode) == Some(&place) {
            self.places.remove(&inode);
        }
        path
    }

    async fn path_of_name(&mut self, change: &Change) -> Option<Vec<u8>> {
        if change.name.is_empty() {
            return None;
        }
        let directory = self.path_of(InodeId(change.parent), None).await?;
        Some(join(&directory, &change.name))
    }

    /// The path of an inode that changed.
    pub(super) async fn path(&mut self, change: &Change) -> Option<Vec<u8>> {
        let parent = (change.parent != 0).then_some(InodeId(change.parent));
        self.path_of(InodeId(change.inode), parent).await
    }

    /// Climbs from an inode to what is watched, or to the root of all. `hint`: where it may be.
    async fn path_of(&mut self, inode: InodeId, hint: Option<InodeId>) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let (mut inode, mut hint) = (inode, hint);
        while inode != self.root && inode != InodeId::ROOT {
            if names.len() == DEPTH_MAX {
                return None;
            }
            let (parent, name) = match self.places.get(&inode) {
                Some(place) => place.clone(),
                None => self.look_up(inode, hint).await?,
            };
            names.push(name);
            (inode, hint) = (parent, None);
        }
        let top = match inode == self.root {
            true => self.root_path.clone(),
            false => b"/".to_vec(),
        };
        Some(names.iter().rev().fold(top, |path, name| join(&path, name)))
    }

    /// Where an inode is: a directory knows, and lies in a directory whose names are looked through.
    async fn look_up(
        &mut self,
        inode: InodeId,
        hint: Option<InodeId>,
    ) -> Option<(InodeId, Vec<u8>)> {
        let parent = match hint {
            Some(parent) => parent,
            None => InodeId(self.fs.stat(inode).await.ok()?.parent),
        };
        let mut entries = self.fs.list(parent, false).ok()?;
        while let Some(entry) = entries.next().await.ok()? {
            self.remember(entry.inode, parent.0, &entry.name);
            if entry.inode == inode.0 {
                return Some((parent, entry.name));
            }
        }
        None
    }

    fn remember(&mut self, inode: u64, parent: u64, name: &[u8]) {
        if self.places.len() >= NAMES_MAX {
            self.places.clear();
        }
        let place = (InodeId(parent), name.to_vec());
        self.places.insert(InodeId(inode), place);
    }
}
