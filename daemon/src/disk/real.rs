//! The disk door over the real file system. Every error names the file.
//!
//! `O_DIRECT` is switched on after the file was opened: an `open` with it that a file system refuses may already have
//! created the file, and a second try with `CreateNew` would then fail.
//!
//! What is made here is for the process's own user alone: logs and databases hold the cluster's secrets, and chunks hold what
//! the modes of files in the cluster keep from others.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, OFlags};

use super::context;
use super::{Caching, DIRECT_ALIGNMENT, Disk, DiskEntry, DiskFile, DiskLock, OpenMode, Space};

/// The process's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// A lock file goes when who made it for nothing ends: that happens a few times in a row at most.
const LOCK_ATTEMPTS: u32 = 16;

struct RealFile {
    file: File,
    path: PathBuf,
    direct: bool,
}

/// The kernel drops the `flock` when the file closes, also when the process is killed.
struct RealLock {
    _file: File,
}

impl DiskLock for RealLock {}

fn set_direct(file: &File) -> io::Result<bool> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    match rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode, caching: Caching) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
            OpenMode::CreateOrOpen => {
                options.write(true).create(true);
            }
        }
        let file = options.open(path).map_err(context("open", path))?;
        let direct = match caching {
            Caching::Buffered => false,
            Caching::Direct => set_direct(&file).map_err(context("set O_DIRECT on", path))?,
        };
        Ok(Arc::new(RealFile {
            file,
            path: path.to_path_buf(),
            direct,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE);
        let made = builder.create(path);
        made.map_err(context("create directory", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
            .map_err(context("rename to", to))
            .map_err(context("rename", from))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(context("remove", path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        let listing = fs::read_dir(path).map_err(context("list", path))?;
        let mut entries = Vec::new();
        for entry in listing {
            let entry = entry.map_err(context("list", path))?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(context("stat", &entry.path())(error)),
            };
            let is_dir = metadata.is_dir();
            entries.push(DiskEntry {
                // We write ASCII names only; a foreign name need only be shown, never opened.
                name: entry.file_name().to_string_lossy().into_owned(),
                len: if is_dir { 0 } else { metadata.len() },
                is_dir,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path).map_err(context("stat", path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let dir = File::open(path).map_err(context("open directory", path))?;
        dir.sync_all().map_err(context("sync directory", path))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.mode(FILE_MODE);
        for _ in 0..LOCK_ATTEMPTS {
            let file = options.open(path).map_err(context("open", path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let error = "held by another process";
                    let error = io::Error::new(io::ErrorKind::WouldBlock, error);
                    return Err(context("lock", path)(error));
                }
                Err(TryLockError::Error(error)) => return Err(context("lock", path)(error)),
            }
            let locked = file.metadata().map_err(context("stat", path))?;
            let which = |file: &Metadata| (file.dev(), file.ino());
            match fs::metadata(path) {
                Ok(named) if which(&named) == which(&locked) => {
                    return Ok(Box::new(RealLock { _file: file }));
                }
                // Whoever held it has removed the file before we locked it: the next one would lock another.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(context("stat", path)(error)),
            }
        }
        let error = format!(
            "it was removed or replaced {LOCK_ATTEMPTS} times while it was being locked; see which program does that"
        );
        let error = io::Error::new(io::ErrorKind::ResourceBusy, error);
        Err(context("lock", path)(error))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)
            .map_err(io::Error::from)
            .map_err(context("statvfs", path))?;
        Ok(Space {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            filesystem: filesystem(path, stat.f_fsid),
        })
    }
}

/// The file system's own id, or else the number of its device. Some file systems have no id, and some mounts of one have devices of
/// their own.
fn filesystem(path: &Path, id: u64) -> u64 {
    match id {
        0 => std::fs::metadata(path).map_or(0, |metadata| metadata.dev()),
        id => id,
    }
}

impl RealFile {
    fn check_aligned(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if self.direct {
            check_aligned(buf, offset)
        } else {
            Ok(())
        }
    }
}

/// The kernel's own answer to a misaligned buffer is a bare `EINVAL`, and some file systems accept less than 4,096.
pub(super) fn check_aligned(buf: &[u8], offset: u64) -> io::Result<()> {
    let address = buf.as_ptr().addr();
    let alignment = DIRECT_ALIGNMENT;
    if address.is_multiple_of(alignment)
        && buf.len().is_multiple_of(alignment)
        && offset.is_multiple_of(alignment as u64)
    {
        return Ok(());
    }
    let text = format!("direct I/O needs buffer, offset and length aligned to {alignment} bytes");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.check_aligned(buf, offset)
            .map_err(context("read", &self.path))?;
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(context("read", &self.path)(error)),
            }
            // A direct read stops inside a block only at the end of the file, and cannot go on from there.
            if self.direct && !done.is_multiple_of(DIRECT_ALIGNMENT) {
                break;
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check_aligned(buf, offset)
            .map_err(context("write", &self.path))?;
        self.file
            .write_all_at(buf, offset)
            .map_err(context("write", &self.path))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().map_err(context("sync", &self.path))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file
            .set_len(len)
            .map_err(context("set length of", &self.path))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self
            .file
            .metadata()
            .map_err(context("stat", &self.path))?
            .len())
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::io::Errno;
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(context("reserve space for", &self.path)(error.into())),
        }
    }

    fn drop_cache(&self, offset: u64, len: u64) -> io::Result<()> {
        // Without a length the call would mean "to the end of the file".
        let Some(len) = NonZeroU64::new(len) else {
            return Ok(());
        };
        rustix::fs::fadvise(&self.file, offset, Some(len), Advice::DontNeed)
            .map_err(|error| context("drop cache of", &self.path)(error.into()))
    }

    fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::read_file;

    /// A part of a larger vector that starts where direct I/O wants it.
    fn aligned(bytes: &mut Vec<u8>, len: usize) -> &mut [u8] {
        bytes.resize(len + DIRECT_ALIGNMENT, 7);
        let start = bytes.as_ptr().align_offset(DIRECT_ALIGNMENT);
        &mut bytes[start..start + len]
    }

    #[test]
    fn direct_and_buffered_handles_see_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let direct = RealDisk
            .open(&path, OpenMode::CreateNew, Caching::Direct)
            .unwrap();
        direct.reserve(0, 1 << 20).unwrap();
        assert_eq!(direct.len().unwrap(), 0);
        direct
            .write_all_at(aligned(&mut Vec::new(), 8192), 0)
            .unwrap();
        let buffered = RealDisk
            .open(&path, OpenMode::ReadWrite, Caching::Buffered)
            .unwrap();
        buffered.write_all_at(b"tail", 8192).unwrap();
        buffered.sync_data().unwrap();
        buffered.drop_cache(0, 8192).unwrap();
        let mut bytes = Vec::new();
        let buf = aligned(&mut bytes, 16384);
        assert_eq!(direct.read_at(buf, 0).unwrap(), 8196);
        assert_eq!(&buf[8190..8196], b"\x07\x07tail");
        assert_eq!(direct.read_at(buf, 16384).unwrap(), 0);
        assert_eq!(read_file(&RealDisk, &path, 8196).unwrap().len(), 8196);
        let error = read_file(&RealDisk, &path, 8195).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_made_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, deep) = (dir.path().join("a"), dir.path().join("a/b"));
        RealDisk.create_dir_all(&deep).unwrap();
        let (file, lock) = (deep.join("file"), deep.join("LOCK"));
        let opened = RealDisk.open(&file, OpenMode::CreateOrOpen, Caching::Buffered);
        let _held = (opened.unwrap(), RealDisk.lock(&lock).unwrap());
        for path in [folder, deep, file, lock] {
            let mode = fs::metadata(&path).unwrap().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent");
        let Err(error) = RealDisk.open(&path, OpenMode::Read, Caching::Direct) else {
            panic!("opened a file that is not there")
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains(path.to_str().unwrap()));
    }

    #[test]
    fn a_lock_excludes_a_second_one_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = RealDisk.lock(&path).unwrap();
        let Err(error) = RealDisk.lock(&path) else {
            panic!("locked twice")
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        RealDisk.lock(&path).unwrap();
    }

    #[test]
    fn a_file_system_that_counts_no_links_has_locks() {
        use std::os::fd::AsRawFd;
        let file = tempfile::tempfile().unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        assert_eq!(fs::metadata(&path).unwrap().nlink(), 0);
        let _held = RealDisk.lock(&path).unwrap();
    }

    #[test]
    fn space_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let space = RealDisk.space(dir.path()).unwrap();
        assert!(space.available_bytes <= space.total_bytes && space.total_bytes > 0);
        let below = dir.path().join("below");
        std::fs::create_dir(&below).unwrap();
        assert_ne!(space.filesystem, 0);
        assert_eq!(RealDisk.space(&below).unwrap().filesystem, space.filesystem);
        std::fs::remove_dir(&below).unwrap();
        let nested = dir.path().join("x/y");
        crate::disk::create_dir_all_synced(&RealDisk, &nested).unwrap();
        RealDisk.sync_dir(&nested).unwrap();
        let entries = RealDisk.list(&dir.path().join("x")).unwrap();
        assert_eq!(
            entries,
            [DiskEntry {
                name: "y".to_owned(),
                len: 0,
                is_dir: true
            }]
        );
    }
}
