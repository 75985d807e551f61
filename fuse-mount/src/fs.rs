//! What the kernel's requests mean, over `cairn_client::FileSystem`. Knows no kernel and no fuser, so that it is tested
//! without them.
//!
//! The kernel checks permissions with the identity of the process (`default_permissions`), so requests run as whoever
//! mounted; only what makes an inode runs in the name of the process, for its owner and group.

mod data;
mod xattrs;

use std::future::Future;
use std::sync::Arc;

use cairn_client::{AttributeChange, Error, FileSystem, Place};
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::messages::operation::{IfExists, RenameMode};
use cairn_protocol::messages::query::{FilesystemSpace, ListingEntry};

use crate::errno::errno;
use crate::handles::Directories;
pub use crate::identity::Requester;
use crate::inodes::{Inodes, Opened};

/// A result whose error is the kernel's number.
pub type Outcome<T> = Result<T, i32>;

/// A file system as a mount sees it.
#[derive(Debug)]
pub struct MountedFs {
    fs: FileSystem,
    inodes: Inodes,
    directories: Directories,
}

/// What `setattr` changes.
#[derive(Clone, Debug, Default)]
pub struct NewAttributes {
    /// Everything but the size.
    pub change: AttributeChange,
    /// Cut or extend to this.
    pub size: Option<u64>,
}

fn number(error: Error) -> i32 {
    let number = errno(&error);
    if number == libc::EIO {
        tracing::warn!(%error, "operation failed");
    }
    number
}

impl MountedFs {
    /// Over a connected cluster.
    pub fn new(fs: FileSystem) -> Self {
        Self {
            fs,
            inodes: Inodes::default(),
            directories: Directories::default(),
        }
    }

    /// What is written and not committed is part of what this mount sees.
    fn with_own_writes(&self, mut attributes: Attributes) -> Attributes {
        if let Some(file) = self.inodes.file(attributes.inode) {
            file.observe(&attributes);
            if file.is_dirty() {
                attributes.size = file.size();
            }
        }
        attributes
    }

    /// Makes an inode in the name of a process.
    async fn on_behalf<T, F>(&self, who: Requester, make: impl Fn(FileSystem) -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let result = make(self.fs.with_caller(who.caller())).await;
        match result {
            // The kernel has allowed it already, perhaps through a group that it did not tell.
            Err(error) if error.code() == ErrorCode::PermissionDenied => {
                make(self.fs.with_caller(who.caller_with_groups()))
                    .await
                    .map_err(number)
            }
            result => result.map_err(number),
        }
    }

    /// A name in a directory.
    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Outcome<Attributes> {
        let attributes = self.fs.stat_link(entry(parent, name)).await;
        attributes
            .map(|attributes| self.with_own_writes(attributes))
            .map_err(number)
    }

    /// Attributes of an inode.
    pub async fn attributes(&self, inode: u64) -> Outcome<Attributes> {
        let attributes = self.fs.stat_link(InodeId(inode)).await;
        attributes
            .map(|attributes| self.with_own_writes(attributes))
            .map_err(number)
    }

    /// Changes attributes and size.
    pub async fn set_attributes(&self, inode: u64, new: NewAttributes) -> Outcome<Attributes> {
        let file = self.inodes.file(inode);
        let mut attributes = None;
        if let Some(size) = new.size {
            attributes = Some(match &file {
                Some(file) => file.truncate(size).await.map_err(number)?,
                None => self
                    .fs
                    .truncate(InodeId(inode), size)
                    .await
                    .map_err(number)?,
            });
        }
        if new.change != AttributeChange::default() {
            // Bytes that are committed later would set the times anew.
            if let Some(file) = &file {
                file.flush().await.map_err(number)?;
            }
            let changed = self.fs.set_attributes(InodeId(inode), new.change).await;
            attributes = Some(changed.map_err(number)?);
        }
        match attributes {
            Some(attributes) => Ok(self.with_own_writes(attributes)),
            None => self.attributes(inode).await,
        }
    }

    /// Where a symbolic link points.
    pub async fn readlink(&self, inode: u64) -> Outcome<Vec<u8>> {
        let attributes = self.fs.stat_link(InodeId(inode)).await.map_err(number)?;
        Ok(attributes.symlink_target)
    }

    /// Makes a file, fifo, socket or device node; the name must be new.
    pub async fn make_node(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        kind: InodeKind,
        mode: u32,
        rdev: u32,
    ) -> Outcome<Attributes> {
        let make = |fs: FileSystem| async move {
            let place = entry(parent, name);
            fs.make_node(place, kind, mode, rdev.into()).await
        };
        self.on_behalf(who, make).await
    }

    /// Makes a directory.
    pub async fn mkdir(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        mode: u32,
    ) -> Outcome<Attributes> {
        let make = |fs: FileSystem| async move { fs.mkdir(entry(parent, name), mode).await };
        self.on_behalf(who, make).await
    }

