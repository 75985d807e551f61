//! The simulated machines: what runs on them, their disks, and what can be done to them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use cairn_client::{ClusterConfig, FileSystem, Timeouts};
use cairn_daemon::Tasks;
use cairn_daemon::clock::{Clock, SIMULATED_START_NS};
use cairn_daemon::config::ByteSize;
use cairn_daemon::disk::RealDisk;
use cairn_daemon::disk::sim::SimDisk;
use cairn_datanode::{Datanode, DatanodeConfig};
use cairn_namenode::consensus::log_store::LogOptions;
use cairn_namenode::consensus::types::Runtime;
use cairn_namenode::controllers::ControllerOptions;
use cairn_namenode::{Doors, Namenode, NamenodeConfig};
use cairn_protocol::messages::common::Caller;
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tempfile::TempDir;

use super::options::Options;
use super::recycling::Recycling;
use super::trace::Trace;

/// Granularity of the simulation: how far each machine runs before the next one does.
const TICK: Duration = Duration::from_millis(1);

/// Between two attempts to found the cluster.
const FOUNDING_PAUSE: Duration = Duration::from_millis(100);

/// A running namenode and its date.
pub(crate) struct RunningNamenode {
    pub(crate) node: Namenode,
    pub(crate) clock: Clock,
}

/// Empty while nothing runs there.
type Slot<T> = Rc<RefCell<Option<T>>>;

/// A namenode's machine.
#[derive(Clone)]
pub(crate) struct NamenodeMachine {
    pub(crate) name: String,
    pub(crate) disk: SimDisk,
    pub(crate) running: Slot<RunningNamenode>,
    config: NamenodeConfig,
    state_directory: PathBuf,
    segment_bytes: u64,
    recycled: Arc<AtomicU64>,
    seeds: Seeds,
    /// On the first machine: whether the operator, who founds the cluster there, was told that it is done.
    to_found: Option<Arc<AtomicBool>>,
}

/// A datanode's machine.
#[derive(Clone)]
pub(crate) struct DatanodeMachine {
    pub(crate) name: String,
    pub(crate) disk: SimDisk,
    pub(crate) running: Slot<Datanode>,
    config: DatanodeConfig,
    seeds: Seeds,
}

/// Another seed for each start of a process.
#[derive(Clone)]
struct Seeds(Rc<Cell<u64>>);

impl Seeds {
    fn new(rng: &mut StdRng) -> Self {
        Self(Rc::new(Cell::new(rng.next_u64())))
    }

    fn next(&self) -> StdRng {
        let mut rng = StdRng::seed_from_u64(self.0.get());
        self.0.set(rng.next_u64());
        rng
    }
}

/// How a machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The process dies, the machine's page cache stays.
    Kill,
    /// The machine loses what its disks had not synced.
    PowerLoss,
}

/// The cluster and the network around it.
pub(crate) struct Cluster {
    pub(crate) sim: turmoil::Sim<'static>,
    pub(crate) namenodes: Vec<NamenodeMachine>,
    pub(crate) datanodes: Vec<DatanodeMachine>,
    pub(crate) options: Options,
    pub(crate) trace: Trace,
    pub(crate) rng: StdRng,
    /// Datanodes that lost power, in order: what was written before may be lost on them.
    pub(crate) power_losses: Rc<RefCell<Vec<usize>>>,
    /// Data files of which one replica was damaged.
    pub(crate) rotten: BTreeSet<String>,
    /// Datanodes one of whose disks has failed, and which.
    pub(crate) failed_disks: BTreeSet<(usize, PathBuf)>,
    /// The namenode whose place the spare one has taken, once it has.
    pub(crate) replaced: Rc<Cell<Option<usize>>>,
    /// Segments of the namenodes' logs that lived again.
    pub(crate) recycled: Arc<AtomicU64>,
    _state: TempDir,
}

