//! One namenode with its log and state, datanodes that answer like real ones without storing a byte, and the loops at work
//! between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cairn_daemon::Tasks;
use cairn_daemon::clock::Clock;
use cairn_daemon::disk::RealDisk;
use cairn_daemon::telemetry::Metrics;
use cairn_protocol::ids::{ChunkId, DatanodeId, SessionId};
use cairn_protocol::messages::admin::{DatanodeAdminState, FsckProblem, StatusRequest};
use cairn_protocol::messages::common::{Caller, ClusterSettings, InodeKind, Location};
use cairn_protocol::messages::datanode::{
    HeartbeatRequest, InstructReply, InstructRequest, InstructResult, Instruction, InstructionKind,
    RegisterDatanodeRequest, ReplicaReportRequest, ReplicaState, VolumeReport,
};
use cairn_protocol::messages::operation::{
    AllocateChunk, ChunkGrant, CommitExtent, Create, Link, Operation, OperationKind, OutcomeKind,
    Unlink,
};
use cairn_protocol::messages::session::{MutateReply, MutateRequest};
use cairn_protocol::rpc::{
    ConnectionOptions, FramedStream, Hello, Peer, Peers, Reply, Request, RpcError, ServerOptions,
    Service, serve,
};
use cairn_protocol::token::{self, GrantKind};
use cairn_protocol::{ErrorCode, Failure, Method, net};
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::{ControllerOptions, Controllers};
use crate::consensus::group::{Group, GroupOptions, GroupParts};
use crate::consensus::log_store::{LogOptions, LogStore};
use crate::consensus::room::RoomOptions;
use crate::consensus::state::State;
use crate::consensus::types::Member;
use crate::founding::Founder;
use crate::fsck::{self, Evidence, Wish};
use crate::keys::key_ring;
use crate::namespace::command::{
    ClientCommand, CommandKind, ExpireSession, ForgetDatanode, FoundCluster, OpenSession, Outcome,
    RegisterDatanode, SealOpenChunk, SetDatanodeState,
};
use crate::removal::Removed;
use crate::service::{ClusterCell, NamenodeService, Parts};
use crate::store::records::{ChunkRecord, ChunkState};
use crate::store::{StoreOptions, chunk, datanode, session};

const LENGTH: u64 = 1000;
const CLUSTER: [u8; 16] = [7; 16];

/// What a datanode has.
#[derive(Default)]
struct Replicas {
    by_chunk: BTreeMap<u64, ReplicaState>,
    /// Told with the next heartbeat.
    changed: Vec<ReplicaState>,
    /// Instructions that were answered.
    log: Vec<String>,
    /// The disk does not answer.
    hanging: bool,
}

#[derive(Clone, Default)]
struct FakeDatanode {
    replicas: Arc<Mutex<Replicas>>,
}

impl Service for FakeDatanode {
    fn hello(&self, _theirs: &Hello) -> Result<Hello, Failure> {
        Ok(Hello::new("datanode", Some(CLUSTER), 1))
    }

    async fn call(&self, _peer: &Peer, request: Request) -> Result<Reply, RpcError> {
        let request: InstructRequest = request.decode()?;
        let cluster = key_ring(&founded(), 0).unwrap();
        let grant = token::verify(&cluster, &request.token, 0)?;
        let (datanode, term) = (DatanodeId(request.datanode), request.term);
        assert_eq!(grant.kind, GrantKind::Instruct { datanode, term });
        let mut replicas = self.replicas.lock().unwrap();
        let results = request.instructions.iter().map(|order| {
            let failure = replicas.obey(order).err();
            InstructResult {
                failure: failure.map(|code| Failure::from(code).into()),
                hanging: replicas.hanging,
                state: replicas.by_chunk.get(&order.chunk).cloned(),
            }
        });
        let results = results.collect();
        Ok(Reply::new(&InstructReply { results }))
    }

    async fn stream(&self, _peer: &Peer, _stream: FramedStream) {}
}

