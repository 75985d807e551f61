//! What the kernel's requests mean, over `cairn_client::FileSystem`. Knows no kernel and no fuser, so that it is tested
//! without them.
//!
//! The kernel checks permissions with the identity of the process (`default_permissions`), so requests run as whoever
//! mounted; only what makes an inode runs in the name of the process, for its owner and group.

mod behind;
mod data;
mod keeper;
mod locks;
mod reads;
mod xattrs;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_client::{AttributeChange, Error, FileSystem, Place, Subject};
use cairn_daemon::Clock;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Attributes, Caller, InodeKind, Location};
use cairn_protocol::messages::operation::{IfExists, RenameMode};
use cairn_protocol::messages::query::{FilesystemSpace, ListingEntry};
use cairn_protocol::{ErrorCode, Failure};

pub use self::locks::LockCall;
use self::locks::Locks;
use crate::behind::{Behind, Made, Moved, Named, New};
use crate::caches::{Forgotten, KernelCaches};
use crate::errno::errno;
use crate::handles::{Directories, OpenDirectory};
pub use crate::identity::Requester;
use crate::inodes::Inodes;
use crate::reads::AccessTimes;
use crate::recent::Recent;
use crate::told::{Answer, Effect, Told, attributes_after};

/// How often attributes are asked for again that were older than what is known. A second answer is newer; only if others, or
/// this mount, change the file all the time is it old again.
const ASKS_MAX: u32 = 8;

/// Files up to this size are stored in one piece.
const STREAMED_MIN: u64 = 1 << 20;

/// A result whose error is the kernel's number.
pub type Outcome<T> = Result<T, i32>;

/// A file system as a mount sees it.
#[derive(Debug)]
pub struct MountedFs {
    pub(crate) fs: FileSystem,
    pub(crate) inodes: Inodes,
    directories: Directories,
    locks: Locks,
    last_handle: AtomicU64,
    pub(crate) caches: KernelCaches,
    pub(crate) told: Told,
    pub(crate) behind: Arc<Behind>,
    recent: Recent,
    /// Held by whoever gets inode numbers for all.
    numbers: tokio::sync::Mutex<()>,
    /// Which reads are noted, by which clock.
    access_times: (AccessTimes, Clock),
    /// Held by whoever tells the cluster what was read.
    telling_reads: tokio::sync::Mutex<()>,
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
    /// Over a connected cluster, for a kernel that keeps what these caches hold, for so long at most. Reads are not noted.
    pub fn new(fs: FileSystem, caches: KernelCaches, keep: Duration) -> Self {
        Self {
            fs,
            inodes: Inodes::default(),
            directories: Directories::default(),
            caches,
            locks: Locks::default(),
            last_handle: AtomicU64::new(0),
            told: Told::new(keep),
            behind: Arc::default(),
            recent: Recent::default(),
            numbers: tokio::sync::Mutex::default(),
            access_times: (AccessTimes::Off, Clock::system()),
            telling_reads: tokio::sync::Mutex::default(),
        }
    }

    /// How long the kernel may keep these attributes: not at all if something is on its way that will change them.
    pub(crate) fn keep_attributes(&self, answer: &Answer<'_>, attributes: &Attributes) -> Duration {
        if self.behind.has_untold(attributes.inode) {
            return Duration::ZERO;
        }
        // What changes of an own inode is told by whoever changes it: the kernel.
        let own = self.behind.attributes(attributes.inode).is_some();
        if own || self.inodes.is_settled(attributes) {
            answer.attributes(attributes.inode, attributes.version)
        } else {
            Duration::ZERO
        }
    }

