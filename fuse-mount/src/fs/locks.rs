//! Locks of programs, held by this mount's session for the kernel's owners: a process, or an open file.
//!
//! Who gets a lock sees what the holder before wrote: unlocking commits first, and a grant makes this mount and its kernel forget what
//! may be older. Closing lets go, whatever the program did: a descriptor of a process ends the process's `fcntl` locks on the file,
//! an open file ends what belongs to it alone (`flock`, `F_OFD_SETLK`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_client::{LockRequest, OpenFile};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::lock::{LockHolder, LockMode, LockSpace};
use tokio_util::sync::CancellationToken;

use super::{MountedFs, Outcome, number};
use crate::process::Thread;

/// Versions that are remembered of files that were locked.
const VERSIONS_MAX: usize = 65_536;

/// One who locks: the kernel's number for a process or an open file.
type Owner = (LockSpace, u64);

/// What is known of locks in this mount.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    state: Mutex<State>,
    /// The kernel has let go of the mount: nobody waits any more.
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// Owners that may hold something, by file, with the open file through which they asked last.
    owners: BTreeMap<u64, BTreeMap<Owner, u64>>,
    /// Owners that are gone and are not released yet, by file.
    left: BTreeSet<(u64, Owner)>,
    /// Held by whoever is granted locks for an owner or releases all of them, and never while somebody waits for a lock of others;
    /// here while anybody has one. So what an owner left is released before it is granted anything anew, and not after.
    turns: BTreeMap<(u64, Owner), Arc<tokio::sync::Mutex<()>>>,
    /// Version of each file when the kernel last forgot its pages for a lock.
    versions: BTreeMap<u64, u64>,
}

/// A lock as a program asks for it. Offsets are the kernel's: the last byte is included.
#[derive(Clone, Copy, Debug)]
pub struct LockCall {
    /// File.
    pub inode: u64,
    /// The open file that it is asked through.
    pub handle: u64,
    /// The kernel's owner.
    pub owner: u64,
    /// What is wished for.
    pub mode: LockMode,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// Process, for people.
    pub pid: u32,
}

impl LockCall {
    /// The largest offset means the end of the file, wherever that will be.
    fn reaches_to_the_end(&self) -> bool {
        self.end >= i64::MAX as u64
    }

    fn request(&self, space: LockSpace) -> LockRequest {
        LockRequest {
            space,
            owner: self.owner,
            write: self.mode == LockMode::Write,
            start: self.start,
            end: if self.reaches_to_the_end() {
                u64::MAX
            } else {
                self.end
            },
            pid: self.pid,
        }
    }
}

impl Locks {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An owner that locked this file in one way locks it so again.
    fn known_space(&self, inode: u64, owner: u64) -> Option<LockSpace> {
        let state = self.lock();
        let owners = state.owners.get(&inode)?;
        let posix = owners.contains_key(&(LockSpace::Posix, owner));
        let flock = owners.contains_key(&(LockSpace::Flock, owner));
        match (posix, flock) {
            (true, false) => Some(LockSpace::Posix),
            (false, true) => Some(LockSpace::Flock),
            _ => None,
        }
    }

    fn note(&self, call: &LockCall, space: LockSpace) {
        let mut state = self.lock();
        let owners = state.owners.entry(call.inode).or_default();
        owners.insert((space, call.owner), call.handle);
    }

    /// Some owners of a file are gone: nothing of what they hold stays. Returns them.
    fn leave(&self, inode: u64, goes: impl Fn(Owner, u64) -> bool) -> Vec<Owner> {
        let mut state = self.lock();
        let Some(owners) = state.owners.get_mut(&inode) else {
            return Vec::new();
        };
        let gone: Vec<Owner> = owners
            .extract_if(.., |owner, handle| goes(*owner, *handle))
            .map(|(owner, _)| owner)
            .collect();
        if owners.is_empty() {
            state.owners.remove(&inode);
        }
        // All of them before any is released: that may take long, and they may lock again meanwhile.
        state.left.extend(gone.iter().map(|&owner| (inode, owner)));
        gone
    }