impl Replicas {
    fn obey(&mut self, order: &Instruction) -> Result<(), ErrorCode> {
        let kind = order.kind.as_ref().unwrap();
        self.log.push(format!("{kind:?}"));
        if self.hanging {
            return Err(ErrorCode::Overloaded);
        }
        if let InstructionKind::Copy(copy) = kind {
            match self.by_chunk.get(&order.chunk) {
                Some(there) if there.incarnation == order.incarnation => return Ok(()),
                Some(_) => return Err(ErrorCode::PreconditionFailed),
                None => {}
            }
            let made = ReplicaState {
                chunk: order.chunk,
                incarnation: order.incarnation,
                epoch: copy.epoch,
                length: copy.length,
                sealed: true,
                ..ReplicaState::default()
            };
            // Success means that it is being made; the heartbeat tells when it is there.
            self.changed.push(made);
            return Ok(());
        }
        let Some(replica) = self.by_chunk.get_mut(&order.chunk) else {
            return match kind {
                InstructionKind::Delete(_) => Ok(()),
                _ => Err(ErrorCode::NoReplica),
            };
        };
        if replica.incarnation != order.incarnation {
            return Err(ErrorCode::PreconditionFailed);
        }
        match kind {
            InstructionKind::Seal(seal) if replica.length < seal.length => {
                return Err(ErrorCode::WrongLength);
            }
            InstructionKind::Sync(sync) if replica.length < sync.through => {
                return Err(ErrorCode::WrongLength);
            }
            InstructionKind::Seal(seal) => {
                (replica.epoch, replica.length, replica.sealed) = (seal.epoch, seal.length, true);
            }
            InstructionKind::Delete(_) => {
                self.by_chunk.remove(&order.chunk);
            }
            _ => {}
        }
        Ok(())
    }
}

fn founded() -> crate::store::records::ClusterRecord {
    crate::store::records::ClusterRecord {
        cluster_id: CLUSTER.to_vec(),
        keys: vec![crate::store::records::TokenKeyRecord {
            id: 1,
            secret: vec![1; 32],
            made_ns: 0,
        }],
        ..Default::default()
    }
}

/// A cluster of one namenode and some datanodes.
struct World {
    _dir: tempfile::TempDir,
    tasks: Tasks,
    group: Group,
    controllers: Arc<Controllers>,
    datanodes: BTreeMap<u64, FakeDatanode>,
    /// Size of every datanode's disk, if replicas take space on it.
    disk_bytes: Option<u64>,
    session: u64,
    sequence: u64,
}

impl World {
    async fn new(datanodes: usize) -> Self {
        Self::with_session_ttl(datanodes, 600_000).await
    }

