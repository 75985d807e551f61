//! The chunk store as the rest of the datanode uses it: asynchronous, by incarnation, failures as the wire knows them.
//!
//! Everything here runs through `daemon::blocking`. What goes wrong with a replica or a volume on the way is noted in
//! [`Changes`], so that the next heartbeat tells the leader, at once.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cairn_daemon::blocking;
use cairn_protocol::Failure;
use cairn_protocol::buffer;
use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};
use cairn_protocol::limits::BUFFER_BYTES;
use cairn_protocol::messages::datanode::{ReplicaState as ReplicaStateMessage, VolumeReport};
use futures::future::join_all;
use tokio::time::{sleep, timeout};

use crate::changes::Changes;
use crate::chunk_store::{
    Append, Appender, BlockChecksum, ChunkStore, READ_MARGIN, ReplicaInfo, ReplicaState,
    StoreError, VerifyStep, Volume, VolumeState, VolumeStatus,
};
use crate::metrics::Metrics;
use crate::transfer::Packet;

/// How long the heartbeat waits for a disk. Less than what makes a datanode seem dead: its other disks work.
const ASK_MAX: Duration = Duration::from_secs(2);
/// How long the periodic sync of the other volumes waits for one.
const SYNC_MAX: Duration = Duration::from_secs(30);
/// How long a stop waits for one, less than a process is given to stop, and how often it looks.
const LAST_SYNC_MAX: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Who wants to append, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriterRequest {
    pub chunk: ChunkId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub start: u64,
}

/// Checksum blocks and their bytes, not verified.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    /// Where in the chunk `bytes` begin.
    pub offset: u64,
    pub bytes: Bytes,
    pub blocks: Vec<BlockChecksum>,
}

/// The replicas of this datanode. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Replicas {
    store: Arc<ChunkStore>,
    changes: Arc<Changes>,
    metrics: Arc<Metrics>,
}

