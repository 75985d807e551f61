//! Whether a volume can be trusted with more: full, hanging and failing disks.
//!
//! A failed sync or write ends the volume for good: nobody knows what of the file is on disk, and asking again would
//! get a false "fine" from the kernel. A read error costs the replica its good name, and the volume only after several.
//! Replicas that were sealed before a volume failed can still be read from it, as a last resort. A disk that hangs is asked for nothing
//! more until what is under way returns: each question would hold a thread, and other volumes need threads, too. However long that is, it
//! does not end the volume: its replicas may be whole, and count as that when it answers.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cairn_daemon::disk::{Disk, raw_os_error};
use cairn_protocol::ids::ChunkId;

use super::error::StoreError;
use super::under_way::UnderWay;

/// Unreadable ranges after which a disk is called failing, not a sector.
const READ_ERRORS_MAX: u32 = 16;

/// How much may be written between two looks at the free space. The reserve must be larger.
pub(super) const SPACE_CHECK_BYTES: u64 = 16 << 20;

/// What a volume is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// Everything.
    Serving,
    /// Reading, sealing and deleting.
    Full,
    /// Nothing until its disk answers, which it has not done for so long.
    Hanging(Duration),
    /// Reading sealed replicas, as far as it goes; withdrawn until it is opened anew.
    Failed(String),
}

/// Shared by everything that does I/O on one volume.
pub(super) struct Health {
    disk: Arc<dyn Disk>,
    volume: PathBuf,
    reserve_bytes: u64,
    total_bytes: AtomicU64,
    /// Free space at the last look.
    available_bytes: AtomicU64,
    /// Written since the last look.
    written_bytes: AtomicU64,
    /// Which file system it is; 0 if nobody knows.
    filesystem: AtomicU64,
    /// The file system said so, whatever the numbers say. The next look clears it.
    no_space: AtomicBool,
    read_errors: AtomicU32,
    failed: OnceLock<String>,
    under_way: Arc<UnderWay>,
    /// It was said that the disk hangs, and not yet that it answers again.
    told_hanging: AtomicBool,
}

