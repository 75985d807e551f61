//! Changes of the namespace. Each happens exactly once, also across a change of leader; none is cancel-safe: if the future
//! is dropped, the change may happen or not.

use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind, Location};
use cairn_protocol::messages::operation::{
    ClaimInode, CloneRange, Concat, Create, IfExists, InodeOutcome, Link, Mkdir, Operation,
    OperationKind, OutcomeKind, Precondition, PunchHole, ReleaseInode, RemoveTree, RemoveXattr,
    Rename, RenameMode, Rmdir, SetAttributes, SetXattr, Symlink, Transaction, Truncate, Unlink,
    XattrMode,
};

use crate::error::{Error, Result, Subject};
use crate::file_system::FileSystem;
use crate::place::Place;

/// What an attribute change leaves as it is: everything that is `None` or false.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttributeChange {
    /// Follow a symbolic link at the end of the path.
    pub follow: bool,
    /// Permission bits, 0 to 0o7777.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of the last read, in nanoseconds since 1970.
    pub atime_ns: Option<u64>,
    /// Time of the last change, in nanoseconds since 1970.
    pub mtime_ns: Option<u64>,
    /// Set `atime` to the cluster's time.
    pub atime_now: bool,
    /// Set `mtime` to the cluster's time.
    pub mtime_now: bool,
    /// Replicas of a file, or of new files in a directory.
    pub replication: Option<u32>,
}

impl AttributeChange {
    /// The same as a message, for the inode at a location.
    pub fn of(&self, location: Location) -> SetAttributes {
        SetAttributes {
            location,
            follow: self.follow,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            atime_ns: self.atime_ns,
            mtime_ns: self.mtime_ns,
            atime_now: self.atime_now,
            mtime_now: self.mtime_now,
            replication: self.replication,
        }
    }
}

impl FileSystem {
    /// Makes a directory. `mode` has the umask already applied.
    pub async fn mkdir(&self, place: impl Into<Place>, mode: u32) -> Result<Attributes> {
        self.make_directory(place.into(), mode, false).await
    }

    /// Makes a directory and what is missing above it; one that exists is fine.
    pub async fn mkdir_all(&self, place: impl Into<Place>, mode: u32) -> Result<Attributes> {
        self.make_directory(place.into(), mode, true).await
    }

    async fn make_directory(&self, place: Place, mode: u32, parents: bool) -> Result<Attributes> {
        let (location, subject) = place.resolve()?;
        let mkdir = Mkdir {
            location,
            mode,
            parents,
        };
        Ok(self
            .change(&subject, OperationKind::Mkdir(mkdir))
            .await?
            .attributes)
    }

    /// Makes an empty file, or opens one, as `if_exists` says; true if it was made.
    pub async fn create(
        &self,
        place: impl Into<Place>,
        mode: u32,
        if_exists: IfExists,
    ) -> Result<(Attributes, bool)> {
        let (location, subject) = place.into().resolve()?;
        let create = Create {
            location,
            kind: InodeKind::File as i32,
            mode,
            if_exists: if_exists as i32,
            ..Create::default()
        };
        let outcome = self.change(&subject, OperationKind::Create(create)).await?;
        Ok((outcome.attributes, outcome.created))
    }

    /// Makes a named pipe, socket or device node.
    pub async fn make_node(
        &self,
        place: impl Into<Place>,
        kind: InodeKind,
        mode: u32,
        rdev: u64,
    ) -> Result<Attributes> {
        let (location, subject) = place.into().resolve()?;
        let create = Create {
            location,
            kind: kind as i32,
            mode,
            rdev,
            ..Create::default()
        };
        Ok(self
            .change(&subject, OperationKind::Create(create))
            .await?
            .attributes)
    }

    /// Makes a symbolic link at `place` that says `target`.
    pub async fn symlink(
        &self,
        target: impl Into<Vec<u8>>,
        place: impl Into<Place>,
    ) -> Result<Attributes> {
        let (location, subject) = place.into().resolve()?;
        let target = target.into();
        if target.is_empty() || target.len() > 4095 || target.contains(&0) {
            let message = "the target of a symbolic link has 1 to 4095 bytes and no NUL";
            return Err(Error::invalid(&subject, message));
        }
        let symlink = Symlink { location, target };
        Ok(self
            .change(&subject, OperationKind::Symlink(symlink))
            .await?
            .attributes)
    }

