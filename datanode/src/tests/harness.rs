//! Datanodes on temporary directories with a namenode, and a client that speaks the protocol frame by frame.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use cairn_daemon::Tasks;
use cairn_daemon::config::ByteSize;
use cairn_daemon::disk::{Disk, RealDisk};
use cairn_protocol::checksum::crc32c;
use cairn_protocol::frame::Frame;
use cairn_protocol::ids::{ChunkId, DatanodeId, Epoch};
use cairn_protocol::messages::common::{DatanodeAddress, ReplicaTarget};
use cairn_protocol::messages::datanode::{
    InstructReply, InstructRequest, Instruction, InstructionKind, ReplicaState, SealReplica,
};
use cairn_protocol::messages::transfer::{
    LocateReplica, LocateReply, OpenWrite, OpenWriteReply, PacketAck, PacketHeader, ReadReplica,
    ReadReply,
};
use cairn_protocol::net;
use cairn_protocol::rpc::{
    Connection, ConnectionOptions, FrameReceiver, FrameSender, FramedStream, Hello, ServerOptions,
    serve,
};
use cairn_protocol::token::{Grant, GrantKind, KeyRing, TokenKey, mint};
use cairn_protocol::{ErrorCode, Failure, Method};

pub(super) use super::namenode::{Heard, TERM};
use super::namenode::{Namenode, TIME_MS, TIMEOUT};
use crate::{Datanode, DatanodeConfig};

/// One datanode and the directory that it lives in.
pub(super) struct Node {
    pub id: u64,
    pub datanode: Datanode,
    pub tasks: Tasks,
    pub config: DatanodeConfig,
}

impl Node {
    /// The one replica that pipelines name.
    pub(super) fn target(&self) -> ReplicaTarget {
        let address = self.datanode.address().to_owned();
        let datanode = DatanodeAddress {
            datanode: self.id,
            address,
            ..Default::default()
        };
        ReplicaTarget {
            datanode,
            incarnation: incarnation(self.id),
        }
    }

    /// Stops it in order.
    pub(super) async fn stop(&self) {
        self.tasks.shutdown();
        self.tasks.run_until_shutdown(TIMEOUT).await.unwrap();
    }
}

/// Every datanode has another incarnation of each chunk.
pub(super) fn incarnation(datanode: u64) -> u64 {
    100 + datanode
}

pub(super) struct Cluster {
    pub namenode: Arc<Namenode>,
    pub nodes: Vec<Node>,
    dir: TempDir,
    shutdown: CancellationToken,
    /// The namenode's server ends with it.
    _server: tokio::task::JoinSet<()>,
}

impl Cluster {
    pub(super) async fn start(count: usize) -> Self {
        Self::start_with(count, |_| {}).await
    }

    pub(super) async fn start_with_cluster(cluster: [u8; 16], count: usize) -> Self {
        Self::build(cluster, count, |_| {}).await
    }

    pub(super) async fn start_with(count: usize, change: impl Fn(&mut DatanodeConfig)) -> Self {
        Self::build([7; 16], count, change).await
    }

    async fn build(id: [u8; 16], count: usize, change: impl Fn(&mut DatanodeConfig)) -> Self {
        let keys = KeyRing {
            cluster: id,
            current: TokenKey {
                id: 1,
                secret: [9; 32],
            },
            previous: None,
        };
        let namenode = Arc::new(Namenode {
            keys,
            heard: Mutex::default(),
            changed: Notify::new(),
            address: Mutex::default(),
        });
        let listener = net::listen("127.0.0.1:0").await.unwrap();
        *namenode.address.lock().unwrap() = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let mut server = tokio::task::JoinSet::new();
        let serving = serve(
            listener,
            namenode.clone(),
            ServerOptions::default(),
            shutdown.clone(),
        );
        server.spawn(async move { serving.await.unwrap() });
        let dir = match std::env::var_os("CAIRN_BENCH_DIR") {
            Some(path) => tempfile::tempdir_in(path).unwrap(),
            None => tempfile::tempdir().unwrap(),
        };
        let mut cluster = Self {
            namenode,
            nodes: Vec::new(),
            dir,
            shutdown,
            _server: server,
        };
        for index in 0..count {
            let mut config = cluster.config(index);
            change(&mut config);
            let node = cluster.start_node(config).await;
            cluster.nodes.push(node);
        }
        cluster
    }

