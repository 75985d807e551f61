//! Frames that were cut, changed, forged or sent again reach live ports: every process stays up, closes what it cannot understand, and
//! serves everybody else.
//!
//! Half of the changes are made before a frame is sealed, so that its checksum is right and the message decoders get to see them.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cairn_client::{FileSystem, WriteOptions};
use cairn_protocol::frame::{Flags, Frame, FrameQueue, FrameWriter};
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::admin::{
    AddNamenodeRequest, FsckRequest, GreetRequest, RemoveNamenodeRequest, SetDatanodeStateRequest,
    StatusRequest,
};
use cairn_protocol::messages::common::{Caller, Location, ReplicaTarget};
use cairn_protocol::messages::datanode::{
    HeartbeatRequest, InstructRequest, Instruction, InstructionKind, RegisterDatanodeRequest,
    ReplicaReportRequest, ReplicaState, SealReplica, VolumeReport,
};
use cairn_protocol::messages::operation::{Mkdir, OperationKind};
use cairn_protocol::messages::query::{List, QueryKind, QueryRequest, Stat};
use cairn_protocol::messages::session::{
    FailedReplica, KeepAliveRequest, MutateRequest, OpenSessionRequest, ReportReplicasRequest,
    SyncRequest,
};
use cairn_protocol::messages::transfer::{OpenWrite, PacketHeader, ReadReplica};
use cairn_protocol::rpc::Hello;
use cairn_protocol::{Method, net};
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::forged_raft::{self, OTHER, STRANGER};

/// Connections to each port, and how many of them at once.
const CONNECTIONS: usize = 240;
const AT_ONCE: usize = 24;
/// A process that has not closed a connection by then, which ended long ago, never will.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Panics inside the product. A request that panics fails alone, so that nobody else would notice.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let ours = ["protocol/", "daemon/", "namenode/", "datanode/"];
            let file = panic.location().map_or("", |location| location.file());
            if ours.iter().any(|crate_dir| file.starts_with(crate_dir)) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            before(panic);
        }));
    });
}

/// A message as its sender meant it.
#[derive(Clone)]
struct Sent {
    method: u16,
    header: Vec<u8>,
    payload: Vec<u8>,
}

fn sent(method: Method, message: &impl Message) -> Sent {
    Sent {
        method: method.into(),
        header: message.encode_to_vec(),
        payload: Vec::new(),
    }
}

/// Somebody who may do nothing.
fn nobody() -> Caller {
    Caller {
        uid: 4711,
        gid: 4711,
        groups: vec![1, 2, 3],
        umask: 0,
        token: Vec::new(),
        session: 0,
    }
}

/// What clients, operators and namenodes say to a namenode.
fn to_namenode() -> Vec<Sent> {
    let mkdir = OperationKind::Mkdir(Mkdir {
        location: Location::path("/fuzz/never"),
        mode: 0o755,
        parents: false,
    });
    let query = |kind| QueryRequest {
        caller: nobody(),
        freshness: 0,
        session: 0,
        kind: Some(kind),
    };
    let list = List {
        location: Location::path("/"),
        limit: 10,
        ..List::default()
    };
    let stat = Stat {
        location: Location::path("/before"),
        ..Stat::default()
    };
    vec![
        sent(Method::ClusterInfo, &Caller::default()),
        sent(
            Method::OpenSession,
            &OpenSessionRequest {
                client_name: "fuzz".to_owned(),
                nonce: vec![3; 16],
            },
        ),
        sent(Method::KeepAlive, &KeepAliveRequest { session: 77 }),
        sent(
            Method::Mutate,
            &MutateRequest {
                session: 77,
                sequence: 1,
                lowest_unanswered: 1,
                caller: nobody(),
                operation: Some(mkdir.into()),
            },
        ),
        sent(Method::Query, &query(QueryKind::List(list))),
        sent(Method::Query, &query(QueryKind::Stat(stat))),
        sent(
            Method::Sync,
            &SyncRequest {
                inode: InodeId::ROOT.0,
                ..SyncRequest::default()
            },
        ),
        sent(
            Method::ReportReplicas,
            &ReportReplicasRequest {
                replicas: vec![FailedReplica::default(); 3],
            },
        ),
        sent(
            Method::Status,
            &StatusRequest {
                caller: nobody(),
                local: true,
            },
        ),
        sent(
            Method::Fsck,
            &FsckRequest {
                caller: Caller::default(),
                cursor: vec![2, 0, 0, 0, 0, 0, 0, 0, 9],
                limit: 5,
                name_files: true,
            },
        ),
        sent(
            Method::SetDatanodeState,
            &SetDatanodeStateRequest {
                caller: nobody(),
                datanode: 1 << 40,
                state: 1,
                forget: false,
            },
        ),
        sent(
            Method::AddNamenode,
            &AddNamenodeRequest {
                caller: nobody(),
                address: "127.0.0.1:1".to_owned(),
                replaces: 0,
            },
        ),
        sent(
            Method::RemoveNamenode,
            &RemoveNamenodeRequest {
                caller: nobody(),
                namenode: 1 << 40,
            },
        ),
        sent(Method::Greet, &GreetRequest::default()),
    ]
}

