//! `sync`: committed bytes of chunks on the disks of their replicas, whoever wrote them.
//!
//! What is promised: when it returns, every replica of the committed set whose datanode is alive, and that is not known to have
//! failed, has fsynced through the length that was asked for. If that is the whole set, the chunk's
//! synced length advances and nobody has to ask again. If not, the missing replicas are already on their way out: an open chunk
//! with such a replica is sealed, and a copy, which is fsynced before it joins, takes the place of each. Where there are datanodes
//! for these copies, they are waited for: a few seconds for all of them, as long as it takes for a second replica. A datanode that
//! comes back counts only after its replica has confirmed the seal, which fsyncs, too. A replica whose disk does not answer is missing in
//! the same way until it does. So after the power fails everywhere, the
//! bytes are on as many disks as could be reached when `sync` returned. Who neither answers nor is dead yet is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::Failure;
use cairn_protocol::ids::{ChunkId, DatanodeId, Incarnation};
use cairn_protocol::messages::datanode::{InstructionKind, SyncReplica};
use cairn_protocol::rpc::RpcError;
use futures::future::join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::Controllers;
use super::copies::MARGIN_BYTES;
use super::decide::ReplicaView;
use super::instruct::{fault, instruction, internal};
use super::reconcile::is_verdict;
use super::registry::Standing;
use crate::namespace::command::{AdvanceSynced, CommandKind};
use crate::store::chunk;
use crate::store::records::{ChunkRecord, ChunkState};

/// Chunks of one call that are synced at once.
const CHUNKS_AT_ONCE: usize = 16;
/// Between two attempts to reach replicas that did not answer.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// How long `sync` waits for the last of the copies that take the place of missing replicas, if two replicas are there.
const PATIENCE: Duration = Duration::from_secs(5);
/// One more loss must not be the loss of what was synced, where more than one replica is asked for and possible.
const SYNCED_MIN: usize = 2;

type Replica = (DatanodeId, Incarnation);

/// Makes concurrent syncs of one chunk share the work: one at a time, as far as any of those who wait wants.
#[derive(Debug, Default)]
pub(super) struct SyncGates {
    /// Held for a look-up only.
    gates: Mutex<BTreeMap<ChunkId, Arc<Gate>>>,
}

#[derive(Debug, Default)]
struct Gate {
    /// How far those who wait want.
    wanted: AtomicU64,
    /// How far it was done while the gate existed.
    done: tokio::sync::Mutex<u64>,
}

/// A place at a gate; the gate goes with the last one.
struct Entry<'a> {
    gates: &'a SyncGates,
    chunk: ChunkId,
    /// Taken only when it is dropped, under the lock of the map: of those who leave at the same time each sees that the other has.
    gate: Option<Arc<Gate>>,
}

impl Entry<'_> {
    fn gate(&self) -> &Gate {
        self.gate.as_ref().expect("it is there until the drop")
    }
}

impl SyncGates {
    fn enter(&self, chunk: ChunkId, through: u64) -> Entry<'_> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = Arc::clone(gates.entry(chunk).or_default());
        // Relaxed: whoever works reads it after taking `done`, which orders the two.
        gate.wanted.fetch_max(through, Ordering::Relaxed);
        Entry {
            gates: self,
            chunk,
            gate: Some(gate),
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut gates = self
            .gates
            .gates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        drop(self.gate.take());
        let is_alone = |gate: &Arc<Gate>| Arc::strong_count(gate) == 1;
        if gates.get(&self.chunk).is_some_and(is_alone) {
            gates.remove(&self.chunk);
        }
    }
}

pub(super) async fn sync_chunks(
    controllers: &Controllers,
    chunks: &[(ChunkId, u64)],
) -> Result<(), RpcError> {
    let term = controllers.group.require_leader()?;
    let patient_until = Instant::now() + PATIENCE;
    let mut wanted: BTreeMap<ChunkId, u64> = BTreeMap::new();
    for (chunk, through) in chunks {
        let furthest = wanted.entry(*chunk).or_default();
        *furthest = (*furthest).max(*through);
    }
    let work = stream::iter(wanted)
        .map(|(chunk, through)| sync_shared(controllers, (term, patient_until), chunk, through))
        .buffer_unordered(CHUNKS_AT_ONCE)
        .try_collect::<()>();
    match tokio::time::timeout(controllers.options.sync_timeout, work).await {
        Ok(done) => done,
        Err(_) => Err(RpcError::new(
            ErrorCode::TimedOut,
            "some replicas have neither synced nor failed in time",
        )),
    }
}

