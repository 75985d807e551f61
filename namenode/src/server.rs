//! Builds a namenode and wires its parts: the only place that knows all of them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use cairn_daemon::disk::{Disk, RealDisk};
use cairn_daemon::identity::{DataDir, Uuid};
use cairn_daemon::telemetry::Metrics;
use cairn_daemon::{Clock, Tasks, blocking};
use cairn_protocol::net::{self, Role, TcpListener, Tls};
use cairn_protocol::rpc::{self, ConnectionOptions, Hello, Peers, RpcError, ServerOptions};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tracing::info;

use crate::config::NamenodeConfig;
use crate::consensus::group::{Group, GroupParts};
use crate::consensus::log_store::{LogOptions, LogStore};
use crate::consensus::room::RoomOptions;
use crate::consensus::state::State;
use crate::controllers::{ControllerOptions, Controllers};
use crate::founding::{Founder, Membership};
use crate::removal::{Removal, Removed};
use crate::service::{ClusterCell, NamenodeService, Parts};

/// Layout of a namenode's directory.
const LAYOUT: u32 = 1;

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
    founder: Founder,
    metrics: Metrics,
    tls: Option<Tls>,
}

impl Namenode {
    /// Opens the directory and serves. Returns when it listens; it may not lead or know a leader yet. With a new directory it
    /// belongs to no cluster, and waits until one is founded with it ([`Namenode::found`]) or it is added to one.
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
        let tls = tls(&config)?;
        let options = ConnectionOptions {
            tls: tls.clone(),
            ..ConnectionOptions::default()
        };
        let all_peers = Peers::new(hello, options);
        let peers = all_peers.expecting(Role::Namenode);
        let (log, state) = open_storage(&config, &doors, &directory).await?;
        let group = Group::start(
            GroupParts {
                id,
                log,
                state,
                peers: peers.clone(),
                clock: doors.clock.clone(),
                options: config.group_options(),
                room: RoomOptions {
                    directories: vec![
                        (doors.disk.clone(), config.directory.clone()),
                        (doors.state_disk.clone(), doors.state_directory.clone()),
                    ],
                    reserve_bytes: config.reserve.bytes(),
                },
            },
            tasks,
        )
        .await?;
        let datanode_peers = all_peers.expecting(Role::Datanode);
        let controllers = Controllers::new(
            group.clone(),
            datanode_peers,
            doors.clock.clone(),
            ControllerOptions {
                balance_threshold: config.balance_threshold,
                ..doors.controllers.clone()
            },
            rng.next_u64(),
        );
        controllers.start(tasks);
        let metrics = Metrics::new("namenode");
        let founder = Founder::new(
            config.namenodes.clone(),
            group.clone(),
            peers.clone(),
            address.clone(),
        );
        let removed = Removed::default();
        let service = NamenodeService::new(
            Parts {
                group: group.clone(),
                controllers,
                clock: doors.clock.clone(),
                peers: peers.clone(),
                address: address.clone(),
                founder: founder.clone(),
                removed: removed.clone(),
                metrics: metrics.clone(),
                stopping: tasks.shutdown_token(),
            },
            cluster.clone(),
        );
        let shutdown = tasks.shutdown_token();
        let options = ServerOptions {
            tls: tls.clone(),
            ..ServerOptions::default()
        };
        tasks.component("rpc", |_stop| async move {
            rpc::serve(listener, Arc::new(service), options, shutdown).await
        });
        let removal = Removal {
            group: group.clone(),
            peers: peers.clone(),
            address: address.clone(),
            namenodes: config.namenodes.clone(),
            cluster: cluster.clone(),
            removed,
        };
        tasks.component("removal", |stop| removal.run(stop));
        let membership = Membership {
            settings: config.cluster,
            group: group.clone(),
            peers,
            address: address.clone(),
            cluster: cluster.clone(),
            directory,
            rng,
        };
        tasks.component("membership", |stop| membership.run(stop));
        info!(namenode = id, address, "namenode listens");
        Ok(Self {
            group,
            address,
            cluster,
            founder,
            metrics,
            tls,
        })
    }

    /// Founds a cluster with this namenode and the others that its settings name, unless it belongs to one already. Tells the
    /// cluster's id. What `dfs namenode found` does.
    pub async fn found(&self) -> Result<[u8; 16], RpcError> {
        self.founder.found().await
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

    /// What it shows and whom it trusts, if it speaks TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Its counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// What this namenode shows and whom it trusts, if its settings want TLS.
fn tls(config: &NamenodeConfig) -> anyhow::Result<Option<Tls>> {
    let Some(files) = config.security.read_for_node()? else {
        return Ok(None);
    };
    Ok(Some(Tls::new(&files.ca, files.own())?))
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