/// What namenodes say to the one with this number. Nobody would do it: it is in the name of another one than its sender, and that is only
/// noticed once the body is decoded.
fn from_namenode(namenode: u64) -> Vec<Sent> {
    let in_envelope = |raft: &forged_raft::Raft| Sent {
        payload: raft.payload.clone(),
        ..sent(
            raft.method,
            &forged_raft::envelope(raft, STRANGER, namenode),
        )
    };
    let bodies = forged_raft::messages(0, OTHER);
    bodies.iter().map(in_envelope).collect()
}

/// What datanodes say to a namenode.
fn from_datanode() -> Vec<Sent> {
    let state = ReplicaState {
        chunk: 1,
        incarnation: 1,
        epoch: 1,
        length: 10,
        ..ReplicaState::default()
    };
    vec![
        sent(
            Method::RegisterDatanode,
            // One that was forgotten: it is refused whatever else it says.
            &RegisterDatanodeRequest {
                uuid: vec![9; 16],
                address: "127.0.0.1:1".to_owned(),
                boot_nonce: vec![9; 16],
                volumes: vec![VolumeReport::default(); 2],
                datanode: 1 << 40,
                ..RegisterDatanodeRequest::default()
            },
        ),
        sent(
            Method::Heartbeat,
            &HeartbeatRequest {
                datanode: 1,
                boot_nonce: vec![9; 16],
                changed: vec![state.clone(); 5],
                ..HeartbeatRequest::default()
            },
        ),
        sent(
            Method::ReplicaReport,
            &ReplicaReportRequest {
                datanode: 1,
                boot_nonce: vec![9; 16],
                first_chunk: 5,
                last_chunk: 4,
                replicas: vec![state; 5],
            },
        ),
    ]
}

/// What clients, datanodes and the leader say to a datanode.
async fn to_datanode(fs: &FileSystem) -> Vec<Sent> {
    let located = fs.extents("/before", 0, 5000).await.unwrap().extents;
    let (extent, token) = (located[0].extent, located[0].token.clone());
    let packet = PacketHeader {
        sequence: 1,
        offset_in_chunk: 0,
        block_lengths: vec![64; 2],
        block_crcs: vec![1, 2],
        sync: true,
        last: false,
    };
    let mut packet = sent(Method::Packet, &packet);
    packet.payload = vec![5; 128];
    vec![
        sent(
            Method::ReadReplica,
            &ReadReplica {
                chunk: extent.chunk,
                offset: extent.offset_in_chunk,
                length: 5000,
                token: token.clone(),
                sequential: true,
            },
        ),
        sent(
            Method::OpenWrite,
            &OpenWrite {
                chunk: extent.chunk,
                epoch: 1,
                start: 0,
                capacity: 1 << 20,
                token: token.clone(),
                pipeline: vec![ReplicaTarget::default(); 3],
                window_bytes: 1 << 20,
                cluster_id: fs.cluster_id().to_vec(),
            },
        ),
        packet,
        sent(
            Method::Instruct,
            &InstructRequest {
                term: u64::MAX,
                datanode: 1,
                token,
                instructions: vec![
                    Instruction {
                        chunk: extent.chunk,
                        incarnation: 1,
                        kind: Some(InstructionKind::Seal(SealReplica::default())),
                    };
                    3
                ],
            },
        ),
    ]
}

/// What a changed connection says, byte by byte.
struct Fuzzer {
    rng: StdRng,
    hello: Hello,
}

impl Fuzzer {
    async fn conversation(&mut self, known: &[Sent]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = FrameWriter::new(&mut bytes);
        let mut hello = self.hello.clone();
        if self.rng.random_bool(0.5) {
            hello.role = "namenode".to_owned();
            hello.node = STRANGER;
        }
        hello.kind = if self.rng.random_bool(0.7) { 1 } else { 2 };
        let mut first = sent(Method::Hello, &hello);
        if self.rng.random_bool(0.1) {
            self.change(&mut first.header);
        }
        self.push(writer.queue(), first, 0);
        for id in 1..=self.rng.random_range(1..8) {
            let mut one = known[self.rng.random_range(0..known.len())].clone();
            if self.rng.random_bool(0.6) {
                self.change(&mut one.header);
            }
            if self.rng.random_bool(0.1) {
                one.method = self.rng.random();
            }
            if !one.payload.is_empty() && self.rng.random_bool(0.6) {
                self.change(&mut one.payload);
            }
            if self.rng.random_bool(0.1) {
                one.payload = vec![7; self.rng.random_range(0..100_000)];
            }
            // The same once more, under the same number or another one.
            if self.rng.random_bool(0.2) {
                let id = if self.rng.random() { id } else { id + 100 };
                self.push(writer.queue(), one.clone(), id);
            }
            self.push(writer.queue(), one, id);
        }
        writer.flush().await.expect("a vector takes everything");
        if self.rng.random_bool(0.5) {
            self.damage(&mut bytes);
        }
        bytes
    }

