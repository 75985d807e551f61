//! All volumes of a datanode as one store: finds replicas, places new ones, leaves out volumes that failed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};

use super::error::StoreError;
use super::replica::Appender;
use super::scrub::VerifyStep;
use super::volume::{Volume, VolumeStatus};
use super::{BlockChecksum, ReadRange, ReplicaInfo, ReplicaState, SealOutcome};

/// What an open replica is expected to grow by, when room for new ones is compared.
const GROWTH_BYTES: u64 = 128 << 20;

/// Several volumes. A chunk has at most one replica here, on whichever volume.
#[derive(Debug)]
pub struct ChunkStore {
    volumes: Vec<Arc<Volume>>,
    placing: Placing,
}

/// The chunks that are being placed, each once at a time, so that a chunk never comes to lie on two volumes. Chunks do not wait for each
/// other: the disk of one may hang.
#[derive(Debug, Default)]
struct Placing {
    chunks: Mutex<BTreeSet<ChunkId>>,
    freed: Condvar,
}

/// One chunk, until it is dropped.
struct Placement<'a> {
    placing: &'a Placing,
    chunk: ChunkId,
}

impl Placing {
    fn begin(&self, chunk: ChunkId) -> Placement<'_> {
        let chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chunks = self
            .freed
            .wait_while(chunks, |chunks| chunks.contains(&chunk))
            .unwrap_or_else(PoisonError::into_inner);
        chunks.insert(chunk);
        Placement {
            placing: self,
            chunk,
        }
    }
}

impl Drop for Placement<'_> {
    fn drop(&mut self) {
        let chunks = self.placing.chunks.lock();
        let mut chunks = chunks.unwrap_or_else(PoisonError::into_inner);
        chunks.remove(&self.chunk);
        self.placing.freed.notify_all();
    }
}

/// Which of two replicas of one chunk counts. Incarnations grow with time over the whole cluster: the newest life is the one that the
/// committed state means, unless it is damaged; an older one comes back with a volume that was away.
fn worth(info: &ReplicaInfo) -> (bool, Incarnation, bool) {
    let is_whole = info.state != ReplicaState::Damaged;
    (
        is_whole,
        info.incarnation,
        info.state == ReplicaState::Sealed,
    )
}

impl ChunkStore {
    /// A store of these volumes. If a chunk lies on several of them (somebody moved files), the first sealed replica
    /// counts, else the first; the others are hidden and their files left alone.
    pub fn new(volumes: Vec<Arc<Volume>>) -> Self {
        let store = Self {
            volumes,
            placing: Placing::default(),
        };
        store.hide_duplicates();
        store
    }

    fn hide_duplicates(&self) {
        for (position, volume) in self.volumes.iter().enumerate() {
            for info in volume.list() {
                let others = self.volumes[position + 1..]
                    .iter()
                    .filter(|other| other.holds(info.chunk));
                for other in others {
                    let better = other
                        .find(info.chunk)
                        .is_some_and(|found| worth(&found) > worth(&info));
                    let hidden = if better { volume } else { other };
                    tracing::error!(chunk = %info.chunk, volume = %hidden.path().display(),
                        "second replica of a chunk on another volume, hidden");
                    hidden.hide(info.chunk);
                }
            }
        }
    }

    /// The volumes, in the order they were given.
    pub fn volumes(&self) -> &[Arc<Volume>] {
        &self.volumes
    }

    /// The volume that holds a chunk's replica; a failed one only if no other does.
    pub fn volume_of(&self, chunk: ChunkId) -> Result<&Arc<Volume>, StoreError> {
        let holds = |volume: &&Arc<Volume>| volume.holds(chunk);
        let working = self.working().find(holds);
        working
            .or_else(|| self.volumes.iter().find(holds))
            .ok_or(StoreError::NoReplica { chunk })
    }

    /// Volumes that have not failed.
    fn working(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.volumes.iter().filter(|volume| !volume.is_failed())
    }

    /// Creates an empty replica on the volume with most room, and returns its first stream.
    pub fn create(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
        epoch: Epoch,
    ) -> Result<Appender, StoreError> {
        self.place(chunk, |volume| volume.create(chunk, incarnation, epoch))
    }

