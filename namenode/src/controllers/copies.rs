//! Re-replication: chunks with the fewest good replicas first, within limits for each datanode and overall.
//!
//! A copy takes an incarnation (`BeginCopy`), is made by its destination, which pulls, syncs and seals it, and joins the set
//! (`AddReplica`) only after the destination confirmed the seal. A copy that does not get that far is deleted: nobody read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairn_protocol::ids::{ChunkId, DatanodeId, Incarnation};
use cairn_protocol::messages::common::ReplicaTarget;
use cairn_protocol::messages::datanode::{CopyReplica, InstructionKind, ReplicaState};
use cairn_protocol::token::{self, Grant, GrantKind};
use cairn_protocol::{ErrorCode, Failure};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::decide::{Action, Circumstances, ReplicaView, is_salvage};
use super::examine::pairs;
use super::instruct::instruction;
use super::options::ControllerOptions;
use super::placement::{Candidate, Spread, choose_next};
use super::registry::{Datanode, Standing};
use super::soft::Soft;
use super::{Controllers, until_stopped};
use crate::keys::key_ring;
use crate::namespace::command::{AddReplica, BeginCopy, CommandKind};
use crate::store::records::{ChunkRecord, ChunkState};
use crate::store::{Read, StoreError, chunk};

/// Chunks at the head of the queue that are tried when the first cannot start now.
const LOOKS_MAX: usize = 256;
/// Free space that a destination has besides the copy.
pub(super) const MARGIN_BYTES: u64 = 1 << 20;

/// Chunks that need a copy, by how few good replicas they have.
#[derive(Debug, Default)]
pub(super) struct CopyQueue {
    order: BTreeSet<(u32, ChunkId)>,
    priorities: BTreeMap<ChunkId, u32>,
}

impl CopyQueue {
    /// Queues a chunk, or moves it to where it belongs now.
    pub fn push(&mut self, chunk: ChunkId, priority: u32) {
        self.remove(chunk);
        self.order.insert((priority, chunk));
        self.priorities.insert(chunk, priority);
    }

    /// It needs no copy.
    pub fn remove(&mut self, chunk: ChunkId) {
        if let Some(priority) = self.priorities.remove(&chunk) {
            self.order.remove(&(priority, chunk));
        }
    }

    /// Nothing needs a copy.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The most urgent ones.
    pub fn first(&self, limit: usize) -> Vec<ChunkId> {
        self.order
            .iter()
            .take(limit)
            .map(|(_, chunk)| *chunk)
            .collect()
    }
}

/// A copy that runs.
#[derive(Debug)]
pub(super) struct CopyJob {
    pub target: DatanodeId,
    /// The replica that is read first.
    pub source: DatanodeId,
    /// Given by `BeginCopy`.
    pub incarnation: Option<Incarnation>,
    epoch: u64,
    length: u64,
    /// The destination has it, sealed as it should be.
    confirmed: bool,
    /// Wakes who waits for the copy.
    news: Arc<Notify>,
}

impl CopyJob {
    /// The destination spoke of it.
    pub fn take_state(&mut self, state: &ReplicaState) {
        let is_right = state.sealed
            && !state.bad
            && !state.gone
            && (state.epoch, state.length) == (self.epoch, self.length);
        if is_right {
            self.confirmed = true;
            self.news.notify_one();
        }
    }
}

/// A copy that may start.
#[derive(Clone, Debug)]
pub(super) struct Order {
    chunk: ChunkId,
    target: DatanodeId,
    epoch: u64,
    length: u64,
    sources: Vec<ReplicaTarget>,
    news: Arc<Notify>,
}

/// What can be done about a chunk that needs a copy.
enum Plan {
    Copy(Order),
    /// Its datanodes have enough to do.
    Busy,
    /// There is no source, or no datanode that it could go to.
    Nowhere,
}

/// A good replica, behind the number of copies that are read from its datanode.
type Source = (usize, DatanodeId, Incarnation);

/// Starts copies as limits allow, until `stop`.
pub(super) async fn run(
    controllers: Arc<Controllers>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    until_stopped(stop, async {
        let mut running: FuturesUnordered<BoxFuture<'_, Result<(), StoreError>>> =
            FuturesUnordered::new();
        loop {
            if let Some(mut soft) = controllers.soft() {
                let term = soft.term;
                let store = controllers.store();
                let (snapshot, now) = (store.snapshot(), Instant::now());
                let mut orders = soft.start_copies(&snapshot, now, &controllers.options)?;
                orders.extend(soft.start_moves(&snapshot, now, &controllers.options)?);
                drop(soft);
                for order in orders {
                    running.push(Box::pin(copy(&controllers, term, order)));
                }
            }
            tokio::select! {
                biased;
                Some(done) = running.next() => done?,
                () = controllers.copies.notified() => {}
                () = tokio::time::sleep(controllers.options.interval) => {}
            }
        }
    })
    .await
}

