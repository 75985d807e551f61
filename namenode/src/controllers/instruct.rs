//! Orders to datanodes, and what their answers mean. One request per datanode and lane is under way at a time; what is not
//! answered is sent again while the datanode lives. Each carries the term, so that a deposed leader's late orders are refused.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::ids::{ChunkId, DatanodeId, Incarnation};
use cairn_protocol::messages::datanode::{
    DeleteReplica, InstructReply, InstructRequest, InstructResult, Instruction, InstructionKind,
    ReplicaState,
};
use cairn_protocol::rpc::RpcError;
use cairn_protocol::token::{self, Grant, GrantKind};
use cairn_protocol::{ErrorCode, Failure, Method};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::reconcile::is_verdict;
use super::registry::{Datanode, Fault};
use super::soft::Soft;
use super::{Controllers, until_stopped};
use crate::keys::key_ring;
use crate::store::{Read, StoreError};

/// Instructions of one request.
const INSTRUCTIONS_MAX: usize = 256;
/// Replicas that one request has a datanode read in full.
const VERIFIES_MAX: usize = 4;
/// Instructions that may wait; walks through chunks rest beyond it.
const WAITING_MAX: usize = 50_000;
/// Instructions that may wait for one more to be taken on a client's word.
const EVIDENCE_WAITING_MAX: usize = 1_000;
/// Life of an instruction's token.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// Quick orders do not wait behind slow ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Seal, sync, delete.
    Quick,
    /// Verify: reads whole replicas.
    Slow,
}

/// Which replica is meant.
type ReplicaKey = (ChunkId, Incarnation);
type LaneKey = (DatanodeId, Lane);

/// Orders that wait to be sent: one for each replica and lane, the last one counts.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: BTreeMap<LaneKey, BTreeMap<ReplicaKey, InstructionKind>>,
    count: usize,
    under_way: BTreeSet<LaneKey>,
    /// After a failed request the datanode is left alone until then.
    rests: BTreeMap<LaneKey, Instant>,
}

/// One request's worth of orders.
pub(super) struct Bundle {
    pub datanode: DatanodeId,
    pub lane: Lane,
    pub orders: Vec<(ReplicaKey, InstructionKind)>,
}

impl Outbox {
    /// Queues an order.
    pub fn push(
        &mut self,
        datanode: DatanodeId,
        (chunk, incarnation): ReplicaKey,
        kind: InstructionKind,
    ) {
        let lane = match kind {
            InstructionKind::Verify(_) => Lane::Slow,
            _ => Lane::Quick,
        };
        let orders = self.waiting.entry((datanode, lane)).or_default();
        if orders.insert((chunk, incarnation), kind).is_none() {
            self.count += 1;
        }
    }

    /// There is room for orders that clients' evidence asks for.
    pub fn takes_evidence(&self) -> bool {
        self.count < EVIDENCE_WAITING_MAX
    }

    /// Too many wait to look for more.
    pub fn is_full(&self) -> bool {
        self.count >= WAITING_MAX
    }

    /// What can be sent now.
    pub fn take(&mut self, now: Instant) -> Vec<Bundle> {
        self.rests.retain(|_, until| *until > now);
        let mut bundles = Vec::new();
        for (key, orders) in &mut self.waiting {
            if self.under_way.contains(key) || self.rests.contains_key(key) {
                continue;
            }
            let (datanode, lane) = *key;
            let limit = match lane {
                Lane::Quick => INSTRUCTIONS_MAX,
                Lane::Slow => VERIFIES_MAX,
            };
            let mut taken = Vec::new();
            while taken.len() < limit
                && let Some(order) = orders.pop_first()
            {
                taken.push(order);
            }
            self.count -= taken.len();
            self.under_way.insert(*key);
            bundles.push(Bundle {
                datanode,
                lane,
                orders: taken,
            });
        }
        self.waiting.retain(|_, orders| !orders.is_empty());
        bundles
    }