    async fn with_session_ttl(datanodes: usize, session_ttl_ms: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk);
        let log = LogStore::open(disk.clone(), &dir.path().join("log"), LogOptions::new(1));
        let state = State::open(disk, dir.path(), StoreOptions::default()).unwrap();
        let hello = Hello::new("namenode", Some(CLUSTER), 1);
        let peers = Peers::new(hello, ConnectionOptions::default());
        let tasks = Tasks::new();
        let parts = GroupParts {
            id: 1,
            log: log.unwrap(),
            state: Arc::new(state),
            peers: peers.clone(),
            clock: Clock::system(),
            options: GroupOptions::default(),
            room: RoomOptions {
                directories: Vec::new(),
                reserve_bytes: 0,
            },
        };
        let group = Group::start(parts, &tasks).await.unwrap();
        let members = BTreeMap::from([(1, Member::default())]);
        group.initialize(members).await.unwrap();
        let mut leadership = group.leadership();
        leadership.wait_for(|now| now.ready).await.unwrap();
        let options = ControllerOptions {
            interval: Duration::from_millis(20),
            retry_after: Duration::from_millis(50),
            no_target_after: Duration::from_millis(50),
            balance_rest: Duration::from_millis(50),
            balance_moves_max: 3,
            ..ControllerOptions::default()
        };
        let controllers = Controllers::new(group.clone(), peers, Clock::system(), options, 7);
        controllers.start(&tasks);
        let mut world = Self {
            _dir: dir,
            tasks,
            group,
            controllers,
            datanodes: BTreeMap::new(),
            disk_bytes: None,
            session: 0,
            sequence: 0,
        };
        world.found(session_ttl_ms).await;
        for _ in 0..datanodes {
            world.add_datanode().await;
        }
        world
    }

    async fn found(&mut self, session_ttl_ms: u64) {
        let settings = ClusterSettings {
            chunk_size: 1 << 20,
            replication: 3,
            sync_on_close: false,
            session_ttl_ms,
            reclaim_grace_ms: 0,
            datanode_dead_after_ms: 600_000,
            datanode_sync_interval_ms: 5_000,
        };
        let record = founded();
        let found = FoundCluster {
            cluster_id: record.cluster_id,
            settings,
            key_secret: record.keys[0].secret.clone(),
            root_mode: 0o755,
            ..FoundCluster::default()
        };
        self.command(CommandKind::FoundCluster(found)).await;
        let open = OpenSession {
            client_name: "test".to_owned(),
            nonce: vec![1; 16],
            ..OpenSession::default()
        };
        self.session = self.command(CommandKind::OpenSession(open)).await.id;
        self.controllers.opened_session(SessionId(self.session));
    }

    /// What answers clients.
    fn service(&self) -> NamenodeService {
        let hello = Hello::new("namenode", Some(CLUSTER), 1);
        let peers = Peers::new(hello, ConnectionOptions::default());
        let (group, address) = (self.group.clone(), "namenode".to_owned());
        let parts = Parts {
            founder: Founder::new(Vec::new(), group.clone(), peers.clone(), address.clone()),
            group,
            controllers: Arc::clone(&self.controllers),
            clock: Clock::system(),
            peers,
            address,
            removed: Removed::default(),
            metrics: Metrics::new("namenode"),
            stopping: CancellationToken::new(),
        };
        NamenodeService::new(parts, ClusterCell::default())
    }

    async fn add_datanode(&mut self) -> u64 {
        let number = self.datanodes.len() as u8 + 1;
        let fake = FakeDatanode::default();
        let listener = net::listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = serve(
            listener,
            Arc::new(fake.clone()),
            ServerOptions::default(),
            self.tasks.shutdown_token(),
        );
        self.tasks.component("fake", |_| served);
        let register = RegisterDatanode {
            uuid: vec![number; 16],
            address,
            host: format!("h{number}"),
            rack: "/r".to_owned(),
            ..RegisterDatanode::default()
        };
        let id = self
            .command(CommandKind::RegisterDatanode(register))
            .await
            .id;
        self.datanodes.insert(id, fake);
        let request = RegisterDatanodeRequest {
            boot_nonce: vec![number; 16],
            volumes: volumes(),
            ..RegisterDatanodeRequest::default()
        };
        self.controllers.registered(DatanodeId(id), &request);
        self.report(id);
        id
    }

    /// All that the datanode has.
    fn report(&self, id: u64) {
        let replicas = self.datanodes[&id].replicas.lock().unwrap();
        let request = ReplicaReportRequest {
            datanode: id,
            boot_nonce: vec![id as u8; 16],
            first_chunk: 0,
            last_chunk: u64::MAX,
            replicas: replicas.by_chunk.values().cloned().collect(),
        };
        drop(replicas);
        self.controllers.replica_report(&request).unwrap();
    }

    /// Every datanode tells what changed.
    fn heartbeats(&self) {
        for (id, fake) in &self.datanodes {
            let mut replicas = fake.replicas.lock().unwrap();
            let changed = std::mem::take(&mut replicas.changed);
            for state in changed.iter().filter(|state| !state.gone) {
                replicas.by_chunk.insert(state.chunk, state.clone());
            }
            drop(replicas);
            let request = HeartbeatRequest {
                datanode: *id,
                boot_nonce: vec![*id as u8; 16],
                volumes: self.volumes(*id),
                changed,
                ..HeartbeatRequest::default()
            };
            self.controllers.heartbeat(&request).unwrap();
        }
    }

    fn volumes(&self, id: u64) -> Vec<VolumeReport> {
        let mut volumes = volumes();
        volumes[0].hanging = self.datanodes[&id].replicas.lock().unwrap().hanging;
        if let Some(capacity_bytes) = self.disk_bytes {
            let replicas = self.datanodes[&id].replicas.lock().unwrap();
            let used_bytes = replicas
                .by_chunk
                .values()
                .map(|replica| replica.length)
                .sum();
            volumes[0].capacity_bytes = capacity_bytes;
            volumes[0].used_bytes = used_bytes;
            volumes[0].available_bytes = capacity_bytes - used_bytes;
        }
        volumes
    }

    /// Lets the cluster work until this holds.
    async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let waited = async {
            while !holds(self) {
                self.heartbeats();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), waited).await;
        assert!(in_time.is_ok(), "never: {what}");
    }

    async fn command(&self, kind: CommandKind) -> Outcome {
        let outcome = self.group.propose(kind).await.unwrap().outcome;
        assert_eq!(outcome.code, 0, "{}", outcome.message);
        outcome
    }

    async fn operation(&mut self, kind: OperationKind) -> OutcomeKind {
        let placement = match &kind {
            OperationKind::AllocateChunk(allocate) => {
                Some(self.controllers.place(allocate).unwrap())
            }
            _ => None,
        };
        self.sequence += 1;
        let command = ClientCommand {
            session: self.session,
            sequence: self.sequence,
            lowest_unanswered: self.sequence,
            caller: Caller::default(),
            operation: Operation::from(kind),
            placement,
        };
        let outcome = self.command(CommandKind::Client(command)).await;
        outcome.value.unwrap().kind.unwrap()
    }

    /// A file of one chunk, all of whose replicas have its bytes.
    async fn write_file(&mut self, name: &str) -> ChunkGrant {
        self.write_bytes(name, LENGTH).await
    }

    async fn write_bytes(&mut self, name: &str, length: u64) -> ChunkGrant {
        let allocate = OperationKind::AllocateChunk(AllocateChunk {
            whole: true,
            ..AllocateChunk::default()
        });
        let OutcomeKind::Chunk(grant) = self.operation(allocate).await else {
            panic!("a chunk was asked for");
        };
        for target in &grant.targets {
            let fake = &self.datanodes[&target.datanode.datanode];
            let open = ReplicaState {
                chunk: grant.chunk,
                incarnation: target.incarnation,
                epoch: grant.epoch,
                length,
                ..ReplicaState::default()
            };
            let mut replicas = fake.replicas.lock().unwrap();
            replicas.by_chunk.insert(grant.chunk, open);
        }
        let create = OperationKind::Create(Create {
            location: Location::path(name),
            kind: InodeKind::File.into(),
            mode: 0o644,
            extents: vec![CommitExtent {
                chunk: grant.chunk,
                epoch: grant.epoch,
                length,
                ..CommitExtent::default()
            }],
            ..Create::default()
        });
        self.operation(create).await;
        grant
    }

    fn record(&self, id: u64) -> Option<ChunkRecord> {
        let store = self.group.state().store();
        chunk::get(&store.snapshot(), ChunkId(id)).unwrap()
    }

    fn holders(&self, id: u64) -> Vec<u64> {
        let record = self.record(id).unwrap();
        record
            .replicas
            .iter()
            .map(|replica| replica.datanode)
            .collect()
    }

    fn replica(&self, datanode: u64, id: u64) -> Option<ReplicaState> {
        let replicas = self.datanodes[&datanode].replicas.lock().unwrap();
        replicas.by_chunk.get(&id).cloned()
    }

    fn is_sealed(&self, id: u64) -> bool {
        self.record(id).unwrap().state() == ChunkState::Sealed
    }

    /// What fsck finds while these datanodes are alive.
    fn problems(&self, wish: Wish, alive: BTreeSet<DatanodeId>) -> Vec<FsckProblem> {
        let failed = self.controllers.failed_replicas();
        let evidence = Evidence { alive, failed };
        let store = self.group.state().store();
        let (mut problems, mut cursor) = (Vec::new(), Vec::new());
        loop {
            let page = fsck::page(&store.snapshot(), &cursor, wish, &evidence).unwrap();
            problems.extend(page.problems);
            cursor = page.cursor;
            if cursor.is_empty() {
                return problems;
            }
        }
    }

    fn is_well(&self, id: u64) -> bool {
        let counts = self.controllers.counts();
        self.is_sealed(id)
            && self.holders(id).len() == 3
            && self.holders(id).iter().all(|datanode| {
                self.replica(*datanode, id)
                    .is_some_and(|replica| replica.sealed && replica.length == LENGTH)
            })
            && counts.chunks_under_replicated + counts.chunks_over_replicated == 0
    }

    async fn stop(self) {
        self.tasks.shutdown();
        self.tasks
            .run_until_shutdown(Duration::from_secs(10))
            .await
            .unwrap();
        self.group.shutdown().await.unwrap();
    }
}