impl Replicas {
    pub(crate) fn new(
        store: Arc<ChunkStore>,
        changes: Arc<Changes>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store,
            changes,
            metrics,
        }
    }

    pub(crate) fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    /// Runs one operation of the store where blocking is allowed, and notes what its failure means.
    async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&ChunkStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let replicas = self.clone();
        // Noted there, because nobody may wait any more for what a slow disk did.
        blocking(move || operation(&replicas.store).map_err(|error| replicas.noted(error))).await
    }

    /// What the leader should hear of a failure is noted for the next heartbeat.
    fn noted(&self, error: StoreError) -> Failure {
        match &error {
            StoreError::BadBlock { chunk, .. } => {
                self.metrics.bad_block();
                self.changes.note(*chunk);
            }
            StoreError::DiskFailed { .. } => self.changes.wake(),
            _ => {}
        }
        error.into()
    }

    /// Opens the replica for its writer, and makes it if the writer is the first and it is not there. A replica of
    /// another incarnation is refused.
    pub(crate) async fn open_writer(&self, request: WriterRequest) -> Result<Writer, Failure> {
        let WriterRequest {
            chunk,
            incarnation,
            epoch,
            start,
        } = request;
        let opened = self.run(move |store| {
            if start == 0 && store.find(chunk).is_none() {
                match store.create(chunk, incarnation, epoch) {
                    // Somebody else's stream was quicker, or a copy is being made: as if it had been here before.
                    Err(StoreError::ReplicaExists { .. }) => {}
                    created => return created,
                }
            }
            expect(store, chunk, incarnation)?;
            store.open_append(chunk, epoch, start)
        });
        Ok(Writer {
            replicas: self.clone(),
            appender: Arc::new(opened.await?),
        })
    }

    /// Makes the destination of a copy.
    pub(crate) async fn create_copy(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
        epoch: Epoch,
    ) -> Result<Writer, Failure> {
        let created = self
            .run(move |store| store.create_copy(chunk, incarnation, epoch))
            .await?;
        Ok(Writer {
            replicas: self.clone(),
            appender: Arc::new(created),
        })
    }

    /// All volumes.
    pub(crate) fn volumes(&self) -> &[Arc<Volume>] {
        self.store.volumes()
    }

    /// The volume that a replica is on, and which one of all that is. Looks into memory only.
    pub(crate) fn volume_of(&self, chunk: ChunkId) -> Result<(usize, Arc<Volume>), Failure> {
        let found = self.store.volume_of(chunk)?;
        let mut volumes = self.store.volumes().iter();
        let number = volumes.position(|volume| Arc::ptr_eq(volume, found));
        let number = number.expect("it was found among them");
        Ok((number, Arc::clone(found)))
    }

    /// Reads the checksum blocks that cover a range. Blocks.
    pub(crate) fn read_blocking(
        &self,
        chunk: ChunkId,
        range: Range<u64>,
    ) -> Result<Blocks, Failure> {
        let read = || {
            let length = range.end - range.start;
            let wanted = length as usize + READ_MARGIN;
            let mut buffer = buffer::pool().take(wanted.min(BUFFER_BYTES));
            let found = match self
                .store
                .read(chunk, range.start, length, &mut buffer, false)
            {
                // Rare: a range so large and so far off its blocks that a pooled buffer is too small.
                Err(StoreError::InvalidArgument { .. }) if wanted > BUFFER_BYTES => {
                    buffer = buffer::pool().take(wanted);
                    self.store
                        .read(chunk, range.start, length, &mut buffer, false)?
                }
                other => other?,
            };
            let bytes = buffer.freeze().slice(found.buffer);
            Ok(Blocks {
                offset: found.offset,
                bytes,
                blocks: found.blocks,
            })
        };
        read().map_err(|error| self.noted(error))
    }

    /// In which file a sealed replica is, and the checksum blocks around a range.
    pub(crate) async fn locate(
        &self,
        chunk: ChunkId,
        range: Range<u64>,
    ) -> Result<(PathBuf, Vec<BlockChecksum>), Failure> {
        self.run(move |store| store.locate(chunk, range)).await
    }

    /// A reader's bytes did not match: looks at the place again, so that what is bad is remembered and reported.
    pub(crate) async fn suspect(&self, chunk: ChunkId, offset: u64) {
        // What it finds is noted; the reader has its answer already.
        let _ = self.verify_step(chunk, offset, 1).await;
    }

    /// Verifies about `budget_bytes` from `from` on; what is bad is reported.
    pub(crate) async fn verify_step(
        &self,
        chunk: ChunkId,
        from: u64,
        budget_bytes: u64,
    ) -> Result<VerifyStep, Failure> {
        let step = self
            .run(move |store| store.verify(chunk, from, budget_bytes))
            .await?;
        if !step.bad.is_empty() {
            self.metrics.bad_block();
            self.changes.note(chunk);
        }
        Ok(step)
    }

    /// Makes the replica of this incarnation durable through `through`. `turn` is dropped when it is done, or found to fail: that
    /// may be long after the caller went away.
    pub(crate) async fn sync(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
        through: u64,
        turn: impl Send + 'static,
    ) -> Result<(), Failure> {
        self.metrics.synced();
        self.run(move |store| {
            let _turn = turn;
            expect(store, chunk, incarnation)?;
            store.sync(chunk, through).map(drop)
        })
        .await
    }

    /// Cuts, syncs and seals the replica of this incarnation. `turn` as for `sync`.
    pub(crate) async fn seal(
        &self,
        (chunk, incarnation): (ChunkId, Incarnation),
        epoch: Epoch,
        length: u64,
        turn: impl Send + 'static,
    ) -> Result<(), Failure> {
        let changes = Arc::clone(&self.changes);
        self.run(move |store| {
            let _turn = turn;
            expect(store, chunk, incarnation)?;
            store.seal(chunk, epoch, length)?;
            changes.note(chunk);
            Ok(())
        })
        .await
    }

    /// Seals the destination of a copy, which nobody else sees yet.
    pub(crate) async fn seal_copy(
        &self,
        chunk: ChunkId,
        epoch: Epoch,
        length: u64,
    ) -> Result<(), Failure> {
        self.run(move |store| store.seal(chunk, epoch, length).map(drop))
            .await?;
        self.changes.note(chunk);
        Ok(())
    }

    /// Removes the replica of this incarnation. One that is not there is removed already. `turn` as for `sync`. Once the caller has
    /// gone away, the replica either is not found any more or stays: whoever ordered it may count on it by then.
    pub(crate) async fn delete(
        &self,
        chunk: ChunkId,
        incarnation: Incarnation,
        turn: impl Send + 'static,
    ) -> Result<(), Failure> {
        let wanted = Wanted::default();
        let still_wanted = wanted.0.clone();
        self.run(move |store| {
            let _turn = turn;
            let leave = || Some(lock(&still_wanted)).filter(|unwanted| !**unwanted);
            match store.delete_if(chunk, incarnation, leave) {
                Err(StoreError::NoReplica { .. }) => Ok(()),
                other => other,
            }
        })
        .await
    }

    /// Refuses to wait for the disk that a replica is on while it does not answer. Looks into memory only.
    pub(crate) fn expect_answering(&self, chunk: ChunkId) -> Result<(), Failure> {
        match self.store.volume_of(chunk) {
            Ok(volume) => Ok(volume.expect_answering()?),
            // Whoever is told so is told so by the operation itself.
            Err(_) => Ok(()),
        }
    }

    /// Whether the disk that a replica is on does not answer, and may do so again. Looks into memory only.
    pub(crate) fn is_hanging(&self, chunk: ChunkId) -> bool {
        let volume = self.store.volume_of(chunk);
        volume.is_ok_and(|volume| matches!(volume.state(), VolumeState::Hanging(_)))
    }

    /// Does this with every volume that works, all at once. One whose disk does not answer is not waited for for longer than `wait_max`: what
    /// was asked of it goes on, and nothing more is asked while it hangs.
    async fn on_each_volume<T, F: Future<Output = T>>(
        &self,
        wait_max: Duration,
        work: impl Fn(Arc<Volume>) -> F,
    ) -> Vec<T> {
        let working = self.store.volumes().iter();
        let working = working.filter(|volume| !volume.is_failed() && !volume.is_hanging());
        let each = working.map(|volume| timeout(wait_max, work(Arc::clone(volume))));
        join_all(each).await.into_iter().flatten().collect()
    }

    async fn refresh_space(&self) {
        self.on_each_volume(ASK_MAX, |volume| async move {
            let path = volume.path().to_path_buf();
            let asked = blocking(move || volume.refresh_space()).await;
            if let Err(error) = asked {
                tracing::warn!(volume = %path.display(), %error, "free space unknown");
            }
        })
        .await;
    }

    /// Makes durable what open replicas hold. A volume that fails at it is withdrawn and shows in its status.
    pub(crate) async fn sync_all_open(&self) -> usize {
        let synced = |volume: Arc<Volume>| async move {
            blocking(move || volume.sync_all_open().unwrap_or(0)).await
        };
        self.on_each_volume(SYNC_MAX, synced)
            .await
            .into_iter()
            .sum()
    }

    /// The same for the last time, before a clean stop. A disk that does not answer is waited for for a while; what it keeps from being
    /// synced is then as safe as if the process had been killed.
    pub(crate) async fn sync_before_stop(&self) {
        let working = self.store.volumes().iter();
        let working = working.filter(|volume| !volume.is_failed());
        join_all(working.map(sync_for_the_last_time)).await;
    }

    /// One replica, as the leader knows it; on a volume that failed it is gone. Looks into memory only.
    pub(crate) fn find(&self, chunk: ChunkId) -> Option<ReplicaStateMessage> {
        if let Some(info) = self.store.find(chunk) {
            return Some(state_message(&info));
        }
        let lost = self
            .failed_volumes()
            .find_map(|volume| volume.find(chunk))?;
        Some(ReplicaStateMessage {
            gone: true,
            ..state_message(&lost)
        })
    }

    /// Every replica, by chunk; those on volumes that failed are gone.
    pub(crate) async fn list(&self) -> Vec<ReplicaStateMessage> {
        let replicas = self.clone();
        blocking(move || {
            let mut all: BTreeMap<u64, ReplicaStateMessage> = BTreeMap::new();
            for info in replicas.failed_volumes().flat_map(|volume| volume.list()) {
                all.insert(
                    info.chunk.0,
                    ReplicaStateMessage {
                        gone: true,
                        ..state_message(&info)
                    },
                );
            }
            all.extend(
                replicas
                    .store
                    .list()
                    .iter()
                    .map(|info| (info.chunk.0, state_message(info))),
            );
            all.into_values().collect()
        })
        .await
    }

    fn failed_volumes(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.store
            .volumes()
            .iter()
            .filter(|volume| is_failed(volume))
    }

    /// The volumes, after a look at their free space. Replicas of a volume that has failed since `known_failed` was
    /// written are noted as changed.
    pub(crate) async fn volume_reports(
        &self,
        known_failed: BTreeSet<PathBuf>,
    ) -> Vec<VolumeReport> {
        self.refresh_space().await;
        let replicas = self.clone();
        blocking(move || {
            let statuses = replicas.store.status();
            for volume in replicas
                .failed_volumes()
                .filter(|volume| !known_failed.contains(volume.path()))
            {
                volume
                    .list()
                    .iter()
                    .for_each(|info| replicas.changes.note(info.chunk));
            }
            statuses.iter().map(volume_report).collect()
        })
        .await
    }
}

