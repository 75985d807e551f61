//! How a namenode comes to belong to a cluster: it waits until an operator founds one with it, or adds it to one.
//!
//! A namenode never founds by itself, because an empty directory does not tell a new one from one that lost its data: the
//! second would found another cluster beside its own. So founding is a command, and it is refused while any of the namenodes
//! that the settings name belongs to a group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use cairn_daemon::identity::{DataDir, Uuid};
use cairn_protocol::messages::admin::{GreetReply, GreetRequest};
use cairn_protocol::rpc::{Hello, Peers, RpcError};
use cairn_protocol::{ErrorCode, Method};
use rand::RngCore;
use rand::rngs::StdRng;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::FoundingSettings;
use crate::consensus::group::Group;
use crate::consensus::types::Member;
use crate::namespace::command::{CommandKind, FoundCluster};
use crate::service::ClusterCell;
use crate::store::Read;

/// One greeting.
const GREET_TIMEOUT: Duration = Duration::from_secs(2);
/// For the first leader to be elected and to give the cluster its id.
const FOUNDED_TIMEOUT: Duration = Duration::from_secs(5);
/// Before a leader tries again to give the cluster its id.
const NAMING_PAUSE: Duration = Duration::from_millis(100);

/// Founds a cluster when it is told to. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Founder {
    /// As configured: all founding members, the first of which founds. Empty: this one alone.
    namenodes: Vec<String>,
    group: Group,
    peers: Peers,
    address: String,
    /// Held while founding, so that a repeated command waits for the first.
    turn: Arc<Mutex<()>>,
}

impl Founder {
    pub fn new(namenodes: Vec<String>, group: Group, peers: Peers, address: String) -> Self {
        Self {
            namenodes,
            group,
            peers,
            address,
            turn: Arc::default(),
        }
    }

    /// Founds a cluster unless this namenode belongs to a group already; tells the cluster's id. May be repeated.
    pub async fn found(&self) -> Result<[u8; 16], RpcError> {
        let _turn = self.turn.lock().await;
        if !self.is_member().await? {
            self.check_list()?;
            let others = self.greet_others().await?;
            let members = self.members(others);
            info!(
                namenodes = members.len(),
                address = self.address,
                "founds a cluster"
            );
            let founded = self.group.initialize(members).await;
            founded.map_err(|error| unavailable(format!("{}: {error:#}", self.address)))?;
        }
        match timeout(FOUNDED_TIMEOUT, cluster_id(&self.group)).await {
            Ok(id) => id.map_err(|error| unavailable(format!("{error:#}"))),
            Err(_) => Err(unavailable(format!(
                "{}: the cluster is founded and has no leader yet",
                self.address
            ))),
        }
    }

    async fn is_member(&self) -> Result<bool, RpcError> {
        let initialized = self.group.is_initialized().await;
        initialized.map_err(|error| unavailable(format!("{error:#}")))
    }

    /// Only the first of the list founds: two that found at once might each have greeted another third.
    fn check_list(&self) -> Result<(), RpcError> {
        let (address, list) = (&self.address, self.namenodes.join(", "));
        let message = match self.namenodes.first() {
            None => return Ok(()),
            Some(first) if first == address => return Ok(()),
            Some(first) if self.namenodes.contains(address) => {
                format!("{address} is not the first of its `namenodes`: dfs namenode found {first}")
            }
            Some(_) => format!("{address} is not among its `namenodes` ({list}) by this name"),
        };
        Err(RpcError::new(ErrorCode::InvalidArgument, message))
    }

