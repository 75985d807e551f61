//! What the service hands in: registrations, heartbeats, reports, evidence, and the question where a chunk goes.

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, DatanodeId, Epoch, Incarnation};
use cairn_protocol::messages::datanode::{
    HeartbeatRequest, InstructionKind, RegisterDatanodeRequest, ReplicaReportRequest, ReplicaState,
    SyncReplica, VerifyReplica,
};
use cairn_protocol::messages::operation::AllocateChunk;
use cairn_protocol::messages::session::FailedReplica;
use cairn_protocol::rpc::RpcError;
use tokio::time::Instant;

use super::Controllers;
use super::examine::IDLE_ROOM_MIN;
use super::instruct::{fault, internal};
use super::placement::{Wish, choose};
use super::reconcile::{Meaning, judge};
use super::registry::{Fault, Standing};
use super::soft::Soft;
use crate::namespace::command::Placement;
use crate::store::records::{ChunkRecord, ChunkState, ClusterRecord};
use crate::store::{Read, StoreError, chunk, datanode, idle_chunk, replica};

/// A report that was asked for is asked for again after this long, if it has not come in full.
const REPORT_PATIENCE: Duration = Duration::from_secs(60);
/// Idle chunks that are looked at for one that can be handed on.
const IDLE_LOOKS_MAX: usize = 32;
/// Replicas of a report that are taken in between two chances for others.
const STATES_AT_ONCE: usize = 256;
/// Replication of one chunk.
const REPLICATION_MAX: u32 = 16;
/// A new leader gives datanodes so long to introduce themselves before it makes do with fewer.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// Part of a datanode's capacity that clients' chunks leave free, so that a full cluster can still compact and re-replicate.
const RESERVE_DIVISOR: u64 = 50;

pub(super) fn registered(
    controllers: &Controllers,
    id: DatanodeId,
    request: &RegisterDatanodeRequest,
) {
    let store = controllers.store();
    let record = match datanode::get(&store.snapshot(), id) {
        Ok(Some(record)) => record,
        // Forgotten since: it will register again.
        Ok(None) => return,
        Err(error) => {
            tracing::error!(datanode = %id, %error, "cannot read a datanode's record");
            return;
        }
    };
    let Some(mut soft) = controllers.soft() else {
        return;
    };
    let process = (request.boot_nonce.clone(), request.volumes.clone());
    let is_new = soft
        .datanodes
        .registered(id, record, process, Instant::now());
    tracing::info!(datanode = %id, address = request.address, is_new, "datanode registered");
    // Whatever was on its way to it or expected of it is found again by the report.
    soft.outbox.drop_datanode(id);
    soft.forget_deletes(id);
    if let Some(known) = soft.datanodes.get_mut(id) {
        known.dead = false;
    }
    soft.work.scan_datanode(id);
    drop(soft);
    controllers.work.notify_one();
    controllers.copies.notify_one();
}

pub(super) fn heartbeat(
    controllers: &Controllers,
    request: &HeartbeatRequest,
) -> Result<bool, RpcError> {
    let id = DatanodeId(request.datanode);
    let now = Instant::now();
    let (term, report_now) = {
        let mut soft = controllers.leading()?;
        let returned = soft.heard(id, request, now)?;
        if returned {
            tracing::info!(datanode = %id, "datanode is back");
            soft.work.scan_datanode(id);
            controllers.work.notify_one();
            controllers.copies.notify_one();
        }
        (soft.term, soft.wants_report(id, now))
    };
    let store = controllers.store();
    let snapshot = store.snapshot();
    controllers
        .take_states(&snapshot, term, id, &request.changed)
        .map_err(internal)?;
    if !request.changed.is_empty() {
        controllers.work.notify_one();
    }
    if !request.failed_sources.is_empty() {
        report_failed(controllers, &request.failed_sources);
    }
    Ok(report_now)
}

