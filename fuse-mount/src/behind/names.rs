//! Names in delegated directories: found, made, removed and moved here.

use cairn_protocol::ids::InodeId;
use cairn_protocol::limits::NAME_BYTES_MAX;
use cairn_protocol::messages::common::{Attributes, Caller, InodeKind, Location};
use cairn_protocol::messages::operation::{
    Create, IfExists, Mkdir, OperationKind, Rename, RenameMode, Rmdir, Symlink, Unlink,
};
use cairn_protocol::messages::query::ListingEntry;

use super::{Actor, Behind, Directory, Named, OWN_VERSION, Own, State};

/// Files without a name that are remembered. What was written to others arrives for nothing.
const GONE_MAX: usize = 65_536;

/// Something to make.
#[derive(Clone, Debug)]
pub(crate) struct New<'a> {
    pub(crate) parent: u64,
    pub(crate) name: &'a [u8],
    pub(crate) kind: InodeKind,
    /// Permission bits, umask applied.
    pub(crate) mode: u32,
    pub(crate) rdev: u64,
    /// Of a symbolic link.
    pub(crate) target: &'a [u8],
    /// Replicas of a file where the directory does not say.
    pub(crate) replication: u32,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Made {
    /// These are its attributes.
    Here(Attributes),
    /// The name means something.
    Exists,
    /// No number is left for it.
    NoNumber,
    /// All is being given back: to be asked again.
    Busy,
    /// That is not done here.
    Elsewhere,
}

/// What came of removing or moving a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Done; the inode whose name it was.
    Here(u64),
    /// This is the error.
    Refused(i32),
    /// All is being given back: to be asked again.
    Busy,
    /// That is not done here.
    Elsewhere,
}

impl Behind {
    /// What a name in a delegated directory means; `None` if the directory is not delegated.
    pub(crate) fn find(&self, parent: u64, name: &[u8]) -> Option<Option<Named>> {
        let state = self.lock();
        let directory = state.delegated.get(&parent)?;
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        Some(directory.names.get(name).copied())
    }

    /// All names of a delegated directory, with the attributes of own inodes.
    pub(crate) fn list(&self, directory: u64) -> Option<Vec<ListingEntry>> {
        let state = self.lock();
        let names = &state.delegated.get(&directory)?.names;
        let entry = |name: &[u8], named: &Named| ListingEntry {
            name: name.to_vec(),
            inode: named.inode,
            kind: named.kind,
            attributes: state
                .own
                .get(&named.inode)
                .map(|own| own.attributes.clone()),
        };
        let entries = names.iter().map(|(name, named)| entry(name, named));
        Some(entries.collect())
    }

    /// Makes something with a new inode in a delegated directory.
    pub(crate) fn make(&self, who: &Caller, new: &New<'_>) -> Made {
        let mut state = self.lock();
        if state.giving_back {
            return Made::Busy;
        }
        let Some(parent) = state.own.get(&new.parent) else {
            return Made::Elsewhere;
        };
        let above = parent.attributes.clone();
        let Some(directory) = state.delegated.get(&new.parent) else {
            return Made::Elsewhere;
        };
        if directory.names.contains_key(new.name) {
            return Made::Exists;
        }
        let fits = !new.name.is_empty() && new.name.len() <= NAME_BYTES_MAX;
        if !fits || above.has_acl || new.mode & (libc::S_ISGID | libc::S_ISUID) != 0 {
            return Made::Elsewhere;
        }
        let Some(caller) = state.caller(who) else {
            return Made::Elsewhere;
        };
        if state.reserved.0 != state.session {
            return Made::NoNumber;
        }
        let Some(inode) = state.reserved.1.next() else {
            return Made::NoNumber;
        };
        let now = state.now();
        let attributes = new.attributes(who, &above, inode, now);
        let step = state.push(new.operation(), inode, now, caller, None);
        let named = Named {
            inode,
            kind: attributes.kind,
        };
        state.add(new.parent, new.name, named, (now, step));
        let own = Own {
            attributes: attributes.clone(),
            committed: false,
            made_here: true,
            step,
        };
        state.own.insert(inode, own);
        if new.kind == InodeKind::Directory {
            state.insert(inode, Directory::default());
        }
        drop(state);
        self.work.notify_one();
        Made::Here(attributes)
    }

