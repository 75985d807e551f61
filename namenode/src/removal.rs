//! Notices that this namenode was removed or replaced while it did not run: nobody tells it then. It knows its cluster as it was, asks the
//! others for votes that it does not get, and hears nothing.
//!
//! What it learns is told and changes nothing else: a member that is wrongly taken for one that was removed votes as before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::Method;
use cairn_protocol::messages::admin::{
    ReadIndexReply, ReadIndexRequest, StatusReply, StatusRequest,
};
use cairn_protocol::messages::common::Caller;
use cairn_protocol::rpc::{Peers, RpcError};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::consensus::group::Group;
use crate::service::ClusterCell;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// A member that has heard no leader for so long asks: many elections fit into that.
const SILENCE: Duration = Duration::from_secs(10);
/// A cluster has fewer namenodes; what others name beyond that is not believed.
const ASKED_MAX: usize = 64;
/// Looks in a row that find a leader without us: a change of members that was under way is committed, or has come to nothing, by the last.
const SIGHTINGS: u32 = 2;
/// For one namenode to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether this namenode is known to have been removed. Set by [`Removal`], read by what answers operators.
#[derive(Clone, Debug, Default)]
pub(crate) struct Removed(Arc<AtomicBool>);

impl Removed {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, removed: bool) {
        self.0.store(removed, Ordering::Relaxed);
    }
}

/// Leaders without us that were found in a row.
#[derive(Debug, Default)]
struct Sightings(u32);

impl Sightings {
    /// What this look found, if there were enough.
    fn see(&mut self, leader: Option<String>) -> Option<String> {
        self.0 = if leader.is_some() { self.0 + 1 } else { 0 };
        leader.filter(|_| self.0 >= SIGHTINGS)
    }
}

/// Asks the others when no leader is heard.
pub(crate) struct Removal {
    pub group: Group,
    pub peers: Peers,
    /// `host:port` of this namenode as others reach it.
    pub address: String,
    /// Those that founded the cluster; more are known from the log.
    pub namenodes: Vec<String>,
    pub cluster: ClusterCell,
    pub removed: Removed,
}

impl Removal {
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut sightings = Sightings::default();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.look(&mut sightings) => {}
            }
        }
    }

    async fn look(&self, sightings: &mut Sightings) {
        sleep(LOOK).await;
        if self.group.silent_for() < SILENCE {
            sightings.see(None);
            if self.removed.get() {
                info!("this namenode belongs to its cluster again");
                self.removed.set(false);
            }
            return;
        }
        if self.removed.get() {
            return;
        }
        if let Some(leader) = sightings.see(self.leader_without_us().await) {
            error!(
                namenode = self.group.id(),
                address = self.address,
                leader,
                "this namenode was removed from its cluster or replaced: stop it and remove its directory; with an empty one it can be \
                 added again (dfs namenode add)"
            );
            self.removed.set(true);
        }
    }

    /// The address of a leader of this cluster that does not count us among its namenodes. Ends at a timeout at the latest.
    async fn leader_without_us(&self) -> Option<String> {
        let cluster = self.cluster.get()?;
        let members = self.group.members().into_iter();
        let mut to_ask: Vec<String> = members.map(|member| member.address).collect();
        to_ask.extend(self.namenodes.iter().cloned());
        let mut asked = BTreeSet::from([self.address.clone()]);
        while let Some(address) = to_ask.pop() {
            if asked.len() > ASKED_MAX || !asked.insert(address.clone()) {
                continue;
            }
            match confirmed_status(&self.peers, &address).await {
                Ok(status) if self.is_without_us(&status, cluster) => return Some(address),
                Ok(_) => {}
                Err(error) => {
                    debug!(address, %error, "does not say who belongs to the cluster");
                    // Those who lead now may all be newer than what we know.
                    to_ask.extend(error.leader_hint);
                }
            }
        }
        None
    }

    /// Of a leader that had a quorum when it said so.
    fn is_without_us(&self, status: &StatusReply, cluster: [u8; 16]) -> bool {
        let own = self.group.id();
        // Only a leader answers this; one of an earlier term may not have heard that we were added.
        let term = self.group.leadership().borrow().term;
        status.cluster_id == cluster
            && status.term >= term
            && !status.namenodes.is_empty()
            && status.namenodes.iter().all(|member| member.namenode != own)
    }
}