/// Says that something is not wanted any more when it is dropped.
#[derive(Default)]
struct Wanted(Arc<Mutex<bool>>);

impl Drop for Wanted {
    fn drop(&mut self) {
        *lock(&self.0) = true;
    }
}

fn lock(unwanted: &Mutex<bool>) -> MutexGuard<'_, bool> {
    // Nothing inside can panic.
    unwanted.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn sync_for_the_last_time(volume: &Arc<Volume>) {
    let synced = async {
        while volume.is_hanging() {
            sleep(LOOK_AGAIN).await;
        }
        let volume = Arc::clone(volume);
        blocking(move || volume.sync_all_open()).await
    };
    let path = volume.path().display();
    match timeout(LAST_SYNC_MAX, synced).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(volume = %path, %error, "volume was not synced before the stop");
        }
        Err(_) => {
            tracing::warn!(volume = %path, "volume was not synced before the stop: its disk does not answer");
        }
    }
}

fn is_failed(volume: &Volume) -> bool {
    matches!(volume.state(), VolumeState::Failed(_))
}

fn volume_report(status: &VolumeStatus) -> VolumeReport {
    let (failed, reason) = match &status.state {
        VolumeState::Serving => (false, String::new()),
        VolumeState::Full => (false, "full".to_owned()),
        VolumeState::Hanging(lasted) => (
            false,
            format!("its disk has not answered for {} s", lasted.as_secs()),
        ),
        VolumeState::Failed(reason) => (true, reason.clone()),
    };
    let takes_more = matches!(status.state, VolumeState::Serving | VolumeState::Full);
    VolumeReport {
        path: status.path.display().to_string(),
        capacity_bytes: status.total_bytes,
        used_bytes: status.used_bytes,
        available_bytes: if takes_more { status.usable_bytes } else { 0 },
        replica_count: status.replica_count as u64,
        failed,
        reason,
        filesystem: status.filesystem,
        hanging: matches!(status.state, VolumeState::Hanging(_)),
    }
}

