//! What may be seen of a tree in which one holder makes all names, but for those of visitors.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{bail, ensure};
use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::messages::query::ListingEntry;

use super::super::model::FileModel;
use crate::harness::Prefixes;

/// Names of visitors begin so; holders' do not.
pub(crate) const GUEST: char = 'g';

/// What a name means. Two inodes are never the same, whatever else is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thing {
    pub(crate) kind: InodeKind,
    /// 0: nobody was told yet.
    pub(crate) inode: u64,
    pub(crate) mode: u32,
    pub(crate) target: String,
}

/// All names of a tree by their paths below it.
pub(crate) type State = BTreeMap<String, Thing>;

/// Bytes of one file of a holder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) model: FileModel,
    /// Lengths at which it can end: writes come whole.
    ends: BTreeSet<usize>,
    /// So much it was promised to have.
    kept: usize,
    /// Whoever wrote was told that bytes may be lost, or lost the session with them.
    lossy: bool,
}

impl Content {
    pub(crate) fn append(&mut self, bytes: &[u8], since: usize) {
        self.ends.insert(self.model.content.len());
        self.model.write(self.model.content.len(), bytes, since);
        self.ends.insert(self.model.content.len());
    }

    /// What was written so far is part of the file.
    fn keep(&mut self) {
        if !self.lossy {
            self.kept = self.model.content.len();
        }
    }

    pub(crate) fn lose(&mut self) {
        self.lossy = true;
    }

    /// Fails if somebody cannot have read these bytes.
    pub(crate) fn check(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let (all, length) = (&self.model.content, bytes.len());
        ensure!(
            length >= self.kept,
            "{length} bytes, {} were promised",
            self.kept
        );
        ensure!(
            bytes[..self.kept] == all[..self.kept],
            "promised bytes differ"
        );
        if !self.lossy {
            let whole = self.ends.contains(&length) || length == 0;
            ensure!(whole, "{length} bytes: a part of a write");
            ensure!(all[..length] == *bytes, "bytes differ");
        }
        Ok(())
    }
}

/// A directory of a holder with what is in it.
pub(crate) struct Tree {
    pub(crate) path: String,
    pub(crate) inode: u64,
    /// In which session it is worked on.
    pub(crate) session: u64,
    pub(crate) states: Prefixes<State>,
    pub(crate) contents: BTreeMap<u64, Content>,
    /// Nothing is done in it by its holder any more.
    pub(crate) over: bool,
    /// The step in which it ended may come after a gap: it was done when the session may have been over.
    pub(crate) stray: bool,
    /// All was told, and given back.
    pub(crate) left: bool,
    /// Files of visitors by name, with their inodes; 0 if nobody knows whether they are there.
    pub(crate) guests: BTreeMap<String, u64>,
}

impl Tree {
    pub(crate) fn new(path: String, inode: u64, session: u64) -> Self {
        Self {
            path,
            inode,
            session,
            states: Prefixes::new(State::new()),
            contents: BTreeMap::new(),
            over: false,
            stray: false,
            left: false,
            guests: BTreeMap::new(),
        }
    }

    /// The tree itself ("") and the directories in it, as its holder sees them.
    pub(crate) fn directories(&self) -> Vec<String> {
        let below = directories_of(self.states.state());
        std::iter::once(String::new()).chain(below).collect()
    }

    /// All that was done so far is on disks: names, and the bytes of one file, or of all that are closed.
    pub(crate) fn keep(&mut self, done: usize, files: &[u64]) -> anyhow::Result<()> {
        self.states.keep(done)?;
        for inode in files {
            if let Some(content) = self.contents.get_mut(inode) {
                content.keep();
            }
        }
        Ok(())
    }

    /// Checks what somebody has seen of one of its directories, who began with `look`.
    pub(crate) fn seen(
        &mut self,
        look: crate::harness::Look,
        directory: &str,
        entries: &[ListingEntry],
    ) -> anyhow::Result<()> {
        self.check_sizes(entries)?;
        let listed = listed(entries);
        if self.stray {
            // It may stand alone after a gap.
            let last = self.states.states().last().cloned().unwrap_or_default();
            let is_last = |(name, thing): (&String, &Thing)| {
                let found = last.get(&join(directory, name));
                found.is_some_and(|found| is_it(found, thing))
            };
            let known = |(name, thing): (&String, &Thing)| {
                let path = join(directory, name);
                let mut states = self.states.states().iter();
                states.any(|state| state.get(&path).is_some_and(|found| is_it(found, thing)))
            };
            let unknown = listed
                .iter()
                .find(|&(name, thing)| !is_last((name, thing)) && !known((name, thing)));
            ensure!(unknown.is_none(), "{unknown:?} was never there");
            return Ok(());
        }
        self.states
            .seen(look, |state| matches(state, directory, &listed))
            .map_err(|error| error.context(format!("{}/{directory}: {listed:?}", self.path)))
    }

