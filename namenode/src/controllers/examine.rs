//! Works through chunks that changed, whose datanode came or went, or that a new leader has not seen yet, and carries out what
//! [`decide`](super::decide) says: seals and removals are proposed here and only here, one removal of a good replica per chunk
//! at a time; confirmations and deletions go to the outbox, copies to their queue.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, DatanodeId, Epoch, Incarnation};
use cairn_protocol::messages::admin::DatanodeAdminState;
use cairn_protocol::messages::datanode::{
    DeleteReplica, InstructionKind, SealReplica, VerifyReplica,
};
use futures::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::balance::Fill;
use super::compaction::is_mostly_unused;
use super::copies::MARGIN_BYTES as COPY_MARGIN_BYTES;
use super::decide::{Action, Circumstances, Decision, Health, ReplicaView, decide, is_short};
use super::options::ControllerOptions;
use super::placement::Spread;
use super::registry::Standing;
use super::soft::{Scan, Soft};
use super::{Controllers, until_stopped};
use crate::namespace::command::{
    AddReplica, CommandKind, DeclareLost, RemoveReplica, SealOpenChunk,
};
use crate::store::records::{ChunkRecord, ChunkState};
use crate::store::{Read, StoreError, chunk, replica};

/// An idle chunk with less room than this is of no use to a next writer.
pub(super) const IDLE_ROOM_MIN: u64 = 64 << 10;
/// Longest rest of an idle chunk that has fewer replicas than it asks for, or of which little is used any more.
const IDLE_SHORT_MAX: Duration = Duration::from_secs(5);

/// A change of the committed state that was decided on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Proposal {
    /// Seal an open chunk at its committed length.
    Seal(ChunkId, Epoch),
    /// Take a replica out of the set.
    Remove(Removal),
    /// Take one back that left the set and turns out to be needed.
    Readopt(AddReplica),
    /// What no replica holds is lost.
    DeclareLost(DeclareLost),
}

/// A replica leaves the set, if the set is still the one that this was decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removal {
    pub chunk: ChunkId,
    pub datanode: DatanodeId,
    pub incarnation: Incarnation,
    /// Pairs of datanode and incarnation.
    pub decided_on: Vec<u64>,
}

/// The replica set, as commands name it.
pub(super) fn pairs(record: &ChunkRecord) -> Vec<u64> {
    let replicas = record.replicas.iter();
    replicas
        .flat_map(|replica| [replica.datanode, replica.incarnation])
        .collect()
}

/// Examines chunks until `stop`.
pub(super) async fn run(
    controllers: Arc<Controllers>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    until_stopped(stop, async {
        loop {
            if step(&controllers).await? {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = controllers.work.notified() => {}
                () = controllers.group.state().wait_touched() => {}
                () = tokio::time::sleep(controllers.options.interval) => {}
            }
        }
    })
    .await
}

/// One bounded step. True if there is more to do at once.
async fn step(controllers: &Controllers) -> Result<bool, StoreError> {
    let (term, proposals, more) = {
        let Some(mut soft) = controllers.soft() else {
            return Ok(false);
        };
        for touched in controllers.group.state().take_touched() {
            soft.work.touch(touched);
        }
        // Taken after the touched chunks, so that it shows what touched them.
        let store = controllers.store();
        let snapshot = store.snapshot();
        let proposals = soft.examine_step(&snapshot, Instant::now(), &controllers.options)?;
        (
            soft.term,
            proposals,
            soft.work.is_waiting() && !soft.outbox.is_full(),
        )
    };
    controllers.outbox.notify_one();
    controllers.copies.notify_one();
    join_all(
        proposals
            .into_iter()
            .map(|proposal| carry_out(controllers, term, proposal)),
    )
    .await;
    Ok(more)
}

async fn carry_out(controllers: &Controllers, term: u64, proposal: Proposal) {
    let (chunk, command) = match &proposal {
        Proposal::Seal(chunk, epoch) => (
            *chunk,
            CommandKind::SealOpenChunk(SealOpenChunk {
                chunk: chunk.0,
                epoch: epoch.0,
            }),
        ),
        Proposal::Remove(removal) => (
            removal.chunk,
            CommandKind::RemoveReplica(RemoveReplica {
                chunk: removal.chunk.0,
                datanode: removal.datanode.0,
                incarnation: removal.incarnation.0,
                decided_on: removal.decided_on.clone(),
            }),
        ),
        Proposal::Readopt(add) => (ChunkId(add.chunk), CommandKind::AddReplica(add.clone())),
        Proposal::DeclareLost(lost) => {
            tracing::error!(chunk = %ChunkId(lost.chunk), held_length = lost.held_length, "no replica holds the end of a chunk: it is lost");
            (ChunkId(lost.chunk), CommandKind::DeclareLost(lost.clone()))
        }
    };
    let answer = controllers.group.propose(command).await;
    let Some(mut soft) = controllers.soft_of(term) else {
        return;
    };
    match answer {
        Ok(proposed) if proposed.outcome.code == 0 => {
            tracing::debug!(%chunk, ?proposal, "done");
            match proposal {
                Proposal::Remove(removal) => {
                    soft.deletes
                        .insert((removal.datanode, chunk, removal.incarnation));
                }
                Proposal::DeclareLost(lost) => soft.pardon(&lost),
                Proposal::Seal(..) | Proposal::Readopt(_) => {}
            }
            soft.work.touch(chunk);
        }
        // The chunk changed meanwhile, and apply touched it then; or nobody knows: look again later.
        Ok(_) | Err(_) => {
            let when = Instant::now() + controllers.options.retry_after;
            soft.work.touch_at(when, chunk);
        }
    }
}

