//! Write pipelines: bytes reach every replica, failures are named, old writers are fenced.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::harness::{Cluster, WriteClient, data};
use cairn_protocol::frame::{Flags, Frame};
use cairn_protocol::ids::{ChunkId, Epoch};
use cairn_protocol::messages::transfer::OpenWriteReply;
use cairn_protocol::net;
use cairn_protocol::rpc::{
    FramedStream, Hello, Peer, Reply, Request, RpcError, ServerOptions, Service, serve,
};
use cairn_protocol::token::GrantKind;
use cairn_protocol::{ErrorCode, Failure};

#[tokio::test]
async fn what_a_pipeline_acknowledged_is_read_from_every_replica() {
    let cluster = Cluster::start(3).await;
    let written = data((3 << 20) + 12_345, 1);
    cluster.write(1, &[0, 1, 2], &written).await;
    for index in 0..3 {
        for offset in [0, 1 << 20, 2 << 20] {
            let len = 1 << 20;
            let expected = &written[offset as usize..(offset + len) as usize];
            assert!(cluster.read(index, 1, offset, len).await == expected);
        }
        assert!(cluster.read(index, 1, 3 << 20, 12_345).await == written[3 << 20..]);
    }
}

#[tokio::test]
async fn small_packets_are_acknowledged_as_they_come_and_the_chunk_is_handed_on() {
    let cluster = Cluster::start(2).await;
    let written = data(100_000, 2);
    let mut client = cluster
        .open(cluster.open_write(1, 1, 0, &[0, 1]))
        .await
        .unwrap();
    for piece in written[..50_000].chunks(777) {
        let frame = client.packet(Bytes::copy_from_slice(piece), false, false);
        client.to.send(frame).await.unwrap();
    }
    client.acknowledged().await.unwrap();
    client.close().await.unwrap();
    let mut next = cluster
        .open(cluster.open_write(1, 2, 50_000, &[0, 1]))
        .await
        .unwrap();
    next.send(&written[50_000..]).await;
    next.close().await.unwrap();
    for index in 0..2 {
        assert!(cluster.read(index, 1, 0, 777).await == written[..777]);
        assert!(cluster.read(index, 1, 50_000, 50_000).await == written[50_000..]);
    }
}

#[tokio::test]
async fn a_sync_packet_makes_everything_before_it_durable_everywhere() {
    let cluster = Cluster::start(2).await;
    let mut client = cluster
        .open(cluster.open_write(1, 1, 0, &[0, 1]))
        .await
        .unwrap();
    client.send(&data(70_000, 3)).await;
    let barrier = client.packet(Bytes::new(), true, false);
    client.to.send(barrier).await.unwrap();
    client.acknowledged().await.unwrap();
    for node in &cluster.nodes {
        assert_eq!(
            node.datanode
                .store()
                .find(ChunkId(1))
                .unwrap()
                .synced_length,
            70_000
        );
    }
}

#[tokio::test]
async fn a_datanode_that_dies_in_the_middle_is_named() {
    let cluster = Cluster::start(3).await;
    let mut client = cluster
        .open(cluster.open_write(1, 1, 0, &[0, 1, 2]))
        .await
        .unwrap();
    client.send(&data(1 << 20, 4)).await;
    client.acknowledged().await.unwrap();
    cluster.nodes[1].tasks.kill();
    let failed = loop {
        client.send(b"more").await;
        match client.acknowledged().await {
            Ok(()) => continue,
            Err((datanode, _)) => break datanode,
        }
    };
    assert_eq!(failed, cluster.nodes[1].id);
    // Acknowledged bytes stay where somebody survived.
    assert!(cluster.read(2, 1, 0, 1 << 20).await == data(1 << 20, 4));
    let refused = cluster
        .open(cluster.open_write(2, 1, 0, &[0, 1, 2]))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.0, cluster.nodes[1].id);
}