    /// The same of the whole tree, by path, when nobody changes it any more.
    pub(crate) fn seen_whole<'a>(
        &mut self,
        look: crate::harness::Look,
        all: impl Iterator<Item = (&'a String, &'a ListingEntry)>,
    ) -> anyhow::Result<()> {
        if self.stray {
            return Ok(());
        }
        let mut found = BTreeMap::new();
        for (path, entry) in all {
            if let Some(attributes) = &entry.attributes
                && !split(path).1.starts_with(GUEST)
            {
                found.insert(path.clone(), thing_of(attributes));
            }
        }
        let path = &self.path;
        self.states
            .seen(look, |state| is_all(state, &found))
            .map_err(|error| error.context(format!("{path} in the end: {found:?}")))
    }

    /// No file is longer than what was written, or shorter than what was promised.
    fn check_sizes(&self, entries: &[ListingEntry]) -> anyhow::Result<()> {
        for attributes in entries.iter().filter_map(|entry| entry.attributes.as_ref()) {
            if let Some(content) = self.contents.get(&attributes.inode) {
                let (size, inode) = (attributes.size as usize, attributes.inode);
                let most = content.model.content.len();
                ensure!(
                    (content.kept..=most).contains(&size),
                    "{}: inode {inode} has {size} bytes, {} were promised and {most} written",
                    self.path,
                    content.kept
                );
            }
        }
        Ok(())
    }

    /// Checks whatever somebody has read at a path: bytes of a file that was there once.
    pub(crate) fn read(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let states = self.states.states().iter();
        let inodes: BTreeSet<u64> = states
            .filter_map(|state| state.get(name))
            .map(|thing| thing.inode)
            .collect();
        let mut failure = None;
        for inode in inodes {
            // One that is just being made has nothing yet.
            let Some(content) = self.contents.get(&inode) else {
                if bytes.is_empty() {
                    return Ok(());
                }
                continue;
            };
            match content.check(bytes) {
                Ok(()) => return Ok(()),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error.context(format!("{}/{name}", self.path))),
            None => bail!("{}/{name} was never there", self.path),
        }
    }
}

pub(crate) fn directories_of(state: &State) -> impl Iterator<Item = String> {
    let directories = state
        .iter()
        .filter(|(_, thing)| thing.kind == InodeKind::Directory);
    directories.map(|(path, _)| path.clone())
}

/// A name in a directory of a tree, as a path below the tree.
pub(crate) fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        directory => format!("{directory}/{name}"),
    }
}

/// The directory of a path below a tree, and the name in it.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

pub(crate) fn thing_of(attributes: &Attributes) -> Thing {
    Thing {
        kind: InodeKind::try_from(attributes.kind).unwrap_or(InodeKind::Unspecified),
        inode: attributes.inode,
        mode: attributes.mode & 0o7777,
        target: String::from_utf8_lossy(&attributes.symlink_target).into_owned(),
    }
}

/// Whether what is known of a thing is what somebody has seen.
fn is_it(known: &Thing, seen: &Thing) -> bool {
    let told = known.inode != 0;
    known.kind == seen.kind
        && known.target == seen.target
        && (!told || (known.inode, known.mode) == (seen.inode, seen.mode))
}

/// Names of the holder.
fn listed(entries: &[ListingEntry]) -> BTreeMap<String, Thing> {
    let mut listed = BTreeMap::new();
    for entry in entries {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        if let Some(attributes) = &entry.attributes
            && !name.starts_with(GUEST)
        {
            listed.insert(name, thing_of(attributes));
        }
    }
    listed
}

fn is_all(state: &State, found: &State) -> bool {
    let mut pairs = state.iter().zip(found);
    state.len() == found.len()
        && pairs.all(|((path, thing), (other, seen))| path == other && is_it(thing, seen))
}

fn matches(state: &State, directory: &str, listed: &BTreeMap<String, Thing>) -> bool {
    let mut here = state
        .iter()
        .filter(|(path, _)| split(path).0 == directory)
        .map(|(path, thing)| (split(path).1, thing));
    let exists = directory.is_empty() || state.contains_key(directory);
    let mut seen = listed.iter();
    let same = loop {
        match (here.next(), seen.next()) {
            (None, None) => break true,
            (Some((name, thing)), Some((other, found))) if name == other => {
                if !is_it(thing, found) {
                    break false;
                }
            }
            _ => break false,
        }
    };
    exists && same
}