impl Soft {
    /// Examines some chunks: what is soft is done at once, what is to be proposed comes back.
    pub(super) fn examine_step(
        &mut self,
        reader: &impl Read,
        now: Instant,
        options: &ControllerOptions,
    ) -> Result<Vec<Proposal>, StoreError> {
        let limit = options.examine_step;
        let mut chunks: BTreeSet<ChunkId> = self.work.take(now, limit).into_iter().collect();
        self.scan_step(reader, limit, &mut chunks)?;
        let mut proposals = Vec::new();
        for id in chunks {
            match chunk::get(reader, id)? {
                Some(record) => self.examine(id, &record, now, options, &mut proposals),
                None => self.forget_chunk(id),
            }
        }
        self.delete_step(reader, now, limit, &mut proposals)?;
        Ok(proposals)
    }

    /// A replica has failed, and there is no datanode outside the set on which a copy could be made now.
    fn lacks_target(&self, record: &ChunkRecord, views: &[ReplicaView]) -> bool {
        if views.iter().all(|view| view.standing != Standing::Failed) {
            return false;
        }
        let taken: BTreeSet<DatanodeId> = views.iter().map(|view| view.datanode).collect();
        let candidates = self.datanodes.candidates(&taken, |_| COPY_MARGIN_BYTES);
        !candidates
            .iter()
            .any(|candidate| candidate.free_bytes >= record.held_length())
    }

    /// Replicas that were too short for what was committed may be as long as what is left: they are asked once more.
    fn pardon(&mut self, lost: &DeclareLost) {
        let (set, _) = lost.decided_on.as_chunks::<2>();
        for &[datanode, incarnation] in set {
            if let Some(known) = self.datanodes.get_mut(DatanodeId(datanode)) {
                known.failed.remove(&Incarnation(incarnation));
            }
        }
    }

    /// A proof counts while a replica of the same chunk is known to have failed: after that, time may make it wrong.
    fn forget_proofs(&mut self, views: &[ReplicaView]) {
        if views.iter().any(|view| view.standing == Standing::Failed) {
            return;
        }
        for view in views.iter().filter(|view| view.proven) {
            if let Some(known) = self.datanodes.get_mut(view.datanode) {
                known.proven.remove(&view.incarnation);
            }
        }
    }

    /// Goes on with a walk through chunks.
    fn scan_step(
        &mut self,
        reader: &impl Read,
        limit: usize,
        chunks: &mut BTreeSet<ChunkId>,
    ) -> Result<(), StoreError> {
        if self.outbox.is_full() {
            return Ok(());
        }
        let Some(scan) = self.work.next_scan() else {
            return Ok(());
        };
        let mut found = Vec::new();
        match scan {
            Scan::Chunks(start) => chunk::scan(reader, start, &mut |id, _| {
                found.push(id);
                Ok(found.len() < limit)
            })?,
            Scan::Datanode(datanode, start) => {
                replica::scan(reader, datanode, start, &mut |id| {
                    found.push(id);
                    Ok(found.len() < limit)
                })?;
            }
        }
        if found.len() == limit
            && let Some(next) = found.last().and_then(|last| last.0.checked_add(1))
        {
            self.work.put_scan(match scan {
                Scan::Chunks(_) => Scan::Chunks(ChunkId(next)),
                Scan::Datanode(datanode, _) => Scan::Datanode(datanode, ChunkId(next)),
            });
        }
        chunks.extend(found);
        Ok(())
    }