impl Cluster {
    /// Machines that have been switched on; nothing has run yet.
    pub(crate) fn new(seed: u64, options: Options, trace: Trace) -> anyhow::Result<Self> {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5EED_C1A5);
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(rng.next_u64())
            .enable_random_order()
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(options.latency_max)
            .tcp_capacity(1 << 16);
        let state = state_directory()?;
        let mut cluster = Self {
            sim: builder.build(),
            namenodes: Vec::new(),
            datanodes: Vec::new(),
            options,
            trace,
            rng,
            power_losses: Rc::default(),
            rotten: BTreeSet::new(),
            failed_disks: BTreeSet::new(),
            replaced: Rc::default(),
            recycled: Arc::default(),
            _state: state,
        };
        let spare = usize::from(cluster.options.spare);
        for index in 0..cluster.options.namenodes + spare {
            cluster.add_namenode(index);
        }
        for index in 0..cluster.options.datanodes {
            cluster.add_datanode(index);
        }
        Ok(cluster)
    }

    fn addresses(&self) -> Vec<String> {
        (0..self.options.namenodes)
            .map(|index| format!("namenode-{index}:9000"))
            .collect()
    }

    fn add_namenode(&mut self, index: usize) {
        let name = format!("namenode-{index}");
        let mut config = NamenodeConfig::new(PathBuf::from("/namenode"));
        config.listen = "0.0.0.0:9000".to_owned();
        config.advertise = Some(format!("{name}:9000"));
        config.namenodes = self.addresses();
        config.http = String::new();
        config.cache = ByteSize::mib(8);
        config.reserve = ByteSize::mib(64);
        config.cluster.chunk_size = ByteSize::new(self.options.chunk_size);
        config.cluster.datanode_dead_after = self.options.datanode_dead_after;
        config.cluster.reclaim_grace = self.options.reclaim_grace;
        config.cluster.session_ttl = self.options.session_ttl;
        config.cluster.datanode_sync_interval = self.options.sync_interval;
        config.balance_threshold = self.options.balance_threshold;
        config.raft.snapshot_every_entries = self.options.snapshot_every_entries;
        let machine = NamenodeMachine {
            disk: SimDisk::new(),
            running: Slot::default(),
            config,
            state_directory: self._state.path().join(&name),
            segment_bytes: self.options.segment_bytes,
            recycled: self.recycled.clone(),
            seeds: Seeds::new(&mut self.rng),
            to_found: (index == 0).then(Arc::default),
            name: name.clone(),
        };
        let idle = self.options.idle_chunk_max;
        self.namenodes.push(machine.clone());
        self.sim.host(name, move || machine.clone().run(idle));
    }

    fn add_datanode(&mut self, index: usize) {
        let name = format!("datanode-{index}");
        let config = DatanodeConfig {
            namenodes: self.addresses(),
            listen: "0.0.0.0:9866".to_owned(),
            advertise: format!("{name}:9866"),
            volumes: vec![PathBuf::from("/volume-0"), PathBuf::from("/volume-1")],
            reserve: ByteSize::mib(64),
            host: name.clone(),
            heartbeat_interval: Duration::from_millis(200),
            write_memory: ByteSize::new(self.options.write_memory),
            ..DatanodeConfig::default()
        };
        let machine = DatanodeMachine {
            disk: SimDisk::new(),
            running: Slot::default(),
            config,
            seeds: Seeds::new(&mut self.rng),
            name: name.clone(),
        };
        machine.disk.set_capacity(self.options.disk_bytes);
        self.datanodes.push(machine.clone());
        self.sim.host(name, move || machine.clone().run());
    }

    /// Lets a client's program run on a machine of its own.
    pub(crate) fn client<F>(&mut self, name: &str, program: F)
    where
        F: Future<Output = anyhow::Result<()>> + 'static,
    {
        let (trace, name) = (self.trace.clone(), name.to_owned());
        self.sim.client(name.clone(), async move {
            if let Err(error) = program.await {
                trace.violation(format!("{name}: {error:#}"));
            }
            Ok(())
        });
    }

    /// How a client finds this cluster.
    pub(crate) fn client_config(&mut self, name: &str) -> ClusterConfig {
        let mut config = ClusterConfig::new(self.addresses(), Caller::default());
        config.client_name = name.to_owned();
        config.seed = Some(self.rng.next_u64());
        config.write_window_bytes = self.options.write_window;
        config.timeouts = Timeouts {
            patience: Duration::from_secs(8),
            connect: Duration::from_millis(300),
            request: Duration::from_millis(700),
            read: Duration::from_millis(800),
            pipeline: Duration::from_millis(1500),
            hedge: Duration::from_millis(30),
        };
        config
    }

    /// One tick of everything.
    pub(crate) fn step(&mut self) -> bool {
        let finished = match self.sim.step() {
            Ok(finished) => finished,
            Err(error) => {
                self.trace
                    .violation(format!("a process ended by itself: {error:#}"));
                false
            }
        };
        self.trace.set_now_ms(self.sim.elapsed().as_millis());
        finished
    }

    pub(crate) fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Steps until `done`, at most `limit` of virtual time, or until something is violated.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        what: &str,
        mut done: impl FnMut(&Cluster, bool) -> bool,
    ) -> anyhow::Result<()> {
        let end = self.now() + limit;
        loop {
            let finished = self.step();
            if let Some(violation) = self.trace.violations().first() {
                bail!("{violation}");
            }
            if done(self, finished) {
                return Ok(());
            }
            if self.now() > end {
                bail!("{what}: not within {limit:?}");
            }
        }
    }

    /// Steps for a while.
    pub(crate) fn run_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = self.now() + time;
        self.run_until(time * 2, "time passes", |cluster, _| cluster.now() >= end)
    }

    /// Steps until all clients' programs have ended.
    pub(crate) fn run_clients(&mut self, limit: Duration, what: &str) -> anyhow::Result<()> {
        self.run_until(limit, what, |_, finished| finished)
    }

    /// The namenode that leads and is ready, if there is one.
    pub(crate) fn leader(&self) -> Option<usize> {
        (0..self.namenodes.len()).find(|at| self.leads(*at))
    }

    /// Whether a namenode believes that it leads, and is ready.
    pub(crate) fn leads(&self, namenode: usize) -> bool {
        let running = self.namenodes[namenode].running.borrow();
        running
            .as_ref()
            .is_some_and(|running| running.node.group().leadership().borrow().ready)
    }

    pub(crate) fn stop_namenode(&mut self, index: usize, stop: Stop) {
        let machine = self.namenodes[index].clone();
        self.trace.event(format!("{stop:?} {}", machine.name));
        // The disk first: what the dying process still does must not reach it.
        self.stop_disk(&machine.disk, stop);
        machine.running.borrow_mut().take();
        self.sim.crash(machine.name);
    }

    pub(crate) fn stop_datanode(&mut self, index: usize, stop: Stop) {
        let machine = self.datanodes[index].clone();
        self.trace.event(format!("{stop:?} {}", machine.name));
        self.stop_disk(&machine.disk, stop);
        machine.running.borrow_mut().take();
        self.sim.crash(machine.name);
        if stop == Stop::PowerLoss {
            self.power_losses.borrow_mut().push(index);
        }
    }

    fn stop_disk(&mut self, disk: &SimDisk, stop: Stop) {
        match stop {
            Stop::Kill => disk.kill(),
            Stop::PowerLoss if self.rng.random_bool(0.5) => disk.crash_losing_everything_unsynced(),
            Stop::PowerLoss => disk.crash(&mut self.rng),
        }
    }

    pub(crate) fn start_machine(&mut self, name: &str) {
        self.trace.event(format!("start {name}"));
        self.sim.bounce(name.to_owned());
    }

    /// The namenode that has left the group for good is switched off.
    pub(crate) fn retire_replaced(&mut self) {
        if let Some(index) = self.replaced.get() {
            self.stop_namenode(index, Stop::Kill);
        }
    }

    /// Namenodes that belong to the group when all is over.
    pub(crate) fn members(&self) -> Vec<usize> {
        let gone = match self.replaced.get() {
            Some(replaced) => replaced,
            // The spare one waits.
            None => self.options.namenodes,
        };
        (0..self.namenodes.len())
            .filter(|index| *index != gone)
            .collect()
    }

    /// Starts whatever does not run.
    pub(crate) fn start_all(&mut self) {
        for name in self.machine_names() {
            if !self.sim.is_host_running(name.clone()) {
                self.start_machine(&name);
            }
        }
    }

    pub(crate) fn stop_all(&mut self, stop: Stop) {
        for index in 0..self.namenodes.len() {
            self.stop_namenode(index, stop);
        }
        for index in 0..self.datanodes.len() {
            self.stop_datanode(index, stop);
        }
    }

    /// All machines but clients.
    pub(crate) fn machine_names(&self) -> Vec<String> {
        let namenodes = self.namenodes.iter().map(|machine| machine.name.clone());
        namenodes
            .chain(self.datanodes.iter().map(|machine| machine.name.clone()))
            .collect()
    }

    /// Founds the cluster: a leader, and all datanodes registered.
    pub(crate) fn found(&mut self) -> anyhow::Result<()> {
        self.run_until(Duration::from_secs(30), "founding", |cluster, _| {
            let registered = |machine: &DatanodeMachine| {
                let running = machine.running.borrow();
                running
                    .as_ref()
                    .is_some_and(|datanode| datanode.registered().now_or_never().is_some())
            };
            cluster.leader().is_some() && cluster.datanodes.iter().all(registered)
        })
    }
}