    /// Gives the inode at `source` another name.
    pub async fn link(
        &self,
        source: impl Into<Place>,
        place: impl Into<Place>,
    ) -> Result<Attributes> {
        self.link_with(source, place, IfExists::Fail).await
    }

    /// Like [`FileSystem::link`]; with [`IfExists::Replace`] an existing name then means the new inode, in one step.
    pub async fn link_with(
        &self,
        source: impl Into<Place>,
        place: impl Into<Place>,
        if_exists: IfExists,
    ) -> Result<Attributes> {
        let (source, _) = source.into().resolve()?;
        let (location, subject) = place.into().resolve()?;
        let link = Link {
            source,
            location,
            if_exists: if_exists as i32,
        };
        Ok(self
            .change(&subject, OperationKind::Link(link))
            .await?
            .attributes)
    }

    /// Moves a name, as `rename(2)` and `renameat2(2)` do: `target` is the new name itself, never a directory to move into.
    pub async fn rename(
        &self,
        source: impl Into<Place>,
        target: impl Into<Place>,
        mode: RenameMode,
    ) -> Result<Attributes> {
        let (source, subject) = source.into().resolve()?;
        let (target, _) = target.into().resolve()?;
        let rename = Rename {
            source,
            target,
            mode: mode as i32,
        };
        Ok(self
            .change(&subject, OperationKind::Rename(rename))
            .await?
            .attributes)
    }

    /// Removes a name of anything but a directory.
    pub async fn unlink(&self, place: impl Into<Place>) -> Result<Attributes> {
        let (location, subject) = place.into().resolve()?;
        let unlink = OperationKind::Unlink(Unlink { location });
        Ok(self.change(&subject, unlink).await?.attributes)
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, place: impl Into<Place>) -> Result<Attributes> {
        let (location, subject) = place.into().resolve()?;
        let rmdir = OperationKind::Rmdir(Rmdir { location });
        Ok(self.change(&subject, rmdir).await?.attributes)
    }

    /// Removes a name and all below it, in one step.
    pub async fn remove_tree(&self, place: impl Into<Place>) -> Result<Attributes> {
        let (location, subject) = place.into().resolve()?;
        let remove = OperationKind::RemoveTree(RemoveTree { location });
        Ok(self.change(&subject, remove).await?.attributes)
    }

    /// Changes mode, owner, times or replication.
    pub async fn set_attributes(
        &self,
        place: impl Into<Place>,
        change: AttributeChange,
    ) -> Result<Attributes> {
        let (location, subject) = place.into().resolve()?;
        let set = change.of(location);
        Ok(self
            .change(&subject, OperationKind::SetAttributes(set))
            .await?
            .attributes)
    }

    /// Cuts or extends a file.
    pub async fn truncate(&self, place: impl Into<Place>, size: u64) -> Result<Attributes> {
        let (location, subject) = place.into().resolve()?;
        let truncate = OperationKind::Truncate(Truncate { location, size });
        Ok(self.change_until_done(&subject, truncate).await?.attributes)
    }

    /// Makes a range of a file read as zeros; with `extend` the file may grow to its end.
    pub async fn punch_hole(
        &self,
        place: impl Into<Place>,
        offset: u64,
        length: u64,
        extend: bool,
    ) -> Result<Attributes> {
        let (location, subject) = place.into().resolve()?;
        let punch = OperationKind::PunchHole(PunchHole {
            location,
            offset,
            length,
            extend,
        });
        Ok(self.change_until_done(&subject, punch).await?.attributes)
    }

    /// Sets an extended attribute.
    pub async fn set_xattr(
        &self,
        place: impl Into<Place>,
        name: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        mode: XattrMode,
        follow: bool,
    ) -> Result<()> {
        let (location, subject) = place.into().resolve()?;
        let set = SetXattr {
            location,
            follow,
            name: name.into(),
            value: value.into(),
            mode: mode as i32,
        };
        self.change(&subject, OperationKind::SetXattr(set))
            .await
            .map(|_| ())
    }