impl Health {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        volume: &Path,
        reserve_bytes: u64,
        under_way: Arc<UnderWay>,
    ) -> Self {
        Self {
            disk,
            volume: volume.to_path_buf(),
            reserve_bytes,
            total_bytes: AtomicU64::new(0),
            available_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            filesystem: AtomicU64::new(0),
            no_space: AtomicBool::new(false),
            read_errors: AtomicU32::new(0),
            failed: OnceLock::new(),
            under_way,
            told_hanging: AtomicBool::new(false),
        }
    }

    /// Asks the file system how much room there is.
    pub(super) fn refresh_space(&self) -> Result<(), StoreError> {
        let space = self.disk.space(&self.volume);
        let space = space.map_err(|source| self.failure("ask for free space", source))?;
        self.total_bytes.store(space.total_bytes, Ordering::Relaxed);
        self.available_bytes
            .store(space.available_bytes, Ordering::Relaxed);
        self.filesystem.store(space.filesystem, Ordering::Relaxed);
        self.written_bytes.store(0, Ordering::Relaxed);
        self.no_space.store(false, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn filesystem(&self) -> u64 {
        self.filesystem.load(Ordering::Relaxed)
    }

    /// What new data may use: free space without the reserve.
    pub(super) fn usable_bytes(&self) -> u64 {
        if self.no_space.load(Ordering::Relaxed) {
            return 0;
        }
        let taken = self.reserve_bytes + self.written_bytes.load(Ordering::Relaxed);
        self.available_bytes
            .load(Ordering::Relaxed)
            .saturating_sub(taken)
    }

    pub(super) fn state(&self) -> VolumeState {
        if let Some(reason) = self.failed.get() {
            return VolumeState::Failed(reason.clone());
        }
        match self.hangs_for() {
            Some(lasted) => VolumeState::Hanging(lasted),
            None if self.usable_bytes() == 0 => VolumeState::Full,
            None => VolumeState::Serving,
        }
    }

    pub(super) fn is_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    /// For how long its disk has not answered, if that is too long. Says so in the log, once.
    pub(super) fn hangs_for(&self) -> Option<Duration> {
        let lasted = self.under_way.hangs_for();
        if self.told_hanging.swap(lasted.is_some(), Ordering::Relaxed) != lasted.is_some() {
            let volume = self.volume.display();
            match lasted {
                Some(lasted) => {
                    tracing::warn!(%volume, seconds = lasted.as_secs(), "disk does not answer, volume takes nothing new");
                }
                None => tracing::warn!(%volume, "disk answers again"),
            }
        }
        lasted
    }

    /// Refuses to ask a disk that does not answer.
    pub(super) fn expect_answering(&self) -> Result<(), StoreError> {
        let Some(lasted) = self.hangs_for() else {
            return Ok(());
        };
        self.expect_not_failed()?;
        Err(StoreError::Hanging {
            volume: self.volume.clone(),
            seconds: lasted.as_secs(),
        })
    }

    fn expect_not_failed(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            None => Ok(()),
            Some(reason) => Err(StoreError::Withdrawn {
                volume: self.volume.clone(),
                reason: reason.clone(),
            }),
        }
    }

    fn withdraw(&self, reason: String) {
        if self.failed.set(reason.clone()).is_ok() {
            tracing::error!(volume = %self.volume.display(), reason, "volume withdrawn");
        }
    }

    /// Refuses changes on a failed volume, and on one whose disk does not answer.
    pub(super) fn expect_working(&self) -> Result<(), StoreError> {
        self.expect_answering()?;
        self.expect_not_failed()
    }

    /// Asks for room for new data. Seals and deletions do not ask: the reserve is theirs.
    pub(super) fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        self.expect_working()?;
        let written = self.written_bytes.load(Ordering::Relaxed);
        if written > SPACE_CHECK_BYTES || self.usable_bytes() < bytes {
            self.refresh_space()?;
        }
        if self.usable_bytes() < bytes {
            return Err(self.no_space());
        }
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn no_space(&self) -> StoreError {
        StoreError::NoSpace {
            volume: self.volume.clone(),
            available: self.available_bytes.load(Ordering::Relaxed),
            reserve: self.reserve_bytes,
        }
    }

    /// What a failed write, creation, removal or listing means.
    pub(super) fn failure(&self, operation: &'static str, source: io::Error) -> StoreError {
        match raw_os_error(&source) {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => StoreError::Exhausted {
                volume: self.volume.clone(),
                operation,
                source,
            },
            _ if matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
            {
                self.no_space.store(true, Ordering::Relaxed);
                self.no_space()
            }
            _ => self.fatal(operation, source),
        }
    }

    /// What a failed sync means, whatever its reason: the end of the volume.
    pub(super) fn fatal(&self, operation: &'static str, source: io::Error) -> StoreError {
        self.withdraw(format!("{operation}: {source}"));
        StoreError::DiskFailed {
            volume: self.volume.clone(),
            operation,
            source,
        }
    }

    /// What a failed read means: the range is bad; too many of them are the end of the volume.
    pub(super) fn read_failure(
        &self,
        chunk: ChunkId,
        range: Range<u64>,
        source: io::Error,
    ) -> StoreError {
        if let Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) = raw_os_error(&source) {
            let volume = self.volume.clone();
            return StoreError::Exhausted {
                volume,
                operation: "read",
                source,
            };
        }
        tracing::warn!(%chunk, offset = range.start, error = %source, "replica cannot be read");
        if self.read_errors.fetch_add(1, Ordering::Relaxed) + 1 >= READ_ERRORS_MAX {
            return self.fatal("read", source);
        }
        StoreError::BadBlock {
            chunk,
            offset: range.start,
            end: range.end,
        }
    }
}
