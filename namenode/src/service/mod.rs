//! What the namenode answers: authorise, stamp, translate, call. No logic of the namespace and none of the controllers.
//!
//! `client` answers clients, `feed` tells them what changes, `datanode` answers datanodes, `admin` operators and other namenodes, `locks` who waits for one; `tokens` issues those of users, `principal` believes them;
//! `grants` mints tokens and fills in
//! what replicated state does not hold (addresses, tokens).

mod admin;
mod client;
mod datanode;
mod feed;
mod grants;
mod locks;
pub(crate) mod principal;
mod recall;
mod tokens;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn_daemon::Clock;
use cairn_daemon::telemetry::Metrics;
use cairn_protocol::messages::common::FailureInfo;
use cairn_protocol::net::Proof;
use cairn_protocol::rpc::{FramedStream, Hello, Peer, Peers, Reply, Request, RpcError, Service};
use cairn_protocol::{ErrorCode, Failure, Method};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::consensus::group::Group;
use crate::controllers::Controllers;
use crate::founding::Founder;
use crate::metrics::ServiceMetrics;
use crate::namespace::command::Outcome;
use crate::removal::Removed;

use principal::Principal;

/// How long a namenode waits for another one or for a datanode.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the service is made of.
pub(crate) struct Parts {
    pub group: Group,
    pub controllers: Arc<Controllers>,
    pub clock: Clock,
    /// Connections to other namenodes.
    pub peers: Peers,
    /// `host:port` of this member as others reach it.
    pub address: String,
    /// Founds a cluster when an operator says so.
    pub founder: Founder,
    /// Whether this member was removed.
    pub removed: Removed,
    /// Counters of this process.
    pub metrics: Metrics,
    /// Cancelled when the process is about to end: calls that only wait are answered.
    pub stopping: CancellationToken,
}

/// The cluster that this member belongs to, once it is known. Shared with whoever introduces this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterCell(Arc<Mutex<Option<[u8; 16]>>>);

impl ClusterCell {
    pub fn get(&self) -> Option<[u8; 16]> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, cluster: [u8; 16]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster);
    }
}

/// Answers every connection of this process.
pub(crate) struct NamenodeService {
    group: Group,
    controllers: Arc<Controllers>,
    clock: Clock,
    peers: Peers,
    address: String,
    founder: Founder,
    removed: Removed,
    cluster: ClusterCell,
    metrics: Metrics,
    counters: ServiceMetrics,
    stopping: CancellationToken,
    /// One permit per call that waits for changes.
    waiting: Semaphore,
    recalls: recall::Recalls,
}

impl NamenodeService {
    pub fn new(parts: Parts, cluster: ClusterCell) -> Self {
        let counters = ServiceMetrics::new(&parts.metrics);
        Self {
            group: parts.group,
            controllers: parts.controllers,
            clock: parts.clock,
            peers: parts.peers,
            address: parts.address,
            founder: parts.founder,
            removed: parts.removed,
            cluster,
            metrics: parts.metrics,
            counters,
            stopping: parts.stopping,
            waiting: Semaphore::new(feed::WAITING_MAX),
            recalls: recall::Recalls::new(),
        }
    }

    async fn dispatch(&self, peer: &Peer, request: Request) -> Result<Reply, RpcError> {
        let Some(method) = Method::from_number(request.method) else {
            let message = format!("method {} is unknown to this version", request.method);
            return Err(RpcError::new(ErrorCode::NotSupported, message));
        };
        let principal = match self.authenticate(peer, method).await {
            Ok(principal) => principal,
            Err(refused) => {
                self.audit(peer, None, method, Some(&refused));
                return Err(refused);
            }
        };
        peer.standing.prove();
        let result = self.answer(peer, &principal, method, request).await;
        self.audit(peer, Some(&principal), method, result.as_ref().err());
        result
    }

    async fn answer(
        &self,
        peer: &Peer,
        principal: &Principal,
        method: Method,
        request: Request,
    ) -> Result<Reply, RpcError> {
        match method {
            Method::Query => self.query(principal, request).await,
            Method::Mutate => self.mutate(principal, request).await,
            Method::ClusterInfo => self.cluster_info(),
            Method::OpenSession => self.open_session(peer, principal, request).await,
            Method::KeepAlive => self.keep_alive(principal, request).await,
            Method::Sync => self.sync(principal, request).await,
            Method::Changes => self.changes(principal, request).await,
            Method::ReportReplicas => self.report_replicas(request),
            Method::WaitLock => self.wait_lock(principal, request).await,
            Method::RegisterDatanode => self.register_datanode(request).await,
            Method::Heartbeat => self.heartbeat(request),
            Method::ReplicaReport => self.replica_report(request),
            Method::FoundCluster => self.found_cluster(principal, request).await,
            Method::AddNamenode => self.add_namenode(principal, request).await,
            Method::RemoveNamenode => self.remove_namenode(principal, request).await,
            Method::TransferLeadership => self.transfer_leadership(principal, request).await,
            Method::SetDatanodeState => self.set_datanode_state(principal, request).await,
            Method::Status => self.status(request).await,
            Method::Fsck => self.fsck(principal, request).await,
            Method::Metrics => self.metrics(),
            Method::IssueToken => self.issue_token(principal, request).await,
            Method::ListTokens => self.list_tokens(principal, request).await,
            Method::ChangeToken => self.change_token(principal, request).await,
            Method::WhoAmI => self.who_am_i(principal, request).await,
            Method::Greet => self.greet(request).await,
            Method::RaftAppend
            | Method::RaftVote
            | Method::RaftSnapshot
            | Method::RaftTransfer
            | Method::ReadIndex => self.group.handle(peer, method, request).await,
            Method::Hello
            | Method::Instruct
            | Method::OpenWrite
            | Method::Packet
            | Method::PacketAck
            | Method::ReadReplica
            | Method::LocateReplica => {
                let message = format!("{} is not for a namenode", method.name());
                Err(RpcError::new(ErrorCode::NotSupported, message))
            }
        }
    }
}

impl Service for NamenodeService {
    fn admit(&self, theirs: &Hello, proof: Proof) -> Result<(), Failure> {
        self.admit_guest(theirs, proof)
    }

    fn hello(&self, _theirs: &Hello) -> Result<Hello, Failure> {
        Ok(Hello::new("namenode", self.cluster.get(), self.group.id()))
    }

    async fn call(&self, peer: &Peer, request: Request) -> Result<Reply, RpcError> {
        let method = request.method;
        let result = self.dispatch(peer, request).await;
        self.counters
            .answered(method, result.as_ref().err().map(RpcError::code));
        result
    }

    async fn stream(&self, _peer: &Peer, _stream: FramedStream) {
        // A namenode has no streams: the connection is closed.
    }

    fn is_heavy(&self, method: u16) -> bool {
        [
            Method::Fsck,
            Method::Status,
            Method::RaftSnapshot,
            Method::ReplicaReport,
            Method::RaftAppend,
            Method::Changes,
        ]
        .into_iter()
        .any(|heavy| u16::from(heavy) == method)
    }
}

/// The failure inside an outcome, if it is one.
fn outcome_failure(outcome: &Outcome) -> Option<Failure> {
    if outcome.code == 0 {
        return None;
    }
    let info = FailureInfo {
        code: outcome.code,
        message: outcome.message.clone(),
    };
    Some(info.into())
}

/// A store failure while answering a read: the process goes on, the caller learns that it is our fault.
fn internal(error: impl std::fmt::Display) -> RpcError {
    RpcError::new(ErrorCode::Internal, error.to_string())
}