    pub(super) fn volume(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("datanode{index}"))
    }

    pub(super) fn config(&self, index: usize) -> DatanodeConfig {
        DatanodeConfig {
            namenodes: vec![self.namenode.address.lock().unwrap().clone()],
            listen: "127.0.0.1:0".to_owned(),
            volumes: vec![self.volume(index)],
            reserve: ByteSize::mib(64),
            host: format!("host{index}"),
            heartbeat_interval: Duration::from_millis(100),
            ..DatanodeConfig::default()
        }
    }

    pub(super) async fn start_node(&self, config: DatanodeConfig) -> Node {
        self.start_node_on(config, Arc::new(RealDisk)).await
    }

    pub(super) async fn start_node_on(&self, config: DatanodeConfig, disk: Arc<dyn Disk>) -> Node {
        let tasks = Tasks::new();
        let rng = StdRng::seed_from_u64(
            config.volumes[0]
                .to_string_lossy()
                .bytes()
                .map(u64::from)
                .sum(),
        );
        let datanode = Datanode::start(config.clone(), disk, &tasks, rng)
            .await
            .unwrap();
        let id = datanode.registered().await.0;
        Node {
            id,
            datanode,
            tasks,
            config,
        }
    }

    pub(super) fn token(&self, chunk: u64, kind: GrantKind) -> Vec<u8> {
        mint(
            &self.namenode.keys,
            &Grant {
                chunk: ChunkId(chunk),
                kind,
                expires_at_ms: TIME_MS + 600_000,
            },
        )
    }

    pub(super) fn expired_token(&self, chunk: u64, kind: GrantKind) -> Vec<u8> {
        mint(
            &self.namenode.keys,
            &Grant {
                chunk: ChunkId(chunk),
                kind,
                expires_at_ms: TIME_MS,
            },
        )
    }

    /// What a client sends to the first of `pipeline`.
    pub(super) fn open_write(
        &self,
        chunk: u64,
        epoch: u64,
        start: u64,
        pipeline: &[usize],
    ) -> OpenWrite {
        OpenWrite {
            chunk,
            epoch,
            start,
            capacity: 64 << 20,
            token: self.token(
                chunk,
                GrantKind::Append {
                    epoch: Epoch(epoch),
                    start,
                },
            ),
            pipeline: pipeline
                .iter()
                .map(|index| self.nodes[*index].target())
                .collect(),
            window_bytes: 4 << 20,
            cluster_id: self.namenode.keys.cluster.to_vec(),
        }
    }

    pub(super) async fn open(&self, open: OpenWrite) -> Result<WriteClient, (u64, ErrorCode)> {
        let address = open.pipeline[0].datanode.address.clone();
        WriteClient::open(&address, open).await
    }

    /// Writes `data` through a pipeline, in one clean stream.
    pub(super) async fn write(&self, chunk: u64, pipeline: &[usize], data: &[u8]) {
        let open = self.open_write(chunk, 1, 0, pipeline);
        let mut client = self.open(open).await.unwrap();
        client.send(data).await;
        client.close().await.unwrap();
    }

    pub(super) async fn connection(&self, index: usize) -> Connection {
        let hello = Hello::new("client", Some(self.namenode.keys.cluster), 0);
        let address = self.nodes[index].datanode.address();
        Connection::connect(address, hello, ConnectionOptions::default())
            .await
            .unwrap()
    }

    /// Reads a range with a token for exactly it, and verifies what comes.
    pub(super) async fn read(&self, index: usize, chunk: u64, offset: u64, len: u64) -> Vec<u8> {
        let token = self.token(chunk, GrantKind::Read { offset, len });
        let (reply, bytes) = self
            .read_with(index, chunk, offset, len as u32, token)
            .await
            .unwrap();
        verify(&reply, &bytes);
        assert_eq!((reply.offset, bytes.len() as u64), (offset, len));
        bytes.to_vec()
    }

    pub(super) async fn read_with(
        &self,
        index: usize,
        chunk: u64,
        offset: u64,
        length: u32,
        token: Vec<u8>,
    ) -> Result<(ReadReply, Bytes), ErrorCode> {
        Self::read_over(&self.connection(index).await, chunk, offset, length, token).await
    }

    pub(super) async fn read_over(
        connection: &Connection,
        chunk: u64,
        offset: u64,
        length: u32,
        token: Vec<u8>,
    ) -> Result<(ReadReply, Bytes), ErrorCode> {
        let request = ReadReplica {
            chunk,
            offset,
            length,
            token,
            sequential: false,
        };
        let reply = connection
            .call_typed(Method::ReadReplica.into(), &request, Bytes::new(), TIMEOUT)
            .await;
        reply.map_err(|error| error.code())
    }

    pub(super) async fn locate_with(
        &self,
        index: usize,
        request: LocateReplica,
    ) -> Result<LocateReply, ErrorCode> {
        let connection = self.connection(index).await;
        let method = Method::LocateReplica.into();
        let reply = connection
            .call_typed(method, &request, Bytes::new(), TIMEOUT)
            .await;
        reply.map(|(reply, _)| reply).map_err(|error| error.code())
    }

    /// Reads a whole replica in pieces of 1 MiB, several at once, and verifies them.
    pub(super) async fn read_all(&self, index: usize, chunk: u64, len: u64, at_once: u64) {
        let connection = self.connection(index).await;
        let token = self.token(chunk, GrantKind::Read { offset: 0, len });
        let lanes = (0..at_once).map(|lane| {
            let (connection, token) = (&connection, &token);
            async move {
                let mut offset = lane << 20;
                while offset < len {
                    let read = Self::read_over(connection, chunk, offset, 1 << 20, token.clone());
                    let (reply, bytes) = read.await.unwrap();
                    verify(&reply, &bytes);
                    offset += at_once << 20;
                }
            }
        });
        futures::future::join_all(lanes).await;
    }

    pub(super) async fn instruct_with(
        &self,
        index: usize,
        request: InstructRequest,
    ) -> Result<InstructReply, ErrorCode> {
        let connection = self.connection(index).await;
        let reply = connection
            .call_typed(Method::Instruct.into(), &request, Bytes::new(), TIMEOUT)
            .await;
        reply.map(|(reply, _)| reply).map_err(|error| error.code())
    }

    pub(super) fn instruction(
        &self,
        index: usize,
        term: u64,
        chunk: u64,
        incarnation: u64,
        kind: InstructionKind,
    ) -> InstructRequest {
        let datanode = self.nodes[index].id;
        let grant = GrantKind::Instruct {
            datanode: DatanodeId(datanode),
            term,
        };
        InstructRequest {
            term,
            datanode,
            token: self.token(0, grant),
            instructions: vec![Instruction {
                chunk,
                incarnation,
                kind: Some(kind),
            }],
        }
    }

    /// One instruction of the present leader; the replica afterwards, or why not.
    pub(super) async fn instruct(
        &self,
        index: usize,
        chunk: u64,
        incarnation: u64,
        kind: InstructionKind,
    ) -> Result<Option<ReplicaState>, ErrorCode> {
        let request = self.instruction(index, TERM, chunk, incarnation, kind);
        let mut reply = self.instruct_with(index, request).await?;
        let result = reply.results.remove(0);
        match result.failure {
            Some(failure) => Err(Failure::from(failure).code),
            None => Ok(result.state),
        }
    }

    pub(super) async fn seal(&self, index: usize, chunk: u64, length: u64) -> ReplicaState {
        let seal = InstructionKind::Seal(SealReplica { epoch: 1, length });
        let incarnation = incarnation(self.nodes[index].id);
        self.instruct(index, chunk, incarnation, seal)
            .await
            .unwrap()
            .unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.nodes.iter().for_each(|node| node.tasks.kill());
    }
}

