//! Builds and wires a datanode: the only place that knows all of its parts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngCore;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use cairn_daemon::disk::Disk;
use cairn_daemon::telemetry::Metrics as Registry;
use cairn_daemon::{Tasks, blocking};
use cairn_protocol::ids::DatanodeId;
use cairn_protocol::messages::admin::MetricsReply;
use cairn_protocol::messages::datanode::InstructRequest;
use cairn_protocol::net::{self, Role, TcpListener, Tls};
use cairn_protocol::rpc::{
    ConnectionOptions, FramedStream, Hello, Peer, Peers, Reply, Request, RpcError, ServerOptions,
    Service, serve,
};
use cairn_protocol::{ErrorCode, Failure, Method};

use crate::changes::Changes;
use crate::chunk_store::{ChunkStore, VolumeOptions};
use crate::cluster::Cluster;
use crate::config::DatanodeConfig;
use crate::error::DatanodeError;
use crate::metrics::Metrics;
use crate::replicas::Replicas;
use crate::report::{Commands, Introduction, Leader, Reporter};
use crate::scrubber;
use crate::transfer::{self, Budget, Copies, ReadQueue, Transfer};
use crate::volumes::Volumes;

/// Time between syncs of open replicas until the cluster has said, and bounds for what it says.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);
const SYNC_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// A running datanode. Stops with the [`Tasks`] that it was started in; killing it instead loses nothing acknowledged.
#[derive(Clone, Debug)]
pub struct Datanode {
    address: String,
    host: String,
    bound: SocketAddr,
    registered: Arc<watch::Sender<Option<DatanodeId>>>,
    store: Arc<ChunkStore>,
    metrics: Arc<Metrics>,
    tls: Option<Tls>,
}

impl Datanode {
    /// Opens the volumes, listens, and starts everything else in `tasks`. Returns as soon as connections are accepted;
    /// registration goes on in the background. `rng` gives new volumes their ids and this process its nonce.
    pub async fn start(
        config: DatanodeConfig,
        disk: Arc<dyn Disk>,
        tasks: &Tasks,
        mut rng: StdRng,
    ) -> Result<Self, DatanodeError> {
        config.validate()?;
        let tls = tls(&config)?;
        let (volumes, rng) = {
            let options = VolumeOptions {
                reserve_bytes: config.reserve.bytes(),
                disk_timeout: config.disk_timeout,
                ..VolumeOptions::default()
            };
            let paths = config.volumes.clone();
            let opened = move || {
                let volumes = Volumes::open(&disk, &paths, options, &mut rng);
                (volumes, rng)
            };
            let (volumes, rng) = blocking(opened).await;
            (Arc::new(volumes?), rng)
        };
        let listener = listen(&config.listen).await?;
        let bound = listener
            .local_addr()
            .map_err(|source| DatanodeError::Listen {
                address: config.listen.clone(),
                source,
            })?;
        let parts = Parts::new(&config, &volumes, tls.clone(), tasks);
        let introduction = introduction(&config, bound, rng.clone());
        let datanode = Self {
            address: introduction.address.clone(),
            host: introduction.host.clone(),
            bound,
            registered: Arc::new(watch::Sender::new(None)),
            store: Arc::clone(&volumes.store),
            metrics: Arc::clone(&parts.transfer.metrics),
            tls: tls.clone(),
        };
        let reporter = Reporter {
            introduction,
            interval: config.heartbeat_interval,
            leader: Leader::new(
                parts.peers.expecting(Role::Namenode),
                config.namenodes.clone(),
            ),
            volumes,
            transfer: parts.transfer.clone(),
            known_failed: BTreeSet::new(),
            registered: Arc::clone(&datanode.registered),
        };
        parts.run(&config, listener, reporter, rng, tasks);
        tracing::info!(address = datanode.address, %bound, volumes = config.volumes.len(), "datanode started");
        Ok(datanode)
    }

    /// `host:port` under which others reach it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Name of its machine.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where it listens.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Waits until it has registered with the leader; its number.
    pub async fn registered(&self) -> DatanodeId {
        let mut watching = self.registered.subscribe();
        let id = watching
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|id| *id);
        id.expect("the sender lives as long as we do, and waited for some id")
    }

    /// What it shows and whom it trusts, if it speaks TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Its replicas, for tests and tools in the same process. Blocks, as every call on it does.
    pub fn store(&self) -> &Arc<ChunkStore> {
        &self.store
    }

    /// Its metrics, for others to add theirs and to show all.
    pub fn metrics(&self) -> &Registry {
        self.metrics.registry()
    }
}

