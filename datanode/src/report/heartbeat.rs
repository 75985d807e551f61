//! Registers with the leader and then keeps it informed: a heartbeat at every interval, and at once when a replica or
//! a volume changed for the worse or a seal was confirmed.
//!
//! A leader that does not know this process (a new one, or our volumes were away) makes it register again, which is
//! idempotent.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use cairn_daemon::blocking;
use cairn_daemon::identity::Uuid;
use cairn_protocol::ids::{ChunkId, DatanodeId};
use cairn_protocol::messages::datanode::{
    ClusterDirections, HeartbeatReply, HeartbeatRequest, RegisterDatanodeReply,
    RegisterDatanodeRequest,
};
use cairn_protocol::messages::session::FailedReplica;
use cairn_protocol::rpc::RpcError;
use cairn_protocol::{ErrorCode, Failure, Method};

use super::Leader;
use super::replicas::report_replicas;
use crate::cluster::Identity;
use crate::error::DatanodeError;
use crate::transfer::Transfer;
use crate::volumes::Volumes;

/// Replicas told of in one heartbeat.
const CHANGED_MAX: usize = 1000;

/// However much changes, heartbeats come no more often than this in one interval.
const CHANGES_PER_INTERVAL: u32 = 20;

/// Pause before the next attempt to register, while no leader answers.
const REGISTER_PAUSE: Duration = Duration::from_millis(200);

/// Who we say we are.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub address: String,
    /// Of the HTTP gateway; empty without one.
    pub http_address: String,
    pub host: String,
    pub rack: String,
    /// 16 random bytes of this process.
    pub boot_nonce: Vec<u8>,
}

/// The component that talks to the leader.
pub(crate) struct Reporter {
    pub(crate) introduction: Introduction,
    pub(crate) interval: Duration,
    pub(crate) leader: Leader,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) transfer: Transfer,
    /// Paths of volumes whose failure the leader has been told of.
    pub(crate) known_failed: BTreeSet<PathBuf>,
    /// Tells who waits for it that this datanode is registered.
    pub(crate) registered: Arc<watch::Sender<Option<DatanodeId>>>,
}

/// Why the heartbeat stops.
enum Stop {
    /// Register again.
    Unknown,
    /// The daemon ends.
    Shutdown,
}