    fn examine(
        &mut self,
        id: ChunkId,
        record: &ChunkRecord,
        now: Instant,
        options: &ControllerOptions,
        proposals: &mut Vec<Proposal>,
    ) {
        if record.compaction && record.state() == ChunkState::Open && self.compacting {
            return;
        }
        let idle_too_long = self.note_idle(id, record, now, options);
        let views = self.views(record);
        let circumstances = Circumstances {
            idle_too_long,
            no_target: self.lacks_target(record, &views),
        };
        let Decision { health, actions } = decide(record, &views, circumstances);
        self.forget_proofs(&views);
        self.note_health(id, health);
        let mut needs_copy = false;
        for action in actions {
            match action {
                Action::Seal => proposals.push(Proposal::Seal(id, Epoch(record.epoch))),
                Action::Remove(datanode, incarnation) => {
                    proposals.push(Proposal::Remove(Removal {
                        chunk: id,
                        datanode,
                        incarnation,
                        decided_on: pairs(record),
                    }));
                }
                Action::Verify(datanode, incarnation) => {
                    let verify = InstructionKind::Verify(VerifyReplica {});
                    self.outbox.push(datanode, (id, incarnation), verify);
                }
                Action::Confirm(datanode, incarnation) => {
                    let seal = SealReplica {
                        epoch: record.epoch,
                        length: record.held_length(),
                    };
                    self.outbox
                        .push(datanode, (id, incarnation), InstructionKind::Seal(seal));
                }
                Action::DeclareLost(held_length) => {
                    proposals.push(Proposal::DeclareLost(DeclareLost {
                        chunk: id.0,
                        epoch: record.epoch,
                        held_length,
                        decided_on: pairs(record),
                    }));
                }
                Action::Copy(priority) => {
                    needs_copy = true;
                    if !self.copies.contains_key(&id) {
                        self.queue.push(id, priority);
                    }
                }
            }
        }
        if !needs_copy {
            self.queue.remove(id);
        }
    }

    /// What is known of the replicas of the committed set.
    pub(super) fn views(&self, record: &ChunkRecord) -> Vec<ReplicaView> {
        let mut spread = Spread::default();
        let place = |id: u64| {
            let known = self.datanodes.get(DatanodeId(id));
            known.map_or(("", ""), |known| {
                (known.record.rack.as_str(), known.record.host.as_str())
            })
        };
        for replica in &record.replicas {
            let (rack, host) = place(replica.datanode);
            spread.add(rack, host);
        }
        // It decides only which one is too many.
        let has_surplus = record.replicas.len() > record.replication as usize;
        let view = record.replicas.iter().map(|replica| {
            let datanode = DatanodeId(replica.datanode);
            let incarnation = Incarnation(replica.incarnation);
            let known = self.datanodes.get(datanode);
            let (rack, host) = place(replica.datanode);
            ReplicaView {
                datanode,
                incarnation,
                standing: self.datanodes.standing(datanode, incarnation),
                admin: known.map_or(DatanodeAdminState::InService, |known| known.admin_state()),
                crowding: spread.crowding(rack, host),
                fullness: known
                    .filter(|_| has_surplus)
                    .map_or(0, |known| Fill::of(datanode, known).permille()),
                askable: known.is_some_and(|known| known.is_alive() && known.has_reported()),
                empty: known.is_some_and(|known| {
                    let fault = known.failed.get(&incarnation);
                    fault.is_some_and(|fault| fault.code == ErrorCode::NoReplica)
                }),
                short_length: known
                    .filter(|known| known.is_alive())
                    .and_then(|known| known.failed.get(&incarnation)?.short_length),
                unreadable: known.is_some_and(|known| {
                    let fault = known.failed.get(&incarnation);
                    fault.is_some_and(|fault| fault.unreadable)
                }),
                proven: known.is_some_and(|known| known.proven.contains(&incarnation)),
            }
        });
        view.collect()
    }

    /// Remembers since when an idle chunk is idle. True if that is too long, or if it has no room left.
    fn note_idle(
        &mut self,
        id: ChunkId,
        record: &ChunkRecord,
        now: Instant,
        options: &ControllerOptions,
    ) -> bool {
        if record.state() != ChunkState::Idle {
            self.idle.remove(&id);
            self.offered.remove(&id);
            return false;
        }
        let epoch = Epoch(record.epoch);
        // One with too few replicas gets the missing ones, and what is not used of one comes back, only when it is sealed.
        let in_a_hurry = is_short(record, record.replicas.len()) || is_mostly_unused(record);
        let idle_max = if in_a_hurry {
            options.idle_chunk_max.min(IDLE_SHORT_MAX)
        } else {
            options.idle_chunk_max
        };
        match self.idle.get(&id) {
            Some((seen, since)) if *seen == epoch => {
                if now.saturating_duration_since(*since) >= idle_max {
                    return true;
                }
                // Its rest may have become shorter: somebody asks for more replicas.
                self.work.touch_at(*since + idle_max, id);
            }
            _ => {
                self.idle.insert(id, (epoch, now));
                self.work.touch_at(now + idle_max, id);
            }
        }
        record.capacity.saturating_sub(record.length) < IDLE_ROOM_MIN
    }