    /// What all others answer, once none of them belongs to a group.
    async fn greet_others(&self) -> Result<Vec<GreetReply>, RpcError> {
        let mut answers = Vec::new();
        let others = self.namenodes.iter();
        for address in others.filter(|address| **address != self.address) {
            let greeting = GreetRequest {
                namenode: self.group.id(),
                address: self.address.clone(),
            };
            let answer = self
                .peers
                .call_typed::<GreetReply>(
                    address,
                    Method::Greet.into(),
                    &greeting,
                    Bytes::new(),
                    GREET_TIMEOUT,
                )
                .await;
            let (answer, _) = answer.map_err(|error| {
                unavailable(format!(
                    "{address} does not answer, and all namenodes must when a cluster is founded: {}",
                    error.failure
                ))
            })?;
            if answer.in_group || !answer.cluster_id.is_empty() {
                let message = format!(
                    "{address} belongs to a cluster; to add {own} to it: dfs namenode add {own} (with --replace ID, if {own} lost its data)",
                    own = self.address
                );
                return Err(RpcError::new(ErrorCode::InvalidArgument, message));
            }
            if answer.address != *address {
                let message = format!(
                    "the namenode at {address} calls itself {}: `advertise` there and `namenodes` here must be the same",
                    answer.address
                );
                return Err(RpcError::new(ErrorCode::InvalidArgument, message));
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    fn members(&self, others: Vec<GreetReply>) -> BTreeMap<u64, Member> {
        let member = |address: String| Member {
            address,
            ..Member::default()
        };
        let others = others
            .into_iter()
            .map(|other| (other.namenode, member(other.address)));
        let own = (self.group.id(), member(self.address.clone()));
        others.chain([own]).collect()
    }
}

fn unavailable(message: String) -> RpcError {
    RpcError::new(ErrorCode::Unavailable, message)
}

/// Waits until the cluster has an id here. Cancel-safe.
async fn cluster_id(group: &Group) -> anyhow::Result<[u8; 16]> {
    let mut applied = group.state().watch_applied();
    loop {
        // Marked as seen before the look, so that what is applied meanwhile wakes us.
        applied.borrow_and_update();
        let store = group.state().store();
        let cluster = store.snapshot().cluster_record()?;
        if let Ok(id) = <[u8; 16]>::try_from(cluster.cluster_id.as_slice()) {
            return Ok(id);
        }
        applied.changed().await.context("state machine ended")?;
    }
}

/// Notes in the directory which cluster it belongs to, as soon as that is known; holds the directory's lock.
pub(crate) struct Membership {
    pub settings: FoundingSettings,
    pub group: Group,
    pub peers: Peers,
    pub address: String,
    pub cluster: ClusterCell,
    pub directory: DataDir,
    pub rng: StdRng,
}

impl Membership {
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            learnt = self.learn_cluster() => learnt?,
        }
        // Holds the directory's lock for as long as the process serves.
        stop.cancelled().await;
        Ok(())
    }

    /// Until the cluster has an id, which the first leader gives it; then this directory belongs to it for good.
    async fn learn_cluster(&mut self) -> anyhow::Result<()> {
        if !self.group.is_initialized().await? {
            info!(
                "belongs to no cluster yet, and waits: `dfs namenode found {own}` founds a new one with it, `dfs namenode add \
                 {own}` adds it to another",
                own = self.address
            );
        } else if self.group.members().len() == 1 {
            // Nobody else can be elected: there is nothing to wait for.
            self.group.elect().await?;
        }
        let mut leadership = self.group.leadership();
        let group = self.group.clone();
        let learnt = cluster_id(&group);
        tokio::pin!(learnt);
        let id = loop {
            tokio::select! {
                biased;
                id = &mut learnt => break id?,
                changed = leadership.changed() => changed.context("leadership watch ended")?,
            }
            while leadership.borrow_and_update().ready && !self.name_cluster().await {
                sleep(NAMING_PAUSE).await;
            }
        };
        self.directory.join_cluster(Uuid(id))?;
        self.cluster.set(id);
        self.peers
            .set_hello(Hello::new("namenode", Some(id), self.group.id()));
        info!(cluster = %Uuid(id), "namenode belongs to cluster");
        Ok(())
    }

    /// Proposes the first command of the cluster's life; true if the cluster has an id then. Whoever leads next does it if this
    /// one cannot.
    async fn name_cluster(&mut self) -> bool {
        let mut cluster_id = vec![0; 16];
        self.rng.fill_bytes(&mut cluster_id);
        let mut key_secret = vec![0; 32];
        self.rng.fill_bytes(&mut key_secret);
        let settings = &self.settings;
        let command = CommandKind::FoundCluster(FoundCluster {
            cluster_id,
            settings: settings.to_cluster(),
            key_secret,
            root_uid: settings.root_uid,
            root_gid: settings.root_gid,
            root_mode: settings.root_mode,
        });
        let proposed = self.group.propose(command).await;
        if let Err(error) = &proposed {
            warn!(%error, "giving the cluster its id failed");
        }
        proposed.is_ok()
    }
}