/// What the components share.
struct Parts {
    transfer: Transfer,
    peers: Peers,
    tls: Option<Tls>,
    commands: Commands,
    volumes: Arc<Volumes>,
}

impl Parts {
    fn new(
        config: &DatanodeConfig,
        volumes: &Arc<Volumes>,
        tls: Option<Tls>,
        tasks: &Tasks,
    ) -> Self {
        let metrics = Arc::new(Metrics::new());
        let cluster = Arc::new(Cluster::default());
        let hello = cluster.hello(volumes.cluster().map(|id| id.0));
        let options = ConnectionOptions {
            tls,
            ..ConnectionOptions::default()
        };
        let peers = Peers::new(hello, options.clone());
        let changes = Arc::new(Changes::default());
        let replicas = Replicas::new(Arc::clone(&volumes.store), changes, Arc::clone(&metrics));
        let copies_max = config.copies_max as usize;
        let copies = Copies::new(
            tasks,
            replicas.clone(),
            peers.expecting(Role::Datanode),
            Arc::clone(&metrics),
            copies_max,
        );
        let reads = ReadQueue::new(replicas.clone(), config.reads_max);
        let transfer = Transfer {
            cluster,
            replicas,
            budget: Budget::new(
                config.write_streams_max as usize,
                config.write_memory.bytes(),
            ),
            reads,
            metrics,
            downstream: transfer::downstream_options(options.tls.clone()),
            shutdown: tasks.shutdown_token(),
        };
        let commands = Commands::new(transfer.clone(), copies, config.disk_timeout);
        Self {
            transfer,
            peers,
            tls: options.tls,
            commands,
            volumes: Arc::clone(volumes),
        }
    }

    /// Starts the components, those that others build on first.
    fn run(
        self,
        config: &DatanodeConfig,
        listener: TcpListener,
        reporter: Reporter,
        rng: StdRng,
        tasks: &Tasks,
    ) {
        let Self {
            transfer,
            commands,
            volumes,
            tls,
            peers: _,
        } = self;
        let (replicas, cluster) = (transfer.replicas.clone(), Arc::clone(&transfer.cluster));
        tasks.component("replica sync", |stop| {
            sync_open_replicas(replicas, cluster, stop)
        });
        let (replicas, metrics) = (transfer.replicas.clone(), Arc::clone(&transfer.metrics));
        let rate = config.scrub_rate.bytes();
        tasks.component("scrubber", |stop| {
            scrubber::run(replicas, metrics, rate, rng, stop)
        });
        tasks.component("heartbeat", |stop| reporter.run(stop));
        let service = Arc::new(DatanodeService {
            transfer,
            commands,
            volumes,
        });
        let shutdown = tasks.shutdown_token();
        let options = ServerOptions {
            tls,
            ..ServerOptions::default()
        };
        tasks.component("server", |_| serve(listener, service, options, shutdown));
    }
}

/// What this datanode shows and whom it trusts, if its settings want TLS.
fn tls(config: &DatanodeConfig) -> Result<Option<Tls>, DatanodeError> {
    let bad = |error: &dyn std::fmt::Display| DatanodeError::Config(error.to_string());
    let files = config.security.read_for_node();
    let Some(files) = files.map_err(|error| bad(&error))? else {
        return Ok(None);
    };
    let tls = Tls::new(&files.ca, files.own());
    tls.map(Some).map_err(|error| bad(&error))
}

async fn listen(address: &str) -> Result<TcpListener, DatanodeError> {
    net::listen(address)
        .await
        .map_err(|source| DatanodeError::Listen {
            address: address.to_owned(),
            source,
        })
}

/// Bounds what power loss can take: what open replicas hold is synced every few seconds, as the cluster's settings say.
async fn sync_open_replicas(
    replicas: Replicas,
    cluster: Arc<Cluster>,
    stop: CancellationToken,
) -> Result<(), DatanodeError> {
    loop {
        let told = cluster
            .known()
            .map(|known| known.settings.datanode_sync_interval_ms);
        let interval = match told {
            Ok(milliseconds) if milliseconds > 0 => Duration::from_millis(milliseconds),
            _ => SYNC_INTERVAL,
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = sleep(interval.max(SYNC_INTERVAL_MIN)) => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = replicas.sync_all_open() => {}
        }
    }
    // A clean stop leaves nothing to the power.
    replicas.sync_before_stop().await;
    Ok(())
}