    fn push(&mut self, queue: &mut FrameQueue, one: Sent, request_id: u64) {
        let flags = match self.rng.random_range(0..20) {
            0 => Flags::REPLY,
            1 => Flags::ERROR,
            2 => Flags::LAST,
            3 => Flags::REPLY.with(Flags::ERROR).with(Flags::LAST),
            _ => Flags::NONE,
        };
        let frame = Frame {
            method: one.method,
            flags,
            request_id,
            header: one.header.into(),
            payload: one.payload.into(),
        };
        queue.push(frame).expect("below the limits");
    }

    /// Changes a message: the frame around it will be right.
    fn change(&mut self, message: &mut Vec<u8>) {
        for _ in 0..self.rng.random_range(1..4) {
            let at = self.rng.random_range(0..=message.len());
            match self.rng.random_range(0..6) {
                0 => message.truncate(at),
                1 => message.insert(at, self.rng.random()),
                2 => message.extend_from_within(at..),
                // A length or a number beyond all bounds.
                3 => message.splice(at..at, [0xff; 9]).for_each(drop),
                4 => {
                    let mut rubbish = vec![0; self.rng.random_range(1..2_000)];
                    self.rng.fill_bytes(&mut rubbish);
                    message.extend(rubbish);
                }
                _ => {
                    if let Some(byte) = message.get_mut(at) {
                        *byte ^= 1 << self.rng.random_range(0..8);
                    }
                }
            }
        }
    }

    /// Changes what is on the wire: the frames themselves.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.rng.random_range(0..bytes.len());
        match self.rng.random_range(0..4) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << self.rng.random_range(0..8),
            2 => bytes.drain(..at).for_each(drop),
            // The lengths of some frame: 4 GiB of header, of payload.
            _ => {
                let field = if self.rng.random() { 24 } else { 28 };
                let end = (field + 4).min(bytes.len());
                bytes[field.min(end)..end].fill(0xff);
            }
        }
    }
}

/// Says it, and waits until the other side has closed the connection.
async fn say(address: &str, bytes: Vec<u8>) {
    let mut stream = net::connect(address).await.unwrap();
    // The other side may have closed it already.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(ANSWER_MAX, stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "{address} keeps a connection that ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_frame_that_was_tampered_with_ends_a_process_or_disturbs_others() {
    count_panics();
    let given = std::env::var("DFS_SEED").ok();
    let seed = given.map_or_else(rand::random, |seed| seed.parse().expect("a number"));
    println!("DFS_SEED={seed}");
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let options = WriteOptions::default();
    fs.write_file("/before", content(1, 5000), &options)
        .await
        .unwrap();
    let mut fuzzer = Fuzzer {
        rng: StdRng::seed_from_u64(seed),
        hello: Hello::new("client", Some(fs.cluster_id()), 0),
    };
    let namenode = cluster.addresses()[0].clone();
    let datanode = cluster.datanode(0).unwrap().address().to_owned();
    let from_namenode = from_namenode(cluster.namenode(0).unwrap().group().id());
    let leadership = cluster.namenode(0).unwrap().group().leadership();
    let before = leadership.borrow().clone();
    let all = [
        to_namenode(),
        from_datanode(),
        from_namenode,
        to_datanode(&fs).await,
    ]
    .concat();
    let mut round = 0;
    for address in [namenode, datanode] {
        for _ in 0..CONNECTIONS / AT_ONCE {
            let mut said = Vec::new();
            for _ in 0..AT_ONCE {
                said.push(say(&address, fuzzer.conversation(&all).await));
            }
            // Somebody works meanwhile.
            round += 1;
            let path = format!("/meanwhile-{round}");
            let work = async {
                let written = content(round, 2000);
                fs.write_file(&path, written.clone(), &options)
                    .await
                    .unwrap();
                assert!(fs.read_file(&path).await.unwrap() == written);
            };
            tokio::join!(futures::future::join_all(said), work);
        }
    }
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "DFS_SEED={seed}");
    assert_eq!(*leadership.borrow(), before, "DFS_SEED={seed}");
    assert!(fs.read_file("/before").await.unwrap() == content(1, 5000));
    cluster.check(&fs).await.unwrap();
}