pub(super) fn replica_report(
    controllers: &Controllers,
    request: &ReplicaReportRequest,
) -> Result<(), RpcError> {
    let id = DatanodeId(request.datanode);
    let term = {
        let mut soft = controllers.leading()?;
        soft.heard_process(id, &request.boot_nonce, Instant::now())?;
        soft.term
    };
    let store = controllers.store();
    let snapshot = store.snapshot();
    let mut reported = BTreeSet::new();
    for state in &request.replicas {
        if state.chunk < request.first_chunk || state.chunk > request.last_chunk {
            let message = format!("chunk {} is not on the page that holds it", state.chunk);
            return Err(RpcError::new(ErrorCode::Malformed, message));
        }
        reported.insert(ChunkId(state.chunk));
    }
    controllers
        .take_states(&snapshot, term, id, &request.replicas)
        .map_err(internal)?;
    let missing = missing(&snapshot, id, request, &reported).map_err(internal)?;
    let mut soft = controllers.leading()?;
    for (chunk, record) in &missing {
        soft.missing(id, *chunk, record);
    }
    soft.take_page(id, request.first_chunk, request.last_chunk);
    drop(soft);
    controllers.work.notify_one();
    controllers.outbox.notify_one();
    Ok(())
}

/// Replicas that the committed state puts on this datanode and the page does not have.
fn missing(
    reader: &impl Read,
    id: DatanodeId,
    request: &ReplicaReportRequest,
    reported: &BTreeSet<ChunkId>,
) -> Result<Vec<(ChunkId, ChunkRecord)>, StoreError> {
    let mut missing = Vec::new();
    replica::scan(reader, id, ChunkId(request.first_chunk), &mut |chunk| {
        if chunk.0 > request.last_chunk {
            return Ok(false);
        }
        if !reported.contains(&chunk)
            && let Some(record) = chunk::get(reader, chunk)?
        {
            missing.push((chunk, record));
        }
        Ok(true)
    })?;
    Ok(missing)
}

pub(super) fn report_failed(controllers: &Controllers, failed: &[FailedReplica]) {
    let store = controllers.store();
    let snapshot = store.snapshot();
    let Some(mut soft) = controllers.soft() else {
        return;
    };
    for evidence in failed {
        // Evidence is anybody's word: it must not keep the controllers from their own work.
        if !soft.outbox.takes_evidence() {
            break;
        }
        let Ok(Some(record)) = chunk::get(&snapshot, ChunkId(evidence.chunk)) else {
            continue;
        };
        let named = record
            .replicas
            .iter()
            .find(|replica| replica.datanode == evidence.datanode);
        if let Some(named) = named {
            let key = (ChunkId(evidence.chunk), Incarnation(named.incarnation));
            let verify = InstructionKind::Verify(VerifyReplica {});
            soft.outbox.push(DatanodeId(named.datanode), key, verify);
        }
    }
    drop(soft);
    controllers.outbox.notify_one();
}

pub(super) fn place(
    controllers: &Controllers,
    request: &AllocateChunk,
) -> Result<Placement, RpcError> {
    let store = controllers.store();
    let snapshot = store.snapshot();
    let settings = super::soft::settings(&snapshot).map_err(internal)?;
    let replication = match request.replication {
        0 => settings.replication,
        asked => asked,
    };
    if replication == 0 || replication > REPLICATION_MAX {
        let message = format!("replication {replication}: it may be 1 to {REPLICATION_MAX}");
        return Err(RpcError::new(ErrorCode::InvalidArgument, message));
    }
    let excluded: BTreeSet<DatanodeId> = request.exclude.iter().map(|id| DatanodeId(*id)).collect();
    let mut soft = controllers.leading()?;
    let soft = &mut *soft;
    let reserve = |capacity: u64| reserve_bytes(capacity, settings.chunk_size);
    let candidates = soft.datanodes.candidates(&excluded, reserve);
    let wish = Wish {
        count: degraded_count(
            replication as usize,
            candidates.len(),
            soft.datanodes.meant_count(),
        ),
        bytes: settings.chunk_size,
        host: &request.host,
    };
    // Who leads since a moment ago knows too little to say that there are too few.
    let within = if candidates.len() < wish.count {
        Duration::MAX
    } else {
        FIRST_WORD
    };
    let few = candidates.len() < replication as usize;
    if few && soft.datanodes.awaits(&excluded, Instant::now(), within) {
        let message = "datanodes have not reported to the new leader yet";
        return Err(RpcError::new(ErrorCode::Unavailable, message));
    }
    let datanodes = choose(&candidates, &wish, &mut soft.rng)?;
    let reuse = if request.whole {
        None
    } else {
        soft.reusable(&snapshot, replication, datanodes.len(), &excluded)
            .map_err(internal)?
    };
    if reuse.is_none() {
        for id in &datanodes {
            if let Some(known) = soft.datanodes.get_mut(*id) {
                known.promised_bytes = known.promised_bytes.saturating_add(settings.chunk_size);
            }
        }
    }
    Ok(Placement {
        datanodes: datanodes.iter().map(|id| id.0).collect(),
        reuse_chunk: reuse.map_or(0, |chunk| chunk.0),
    })
}

