//! The files of a log: which segments there are, how one begins and how one is used again.
//!
//! `log-<generation>` is a segment with a durable header; `spare-<number>` is a written file that nobody needs. A name
//! becomes `log-…` only after its header is durable, and records are written only after the name is: so a `log-…` file
//! whose header is unreadable is damaged, never half-made. Segments leave one by one, oldest first, each removal
//! durable before the next: so a gap in the generations is damage too.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_daemon::disk::{Caching, Disk, DiskFile, OpenMode, create_dir_all_synced};

use super::error::LogError;
use super::format::{SEGMENT_START, Seed, SegmentHeader};

/// Zeros are written in pieces of this size.
const PREWRITE_BYTES: usize = 1 << 20;

/// One segment that holds records.
#[derive(Clone)]
pub(super) struct Segment {
    pub header: SegmentHeader,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    /// Highest index of any entry ever written here, cut or not.
    pub last_index: Option<u64>,
}

impl Segment {
    pub(super) fn seed(&self) -> Seed {
        self.header.seed
    }
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Generations, ascending.
    pub segments: Vec<u64>,
    /// Numbers and sizes of the spares, ascending by number.
    pub spares: Vec<(u64, u64)>,
}

/// A log's directory.
#[derive(Clone)]
pub(super) struct Directory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Directory {
    /// Creates the directory if it is absent; durable on return.
    pub(super) fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Directory, LogError> {
        create_dir_all_synced(&*disk, path).map_err(LogError::io("create", path))?;
        let directory = Directory {
            disk,
            path: path.to_path_buf(),
        };
        // A rename that a killed process left in memory must be durable before we rely on it.
        directory.sync()?;
        Ok(directory)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn segment_path(&self, generation: u64) -> PathBuf {
        self.path.join(format!("log-{generation:016x}"))
    }

    fn spare_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("spare-{number:016x}"))
    }

    fn sync(&self) -> Result<(), LogError> {
        self.disk
            .sync_dir(&self.path)
            .map_err(LogError::io("sync", &self.path))
    }

    pub(super) fn list(&self) -> Result<Listing, LogError> {
        let mut listing = Listing::default();
        for entry in self
            .disk
            .list(&self.path)
            .map_err(LogError::io("list", &self.path))?
        {
            let number = |prefix| {
                let digits: &str = entry.name.strip_prefix(prefix)?;
                u64::from_str_radix(digits, 16)
                    .ok()
                    .filter(|_| digits.len() == 16)
            };
            if let Some(generation) = number("log-") {
                listing.segments.push(generation);
            } else if let Some(number) = number("spare-") {
                listing.spares.push((number, entry.len));
            }
        }
        listing.segments.sort_unstable();
        listing.spares.sort_unstable();
        Ok(listing)
    }

    pub(super) fn open_segment(
        &self,
        generation: u64,
    ) -> Result<(PathBuf, Arc<dyn DiskFile>), LogError> {
        let path = self.segment_path(generation);
        let file = self
            .disk
            .open(&path, OpenMode::ReadWrite, Caching::Buffered)
            .map_err(LogError::io("open", &path))?;
        Ok((path, file))
    }

    /// Writes a spare full of zeros, so that later writes change no metadata and sync fast.
    pub(super) fn create_spare(&self, number: u64, bytes: u64) -> Result<(), LogError> {
        let path = self.spare_path(number);
        let file = self
            .disk
            .open(&path, OpenMode::CreateNew, Caching::Buffered)
            .map_err(LogError::io("create", &path))?;
        let zeros = vec![0; PREWRITE_BYTES];
        let mut offset = 0;
        while offset < bytes {
            let piece = (bytes - offset).min(PREWRITE_BYTES as u64);
            file.write_all_at(&zeros[..piece as usize], offset)
                .map_err(LogError::io("write", &path))?;
            offset += piece;
        }
        file.sync_data().map_err(LogError::io("sync", &path))
    }

    pub(super) fn remove_spare(&self, number: u64) -> Result<(), LogError> {
        let path = self.spare_path(number);
        self.disk
            .remove_file(&path)
            .map_err(LogError::io("remove", &path))?;
        self.sync()
    }

    /// Turns a spare into the segment with this header, but for the capacity, which is the spare's; durable on return.
    pub(super) fn begin_segment(
        &self,
        spare: u64,
        mut header: SegmentHeader,
    ) -> Result<Segment, LogError> {
        let spare_path = self.spare_path(spare);
        let file = self
            .disk
            .open(&spare_path, OpenMode::ReadWrite, Caching::Buffered)
            .map_err(LogError::io("open", &spare_path))?;
        header.capacity = file.len().map_err(LogError::io("measure", &spare_path))?;
        let mut page = header.encode().to_vec();
        page.resize(SEGMENT_START as usize, 0);
        file.write_all_at(&page, 0)
            .map_err(LogError::io("write", &spare_path))?;
        file.sync_data()
            .map_err(LogError::io("sync", &spare_path))?;
        let path = self.segment_path(header.seed.generation);
        self.disk
            .rename(&spare_path, &path)
            .map_err(LogError::io("rename", &spare_path))?;
        self.sync()?;
        Ok(Segment {
            header,
            path,
            file,
            last_index: None,
        })
    }

    /// Turns a segment into a spare; durable on return.
    pub(super) fn retire_segment(&self, segment: &Segment, spare: u64) -> Result<(), LogError> {
        self.disk
            .rename(&segment.path, &self.spare_path(spare))
            .map_err(LogError::io("rename", &segment.path))?;
        self.sync()
    }

    /// Deletes a segment; durable on return.
    pub(super) fn remove_segment(&self, segment: &Segment) -> Result<(), LogError> {
        self.disk
            .remove_file(&segment.path)
            .map_err(LogError::io("remove", &segment.path))?;
        self.sync()
    }
}