/// One copy from beginning to end.
async fn copy(controllers: &Controllers, term: u64, order: Order) -> Result<(), StoreError> {
    let done = try_copy(controllers, term, &order).await;
    let Some(mut soft) = controllers.soft_of(term) else {
        return Ok(());
    };
    soft.end_copy(order.chunk);
    soft.balance.ended(
        order.chunk,
        Instant::now(),
        controllers.options.balance_rest,
    );
    match done {
        Ok(incarnation) => {
            tracing::debug!(chunk = %order.chunk, datanode = %order.target, "copied");
            if let Some(known) = soft.datanodes.get_mut(order.target) {
                known.verified.insert(incarnation);
            }
            soft.work.touch(order.chunk);
        }
        Err(Abandoned { reason, left }) => {
            tracing::warn!(chunk = %order.chunk, datanode = %order.target, reason, "copy failed");
            match left {
                Left::Nothing => {}
                Left::Replica(incarnation) => {
                    soft.deletes
                        .insert((order.target, order.chunk, incarnation));
                }
                Left::Unknown => soft.ask_for_report(order.target),
            }
            let when = Instant::now() + controllers.options.retry_after;
            soft.work.touch_at(when, order.chunk);
        }
    }
    drop(soft);
    controllers.work.notify_one();
    Ok(())
}

/// A copy that came to nothing.
struct Abandoned {
    reason: String,
    left: Left,
}

/// What a copy that came to nothing may have left on its destination.
enum Left {
    Nothing,
    /// This, and it did not join the set.
    Replica(Incarnation),
    /// It may have joined the set or not: the datanode's report and the committed state will tell.
    Unknown,
}

async fn try_copy(
    controllers: &Controllers,
    term: u64,
    order: &Order,
) -> Result<Incarnation, Abandoned> {
    let abandon = |reason: String, left| Abandoned { reason, left };
    let begin = CommandKind::BeginCopy(BeginCopy {
        chunk: order.chunk.0,
        datanode: order.target.0,
    });
    let id = match controllers.group.propose(begin).await {
        Ok(proposed) if proposed.outcome.code == 0 => proposed.outcome.id,
        Ok(proposed) => return Err(abandon(proposed.outcome.message, Left::Nothing)),
        Err(error) => return Err(abandon(error.to_string(), Left::Nothing)),
    };
    let incarnation = Incarnation(id);
    {
        let Some(mut soft) = controllers.soft_of(term) else {
            return Err(abandon("the term is over".to_owned(), Left::Nothing));
        };
        // Known before the destination hears of it, so that nobody takes it for something left over.
        if let Some(job) = soft.copies.get_mut(&order.chunk) {
            job.incarnation = Some(incarnation);
        }
    }
    wait_for_copy(controllers, term, order, incarnation)
        .await
        .map_err(|reason| abandon(reason, Left::Replica(incarnation)))?;
    let store = controllers.store();
    let record = chunk::get(&store.snapshot(), order.chunk)
        .map_err(|error| abandon(error.to_string(), Left::Replica(incarnation)))?;
    let Some(record) = record else {
        let reason = "the chunk is gone".to_owned();
        return Err(abandon(reason, Left::Replica(incarnation)));
    };
    let add = CommandKind::AddReplica(AddReplica {
        chunk: order.chunk.0,
        datanode: order.target.0,
        incarnation: incarnation.0,
        epoch: order.epoch,
        length: order.length,
        decided_on: pairs(&record),
    });
    match controllers.group.propose(add).await {
        Ok(proposed) if proposed.outcome.code == 0 => Ok(incarnation),
        Ok(proposed) => {
            let left = Left::Replica(incarnation);
            Err(abandon(proposed.outcome.message, left))
        }
        Err(error) => Err(abandon(error.to_string(), Left::Unknown)),
    }
}

/// Orders the copy, and asks again from time to time, until its destination confirms it.
async fn wait_for_copy(
    controllers: &Controllers,
    term: u64,
    order: &Order,
    incarnation: Incarnation,
) -> Result<(), String> {
    let options = &controllers.options;
    let deadline = Instant::now() + options.copy_timeout;
    while Instant::now() < deadline {
        let state = order_copy(controllers, term, order, incarnation).await?;
        let state = state.filter(|state| state.incarnation == incarnation.0);
        if is_confirmed(controllers, term, order, state)? {
            return Ok(());
        }
        // Timing out is the usual way on: then its destination is asked again.
        let _ = tokio::time::timeout(options.copy_poll, order.news.notified()).await;
        if is_confirmed(controllers, term, order, None)? {
            return Ok(());
        }
    }
    Err("it took too long".to_owned())
}