fn volumes() -> Vec<VolumeReport> {
    vec![VolumeReport {
        capacity_bytes: 1 << 40,
        available_bytes: 1 << 40,
        ..VolumeReport::default()
    }]
}

#[tokio::test]
async fn an_open_chunk_that_loses_a_replica_is_sealed_and_replicated_again() {
    let mut world = World::new(4).await;
    let grant = world.write_file("/f").await;
    let lost = grant.targets[1].datanode.datanode;
    let old = grant.targets[1].incarnation;
    {
        let mut replicas = world.datanodes[&lost].replicas.lock().unwrap();
        let state = replicas.by_chunk.remove(&grant.chunk).unwrap();
        replicas.changed.push(ReplicaState {
            gone: true,
            ..state
        });
    }
    world
        .until("a new replica in the place of the lost one", |world| {
            let record = world.record(grant.chunk).unwrap();
            let listed = record
                .replicas
                .iter()
                .any(|replica| replica.incarnation == old);
            world.is_well(grant.chunk) && !listed
        })
        .await;
    let through = [(ChunkId(grant.chunk), LENGTH)];
    world.controllers.sync_chunks(&through).await.unwrap();
    assert_eq!(world.record(grant.chunk).unwrap().synced_length, LENGTH);
    world.stop().await;
}

