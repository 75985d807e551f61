//! One volume: a local directory with replicas, its table of them, and the operations on each.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use cairn_daemon::disk::watched::WatchedDisk;
use cairn_daemon::disk::{Caching, Disk, DiskFile, OpenMode};
use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};

use super::cache::Cache;
use super::data_file::{DataFile, DirectFrom};
use super::error::StoreError;
use super::health::{Health, SPACE_CHECK_BYTES, VolumeState};
use super::index::BlockIndex;
use super::layout;
use super::record::{self, HEADER_LEN, Header};
use super::replica::{Appender, OpenReplica, Opened, Parts};
use super::startup::Scan;
use super::under_way::UnderWay;
use super::{ReplicaInfo, ReplicaState, SealOutcome};

/// How a volume is used.
#[derive(Clone, Copy, Debug)]
pub struct VolumeOptions {
    /// Free bytes that appends leave alone, so that a full volume can still seal and delete. At least 32 MiB are kept.
    pub reserve_bytes: u64,
    /// Memory for the block indexes of recently read replicas, in bytes.
    pub index_cache_bytes: usize,
    /// Appends with at least this many whole pages bypass the page cache.
    pub direct_write_bytes: usize,
    /// Reads of at least this many bytes bypass the page cache.
    pub direct_read_bytes: usize,
    /// A disk that takes longer than this for one call is asked for nothing new until the call returns.
    pub disk_timeout: Duration,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            reserve_bytes: 1 << 30,
            index_cache_bytes: 64 << 20,
            direct_write_bytes: 64 << 10,
            direct_read_bytes: 256 << 10,
            disk_timeout: Duration::from_secs(30),
        }
    }
}

/// A volume at one moment, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeStatus {
    /// Where it is.
    pub path: PathBuf,
    /// What it is good for.
    pub state: VolumeState,
    /// Size of the file system.
    pub total_bytes: u64,
    /// Which file system of the machine it is; 0 if nobody knows.
    pub filesystem: u64,
    /// What new data may use: free space without the reserve.
    pub usable_bytes: u64,
    /// Bytes of replicas, also of open ones and of copies that are being made.
    pub used_bytes: u64,
    /// Replicas here, damaged ones included.
    pub replica_count: usize,
    /// Of those, not sealed.
    pub open_count: usize,
}

/// A replica in the table.
pub(super) enum Entry {
    Sealed(Sealed),
    Open(Arc<OpenReplica>),
    Damaged(Damaged),
}

/// All that memory holds of a sealed replica that nobody reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub length: u64,
}

/// What is left of a replica without one of its files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damaged {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub reason: &'static str,
}