/// Orders the copy, or asks how it is doing: that is the same. A refusal that may pass is no answer.
async fn order_copy(
    controllers: &Controllers,
    term: u64,
    order: &Order,
    incarnation: Incarnation,
) -> Result<Option<ReplicaState>, String> {
    let kind = copy_instruction(controllers, order)?;
    let instructions = vec![instruction(order.chunk, incarnation, kind)];
    let timeout = controllers.options.instruct_timeout;
    let answer = controllers
        .instruct(term, order.target, instructions, timeout)
        .await;
    let Some(result) = answer.ok().and_then(|mut results| results.pop()) else {
        return Ok(None);
    };
    match result.failure.map(Failure::from) {
        Some(failure) if failure.code != ErrorCode::Overloaded => Err(failure.to_string()),
        Some(_) | None => Ok(result.state),
    }
}

/// Whether the destination has confirmed the copy; `state` is what it said just now. Fails if there is no use in waiting.
fn is_confirmed(
    controllers: &Controllers,
    term: u64,
    order: &Order,
    state: Option<ReplicaState>,
) -> Result<bool, String> {
    let mut soft = controllers
        .soft_of(term)
        .ok_or_else(|| "the term is over".to_owned())?;
    let target = soft.datanodes.get(order.target);
    let is_alive = target.is_some_and(Datanode::is_alive);
    let Some(job) = soft.copies.get_mut(&order.chunk) else {
        return Err("it was given up".to_owned());
    };
    if let Some(state) = state {
        job.take_state(&state);
    }
    if !job.confirmed && !is_alive {
        return Err("its destination is dead".to_owned());
    }
    Ok(job.confirmed)
}

/// A token lives as long as the copy may take, so each request brings a fresh one.
fn copy_instruction(controllers: &Controllers, order: &Order) -> Result<InstructionKind, String> {
    let store = controllers.store();
    let cluster = store
        .snapshot()
        .cluster_record()
        .map_err(|error| error.to_string())?;
    let keys =
        key_ring(&cluster, controllers.now_ms(&cluster)).map_err(|error| error.to_string())?;
    let grant = Grant {
        chunk: order.chunk,
        kind: GrantKind::Read {
            offset: 0,
            len: order.length,
        },
        expires_at_ms: controllers.expires_at_ms(&cluster, controllers.options.copy_timeout),
    };
    Ok(InstructionKind::Copy(CopyReplica {
        epoch: order.epoch,
        length: order.length,
        sources: order.sources.clone(),
        token: token::mint(&keys, &grant),
        ..CopyReplica::default()
    }))
}

impl Soft {
    /// Starts what limits allow, the most urgent first.
    fn start_copies(
        &mut self,
        reader: &impl Read,
        now: Instant,
        options: &ControllerOptions,
    ) -> Result<Vec<Order>, StoreError> {
        let mut orders = Vec::new();
        if self.copies.len() >= options.copies_max {
            return Ok(orders);
        }
        for id in self.queue.first(LOOKS_MAX) {
            if self.copies.len() >= options.copies_max {
                break;
            }
            let Some(record) = chunk::get(reader, id)? else {
                self.queue.remove(id);
                continue;
            };
            if !self.still_needs_copy(&record) || self.copies.contains_key(&id) {
                self.queue.remove(id);
                continue;
            }
            match self.plan_copy(id, &record, options) {
                Plan::Copy(order) => {
                    self.queue.remove(id);
                    orders.push(order);
                }
                Plan::Busy => {}
                Plan::Nowhere => {
                    // Not in the way of those behind it.
                    self.queue.remove(id);
                    self.work.touch_at(now + options.no_target_after, id);
                }
            }
        }
        Ok(orders)
    }

    fn still_needs_copy(&self, record: &ChunkRecord) -> bool {
        let circumstances = Circumstances::default();
        let decision = super::decide::decide(record, &self.views(record), circumstances);
        record.state() == ChunkState::Sealed
            && decision
                .actions
                .iter()
                .any(|action| matches!(action, Action::Copy(_)))
    }

    /// Chooses sources and destination, and counts the copy as running.
    fn plan_copy(
        &mut self,
        id: ChunkId,
        record: &ChunkRecord,
        options: &ControllerOptions,
    ) -> Plan {
        let limit = options.copies_per_datanode;
        let views = self.views(record);
        let Some((sources, spread)) = self.copy_sources(&views) else {
            return Plan::Nowhere;
        };
        let (out, _, _) = sources[0];
        if out >= limit {
            return Plan::Busy;
        }
        let target = match self.copy_target(record.held_length(), &views, &spread, limit) {
            Ok(target) => target,
            Err(instead) => return instead,
        };
        Plan::Copy(self.begin_copy(id, record, &sources, target))
    }

