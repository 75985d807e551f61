//! Builds a namenode and wires its parts: the only place that knows all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use cairn_daemon::disk::{Disk, RealDisk};
use cairn_daemon::identity::{DataDir, Uuid};
use cairn_daemon::telemetry::Metrics;
use cairn_daemon::{Clock, Tasks, blocking};
use cairn_protocol::Method;
use cairn_protocol::messages::admin::{GreetReply, GreetRequest};
use cairn_protocol::net::{self, TcpListener};
use cairn_protocol::rpc::{self, ConnectionOptions, Hello, Peers, ServerOptions};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::NamenodeConfig;
use crate::consensus::group::{Group, GroupParts};
use crate::consensus::log_store::{LogOptions, LogStore};
use crate::consensus::state::State;
use crate::consensus::types::Member;
use crate::controllers::{ControllerOptions, Controllers};
use crate::namespace::command::{CommandKind, FoundCluster};
use crate::service::{ClusterCell, NamenodeService, Parts};
use crate::store::Read;

/// Layout of a namenode's directory.
const LAYOUT: u32 = 1;
/// Between two looks at the others while the cluster is being founded.
const FOUNDING_PAUSE: Duration = Duration::from_millis(100);
/// One greeting.
const GREET_TIMEOUT: Duration = Duration::from_secs(2);

/// What a namenode takes from the world. The simulator gives other ones.
pub struct Doors {
    /// Where identity and Raft log live.
    pub disk: Arc<dyn Disk>,
    /// Where RocksDB's directory is; differs from `config.directory` only if `disk` is simulated.
    pub state_directory: PathBuf,
    /// Disk under `state_directory`.
    pub state_disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Clock,
    /// Seed of everything random.
    pub seed: u64,
    /// Log settings.
    pub log: LogOptions,
    /// Controllers' intervals and limits.
    pub controllers: ControllerOptions,
    /// A socket that listens already, instead of binding `config.listen`: for tests that must know the ports of all members before any
    /// of them starts.
    pub listener: Option<TcpListener>,
}

impl Doors {
    /// The real world, for a namenode in this directory.
    pub fn real(config: &NamenodeConfig) -> Self {
        Self {
            disk: Arc::new(RealDisk),
            state_directory: config.directory.clone(),
            state_disk: Arc::new(RealDisk),
            clock: Clock::system(),
            seed: rand::rng().next_u64(),
            log: LogOptions::new(rand::rng().next_u64()),
            controllers: ControllerOptions::default(),
            listener: None,
        }
    }
}

/// A running namenode.
#[derive(Clone)]
pub struct Namenode {
    group: Group,
    address: String,
    cluster: ClusterCell,
    metrics: Metrics,
}

impl Namenode {
    /// Opens the directory, joins or founds its group, and serves. Returns when it listens; it may not lead or know a leader yet.
    pub async fn start(
        config: NamenodeConfig,
        mut doors: Doors,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        config.validate().context("configuration of the namenode")?;
        let mut rng = StdRng::seed_from_u64(doors.seed);
        let directory = open_directory(&config, &doors, &mut rng).await?;
        let id = directory
            .identity()
            .node
            .context("VERSION has no namenode id")?;
        let listener = match doors.listener.take() {
            Some(listener) => listener,
            None => net::listen(&config.listen)
                .await
                .with_context(|| format!("listen on {}", config.listen))?,
        };
        let address = advertised(&config, &listener)?;
        let cluster = ClusterCell::default();
        if let Some(Uuid(cluster_id)) = directory.identity().cluster {
            cluster.set(cluster_id);
        }
        let hello = Hello::new("namenode", cluster.get(), id);
        let peers = Peers::new(hello, ConnectionOptions::default());
        let (log, state) = open_storage(&config, &doors, &directory).await?;
        let group = Group::start(
            GroupParts {
                id,
                log,
                state,
                peers: peers.clone(),
                clock: doors.clock.clone(),
                options: config.group_options(),
            },
            tasks,
        )
        .await?;
        let datanode_peers = peers.clone();
        let controllers = Controllers::new(
            group.clone(),
            datanode_peers,
            doors.clock.clone(),
            doors.controllers.clone(),
            rng.next_u64(),
        );
        controllers.start(tasks);
        let metrics = Metrics::new("namenode");
        let service = NamenodeService::new(
            Parts {
                group: group.clone(),
                controllers,
                clock: doors.clock.clone(),
                peers: peers.clone(),
                address: address.clone(),
                metrics: metrics.clone(),
            },
            cluster.clone(),
        );
        let shutdown = tasks.shutdown_token();
        tasks.component("rpc", |_stop| async move {
            rpc::serve(
                listener,
                Arc::new(service),
                ServerOptions::default(),
                shutdown,
            )
            .await
        });
        let founding = Founding {
            config,
            group: group.clone(),
            peers,
            address: address.clone(),
            cluster: cluster.clone(),
            directory,
            rng,
        };
        tasks.component("founding", |stop| founding.run(stop));
        info!(namenode = id, address, "namenode listens");
        Ok(Self {
            group,
            address,
            cluster,
            metrics,
        })
    }