/// Every CRC holds, and the blocks cover the bytes.
pub(super) fn verify(reply: &ReadReply, bytes: &[u8]) {
    let mut rest = bytes;
    for (length, crc) in reply.block_lengths.iter().zip(&reply.block_crcs) {
        let (block, after) = rest.split_at(*length as usize);
        assert_eq!(crc32c(block), *crc);
        rest = after;
    }
    assert!(rest.is_empty());
}

/// The client's end of a write stream.
pub(super) struct WriteClient {
    pub to: FrameSender,
    pub from: FrameReceiver,
    pub sequence: u64,
    pub offset: u64,
}

impl WriteClient {
    pub(super) async fn open(address: &str, open: OpenWrite) -> Result<Self, (u64, ErrorCode)> {
        let hello = Hello::new("client", None, 0);
        let stream = FramedStream::connect(address, hello, &ConnectionOptions::default())
            .await
            .unwrap();
        let (mut to, mut from) = stream.split();
        let header = open.encode_to_vec().into();
        let frame = Frame {
            method: Method::OpenWrite.into(),
            header,
            ..Frame::default()
        };
        to.send(frame).await.unwrap();
        let reply = from
            .recv()
            .await
            .unwrap()
            .expect("an answer")
            .into_reply()
            .unwrap();
        let reply: OpenWriteReply = reply.decode().unwrap();
        match ErrorCode::from_number(reply.code) {
            None => Ok(Self {
                to,
                from,
                sequence: 0,
                offset: open.start,
            }),
            Some(code) => Err((reply.failed_datanode, code)),
        }
    }

