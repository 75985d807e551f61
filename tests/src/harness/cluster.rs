//! `MiniCluster`: namenodes and datanodes as tasks of this process.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cairn_client::{ClusterConfig, FileSystem};
use cairn_daemon::Tasks;
use cairn_daemon::config::{ByteSize, GatewaySettings};
use cairn_daemon::disk::{Disk, RealDisk};
use cairn_datanode::{Datanode, DatanodeConfig};
use cairn_namenode::consensus::log_store::LogOptions;
use cairn_namenode::controllers::ControllerOptions;
use cairn_namenode::{Doors, Namenode, NamenodeConfig};
use cairn_protocol::ids::DatanodeId;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::net;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tempfile::TempDir;

use super::{Watchdog, http};

/// Waiting for something that must happen sooner or later gives up after this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// One, three or five.
    pub namenodes: usize,
    /// Any number.
    pub datanodes: usize,
    /// Replicas of new files.
    pub replication: u32,
    /// Largest chunk.
    pub chunk_size: u64,
    /// When a silent datanode counts as dead.
    pub datanode_dead_after: Duration,
    /// How long what was deleted stays.
    pub reclaim_grace: Duration,
    /// When a silent client loses its open chunks.
    pub session_ttl: Duration,
    /// Log entries between snapshots.
    pub snapshot_every_entries: u64,
    /// Space that datanodes leave free.
    pub reserve: ByteSize,
    /// Space that namenodes leave free.
    pub namenode_reserve: ByteSize,
    /// How fast datanodes verify what nobody reads, per second; 0 is never.
    pub scrub_rate: ByteSize,
    /// Intervals and limits of the leader's loops.
    pub controllers: ControllerOptions,
    /// Whether namenodes and datanodes serve HTTP, which the simulator cannot.
    pub http: Option<GatewaySettings>,
}

impl ClusterOptions {
    /// The default with so many namenodes.
    pub fn of_namenodes(namenodes: usize) -> Self {
        Self {
            namenodes,
            ..Self::default()
        }
    }
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            namenodes: 1,
            datanodes: 3,
            replication: 3,
            chunk_size: 8 << 20,
            datanode_dead_after: Duration::from_secs(2),
            reclaim_grace: Duration::from_millis(200),
            session_ttl: Duration::from_secs(10),
            snapshot_every_entries: 1_000,
            reserve: ByteSize::mib(64),
            namenode_reserve: ByteSize::mib(64),
            scrub_rate: ByteSize::new(0),
            controllers: eager_controllers(),
            http: None,
        }
    }
}

/// The leader's loops look more often than in production, so that tests need not wait.
fn eager_controllers() -> ControllerOptions {
    ControllerOptions {
        interval: Duration::from_millis(100),
        copy_poll: Duration::from_millis(500),
        retry_after: Duration::from_millis(500),
        no_target_after: Duration::from_secs(1),
        compaction_interval: Duration::from_millis(200),
        compaction_rest: Duration::from_millis(200),
        ..ControllerOptions::default()
    }
}

pub(super) struct RunningNamenode {
    pub(super) tasks: Tasks,
    pub(super) node: Namenode,
    /// Where it serves HTTP, if it does.
    http: Option<SocketAddr>,
}

pub(super) struct RunningDatanode {
    pub(super) tasks: Tasks,
    pub(super) node: Datanode,
    /// Where it serves HTTP, if it does.
    http: Option<SocketAddr>,
}

/// A cluster in this process. Killing a part drops its tasks at once, as `kill -9` would; its files stay.
pub struct MiniCluster {
    options: ClusterOptions,
    directory: TempDir,
    addresses: Vec<String>,
    pub(super) namenodes: BTreeMap<usize, RunningNamenode>,
    pub(super) datanodes: BTreeMap<usize, RunningDatanode>,
    /// Numbers of datanodes that ever registered, running or not.
    datanode_ids: BTreeMap<usize, DatanodeId>,
    rng: StdRng,
    _watchdog: Watchdog,
}