    /// A number for one more open file, which the kernel tells us when it locks and when it closes it.
    pub fn new_handle(&self) -> u64 {
        self.last_handle.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Attributes as this mount has to see them, never older than what it has done itself.
    async fn ask(&self, place: Place) -> Outcome<Attributes> {
        let mut asks = 0;
        loop {
            let attributes = self.fs.stat_link(&place).await.map_err(number)?;
            asks += 1;
            match self.inodes.see(attributes.clone()) {
                Some(seen) => return Ok(seen),
                None if asks == ASKS_MAX => return Ok(self.inodes.see_old(attributes)),
                None => {}
            }
        }
    }

    /// Attributes that a change of our own was answered with. What is newer by now is asked for.
    async fn seen(&self, attributes: Attributes) -> Outcome<Attributes> {
        let inode = InodeId(attributes.inode);
        match self.inodes.see(attributes) {
            Some(seen) => Ok(seen),
            None => self.ask(inode.into()).await,
        }
    }

    /// Commits what an open file has gathered: only then are its times and its space known, and what is told of them now
    /// stays true. Whether it works is for flush, fsync and close to tell.
    async fn commit_gathered(&self, inode: u64) {
        if let Some(file) = self.inodes.file(inode) {
            file.try_commit().await;
        }
    }

    /// In whose name a process makes things: in its own, or that of the mount if it may not speak for others. `groups`: with
    /// the supplementary groups of the process.
    pub(crate) fn maker(&self, who: Requester, groups: bool) -> Caller {
        let mount = self.fs.asker();
        if mount.uid != 0 && mount.token.is_empty() {
            let umask = who.umask;
            return Caller { umask, ..mount };
        }
        if groups {
            who.caller_with_groups()
        } else {
            who.caller()
        }
    }

    /// Makes an inode with this mode in the name of a process.
    async fn on_behalf<T, F>(
        &self,
        who: Requester,
        mode: u32,
        make: impl Fn(FileSystem) -> F,
    ) -> Outcome<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        // Whether a set-group-id program may be made depends on all groups.
        let plain = mode & libc::S_ISGID == 0;
        if plain {
            let result = make(self.fs.with_caller(self.maker(who, false))).await;
            match result {
                // The kernel has allowed it already, perhaps through a group that it did not tell.
                Err(error) if error.code() == ErrorCode::PermissionDenied => {}
                result => return result.map_err(number),
            }
        }
        make(self.fs.with_caller(self.maker(who, true)))
            .await
            .map_err(number)
    }

    /// A name in a directory.
    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Outcome<Attributes> {
        if self.is_ours(parent, false).await?
            && let Some(found) = self.behind.find(parent, name)
        {
            let Named { inode, .. } = found.ok_or(libc::ENOENT)?;
            return self.attributes(inode).await;
        }
        let found = self.ask(entry(parent, name)).await?;
        let gathers = self.inodes.file(found.inode).is_some_and(|f| f.is_dirty());
        if gathers {
            self.commit_gathered(found.inode).await;
            return self.ask(entry(parent, name)).await;
        }
        Ok(found)
    }

    /// Attributes of an inode.
    pub async fn attributes(&self, inode: u64) -> Outcome<Attributes> {
        if self.is_ours(inode, false).await?
            && let Some(here) = self.attributes_here(inode).await?
        {
            return Ok(here);
        }
        if let Some(known) = self.told.remembered(inode) {
            return Ok(known);
        }
        let asked = self.told.asked();
        self.let_common(inode).await?;
        self.commit_gathered(inode).await;
        let attributes = self.ask(InodeId(inode).into()).await?;
        if attributes.kind == InodeKind::Directory as i32 {
            self.told.remember(&attributes, asked);
        }
        Ok(attributes)
    }

    /// Makes or removes a name; what that does to the directory's attributes follows from the answer.
    async fn change_name(
        &self,
        directory: u64,
        effect: Effect,
        work: impl Future<Output = Outcome<Attributes>>,
    ) -> Outcome<Attributes> {
        self.tell_all().await?;
        let before = self.told.begin_change(directory);
        let named = work.await;
        self.doubt_if_unknown(&named);
        let named_ok = named.as_ref().ok();
        let after = before.zip(named_ok);
        let after =
            after.map(|((before, asked), named)| (attributes_after(before, effect, named), asked));
        self.told
            .end_change(directory, named_ok.map(|named| named.inode), after);
        named
    }