/// How many replicas a new chunk begins with. While datanodes are away (dead, in maintenance, on their way out), a cluster that has enough of them goes on with those that are
/// there, and the missing replicas are added later; but never on fewer than two if more than one is asked for, because then one
/// more loss would be the loss of acknowledged data. A cluster that never had enough says so.
fn degraded_count(asked: usize, available: usize, meant: usize) -> usize {
    if available < asked && meant >= asked && available >= asked.min(2) {
        return available;
    }
    asked
}

/// What stays free on a datanode when clients ask: room for one chunk to be compacted or re-replicated into, and more on large
/// datanodes.
fn reserve_bytes(capacity: u64, chunk_size: u64) -> u64 {
    (capacity / RESERVE_DIVISOR)
        .min(chunk_size.saturating_mul(16))
        .max(chunk_size)
}

impl Controllers {
    /// The soft state, or `NotLeader` with a hint.
    fn leading(&self) -> Result<std::sync::MutexGuard<'_, Soft>, RpcError> {
        self.group.require_leader()?;
        self.soft()
            .ok_or_else(|| RpcError::not_leader(self.group.leader_hint()))
    }

    /// Takes in what a datanode says of its replicas. Records are read without the lock: what is judged by an older one is judged
    /// again before anything is done about it.
    pub(super) fn take_states(
        &self,
        reader: &impl Read,
        term: u64,
        datanode: DatanodeId,
        states: &[ReplicaState],
    ) -> Result<(), StoreError> {
        if states.is_empty() {
            return Ok(());
        }
        let cluster = reader.cluster_record()?;
        for some in states.chunks(STATES_AT_ONCE) {
            let records = some
                .iter()
                .map(|state| chunk::get(reader, ChunkId(state.chunk)))
                .collect::<Result<Vec<_>, _>>()?;
            let Some(mut soft) = self.soft_of(term) else {
                return Ok(());
            };
            for (state, record) in some.iter().zip(&records) {
                soft.take_state(datanode, state, record.as_ref(), &cluster);
            }
        }
        Ok(())
    }
}

impl Soft {
    /// A sign of life of a process that registered with this leader.
    fn heard_process(
        &mut self,
        id: DatanodeId,
        boot_nonce: &[u8],
        now: Instant,
    ) -> Result<(), RpcError> {
        let unknown = || {
            RpcError::new(
                ErrorCode::NotFound,
                format!("datanode {id}: register first"),
            )
        };
        let known = self.datanodes.get_mut(id).ok_or_else(unknown)?;
        match &known.process {
            Some(process) if process.boot_nonce == boot_nonce => {
                known.heard = now;
                Ok(())
            }
            _ => Err(unknown()),
        }
    }

    /// Takes in a heartbeat. True if the datanode was held for dead.
    fn heard(
        &mut self,
        id: DatanodeId,
        request: &HeartbeatRequest,
        now: Instant,
    ) -> Result<bool, RpcError> {
        self.heard_process(id, &request.boot_nonce, now)?;
        let Some(known) = self.datanodes.get_mut(id) else {
            return Ok(false);
        };
        known.promised_bytes = 0;
        if request.volumes.iter().all(|volume| !volume.hanging) {
            for chunk in std::mem::take(&mut known.hanging).into_values() {
                self.work.touch(chunk);
            }
        }
        let returned = std::mem::take(&mut known.dead);
        if let Some(process) = &mut known.process {
            process.volumes.clone_from(&request.volumes);
            process.write_streams = request.write_streams;
            if returned {
                // Orders and changes may have been lost while it was away.
                process.reported = false;
                process.report_asked = None;
            }
        }
        Ok(returned)
    }