#[tokio::test]
async fn a_newer_epoch_fences_the_writer_before() {
    let cluster = Cluster::start(1).await;
    let mut old = cluster
        .open(cluster.open_write(1, 1, 0, &[0]))
        .await
        .unwrap();
    old.send(b"first").await;
    old.acknowledged().await.unwrap();
    let new = cluster
        .open(cluster.open_write(1, 2, 5, &[0]))
        .await
        .unwrap();
    old.send(b"late").await;
    let late = old.acknowledged().await.unwrap_err();
    assert_eq!(late, (cluster.nodes[0].id, ErrorCode::StaleEpoch));
    new.close().await.unwrap();
    let refused = |open| async { cluster.open(open).await.err().unwrap().1 };
    assert_eq!(
        refused(cluster.open_write(1, 1, 5, &[0])).await,
        ErrorCode::StaleEpoch
    );
    assert_eq!(
        refused(cluster.open_write(1, 3, 4, &[0])).await,
        ErrorCode::WrongLength
    );
    assert!(cluster.read(0, 1, 0, 5).await == b"first");
}

#[tokio::test]
async fn a_stream_without_the_right_token_is_refused_and_leaves_nothing() {
    let cluster = Cluster::start(1).await;
    let append = |epoch, start| GrantKind::Append {
        epoch: Epoch(epoch),
        start,
    };
    let mut forged = cluster.token(1, append(1, 0));
    forged[60] ^= 1;
    let tokens = [
        forged,
        Vec::new(),
        cluster.expired_token(1, append(1, 0)),
        cluster.token(2, append(1, 0)),
        cluster.token(1, append(2, 0)),
        cluster.token(1, append(1, 10)),
        cluster.token(1, GrantKind::Read { offset: 1, len: 0 }),
    ];
    for token in tokens {
        let mut open = cluster.open_write(1, 1, 0, &[0]);
        open.token = token;
        assert_eq!(
            cluster.open(open).await.err().unwrap().1,
            ErrorCode::BadToken
        );
    }
    let mut foreign = cluster.open_write(1, 1, 0, &[0]);
    foreign.cluster_id = vec![8; 16];
    assert_eq!(
        cluster.open(foreign).await.err().unwrap().1,
        ErrorCode::WrongCluster
    );
    let mut misdirected = cluster.open_write(1, 1, 0, &[0]);
    misdirected.pipeline[0].datanode.datanode = 77;
    assert_eq!(
        cluster.open(misdirected).await.err().unwrap().1,
        ErrorCode::InvalidArgument
    );
    let twice = cluster.open_write(1, 1, 0, &[0, 0]);
    assert_eq!(
        cluster.open(twice).await.err().unwrap().1,
        ErrorCode::InvalidArgument
    );
    assert!(cluster.nodes[0].datanode.store().find(ChunkId(1)).is_none());
}

#[tokio::test]
async fn packets_that_break_the_rules_end_the_stream_and_change_nothing() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster
        .open(cluster.open_write(1, 1, 0, &[0]))
        .await
        .unwrap();
    client.send(b"good").await;
    client.acknowledged().await.unwrap();
    let mut bad = client.packet(Bytes::from_static(b"payload"), false, false);
    bad.payload = Bytes::from_static(b"paXload");
    client.to.send(bad).await.unwrap();
    let failure = client.acknowledged().await.unwrap_err();
    assert_eq!(failure, (cluster.nodes[0].id, ErrorCode::ChecksumMismatch));
    let mut client = cluster
        .open(cluster.open_write(1, 2, 4, &[0]))
        .await
        .unwrap();
    client.offset += 1;
    client.send(b"gap").await;
    assert_eq!(
        client.acknowledged().await.unwrap_err().1,
        ErrorCode::Malformed
    );
    assert_eq!(
        cluster.nodes[0]
            .datanode
            .store()
            .find(ChunkId(1))
            .unwrap()
            .length,
        4
    );
}