    /// Removes a name of anything but a directory. `is_open` says of an inode that somebody has it open.
    pub(crate) fn unlink(&self, parent: u64, name: &[u8], is_open: impl Fn(u64) -> bool) -> Moved {
        let mut state = self.lock();
        if state.giving_back {
            return Moved::Busy;
        }
        let Some(named) = state.named(parent, name) else {
            return state.missing(parent);
        };
        if named.kind == InodeKind::Directory as i32 {
            return Moved::Refused(libc::EISDIR);
        }
        if is_open(named.inode) || !state.own.contains_key(&parent) {
            return Moved::Elsewhere;
        }
        let location = location(parent, name);
        let now = state.now();
        let unlink = OperationKind::Unlink(Unlink { location });
        let step = state.push(unlink, 0, now, None, None);
        state.remove(parent, name, (now, step));
        state.note_common(named.inode, step);
        state.bury(named.inode);
        drop(state);
        self.work.notify_one();
        Moved::Here(named.inode)
    }

    /// Removes an empty directory.
    pub(crate) fn rmdir(&self, parent: u64, name: &[u8]) -> Moved {
        let mut state = self.lock();
        if state.giving_back {
            return Moved::Busy;
        }
        let Some(named) = state.named(parent, name) else {
            return state.missing(parent);
        };
        if named.kind != InodeKind::Directory as i32 {
            return Moved::Refused(libc::ENOTDIR);
        }
        match state.delegated.get(&named.inode) {
            None => return Moved::Elsewhere,
            Some(directory) if !directory.names.is_empty() => {
                return Moved::Refused(libc::ENOTEMPTY);
            }
            Some(_) if !state.own.contains_key(&parent) => return Moved::Elsewhere,
            Some(_) => {}
        }
        let location = location(parent, name);
        let now = state.now();
        let rmdir = OperationKind::Rmdir(Rmdir { location });
        let step = state.push(rmdir, 0, now, None, None);
        state.remove(parent, name, (now, step));
        state.take(named.inode);
        state.own.remove(&named.inode);
        drop(state);
        self.work.notify_one();
        Moved::Here(named.inode)
    }

    /// Moves a name of anything but a directory to where nothing is, or such a thing.
    pub(crate) fn rename(
        &self,
        (parent, name): (u64, &[u8]),
        (new_parent, new_name): (u64, &[u8]),
        mode: RenameMode,
        is_open: impl Fn(u64) -> bool,
    ) -> Moved {
        let mut state = self.lock();
        if state.giving_back {
            return Moved::Busy;
        }
        let both = [parent, new_parent];
        let here = both.iter().all(|directory| {
            state.delegated.contains_key(directory) && state.own.contains_key(directory)
        });
        let fits = !new_name.is_empty() && new_name.len() <= NAME_BYTES_MAX;
        if !here || !fits || mode == RenameMode::Exchange {
            return Moved::Elsewhere;
        }
        let Some(source) = state.named(parent, name) else {
            return Moved::Refused(libc::ENOENT);
        };
        let target = state.named(new_parent, new_name);
        if target.is_some() && mode == RenameMode::NoReplace {
            return Moved::Refused(libc::EEXIST);
        }
        let directory = InodeKind::Directory as i32;
        if source.kind == directory || target.is_some_and(|target| target.kind == directory) {
            return Moved::Elsewhere;
        }
        if target.is_some_and(|target| target.inode == source.inode || is_open(target.inode)) {
            return Moved::Elsewhere;
        }
        let rename = Rename {
            source: location(parent, name),
            target: location(new_parent, new_name),
            mode: mode as i32,
        };
        let now = state.now();
        let step = state.push(OperationKind::Rename(rename), 0, now, None, None);
        if let Some(target) = target {
            state.remove(new_parent, new_name, (now, step));
            state.note_common(target.inode, step);
            state.bury(target.inode);
        }
        state.remove(parent, name, (now, step));
        state.add(new_parent, new_name, source, (now, step));
        state.note_common(source.inode, step);
        if let Some(own) = state.own.get_mut(&source.inode) {
            own.attributes.ctime_ns = now;
            own.step = step;
        }
        drop(state);
        self.work.notify_one();
        Moved::Here(source.inode)
    }

    /// The cluster has given a name in a directory a meaning, or taken it away, after all that was done here was told.
    pub(crate) fn note_name(&self, directory: u64, name: &[u8], named: Option<Named>) {
        let mut state = self.lock();
        // Its attributes are other ones now.
        state.own.remove(&directory);
        let Some(Directory { changes, .. }) = state.delegated.get_mut(&directory) else {
            return;
        };
        *changes += 1;
        state.name(directory, name, named);
    }
}