    /// The next packet, in blocks of at most 64 KiB.
    pub(super) fn packet(&mut self, data: Bytes, sync: bool, last: bool) -> Frame {
        self.sequence += 1;
        let blocks: Vec<&[u8]> = data.chunks(64 << 10).collect();
        let header = PacketHeader {
            sequence: self.sequence,
            offset_in_chunk: self.offset,
            block_lengths: blocks.iter().map(|block| block.len() as u32).collect(),
            block_crcs: blocks.iter().map(|block| crc32c(block)).collect(),
            sync,
            last,
        };
        self.offset += data.len() as u64;
        let header = header.encode_to_vec().into();
        Frame {
            method: Method::Packet.into(),
            header,
            payload: data,
            ..Frame::default()
        }
    }

    pub(super) async fn send(&mut self, data: &[u8]) {
        for piece in data.chunks(1 << 20) {
            let frame = self.packet(Bytes::copy_from_slice(piece), false, false);
            // A stream that failed is told by its acknowledgements.
            let _ = self.to.send(frame).await;
        }
    }

    /// The next acknowledgement of a stream that does not fail.
    pub(super) async fn acknowledgement(&mut self) -> u64 {
        let frame = self.from.recv().await.unwrap().expect("an acknowledgement");
        let ack = PacketAck::decode(frame.header).unwrap();
        assert_eq!(ack.code, 0, "{ack:?}");
        ack.sequence
    }

    /// Everything that was sent is acknowledged, or the failure.
    pub(super) async fn acknowledged(&mut self) -> Result<(), (u64, ErrorCode)> {
        let wait = async {
            loop {
                let frame = self.from.recv().await.unwrap().expect("an acknowledgement");
                let ack = PacketAck::decode(frame.header).unwrap();
                if let Some(code) = ErrorCode::from_number(ack.code) {
                    return Err((ack.failed_datanode, code));
                }
                assert!(ack.sequence <= self.sequence);
                if ack.sequence == self.sequence {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(TIMEOUT, wait)
            .await
            .expect("the pipeline makes progress")
    }

    /// How a stream on which nothing is sent ends.
    pub(super) async fn failure(&mut self) -> (u64, ErrorCode) {
        let frame = tokio::time::timeout(TIMEOUT, self.from.recv()).await;
        let frame = frame.expect("the stream ends").unwrap();
        let ack = PacketAck::decode(frame.expect("a last word").header).unwrap();
        (
            ack.failed_datanode,
            ErrorCode::from_number(ack.code).unwrap(),
        )
    }

    pub(super) async fn close(mut self) -> Result<(), (u64, ErrorCode)> {
        let frame = self.packet(Bytes::new(), false, true);
        let _ = self.to.send(frame).await;
        self.acknowledged().await?;
        assert!(
            self.from.recv().await.unwrap().is_none(),
            "nothing follows the last acknowledgement"
        );
        Ok(())
    }
}

/// Bytes that tell where they are.
pub(super) fn data(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}