/// A local directory full of replicas. Shared by threads; every call blocks.
pub struct Volume {
    pub(super) disk: Arc<dyn Disk>,
    path: PathBuf,
    pub(super) options: VolumeOptions,
    pub(super) health: Arc<Health>,
    table: RwLock<BTreeMap<ChunkId, Entry>>,
    /// Ranges of replicas that reads or scrubs found to be bad. In memory only: found again by the next scrub.
    pub(super) bad: Mutex<BTreeMap<ChunkId, Vec<Range<u64>>>>,
    pub(super) cache: Cache,
    /// One creation or deletion at a time, so that a chunk's files always belong to one replica.
    naming: Mutex<()>,
    /// One question for free space at a time.
    asking_space: Mutex<()>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Volume({})", self.path.display())
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Volume {
    /// Opens a volume and looks at every replica in it; see `startup`. The caller holds the directory's `DataDir`: what it
    /// is, and that nobody else uses it, was settled there.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        options: VolumeOptions,
    ) -> Result<Self, StoreError> {
        let reserve = options.reserve_bytes.max(2 * SPACE_CHECK_BYTES);
        let under_way = Arc::new(UnderWay::new(options.disk_timeout));
        let disk: Arc<dyn Disk> = Arc::new(WatchedDisk::new(disk, Arc::clone(&under_way)));
        let health = Arc::new(Health::new(Arc::clone(&disk), path, reserve, under_way));
        make_folders(&disk, path).map_err(|source| health.failure("create folders", source))?;
        health.refresh_space()?;
        let scan = Scan {
            disk: &disk,
            volume: path,
            health: &health,
            direct_from: direct_from(&options),
        };
        let found = scan.run()?;
        Ok(Self {
            path: path.to_path_buf(),
            options,
            health,
            table: RwLock::new(found.table),
            bad: Mutex::new(found.bad),
            cache: Cache::new(options.index_cache_bytes),
            naming: Mutex::new(()),
            asking_space: Mutex::new(()),
            disk,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The paths of a replica's `.data` and `.sum`.
    pub fn files_of(&self, chunk: ChunkId) -> (PathBuf, PathBuf) {
        (
            layout::data_path(&self.path, chunk),
            layout::sum_path(&self.path, chunk),
        )
    }

    pub(super) fn read_table(&self) -> RwLockReadGuard<'_, BTreeMap<ChunkId, Entry>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_table(&self) -> RwLockWriteGuard<'_, BTreeMap<ChunkId, Entry>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates an empty replica and returns its first stream. Durable with its first sync or seal.
    pub fn create(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
        epoch: Epoch,
    ) -> Result<Appender, StoreError> {
        self.create_replica(Header {
            chunk,
            incarnation,
            epoch,
            copy: false,
        })
    }

    /// Creates the destination of a copy: filled through the stream, it counts once it is sealed, and is gone after a
    /// restart if it was not.
    pub fn create_copy(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
        epoch: Epoch,
    ) -> Result<Appender, StoreError> {
        self.create_replica(Header {
            chunk,
            incarnation,
            epoch,
            copy: true,
        })
    }

    fn create_replica(&self, header: Header) -> Result<Appender, StoreError> {
        let Header {
            chunk,
            incarnation,
            epoch,
            copy,
        } = header;
        self.health.expect_working()?;
        let _one = lock(&self.naming);
        if let Some(entry) = self.read_table().get(&chunk) {
            return Err(StoreError::ReplicaExists {
                chunk,
                incarnation: entry.incarnation(),
            });
        }
        self.health.admit(HEADER_LEN as u64)?;
        let created = self.create_files(&header);
        let (data, sum) = created.map_err(|source| {
            // What was created is in nobody's way: the next attempt replaces it.
            self.health.failure("create replica", source)
        })?;
        let parts = Parts {
            disk: Arc::clone(&self.disk),
            health: Arc::clone(&self.health),
            folder: layout::folder_of(&self.path, chunk),
            data,
            sum,
            named: false,
        };
        let opened = Opened {
            epoch,
            synced_length: 0,
            index: BlockIndex::default(),
            sum_end: HEADER_LEN as u64,
            stopped: false,
        };
        let replica = Arc::new(OpenReplica::new(chunk, incarnation, copy, parts, opened));
        self.write_table()
            .insert(chunk, Entry::Open(Arc::clone(&replica)));
        replica.open_append(epoch, 0)
    }

    fn create_files(&self, header: &Header) -> io::Result<(DataFile, Arc<dyn DiskFile>)> {
        let (data_path, sum_path) = self.files_of(header.chunk);
        for leftover in [&data_path, &sum_path] {
            // A failed creation or deletion may have left one; the table says that no replica lives here.
            if self.disk.exists(leftover)? {
                self.disk.remove_file(leftover)?;
            }
        }
        let sum = self
            .disk
            .open(&sum_path, OpenMode::CreateNew, Caching::Buffered)?;
        sum.write_all_at(&record::encode_header(header), 0)?;
        let direct_from = direct_from(&self.options);
        let data = DataFile::open(&self.disk, data_path, OpenMode::CreateNew, direct_from)?;
        Ok((data, sum))
    }

    /// Opens a stream that appends from `start`, which must be the replica's length, at `epoch`, which must not be older
    /// than the highest seen. It takes over from any stream before it.
    pub fn open_append(
        &self,
        chunk: ChunkId,
        epoch: Epoch,
        start: u64,
    ) -> Result<Appender, StoreError> {
        // The table is free again before the disk is asked.
        let replica = match self.read_table().get(&chunk) {
            None => return Err(StoreError::NoReplica { chunk }),
            Some(Entry::Damaged(damaged)) => return Err(damaged.error(chunk)),
            Some(Entry::Sealed(sealed)) => return Err(sealed.error(chunk)),
            Some(Entry::Open(replica)) => Arc::clone(replica),
        };
        // Before anything that a call under way may hold: whoever waits for that waits for the disk.
        self.health.expect_answering()?;
        replica.open_append(epoch, start)
    }

    /// Makes all that was appended so far durable, and at least `through`; the synced length.
    pub fn sync(&self, chunk: ChunkId, through: u64) -> Result<u64, StoreError> {
        let replica = match self.read_table().get(&chunk) {
            None => return Err(StoreError::NoReplica { chunk }),
            Some(Entry::Damaged(damaged)) => return Err(damaged.error(chunk)),
            Some(Entry::Sealed(Sealed { length, .. })) if through <= *length => return Ok(*length),
            Some(Entry::Sealed(Sealed { length, .. })) => {
                return Err(StoreError::WrongLength {
                    chunk,
                    asked: through,
                    length: *length,
                });
            }
            Some(Entry::Open(replica)) => Arc::clone(replica),
        };
        self.health.expect_answering()?;
        replica.sync(through)
    }

    /// Makes everything durable that was appended to any open replica; how many needed it. For the periodic sync. A
    /// failure of one ends the volume, so the first error is the only one.
    pub fn sync_all_open(&self) -> Result<usize, StoreError> {
        let open: Vec<Arc<OpenReplica>> =
            self.read_table().values().filter_map(Entry::open).collect();
        let mut count = 0;
        for replica in open {
            let now = replica.snapshot();
            if now.length > now.synced_length {
                match replica.sync(now.length) {
                    Ok(_) => count += 1,
                    // Sealed shorter, or deleted, since the list was made.
                    Err(StoreError::WrongLength { .. } | StoreError::NoReplica { .. }) => {}
                    Err(StoreError::Sealed { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(count)
    }

    /// Ends a replica's growth at `length`, durably; what lies beyond is cut. Repeating it is fine.
    pub fn seal(
        &self,
        chunk: ChunkId,
        epoch: Epoch,
        length: u64,
    ) -> Result<SealOutcome, StoreError> {
        let replica = match self.read_table().get(&chunk) {
            None => return Err(StoreError::NoReplica { chunk }),
            Some(Entry::Damaged(damaged)) => return Err(damaged.error(chunk)),
            Some(Entry::Sealed(sealed)) if (sealed.epoch, sealed.length) == (epoch, length) => {
                return Ok(SealOutcome {
                    bad: lock(&self.bad).contains_key(&chunk),
                });
            }
            Some(Entry::Sealed(sealed)) => return Err(sealed.error(chunk)),
            Some(Entry::Open(replica)) => Arc::clone(replica),
        };
        self.health.expect_answering()?;
        let outcome = replica.seal(epoch, length)?;
        for hole in replica.holes() {
            self.note_bad(chunk, hole);
        }
        let mut table = self.write_table();
        if let Some(entry) = table.get_mut(&chunk)
            && entry
                .open()
                .is_some_and(|open| Arc::ptr_eq(&open, &replica))
        {
            *entry = Entry::Sealed(Sealed {
                incarnation: replica.incarnation(),
                epoch,
                length,
            });
        }
        Ok(outcome)
    }

    /// Removes a replica of this incarnation.
    pub fn delete(&self, chunk: ChunkId, incarnation: Incarnation) -> Result<(), StoreError> {
        self.delete_if(chunk, incarnation, || Some(()))
    }

    /// The same if it is still wanted when its turn comes, which a slow disk may put off. What `wanted` gives is kept until nobody
    /// finds the replica any more.
    pub fn delete_if<G>(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
        wanted: impl FnOnce() -> Option<G>,
    ) -> Result<(), StoreError> {
        self.health.expect_working()?;
        let _one = lock(&self.naming);
        self.health.expect_working()?;
        {
            let Some(_wanted) = wanted() else {
                return Err(StoreError::Unwanted { chunk });
            };
            let mut table = self.write_table();
            let entry = table.get(&chunk).ok_or(StoreError::NoReplica { chunk })?;
            let recorded = entry.incarnation();
            if recorded != incarnation {
                return Err(StoreError::WrongIncarnation {
                    chunk,
                    given: incarnation,
                    recorded,
                });
            }
            table.remove(&chunk)
        }
        .and_then(|entry| entry.open())
        .inspect(|replica| replica.forget());
        self.cache.remove(chunk);
        lock(&self.bad).remove(&chunk);
        // A deletion that a crash undoes, wholly or by half, leaves a surplus replica, which is deleted again. Data first:
        // what is left then still says which incarnation it was.
        let (data, sum) = self.files_of(chunk);
        for path in [data, sum] {
            match self.disk.remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.health.failure("delete replica", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// One replica; `None` if it is not here (or an unfinished copy).
    pub fn find(&self, chunk: ChunkId) -> Option<ReplicaInfo> {
        let info = self
            .read_table()
            .get(&chunk)
            .and_then(|entry| entry.info(chunk));
        info.map(|info| self.with_bad(info))
    }

    /// Every replica but unfinished copies, by chunk.
    pub fn list(&self) -> Vec<ReplicaInfo> {
        let table = self.read_table();
        let infos: Vec<_> = table
            .iter()
            .filter_map(|(chunk, entry)| entry.info(*chunk))
            .collect();
        drop(table);
        infos.into_iter().map(|info| self.with_bad(info)).collect()
    }

    fn with_bad(&self, mut info: ReplicaInfo) -> ReplicaInfo {
        info.bad |= lock(&self.bad).contains_key(&info.chunk);
        info
    }

    /// Whether anything lies here under this chunk's name, unfinished copies included.
    pub(super) fn holds(&self, chunk: ChunkId) -> bool {
        self.read_table().contains_key(&chunk)
    }

    /// Hides a replica from every operation; its files stay.
    pub(super) fn hide(&self, chunk: ChunkId) {
        self.write_table().remove(&chunk);
    }

    /// What the volume is good for.
    pub fn state(&self) -> VolumeState {
        self.health.state()
    }

    /// Whether the volume is withdrawn for good.
    pub fn is_failed(&self) -> bool {
        self.health.is_failed()
    }

    /// Whether the disk does not answer at the moment.
    pub fn is_hanging(&self) -> bool {
        self.health.hangs_for().is_some()
    }

    /// Fails while the disk does not answer.
    pub fn expect_answering(&self) -> Result<(), StoreError> {
        self.health.expect_answering()
    }

    /// Asks the file system for its free space; for the heartbeat. Does nothing while the last question is not answered.
    pub fn refresh_space(&self) -> Result<(), StoreError> {
        let Ok(_one) = self.asking_space.try_lock() else {
            return Ok(());
        };
        self.health.expect_answering()?;
        self.health.refresh_space()
    }

    /// The volume at this moment, as of the last look at its free space.
    pub fn status(&self) -> VolumeStatus {
        let table = self.read_table();
        VolumeStatus {
            path: self.path.clone(),
            state: self.health.state(),
            total_bytes: self.health.total_bytes(),
            filesystem: self.health.filesystem(),
            usable_bytes: self.health.usable_bytes(),
            used_bytes: table.values().map(Entry::length).sum(),
            replica_count: table.len(),
            open_count: table
                .values()
                .filter(|entry| entry.open().is_some())
                .count(),
        }
    }
}

impl Entry {
    pub(super) fn incarnation(&self) -> Incarnation {
        match self {
            Self::Sealed(sealed) => sealed.incarnation,
            Self::Open(replica) => replica.incarnation(),
            Self::Damaged(damaged) => damaged.incarnation,
        }
    }

    fn length(&self) -> u64 {
        match self {
            Self::Sealed(sealed) => sealed.length,
            Self::Open(replica) => replica.snapshot().length,
            Self::Damaged(_) => 0,
        }
    }

    fn open(&self) -> Option<Arc<OpenReplica>> {
        match self {
            Self::Open(replica) => Some(Arc::clone(replica)),
            Self::Sealed(_) | Self::Damaged(_) => None,
        }
    }

    fn info(&self, chunk: ChunkId) -> Option<ReplicaInfo> {
        let incarnation = self.incarnation();
        let sealed_info = |epoch, length| ReplicaInfo {
            chunk,
            incarnation,
            epoch,
            length,
            synced_length: length,
            state: ReplicaState::Sealed,
            bad: false,
        };
        match self {
            Self::Sealed(sealed) => Some(sealed_info(sealed.epoch, sealed.length)),
            Self::Damaged(damaged) => {
                let info = sealed_info(damaged.epoch, 0);
                Some(ReplicaInfo {
                    state: ReplicaState::Damaged,
                    bad: true,
                    ..info
                })
            }
            Self::Open(replica) => {
                let now = replica.snapshot();
                let info = sealed_info(now.epoch, now.length);
                let synced_length = now.synced_length;
                match now.sealed {
                    Some(_) => Some(ReplicaInfo {
                        bad: now.bad,
                        ..info
                    }),
                    None if replica.is_copy() => None,
                    None => {
                        let state = ReplicaState::Open;
                        Some(ReplicaInfo {
                            state,
                            synced_length,
                            bad: now.bad,
                            ..info
                        })
                    }
                }
            }
        }
    }
}

impl Sealed {
    fn error(&self, chunk: ChunkId) -> StoreError {
        StoreError::Sealed {
            chunk,
            epoch: self.epoch,
            length: self.length,
        }
    }
}

impl Damaged {
    pub(super) fn error(&self, chunk: ChunkId) -> StoreError {
        StoreError::Damaged {
            chunk,
            reason: self.reason,
        }
    }
}

pub(super) fn direct_from(options: &VolumeOptions) -> DirectFrom {
    DirectFrom {
        write_bytes: options.direct_write_bytes,
        read_bytes: options.direct_read_bytes,
    }
}

/// Creates what is missing of `chunks/00` to `chunks/ff`, durably, so that a replica's own folder is all it has to sync. What a
/// start finds may be in the page cache only, if the one before was killed: so it is synced in any case.
fn make_folders(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<()> {
    for number in 0..layout::FOLDER_COUNT {
        disk.create_dir_all(&layout::folder(path, number))?;
    }
    disk.sync_dir(&layout::chunks(path))?;
    disk.sync_dir(path)
}