impl Reporter {
    /// Runs until `stop`; fails only if this datanode cannot belong to the cluster.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), DatanodeError> {
        loop {
            let Some(identity) = self.register_until(&stop).await? else {
                return Ok(());
            };
            self.registered.send_replace(Some(identity.datanode));
            match self.heartbeats(identity, &stop).await {
                Stop::Unknown => {
                    tracing::info!("the leader does not know this datanode, registering again")
                }
                Stop::Shutdown => return Ok(()),
            }
        }
    }

    async fn register_until(
        &mut self,
        stop: &CancellationToken,
    ) -> Result<Option<Identity>, DatanodeError> {
        let mut waiting = false;
        loop {
            match self.register().await? {
                Ok(identity) => return Ok(Some(identity)),
                Err(failure) if !waiting => {
                    waiting = true;
                    tracing::warn!(error = %failure, "cannot register yet");
                }
                Err(failure) => tracing::debug!(error = %failure, "cannot register yet"),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(None),
                () = sleep(REGISTER_PAUSE) => {}
            }
        }
    }

    /// One attempt. The outer error ends the daemon.
    async fn register(&mut self) -> Result<Result<Identity, Failure>, DatanodeError> {
        let volumes = self
            .transfer
            .replicas
            .volume_reports(self.known_failed.clone())
            .await;
        let Introduction {
            address,
            http_address,
            host,
            rack,
            boot_nonce,
        } = self.introduction.clone();
        let request = RegisterDatanodeRequest {
            uuid: self.volumes.uuid.0.to_vec(),
            cluster_id: self
                .volumes
                .cluster()
                .map(|cluster| cluster.0.to_vec())
                .unwrap_or_default(),
            address,
            host,
            rack,
            local_socket: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_nonce,
            volumes,
            http_address,
            datanode: self.volumes.node().unwrap_or(0),
        };
        let reply: Result<RegisterDatanodeReply, RpcError> =
            self.leader.call(Method::RegisterDatanode, &request).await;
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) if error.code() == ErrorCode::WrongCluster => {
                return Err(DatanodeError::WrongCluster(
                    self.wrong_cluster(&error.failure.message),
                ));
            }
            Err(error) if error.code() == ErrorCode::PreconditionFailed => {
                return Err(DatanodeError::Forgotten {
                    volumes: self.volumes.paths(),
                    refusal: error.failure.message,
                });
            }
            Err(error) => return Ok(Err(error.failure)),
        };
        let Ok(cluster) = <[u8; 16]>::try_from(reply.cluster_id.as_slice()) else {
            return Ok(Err(Failure::new(
                ErrorCode::Malformed,
                "a cluster id has 16 bytes",
            )));
        };
        let identity = Identity {
            cluster,
            datanode: DatanodeId(reply.datanode),
        };
        self.join(identity).await?;
        Ok(self
            .learn(identity, &reply.directions, false)
            .await
            .map(|()| identity))
    }

    fn wrong_cluster(&self, theirs: &str) -> String {
        let ours = self
            .volumes
            .cluster()
            .map_or_else(|| "no cluster".to_owned(), |id| format!("cluster {id}"));
        format!(
            "the volumes of this datanode belong to {ours}, the namenodes say: {theirs}; \
             check `namenodes`, or give it empty volumes"
        )
    }

    /// Writes down whose we are before anybody can give us data to keep.
    async fn join(&mut self, identity: Identity) -> Result<(), DatanodeError> {
        let volumes = Arc::clone(&self.volumes);
        blocking(move || volumes.join(Uuid(identity.cluster), identity.datanode.0)).await
    }

    /// Takes in what the leader says, and does what it asks. Reports all replicas if it asks for that, or if `report`.
    async fn learn(
        &mut self,
        identity: Identity,
        directions: &ClusterDirections,
        report: bool,
    ) -> Result<(), Failure> {
        let cluster = &self.transfer.cluster;
        if !cluster.learn(identity, directions)? {
            return Err(Failure::new(
                ErrorCode::StaleTerm,
                "answered by a leader whose term is over",
            ));
        }
        self.leader.peers().set_hello(cluster.hello(None));
        self.leader.learn(&directions.namenodes);
        if directions.report_replicas || report {
            let nonce = &self.introduction.boot_nonce;
            report_replicas(&mut self.leader, identity, nonce, &self.transfer.replicas).await?;
        }
        Ok(())
    }

    async fn heartbeats(&mut self, identity: Identity, stop: &CancellationToken) -> Stop {
        let mut failing = false;
        loop {
            let started = Instant::now();
            let due = started + self.interval;
            match self.heartbeat(identity).await {
                Ok(()) => failing = false,
                Err(failure) if is_unknown(failure.code) => return Stop::Unknown,
                Err(failure) => {
                    if !failing {
                        tracing::warn!(error = %failure, "heartbeat failed");
                    }
                    failing = true;
                }
            }
            let next = async {
                // While nobody answers, what changed can wait for the next attempt; and many changes for one heartbeat.
                if failing
                    || timeout_at(due, self.transfer.replicas.changes().wait())
                        .await
                        .is_err()
                {
                    sleep_until(due).await;
                }
                sleep_until(started + self.interval / CHANGES_PER_INTERVAL).await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Stop::Shutdown,
                () = next => {}
            }
        }
    }

    async fn heartbeat(&mut self, identity: Identity) -> Result<(), Failure> {
        let replicas = &self.transfer.replicas;
        let volumes = replicas.volume_reports(self.known_failed.clone()).await;
        let taken = replicas.changes().take(CHANGED_MAX);
        let failed: BTreeSet<PathBuf> = volumes
            .iter()
            .filter(|volume| volume.failed)
            .map(|volume| volume.path.clone().into())
            .collect();
        let request = HeartbeatRequest {
            datanode: identity.datanode.0,
            boot_nonce: self.introduction.boot_nonce.clone(),
            volumes,
            changed: taken
                .chunks
                .iter()
                .filter_map(|chunk| replicas.find(*chunk))
                .collect(),
            failed_sources: taken.sources.iter().map(failed_source).collect(),
            write_streams: self.transfer.budget.stream_count() as u32,
            reads: self.transfer.reads.count() as u32,
        };
        let reply: Result<HeartbeatReply, RpcError> =
            self.leader.call(Method::Heartbeat, &request).await;
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                self.transfer.replicas.changes().put_back(taken);
                return Err(error.failure);
            }
        };
        let report = taken.everything;
        if let Err(failure) = self.learn(identity, &reply.directions, report).await {
            // A leader whose term is over heard it; the present one has to.
            self.transfer.replicas.changes().put_back(taken);
            return Err(failure);
        }
        self.known_failed = failed;
        Ok(())
    }
}

fn failed_source((source, code): (&(ChunkId, DatanodeId), &ErrorCode)) -> FailedReplica {
    let (chunk, datanode) = source;
    FailedReplica {
        chunk: chunk.0,
        datanode: datanode.0,
        code: *code as u32,
    }
}

/// The leader answers, but not to us as we are: everything else is tried again with the next heartbeat.
fn is_unknown(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotFound
            | ErrorCode::SessionExpired
            | ErrorCode::PreconditionFailed
            | ErrorCode::NotPermitted
    )
}
