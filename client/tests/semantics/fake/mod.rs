//! A cluster in memory: all its namenodes and datanodes share one state, whose faults tests set.

mod datanode;
mod namenode;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{ClusterConfig, FileSystem};
use cairn_protocol::Failure;
use cairn_protocol::messages::common::{Caller, DatanodeAddress, Extent, ReplicaTarget};
use cairn_protocol::messages::operation::{Commit, OperationKind, OutcomeKind};
use cairn_protocol::messages::session::FailedReplica;
use cairn_protocol::rpc::{ServerOptions, serve};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub const CLUSTER: [u8; 16] = [7; 16];

/// One namenode group and its datanodes. Dropping it ends them.
pub struct FakeCluster {
    pub shared: Arc<Shared>,
    _servers: JoinSet<()>,
}

pub struct Shared {
    state: Mutex<State>,
    /// One permit per packet that may be acknowledged.
    pub acks: Semaphore,
}

/// What the cluster holds, what it was asked, and how it fails.
#[derive(Default)]
pub struct State {
    pub namenodes: Vec<String>,
    pub datanodes: Vec<String>,
    pub leader: usize,
    pub chunk_size: u64,
    pub replication: u32,
    pub next_id: u64,
    pub session_ttl_ms: u64,
    pub sessions: BTreeMap<u64, FakeSession>,
    pub nonces: BTreeMap<Vec<u8>, u64>,
    pub names: BTreeMap<Vec<u8>, u64>,
    pub inodes: BTreeMap<u64, FakeInode>,
    pub chunks: BTreeMap<u64, FakeChunk>,

    /// Who asked for each commit.
    pub committers: Vec<Caller>,
    /// Every attempt of a mutation: (session, sequence, name of the operation).
    pub attempts: Vec<(u64, u64, &'static str)>,
    /// Mutations that took effect.
    pub applied: Vec<&'static str>,
    pub reports: Vec<FailedReplica>,
    pub seals: Vec<(u64, Vec<u64>)>,
    pub returned: Vec<u64>,
    pub queries: usize,
    pub packets: usize,
    pub keep_alives: usize,
    pub reads: usize,
    /// Calls that ask for a file to be synced.
    pub syncs: usize,
    /// Largest number of bytes that a pipeline had received and not acknowledged.
    pub unacked_bytes_max: u64,

    pub faults: Faults,
}

#[derive(Default)]
pub struct Faults {
    /// Followers do not name the leader.
    pub silent_followers: bool,
    /// This many mutations take effect, and their answers are lost.
    pub lost_answers: u32,
    /// Once no answer is lost any more, this many mutations are refused before anybody looks what became of them: the token
    /// of the one who asks is not good any more.
    pub unproved: u32,
    /// These namenodes believe nobody who connects.
    pub distrusting: BTreeSet<usize>,
    /// The answer to the next of these operations is lost, and its session is over when it is asked again.
    pub interrupted: Option<(&'static str, Interrupted)>,
    /// This many keep-alives are refused, though the session lives.
    pub refused_keep_alives: u32,
    /// The next removals of a namenode are answered with these failures, the last one first.
    pub removals: Vec<Failure>,
    /// Attempts to found a cluster are answered with these failures, the last one first; all others not at all.
    pub foundings: Vec<Failure>,
    /// The next of these operations are answered with a failure instead, and do not take effect.
    pub refusals: BTreeMap<&'static str, Vec<Failure>>,
    /// These datanodes refuse every pipeline.
    pub dead: BTreeSet<u64>,
    /// The pipeline fails at this datanode with the packet of this number, counted over all pipelines; once.
    pub fail_at_packet: Option<(usize, u64)>,
    /// These datanodes never answer a read.
    pub silent: BTreeSet<u64>,
    /// These datanodes serve a flipped bit.
    pub corrupt: BTreeSet<u64>,
    /// The namenode is older than commits that say what is synced.
    pub deaf_to_claims: bool,
}

/// How far an operation came whose session ended.
#[derive(Clone, Copy)]
pub enum Interrupted {
    Before,
    After,
    /// And somebody else has truncated the file it changed since.
    LongAfter,
}

pub struct FakeSession {
    pub alive: bool,
    pub outcomes: BTreeMap<u64, Result<OutcomeKind, Failure>>,
}

#[derive(Clone, Default)]
pub struct FakeInode {
    pub kind: i32,
    pub mode: u32,
    pub size: u64,
    pub version: u64,
    pub extents: Vec<Extent>,
}

pub struct FakeChunk {
    pub epoch: u64,
    pub sealed: bool,
    pub targets: Vec<u64>,
    /// The same on every replica.
    pub data: Vec<u8>,
    /// Synced through here, as packets asked for it.
    pub synced: u64,
    /// Length and CRC of each checksum block.
    pub blocks: Vec<(u32, u32)>,
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn address(&self, datanode: u64) -> DatanodeAddress {
        DatanodeAddress {
            datanode,
            address: self.datanodes[datanode as usize - 1].clone(),
            host: format!("host{datanode}"),
            ..DatanodeAddress::default()
        }
    }