#[tokio::test]
async fn a_packet_larger_than_the_window_is_refused() {
    let cluster = Cluster::start(1).await;
    let mut open = cluster.open_write(1, 1, 0, &[0]);
    open.window_bytes = 1000;
    let mut client = cluster.open(open).await.unwrap();
    client.send(&data(1000, 1)).await;
    client.acknowledged().await.unwrap();
    client.send(&data(1001, 2)).await;
    let failure = client.acknowledged().await.unwrap_err();
    assert_eq!(failure, (cluster.nodes[0].id, ErrorCode::InvalidArgument));
}

#[tokio::test]
async fn pipelines_that_cross_with_full_windows_make_progress() {
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    // Exactly room for the six windows of 4 MiB.
    let memory = cairn_daemon::config::ByteSize::mib(24);
    let cluster = Cluster::start_with(3, |config| config.write_memory = memory).await;
    let written = data(6 << 20, 5);
    let mut clients: Vec<WriteClient> = Vec::new();
    for (index, order) in orders.iter().enumerate() {
        let open = cluster.open_write(1 + index as u64, 1, 0, order);
        clients.push(cluster.open(open).await.unwrap());
    }
    let refused = cluster
        .open(cluster.open_write(99, 1, 0, &[0, 1, 2]))
        .await
        .err()
        .unwrap();
    assert_eq!(refused, (cluster.nodes[0].id, ErrorCode::Overloaded));
    // All send everything before anybody reads an acknowledgement.
    let writing = clients.into_iter().map(|mut client| {
        let written = &written;
        async move {
            client.send(written).await;
            client.close().await.unwrap();
        }
    });
    futures::future::join_all(writing).await;
    for chunk in 1..=6 {
        assert!(cluster.read(2, chunk, 5 << 20, 1 << 20).await == written[5 << 20..]);
    }
    // What the streams held is free again.
    cluster.write(99, &[0, 1, 2], b"room").await;
}

/// The second datanode of a pipeline, which opens when the test says so.
struct SlowDatanode {
    opens: Semaphore,
}

impl Service for SlowDatanode {
    fn hello(&self, _: &Hello) -> Result<Hello, Failure> {
        Ok(Hello::new("datanode", None, 99))
    }

    async fn call(&self, _: &Peer, _: Request) -> Result<Reply, RpcError> {
        Err(RpcError::new(ErrorCode::NotSupported, "only streams"))
    }

    async fn stream(&self, _: &Peer, stream: FramedStream) {
        let (mut to, mut from) = stream.split();
        let question = from.recv().await.unwrap().unwrap();
        self.opens.acquire().await.unwrap().forget();
        let reply = Frame {
            method: question.method,
            flags: Flags::REPLY,
            request_id: question.request_id,
            header: OpenWriteReply::default().encode_to_vec().into(),
            ..Frame::default()
        };
        to.send(reply).await.unwrap();
        while let Ok(Some(_)) = from.recv().await {}
    }
}

#[tokio::test]
async fn a_seal_while_the_pipeline_is_being_opened_ends_the_stream() {
    let cluster = Cluster::start(1).await;
    let listener = net::listen("127.0.0.1:0").await.unwrap();
    let slow = Arc::new(SlowDatanode {
        opens: Semaphore::new(0),
    });
    let mut open = cluster.open_write(1, 1, 0, &[0]);
    let mut behind = open.pipeline[0].clone();
    behind.datanode.datanode = 99;
    behind.datanode.address = listener.local_addr().unwrap().to_string();
    open.pipeline.push(behind);
    let (stop, options) = (CancellationToken::new(), ServerOptions::default());
    let mut server = JoinSet::new();
    server.spawn(serve(listener, Arc::clone(&slow), options, stop));
    let sealing = async {
        let store = cluster.nodes[0].datanode.store();
        while store.find(ChunkId(1)).is_none() {
            tokio::task::yield_now().await;
        }
        assert!(cluster.seal(0, 1, 0).await.sealed);
        slow.opens.add_permits(1);
    };
    let (client, ()) = tokio::join!(cluster.open(open), sealing);
    // It sends nothing: that it is over has to reach it all the same.
    let failure = client.unwrap().failure().await;
    assert_eq!(failure, (cluster.nodes[0].id, ErrorCode::StaleEpoch));
}
