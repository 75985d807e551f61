//! Locks of programs, held by this mount's session for the kernel's owners: a process, or an open file.
//!
//! Who gets a lock sees what the holder before wrote: unlocking commits first, and a grant makes this mount and its kernel forget what
//! may be older. Closing lets go, whatever the program did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cairn_client::LockRequest;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::lock::{LockHolder, LockMode, LockSpace};
use tokio_util::sync::CancellationToken;

use super::{MountedFs, Outcome, number};
use crate::process::Thread;

/// Versions that are remembered of files that were locked.
const VERSIONS_MAX: usize = 65_536;

/// What is known of locks in this mount.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    state: Mutex<State>,
    /// The kernel has let go of the mount: nobody waits any more.
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// Owners that may hold something.
    owners: BTreeMap<u64, BTreeSet<(LockSpace, u64)>>,
    /// Version of each file when the kernel last forgot its pages for a lock.
    versions: BTreeMap<u64, u64>,
}

/// A lock as a program asks for it. Offsets are the kernel's: the last byte is included.
#[derive(Clone, Copy, Debug)]
pub struct LockCall {
    /// File.
    pub inode: u64,
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
            end: if self.reaches_to_the_end() { u64::MAX } else { self.end },
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
        let posix = owners.contains(&(LockSpace::Posix, owner));
        let flock = owners.contains(&(LockSpace::Flock, owner));
        match (posix, flock) {
            (true, false) => Some(LockSpace::Posix),
            (false, true) => Some(LockSpace::Flock),
            _ => None,
        }
    }

    fn note(&self, inode: u64, space: LockSpace, owner: u64) {
        let mut state = self.lock();
        state.owners.entry(inode).or_default().insert((space, owner));
    }

    /// Forgets an owner; true if it may hold something.
    fn take(&self, inode: u64, space: LockSpace, owner: u64) -> bool {
        let mut state = self.lock();
        let Some(owners) = state.owners.get_mut(&inode) else {
            return false;
        };
        let taken = owners.remove(&(space, owner));
        if owners.is_empty() {
            state.owners.remove(&inode);
        }
        taken
    }

    fn take_all(&self, inode: u64) -> BTreeSet<(LockSpace, u64)> {
        self.lock().owners.remove(&inode).unwrap_or_default()
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
            // An owner is a process or an open file, so that what closes it lets go in any case.
            None => LockSpace::Posix,
        }
    }

    /// Locks or unlocks; `waits` as long as it takes, until the thread gets a signal.
    pub async fn set_lock(&self, call: LockCall, thread: Thread, waits: bool) -> Outcome<()> {
        let space = self.lock_space(&call, thread).await;
        let (inode, request) = (InodeId(call.inode), call.request(space));
        if call.mode == LockMode::Unlocked {
            // Who locks it next sees what was written under this lock.
            let flushed = self.flush(call.inode).await;
            let unlocked = self.fs.unlock(inode, request).await.map_err(number);
            return flushed.and(unlocked);
        }
        // Before it is granted, so that whoever closes the file meanwhile lets go of it.
        self.locks.note(call.inode, space, call.owner);
        if waits {
            tokio::select! {
                biased;
                () = self.locks.ended.cancelled() => return Err(libc::EINTR),
                locked = self.fs.lock(inode, request) => locked.map_err(number)?,
                () = thread.signalled() => return Err(libc::EINTR),
            }
        } else if self.fs.try_lock(inode, request).await.map_err(number)?.is_some() {
            return Err(libc::EAGAIN);
        }
        self.see_newest(call.inode).await
    }

    /// A lock was granted: nothing that is older is read under it.
    async fn see_newest(&self, inode: u64) -> Outcome<()> {
        let attributes = self.ask(InodeId(inode).into()).await?;
        if self.locks.is_new(inode, attributes.version) {
            self.caches.forget_pages(inode, 0).await;
            self.locks.forgot(inode, attributes.version);
        }
        Ok(())
    }

    /// A lock that is in the way of this one, if any is. Its process is told if it is one of this mount's.
    pub async fn get_lock(&self, call: LockCall) -> Outcome<Option<LockHolder>> {
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

    async fn release_owner(&self, inode: u64, space: LockSpace, owner: u64) {
        let released = self.fs.release_owner(InodeId(inode), space, owner).await;
        if let Err(error) = released {
            tracing::warn!(inode, %error, "locks are not released before the session ends");
        }
    }

    /// A process closes a descriptor: what it wrote is committed, and its `fcntl` locks on the file go, as POSIX wants it.
    pub async fn flush_for(&self, inode: u64, owner: u64) -> Outcome<()> {
        let flushed = self.flush(inode).await;
        if self.locks.take(inode, LockSpace::Posix, owner) {
            self.release_owner(inode, LockSpace::Posix, owner).await;
        }
        flushed
    }

    /// An open file is closed for good; `flock` names its owner if it was locked so.
    pub async fn release_for(&self, inode: u64, flock: Option<u64>) -> Outcome<()> {
        let flushed = match flock {
            Some(owner) if self.locks.take(inode, LockSpace::Flock, owner) => {
                let flushed = self.flush(inode).await;
                self.release_owner(inode, LockSpace::Flock, owner).await;
                flushed
            }
            Some(_) | None => Ok(()),
        };
        let released = self.release(inode).await;
        if self.inodes.file(inode).is_none() {
            // Locks that belong to open files and not to processes (`F_OFD_SETLK`) are told by nothing else.
            for (space, owner) in self.locks.take_all(inode) {
                self.release_owner(inode, space, owner).await;
            }
        }
        flushed.and(released)
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