/// On a disk in memory, if there is one: the state store is real files.
fn state_directory() -> anyhow::Result<TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    let builder = tempfile::Builder::new().prefix("cairn-sim-").to_owned();
    let made = builder.tempdir_in(memory).or_else(|_| builder.tempdir());
    made.context("directory for the state of the namenodes")
}

impl NamenodeMachine {
    async fn run(self, idle_chunk_max: Duration) -> turmoil::Result {
        let mut rng = self.seeds.next();
        let elapsed = turmoil::sim_elapsed().unwrap_or_default().as_nanos();
        let clock = Clock::manual(SIMULATED_START_NS + u64::try_from(elapsed)?);
        let mut log = LogOptions::new(rng.next_u64());
        log.segment_bytes = self.segment_bytes;
        log.spare_segments_max = 1;
        let doors = Doors {
            disk: Arc::new(Recycling::watched(self.disk.mount(), self.recycled.clone())),
            state_directory: self.state_directory.clone(),
            state_disk: Arc::new(RealDisk),
            clock: clock.clone(),
            seed: rng.next_u64(),
            log,
            controllers: controllers(idle_chunk_max),
            listener: None,
        };
        let running = self.running.clone();
        let process = async move {
            let tasks = Tasks::new();
            let node = Namenode::start(self.config.clone(), doors, &tasks).await?;
            if let Some(founded) = self.to_found {
                tasks.request("operator", found(node.clone(), founded));
            }
            running.replace(Some(RunningNamenode { node, clock }));
            tasks.run_until_shutdown(Duration::from_secs(1)).await
        };
        let ended = Runtime::scope(rng.next_u64(), process).await;
        Err(ended_early(&self.name, ended))?
    }
}