impl MiniCluster {
    /// Starts a cluster and waits until all its datanodes are registered.
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..options.namenodes {
            let listener = net::listen("127.0.0.1:0").await?;
            addresses.push(listener.local_addr()?.to_string());
            listeners.push(listener);
        }
        let mut cluster = Self {
            options: options.clone(),
            directory,
            addresses,
            namenodes: BTreeMap::new(),
            datanodes: BTreeMap::new(),
            datanode_ids: BTreeMap::new(),
            rng: StdRng::seed_from_u64(1),
            _watchdog: Watchdog::start(),
        };
        for (index, listener) in listeners.into_iter().enumerate() {
            cluster.run_namenode(index, Some(listener)).await?;
        }
        let first = cluster.namenode(0).context("a cluster has a namenode")?;
        first.found().await.context("found the cluster")?;
        for index in 0..options.datanodes {
            cluster.start_datanode(index).await?;
        }
        for index in 0..options.datanodes {
            cluster.wait_registered(index).await?;
        }
        Ok(cluster)
    }

    /// Addresses of the namenodes, in order.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// A client of this cluster, as the superuser.
    pub async fn client(&mut self) -> anyhow::Result<FileSystem> {
        self.client_as(Caller::default()).await
    }

    /// A client of this cluster, as somebody.
    pub async fn client_as(&mut self, caller: Caller) -> anyhow::Result<FileSystem> {
        let mut config = ClusterConfig::new(self.addresses.clone(), caller);
        config.seed = Some(self.rng.next_u64());
        config.client_name = "test".to_owned();
        Ok(FileSystem::connect(config).await?)
    }

    /// Starts a namenode that is no founder: it waits to be added. Tells its index.
    pub async fn start_spare_namenode(&mut self) -> anyhow::Result<usize> {
        let listener = net::listen("127.0.0.1:0").await?;
        let index = self.addresses.len();
        self.addresses.push(listener.local_addr()?.to_string());
        self.run_namenode(index, Some(listener)).await?;
        Ok(index)
    }

    /// Starts a namenode that was killed.
    pub async fn start_namenode(&mut self, index: usize) -> anyhow::Result<()> {
        self.run_namenode(index, None).await
    }

    async fn run_namenode(
        &mut self,
        index: usize,
        listener: Option<net::TcpListener>,
    ) -> anyhow::Result<()> {
        let config = self.namenode_config(index);
        let mut log = LogOptions::new(self.rng.next_u64());
        log.segment_bytes = 4 << 20;
        let controllers = self.options.controllers.clone();
        let doors = Doors {
            seed: self.rng.next_u64(),
            log,
            listener,
            controllers,
            ..Doors::real(&config)
        };
        let tasks = Tasks::new();
        let node = Namenode::start(config, doors, &tasks)
            .await
            .with_context(|| format!("start namenode {index}"))?;
        let http = match http::listen(&self.options).await? {
            Some(listening) => {
                let bound = listening.bound();
                let metrics = node.metrics().clone();
                let namenodes = vec![node.address().to_owned()];
                let leadership = node.group().leadership();
                let leads: http::Leads = Arc::new(move || leadership.borrow().ready);
                let leads = Some(leads);
                http::serve(listening, &self.options, namenodes, metrics, leads, &tasks);
                Some(bound)
            }
            None => None,
        };
        self.namenodes
            .insert(index, RunningNamenode { tasks, node, http });
        Ok(())
    }

    fn namenode_config(&self, index: usize) -> NamenodeConfig {
        let mut config = NamenodeConfig::new(self.namenode_directory(index));
        config.listen = self.addresses[index].clone();
        config.advertise = Some(self.addresses[index].clone());
        // One that was added later names nobody but itself: that must not make it found anything.
        config.namenodes = match index < self.options.namenodes {
            true => self.addresses[..self.options.namenodes].to_vec(),
            false => vec![self.addresses[index].clone()],
        };
        config.http = String::new();
        config.cache = ByteSize::mib(16);
        config.reserve = self.options.namenode_reserve;
        config.cluster.replication = self.options.replication;
        config.cluster.chunk_size = ByteSize::new(self.options.chunk_size);
        config.cluster.datanode_dead_after = self.options.datanode_dead_after;
        config.cluster.reclaim_grace = self.options.reclaim_grace;
        config.cluster.session_ttl = self.options.session_ttl;
        config.raft.snapshot_every_entries = self.options.snapshot_every_entries;
        config
    }

    /// Directory of a namenode.
    pub fn namenode_directory(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("namenode-{index}"))
    }

    /// Changes what parts that are started from now on are made of.
    pub fn options_mut(&mut self) -> &mut ClusterOptions {
        &mut self.options
    }

    /// How a datanode is configured.
    pub fn datanode_config(&self, index: usize) -> DatanodeConfig {
        DatanodeConfig {
            namenodes: self.addresses.clone(),
            listen: "127.0.0.1:0".to_owned(),
            http: String::new(),
            volumes: vec![self.volume(index)],
            reserve: self.options.reserve,
            scrub_rate: self.options.scrub_rate,
            host: format!("host-{index}"),
            heartbeat_interval: Duration::from_millis(200),
            ..DatanodeConfig::default()
        }
    }

    /// Starts a datanode, or one that was killed. It may come back at another port.
    pub async fn start_datanode(&mut self, index: usize) -> anyhow::Result<()> {
        let mut config = self.datanode_config(index);
        let listening = http::listen(&self.options).await?;
        let http = listening.as_ref().map(|listening| listening.bound());
        config.http = http.map_or_else(String::new, |bound| bound.to_string());
        let tasks = Tasks::new();
        let rng = StdRng::seed_from_u64(self.rng.next_u64());
        let node = Datanode::start(config, Arc::new(RealDisk), &tasks, rng)
            .await
            .with_context(|| format!("start datanode {index}"))?;
        if let Some(listening) = listening {
            let (namenodes, metrics) = (self.addresses.clone(), node.metrics().clone());
            http::serve(listening, &self.options, namenodes, metrics, None, &tasks);
        }
        self.datanodes
            .insert(index, RunningDatanode { tasks, node, http });
        Ok(())
    }

    /// Waits until a datanode is registered.
    pub async fn wait_registered(&mut self, index: usize) -> anyhow::Result<()> {
        let running = self
            .datanodes
            .get(&index)
            .context("datanode is not running")?;
        let id = tokio::time::timeout(PATIENCE, running.node.registered())
            .await
            .with_context(|| format!("datanode {index} does not register"))?;
        self.datanode_ids.insert(index, id);
        Ok(())
    }

    /// Number of a datanode that registered once.
    pub fn datanode_id(&self, index: usize) -> Option<DatanodeId> {
        self.datanode_ids.get(&index).copied()
    }

    /// Which datanode has this number.
    pub fn datanode_index(&self, id: DatanodeId) -> Option<usize> {
        self.datanode_ids
            .iter()
            .find(|(_, known)| **known == id)
            .map(|(index, _)| *index)
    }

    /// Directory of a datanode's only volume.
    pub fn volume(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("datanode-{index}"))
    }

    /// A running datanode.
    pub fn datanode(&self, index: usize) -> Option<&Datanode> {
        self.datanodes.get(&index).map(|running| &running.node)
    }

    /// A running namenode.
    pub fn namenode(&self, index: usize) -> Option<&Namenode> {
        self.namenodes.get(&index).map(|running| &running.node)
    }

    /// Where a running namenode serves HTTP.
    pub fn namenode_http(&self, index: usize) -> Option<SocketAddr> {
        self.namenodes.get(&index).and_then(|running| running.http)
    }

    /// Where a running datanode serves HTTP.
    pub fn datanode_http(&self, index: usize) -> Option<SocketAddr> {
        self.datanodes.get(&index).and_then(|running| running.http)
    }

    /// Kills a namenode. Waits for its files to be closed, as a dead process's are.
    pub async fn kill_namenode(&mut self, index: usize) {
        if let Some(running) = self.namenodes.remove(&index) {
            kill(running.tasks).await;
            // The library's own tasks hold the log and the store.
            let _ = running.node.group().shutdown().await;
            let state = Arc::downgrade(running.node.group().state());
            drop(running.node);
            self.eventually(|| (state.strong_count() == 0).then_some(()))
                .await;
            self.wait_released(&self.namenode_directory(index)).await;
        }
    }

    /// Kills a datanode. Waits for its files to be closed, as a dead process's are.
    pub async fn kill_datanode(&mut self, index: usize) {
        if let Some(running) = self.datanodes.remove(&index) {
            kill(running.tasks).await;
            drop(running.node);
            self.wait_released(&self.volume(index)).await;
        }
    }

    /// Threads that were at work on a disk when their process was killed end a moment later, and hold its directory until then.
    async fn wait_released(&self, directory: &Path) {
        let lock = directory.join("LOCK");
        self.eventually(|| match RealDisk.lock(&lock) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            _ => Some(()),
        })
        .await;
    }

    /// Kills every process.
    pub async fn kill_all(&mut self) {
        let namenodes: Vec<usize> = self.namenodes.keys().copied().collect();
        let datanodes: Vec<usize> = self.datanodes.keys().copied().collect();
        for index in datanodes {
            self.kill_datanode(index).await;
        }
        for index in namenodes {
            self.kill_namenode(index).await;
        }
    }

    /// Starts every process that ever ran, and waits until the datanodes are registered.
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        for index in 0..self.addresses.len() {
            self.start_namenode(index).await?;
        }
        let datanodes: Vec<usize> = self.datanode_ids.keys().copied().collect();
        for index in &datanodes {
            self.start_datanode(*index).await?;
        }
        for index in datanodes {
            self.wait_registered(index).await?;
        }
        Ok(())
    }

    /// The namenode that leads now.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let found = self
            .eventually(|| {
                self.namenodes
                    .iter()
                    .find(|(_, running)| running.node.group().leadership().borrow().ready)
                    .map(|(index, _)| *index)
            })
            .await;
        found.context("no namenode leads")
    }

    /// Asks again and again until there is an answer, or patience ends.
    pub async fn eventually<T>(&self, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return Some(answer);
            }
            if tokio::time::Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for MiniCluster {
    fn drop(&mut self) {
        for running in self.namenodes.values() {
            running.tasks.kill();
        }
        for running in self.datanodes.values() {
            running.tasks.kill();
        }
    }
}

/// Drops all tasks of a process at once.
async fn kill(tasks: Tasks) {
    tasks.kill();
    let _ = tasks.run_until_shutdown(Duration::from_millis(1)).await;
}