    /// Changes an inode in a way that is to be asked for afterwards.
    async fn change_inode<T>(
        &self,
        inode: u64,
        work: impl Future<Output = Outcome<T>>,
    ) -> Outcome<T> {
        self.tell_all().await?;
        self.told.begin_change(inode);
        let changed = work.await;
        self.doubt_if_unknown(&changed);
        self.behind.changed_elsewhere(inode);
        self.told.end_change(inode, None, None);
        changed
    }

    /// A change whose answer did not come may have happened, or happen yet.
    pub(crate) fn doubt_if_unknown<T>(&self, outcome: &Outcome<T>) {
        if matches!(outcome, Err(libc::EIO)) {
            self.told.doubt();
            // Nor is it known any more which names there are.
            self.behind.want_back();
        }
    }

    /// Changes attributes and size, for a process that the kernel has allowed it.
    pub async fn set_attributes(
        &self,
        who: Requester,
        inode: u64,
        mut new: NewAttributes,
    ) -> Outcome<Attributes> {
        if new.change.atime_ns.is_some() || new.change.atime_now {
            self.forget_read(inode).await;
        }
        self.inodes.changes(inode);
        if self.is_ours(inode, true).await? {
            if new.size.is_none()
                && let Some(set) = self.set_attributes_here(inode, &new.change).await?
            {
                self.inodes.times_are(&set);
                return Ok(set);
            }
            self.let_common(inode).await?;
        }
        let file = self.inodes.file(inode);
        let mut attributes = None;
        if let Some(size) = new.size {
            let cut = match &file {
                Some(file) => file.truncate(size).await,
                None => self.fs.truncate(InodeId(inode), size).await,
            };
            let cut = cut.map_err(number);
            self.doubt_if_unknown(&cut);
            let cut = cut?;
            // As a write does.
            if who.uid != 0 && new.change.mode.is_none() {
                new.change.mode = without_set_ids(cut.mode);
            }
            attributes = Some(cut);
        }
        if new.change != AttributeChange::default() {
            // Bytes that are committed later would set the times anew.
            if let Some(file) = &file {
                file.flush().await.map_err(number)?;
            }
            let change = async {
                let changed = self.fs.set_attributes(InodeId(inode), new.change).await;
                changed.map_err(number)
            };
            attributes = Some(self.change_inode(inode, change).await?);
        }
        match attributes {
            Some(attributes) => self.seen(attributes).await,
            None => self.attributes(inode).await,
        }
    }

    /// The same for an own inode; `None` if that is not done here.
    async fn set_attributes_here(
        &self,
        inode: u64,
        change: &AttributeChange,
    ) -> Outcome<Option<Attributes>> {
        let Some(before) = self.attributes_here(inode).await? else {
            return Ok(None);
        };
        // So much goes through a stream, whose commits set the times anew.
        if before.kind == InodeKind::File as i32 && before.size > STREAMED_MIN {
            return Ok(None);
        }
        if *change == AttributeChange::default() {
            return Ok(self.own_attributes(inode));
        }
        let set = change.of(Location {
            inode,
            path: Vec::new(),
        });
        match self.behind.set_attributes(set) {
            Made::Here(_) => {
                self.changed_here(inode, None);
                Ok(self.own_attributes(inode))
            }
            // When all is given back, it is done as anywhere.
            _ => Ok(None),
        }
    }

    /// Takes set-user-id and set-group-id away from a file that somebody changes who may not keep them.
    async fn drop_set_ids(&self, inode: u64) -> Outcome<()> {
        let Some(mode) = self.inodes.mode(inode).and_then(without_set_ids) else {
            return Ok(());
        };
        self.let_common(inode).await?;
        let change = AttributeChange {
            mode: Some(mode),
            ..AttributeChange::default()
        };
        let change = async {
            let changed = self.fs.set_attributes(InodeId(inode), change).await;
            changed.map_err(number)
        };
        self.inodes.see(self.change_inode(inode, change).await?);
        // The kernel does not know that it has done this.
        self.caches.forget_soon(Forgotten::Attributes { inode });
        Ok(())
    }