    fn is_left(&self, inode: u64, owner: Owner) -> bool {
        self.lock().left.contains(&(inode, owner))
    }

    fn left(&self) -> BTreeSet<(u64, Owner)> {
        self.lock().left.clone()
    }

    fn released(&self, inode: u64, owner: Owner) {
        self.lock().left.remove(&(inode, owner));
    }

    fn turn(&self, inode: u64, owner: Owner) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = self.lock();
        state.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        state.turns.entry((inode, owner)).or_default().clone()
    }

    /// True if the kernel may have pages from before this version.
    fn is_new(&self, inode: u64, version: u64) -> bool {
        self.lock().versions.get(&inode) != Some(&version)
    }

    fn forgot(&self, inode: u64, version: u64) {
        let mut state = self.lock();
        if state.versions.len() >= VERSIONS_MAX {
            state.versions.clear();
        }
        state.versions.insert(inode, version);
    }

    /// Ends every wait.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }
}

impl MountedFs {
    /// Which kind of lock a program asks for. The requests are the same; what tells them apart is the range, and else the system
    /// call that the program is in.
    async fn lock_space(&self, call: &LockCall, thread: Thread) -> LockSpace {
        if call.start > 0 || !call.reaches_to_the_end() {
            return LockSpace::Posix;
        }
        if let Some(known) = self.locks.known_space(call.inode, call.owner) {
            return known;
        }
        match thread.is_in_flock().await {
            Some(true) => LockSpace::Flock,
            Some(false) => LockSpace::Posix,
            // Closing lets go of it in either case.
            None => LockSpace::Posix,
        }
    }

    /// Locks or unlocks; `waits` as long as it takes, until the thread gets a signal.
    pub async fn set_lock(&self, call: LockCall, thread: Thread, waits: bool) -> Outcome<()> {
        self.let_common(call.inode).await?;
        let space = self.lock_space(&call, thread).await;
        let (inode, request) = (InodeId(call.inode), call.request(space));
        if call.mode == LockMode::Unlocked {
            // Who locks it next sees what was written under this lock, and nothing of it comes later.
            self.flush_wholly(call.inode).await?;
            return self.fs.unlock(inode, request).await.map_err(number);
        }
        if waits {
            tokio::select! {
                biased;
                () = self.locks.ended.cancelled() => return Err(libc::EINTR),
                locked = self.wait_for_grant(&call, request) => locked?,
                () = thread.signalled() => return Err(libc::EINTR),
            }
        } else if !self.grant(&call, request).await? {
            return Err(libc::EAGAIN);
        }
        if self.see_newest(call.inode).await.is_err() {
            // The lock is held, so this must not fail: everything known of the file is asked for again instead.
            self.inodes.invalidate(call.inode);
            self.caches.forget_pages(call.inode, 0).await;
        }
        Ok(())
    }

    /// Locks if nothing forbids it; false if something does. Cancel-safe.
    async fn grant(&self, call: &LockCall, request: LockRequest) -> Outcome<bool> {
        let owner = (request.space, call.owner);
        let turn = self.locks.turn(call.inode, owner);
        let _turn = turn.lock().await;
        // What it had before it closed the file goes first.
        self.release_in_turn(call.inode, owner).await?;
        // Before it is granted, so that whoever closes the file meanwhile lets go of it.
        self.locks.note(call, request.space);
        let conflict = self.fs.try_lock(InodeId(call.inode), request).await;
        Ok(conflict.map_err(number)?.is_none())
    }

    /// Locks as soon as nothing forbids it. Cancel-safe.
    async fn wait_for_grant(&self, call: &LockCall, request: LockRequest) -> Outcome<()> {
        let mut place = 0;
        while !self.grant(call, request).await? {
            let waited = self
                .fs
                .wait_for_lock(InodeId(call.inode), &request, place)
                .await;
            place = waited.map_err(number)?;
        }
        Ok(())
    }

    /// A lock was granted: nothing that is older is read under it, here or anywhere else.
    async fn see_newest(&self, inode: u64) -> Outcome<()> {
        let attributes = self.ask(InodeId(inode).into()).await?;
        self.hear_changes().await;
        if self.locks.is_new(inode, attributes.version) {
            self.caches.forget_pages(inode, 0).await;
            self.locks.forgot(inode, attributes.version);
        }
        Ok(())
    }

