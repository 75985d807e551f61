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
use cairn_protocol::messages::admin::{StatusReply, StatusRequest};
use cairn_protocol::messages::common::Caller;
use cairn_protocol::rpc::Peers;
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
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.look() => {}
            }
        }
    }

    async fn look(&self) {
        sleep(LOOK).await;
        if self.group.silent_for() < SILENCE {
            if self.removed.get() {
                info!("this namenode belongs to its cluster again");
                self.removed.set(false);
            }
            return;
        }
        if !self.removed.get()
            && let Some(leader) = self.leader_without_us().await
        {
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
            let request = StatusRequest {
                caller: Caller::default(),
                local: false,
            };
            let answer = self.peers.call_typed::<StatusReply>(
                &address,
                Method::Status.into(),
                &request,
                Bytes::new(),
                ASK_TIMEOUT,
            );
            match answer.await {
                Ok((status, _)) if self.is_without_us(&status, cluster) => return Some(address),
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