async fn sync_shared(
    controllers: &Controllers,
    limits: (u64, Instant),
    chunk: ChunkId,
    through: u64,
) -> Result<(), RpcError> {
    let entry = controllers.gates.enter(chunk, through);
    let mut done = entry.gate().done.lock().await;
    if *done >= through {
        return Ok(());
    }
    let furthest = entry.gate().wanted.load(Ordering::Relaxed);
    *done = sync_one(controllers, limits, chunk, (through, furthest)).await?;
    Ok(())
}

/// Syncs as far as the last of those who wait wants, and tells how far it was; fails if the bytes up to `own` cannot be.
async fn sync_one(
    controllers: &Controllers,
    (term, patient_until): (u64, Instant),
    id: ChunkId,
    (own, furthest): (u64, u64),
) -> Result<u64, RpcError> {
    let mut confirmed: BTreeSet<Replica> = BTreeSet::new();
    loop {
        let record = chunk::get(&controllers.store().snapshot(), id).map_err(internal)?;
        let Some(record) = record else {
            // Nothing uses it any more.
            return Ok(furthest);
        };
        if record.state() == ChunkState::Sealed && record.live_bytes == 0 {
            // Nor this one: it has copies no more.
            return Ok(furthest);
        }
        if own.min(record.length) > record.held_length() {
            let message = format!("chunk {id}: its last {} bytes are lost", record.lost_bytes);
            return Err(RpcError::new(ErrorCode::DataLost, message));
        }
        // What others have lost is their error.
        let through = furthest.min(record.held_length());
        let synced_through = if record.lost_bytes > 0 {
            through
        } else {
            furthest
        };
        if record.synced_length >= through {
            return Ok(synced_through);
        }
        let ask = awaited(controllers, term, &record, &confirmed)?;
        let answers = ask
            .iter()
            .map(|replica| sync_replica(controllers, term, id, *replica, through));
        let synced = join_all(answers).await;
        confirmed.extend(
            ask.iter()
                .zip(synced)
                .filter(|(_, ok)| *ok)
                .map(|(r, _)| *r),
        );
        let set = replicas(&record);
        let synced = set
            .iter()
            .filter(|replica| confirmed.contains(replica))
            .count();
        let is_whole = synced == set.len();
        let nobody_awaited = awaited(controllers, term, &record, &confirmed)?.is_empty();
        // An open chunk that began with fewer replicas gets the others when it is sealed.
        let enough = (is_whole && record.state() != ChunkState::Sealed) || {
            let patient = Instant::now() < patient_until;
            let possible = possible(controllers, term, &record, patient)?;
            is_enough(synced, possible, patient_until)
        };
        if is_whole && enough {
            if advance(controllers, id, through, &set).await? {
                return Ok(synced_through);
            }
            // The set has changed: who joined is asked in the next round.
        } else if nobody_awaited && enough {
            return Ok(synced_through);
        } else if nobody_awaited && synced == 0 {
            let message = format!("chunk {id}: none of its replicas can be reached");
            return Err(RpcError::new(ErrorCode::Unavailable, message));
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

fn replicas(record: &ChunkRecord) -> Vec<Replica> {
    let set = record.replicas.iter();
    set.map(|replica| {
        (
            DatanodeId(replica.datanode),
            Incarnation(replica.incarnation),
        )
    })
    .collect()
}

/// Replicas that have not confirmed and are neither known to have failed nor on a dead datanode or a disk that hangs.
fn awaited(
    controllers: &Controllers,
    term: u64,
    record: &ChunkRecord,
    confirmed: &BTreeSet<Replica>,
) -> Result<Vec<Replica>, RpcError> {
    let soft = controllers
        .soft_of(term)
        .ok_or_else(|| RpcError::not_leader(controllers.group.leader_hint()))?;
    let mut set = replicas(record);
    set.retain(|replica| {
        let standing = soft.datanodes.standing(replica.0, replica.1);
        !confirmed.contains(replica) && matches!(standing, Standing::Good | Standing::Unconfirmed)
    });
    Ok(set)
}

/// How many replicas the chunk can have now: live ones, and copies for which there is a datanode; at most what is asked for. `patient`: a disk
/// that hangs may answer in a moment, so its replica counts still.
fn possible(
    controllers: &Controllers,
    term: u64,
    record: &ChunkRecord,
    patient: bool,
) -> Result<usize, RpcError> {
    let soft = controllers
        .soft_of(term)
        .ok_or_else(|| RpcError::not_leader(controllers.group.leader_hint()))?;
    let views = soft.views(record);
    let counts = |view: &&ReplicaView| {
        let hangs = || {
            let datanodes = &soft.datanodes;
            datanodes.is_hanging(view.datanode, view.incarnation)
        };
        view.is_live() || (patient && hangs())
    };
    let live = views.iter().filter(counts).count();
    let taken = views.iter().map(|view| view.datanode).collect();
    let candidates = soft.datanodes.candidates(&taken, |_| MARGIN_BYTES);
    let roomy = candidates
        .iter()
        .filter(|candidate| candidate.free_bytes >= record.held_length());
    let asked = usize::try_from(record.replication).unwrap_or(usize::MAX);
    Ok(asked.min(live + roomy.count()))
}

/// Whether as many replicas are durable as `sync` promises.
fn is_enough(synced: usize, possible: usize, patient_until: Instant) -> bool {
    let enough = if Instant::now() < patient_until {
        possible
    } else {
        possible.min(SYNCED_MIN)
    };
    synced >= enough.max(1)
}

/// True if the replica is durable through there. A refusal that is a verdict, or that comes of a disk that hangs, is remembered, so that
/// the chunk is repaired.
async fn sync_replica(
    controllers: &Controllers,
    term: u64,
    chunk: ChunkId,
    (datanode, incarnation): Replica,
    through: u64,
) -> bool {
    let sync = InstructionKind::Sync(SyncReplica { through });
    let instructions = vec![instruction(chunk, incarnation, sync)];
    let timeout = controllers.options.instruct_timeout;
    let answer = controllers
        .instruct(term, datanode, instructions, timeout)
        .await;
    let Ok(Some(result)) = answer.map(|mut results| results.pop()) else {
        return false;
    };
    let Some(failure) = result.failure.clone().map(Failure::from) else {
        return true;
    };
    let found = result.state.as_ref();
    let found = found.filter(|state| state.chunk == chunk.0);
    if result.hanging
        && let Some(mut soft) = controllers.soft_of(term)
    {
        tracing::warn!(%chunk, %datanode, %incarnation, error = %failure, "disk of a replica to be synced does not answer");
        soft.mark_hanging(datanode, chunk, incarnation);
        controllers.work.notify_one();
    } else if is_verdict(failure.code)
        && let Some(mut soft) = controllers.soft_of(term)
    {
        tracing::warn!(%chunk, %datanode, %incarnation, error = %failure, "replica cannot sync");
        let fault = fault(failure.code, incarnation, found);
        soft.mark_failed(datanode, chunk, incarnation, fault);
        controllers.work.notify_one();
    }
    false
}

/// Records that the whole set confirmed. False if the set is another one by now.
async fn advance(
    controllers: &Controllers,
    chunk: ChunkId,
    synced_length: u64,
    set: &[Replica],
) -> Result<bool, RpcError> {
    let confirmed = set
        .iter()
        .flat_map(|(datanode, incarnation)| [datanode.0, incarnation.0]);
    let command = CommandKind::AdvanceSynced(AdvanceSynced {
        chunk: chunk.0,
        synced_length,
        confirmed_incarnations: confirmed.collect(),
    });
    let proposed = controllers.group.propose(command).await?;
    Ok(proposed.outcome.code == 0)
}

#[cfg(test)]
mod tests {
    use super::{ChunkId, Instant, Ordering, PATIENCE, SyncGates, is_enough};

    #[tokio::test(start_paused = true)]
    async fn all_that_can_be_are_waited_for_and_after_a_while_two() {
        let until = Instant::now() + PATIENCE;
        assert!(is_enough(3, 3, until) && !is_enough(2, 3, until));
        assert!(is_enough(1, 1, until), "there is no other datanode");
        assert!(!is_enough(0, 0, until), "never without any");
        tokio::time::advance(PATIENCE).await;
        assert!(is_enough(2, 3, until) && !is_enough(1, 3, until));
        assert!(is_enough(1, 1, until) && !is_enough(0, 1, until));
    }

    #[test]
    fn callers_of_one_chunk_share_a_gate_which_goes_with_the_last() {
        let gates = SyncGates::default();
        let first = gates.enter(ChunkId(1), 10);
        let second = gates.enter(ChunkId(1), 30);
        let other = gates.enter(ChunkId(2), 5);
        assert_eq!(first.gate().wanted.load(Ordering::Relaxed), 30);
        assert_eq!(gates.gates.lock().unwrap().len(), 2);
        drop(second);
        drop(other);
        assert_eq!(gates.gates.lock().unwrap().len(), 1);
        drop(first);
        assert!(gates.gates.lock().unwrap().is_empty());
    }
}
