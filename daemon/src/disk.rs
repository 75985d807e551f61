//! The door to the disk: everything that a daemon stores itself goes through [`Disk`] and [`DiskFile`].
//!
//! [`RealDisk`] is `std::fs`; [`sim::SimDisk`] keeps files in memory and loses what was not synced when it crashes.
//! All calls block: run them through `daemon::blocking`.

mod error;
mod real;
pub mod sim;
pub mod watched;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::{context, raw_os_error};
pub use real::RealDisk;

/// Alignment of buffers, offsets and lengths that [`Caching::Direct`] asks for.
pub const DIRECT_ALIGNMENT: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; reads only.
    Read,
    /// Must exist; reads and writes.
    ReadWrite,
    /// Must not exist; is created.
    CreateNew,
    /// Is created if absent, kept if present.
    CreateOrOpen,
}

/// Whether a handle goes through the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Through the page cache.
    Buffered,
    /// `O_DIRECT` where the file system has it, else buffered: buffers, offsets and lengths must be multiples of 4,096.
    Direct,
}

/// One entry of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskEntry {
    /// File name without directory.
    pub name: String,
    /// Length in bytes (0 for directories).
    pub len: u64,
    /// True for directories.
    pub is_dir: bool,
}

/// Size of the file system that a path lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that an unprivileged process may still write.
    pub available_bytes: u64,
    /// Tells file systems of one machine apart: paths with the same number share their bytes. 0: not known.
    pub filesystem: u64,
}

/// Holds an exclusive advisory lock on a file until dropped.
pub trait DiskLock: Send + Sync {}

/// A file system on one disk. Paths are absolute or relative to the disk's own idea of a root; implementations never
/// follow symbolic links out of it on purpose. A directory operation is durable only after `sync_dir` of its parent.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode, caching: Caching) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates a directory and its parents; existing ones are fine.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Renames a file, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Lists a directory, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>>;
    /// Whether a file or directory exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes creations, renames and removals in this directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of a file (created if absent) or fails at once with `WouldBlock`.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
    /// Space of the file system under `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// An open file. Positional, shared by threads.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf`, growing the file as needed (a gap reads as zeros).
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// `fdatasync`: bytes and length survive power loss afterwards. After an error the file's state is unknown: never
    /// retry.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Current length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True if the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reserves space without changing the length; a hint, may do nothing.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Tells the page cache that this range will not be needed soon; a hint.
    fn drop_cache(&self, offset: u64, len: u64) -> io::Result<()>;
    /// The path it was opened under, for messages.
    fn path(&self) -> PathBuf;
}

/// Reads a whole file; fails with `InvalidData` if it is longer than `limit` bytes.
pub fn read_file(disk: &dyn Disk, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read, Caching::Buffered)?;
    let len = file.len()?;
    let too_long = || {
        let text = format!("file has {len} bytes, at most {limit} are allowed");
        context("read", path)(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    if len > limit {
        return Err(too_long());
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| too_long())?];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Creates a directory and its missing parents so that all of them survive power loss.
///
/// The deepest one that exists is synced, too: it may stem from a try that was killed before its sync.
pub fn create_dir_all_synced(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for dir in path.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
        if disk.exists(dir)? {
            match disk.sync_dir(parent_of(dir)) {
                // Then it is not ours: where we may not read, we cannot have made it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                result => result?,
            }
            break;
        }
        missing.push(dir);
    }
    // One by one from the top, so that never more than the last one is in doubt.
    for dir in missing.iter().rev() {
        disk.create_dir_all(dir)?;
        disk.sync_dir(parent_of(dir))?;
    }
    // Also refuses a file of that name.
    disk.create_dir_all(path)
}

/// The directory that holds `path`, in a form that can be opened.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// Renames a finished temporary file into place and makes that durable.
pub fn rename_synced(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    disk.rename(from, to)?;
    disk.sync_dir(parent_of(to))
}