    /// A request has been answered.
    pub fn answered(&mut self, datanode: DatanodeId, lane: Lane) {
        self.under_way.remove(&(datanode, lane));
    }

    /// A request was not answered: its orders wait again, unless newer ones for the same replicas do.
    pub fn unanswered(&mut self, bundle: Bundle, until: Instant) {
        let key = (bundle.datanode, bundle.lane);
        self.under_way.remove(&key);
        self.rests.insert(key, until);
        if bundle.orders.is_empty() {
            return;
        }
        let orders = self.waiting.entry(key).or_default();
        for (replica, kind) in bundle.orders {
            if let Entry::Vacant(place) = orders.entry(replica) {
                place.insert(kind);
                self.count += 1;
            }
        }
    }

    /// Forgets what waits for a datanode that is dead: it is examined afresh when it comes back.
    pub fn drop_datanode(&mut self, datanode: DatanodeId) {
        for lane in [Lane::Quick, Lane::Slow] {
            if let Some(orders) = self.waiting.remove(&(datanode, lane)) {
                self.count -= orders.len();
            }
        }
    }
}

/// Sends what waits, until `stop`.
pub(super) async fn run(
    controllers: Arc<Controllers>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    until_stopped(stop, async {
        let mut under_way: FuturesUnordered<BoxFuture<'_, Result<(), StoreError>>> =
            FuturesUnordered::new();
        loop {
            if let Some(mut soft) = controllers.soft() {
                let term = soft.term;
                let bundles = soft.outbox.take(Instant::now());
                drop(soft);
                for bundle in bundles {
                    under_way.push(Box::pin(send(&controllers, term, bundle)));
                }
            }
            tokio::select! {
                biased;
                Some(done) = under_way.next() => done?,
                () = controllers.outbox.notified() => {}
                () = tokio::time::sleep(controllers.options.interval) => {}
            }
        }
    })
    .await
}

async fn send(controllers: &Controllers, term: u64, bundle: Bundle) -> Result<(), StoreError> {
    let timeout = match bundle.lane {
        Lane::Quick => controllers.options.instruct_timeout,
        Lane::Slow => controllers.options.verify_timeout,
    };
    let instructions = bundle
        .orders
        .iter()
        .map(|((chunk, incarnation), kind)| instruction(*chunk, *incarnation, kind.clone()));
    let answer = controllers
        .instruct(term, bundle.datanode, instructions.collect(), timeout)
        .await;
    let results = match answer {
        Ok(results) => results,
        Err(error) => {
            tracing::debug!(datanode = %bundle.datanode, %error, "instructions were not answered");
            if let Some(mut soft) = controllers.soft_of(term) {
                let until = Instant::now() + controllers.options.retry_after;
                soft.take_back(bundle, until);
            }
            return Ok(());
        }
    };
    for ((replica, kind), result) in bundle.orders.iter().zip(&results) {
        take_result(controllers, term, bundle.datanode, *replica, kind, result)?;
    }
    if let Some(mut soft) = controllers.soft_of(term) {
        soft.outbox.answered(bundle.datanode, bundle.lane);
    }
    controllers.work.notify_one();
    Ok(())
}

/// Acts on one answer.
fn take_result(
    controllers: &Controllers,
    term: u64,
    datanode: DatanodeId,
    (chunk, incarnation): ReplicaKey,
    kind: &InstructionKind,
    result: &InstructResult,
) -> Result<(), StoreError> {
    let failure = result.failure.clone().map(Failure::from);
    if let InstructionKind::Delete(DeleteReplica {}) = kind {
        if let Some(mut soft) = controllers.soft_of(term) {
            let again = Instant::now() + controllers.options.retry_after;
            soft.take_deletion(datanode, (chunk, incarnation), failure, again);
        }
        return Ok(());
    }
    let found = result.state.as_ref();
    let found = found.filter(|state| state.chunk == chunk.0);
    if let Some(state) = found.filter(|state| state.incarnation == incarnation.0) {
        let store = controllers.store();
        let states = std::slice::from_ref(state);
        controllers.take_states(&store.snapshot(), term, datanode, states)?;
    }
    let Some(mut soft) = controllers.soft_of(term) else {
        return Ok(());
    };
    let Some(failure) = failure else {
        if matches!(kind, InstructionKind::Verify(_)) {
            soft.take_proof(datanode, chunk, incarnation);
        }
        return Ok(());
    };
    if is_verdict(failure.code) {
        tracing::warn!(%chunk, %datanode, %incarnation, error = %failure, "replica failed");
        let fault = fault(failure.code, incarnation, found);
        soft.mark_failed(datanode, chunk, incarnation, fault);
    } else {
        let when = Instant::now() + controllers.options.retry_after;
        soft.work.touch_at(when, chunk);
    }
    Ok(())
}