#[tokio::test]
async fn a_short_replica_found_by_a_sync_is_replaced_on_the_same_datanode() {
    let mut world = World::new(3).await;
    let grant = world.write_file("/f").await;
    let short = grant.targets[2].datanode.datanode;
    {
        let mut replicas = world.datanodes[&short].replicas.lock().unwrap();
        replicas.by_chunk.get_mut(&grant.chunk).unwrap().length = LENGTH - 1;
    }
    let through = [(ChunkId(grant.chunk), LENGTH)];
    world.controllers.sync_chunks(&through).await.unwrap();
    let whole = world.datanodes.values().filter(|fake| {
        fake.replicas
            .lock()
            .unwrap()
            .log
            .iter()
            .any(|order| order.starts_with("Sync"))
    });
    assert_eq!(whole.count(), 3, "all were asked");
    let old = grant.targets[2].incarnation;
    world
        .until("a whole replica where the short one was", |world| {
            world.is_well(grant.chunk)
                && world
                    .replica(short, grant.chunk)
                    .is_some_and(|replica| replica.incarnation != old)
        })
        .await;
    world.stop().await;
}

#[tokio::test]
async fn what_the_longest_of_all_short_replicas_holds_is_replicated_again() {
    let mut world = World::new(4).await;
    let grant = world.write_file("/f").await;
    let lengths = [700, 900, 400];
    for (target, length) in grant.targets.iter().zip(lengths) {
        let fake = &world.datanodes[&target.datanode.datanode];
        let mut replicas = fake.replicas.lock().unwrap();
        replicas.by_chunk.get_mut(&grant.chunk).unwrap().length = length;
    }
    let whole = [(ChunkId(grant.chunk), LENGTH)];
    assert!(world.controllers.sync_chunks(&whole).await.is_err());
    world
        .until("three replicas of what is left", |world| {
            let held: Vec<u64> = world
                .holders(grant.chunk)
                .iter()
                .filter_map(|datanode| world.replica(*datanode, grant.chunk))
                .filter(|replica| replica.sealed)
                .map(|replica| replica.length)
                .collect();
            held == [900; 3] && world.controllers.counts().chunks_lossy == 1
        })
        .await;
    let record = world.record(grant.chunk).unwrap();
    assert_eq!((record.length, record.lost_bytes), (LENGTH, LENGTH - 900));
    let lost = world.controllers.sync_chunks(&whole).await.unwrap_err();
    assert_eq!(lost.code(), ErrorCode::DataLost);
    let held = [(ChunkId(grant.chunk), 900)];
    world.controllers.sync_chunks(&held).await.unwrap();
    let problems = world.problems(Wish::default(), world.controllers.alive_datanodes());
    assert_eq!(problems.len(), 1, "{problems:?}");
    let problem = (
        &problems[0].kind[..],
        &problems[0].path[..],
        problems[0].severe,
    );
    assert_eq!(problem, ("lost", b"/f".as_slice(), true));
    world.stop().await;
}

#[tokio::test]
async fn fsck_names_files_whose_chunks_lack_replicas_if_it_is_asked_to() {
    let mut world = World::new(3).await;
    let grant = world.write_file("/f").await;
    let link = OperationKind::Link(Link {
        source: Location::path("/f"),
        location: Location::path("/g"),
        ..Link::default()
    });
    world.operation(link).await;
    world.write_file("/h").await;
    let seal = CommandKind::SealOpenChunk(SealOpenChunk {
        chunk: grant.chunk,
        epoch: grant.epoch,
    });
    world.command(seal).await;
    let two = BTreeSet::from([DatanodeId(1), DatanodeId(2)]);
    let by_chunk = world.problems(Wish::default(), two.clone());
    let told: Vec<_> = by_chunk
        .iter()
        .map(|told| (&told.kind[..], &told.path[..]))
        .collect();
    assert_eq!(told, [("under-replicated", b"".as_slice())]);
    let wish = Wish {
        limit: 1,
        name_files: true,
    };
    let by_file = world.problems(wish, two);
    let told: Vec<_> = by_file
        .iter()
        .map(|told| (&told.kind[..], &told.path[..]))
        .collect();
    assert_eq!(told, [("under-replicated", b"/f".as_slice())]);
    let none = world.problems(wish, BTreeSet::new());
    assert_eq!(
        (&none[0].kind[..], &none[0].path[..]),
        ("unavailable", b"/f".as_slice())
    );
    world.stop().await;
}