/// What the leader at an address says of its cluster, once a quorum has confirmed that it leads: one that is cut off goes on to answer,
/// and what it says of its members may be a change that never came about.
async fn confirmed_status(peers: &Peers, address: &str) -> Result<StatusReply, RpcError> {
    peers
        .call_typed::<ReadIndexReply>(
            address,
            Method::ReadIndex.into(),
            &ReadIndexRequest {},
            Bytes::new(),
            ASK_TIMEOUT,
        )
        .await?;
    let request = StatusRequest {
        caller: Caller::default(),
        local: false,
    };
    let (status, _) = peers
        .call_typed::<StatusReply>(
            address,
            Method::Status.into(),
            &request,
            Bytes::new(),
            ASK_TIMEOUT,
        )
        .await?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use cairn_daemon::Tasks;
    use cairn_protocol::messages::admin::{NamenodeStatus, ReadIndexReply, StatusReply};
    use cairn_protocol::rpc::{
        ConnectionOptions, FramedStream, Hello, Peer, Peers, Reply, Request, RpcError,
        ServerOptions, Service, serve,
    };
    use cairn_protocol::{ErrorCode, Failure, Method, net};

    use super::{Sightings, confirmed_status};

    /// A leader of namenode 2 alone.
    #[derive(Clone, Default)]
    struct Leader {
        has_quorum: Arc<AtomicBool>,
    }

    impl Service for Leader {
        fn hello(&self, _theirs: &Hello) -> Result<Hello, Failure> {
            Ok(Hello::new("namenode", None, 2))
        }

        async fn call(&self, _peer: &Peer, request: Request) -> Result<Reply, RpcError> {
            if request.method == u16::from(Method::Status) {
                let member = NamenodeStatus {
                    namenode: 2,
                    ..NamenodeStatus::default()
                };
                return Ok(Reply::new(&StatusReply {
                    namenodes: vec![member],
                    ..StatusReply::default()
                }));
            }
            assert_eq!(request.method, u16::from(Method::ReadIndex));
            if self.has_quorum.load(Ordering::Relaxed) {
                return Ok(Reply::new(&ReadIndexReply::default()));
            }
            Err(RpcError::new(ErrorCode::Unavailable, "no quorum"))
        }

        async fn stream(&self, _peer: &Peer, _stream: FramedStream) {}
    }

    #[tokio::test]
    async fn a_leader_without_a_quorum_is_not_believed() {
        let listener = net::listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (leader, tasks) = (Leader::default(), Tasks::new());
        let served = serve(
            listener,
            Arc::new(leader.clone()),
            ServerOptions::default(),
            tasks.shutdown_token(),
        );
        tasks.component("leader", |_| served);
        let peers = Peers::new(
            Hello::new("namenode", None, 1),
            ConnectionOptions::default(),
        );
        let refused = confirmed_status(&peers, &address).await;
        assert_eq!(
            refused.map_err(|error| error.code()),
            Err(ErrorCode::Unavailable)
        );
        leader.has_quorum.store(true, Ordering::Relaxed);
        let status = confirmed_status(&peers, &address).await.unwrap();
        assert_eq!(status.namenodes[0].namenode, 2);
        tasks.shutdown();
        let ended = tasks.run_until_shutdown(Duration::from_secs(60));
        ended.await.unwrap();
    }

    #[test]
    fn one_look_is_not_enough() {
        let mut sightings = Sightings::default();
        let mut see = |leader: Option<&str>| sightings.see(leader.map(str::to_owned));
        assert_eq!(see(Some("a")), None);
        assert_eq!(see(None), None);
        assert_eq!(see(Some("a")), None);
        assert_eq!(see(Some("b")), Some("b".to_owned()));
    }
}