    /// Where a symbolic link points.
    pub async fn readlink(&self, inode: u64) -> Outcome<Vec<u8>> {
        let mut attributes = match self.behind.attributes(inode) {
            Some(own) => own,
            None => self.fs.stat_link(InodeId(inode)).await.map_err(number)?,
        };
        let target = std::mem::take(&mut attributes.symlink_target);
        self.inodes.show_read(&mut attributes);
        self.note_read_of(attributes);
        Ok(target)
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
        let new = New {
            mode,
            rdev: rdev.into(),
            ..self.new_in(parent, name, kind)
        };
        if let Some(made) = self.make_here(who, &new).await? {
            return Ok(made);
        }
        self.told.name_comes(parent, name);
        let make = |fs: FileSystem| async move {
            let place = entry(parent, name);
            fs.make_node(place, kind, mode, rdev.into()).await
        };
        let made = self.change_name(parent, Effect::Made, self.on_behalf(who, mode, make));
        let made = made.await?;
        self.note_made(parent, name, &made);
        Ok(made)
    }

    fn new_in<'a>(&self, parent: u64, name: &'a [u8], kind: InodeKind) -> New<'a> {
        New {
            parent,
            name,
            kind,
            mode: 0,
            rdev: 0,
            target: b"",
            replication: self.fs.settings().replication,
        }
    }

    /// The cluster has made something, perhaps in a directory that is delegated.
    fn note_made(&self, parent: u64, name: &[u8], made: &Attributes) {
        let named = Named {
            inode: made.inode,
            kind: made.kind,
        };
        self.behind.note_name(parent, name, Some(named));
    }

    /// Makes a directory.
    pub async fn mkdir(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        mode: u32,
    ) -> Outcome<Attributes> {
        let asked = self.told.asked();
        let new = New {
            mode,
            ..self.new_in(parent, name, InodeKind::Directory)
        };
        if let Some(made) = self.make_here(who, &new).await? {
            self.told.answer_change(asked).new_directory(&made);
            return Ok(made);
        }
        self.told.name_comes(parent, name);
        let made = async {
            if let Some(made) = self.mkdir_delegated(who, parent, name, mode).await? {
                return Ok(made);
            }
            let make = |fs: FileSystem| async move { fs.mkdir(entry(parent, name), mode).await };
            self.on_behalf(who, mode, make).await
        };
        let made = self.change_name(parent, Effect::Made, made).await?;
        self.note_made(parent, name, &made);
        self.told.answer_change(asked).new_directory(&made);
        Ok(made)
    }

    /// Makes a symbolic link.
    pub async fn symlink(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        target: &[u8],
    ) -> Outcome<Attributes> {
        let new = New {
            mode: 0o777,
            target,
            ..self.new_in(parent, name, InodeKind::Symlink)
        };
        if (1..=4095).contains(&target.len())
            && let Some(made) = self.make_here(Requester { umask: 0, ..who }, &new).await?
        {
            return Ok(made);
        }
        self.told.name_comes(parent, name);
        let make = |fs: FileSystem| async move { fs.symlink(target, entry(parent, name)).await };
        let made = self.change_name(parent, Effect::Made, self.on_behalf(who, 0o777, make));
        let made = made.await?;
        self.note_made(parent, name, &made);
        Ok(made)
    }

    /// Another name for an inode.
    pub async fn link(&self, inode: u64, parent: u64, name: &[u8]) -> Outcome<Attributes> {
        self.is_ours(parent, true).await?;
        self.tell_all().await?;
        self.let_common_wholly(inode).await?;
        self.told.name_comes(parent, name);
        let link = async {
            let linked = self.fs.link(InodeId(inode), entry(parent, name)).await;
            linked.map_err(number)
        };
        let linked = self.change_name(parent, Effect::Made, link).await?;
        self.note_made(parent, name, &linked);
        self.seen(linked).await
    }

    /// Makes a file and opens it. The kernel has looked for the name before; if somebody else has made it since, it looks
    /// again (`ESTALE`), opens what is there, and checks who may do so. With `exclusive` that is an error.
    pub async fn create(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        mode: u32,
        exclusive: bool,
    ) -> Outcome<Attributes> {
        let new = New {
            mode,
            ..self.new_in(parent, name, InodeKind::File)
        };
        let stale = |errno| match errno {
            libc::EEXIST if !exclusive => libc::ESTALE,
            errno => errno,
        };
        if let Some(made) = self.make_here(who, &new).await.map_err(stale)? {
            self.inodes.open(&self.fs, &made);
            self.take_care_of(made.inode);
            self.recent.begin(made.inode);
            return Ok(made);
        }
        self.told.name_comes(parent, name);
        let make = |fs: FileSystem| async move {
            let place = entry(parent, name);
            let made = fs.create(place, mode, IfExists::Fail).await;
            made.map(|(attributes, _)| attributes)
        };
        let made = self.on_behalf(who, mode, make);
        let made = self.change_name(parent, Effect::Made, made).await;
        let attributes = made.map_err(stale)?;
        self.note_made(parent, name, &attributes);
        // New, so nothing newer is known of it.
        self.inodes.open(&self.fs, &attributes);
        Ok(attributes)
    }

    /// Removes a name of anything but a directory.
    pub async fn unlink(&self, parent: u64, name: &[u8]) -> Outcome<()> {
        while self.can_change(parent).await? {
            self.attributes_here(parent).await?;
            let is_open = |inode| self.inodes.is_open(inode);
            match self.behind.unlink(parent, name, is_open) {
                Moved::Here(inode) => {
                    self.recent.forget(inode);
                    self.changed_here(parent, Some(inode));
                    return Ok(());
                }
                Moved::Refused(errno) => return Err(errno),
                Moved::Busy => continue,
                Moved::Elsewhere => break,
            }
        }
        self.tell_all().await?;
        if let Some(Some(Named { inode, .. })) = self.behind.find(parent, name) {
            self.let_common(inode).await?;
        }
        let unlink = async {
            let removed = self.fs.unlink(entry(parent, name)).await;
            removed.map_err(number)
        };
        let removed = self.change_name(parent, Effect::Unlinked, unlink).await?;
        self.behind.note_name(parent, name, None);
        if removed.nlink == 0 {
            self.keep_unlinked(removed.inode).await;
        }
        Ok(())
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, parent: u64, name: &[u8]) -> Outcome<()> {
        while self.can_change(parent).await? {
            self.attributes_here(parent).await?;
            match self.behind.rmdir(parent, name) {
                Moved::Here(inode) => {
                    self.changed_here(parent, Some(inode));
                    self.told.directory_goes(inode);
                    return Ok(());
                }
                Moved::Refused(errno) => return Err(errno),
                Moved::Busy => {}
                Moved::Elsewhere => break,
            }
        }
        // What is done in it may not be told yet.
        self.tell_all().await?;
        let remove = async {
            let removed = self.fs.rmdir(entry(parent, name)).await;
            removed.map_err(number)
        };
        let removed = self.change_inode(parent, remove).await?;
        self.behind.note_name(parent, name, None);
        self.behind.forget_directory(removed.inode);
        self.told.directory_goes(removed.inode);
        Ok(())
    }

    /// Moves a name.
    pub async fn rename(
        &self,
        (parent, name): (u64, &[u8]),
        (new_parent, new_name): (u64, &[u8]),
        mode: RenameMode,
    ) -> Outcome<()> {
        while self.can_change(parent).await? && self.can_change(new_parent).await? {
            self.store_before_rename((parent, name), (new_parent, new_name))
                .await?;
            self.attributes_here(parent).await?;
            self.attributes_here(new_parent).await?;
            let is_open = |inode| self.inodes.is_open(inode);
            let target = (new_parent, new_name);
            match self.behind.rename((parent, name), target, mode, is_open) {
                Moved::Here(inode) => {
                    self.told.name_comes(new_parent, new_name);
                    self.changed_here(parent, Some(inode));
                    self.changed_here(new_parent, None);
                    return Ok(());
                }
                Moved::Refused(errno) => return Err(errno),
                Moved::Busy => {}
                Moved::Elsewhere => break,
            }
        }
        self.tell_all().await?;
        if let Some(Some(source)) = self.behind.find(parent, name) {
            self.let_common_wholly(source.inode).await?;
        }
        match self.behind.find(new_parent, new_name).flatten() {
            Some(target) if mode == RenameMode::Exchange => {
                self.let_common_wholly(target.inode).await?;
            }
            Some(target) => self.let_common(target.inode).await?,
            None => {}
        }
        let moved = self.behind.find(parent, name).flatten();
        let replaced = self.behind.find(new_parent, new_name).flatten();
        self.told.name_comes(new_parent, new_name);
        if mode == RenameMode::Exchange {
            self.told.name_comes(parent, name);
        }
        // What it replaces may be open here: the keeper finds that, well before the cluster lets it go.
        let target = entry(new_parent, new_name);
        let rename = async {
            let renamed = self.fs.rename(entry(parent, name), target, mode).await;
            renamed.map_err(number)
        };
        let rename = self.change_inode(new_parent, rename);
        let renamed = self.change_inode(parent, rename).await?;
        let moved = moved.unwrap_or(Named {
            inode: renamed.inode,
            kind: renamed.kind,
        });
        self.note_moved(
            (parent, name),
            (new_parent, new_name),
            mode,
            moved,
            replaced,
        );
        self.is_moved(renamed.inode);
        if mode == RenameMode::Exchange {
            match self.fs.stat_link(entry(parent, name)).await {
                Ok(exchanged) => self.is_moved(exchanged.inode),
                // Somebody has moved it since, and has said so.
                Err(error) if error.code() == ErrorCode::NotFound => {}
                // Nobody knows what it is: nothing is answered from what was known.
                Err(_) => self.told.doubt(),
            }
        }
        Ok(())
    }

    /// The cluster has moved a name; directories that are delegated know it.
    fn note_moved(
        &self,
        (parent, name): (u64, &[u8]),
        (new_parent, new_name): (u64, &[u8]),
        mode: RenameMode,
        moved: Named,
        replaced: Option<Named>,
    ) {
        // Two names of one inode stay as they are.
        if mode != RenameMode::Exchange && replaced.is_some_and(|it| it.inode == moved.inode) {
            return;
        }
        if mode == RenameMode::Exchange {
            match replaced {
                Some(replaced) => self.behind.note_name(parent, name, Some(replaced)),
                // Its name was not known here: nor is what it is.
                None if self.behind.is_delegated(parent) => drop(self.behind.want_back()),
                None => {}
            }
        } else {
            self.behind.note_name(parent, name, None);
            if let Some(replaced) = replaced {
                self.behind.forget_directory(replaced.inode);
            }
        }
        self.behind.note_name(new_parent, new_name, Some(moved));
    }

    /// Another name: its time of change is another one, and of a directory the one above.
    fn is_moved(&self, inode: u64) {
        self.behind.changed_elsewhere(inode);
        self.told.begin_change(inode);
        self.told.end_change(inode, None, None);
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

    /// Entries of an open directory from this index on; none at the end. Not all of them have attributes, if `attributes` are
    /// wanted: those that were told before have none.
    pub async fn read_directory(
        &self,
        handle: u64,
        index: usize,
        attributes: bool,
    ) -> Outcome<Vec<ListingEntry>> {
        let directory = self.directories.get(handle).ok_or(libc::EBADF)?;
        let inode = directory.inode.0;
        if index == 0 {
            let ours = self.is_ours(inode, false).await?;
            let known = ours.then(|| self.behind.list(inode)).flatten();
            // Attributes of many that are not own ones are asked for together.
            let known = known.filter(|entries| {
                !attributes || entries.iter().all(|entry| entry.attributes.is_some())
            });
            directory.begin(known).await;
        }
        let known = directory.is_known().await;
        if !known && self.behind.is_delegated(inode) {
            self.tell_all().await?;
        }
        let page = directory.page(&self.fs, index, attributes).await;
        let mut page = page.map_err(number)?;
        for entry in &mut page {
            let found = self.behind.find(inode, &entry.name);
            if attributes && found.is_some_and(|now| now.is_none_or(|it| it.inode != entry.inode)) {
                // Gone since it was listed: nobody asks for it.
                (entry.inode, entry.attributes) = (0, None);
                continue;
            }
            let listed = entry.attributes.take();
            let own = self.own_attributes(entry.inode);
            entry.attributes = match own {
                Some(own) => attributes.then_some(own),
                None => listed.and_then(|listed| self.inodes.see(listed)),
            };
        }
        Ok(page)
    }

    /// The kernel took the entries up to this index; `full` if there was no room for another one.
    pub async fn told_directory(&self, handle: u64, to: usize, full: bool) {
        if let Some(directory) = self.directories.get(handle) {
            directory.telling().await.told(to, full);
        }
    }

    pub(crate) fn directory(&self, handle: u64) -> Option<Arc<OpenDirectory>> {
        self.directories.get(handle)
    }

    /// Closes a directory.
    pub fn close_directory(&self, handle: u64) {
        self.directories.close(handle);
    }

    /// Space of the cluster.
    pub async fn space(&self) -> Outcome<FilesystemSpace> {
        self.fs.statfs().await.map_err(number)
    }

    /// Tells what was done last, and gives everything back.
    async fn tell_the_rest(&self) -> Outcome<()> {
        if self.is_unanswered() {
            return Err(libc::EIO);
        }
        let told = self.sync_names().await;
        if told.is_ok() {
            self.tell_reads().await;
        }
        told.and(self.give_all_back().await)
    }

    /// Commits everything and ends the session. The kernel must have let go of the mount.
    ///
    /// # Errors
    /// The first failure; everything else is tried nevertheless.
    pub async fn shut_down(self: Arc<Self>) -> Result<(), Error> {
        let _hurry = self.behind.in_a_hurry();
        let mut first = Ok(());
        let mut told = Ok(());
        for file in self.inodes.files() {
            match self.while_answered(file.inode().0, file.flush()).await {
                Ok(flushed) => first = first.and(flushed.map(drop)),
                Err(errno) => told = Err(errno),
            }
        }
        told = told.and(self.tell_the_rest().await);
        if told.is_err() {
            let message = "what was done last could not be told to the cluster";
            let failure = Failure::new(ErrorCode::OutcomeUnknown, message);
            let subject = Subject::Cluster;
            first = first.and(Err(Error::Refused { subject, failure }));
        }
        first.and(self.fs.clone().close().await)
    }
}

fn entry(parent: u64, name: &[u8]) -> Place {
    Place::entry(InodeId(parent), name)
}

/// The mode after a change of content by somebody who may not keep these bits; `None` if it has none. Set-group-id without
/// group execution meant mandatory locking once and is left alone, as Linux does.
fn without_set_ids(mode: u32) -> Option<u32> {
    let mut without = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        without &= !libc::S_ISGID;
    }
    (without != mode).then_some(without & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::without_set_ids;

    #[test]
    fn set_ids_go_but_not_the_mark_of_mandatory_locks() {
        assert_eq!(without_set_ids(0o6755), Some(0o755));
        assert_eq!(without_set_ids(0o4644), Some(0o644));
        assert_eq!(without_set_ids(0o2644), None);
        assert_eq!(without_set_ids(0o1777), None);
    }
}
