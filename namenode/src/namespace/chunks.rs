//! The life of a chunk as the log sees it: who uses which bytes (I4), the writer (I5), sealing, reclaim.
//!
//! ```text
//! allocate ──> Open ──return──> Idle ──allocate──> Open (epoch + 1) ──> …
//!                │                │
//!                └──── seal ──────┴──> Sealed ── no live bytes, grace over ──> dropped
//! ```
//! A chunk is in exactly one of the tables `open_chunk` (by its writer), `idle_chunk` and — sealed without live bytes —
//! `dead_chunk`, or, sealed with live bytes, in none.

use std::collections::BTreeMap;
use std::ops::Range;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, DatanodeId, Epoch, Incarnation, SessionId};
use cairn_protocol::messages::common::{DatanodeAddress, ReplicaTarget};
use cairn_protocol::messages::operation::ChunkGrant;

use super::context::{Context, Stamp};
use super::error::OpError;
use super::inode::REPLICATION_MAX;
use crate::store::chunk_use::ChunkUse;
use crate::store::records::{ChunkRecord, ChunkState, ReplicaRecord};
use crate::store::{self, Read, StoreError, Txn};

/// Most chunks that one session writes to at once: bounds what the end of a session has to seal.
pub(super) const OPEN_CHUNKS_MAX: usize = 1024;

/// A chunk with less room than this is not worth handing on.
const HAND_ON_BYTES_MIN: u64 = 64 << 10;
/// … or with less than this part of its capacity.
const HAND_ON_FRACTION: u64 = 64;

/// The chunk, which must exist.
pub(super) fn load(read: &impl Read, id: ChunkId) -> Result<ChunkRecord, OpError> {
    store::chunk::get(read, id)?.ok_or_else(|| {
        let message = format!("chunk {} does not exist (any more)", id.hex());
        OpError::new(ErrorCode::NotFound, message)
    })
}

/// The chunk of a use; without it the state contradicts itself (I3).
fn load_used(read: &impl Read, id: ChunkId) -> Result<ChunkRecord, StoreError> {
    store::chunk::get(read, id)?.ok_or_else(|| {
        StoreError::Inconsistent(format!("chunk {} is used and does not exist", id.hex()))
    })
}

/// Fails unless the session is the chunk's writer at this epoch.
pub(super) fn check_writer(
    id: ChunkId,
    chunk: &ChunkRecord,
    session: SessionId,
    epoch: Epoch,
) -> Result<(), OpError> {
    if chunk.state() == ChunkState::Sealed {
        return Err(OpError::new(
            ErrorCode::Sealed,
            format!("chunk {}", id.hex()),
        ));
    }
    let written_by_session = chunk.state() == ChunkState::Open && chunk.writer == session.0;
    if written_by_session && !chunk.compaction && chunk.epoch == epoch.0 {
        return Ok(());
    }
    let message = format!(
        "chunk {} is at epoch {}, and session {session} does not write to it at epoch {epoch}",
        id.hex(),
        chunk.epoch
    );
    Err(OpError::new(ErrorCode::StaleEpoch, message))
}

/// Adds a use of bytes that nobody can have used yet: they lie above all that was ever committed.
pub(super) fn add_fresh_use(txn: &mut Txn, id: ChunkId, chunk: &mut ChunkRecord, added: &ChunkUse) {
    store::chunk_use::put(txn, id, added);
    chunk.longest_use = chunk.longest_use.max(added.length);
    add_live(txn, id, chunk, added.length);
}

/// Adds a use of bytes that others may use already. The caller stores the chunk.
pub(super) fn add_use(
    txn: &mut Txn,
    id: ChunkId,
    chunk: &mut ChunkRecord,
    added: &ChunkUse,
) -> Result<(), StoreError> {
    let covered = covered_bytes(txn, id, chunk, added.offset_in_chunk..added.end())?;
    chunk.shared |= covered > 0;
    store::chunk_use::put(txn, id, added);
    chunk.longest_use = chunk.longest_use.max(added.length);
    add_live(txn, id, chunk, added.length - covered);
    Ok(())
}