#[tokio::test]
async fn the_status_shows_what_a_datanode_was_told_to_be_at_once() {
    let world = World::new(3).await;
    for to in [
        DatanodeAdminState::Maintenance,
        DatanodeAdminState::InService,
    ] {
        let state = SetDatanodeState {
            datanode: 2,
            state: to.into(),
        };
        world.command(CommandKind::SetDatanodeState(state)).await;
        let states: Vec<_> = world
            .controllers
            .datanode_statuses()
            .unwrap()
            .iter()
            .map(|status| status.state())
            .collect();
        assert_eq!(
            states,
            [
                DatanodeAdminState::InService,
                to,
                DatanodeAdminState::InService
            ]
        );
    }
    world.stop().await;
}

#[tokio::test]
async fn datanodes_that_share_a_disk_share_its_space() {
    let world = World::new(3).await;
    assert_eq!(world.controllers.space().capacity_bytes, 3 << 40);
    for id in [1, 2] {
        let mut volumes = volumes();
        volumes[0].filesystem = 5;
        let request = HeartbeatRequest {
            datanode: id,
            boot_nonce: vec![id as u8; 16],
            volumes,
            ..HeartbeatRequest::default()
        };
        world.controllers.heartbeat(&request).unwrap();
        let mut soft = world.controllers.soft().unwrap();
        let known = soft.datanodes.get_mut(DatanodeId(id)).unwrap();
        known.record.host = "shared".to_owned();
        drop(soft);
    }
    assert_eq!(world.controllers.space().capacity_bytes, 2 << 40);
    world.stop().await;
}

#[tokio::test]
async fn a_sync_waits_for_the_copies_that_take_the_place_of_lost_replicas() {
    let mut world = World::new(5).await;
    let grant = world.write_file("/f").await;
    for target in &grant.targets[1..] {
        let fake = &world.datanodes[&target.datanode.datanode];
        fake.replicas.lock().unwrap().by_chunk.clear();
    }
    let world = world;
    let synced = async {
        let through = [(ChunkId(grant.chunk), LENGTH)];
        world.controllers.sync_chunks(&through).await.unwrap();
        let whole = |datanode: &u64| {
            let replica = world.replica(*datanode, grant.chunk);
            replica.is_some_and(|replica| replica.length == LENGTH)
        };
        let holders = world.holders(grant.chunk);
        assert_eq!(holders.iter().filter(|id| whole(id)).count(), 3);
        assert_eq!(world.record(grant.chunk).unwrap().synced_length, LENGTH);
    };
    let healed = world.until("three replicas", |world| world.is_well(grant.chunk));
    tokio::join!(synced, healed);
    world.stop().await;
}

#[tokio::test]
async fn a_sync_counts_a_replica_on_a_disk_that_hangs_as_missing_until_it_answers() {
    let mut world = World::new(3).await;
    let grant = world.write_file("/f").await;
    let through = [(ChunkId(grant.chunk), LENGTH)];
    let targets = grant.targets.iter();
    let ids: Vec<u64> = targets.map(|target| target.datanode.datanode).collect();
    let hang = |world: &World, ids: &[u64], hanging| {
        for id in ids {
            world.datanodes[id].replicas.lock().unwrap().hanging = hanging;
        }
        world.heartbeats();
    };
    hang(&world, &ids, true);
    let refused = world.controllers.sync_chunks(&through).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Unavailable, "no disk answers");
    hang(&world, &ids[..2], false);
    world.controllers.sync_chunks(&through).await.unwrap();
    let synced = |world: &World| world.record(grant.chunk).unwrap().synced_length;
    assert_eq!(synced(&world), 0, "the third may have nothing");
    hang(&world, &ids[2..], false);
    world
        .until("three replicas", |world| world.is_well(grant.chunk))
        .await;
    let set = |ids: Vec<u64>| BTreeSet::from_iter(ids);
    assert_eq!(set(world.holders(grant.chunk)), set(ids));
    world.controllers.sync_chunks(&through).await.unwrap();
    assert_eq!(synced(&world), LENGTH);
    world.stop().await;
}

#[tokio::test]
async fn a_sync_has_a_replica_on_a_disk_that_hangs_replaced() {
    let mut world = World::new(4).await;
    let grant = world.write_file("/f").await;
    let hung = grant.targets[1].datanode.datanode;
    world.datanodes[&hung].replicas.lock().unwrap().hanging = true;
    let world = world;
    let through = [(ChunkId(grant.chunk), LENGTH)];
    let synced = async { world.controllers.sync_chunks(&through).await.unwrap() };
    let healed = world.until("three replicas without it", |world| {
        world.is_well(grant.chunk) && !world.holders(grant.chunk).contains(&hung)
    });
    tokio::join!(synced, healed);
    world.controllers.sync_chunks(&through).await.unwrap();
    assert_eq!(world.record(grant.chunk).unwrap().synced_length, LENGTH);
    world.stop().await;
}