/// An operator who asks until the cluster is founded, and never again.
async fn found(node: Namenode, founded: Arc<AtomicBool>) -> anyhow::Result<()> {
    while !founded.load(Ordering::SeqCst) {
        match node.found().await {
            Ok(_) => founded.store(true, Ordering::SeqCst),
            Err(_) => tokio::time::sleep(FOUNDING_PAUSE).await,
        }
    }
    Ok(())
}

impl DatanodeMachine {
    async fn run(self) -> turmoil::Result {
        let rng = self.seeds.next();
        let tasks = Tasks::new();
        let disk = Arc::new(self.disk.mount());
        let process = async {
            let node = Datanode::start(self.config.clone(), disk, &tasks, rng).await?;
            self.running.replace(Some(node));
            tasks.run_until_shutdown(Duration::from_secs(1)).await
        };
        let ended = process.await;
        Err(ended_early(&self.name, ended))?
    }
}

fn ended_early(name: &str, ended: anyhow::Result<()>) -> anyhow::Error {
    match ended {
        Ok(()) => anyhow!("{name} shut down"),
        Err(error) => anyhow!("{name}: {error:#}"),
    }
}

fn controllers(idle_chunk_max: Duration) -> ControllerOptions {
    ControllerOptions {
        interval: Duration::from_millis(200),
        idle_chunk_max,
        // Longer than a datanode waits for one source, so that a dead connection is noticed.
        copy_timeout: Duration::from_secs(12),
        copy_poll: Duration::from_millis(300),
        balance_rest: Duration::from_secs(1),
        retry_after: Duration::from_millis(500),
        no_target_after: Duration::from_secs(1),
        compaction_interval: Duration::from_secs(1),
        compaction_rest: Duration::from_secs(1),
        instruct_timeout: Duration::from_secs(2),
        verify_timeout: Duration::from_secs(5),
        sync_timeout: Duration::from_secs(5),
        rotate_keys_after: Duration::from_secs(7),
        ..ControllerOptions::default()
    }
}

/// Connects, again and again: the cluster may be without a leader just now.
pub(crate) async fn connect(config: &ClusterConfig, tries: u32) -> anyhow::Result<FileSystem> {
    for _ in 1..tries {
        if let Ok(fs) = FileSystem::connect(config.clone()).await {
            return Ok(fs);
        }
    }
    FileSystem::connect(config.clone()).await.context("connect")
}