    /// A lock that is in the way of this one, if any is. Its process is told if it is one of this mount's.
    pub async fn get_lock(&self, call: LockCall) -> Outcome<Option<LockHolder>> {
        self.let_common(call.inode).await?;
        let request = call.request(LockSpace::Posix);
        let found = self.fs.test_lock(InodeId(call.inode), request).await;
        let mut found = found.map_err(number)?;
        if let Some(holder) = &mut found {
            if self.locks.known_space(call.inode, holder.owner).is_none() {
                holder.pid = 0;
            }
            holder.end = holder.end.min(i64::MAX as u64);
        }
        Ok(found)
    }

    /// Commits what was written. Fails only if there are bytes left that may be committed later.
    async fn flush_wholly(&self, inode: u64) -> Outcome<()> {
        let flushed = self.flush(inode).await;
        let left = |file: OpenFile| file.is_dirty();
        match flushed {
            Err(errno) if self.inodes.file(inode).is_some_and(left) => Err(errno),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Lets go of what an owner held that is gone, and not before what it has written can no more arrive. Does nothing if that
    /// is done by now: it may hold something new. Cancel-safe.
    async fn release_owner(&self, inode: u64, owner: Owner) -> Outcome<()> {
        let turn = self.locks.turn(inode, owner);
        let _turn = turn.lock().await;
        self.release_in_turn(inode, owner).await
    }

    async fn release_in_turn(&self, inode: u64, owner: Owner) -> Outcome<()> {
        if !self.locks.is_left(inode, owner) {
            return Ok(());
        }
        self.flush_wholly(inode).await?;
        let (space, number_of_owner) = owner;
        let released = self
            .fs
            .release_owner(InodeId(inode), space, number_of_owner)
            .await;
        released.map_err(number)?;
        self.locks.released(inode, owner);
        Ok(())
    }

    /// The keeper tries again what does not work: without it nobody could write the file for as long as this mount lives.
    async fn release_owners(&self, inode: u64, owners: Vec<Owner>) {
        for owner in owners {
            if let Err(errno) = self.release_owner(inode, owner).await {
                tracing::warn!(inode, errno, "locks are not released yet");
            }
        }
    }

    /// Tries again to release the locks of those who are gone.
    pub(super) async fn release_left_locks(&self) {
        for (inode, owner) in self.locks.left() {
            let _ = self.release_owner(inode, owner).await;
        }
    }

    /// A process closes a descriptor: what it wrote is committed, and its `fcntl` locks on the file go, as POSIX wants it.
    ///
    /// What was written to an own file is stored soon: until then nobody else can look for it.
    pub async fn flush_for(&self, inode: u64, handle: u64, owner: u64) -> Outcome<()> {
        if self.store_soon(inode) {
            return Ok(());
        }
        let flushed = self.flush_as(inode, handle).await;
        let gone = (LockSpace::Posix, owner);
        let owners = self.locks.leave(inode, |owner, _| owner == gone);
        self.release_owners(inode, owners).await;
        flushed
    }

    /// An open file is closed for good, and what was locked through it and is not unlocked yet goes.
    pub async fn release_for(&self, inode: u64, handle: u64) -> Outcome<()> {
        if self.store_soon(inode) {
            self.inodes.close_as(handle);
            self.let_close(inode).await;
            return Ok(());
        }
        let owners = self.locks.leave(inode, |_, through| through == handle);
        self.release_owners(inode, owners).await;
        let flushed = self.flush_as(inode, handle).await;
        self.inodes.close_as(handle);
        self.let_close(inode).await;
        flushed
    }

    /// Fails if locks on the file were lost: nothing is read or written under them any more.
    pub(super) fn check_locks(&self, inode: u64) -> Outcome<()> {
        self.fs.check_locks(InodeId(inode)).map_err(number)
    }

    /// Ends the waits of programs that are gone with the kernel's mount.
    pub fn stop_waiting(&self) {
        self.locks.end();
    }
}
