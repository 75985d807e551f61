//! A disk whose calls somebody watches: to notice those that do not return, and, in tests, to hold them up or to end them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Caching, Disk, DiskEntry, DiskFile, DiskLock, OpenMode, Space};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Looks.
    Read,
    /// Changes what is on the disk, or makes a change durable.
    Change,
}

/// Is told of every call.
pub trait Watcher: Send + Sync + 'static {
    /// Dropped when the call returns.
    type UnderWay;

    /// A call is about to be made. It is not made, and fails, if this fails; it waits while this does not return.
    fn begin(&self, path: &Path, access: Access) -> io::Result<Self::UnderWay>;
}

/// Another disk, watched.
pub struct WatchedDisk<W> {
    disk: Arc<dyn Disk>,
    watcher: Arc<W>,
}

struct WatchedFile<W> {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    watcher: Arc<W>,
}

impl<W: Watcher> WatchedDisk<W> {
    /// Watches this disk.
    pub fn new(disk: Arc<dyn Disk>, watcher: Arc<W>) -> Self {
        Self { disk, watcher }
    }

    fn read(&self, path: &Path) -> io::Result<W::UnderWay> {
        self.watcher.begin(path, Access::Read)
    }

    fn change(&self, path: &Path) -> io::Result<W::UnderWay> {
        self.watcher.begin(path, Access::Change)
    }
}

impl<W: Watcher> Disk for WatchedDisk<W> {
    fn open(&self, path: &Path, mode: OpenMode, caching: Caching) -> io::Result<Arc<dyn DiskFile>> {
        let _under_way = match mode {
            OpenMode::Read | OpenMode::ReadWrite => self.read(path)?,
            OpenMode::CreateNew | OpenMode::CreateOrOpen => self.change(path)?,
        };
        Ok(Arc::new(WatchedFile {
            file: self.disk.open(path, mode, caching)?,
            path: path.to_path_buf(),
            watcher: Arc::clone(&self.watcher),
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let _under_way = self.change(path)?;
        self.disk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _under_way = self.change(from)?;
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let _under_way = self.change(path)?;
        self.disk.remove_file(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        let _under_way = self.read(path)?;
        self.disk.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let _under_way = self.read(path)?;
        self.disk.exists(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let _under_way = self.change(path)?;
        self.disk.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let _under_way = self.change(path)?;
        self.disk.lock(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let _under_way = self.read(path)?;
        self.disk.space(path)
    }
}

impl<W: Watcher> WatchedFile<W> {
    fn read(&self) -> io::Result<W::UnderWay> {
        self.watcher.begin(&self.path, Access::Read)
    }

    fn change(&self) -> io::Result<W::UnderWay> {
        self.watcher.begin(&self.path, Access::Change)
    }
}

impl<W: Watcher> DiskFile for WatchedFile<W> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let _under_way = self.read()?;
        self.file.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let _under_way = self.change()?;
        self.file.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let _under_way = self.change()?;
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _under_way = self.change()?;
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        let _under_way = self.read()?;
        self.file.len()
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        let _under_way = self.change()?;
        self.file.reserve(offset, len)
    }

    fn drop_cache(&self, offset: u64, len: u64) -> io::Result<()> {
        let _under_way = self.read()?;
        self.file.drop_cache(offset, len)
    }

    fn path(&self) -> PathBuf {
        self.file.path()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::disk::sim::SimDisk;

    /// Writes down what is called, and refuses changes of one file.
    #[derive(Default)]
    struct Notes(Mutex<Vec<(PathBuf, Access)>>);

    impl Watcher for Notes {
        type UnderWay = ();

        fn begin(&self, path: &Path, access: Access) -> io::Result<()> {
            self.0.lock().unwrap().push((path.to_path_buf(), access));
            if path.ends_with("refused") && access == Access::Change {
                return Err(io::Error::other("refused"));
            }
            Ok(())
        }
    }

    #[test]
    fn every_call_is_told_and_may_be_refused() {
        let notes = Arc::new(Notes::default());
        let disk = WatchedDisk::new(Arc::new(SimDisk::new()), Arc::clone(&notes));
        let path = Path::new("/file");
        let file = disk
            .open(path, OpenMode::CreateNew, Caching::Buffered)
            .unwrap();
        file.write_all_at(b"bytes", 0).unwrap();
        assert_eq!(file.len().unwrap(), 5);
        let told = [Access::Change, Access::Change, Access::Read];
        let told: Vec<_> = told.map(|access| (path.to_path_buf(), access)).into();
        assert_eq!(*notes.0.lock().unwrap(), told);
        let refused = Path::new("/refused");
        let opened = disk.open(refused, OpenMode::CreateNew, Caching::Buffered);
        assert!(opened.is_err());
        assert!(!disk.exists(refused).unwrap());
    }
}