/// What is wrong with a replica on which this verdict was spoken, while its datanode has the chunk in this state.
pub(super) fn fault(
    code: ErrorCode,
    incarnation: Incarnation,
    state: Option<&ReplicaState>,
) -> Fault {
    let is_short = |state: &&ReplicaState| {
        let is_it = state.incarnation == incarnation.0;
        is_it && code == ErrorCode::WrongLength && !state.sealed && !state.bad && !state.gone
    };
    // Without its header it is of incarnation 0 there, like all that lost theirs.
    let is_unreadable = |state: &ReplicaState| state.bad && !state.gone && state.length == 0;
    Fault {
        code,
        short_length: state.filter(is_short).map(|state| state.length),
        unreadable: state.is_some_and(is_unreadable),
    }
}

impl Soft {
    /// Orders that were not answered wait again. Deletions are decided on afresh: what made them safe may not hold any more.
    fn take_back(&mut self, mut bundle: Bundle, until: Instant) {
        let datanode = bundle.datanode;
        let is_alive = self.datanodes.get(datanode).is_some_and(Datanode::is_alive);
        for ((chunk, incarnation), _) in bundle
            .orders
            .extract_if(.., |(_, kind)| matches!(kind, InstructionKind::Delete(_)))
        {
            self.deletes.insert((datanode, chunk, incarnation));
        }
        if !is_alive {
            // It is examined afresh when it comes back.
            bundle.orders.clear();
        }
        self.outbox.unanswered(bundle, until);
    }

    /// All bytes of a replica were read and are right.
    fn take_proof(&mut self, datanode: DatanodeId, chunk: ChunkId, incarnation: Incarnation) {
        if let Some(known) = self.datanodes.get_mut(datanode)
            && known.verified.contains(&incarnation)
        {
            known.proven.insert(incarnation);
            self.work.touch(chunk);
        }
    }

    /// What came of a deletion; `again` is when it is decided on afresh if it was refused.
    pub(super) fn take_deletion(
        &mut self,
        datanode: DatanodeId,
        (chunk, incarnation): ReplicaKey,
        failure: Option<Failure>,
        again: Instant,
    ) {
        match failure {
            None => {
                if let Some(known) = self.datanodes.get_mut(datanode) {
                    known.verified.remove(&incarnation);
                    known.failed.remove(&incarnation);
                }
            }
            // Another incarnation is there: this one is gone already.
            Some(failure) if failure.code == ErrorCode::PreconditionFailed => {}
            Some(failure) => {
                tracing::warn!(%chunk, %datanode, %incarnation, error = %failure, "replica was not deleted");
                let refused = (datanode, chunk, incarnation);
                self.deletes_later.insert((again, refused));
            }
        }
    }
}

/// An order as the wire has it.
pub(super) fn instruction(
    chunk: ChunkId,
    incarnation: Incarnation,
    kind: InstructionKind,
) -> Instruction {
    Instruction {
        chunk: chunk.0,
        incarnation: incarnation.0,
        kind: Some(kind),
    }
}