/// Adds a use of bytes all of which another use covers (a clone): nothing more becomes live.
pub(super) fn share_use(
    txn: &mut Txn,
    id: ChunkId,
    added: &ChunkUse,
    replication: u32,
) -> Result<(), StoreError> {
    let mut chunk = load_used(txn, id)?;
    raise_replication(txn, id, &mut chunk, replication);
    store::chunk_use::put(txn, id, added);
    chunk.shared = true;
    chunk.longest_use = chunk.longest_use.max(added.length);
    store::chunk::put(txn, id, &chunk);
    Ok(())
}

/// Makes a use longer by bytes above all that was ever committed. The caller stores the chunk.
pub(super) fn extend_use(
    txn: &mut Txn,
    id: ChunkId,
    chunk: &mut ChunkRecord,
    chunk_use: &ChunkUse,
    more_bytes: u64,
) {
    let longer = ChunkUse {
        length: chunk_use.length + more_bytes,
        ..*chunk_use
    };
    store::chunk_use::put(txn, id, &longer);
    chunk.longest_use = chunk.longest_use.max(longer.length);
    add_live(txn, id, chunk, more_bytes);
}

/// Takes the part `gone` out of a use: its row goes, rows for what is `kept` come.
pub(super) fn release(
    txn: &mut Txn,
    stamp: Stamp,
    id: ChunkId,
    old: &ChunkUse,
    gone: Range<u64>,
    kept: &[ChunkUse],
) -> Result<(), StoreError> {
    let mut chunk = load_used(txn, id)?;
    store::chunk_use::delete(txn, id, old);
    for kept in kept {
        store::chunk_use::put(txn, id, kept);
    }
    let bytes = gone.end - gone.start;
    // Without sharing, what one use lets go is nobody's.
    let covered = if chunk.shared {
        covered_bytes(txn, id, &chunk, gone)?
    } else {
        0
    };
    remove_live(txn, stamp, id, &mut chunk, bytes - covered)?;
    store::chunk::put(txn, id, &chunk);
    Ok(())
}

/// How many bytes of a range uses cover.
fn covered_bytes(
    read: &impl Read,
    id: ChunkId,
    chunk: &ChunkRecord,
    range: Range<u64>,
) -> Result<u64, StoreError> {
    let mut covered = 0;
    let mut up_to = range.start;
    // No use that reaches into the range begins before this.
    let start = range.start.saturating_sub(chunk.longest_use);
    store::chunk_use::scan(read, id, start, &mut |chunk_use| {
        if chunk_use.offset_in_chunk >= range.end {
            return Ok(false);
        }
        let from = chunk_use.offset_in_chunk.max(up_to);
        let to = chunk_use.end().min(range.end);
        if from < to {
            covered += to - from;
            up_to = to;
        }
        Ok(up_to < range.end)
    })?;
    Ok(covered)
}

fn add_live(txn: &mut Txn, id: ChunkId, chunk: &mut ChunkRecord, bytes: u64) {
    if bytes == 0 {
        return;
    }
    if chunk.live_bytes == 0 && chunk.state() == ChunkState::Sealed {
        store::dead_chunk::delete(txn, id);
        txn.touched_chunk(id);
    }
    chunk.live_bytes += bytes;
    txn.cluster_mut().live_bytes += bytes;
}

fn remove_live(
    txn: &mut Txn,
    stamp: Stamp,
    id: ChunkId,
    chunk: &mut ChunkRecord,
    bytes: u64,
) -> Result<(), StoreError> {
    if bytes == 0 {
        return Ok(());
    }
    let Some(left) = chunk.live_bytes.checked_sub(bytes) else {
        return Err(StoreError::Inconsistent(format!(
            "chunk {} has {} live bytes and loses {bytes} (I4)",
            id.hex(),
            chunk.live_bytes
        )));
    };
    chunk.live_bytes = left;
    let cluster = txn.cluster_mut();
    cluster.live_bytes = cluster.live_bytes.saturating_sub(bytes);
    if left == 0 {
        // No uses are left: what was known about their overlaps is over.
        chunk.shared = false;
        chunk.longest_use = 0;
        if chunk.state() == ChunkState::Sealed {
            settle(txn, stamp, id, chunk);
        }
    }
    if chunk.state() == ChunkState::Sealed {
        // The leader's compaction looks at chunks that lost bytes.
        txn.touched_chunk(id);
    }
    Ok(())
}

