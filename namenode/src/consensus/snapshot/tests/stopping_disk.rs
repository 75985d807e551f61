//! The real disk, until so many changes were made on it: then everything fails, as nothing happens any more when a process has ended.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_daemon::disk::{Caching, Disk, DiskEntry, DiskFile, DiskLock, OpenMode, RealDisk, Space};

/// Counts what is left.
#[derive(Clone)]
pub(super) struct StoppingDisk {
    left: Arc<AtomicU64>,
}

struct File {
    disk: StoppingDisk,
    file: Arc<dyn DiskFile>,
}

impl StoppingDisk {
    pub(super) fn new() -> Self {
        let left = Arc::new(AtomicU64::new(u64::MAX));
        Self { left }
    }

    pub(super) fn stop_after(&self, changes: u64) {
        self.left.store(changes, Ordering::SeqCst);
    }

    fn change(&self) -> io::Result<()> {
        let one_less = |left: u64| left.checked_sub(1);
        let counted = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        counted
            .map(|_| ())
            .map_err(|_| io::Error::other("the process has ended"))
    }
}

impl Disk for StoppingDisk {
    fn open(&self, path: &Path, mode: OpenMode, caching: Caching) -> io::Result<Arc<dyn DiskFile>> {
        self.change()?;
        let file = RealDisk.open(path, mode, caching)?;
        let disk = self.clone();
        Ok(Arc::new(File { disk, file }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.remove_file(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        RealDisk.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        RealDisk.lock(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        RealDisk.space(path)
    }
}

impl DiskFile for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.disk.change()?;
        self.file.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.change()?;
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.reserve(offset, len)
    }

    fn drop_cache(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.drop_cache(offset, len)
    }

    fn path(&self) -> PathBuf {
        self.file.path()
    }
}
