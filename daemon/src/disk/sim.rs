//! A disk in memory that loses what was not synced when it crashes, for tests and the simulator. Deterministic: its only
//! randomness is the generator that a crash is given.
//!
//! The rules are those that a program may rely on, and no more: bytes and length are durable after `sync_data` of the
//! file, names after `sync_dir` of the directory (a synced file under an unsynced name is lost), sectors of 512 bytes
//! are written whole but in any order, and renames are atomic. `file.rs` and `tree.rs` say what a crash may keep.
//!
//! [`SimDisk`] is the medium and outlives crashes. A simulated process works on a [`SimDisk::mount`] of it, which dies
//! with the process, so that what is left of it cannot write any more.

mod file;
mod handle;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{Rng, RngCore};

use self::handle::SimFileHandle;
use self::tree::{NodeId, Tree};
use super::{Caching, Disk, DiskEntry, DiskFile, DiskLock, OpenMode, Space, context};

/// Capacity until [`SimDisk::set_capacity`] says otherwise.
const CAPACITY_BYTES: u64 = 1 << 40;

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Mutex<State>>,
    /// The incarnation that a mount belongs to; the medium itself belongs to none and never gets stale.
    incarnation: Option<u64>,
}

struct State {
    tree: Tree,
    incarnation: u64,
    locks: BTreeMap<NodeId, u64>,
    next_lock: u64,
    capacity_bytes: u64,
    read_only: bool,
    failing_syncs: BTreeSet<String>,
    failing_reads: BTreeSet<String>,
    failing_writes: BTreeSet<String>,
    failing_opens: BTreeMap<String, i32>,
    /// Mutating calls left until the power goes.
    calls_left: Option<u64>,
}

struct SimLock {
    shared: Arc<Mutex<State>>,
    node: NodeId,
    id: u64,
}

fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn guard(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panicking test thread does not make the model inconsistent: each call checks first and changes then.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk")
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        let state = State {
            tree: Tree::new(),
            incarnation: 0,
            locks: BTreeMap::new(),
            next_lock: 0,
            capacity_bytes: CAPACITY_BYTES,
            read_only: false,
            failing_syncs: BTreeSet::new(),
            failing_reads: BTreeSet::new(),
            failing_writes: BTreeSet::new(),
            failing_opens: BTreeMap::new(),
            calls_left: None,
        };
        SimDisk {
            shared: Arc::new(Mutex::new(state)),
            incarnation: None,
        }
    }

    /// The disk as one process sees it: every call fails after the next crash or [`SimDisk::kill`].
    pub fn mount(&self) -> SimDisk {
        let incarnation = Some(guard(&self.shared).incarnation);
        SimDisk {
            shared: Arc::clone(&self.shared),
            incarnation,
        }
    }

    /// Power loss: keeps what was synced and a random part of the rest. Handles, mounts and locks are gone.
    pub fn crash(&self, rng: &mut impl Rng) {
        self.restart(|tree| tree.crash(Some(rng as &mut dyn RngCore)));
    }

    /// Power loss that keeps only what was synced.
    pub fn crash_losing_everything_unsynced(&self) {
        self.restart(|tree| tree.crash(None));
    }

    /// `kill -9`: handles, mounts and locks are gone; the page cache, and with it all data, stays.
    pub fn kill(&self) {
        self.restart(Tree::close_all);
    }

    fn restart(&self, lose: impl FnOnce(&mut Tree)) {
        let mut state = guard(&self.shared);
        lose(&mut state.tree);
        state.incarnation += 1;
        state.locks.clear();
        state.calls_left = None;
    }

    /// Lets `calls` more mutating calls (creations, writes, length changes, syncs, renames, removals) succeed; then every
    /// call fails until the next crash. With a loop over `calls` a test visits each instant at which power may go.
    pub fn stop_after(&self, calls: u64) {
        guard(&self.shared).calls_left = Some(calls);
    }

    /// Makes the next `sync_data` of handles opened under this path, or `sync_dir` of this directory, fail with `EIO`.
    /// As on Linux, later syncs succeed but do not write what the failed one was to write.
    ///
    /// # Panics
    /// If the path has `..` in it.
    pub fn fail_next_sync(&self, path: &Path) {
        guard(&self.shared).failing_syncs.insert(normal(path));
    }

    /// Makes all reads of handles opened under this path fail with `EIO`, until [`SimDisk::repair_reads`].
    ///
    /// # Panics
    /// If the path has `..` in it.
    pub fn fail_reads(&self, path: &Path) {
        guard(&self.shared).failing_reads.insert(normal(path));
    }

    /// Makes all writes, changes of length and syncs of handles opened under this path fail with `EIO`, until
    /// [`SimDisk::repair_writes`].
    ///
    /// # Panics
    /// If the path has `..` in it.
    pub fn fail_writes(&self, path: &Path) {
        guard(&self.shared).failing_writes.insert(normal(path));
    }

    /// Ends [`SimDisk::fail_writes`].
    ///
    /// # Panics
    /// If the path has `..` in it.
    pub fn repair_writes(&self, path: &Path) {
        guard(&self.shared).failing_writes.remove(&normal(path));
    }

    /// Makes this file fail to open with an error number of the system.
    ///
    /// # Panics
    /// If the path has `..` in it.
    pub fn fail_opens(&self, path: &Path, number: i32) {
        guard(&self.shared)
            .failing_opens
            .insert(normal(path), number);
    }

    /// Ends [`SimDisk::fail_reads`].
    ///
    /// # Panics
    /// If the path has `..` in it.
    pub fn repair_reads(&self, path: &Path) {
        guard(&self.shared).failing_reads.remove(&normal(path));
    }

    /// Flips the lowest bit of a byte, as bit rot does.
    pub fn flip_bit(&self, path: &Path, offset: u64) -> io::Result<()> {
        let mut state = guard(&self.shared);
        let node = state
            .tree
            .find_file(path)
            .map_err(context("flip bit in", path))?;
        let offset = usize::try_from(offset).map_err(|_| os_error(libc::EINVAL))?;
        if state.tree.file_mut(node)?.file.flip_bit(offset) {
            Ok(())
        } else {
            Err(context("flip bit in", path)(os_error(libc::EINVAL)))
        }
    }

    /// Sets how many bytes all files together may have; growing beyond fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: u64) {
        guard(&self.shared).capacity_bytes = bytes;
    }

    /// Leaves room for `bytes` more, from now on.
    pub fn set_full(&self, bytes: u64) {
        let mut state = guard(&self.shared);
        state.capacity_bytes = state.tree.used_bytes() + bytes;
    }

    /// Makes every change fail with `EROFS`, as a file system does after an error.
    pub fn set_read_only(&self, read_only: bool) {
        guard(&self.shared).read_only = read_only;
    }

    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = guard(&self.shared);
        if self
            .incarnation
            .is_some_and(|incarnation| incarnation != state.incarnation)
        {
            return Err(os_error(libc::ESTALE));
        }
        state.expect_power()?;
        Ok(state)
    }
}