    /// Creates the destination of a copy; see [`Volume::create_copy`].
    pub fn create_copy(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
        epoch: Epoch,
    ) -> Result<Appender, StoreError> {
        self.place(chunk, |volume| {
            volume.create_copy(chunk, incarnation, epoch)
        })
    }

    fn place(
        &self,
        chunk: ChunkId,
        create: impl Fn(&Volume) -> Result<Appender, StoreError>,
    ) -> Result<Appender, StoreError> {
        let _one = self.placing.begin(chunk);
        if let Some(volume) = self.working().find(|volume| volume.holds(chunk)) {
            // Lets the volume say whose it is.
            return create(volume);
        }
        let mut by_room: Vec<(i128, &Arc<Volume>)> = self
            .working()
            .map(|volume| (room(&volume.status()), volume))
            .collect();
        // Stable: with equal room the first volume is taken, and has less room the next time.
        by_room.sort_by_key(|(room, _)| std::cmp::Reverse(*room));
        for (_, volume) in by_room {
            match create(volume) {
                Err(error) if error.is_of_volume() => {
                    tracing::warn!(%chunk, volume = %volume.path().display(), %error, "volume passed over");
                }
                result => return result,
            }
        }
        Err(StoreError::NoVolume { chunk })
    }

    /// See [`Volume::open_append`].
    pub fn open_append(
        &self,
        chunk: ChunkId,
        epoch: Epoch,
        start: u64,
    ) -> Result<Appender, StoreError> {
        self.volume_of(chunk)?.open_append(chunk, epoch, start)
    }

    /// See [`Volume::sync`].
    pub fn sync(&self, chunk: ChunkId, through: u64) -> Result<u64, StoreError> {
        self.volume_of(chunk)?.sync(chunk, through)
    }

    /// See [`Volume::seal`].
    pub fn seal(
        &self,
        chunk: ChunkId,
        epoch: Epoch,
        length: u64,
    ) -> Result<SealOutcome, StoreError> {
        self.volume_of(chunk)?.seal(chunk, epoch, length)
    }

    /// See [`Volume::read`].
    pub fn read(
        &self,
        chunk: ChunkId,
        offset: u64,
        length: u64,
        buffer: &mut [u8],
        verify: bool,
    ) -> Result<ReadRange, StoreError> {
        self.volume_of(chunk)?
            .read(chunk, offset, length, buffer, verify)
    }

    /// See [`Volume::locate`].
    pub fn locate(
        &self,
        chunk: ChunkId,
        range: Range<u64>,
    ) -> Result<(PathBuf, Vec<BlockChecksum>), StoreError> {
        self.volume_of(chunk)?.locate(chunk, range)
    }

    /// See [`Volume::verify`].
    pub fn verify(
        &self,
        chunk: ChunkId,
        from: u64,
        budget_bytes: u64,
    ) -> Result<VerifyStep, StoreError> {
        self.volume_of(chunk)?.verify(chunk, from, budget_bytes)
    }

    /// See [`Volume::delete_if`].
    pub fn delete_if<G>(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
        wanted: impl FnOnce() -> Option<G>,
    ) -> Result<(), StoreError> {
        self.volume_of(chunk)?.delete_if(chunk, incarnation, wanted)
    }

    /// One replica, unless it lies on a failed volume.
    pub fn find(&self, chunk: ChunkId) -> Option<ReplicaInfo> {
        self.working().find_map(|volume| volume.find(chunk))
    }

    /// Every replica on volumes that work, by chunk.
    pub fn list(&self) -> Vec<ReplicaInfo> {
        let mut all: Vec<ReplicaInfo> = self.working().flat_map(|volume| volume.list()).collect();
        all.sort_unstable_by_key(|info| info.chunk);
        all
    }

    /// The state of all volumes, as of the last look at their free space. Does not ask the disks.
    pub fn status(&self) -> Vec<VolumeStatus> {
        self.volumes.iter().map(|volume| volume.status()).collect()
    }
}

/// What a volume has left once its open replicas are full; may be negative.
fn room(status: &VolumeStatus) -> i128 {
    i128::from(status.usable_bytes) - status.open_count as i128 * i128::from(GROWTH_BYTES)
}