    /// `host:port` under which others reach it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its part in the group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The cluster's id, once it is founded or joined.
    pub fn cluster_id(&self) -> Option<[u8; 16]> {
        self.cluster.get()
    }

    /// Its counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

async fn open_directory(
    config: &NamenodeConfig,
    doors: &Doors,
    rng: &mut StdRng,
) -> anyhow::Result<DataDir> {
    let (disk, path) = (doors.disk.clone(), config.directory.clone());
    let mut rng = StdRng::seed_from_u64(rng.next_u64());
    blocking(move || {
        let mut directory = DataDir::open(disk, &path, "namenode", LAYOUT, &mut rng)?;
        if directory.identity().node.is_none() {
            // Random, so that a namenode whose directory was lost never votes under its old id. 53 bits survive JSON.
            directory.join_node(rng.random_range(1..1 << 53))?;
        }
        Ok(directory)
    })
    .await
}

fn advertised(config: &NamenodeConfig, listener: &TcpListener) -> anyhow::Result<String> {
    if let Some(address) = &config.advertise {
        return Ok(address.clone());
    }
    let bound = listener
        .local_addr()
        .context("address of the listening socket")?;
    if bound.ip().is_unspecified() && config.namenodes.len() > 1 {
        bail!(
            "advertise: needed when a namenode of several listens on {}",
            config.listen
        );
    }
    if bound.ip().is_unspecified() {
        return Ok(format!("127.0.0.1:{}", bound.port()));
    }
    Ok(bound.to_string())
}

async fn open_storage(
    config: &NamenodeConfig,
    doors: &Doors,
    directory: &DataDir,
) -> anyhow::Result<(LogStore, Arc<State>)> {
    let log_path = config.directory.join("log");
    let mut options = doors.log.clone();
    // Once it belongs to a cluster it has a log; a lost log must not be taken for a new one.
    options.must_exist = directory.identity().cluster.is_some();
    let (disk, state_disk) = (doors.disk.clone(), doors.state_disk.clone());
    let (state_directory, store_options) = (doors.state_directory.clone(), config.store_options());
    blocking(move || {
        let log = LogStore::open(disk, &log_path, options).context("open the Raft log")?;
        let state =
            State::open(state_disk, &state_directory, store_options).context("open the state")?;
        Ok((log, Arc::new(state)))
    })
    .await
}

/// Brings a new member to a cluster: founds one with the others, or waits to be added to one.
struct Founding {
    config: NamenodeConfig,
    group: Group,
    peers: Peers,
    address: String,
    cluster: ClusterCell,
    directory: DataDir,
    rng: StdRng,
}

impl Founding {
    async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            joined = self.join_group() => joined?,
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            founded = self.learn_cluster() => founded?,
        }
        // Holds the directory's lock for as long as the process serves.
        stop.cancelled().await;
        Ok(())
    }

    /// Until this member has a group. The first of the configured namenodes founds it, once all of them have answered that they
    /// belong to none: so a member that lost its directory can never found a second cluster beside the first.
    async fn join_group(&mut self) -> anyhow::Result<()> {
        if self.group.is_initialized().await? {
            if self.group.members().len() == 1 {
                self.group.elect().await?;
            }
            return Ok(());
        }
        let founders = &self.config.namenodes;
        let founds = founders.first() == Some(&self.address);
        if founders.is_empty() || (founds && founders.len() == 1) {
            self.group.initialize(self.members([])).await?;
            return Ok(());
        }
        if !founders.contains(&self.address) {
            info!(
                address = self.address,
                "not among the founding namenodes; waits to be added: dfs namenode add"
            );
        }
        let mut told = false;
        while !self.group.is_initialized().await? {
            if founds && let Some(others) = self.greet_others().await {
                if others.iter().all(|other| other.cluster_id.is_empty()) {
                    self.group.initialize(self.members(others)).await?;
                    return Ok(());
                }
                if !told {
                    warn!(
                        address = self.address,
                        "the cluster exists already; waits to be added: dfs namenode add"
                    );
                    told = true;
                }
            }
            tokio::time::sleep(FOUNDING_PAUSE).await;
        }
        Ok(())
    }

    fn members(&self, others: impl IntoIterator<Item = GreetReply>) -> BTreeMap<u64, Member> {
        let member = |address: String| Member {
            address,
            ..Member::default()
        };
        let mut members = BTreeMap::from([(self.group.id(), member(self.address.clone()))]);
        members.extend(
            others
                .into_iter()
                .map(|other| (other.namenode, member(other.address))),
        );
        members
    }

    /// What all others answer, or nothing if one is not there yet.
    async fn greet_others(&self) -> Option<Vec<GreetReply>> {
        let mut answers = Vec::new();
        for address in self
            .config
            .namenodes
            .iter()
            .filter(|address| **address != self.address)
        {
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
            answers.push(answer.ok()?.0);
        }
        Some(answers)
    }

    /// Until the cluster has an id, which the first leader gives it; then this directory belongs to it for good.
    async fn learn_cluster(&mut self) -> anyhow::Result<()> {
        let mut applied = self.group.state().watch_applied();
        let mut leadership = self.group.leadership();
        loop {
            let store = self.group.state().store();
            let cluster = store.snapshot().cluster_record()?;
            if let Ok(id) = <[u8; 16]>::try_from(cluster.cluster_id.as_slice()) {
                self.directory.join_cluster(Uuid(id))?;
                self.cluster.set(id);
                self.peers
                    .set_hello(Hello::new("namenode", Some(id), self.group.id()));
                info!(cluster = %Uuid(id), "namenode belongs to cluster");
                return Ok(());
            }
            let ready = leadership.borrow_and_update().ready;
            if ready {
                self.found_cluster().await;
            }
            tokio::select! {
                biased;
                changed = applied.changed() => changed.context("state machine ended")?,
                changed = leadership.changed() => changed.context("leadership watch ended")?,
            }
        }
    }

    /// Proposes the first command of the cluster's life. Whoever leads next does it if this fails.
    async fn found_cluster(&mut self) {
        let mut cluster_id = vec![0; 16];
        self.rng.fill_bytes(&mut cluster_id);
        let mut key_secret = vec![0; 32];
        self.rng.fill_bytes(&mut key_secret);
        let founding = &self.config.cluster;
        let command = CommandKind::FoundCluster(FoundCluster {
            cluster_id,
            settings: founding.to_cluster(),
            key_secret,
            root_uid: founding.root_uid,
            root_gid: founding.root_gid,
            root_mode: founding.root_mode,
        });
        if let Err(error) = self.group.propose(command).await {
            warn!(%error, "founding the cluster failed; the next leader will");
        }
    }
}