    /// Whether it should report all its replicas; if so, it is not asked again for a while.
    fn wants_report(&mut self, id: DatanodeId, now: Instant) -> bool {
        let Some(known) = self.datanodes.get_mut(id) else {
            return false;
        };
        let Some(process) = &mut known.process else {
            return false;
        };
        let asked_lately = process
            .report_asked
            .is_some_and(|asked| now.saturating_duration_since(asked) < REPORT_PATIENCE);
        if process.reported || asked_lately {
            return false;
        }
        process.report_asked = Some(now);
        true
    }

    /// The next heartbeat is answered with the wish for a report.
    pub(super) fn ask_for_report(&mut self, id: DatanodeId) {
        let process = self
            .datanodes
            .get_mut(id)
            .and_then(|known| known.process.as_mut());
        if let Some(process) = process {
            process.reported = false;
            process.report_asked = None;
        }
    }

    /// Counts a page of a report; with the last of a complete report, replicas that have not confirmed are asked one by one.
    fn take_page(&mut self, id: DatanodeId, first: u64, last: u64) {
        let Some(process) = self
            .datanodes
            .get_mut(id)
            .and_then(|known| known.process.as_mut())
        else {
            return;
        };
        if first == 0 {
            process.next_page = Some(0);
        }
        if process.next_page != Some(first) {
            // A page was lost: the report will be asked for again.
            process.next_page = None;
            return;
        }
        process.next_page = last.checked_add(1);
        if last == u64::MAX {
            process.reported = true;
            self.work.scan_datanode(id);
        }
    }

    /// The datanode did not list this replica. It may have been made since it looked, so this is a suspicion: a replica of a
    /// sealed chunk is asked for its seal again, one of an open chunk for its bytes.
    fn missing(&mut self, id: DatanodeId, chunk: ChunkId, record: &ChunkRecord) {
        let Some(listed) = record
            .replicas
            .iter()
            .find(|replica| replica.datanode == id.0)
        else {
            return;
        };
        let incarnation = Incarnation(listed.incarnation);
        if record.state() == ChunkState::Sealed {
            if let Some(known) = self.datanodes.get_mut(id) {
                known.verified.remove(&incarnation);
            }
            self.work.touch(chunk);
        } else if record.length > 0 {
            self.check_open(id, chunk, incarnation, record.length);
        }
    }

    /// Asks a replica of an open chunk whether it has the committed bytes.
    fn check_open(
        &mut self,
        id: DatanodeId,
        chunk: ChunkId,
        incarnation: Incarnation,
        length: u64,
    ) {
        let sync = InstructionKind::Sync(SyncReplica { through: length });
        self.outbox.push(id, (chunk, incarnation), sync);
    }

    /// A verdict on a replica, until its datanode restarts or says otherwise.
    pub(super) fn mark_failed(
        &mut self,
        id: DatanodeId,
        chunk: ChunkId,
        incarnation: Incarnation,
        fault: impl Into<Fault>,
    ) {
        if let Some(known) = self.datanodes.get_mut(id) {
            known.verified.remove(&incarnation);
            known.proven.remove(&incarnation);
            known.failed.insert(incarnation, fault.into());
        }
        self.work.touch(chunk);
    }

    /// A replica that is asked for does not answer, but its datanode does: as if its datanode were dead, until its disk answers.
    pub(super) fn mark_hanging(
        &mut self,
        id: DatanodeId,
        chunk: ChunkId,
        incarnation: Incarnation,
    ) {
        if let Some(known) = self.datanodes.get_mut(id) {
            known.hanging.insert(incarnation, chunk);
        }
        self.work.touch(chunk);
    }