impl State {
    fn named(&self, parent: u64, name: &[u8]) -> Option<Named> {
        self.delegated.get(&parent)?.names.get(name).copied()
    }

    fn missing(&self, parent: u64) -> Moved {
        match self.delegated.contains_key(&parent) {
            true => Moved::Refused(libc::ENOENT),
            false => Moved::Elsewhere,
        }
    }

    /// In whose name a step is told; the outer `None` if it cannot be.
    fn caller(&self, who: &Caller) -> Option<Option<Caller>> {
        let Actor { uid, gid } = self.works?;
        if (who.uid, who.gid) == (uid, gid) {
            Some(None)
        } else if uid == 0 {
            Some(Some(Caller {
                umask: 0,
                ..who.clone()
            }))
        } else {
            None
        }
    }

    /// A file has no name any more, and nobody has it open.
    fn bury(&mut self, inode: u64) {
        // Of any other one somebody may know another name, and wait for its bytes.
        if self.own.remove(&inode).is_some() {
            self.closing.remove(&inode);
            self.lost.remove(&inode);
            if self.gone.len() >= GONE_MAX {
                self.gone.clear();
            }
            self.gone.insert(inode);
        }
    }

    fn add(&mut self, directory: u64, name: &[u8], named: Named, at: (u64, u64)) {
        self.name(directory, name, Some(named));
        self.change_directory(directory, at, |attributes| {
            attributes.size += 1;
            attributes.nlink += u32::from(named.kind == InodeKind::Directory as i32);
        });
    }

    fn remove(&mut self, directory: u64, name: &[u8], at: (u64, u64)) {
        let Some(named) = self.name(directory, name, None) else {
            return;
        };
        self.change_directory(directory, at, |attributes| {
            attributes.size = attributes.size.saturating_sub(1);
            let links = u32::from(named.kind == InodeKind::Directory as i32);
            attributes.nlink = attributes.nlink.saturating_sub(links);
        });
    }

    /// `at`: the time, and the step that says so.
    fn change_directory(
        &mut self,
        directory: u64,
        (now, step): (u64, u64),
        change: impl FnOnce(&mut Attributes),
    ) {
        if let Some(delegated) = self.delegated.get_mut(&directory) {
            delegated.step = step;
            delegated.changes += 1;
        }
        if let Some(own) = self.own.get_mut(&directory) {
            change(&mut own.attributes);
            own.attributes.mtime_ns = now;
            own.attributes.ctime_ns = now;
            own.step = step;
        }
    }
}

impl New<'_> {
    /// As the cluster will make them.
    fn attributes(&self, who: &Caller, above: &Attributes, inode: u64, now: u64) -> Attributes {
        let directory = self.kind == InodeKind::Directory;
        let inherits = above.mode & libc::S_ISGID != 0;
        let set_gid = if inherits && directory {
            libc::S_ISGID
        } else {
            0
        };
        let replication = match (self.kind, above.replication) {
            (InodeKind::Directory, above) => above,
            (InodeKind::File, 0) => self.replication,
            (InodeKind::File, above) => above,
            _ => 0,
        };
        Attributes {
            inode,
            kind: self.kind as i32,
            mode: self.mode & 0o7777 | set_gid,
            uid: who.uid,
            gid: if inherits { above.gid } else { who.gid },
            nlink: if directory { 2 } else { 1 },
            size: self.target.len() as u64,
            atime_ns: now,
            mtime_ns: now,
            ctime_ns: now,
            btime_ns: now,
            rdev: self.rdev,
            replication,
            version: OWN_VERSION,
            allocated: 0,
            symlink_target: self.target.to_vec(),
            parent: if directory { above.inode } else { 0 },
            has_acl: false,
        }
    }

    fn operation(&self) -> OperationKind {
        let location = location(self.parent, self.name);
        match self.kind {
            InodeKind::Directory => OperationKind::Mkdir(Mkdir {
                location,
                mode: self.mode,
                parents: false,
            }),
            InodeKind::Symlink => OperationKind::Symlink(Symlink {
                location,
                target: self.target.to_vec(),
            }),
            kind => OperationKind::Create(Create {
                location,
                kind: kind as i32,
                mode: self.mode,
                rdev: self.rdev,
                if_exists: IfExists::Fail as i32,
                ..Create::default()
            }),
        }
    }
}

fn location(parent: u64, name: &[u8]) -> Location {
    Location {
        inode: InodeId(parent).0,
        path: name.to_vec(),
    }
}