    fn note_health(&mut self, id: ChunkId, health: Health) {
        let before = match health {
            Health::Well => self.health.remove(&id),
            other => self.health.insert(id, other),
        };
        if health == Health::Unavailable && before != Some(Health::Unavailable) {
            tracing::warn!(chunk = %id, "chunk has no live replica");
        } else if before == Some(Health::Unavailable) && health != Health::Unavailable {
            tracing::info!(chunk = %id, "chunk has a live replica again");
        }
    }

    fn forget_chunk(&mut self, id: ChunkId) {
        self.health.remove(&id);
        self.idle.remove(&id);
        self.offered.remove(&id);
        self.queue.remove(id);
    }

    /// Looks at some of the replicas that are to be deleted, and orders what may be done now.
    fn delete_step(
        &mut self,
        reader: &impl Read,
        now: Instant,
        limit: usize,
        proposals: &mut Vec<Proposal>,
    ) -> Result<(), StoreError> {
        while let Some(later) = self.deletes_later.first().copied()
            && later.0 <= now
        {
            self.deletes_later.pop_first();
            self.deletes.insert(later.1);
        }
        let range = (Bound::Excluded(self.delete_cursor), Bound::Unbounded);
        let some: Vec<(DatanodeId, ChunkId, Incarnation)> =
            self.deletes.range(range).take(limit).copied().collect();
        self.delete_cursor = match some.last() {
            Some(key) if some.len() == limit => *key,
            _ => (DatanodeId(0), ChunkId(0), Incarnation(0)),
        };
        for (datanode, id, incarnation) in some {
            let record = chunk::get(reader, id)?;
            match self.may_delete(id, record.as_ref(), datanode, incarnation) {
                Verdict::Keep => {
                    self.deletes.remove(&(datanode, id, incarnation));
                }
                Verdict::Wait => {}
                Verdict::Readopt(add) => {
                    // If it cannot join, the datanode's next report names it again.
                    self.deletes.remove(&(datanode, id, incarnation));
                    proposals.push(Proposal::Readopt(add));
                }
                Verdict::Delete => {
                    self.deletes.remove(&(datanode, id, incarnation));
                    let delete = InstructionKind::Delete(DeleteReplica {});
                    self.outbox.push(datanode, (id, incarnation), delete);
                }
            }
        }
        Ok(())
    }

    /// Whether the files of a replica outside the set may go. One that is verified goes only while the policy is met
    /// without it (I9); any other only while a verified one is left, for what could still be saved from it.
    fn may_delete(
        &self,
        id: ChunkId,
        record: Option<&ChunkRecord>,
        datanode: DatanodeId,
        incarnation: Incarnation,
    ) -> Verdict {
        let Some(known) = self.datanodes.get(datanode) else {
            // Forgotten: there is nobody to tell.
            return Verdict::Keep;
        };
        if !known.is_alive() {
            return Verdict::Wait;
        }
        let Some(record) = record else {
            return Verdict::Delete;
        };
        let is_listed = record
            .replicas
            .iter()
            .any(|replica| replica.datanode == datanode.0 && replica.incarnation == incarnation.0);
        let is_copied = self
            .copies
            .get(&id)
            .is_some_and(|job| job.target == datanode && job.incarnation == Some(incarnation));
        if is_listed || is_copied {
            return Verdict::Keep;
        }
        if record.state() != ChunkState::Sealed {
            return Verdict::Wait;
        }
        let views = self.views(record);
        let good = views.iter().filter(|view| view.standing == Standing::Good);
        let (needed, there) = if known.verified.contains(&incarnation) {
            let counting = good.filter(|view| view.admin == DatanodeAdminState::InService);
            (record.replication as usize, counting.count())
        } else {
            (1, good.count())
        };
        if record.live_bytes == 0 || there >= needed {
            return Verdict::Delete;
        }
        // It occupies a datanode where a copy may be wanted, and is as good as a copy.
        let has_other = views.iter().any(|view| view.datanode == datanode);
        if known.verified.contains(&incarnation) && known.takes_replicas() && !has_other {
            return Verdict::Readopt(AddReplica {
                chunk: id.0,
                datanode: datanode.0,
                incarnation: incarnation.0,
                epoch: record.epoch,
                length: record.held_length(),
                decided_on: pairs(record),
            });
        }
        Verdict::Wait
    }
}

/// What is to become of a replica outside the set.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    /// It is in the set, or about to be, or out of reach for good.
    Keep,
    /// Not now.
    Wait,
    /// Delete it.
    Delete,
    /// Put it back into the set.
    Readopt(AddReplica),
}

#[cfg(test)]
mod tests;