    /// Removes an extended attribute.
    pub async fn remove_xattr(
        &self,
        place: impl Into<Place>,
        name: impl Into<Vec<u8>>,
        follow: bool,
    ) -> Result<()> {
        let (location, subject) = place.into().resolve()?;
        let remove = RemoveXattr {
            location,
            follow,
            name: name.into(),
        };
        self.change(&subject, OperationKind::RemoveXattr(remove))
            .await
            .map(|_| ())
    }

    /// Moves the content of `sources`, in order, to the end of `target`, and removes the sources. No data moves.
    pub async fn concat(
        &self,
        target: impl Into<Place>,
        sources: impl IntoIterator<Item = Place>,
    ) -> Result<Attributes> {
        let (target, subject) = target.into().resolve()?;
        let mut locations = Vec::new();
        for source in sources {
            locations.push(source.resolve()?.0);
        }
        let concat = OperationKind::Concat(Concat {
            target,
            sources: locations,
        });
        Ok(self.change(&subject, concat).await?.attributes)
    }

    /// Shares a range of one file with another; no data moves. Returns how many bytes were shared: fewer than `length` at
    /// the source's end.
    pub async fn clone_range(
        &self,
        source: impl Into<Place>,
        source_offset: u64,
        length: u64,
        target: impl Into<Place>,
        target_offset: u64,
    ) -> Result<u64> {
        let (source, _) = source.into().resolve()?;
        let (target, subject) = target.into().resolve()?;
        let mut shared = 0;
        loop {
            let clone = CloneRange {
                source: source.clone(),
                source_offset: source_offset.saturating_add(shared),
                length: length - shared,
                target: target.clone(),
                target_offset: target_offset.saturating_add(shared),
            };
            let outcome = self
                .change(&subject, OperationKind::CloneRange(clone))
                .await?;
            shared = shared.saturating_add(outcome.length_done).min(length);
            if outcome.done || outcome.length_done == 0 || shared == length {
                return Ok(shared);
            }
        }
    }

    /// Keeps an unlinked inode while this session has it open.
    pub async fn claim(&self, inode: InodeId) -> Result<()> {
        let claim = OperationKind::ClaimInode(ClaimInode { inode: inode.0 });
        self.core()
            .sessions
            .mutate(&Subject::Inode(inode), claim)
            .await
            .map(|_| ())
    }

    /// Gives a claim up: the last one lets an unlinked inode go.
    pub async fn release(&self, inode: InodeId) -> Result<()> {
        let release = OperationKind::ReleaseInode(ReleaseInode { inode: inode.0 });
        self.core()
            .sessions
            .mutate(&Subject::Inode(inode), release)
            .await
            .map(|_| ())
    }

    /// Several operations in one step: all of them happen, or none. Locations inside are sent as they are; see
    /// [`crate::normalise`].
    pub async fn transaction(
        &self,
        preconditions: Vec<Precondition>,
        operations: Vec<OperationKind>,
    ) -> Result<Vec<OutcomeKind>> {
        let subject = Subject::Cluster;
        let operations = operations.into_iter().map(Operation::from).collect();
        let transaction = OperationKind::Transaction(Transaction {
            preconditions,
            operations,
        });
        let sessions = &self.core().sessions;
        match sessions
            .mutate_as(&subject, transaction, self.caller())
            .await?
        {
            OutcomeKind::Transaction(outcome) => {
                let kinds = outcome.outcomes.into_iter().map(|outcome| outcome.kind);
                kinds
                    .collect::<Option<_>>()
                    .ok_or_else(|| Error::unexpected(&subject))
            }
            _ => Err(Error::unexpected(&subject)),
        }
    }

    pub(crate) async fn change(
        &self,
        subject: &Subject,
        operation: OperationKind,
    ) -> Result<InodeOutcome> {
        let sessions = &self.core().sessions;
        match sessions
            .mutate_as(subject, operation, self.caller())
            .await?
        {
            OutcomeKind::Inode(outcome) => Ok(outcome),
            _ => Err(Error::unexpected(subject)),
        }
    }

    /// For operations that may need several entries of the log: the same call goes on.
    async fn change_until_done(
        &self,
        subject: &Subject,
        operation: OperationKind,
    ) -> Result<InodeOutcome> {
        loop {
            let outcome = self.change(subject, operation.clone()).await?;
            if outcome.done {
                return Ok(outcome);
            }
        }
    }
}