/// A sealed chunk has no live bytes: its grace begins.
fn settle(txn: &mut Txn, stamp: Stamp, id: ChunkId, chunk: &mut ChunkRecord) {
    chunk.settled_ns = chunk.settled_ns.max(stamp.time_ns);
    store::dead_chunk::put(txn, id);
}

/// The committed bytes of an open chunk now reach at least to `end`. The caller stores the chunk.
pub(super) fn advance_length(txn: &mut Txn, chunk: &mut ChunkRecord, end: u64) {
    if end > chunk.length {
        txn.cluster_mut().chunk_bytes += end - chunk.length;
        chunk.length = end;
    }
}

/// The writer says that all replicas have fsynced the chunk through `end`, where bytes of its own epoch end. Called before they
/// are committed; the caller stores the chunk.
///
/// It is believed of its own bytes alone: whoever lies about them harms what he could have left unwritten as well. What is
/// committed below its epoch is others', and one length cannot tell the bytes above as synced and those below as not. So
/// nothing is believed before the replicas themselves have confirmed what lies below: the next `sync` asks them.
pub(super) fn believe_synced(chunk: &mut ChunkRecord, end: u64) {
    let others = chunk.length.min(chunk.epoch_start);
    if chunk.synced_length >= others {
        chunk.synced_length = chunk.synced_length.max(end);
    }
}

/// A file that uses the chunk wants this many replicas. The caller stores the chunk.
pub(super) fn raise_replication(
    txn: &mut Txn,
    id: ChunkId,
    chunk: &mut ChunkRecord,
    replication: u32,
) {
    if replication > chunk.replication && replication <= REPLICATION_MAX {
        set_replication(txn, id, chunk, replication);
    }
}

/// No file that uses the chunk wants more replicas than this. The caller stores the chunk.
pub(super) fn lower_replication(
    txn: &mut Txn,
    id: ChunkId,
    chunk: &mut ChunkRecord,
    replication: u32,
) {
    if replication < chunk.replication && replication > 0 {
        set_replication(txn, id, chunk, replication);
    }
}

fn set_replication(txn: &mut Txn, id: ChunkId, chunk: &mut ChunkRecord, replication: u32) {
    if chunk.state() == ChunkState::Idle {
        store::idle_chunk::delete(txn, chunk.replication, id);
        store::idle_chunk::put(txn, replication, id);
    }
    chunk.replication = replication;
    txn.touched_chunk(id);
}

/// Ends a chunk at its committed length; one of compaction, which is made before anything in it is committed, at what all its replicas
/// have on disk. One that is sealed already stays as it is.
pub(super) fn seal(txn: &mut Txn, stamp: Stamp, id: ChunkId, chunk: &mut ChunkRecord) {
    if chunk.compaction && chunk.state() == ChunkState::Open {
        advance_length(txn, chunk, chunk.synced_length);
    }
    match chunk.state() {
        ChunkState::Sealed => return,
        ChunkState::Open => store::open_chunk::delete(txn, chunk.writer.into(), id),
        ChunkState::Idle => store::idle_chunk::delete(txn, chunk.replication, id),
    }
    chunk.set_state(ChunkState::Sealed);
    chunk.writer = 0;
    // Bytes beyond the committed length vanish, synced or not.
    chunk.synced_length = chunk.synced_length.min(chunk.length);
    chunk.settled_ns = stamp.time_ns;
    if chunk.live_bytes == 0 {
        settle(txn, stamp, id, chunk);
    }
    txn.touched_chunk(id);
    store::chunk::put(txn, id, chunk);
}

/// Seals what a session writes to, at its end: at most [`OPEN_CHUNKS_MAX`] chunks.
pub(super) fn seal_all_of(txn: &mut Txn, ctx: &Context, session: SessionId) -> Result<(), OpError> {
    for id in open_chunks(txn, session)? {
        let mut chunk = load_used(txn, id)?;
        seal(txn, ctx.stamp, id, &mut chunk);
    }
    Ok(())
}

fn open_chunks(read: &impl Read, session: SessionId) -> Result<Vec<ChunkId>, StoreError> {
    let mut chunks = Vec::new();
    store::open_chunk::scan(read, session, ChunkId(0), &mut |id| {
        chunks.push(id);
        Ok(true)
    })?;
    Ok(chunks)
}