impl Controllers {
    /// Sends orders to a datanode and waits for what came of them, in the same order.
    pub(super) async fn instruct(
        &self,
        term: u64,
        datanode: DatanodeId,
        instructions: Vec<Instruction>,
        timeout: Duration,
    ) -> Result<Vec<InstructResult>, RpcError> {
        let address = self
            .soft_of(term)
            .ok_or_else(|| RpcError::not_leader(None))?
            .datanodes
            .address(datanode)
            .ok_or_else(|| RpcError::new(ErrorCode::NotFound, format!("datanode {datanode}")))?
            .address;
        let store = self.store();
        let cluster = store.snapshot().cluster_record().map_err(internal)?;
        let grant = Grant {
            chunk: ChunkId(0),
            kind: GrantKind::Instruct { datanode, term },
            expires_at_ms: self.expires_at_ms(&cluster, TOKEN_LIFE),
        };
        let count = instructions.len();
        let request = InstructRequest {
            term,
            datanode: datanode.0,
            token: token::mint(&key_ring(&cluster, self.now_ms(&cluster))?, &grant),
            instructions,
        };
        let (reply, _) = self
            .peers
            .call_typed::<InstructReply>(
                &address,
                Method::Instruct.into(),
                &request,
                Bytes::new(),
                timeout,
            )
            .await?;
        if reply.results.len() != count {
            let message = format!(
                "datanode {datanode} answered {} of {count} instructions",
                reply.results.len()
            );
            return Err(RpcError::new(ErrorCode::Malformed, message));
        }
        Ok(reply.results)
    }
}

/// A failure of our own disk, as callers see it.
pub(super) fn internal(error: StoreError) -> RpcError {
    RpcError::new(ErrorCode::Internal, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_protocol::ids::{ChunkId, DatanodeId, Incarnation};
    use cairn_protocol::messages::datanode::{
        DeleteReplica, InstructionKind, SealReplica, VerifyReplica,
    };
    use tokio::time::Instant;

    use super::{INSTRUCTIONS_MAX, Lane, Outbox};

    fn delete() -> InstructionKind {
        InstructionKind::Delete(DeleteReplica {})
    }

    #[test]
    fn a_datanode_has_one_request_per_lane_and_a_bounded_one() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        for chunk in 0..300 {
            outbox.push(
                DatanodeId(1),
                (ChunkId(chunk), Incarnation(chunk)),
                delete(),
            );
        }
        let verify = InstructionKind::Verify(VerifyReplica {});
        outbox.push(DatanodeId(1), (ChunkId(1), Incarnation(1)), verify);
        let bundles = outbox.take(now);
        let sizes: Vec<(Lane, usize)> = bundles
            .iter()
            .map(|bundle| (bundle.lane, bundle.orders.len()))
            .collect();
        assert_eq!(sizes, [(Lane::Quick, INSTRUCTIONS_MAX), (Lane::Slow, 1)]);
        assert!(outbox.take(now).is_empty());
        outbox.answered(DatanodeId(1), Lane::Quick);
        assert_eq!(outbox.take(now)[0].orders.len(), 300 - INSTRUCTIONS_MAX);
        assert_eq!(outbox.count, 0);
    }

    #[test]
    fn what_was_not_answered_is_sent_again_unless_there_is_newer() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let mut outbox = Outbox::default();
        let seal = InstructionKind::Seal(SealReplica::default());
        for chunk in [1, 2] {
            outbox.push(
                DatanodeId(1),
                (ChunkId(chunk), Incarnation(chunk)),
                seal.clone(),
            );
        }
        let bundle = outbox.take(now).pop().unwrap();
        outbox.push(DatanodeId(1), (ChunkId(2), Incarnation(2)), delete());
        outbox.unanswered(bundle, later);
        assert!(outbox.take(now).is_empty());
        let again = outbox.take(later).pop().unwrap();
        let kinds: Vec<&InstructionKind> = again.orders.iter().map(|(_, kind)| kind).collect();
        assert_eq!(kinds, [&seal, &delete()]);
        outbox.push(DatanodeId(1), (ChunkId(3), Incarnation(3)), delete());
        outbox.drop_datanode(DatanodeId(1));
        assert_eq!(outbox.count, 0);
    }
}