#[tokio::test]
async fn a_deleted_files_chunk_goes_with_all_its_replicas() {
    let mut world = World::new(3).await;
    let grant = world.write_file("/f").await;
    let expire = ExpireSession {
        session: world.session,
    };
    world
        .operation(OperationKind::Unlink(Unlink {
            location: Location::path("/f"),
        }))
        .await;
    world.command(CommandKind::ExpireSession(expire)).await;
    assert!(!world.controllers.keep_alive(SessionId(world.session)));
    world
        .until("the chunk and its replicas are gone", |world| {
            let left = world
                .datanodes
                .keys()
                .any(|id| world.replica(*id, grant.chunk).is_some());
            world.record(grant.chunk).is_none() && !left
        })
        .await;
    assert_eq!(world.controllers.counts().chunks_dead, 0);
    world.stop().await;
}

#[tokio::test]
async fn a_datanode_that_did_not_register_here_is_told_to() {
    let world = World::new(1).await;
    let stranger = HeartbeatRequest {
        datanode: 1,
        boot_nonce: vec![9; 16],
        ..HeartbeatRequest::default()
    };
    let refused = world.controllers.heartbeat(&stranger).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NotFound);
    let few = world
        .controllers
        .place(&AllocateChunk::default())
        .unwrap_err();
    assert_eq!(few.code(), ErrorCode::NotEnoughDatanodes);
    let one = AllocateChunk {
        replication: 1,
        ..AllocateChunk::default()
    };
    assert_eq!(world.controllers.place(&one).unwrap().datanodes, [1]);
    assert_eq!(world.controllers.space().capacity_bytes, 1 << 40);
    world.stop().await;
}

#[tokio::test]
async fn writes_go_on_with_two_replicas_while_the_third_datanode_is_in_maintenance() {
    let world = World::new(3).await;
    let state = SetDatanodeState {
        datanode: 3,
        state: DatanodeAdminState::Maintenance.into(),
    };
    world.command(CommandKind::SetDatanodeState(state)).await;
    world
        .until("new chunks begin on the other two", |world| {
            let placed = world.controllers.place(&AllocateChunk::default());
            placed.is_ok_and(|mut placed| {
                placed.datanodes.sort_unstable();
                placed.datanodes == [1, 2]
            })
        })
        .await;
    world.stop().await;
}

#[tokio::test]
async fn a_decommissioned_datanode_holds_nothing_and_can_be_forgotten() {
    let mut world = World::new(4).await;
    let grant = world.write_file("/f").await;
    let leaving = grant.targets[0].datanode.datanode;
    let state = SetDatanodeState {
        datanode: leaving,
        state: DatanodeAdminState::Decommissioning.into(),
    };
    world.command(CommandKind::SetDatanodeState(state)).await;
    world
        .until("the datanode is decommissioned", |world| {
            let statuses = world.controllers.datanode_statuses().unwrap();
            statuses.iter().any(|status| {
                status.address.datanode == leaving
                    && status.state() == DatanodeAdminState::Decommissioned
            })
        })
        .await;
    assert!(world.is_well(grant.chunk));
    world
        .until("its replica is deleted", |world| {
            world.replica(leaving, grant.chunk).is_none()
        })
        .await;
    let forget = ForgetDatanode { datanode: leaving };
    world.command(CommandKind::ForgetDatanode(forget)).await;
    world.stop().await;
}

#[tokio::test]
async fn replicas_move_to_an_empty_datanode_and_no_chunk_ever_has_fewer_than_it_should() {
    let length = 512 << 10;
    let mut world = World::new(3).await;
    world.disk_bytes = Some(40 * length);
    let mut chunks = Vec::new();
    for number in 0..16 {
        let grant = world.write_bytes(&format!("/f{number}"), length).await;
        let seal = SealOpenChunk {
            chunk: grant.chunk,
            epoch: grant.epoch,
        };
        world.command(CommandKind::SealOpenChunk(seal)).await;
        chunks.push(grant.chunk);
    }
    let is_whole = |world: &World, chunk: &u64| {
        let holders = world.holders(*chunk);
        let held = holders
            .iter()
            .filter(|id| world.replica(**id, *chunk).is_some());
        held.count() >= 3
    };
    world
        .until("all are verified", |world| {
            world.controllers.counts().chunks_under_replicated == 0
        })
        .await;
    let new = world.add_datanode().await;
    let mut moves_seen = 0;
    world
        .until("the new datanode has its share", |world| {
            assert!(chunks.iter().all(|chunk| is_whole(world, chunk)));
            let counts = world.controllers.counts();
            moves_seen = moves_seen.max(counts.moves_running);
            let spread = counts.fill_max_permille - counts.fill_min_permille;
            let settled = counts.copies_running + counts.chunks_over_replicated == 0;
            spread <= 100 && settled && counts.fill_max_permille > 0
        })
        .await;
    assert!((1..=3).contains(&moves_seen), "{moves_seen}");
    let moved = world.datanodes[&new]
        .replicas
        .lock()
        .unwrap()
        .by_chunk
        .len();
    assert!(
        (8..=14).contains(&moved),
        "{moved} of 48 replicas on one of four"
    );
    for chunk in &chunks {
        assert_eq!(world.holders(*chunk).len(), 3);
    }
    world.stop().await;
}