/// The right to append to one replica.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    replicas: Replicas,
    appender: Arc<Appender>,
}

impl Writer {
    /// Waits until a newer writer, a seal or a deletion has ended this one. Cancel-safe.
    pub(crate) async fn ended(&self) {
        self.appender.ended().cancelled().await;
    }

    /// Appends contiguous packets in one go, and makes them durable if `sync`.
    pub(crate) async fn append(&self, batch: Vec<Packet>, sync: bool) -> Result<(), Failure> {
        let Some(end) = batch.last().map(Packet::end) else {
            return Ok(());
        };
        let has_bytes = batch.iter().any(|packet| !packet.payload.is_empty());
        if !has_bytes && !sync {
            return Ok(());
        }
        let appender = Arc::clone(&self.appender);
        let metrics = &self.replicas.metrics;
        metrics.appended();
        if sync {
            metrics.synced();
        }
        let append = move |_: &ChunkStore| {
            let parts: Vec<_> = batch
                .iter()
                .filter(|p| !p.payload.is_empty())
                .map(as_append)
                .collect();
            if !parts.is_empty() {
                appender.append_many(&parts)?;
            }
            if sync {
                appender.sync(end).map(drop)
            } else {
                Ok(())
            }
        };
        self.replicas.run(append).await
    }
}

fn as_append(packet: &Packet) -> Append<'_> {
    Append {
        offset: packet.offset,
        data: &packet.payload,
        blocks: &packet.blocks,
        verified: true,
    }
}

fn expect(store: &ChunkStore, chunk: ChunkId, incarnation: Incarnation) -> Result<(), StoreError> {
    let info = store.find(chunk).ok_or(StoreError::NoReplica { chunk })?;
    expect_incarnation(&info, incarnation)
}

fn expect_incarnation(info: &ReplicaInfo, given: Incarnation) -> Result<(), StoreError> {
    if info.incarnation == given {
        return Ok(());
    }
    Err(StoreError::WrongIncarnation {
        chunk: info.chunk,
        given,
        recorded: info.incarnation,
    })
}

/// A replica as reports have it.
pub(crate) fn state_message(info: &ReplicaInfo) -> ReplicaStateMessage {
    ReplicaStateMessage {
        chunk: info.chunk.0,
        incarnation: info.incarnation.0,
        epoch: info.epoch.0,
        length: info.length,
        sealed: info.state == ReplicaState::Sealed,
        synced_length: info.synced_length,
        bad: info.bad || info.state == ReplicaState::Damaged,
        gone: false,
    }
}