    pub fn target(&self, datanode: u64) -> ReplicaTarget {
        ReplicaTarget {
            datanode: self.address(datanode),
            incarnation: 1,
        }
    }

    /// The content of a named file, as its extents say.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let inode = &self.inodes[self.names.get(path.as_bytes())?];
        let mut content = vec![0; inode.size as usize];
        for extent in &inode.extents {
            let data = &self.chunks[&extent.chunk].data;
            let start = extent.offset_in_chunk as usize;
            let at = extent.offset_in_file as usize;
            let length = extent.length as usize;
            content[at..at + length].copy_from_slice(&data[start..start + length]);
        }
        Some(content)
    }

    /// A commit that somebody sent with other things.
    pub fn commit(&mut self, commit: Commit) {
        namenode::apply_commit(self, commit).expect("nothing forbids it");
    }

    /// Somebody else empties a file.
    pub fn empty(&mut self, inode: u64) {
        let file = self.inodes.get_mut(&inode).expect("it is there");
        namenode::cut(file, 0, u64::MAX);
        file.size = 0;
        file.version += 1;
    }

    pub fn count(&self, operation: &str) -> usize {
        self.applied
            .iter()
            .filter(|&&name| name == operation)
            .count()
    }
}

impl FakeCluster {
    pub async fn start(namenodes: usize, datanodes: usize) -> Self {
        let state = State {
            chunk_size: 4 << 20,
            replication: datanodes.min(3) as u32,
            next_id: 100,
            session_ttl_ms: 60_000,
            ..State::default()
        };
        let acks = Semaphore::new(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            acks,
        });
        let mut servers = JoinSet::new();
        for index in 0..namenodes {
            let service = namenode::FakeNamenode {
                shared: shared.clone(),
                index,
            };
            let address = start(&mut servers, service).await;
            shared.state().namenodes.push(address);
        }
        for index in 0..datanodes {
            let id = index as u64 + 1;
            let service = datanode::FakeDatanode {
                shared: shared.clone(),
                id,
            };
            let address = start(&mut servers, service).await;
            shared.state().datanodes.push(address);
        }
        Self {
            shared,
            _servers: servers,
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    pub fn config(&self) -> ClusterConfig {
        let caller = Caller {
            uid: 0,
            gid: 0,
            groups: vec![],
            umask: 0,
            token: Vec::new(),
            session: 0,
        };
        let namenodes = self.state().namenodes.clone();
        let mut config = ClusterConfig::new(namenodes, caller);
        config.seed = Some(1);
        config.timeouts.patience = Duration::from_secs(20);
        // Requests are counted, however slow the machine is.
        config.timeouts.hedge = Duration::from_secs(3600);
        config
    }

    pub async fn connect(&self) -> FileSystem {
        FileSystem::connect(self.config())
            .await
            .expect("the fake cluster answers")
    }
}

async fn start(servers: &mut JoinSet<()>, service: impl cairn_protocol::rpc::Service) -> String {
    let listener = cairn_protocol::net::listen("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a listener has an address")
        .to_string();
    let service = Arc::new(service);
    servers.spawn(async move {
        let shutdown = CancellationToken::new();
        // Ends with the set.
        let _ = serve(listener, service, ServerOptions::default(), shutdown).await;
    });
    address
}

/// Bytes that differ from their neighbours.
pub fn pattern(length: usize, seed: u8) -> Bytes {
    (0..length)
        .map(|i| ((i * 31 + i / 251) % 256) as u8 ^ seed)
        .collect()
}

/// The name of an operation.
pub fn name(operation: &OperationKind) -> &'static str {
    match operation {
        OperationKind::Mkdir(_) => "mkdir",
        OperationKind::Create(_) => "create",
        OperationKind::Link(_) => "link",
        OperationKind::Commit(_) => "commit",
        OperationKind::AllocateChunk(_) => "allocate",
        OperationKind::ReturnChunk(_) => "return",
        OperationKind::SealChunk(_) => "seal",
        OperationKind::ReleaseInode(_) => "release",
        OperationKind::Truncate(_) => "truncate",
        OperationKind::CloseSession(_) => "close",
        _ => "other",
    }
}