fn introduction(config: &DatanodeConfig, bound: SocketAddr, mut rng: StdRng) -> Introduction {
    let host = if config.host.is_empty() {
        host_name()
    } else {
        config.host.clone()
    };
    let mut boot_nonce = vec![0; 16];
    rng.fill_bytes(&mut boot_nonce);
    let address = advertised(config, &host, bound);
    Introduction {
        http_address: advertised_http(config, &address),
        address,
        host,
        rack: config.rack.clone(),
        boot_nonce,
    }
}

/// Where others reach us: as configured, with the port that was really bound in place of port 0.
fn advertised(config: &DatanodeConfig, host: &str, bound: SocketAddr) -> String {
    let port = bound.port();
    if let Some((name, configured)) = config.advertise.rsplit_once(':') {
        return if configured == "0" {
            format!("{name}:{port}")
        } else {
            config.advertise.clone()
        };
    }
    let listening = config.listen.rsplit_once(':').map_or("", |(name, _)| name);
    match listening {
        "" | "0.0.0.0" | "[::]" => format!("{host}:{port}"),
        name => format!("{name}:{port}"),
    }
}

/// Where HTTP clients reach us: as configured, else on the machine that others reach us at.
fn advertised_http(config: &DatanodeConfig, address: &str) -> String {
    if config.http.is_empty() || !config.http_advertise.is_empty() {
        return config.http_advertise.clone();
    }
    let (listening, port) = config.http.rsplit_once(':').unwrap_or_default();
    let host = match listening {
        "" | "0.0.0.0" | "[::]" => address.rsplit_once(':').map_or("", |(name, _)| name),
        name => name,
    };
    format!("{host}:{port}")
}

/// The machine's name, as the kernel has it.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// Whose certificate a method needs where connections have certificates; the others go by the token in the request.
fn needed_role(method: Method) -> Option<Role> {
    matches!(method, Method::Instruct | Method::Metrics).then_some(Role::Namenode)
}

fn refuse(peer: &Peer, method: u16, role: Role) -> RpcError {
    let from = peer.address.as_str();
    tracing::info!(target: "audit", from, operation = method, outcome = "Unauthenticated", "refused");
    let message = format!("method {method} needs the certificate of a {}", role.name());
    RpcError::new(ErrorCode::Unauthenticated, message)
}

/// Answers connections.
struct DatanodeService {
    transfer: Transfer,
    commands: Commands,
    volumes: Arc<Volumes>,
}

impl Service for DatanodeService {
    fn hello(&self, _theirs: &Hello) -> Result<Hello, Failure> {
        Ok(self
            .transfer
            .cluster
            .hello(self.volumes.cluster().map(|id| id.0)))
    }

    async fn call(&self, peer: &Peer, request: Request) -> Result<Reply, RpcError> {
        let method = Method::from_number(request.method);
        if let Some(role) = method.and_then(needed_role)
            && !peer.proof.allows(role)
        {
            return Err(refuse(peer, request.method, role));
        }
        match method {
            Some(Method::ReadReplica) => {
                let read = transfer::read(&self.transfer, &request).await;
                let read = read.inspect_err(|failure| transfer::audit(peer, "read", failure))?;
                // Its token was good.
                peer.standing.prove();
                Ok(read)
            }
            Some(Method::LocateReplica) => {
                let located = transfer::locate(&self.transfer, &request).await;
                let located = located.inspect_err(|error| transfer::audit(peer, "read", error))?;
                peer.standing.prove();
                Ok(located)
            }
            Some(Method::Instruct) => {
                let request: InstructRequest = request.decode()?;
                Ok(Reply::new(&self.commands.instruct(request).await?))
            }
            Some(Method::Metrics) => Ok(Reply::new(&MetricsReply {
                text: self.transfer.metrics.render(),
            })),
            other => {
                let name = other.map_or("unknown", Method::name);
                let text = format!("method {} ({name}) on a datanode", request.method);
                Err(RpcError::new(ErrorCode::NotSupported, text))
            }
        }
    }

    async fn stream(&self, _peer: &Peer, stream: FramedStream) {
        transfer::serve_write(&self.transfer, stream).await;
    }
}