    /// One replica more than the policy wants, from one of its good ones to `target`; nothing if there is no good one.
    pub(super) fn begin_move(
        &mut self,
        id: ChunkId,
        record: &ChunkRecord,
        target: DatanodeId,
    ) -> Option<Order> {
        let (sources, _) = self.copy_sources(&self.views(record))?;
        Some(self.begin_copy(id, record, &sources, target))
    }

    /// Counts the copy as running.
    fn begin_copy(
        &mut self,
        id: ChunkId,
        record: &ChunkRecord,
        sources: &[Source],
        target: DatanodeId,
    ) -> Order {
        let source = sources.first().map_or(target, |(_, source, _)| *source);
        if let Some(known) = self.datanodes.get_mut(source) {
            known.copies_out += 1;
        }
        if let Some(known) = self.datanodes.get_mut(target) {
            known.copies_in += 1;
        }
        let news = Arc::new(Notify::new());
        let job = CopyJob {
            target,
            source,
            incarnation: None,
            epoch: record.epoch,
            length: record.held_length(),
            confirmed: false,
            news: Arc::clone(&news),
        };
        self.copies.insert(id, job);
        let targets = sources.iter().filter_map(|(_, datanode, incarnation)| {
            Some(ReplicaTarget {
                datanode: self.datanodes.address(*datanode)?,
                incarnation: incarnation.0,
            })
        });
        Order {
            chunk: id,
            target,
            epoch: record.epoch,
            length: record.held_length(),
            sources: targets.collect(),
            news,
        }
    }

    /// Good replicas, the least busy first, and where the live ones are; without a good one, those from which something can still be
    /// read. `None` if there is nothing to read.
    fn copy_sources(&self, views: &[ReplicaView]) -> Option<(Vec<Source>, Spread)> {
        let mut sources = Vec::new();
        let mut spread = Spread::default();
        let none_live = views.iter().all(|view| !view.is_live());
        for view in views {
            let Some(known) = self.datanodes.get(view.datanode) else {
                continue;
            };
            if matches!(view.standing, Standing::Good | Standing::Unconfirmed) {
                spread.add(&known.record.rack, &known.record.host);
            }
            let salvage = none_live && known.is_alive() && is_salvage(view);
            if view.standing == Standing::Good || salvage {
                sources.push((known.copies_out, view.datanode, view.incarnation));
            }
        }
        sources.sort_unstable();
        (!sources.is_empty()).then_some((sources, spread))
    }

    fn copy_target(
        &mut self,
        length: u64,
        views: &[ReplicaView],
        spread: &Spread,
        limit: usize,
    ) -> Result<DatanodeId, Plan> {
        let taken: BTreeSet<DatanodeId> = views.iter().map(|view| view.datanode).collect();
        let candidates = self.datanodes.candidates(&taken, |_| MARGIN_BYTES);
        let roomy: Vec<&Candidate> = candidates
            .iter()
            .filter(|candidate| candidate.free_bytes >= length)
            .collect();
        let is_free = |candidate: &&Candidate| {
            let known = self.datanodes.get(candidate.datanode);
            known.is_some_and(|known| known.copies_in < limit)
        };
        let free: Vec<&Candidate> = roomy.iter().copied().filter(is_free).collect();
        match choose_next(&free, spread, &mut self.rng) {
            Some(target) => Ok(target.datanode),
            None if roomy.is_empty() => Err(Plan::Nowhere),
            None => Err(Plan::Busy),
        }
    }

    /// A copy has ended, one way or the other.
    fn end_copy(&mut self, id: ChunkId) {
        let Some(job) = self.copies.remove(&id) else {
            return;
        };
        if let Some(source) = self.datanodes.get_mut(job.source) {
            source.copies_out = source.copies_out.saturating_sub(1);
        }
        if let Some(target) = self.datanodes.get_mut(job.target) {
            target.copies_in = target.copies_in.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ids::ChunkId;

    use super::CopyQueue;

    #[test]
    fn the_chunk_with_the_fewest_good_replicas_is_first() {
        let mut queue = CopyQueue::default();
        queue.push(ChunkId(1), 2);
        queue.push(ChunkId(2), 1);
        queue.push(ChunkId(3), 2);
        queue.push(ChunkId(4), 1);
        assert_eq!(queue.first(3), [ChunkId(2), ChunkId(4), ChunkId(1)]);
        queue.push(ChunkId(3), 0);
        queue.remove(ChunkId(2));
        assert_eq!(queue.first(9), [ChunkId(3), ChunkId(4), ChunkId(1)]);
        assert!(queue.order.len() == queue.priorities.len());
    }
}
