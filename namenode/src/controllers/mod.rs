//! What the leader does besides answering: it compares what should be with what is, and acts within limits, only by proposing
//! commands and by instructing datanodes.
//!
//! ```text
//! liveness     who is heard (soft only);  sessions: who is alive, and expiry
//! placement    where replicas go;         decide: what a chunk needs, from committed record and soft state (pure)
//! examine      works through chunks that changed, and carries out what was decided: seals, removals
//! copies       re-replication, fewest verified replicas first;   compaction: of chunks of which little is used
//! balance      from full datanodes to empty ones
//! instruct     orders to datanodes and what they answer;   reconcile: what reports and answers mean (pure)
//! lock_waits   who waits for a lock;      hosts: how many sessions a machine has
//! sync         durable on every replica;  reclaim: sweeps, dropping dead chunks;  upkeep: token keys, decommissioning
//! ```
//!
//! Committed state and soft state never mix: everything in `Soft` belongs to one term of leadership and is thrown away with
//! it. A new leader gives every session and datanode a full life, scans all chunks once, and learns from reports which replicas are
//! verified.

mod balance;
mod compaction;
mod copies;
mod decide;
mod examine;
mod hosts;
mod instruct;
mod liveness;
mod lock_waits;
mod options;
mod placement;
mod reads;
mod reclaim;
mod reconcile;
mod registry;
mod requests;
mod sessions;
mod soft;
mod sync;
mod upkeep;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_daemon::Tasks;
use cairn_daemon::clock::Clock;
use cairn_protocol::ids::{ChunkId, DatanodeId, Incarnation, SessionId};
use cairn_protocol::messages::admin::{ClusterCounts, DatanodeStatus};
use cairn_protocol::messages::datanode::{
    HeartbeatRequest, RegisterDatanodeRequest, ReplicaReportRequest, VolumeSpace,
};
use cairn_protocol::messages::lock::WaitLockReply;
use cairn_protocol::messages::operation::AllocateChunk;
use cairn_protocol::messages::session::FailedReplica;
use cairn_protocol::rpc::{Peers, RpcError};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use options::ControllerOptions;

use crate::consensus::group::Group;
use crate::namespace::command::Placement;
use crate::namespace::locks::Wish;
use crate::store::records::{ClusterRecord, ReplicaRecord};
use crate::store::{Store, StoreError};
use hosts::Hosts;
use lock_waits::LockWaits;
use soft::Soft;
use sync::SyncGates;

const NS_PER_MS: u64 = 1_000_000;

/// The controllers of this process. They do nothing unless it leads.
pub struct Controllers {
    group: Group,
    peers: Peers,
    clock: Clock,
    options: ControllerOptions,
    /// What this term of leadership has learned. Held for moments, never across an await. The locks of the replicated state
    /// may be taken inside it, never the other way round.
    soft: Mutex<Soft>,
    /// Chunks wait to be examined.
    work: Notify,
    /// Chunks wait for a copy, or a copy may start.
    copies: Notify,
    /// Instructions wait to be sent.
    outbox: Notify,
    gates: SyncGates,
    lock_waits: LockWaits,
    /// Held for a count. Taken inside nothing.
    hosts: Mutex<Hosts>,
}

/// Runs a loop until it is told to stop. It is dropped wherever it waits: proposals that are on their way stay on their way, and
/// everything else here is soft.
async fn until_stopped(
    stop: CancellationToken,
    work: impl Future<Output = Result<Infallible, StoreError>>,
) -> Result<(), StoreError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        ended = work => ended.map(|never| match never {}),
    }
}