#[tokio::test]
async fn concurrent_syncs_of_a_chunk_share_the_work() {
    let mut world = World::new(3).await;
    let grant = world.write_file("/f").await;
    let through = [(ChunkId(grant.chunk), LENGTH)];
    let syncs = (0..20).map(|_| world.controllers.sync_chunks(&through));
    for synced in futures::future::join_all(syncs).await {
        synced.unwrap();
    }
    for fake in world.datanodes.values() {
        assert_eq!(fake.replicas.lock().unwrap().log.len(), 1);
    }
    world.stop().await;
}

/// Allocates a chunk as a client does.
async fn allocate(
    service: &NamenodeService,
    session: u64,
    sequence: u64,
) -> Result<ChunkGrant, ErrorCode> {
    let request = MutateRequest {
        session,
        sequence,
        lowest_unanswered: 1,
        caller: Caller::default(),
        operation: Some(Operation::from(OperationKind::AllocateChunk(
            AllocateChunk::default(),
        ))),
    };
    let request = Request {
        method: Method::Mutate.into(),
        header: request.encode_to_vec().into(),
        payload: Vec::new().into(),
    };
    let reply = service
        .mutate(&crate::service::principal::Principal::Believed, request)
        .await
        .map_err(|error| error.code())?;
    let reply: MutateReply = reply.decode().unwrap();
    match reply.outcome.unwrap().kind.unwrap() {
        OutcomeKind::Chunk(grant) => Ok(grant),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_retry_gets_its_chunk_though_the_cluster_is_full_by_then() {
    let world = World::new(3).await;
    let service = world.service();
    let first = allocate(&service, world.session, 1).await.unwrap();
    for id in world.datanodes.keys() {
        let mut full = volumes();
        for volume in &mut full {
            volume.available_bytes = 0;
        }
        let request = HeartbeatRequest {
            datanode: *id,
            boot_nonce: vec![*id as u8; 16],
            volumes: full,
            ..HeartbeatRequest::default()
        };
        world.controllers.heartbeat(&request).unwrap();
    }
    let again = allocate(&service, world.session, 1).await.unwrap();
    assert_eq!((again.chunk, again.epoch), (first.chunk, first.epoch));
    let other = allocate(&service, world.session, 2).await;
    assert_eq!(other.unwrap_err(), ErrorCode::NoSpace);
    world.stop().await;
}

#[tokio::test]
async fn a_status_that_cannot_be_read_is_none_without_datanodes() {
    let world = World::new(1).await;
    let service = world.service();
    let request = || Request {
        method: Method::Status.into(),
        header: StatusRequest::default().encode_to_vec().into(),
        payload: Bytes::new(),
    };
    assert!(service.status(request()).await.is_ok());
    let store = world.controllers.store();
    let mut txn = store.begin();
    txn.put(datanode::encode(DatanodeId(1)), vec![0xff]);
    txn.commit(store.applied().unwrap().unwrap()).unwrap();
    let answer = service.status(request()).await.map(|_| ());
    assert_eq!(
        answer.map_err(|error| error.code()),
        Err(ErrorCode::Internal)
    );
    world.stop().await;
}

#[tokio::test]
async fn a_session_whose_client_never_heard_of_it_expires() {
    let world = World::with_session_ttl(0, 200).await;
    let open = OpenSession {
        client_name: "vanished".to_owned(),
        nonce: vec![2; 16],
        ..OpenSession::default()
    };
    // Applied, but nobody is told.
    let vanished = world.command(CommandKind::OpenSession(open)).await.id;
    world
        .until("the end of a session that nobody keeps alive", |world| {
            world.controllers.keep_alive(SessionId(world.session));
            let store = world.controllers.store();
            let snapshot = store.snapshot();
            session::get(&snapshot, SessionId(vanished))
                .unwrap()
                .is_none()
        })
        .await;
    world.stop().await;
}