    /// Acts on what a datanode says of one replica.
    pub(super) fn take_state(
        &mut self,
        id: DatanodeId,
        state: &ReplicaState,
        record: Option<&ChunkRecord>,
        cluster: &ClusterRecord,
    ) {
        let (chunk, incarnation) = (ChunkId(state.chunk), Incarnation(state.incarnation));
        match judge(state, id, record, cluster) {
            Meaning::Verified => {
                let Some(known) = self.datanodes.get_mut(id) else {
                    return;
                };
                let recovered = known.failed.remove(&incarnation).is_some();
                if known.verified.insert(incarnation) || recovered {
                    self.work.touch(chunk);
                }
            }
            Meaning::Failed(code) => {
                tracing::warn!(%chunk, datanode = %id, %incarnation, ?code, "replica failed");
                let fault = fault(code, incarnation, Some(state));
                self.mark_failed(id, chunk, incarnation, fault);
            }
            Meaning::Short => {
                let length = record.map_or(0, |record| record.length);
                self.check_open(id, chunk, incarnation, length);
            }
            Meaning::Unsure => {}
            Meaning::Unlisted if record.is_some_and(|record| has_what_is_lost(state, record)) => {
                tracing::error!(%chunk, datanode = %id, %incarnation, length = state.length, "replica outside the set may hold what the chunk lost: it is left alone");
            }
            Meaning::Unlisted => self.take_unlisted(id, state),
            Meaning::Foreign => {
                tracing::error!(%chunk, datanode = %id, %incarnation, "replica of a state that this cluster never had is left alone");
            }
        }
    }

    /// A replica outside the committed set: a copy that we wait for, or something left over.
    fn take_unlisted(&mut self, id: DatanodeId, state: &ReplicaState) {
        let (chunk, incarnation) = (ChunkId(state.chunk), Incarnation(state.incarnation));
        if let Some(job) = self.copies.get_mut(&chunk)
            && job.target == id
            && job.incarnation == Some(incarnation)
        {
            job.take_state(state);
        } else if !state.gone {
            self.deletes.insert((id, chunk, incarnation));
        }
    }

    /// Forgets what was to be deleted on a datanode: its next report tells what is still there.
    pub(super) fn forget_deletes(&mut self, id: DatanodeId) {
        self.deletes.retain(|(datanode, _, _)| *datanode != id);
        self.deletes_later
            .retain(|(_, (datanode, _, _))| *datanode != id);
    }

    /// An idle chunk whose replicas are all where new bytes may go, not offered to anybody else at this epoch.
    pub(super) fn reusable(
        &mut self,
        reader: &impl Read,
        replication: u32,
        replicas_min: usize,
        excluded: &BTreeSet<DatanodeId>,
    ) -> Result<Option<ChunkId>, StoreError> {
        let mut looks = 0;
        let mut found = None;
        idle_chunk::scan(reader, replication, ChunkId(0), &mut |id| {
            looks += 1;
            if let Some(record) = chunk::get(reader, id)?
                && self.offered.get(&id) != Some(&Epoch(record.epoch))
                && record.replicas.len() >= replicas_min
                && self.can_append(&record, excluded)
            {
                found = Some((id, Epoch(record.epoch)));
            }
            Ok(found.is_none() && looks < IDLE_LOOKS_MAX)
        })?;
        if let Some((id, epoch)) = found {
            self.offered.insert(id, epoch);
        }
        Ok(found.map(|(id, _)| id))
    }

    fn can_append(&self, record: &ChunkRecord, excluded: &BTreeSet<DatanodeId>) -> bool {
        let idle = record.state() == ChunkState::Idle;
        let room = record.capacity.saturating_sub(record.length) >= IDLE_ROOM_MIN;
        idle && room
            && record.replicas.iter().all(|replica| {
                let id = DatanodeId(replica.datanode);
                let standing = self
                    .datanodes
                    .standing(id, Incarnation(replica.incarnation));
                let takes = self.datanodes.get(id).is_some_and(|known| {
                    known.takes_replicas() && known.space().available_bytes > 0
                });
                takes && standing != Standing::Failed && !excluded.contains(&id)
            })
    }
}

/// Whether a replica outside the set reaches beyond what the set still holds.
fn has_what_is_lost(state: &ReplicaState, record: &ChunkRecord) -> bool {
    record.lost_bytes > 0 && !state.gone && state.length > record.held_length()
}

#[cfg(test)]
mod tests {
    use super::degraded_count;

    #[test]
    fn a_cluster_with_datanodes_away_goes_on_with_two_but_never_with_one() {
        assert_eq!(degraded_count(3, 3, 3), 3);
        assert_eq!(degraded_count(3, 2, 3), 2);
        assert_eq!(degraded_count(3, 1, 3), 3, "refused as not enough");
        assert_eq!(degraded_count(3, 2, 2), 3, "never had enough");
        assert_eq!(degraded_count(1, 0, 1), 1);
        assert_eq!(degraded_count(5, 4, 6), 4);
    }
}