/// Whether a path is one of these, or lies below one.
fn is_under(paths: &BTreeSet<String>, path: &str) -> bool {
    let below = |above: &String| {
        path.strip_prefix(above.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    paths.iter().any(below)
}

/// For the fault switches, which are called by tests only.
fn normal(path: &Path) -> String {
    Tree::normal(path).expect("paths of a simulated disk have no `..` and are UTF-8")
}

impl State {
    fn expect_power(&self) -> io::Result<()> {
        if self.calls_left == Some(0) {
            return Err(io::Error::other("the simulated machine has lost power"));
        }
        Ok(())
    }

    /// To be called once by each mutating operation, before it changes anything.
    fn begin_change(&mut self) -> io::Result<()> {
        self.expect_power()?;
        if let Some(left) = &mut self.calls_left {
            *left -= 1;
        }
        if self.read_only {
            return Err(os_error(libc::EROFS));
        }
        Ok(())
    }

    fn expect_room(&self, more: u64) -> io::Result<()> {
        if more > 0 && self.tree.used_bytes().saturating_add(more) > self.capacity_bytes {
            return Err(os_error(libc::ENOSPC));
        }
        Ok(())
    }

    fn open_or_create(&mut self, path: &Path, mode: OpenMode) -> io::Result<NodeId> {
        if let Some(number) = self.failing_opens.get(&Tree::normal(path)?) {
            return Err(os_error(*number));
        }
        let exists = self.tree.exists(path)?;
        match mode {
            OpenMode::CreateNew => self.create(path),
            OpenMode::CreateOrOpen if !exists => self.create(path),
            OpenMode::ReadWrite | OpenMode::CreateOrOpen if self.read_only => {
                Err(os_error(libc::EROFS))
            }
            OpenMode::Read | OpenMode::ReadWrite | OpenMode::CreateOrOpen => {
                self.tree.find_file(path)
            }
        }
    }

    fn create(&mut self, path: &Path) -> io::Result<NodeId> {
        self.begin_change()?;
        self.tree.create_file(path)
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode, caching: Caching) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state().map_err(context("open", path))?;
        let node = state
            .open_or_create(path, mode)
            .map_err(context("open", path))?;
        state.tree.file_mut(node)?.handle_count += 1;
        Ok(Arc::new(SimFileHandle {
            shared: Arc::clone(&self.shared),
            incarnation: state.incarnation,
            node,
            path: path.to_path_buf(),
            normal: Tree::normal(path)?,
            writable: mode != OpenMode::Read,
            direct: caching == Caching::Direct,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let change = || {
            let mut state = self.state()?;
            if state.tree.exists(path)? {
                // Nothing changes, so nothing is counted; this still refuses files.
                return state.tree.create_dir_all(path);
            }
            state.begin_change()?;
            state.tree.create_dir_all(path)
        };
        change().map_err(context("create directory", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let change = || {
            let mut state = self.state()?;
            state.begin_change()?;
            state.tree.rename(from, to)
        };
        change()
            .map_err(context("rename to", to))
            .map_err(context("rename", from))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let change = || {
            let mut state = self.state()?;
            state.begin_change()?;
            state.tree.remove_file(path)
        };
        change().map_err(context("remove", path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        let listing = self.state().and_then(|state| state.tree.list(path));
        let listing = listing.map_err(context("list", path))?;
        Ok(listing
            .into_iter()
            .map(|(name, len)| DiskEntry {
                name,
                len: len.unwrap_or(0),
                is_dir: len.is_none(),
            })
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.state()
            .and_then(|state| state.tree.exists(path))
            .map_err(context("stat", path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let change = || {
            let mut state = self.state()?;
            state.begin_change()?;
            if state.failing_syncs.remove(&Tree::normal(path)?) {
                return Err(os_error(libc::EIO));
            }
            state.tree.sync_dir(path)
        };
        change().map_err(context("sync directory", path))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let take = || {
            let mut state = self.state()?;
            let node = state.open_or_create(path, OpenMode::CreateOrOpen)?;
            if state.locks.contains_key(&node) {
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "held by another process",
                ));
            }
            let id = state.next_lock;
            state.next_lock += 1;
            state.locks.insert(node, id);
            let lock = SimLock {
                shared: Arc::clone(&self.shared),
                node,
                id,
            };
            Ok(Box::new(lock) as Box<dyn DiskLock>)
        };
        take().map_err(context("lock", path))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let space = || {
            let state = self.state()?;
            state.tree.find(path)?;
            let used = state.tree.used_bytes();
            Ok(Space {
                total_bytes: state.capacity_bytes,
                available_bytes: state.capacity_bytes.saturating_sub(used),
                filesystem: 1,
            })
        };
        space().map_err(context("statvfs", path))
    }
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = guard(&self.shared);
        // After a crash somebody else may hold it.
        if state.locks.get(&self.node) == Some(&self.id) {
            state.locks.remove(&self.node);
        }
    }
}