impl Controllers {
    /// Built once per process. `peers` are connections to datanodes.
    pub fn new(
        group: Group,
        peers: Peers,
        clock: Clock,
        options: ControllerOptions,
        seed: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            group,
            peers,
            clock,
            options,
            soft: Mutex::new(Soft::new(seed)),
            work: Notify::new(),
            copies: Notify::new(),
            outbox: Notify::new(),
            gates: SyncGates::default(),
            lock_waits: LockWaits::default(),
            hosts: Mutex::new(Hosts::default()),
        })
    }

    /// Starts the loops. Each rests while this member does not lead.
    pub fn start(self: &Arc<Self>, tasks: &Tasks) {
        let own = || Arc::clone(self);
        tasks.component("controllers-liveness", |stop| liveness::run(own(), stop));
        tasks.component("controllers-sessions", |stop| sessions::run(own(), stop));
        tasks.component("controllers-lock-waits", |stop| {
            lock_waits::run(own(), stop)
        });
        tasks.component("controllers-instruct", |stop| instruct::run(own(), stop));
        tasks.component("controllers-examine", |stop| examine::run(own(), stop));
        tasks.component("controllers-copies", |stop| copies::run(own(), stop));
        tasks.component("controllers-compaction", |stop| {
            compaction::run(own(), stop)
        });
        tasks.component("controllers-reclaim", |stop| reclaim::run(own(), stop));
        tasks.component("controllers-upkeep", |stop| upkeep::run(own(), stop));
    }

    /// A process of a datanode registered, and the command was applied.
    pub fn registered(&self, datanode: DatanodeId, request: &RegisterDatanodeRequest) {
        requests::registered(self, datanode, request);
    }

    /// A sign of life. True: it should report all replicas now. `NotFound`: it must register (again).
    pub fn heartbeat(&self, request: &HeartbeatRequest) -> Result<bool, RpcError> {
        requests::heartbeat(self, request)
    }

    /// One page of what a datanode holds.
    pub fn replica_report(&self, request: &ReplicaReportRequest) -> Result<(), RpcError> {
        requests::replica_report(self, request)
    }

    /// Where a new chunk goes, and which idle chunk may be handed on instead. `NotEnoughDatanodes` if fewer are alive, in
    /// service and not excluded than the replication asks for; `NoSpace` if there are enough, but full.
    pub fn place(&self, request: &AllocateChunk) -> Result<Placement, RpcError> {
        requests::place(self, request)
    }

    /// Makes the first `through` bytes of each chunk durable: on every replica of the set whose datanode is alive and that has
    /// not failed. Those that are missing are already being replaced by copies, which are fsynced before they count, and are waited
    /// for where datanodes can take them.
    pub async fn sync_chunks(&self, chunks: &[(ChunkId, u64)]) -> Result<(), RpcError> {
        sync::sync_chunks(self, chunks).await
    }

    /// What failed clients: evidence to check, never a verdict.
    pub fn report_failed(&self, failed: &[FailedReplica]) {
        requests::report_failed(self, failed);
    }

    /// Whether one more session may be opened from a machine. `Overloaded` if it has too many; the bound may be passed by those that
    /// are opened at the same time on both sides of a change of leaders. Blocks: it may count all sessions.
    pub fn admit_session(&self, host: &str) -> Result<(), RpcError> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = hosts.admit(&self.store().snapshot(), host, Instant::now());
        admitted.map_err(instruct::internal)?
    }

    /// A session was opened, and the command was applied.
    pub fn opened_session(&self, session: SessionId) {
        self.keep_alive(session);
    }

    /// The state of a datanode was changed: no new replica goes where none may go now.
    pub fn datanode_states_changed(&self) -> Result<(), StoreError> {
        liveness::states_changed(self)
    }

    /// A session is alive. False if there is none, or it is being ended.
    pub fn keep_alive(&self, session: SessionId) -> bool {
        sessions::keep_alive(self, session)
    }

    /// Waits until a lock could be granted, at most for so long. `Deadlock` if that would never be.
    pub async fn wait_lock(
        &self,
        wish: Wish,
        place: u64,
        wait: Duration,
    ) -> Result<WaitLockReply, RpcError> {
        lock_waits::wait(self, wish, place, wait).await
    }

    /// In which order a client should try replicas: alive and not known bad first, then those on its own machine, then at
    /// random.
    pub fn order_replicas(&self, replicas: &[ReplicaRecord], client_host: &str) -> Vec<DatanodeId> {
        reads::order_replicas(self, replicas, client_host)
    }

    /// Datanodes that are alive; none if this member does not lead.
    pub fn alive_datanodes(&self) -> BTreeSet<DatanodeId> {
        reads::alive_datanodes(self)
    }

    /// Replicas that are known bad, short or gone; none if this member does not lead.
    pub fn failed_replicas(&self) -> BTreeSet<Incarnation> {
        reads::failed_replicas(self)
    }

    /// All datanodes as this leader sees them; if this member does not lead, as the committed state has them. One that is not among them
    /// was forgotten: what cannot be read is an error.
    pub fn datanode_statuses(&self) -> Result<Vec<DatanodeStatus>, StoreError> {
        reads::datanode_statuses(self)
    }

    /// What is stored, and what is at risk.
    pub fn counts(&self) -> ClusterCounts {
        reads::counts(self)
    }

    /// Space over datanodes that are alive.
    pub fn space(&self) -> VolumeSpace {
        reads::space(self)
    }

    fn store(&self) -> Arc<Store> {
        self.group.state().store()
    }

    /// The cluster's time: like apply, it never goes back behind the last stamp.
    fn now_ns(&self, cluster: &ClusterRecord) -> u64 {
        self.clock.now_ns().max(cluster.last_stamp_ns)
    }

    /// The same in milliseconds.
    fn now_ms(&self, cluster: &ClusterRecord) -> u64 {
        self.now_ns(cluster) / NS_PER_MS
    }

    /// When what is granted now for so long ends, in the cluster's time.
    fn expires_at_ms(&self, cluster: &ClusterRecord, life: Duration) -> u64 {
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        self.now_ms(cluster).saturating_add(life_ms)
    }

    /// The soft state of the present term, made anew if this is a new term; `None` unless this member leads and is ready.
    fn soft(&self) -> Option<MutexGuard<'_, Soft>> {
        let term = self.leading_term()?;
        let mut soft = self.lock();
        if soft.term != term {
            self.group.state().collect_touched(true);
            let store = self.store();
            if let Err(error) = soft.begin_term(term, &store.snapshot(), Instant::now()) {
                tracing::error!(%error, "cannot read the state to begin a term");
                return None;
            }
            tracing::info!(term, "controllers begin");
            self.work.notify_one();
        }
        Some(soft)
    }

    /// The soft state, if it is still that of this term: what was begun in one term must not be finished in another.
    fn soft_of(&self, term: u64) -> Option<MutexGuard<'_, Soft>> {
        self.soft().filter(|soft| soft.term == term)
    }

    fn leading_term(&self) -> Option<u64> {
        self.group.require_leader().ok()
    }

    fn lock(&self) -> MutexGuard<'_, Soft> {
        // What a panic left half done is soft, and the process is ending.
        self.soft.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[cfg(not(cairn_sim))]
mod tests;