    /// Makes a symbolic link.
    pub async fn symlink(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        target: &[u8],
    ) -> Outcome<Attributes> {
        let make = |fs: FileSystem| async move { fs.symlink(target, entry(parent, name)).await };
        self.on_behalf(who, make).await
    }

    /// Another name for an inode.
    pub async fn link(&self, inode: u64, parent: u64, name: &[u8]) -> Outcome<Attributes> {
        let linked = self.fs.link(InodeId(inode), entry(parent, name)).await;
        linked
            .map(|attributes| self.with_own_writes(attributes))
            .map_err(number)
    }

    /// Makes or opens a file; `exclusive` if it must be new, `truncate` if an old content goes.
    pub async fn create(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        mode: u32,
        exclusive: bool,
        truncate: bool,
    ) -> Outcome<(Attributes, bool)> {
        let if_exists = if exclusive {
            IfExists::Fail
        } else {
            IfExists::Open
        };
        let make =
            |fs: FileSystem| async move { fs.create(entry(parent, name), mode, if_exists).await };
        let (mut attributes, created) = self.on_behalf(who, make).await?;
        if attributes.kind != InodeKind::File as i32 {
            return Err(libc::EEXIST);
        }
        let Opened { file, unchanged } = self.inodes.open(&self.fs, &attributes);
        if truncate && !created && attributes.size > 0 {
            match file.truncate(0).await {
                Ok(cut) => attributes = cut,
                Err(error) => {
                    self.inodes.close(attributes.inode);
                    return Err(number(error));
                }
            }
        }
        Ok((attributes, unchanged))
    }

    /// Keeps an inode that is open here and is about to lose a name.
    async fn keep_if_open(&self, parent: u64, name: &[u8]) -> Outcome<()> {
        if self.inodes.is_empty() {
            return Ok(());
        }
        let Ok(attributes) = self.fs.stat_link(entry(parent, name)).await else {
            return Ok(());
        };
        if !self.inodes.claim(attributes.inode) {
            return Ok(());
        }
        let claimed = self.fs.claim(InodeId(attributes.inode)).await;
        claimed.map_err(|error| {
            self.inodes.unclaim(attributes.inode);
            number(error)
        })
    }

    /// Removes a name of anything but a directory.
    pub async fn unlink(&self, parent: u64, name: &[u8]) -> Outcome<()> {
        self.keep_if_open(parent, name).await?;
        let removed = self.fs.unlink(entry(parent, name)).await;
        removed.map(drop).map_err(number)
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, parent: u64, name: &[u8]) -> Outcome<()> {
        let removed = self.fs.rmdir(entry(parent, name)).await;
        removed.map(drop).map_err(number)
    }

    /// Moves a name.
    pub async fn rename(
        &self,
        (parent, name): (u64, &[u8]),
        (new_parent, new_name): (u64, &[u8]),
        mode: RenameMode,
    ) -> Outcome<()> {
        if mode == RenameMode::Replace {
            self.keep_if_open(new_parent, new_name).await?;
        }
        let target = entry(new_parent, new_name);
        let renamed = self.fs.rename(entry(parent, name), target, mode).await;
        renamed.map(drop).map_err(number)
    }

    /// Opens a directory.
    pub fn open_directory(&self, inode: u64) -> u64 {
        self.directories.open(InodeId(inode))
    }

    /// The inode above a directory.
    pub async fn parent(&self, inode: u64) -> Outcome<u64> {
        let attributes = self.attributes(inode).await?;
        Ok(attributes.parent.max(InodeId::ROOT.0))
    }

    /// Entries of an open directory from this index on, at most a page; none at the end.
    pub async fn read_directory(&self, handle: u64, index: usize) -> Outcome<Vec<ListingEntry>> {
        let directory = self.directories.get(handle).ok_or(libc::EBADF)?;
        let mut page = directory.page(&self.fs, index).await.map_err(number)?;
        for entry in &mut page {
            entry.attributes = entry.attributes.take().map(|a| self.with_own_writes(a));
        }
        Ok(page)
    }

    /// Closes a directory.
    pub fn close_directory(&self, handle: u64) {
        self.directories.close(handle);
    }

    /// Space of the cluster.
    pub async fn space(&self) -> Outcome<FilesystemSpace> {
        self.fs.statfs().await.map_err(number)
    }

    /// Commits everything and ends the session. The kernel must have let go of the mount.
    ///
    /// # Errors
    /// The first failure; everything else is tried nevertheless.
    pub async fn shut_down(self: Arc<Self>) -> Result<(), Error> {
        let mut first = Ok(());
        for file in self.inodes.files() {
            first = first.and(file.flush().await.map(drop));
        }
        first.and(self.fs.clone().close().await)
    }
}

fn entry(parent: u64, name: &[u8]) -> Place {
    Place::entry(InodeId(parent), name)
}