/// Takes a chunk back whose replicas are all `length` long: it waits for its next writer, or is sealed if it is nearly
/// full. The caller has checked the writer and the length.
pub(super) fn take_back(
    txn: &mut Txn,
    stamp: Stamp,
    id: ChunkId,
    chunk: &mut ChunkRecord,
    length: u64,
) {
    let room = chunk.capacity - length;
    if room < HAND_ON_BYTES_MIN || room < chunk.capacity / HAND_ON_FRACTION {
        return seal(txn, stamp, id, chunk);
    }
    store::open_chunk::delete(txn, chunk.writer.into(), id);
    chunk.set_state(ChunkState::Idle);
    chunk.writer = 0;
    // Some bytes below may never have been committed; they never will be, for commits begin at the epoch's start.
    chunk.epoch_start = length;
    store::idle_chunk::put(txn, chunk.replication, id);
    store::chunk::put(txn, id, chunk);
    txn.touched_chunk(id);
}

/// Hands an idle chunk on to its next writer.
pub(super) fn hand_on(txn: &mut Txn, session: SessionId, id: ChunkId, chunk: &mut ChunkRecord) {
    store::idle_chunk::delete(txn, chunk.replication, id);
    chunk.set_state(ChunkState::Open);
    chunk.epoch += 1;
    chunk.writer = session.0;
    store::open_chunk::put(txn, session, id);
    store::chunk::put(txn, id, chunk);
    txn.touched_chunk(id);
}

/// What a new chunk is to be.
pub(super) struct NewChunk<'a> {
    /// Writer; 0 for compaction.
    pub session: SessionId,
    /// Replicas asked for.
    pub replication: u32,
    /// Where, in pipeline order.
    pub datanodes: &'a [u64],
}

/// Makes an open chunk. Datanodes that were forgotten since the leader chose them are left out.
pub(super) fn create(
    txn: &mut Txn,
    stamp: Stamp,
    new: &NewChunk<'_>,
) -> Result<(ChunkId, ChunkRecord), OpError> {
    let Some(settings) = txn.cluster().settings.as_ref() else {
        return Err(OpError::new(
            ErrorCode::Unavailable,
            "the cluster is not founded yet",
        ));
    };
    let capacity = settings.chunk_size;
    // 0 means "none".
    let id = ChunkId(txn.cluster().next_chunk.max(1));
    let replicas = place(txn, id, new)?;
    let chunk = ChunkRecord {
        state: ChunkState::Open as i32,
        epoch: 1,
        writer: new.session.0,
        replication: new.replication,
        replicas,
        capacity,
        created_ns: stamp.time_ns,
        compaction: new.session.0 == 0,
        ..ChunkRecord::default()
    };
    let cluster = txn.cluster_mut();
    cluster.next_chunk = id.0 + 1;
    cluster.chunk_count += 1;
    store::open_chunk::put(txn, new.session, id);
    store::chunk::put(txn, id, &chunk);
    txn.touched_chunk(id);
    Ok((id, chunk))
}

fn place(txn: &mut Txn, id: ChunkId, new: &NewChunk<'_>) -> Result<Vec<ReplicaRecord>, OpError> {
    let mut replicas: Vec<ReplicaRecord> = Vec::with_capacity(new.datanodes.len());
    for &datanode in new.datanodes.iter().take(REPLICATION_MAX as usize) {
        let known = store::datanode::get(txn, datanode.into())?.is_some();
        if !known || replicas.iter().any(|replica| replica.datanode == datanode) {
            continue;
        }
        let incarnation = next_incarnation(txn);
        add_replica_row(txn, datanode.into(), id)?;
        replicas.push(ReplicaRecord {
            datanode,
            incarnation: incarnation.0,
        });
    }
    if replicas.is_empty() {
        let message = format!(
            "no datanode has room for a chunk of replication {}",
            new.replication
        );
        return Err(OpError::new(ErrorCode::NotEnoughDatanodes, message));
    }
    Ok(replicas)
}

