//! A namenode that registers every datanode, remembers what they say, and mints tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;

use cairn_protocol::messages::common::ClusterSettings;
use cairn_protocol::messages::datanode::{
    ClusterDirections, HeartbeatReply, HeartbeatRequest, RegisterDatanodeReply,
    RegisterDatanodeRequest, ReplicaReportReply, ReplicaReportRequest, ReplicaState,
    TokenKeyMessage, VolumeReport,
};
use cairn_protocol::rpc::{FramedStream, Hello, Peer, Reply, Request, RpcError, Service};
use cairn_protocol::token::KeyRing;
use cairn_protocol::{ErrorCode, Failure, Method};

pub(super) const TERM: u64 = 5;
/// The cluster's time at every heartbeat.
pub(super) const TIME_MS: u64 = 1_000_000;
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that datanodes said.
#[derive(Default)]
pub(super) struct Heard {
    pub uuids: Vec<Vec<u8>>,
    pub addresses: BTreeMap<u64, String>,
    pub changed: BTreeMap<(u64, u64), ReplicaState>,
    pub reported: BTreeMap<(u64, u64), ReplicaState>,
    pub volumes: BTreeMap<u64, Vec<VolumeReport>>,
    /// (chunk, datanode) of replicas that could not be copied.
    pub failed_sources: BTreeSet<(u64, u64)>,
}

pub(super) struct Namenode {
    pub keys: KeyRing,
    pub heard: Mutex<Heard>,
    pub changed: Notify,
    pub address: Mutex<String>,
}

impl Namenode {
    fn directions(&self, report_replicas: bool) -> ClusterDirections {
        let key = &self.keys.current;
        ClusterDirections {
            term: TERM,
            time_ms: TIME_MS,
            keys: vec![TokenKeyMessage {
                id: key.id,
                secret: key.secret.to_vec(),
            }],
            settings: ClusterSettings {
                chunk_size: 128 << 20,
                ..Default::default()
            },
            report_replicas,
            namenodes: vec![self.address.lock().unwrap().clone()],
        }
    }

    fn register(&self, request: RegisterDatanodeRequest) -> Result<Reply, RpcError> {
        if !request.cluster_id.is_empty() && request.cluster_id != self.keys.cluster {
            return Err(RpcError::new(
                ErrorCode::WrongCluster,
                "this is another cluster",
            ));
        }
        let mut heard = self.heard.lock().unwrap();
        let known = heard.uuids.iter().position(|uuid| *uuid == request.uuid);
        let datanode = 1 + known.unwrap_or_else(|| {
            heard.uuids.push(request.uuid.clone());
            heard.uuids.len() - 1
        }) as u64;
        heard.addresses.insert(datanode, request.address);
        drop(heard);
        let directions = self.directions(true);
        let cluster_id = self.keys.cluster.to_vec();
        Ok(Reply::new(&RegisterDatanodeReply {
            datanode,
            cluster_id,
            directions,
        }))
    }

    fn hear(&self, datanode: u64, replicas: Vec<ReplicaState>, full: bool) {
        let mut heard = self.heard.lock().unwrap();
        let table = if full {
            &mut heard.reported
        } else {
            &mut heard.changed
        };
        table.extend(
            replicas
                .into_iter()
                .map(|replica| ((datanode, replica.chunk), replica)),
        );
        drop(heard);
        self.changed.notify_waiters();
    }

    /// Waits until `what` is true of what was heard.
    pub(super) async fn until(&self, what: impl Fn(&Heard) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if what(&self.heard.lock().unwrap()) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(TIMEOUT, wait)
            .await
            .expect("the datanode says so");
    }
}

impl Service for Namenode {
    fn hello(&self, _theirs: &Hello) -> Result<Hello, Failure> {
        Ok(Hello::new("namenode", None, 1))
    }

    async fn call(&self, _peer: &Peer, request: Request) -> Result<Reply, RpcError> {
        match Method::from_number(request.method) {
            Some(Method::RegisterDatanode) => self.register(request.decode()?),
            Some(Method::Heartbeat) => {
                let beat: HeartbeatRequest = request.decode()?;
                {
                    let mut heard = self.heard.lock().unwrap();
                    heard.volumes.insert(beat.datanode, beat.volumes);
                    let failed = beat.failed_sources.iter();
                    heard
                        .failed_sources
                        .extend(failed.map(|failed| (failed.chunk, failed.datanode)));
                }
                self.hear(beat.datanode, beat.changed, false);
                Ok(Reply::new(&HeartbeatReply {
                    directions: self.directions(false),
                }))
            }
            Some(Method::ReplicaReport) => {
                let report: ReplicaReportRequest = request.decode()?;
                self.hear(report.datanode, report.replicas, true);
                Ok(Reply::new(&ReplicaReportReply {}))
            }
            _ => Err(ErrorCode::NotSupported.into()),
        }
    }

    async fn stream(&self, _peer: &Peer, _stream: FramedStream) {}
}