/// A number for a life of a replica.
pub(super) fn next_incarnation(txn: &mut Txn) -> Incarnation {
    let cluster = txn.cluster_mut();
    let incarnation = Incarnation(cluster.next_incarnation);
    cluster.next_incarnation += 1;
    incarnation
}

/// Fails if the datanode has a replica in the set.
pub(super) fn check_no_replica(
    id: ChunkId,
    chunk: &ChunkRecord,
    datanode: DatanodeId,
) -> Result<(), OpError> {
    if chunk
        .replicas
        .iter()
        .all(|replica| replica.datanode != datanode.0)
    {
        return Ok(());
    }
    let message = format!("datanode {datanode} has a replica of chunk {}", id.hex());
    Err(OpError::new(ErrorCode::AlreadyExists, message))
}

/// The datanode's side of a replica.
pub(super) fn add_replica_row(
    txn: &mut Txn,
    datanode: DatanodeId,
    chunk: ChunkId,
) -> Result<(), StoreError> {
    store::replica::put(txn, datanode, chunk);
    count_replicas(txn, datanode, |count| count + 1)
}

/// Removes the datanode's side of a replica.
pub(super) fn remove_replica_row(
    txn: &mut Txn,
    datanode: DatanodeId,
    chunk: ChunkId,
) -> Result<(), StoreError> {
    store::replica::delete(txn, datanode, chunk);
    count_replicas(txn, datanode, |count| count.saturating_sub(1))
}

fn count_replicas(
    txn: &mut Txn,
    datanode: DatanodeId,
    change: impl Fn(u64) -> u64,
) -> Result<(), StoreError> {
    if let Some(mut record) = store::datanode::get(txn, datanode)? {
        record.replica_count = change(record.replica_count);
        store::datanode::put(txn, datanode, &record);
    }
    Ok(())
}

/// Fails if the session writes to as many chunks as it may.
pub(super) fn check_open_limit(read: &impl Read, session: SessionId) -> Result<(), OpError> {
    if open_chunks(read, session)?.len() < OPEN_CHUNKS_MAX {
        return Ok(());
    }
    let message = format!(
        "session {session} writes to {OPEN_CHUNKS_MAX} chunks, no more may be open at once; return or seal some"
    );
    Err(OpError::new(ErrorCode::Overloaded, message))
}

/// What a writer has to know to append; the leader adds the token.
pub(super) fn grant(
    read: &impl Read,
    id: ChunkId,
    chunk: &ChunkRecord,
) -> Result<ChunkGrant, OpError> {
    let mut targets = Vec::with_capacity(chunk.replicas.len());
    for replica in &chunk.replicas {
        let Some(record) = store::datanode::get(read, replica.datanode.into())? else {
            let message = format!("chunk {} has a replica on a forgotten datanode", id.hex());
            return Err(StoreError::Inconsistent(message).into());
        };
        let datanode = DatanodeAddress {
            datanode: replica.datanode,
            address: record.address,
            host: record.host,
            rack: record.rack,
            local_socket: record.local_socket,
            http_address: record.http_address,
        };
        targets.push(ReplicaTarget {
            datanode,
            incarnation: replica.incarnation,
        });
    }
    Ok(ChunkGrant {
        chunk: id.0,
        epoch: chunk.epoch,
        start: chunk.epoch_start,
        capacity: chunk.capacity,
        targets,
        token: Vec::new(),
    })
}

/// Fails unless the replica set is this one, given as pairs of datanode and incarnation.
pub(super) fn check_set(
    id: ChunkId,
    chunk: &ChunkRecord,
    decided_on: &[u64],
) -> Result<(), OpError> {
    let (pairs, _) = decided_on.as_chunks::<2>();
    let decided_on = pairs.iter().map(|&[datanode, life]| (datanode, life));
    if replica_set(chunk) == decided_on.collect() {
        return Ok(());
    }
    let message = format!("the replica set of chunk {} has changed", id.hex());
    Err(OpError::new(ErrorCode::PreconditionFailed, message))
}

/// The replica set as a map from datanode to incarnation.
pub(super) fn replica_set(chunk: &ChunkRecord) -> BTreeMap<u64, u64> {
    chunk
        .replicas
        .iter()
        .map(|replica| (replica.datanode, replica.incarnation))
        .collect()
}
