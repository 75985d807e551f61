//! Limits, and the other end as a nuisance: too large, too many, too slow, replayed, or not of our kind.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{
    BULK, CLUSTER, ECHO, LONG, OVERSIZE, RELEASE, Raw, WAIT, client_hello, connect, echo, server,
    server_at,
};
use crate::frame::{Flags, Frame, FrameReader};
use crate::limits::{BUFFER_BYTES, PAYLOAD_BYTES_MAX};
use crate::rpc::{Connection, ConnectionOptions, Hello, RpcError, ServerOptions};
use crate::{ErrorCode, net};

#[tokio::test]
async fn oversized_requests_and_replies_are_refused_without_harm() {
    let server = server().await;
    let connection = connect(&server).await;
    let payload = Bytes::from(vec![0; PAYLOAD_BYTES_MAX + 1]);
    let error = connection.call(ECHO, &(), payload, LONG).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge);
    let error = connection
        .call(OVERSIZE, &(), Bytes::new(), LONG)
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge);
    assert_eq!(echo(&connection, "on").await.unwrap(), "on");
}

#[tokio::test]
async fn limits_hold_back_and_lose_nothing() {
    let options = ServerOptions {
        in_flight_max: 2,
        ..ServerOptions::default()
    };
    let server = server_at("127.0.0.1:0", options).await;
    let options = ConnectionOptions {
        in_flight_max: 7,
        ..ConnectionOptions::default()
    };
    let connection = Connection::connect(&server.address, client_hello(), options)
        .await
        .unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let connection = connection.clone();
        calls.spawn(async move {
            connection
                .call(WAIT, &(), Bytes::new(), LONG)
                .await
                .unwrap()
        });
    }
    server.service.permits.add_permits(20);
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(server.service.released.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_does_not_stop_its_running_requests() {
    let server = server().await;
    let mut raw = Raw::open(&server).await;
    raw.send(WAIT, 1).await;
    server.service.waiting.notified().await;
    for request_id in 2..34 {
        raw.send(BULK, request_id).await;
    }
    let connection = connect(&server).await;
    connection
        .call(RELEASE, &(), Bytes::new(), LONG)
        .await
        .unwrap();
    server.service.waiting.notified().await;
    assert_eq!(server.service.released.load(Ordering::SeqCst), 1);
    let mut replies = BTreeSet::new();
    while replies.len() < 33 {
        let frame = raw.reader.next().await.unwrap().unwrap();
        assert_eq!(
            frame.payload.len(),
            if frame.method == BULK {
                BUFFER_BYTES
            } else {
                0
            }
        );
        replies.insert(frame.request_id);
    }
}

#[tokio::test]
async fn a_replayed_frame_ends_the_connection() {
    let server = server().await;
    let mut raw = Raw::open(&server).await;
    raw.send(ECHO, 5).await;
    assert_eq!(raw.reader.next().await.unwrap().unwrap().request_id, 5);
    raw.send(ECHO, 5).await;
    let refusal = raw.refusal().await;
    assert_eq!(
        refusal,
        RpcError::new(ErrorCode::Malformed, "request id 5 after 5: ids must grow")
    );
}

#[tokio::test]
async fn nonsense_ends_the_connection_with_an_explanation() {
    let server = server().await;
    // Not a hello.
    let mut raw = Raw::connect(&server).await;
    raw.send(ECHO, 1).await;
    assert_eq!(raw.refusal().await.code(), ErrorCode::Malformed);
    // A reply where a request belongs.
    let mut raw = Raw::open(&server).await;
    raw.writer
        .queue()
        .push(Frame {
            flags: Flags::REPLY,
            request_id: 1,
            ..Frame::default()
        })
        .unwrap();
    raw.writer.flush().await.unwrap();
    assert_eq!(raw.refusal().await.code(), ErrorCode::Malformed);
    // A hello with a payload, more than anybody needs to say.
    let mut raw = Raw::connect(&server).await;
    raw.writer
        .queue()
        .push(Frame {
            method: 1,
            payload: vec![0; 100].into(),
            ..Frame::default()
        })
        .unwrap();
    raw.writer.flush().await.unwrap();
    assert_eq!(raw.refusal().await.code(), ErrorCode::TooLarge);
    // Another protocol altogether.
    let (read, mut write) = net::connect(&server.address).await.unwrap().into_split();
    let request = b"GET / HTTP/1.1\r\nHost: here\r\nAccept: everything\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut write, request)
        .await
        .unwrap();
    let mut reader = FrameReader::new(read);
    let refusal = reader
        .next()
        .await
        .unwrap()
        .unwrap()
        .into_reply()
        .unwrap_err();
    assert_eq!(
        refusal,
        RpcError::new(ErrorCode::Malformed, "not a frame: it starts with 0x4745")
    );
}

#[tokio::test]
async fn strangers_are_told_why_they_may_not_enter() {
    let server = server().await;
    let connect = |hello| Connection::connect(&server.address, hello, ConnectionOptions::default());
    let failure = connect(Hello::new("datanode", Some([1; 16]), 1))
        .await
        .unwrap_err();
    assert_eq!(failure.code, ErrorCode::WrongCluster);
    assert!(failure.message.contains("0101010101"), "{failure}");
    let newer = Hello {
        version_min: 90,
        version_max: 99,
        ..client_hello()
    };
    assert_eq!(
        connect(newer).await.unwrap_err().code,
        ErrorCode::VersionMismatch
    );
    let broken = Hello {
        cluster: vec![1; 3].into(),
        ..client_hello()
    };
    assert_eq!(
        connect(broken).await.unwrap_err().code,
        ErrorCode::Malformed
    );
    let unaware = connect(Hello::new("datanode", None, 0)).await.unwrap();
    assert_eq!(unaware.peer().hello.cluster().unwrap(), Some(CLUSTER));
    let (_, answer) = Raw::greet(
        &server,
        Hello {
            kind: 7,
            ..client_hello()
        },
    )
    .await;
    assert_eq!(
        answer.into_reply().unwrap_err().code(),
        ErrorCode::Malformed
    );
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let options = ServerOptions {
        connections_max: 1,
        ..ServerOptions::default()
    };
    let server = server_at("127.0.0.1:0", options).await;
    let first = connect(&server).await;
    let options = ConnectionOptions::default();
    let failure = Connection::connect(&server.address, client_hello(), options)
        .await
        .unwrap_err();
    assert_eq!(failure.code, ErrorCode::Overloaded);
    assert_eq!(echo(&first, "first").await.unwrap(), "first");
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let options = ServerOptions {
        idle_timeout: Duration::from_millis(20),
        ..ServerOptions::default()
    };
    let server = server_at("127.0.0.1:0", options).await;
    let busy = connect(&server).await;
    let mut idle = Raw::open(&server).await;
    let waiting = busy.call(WAIT, &(), Bytes::new(), LONG);
    let releasing = async {
        assert!(idle.reader.next().await.unwrap().is_none());
        server.service.permits.add_permits(1);
    };
    tokio::join!(waiting, releasing).0.unwrap();
}

#[tokio::test]
async fn a_peer_that_never_reads_loses_its_connection() {
    let options = ServerOptions {
        connections_max: 1,
        write_timeout: Duration::from_millis(20),
        ..ServerOptions::default()
    };
    let server = server_at("127.0.0.1:0", options).await;
    let mut stuck = Raw::open(&server).await;
    for request_id in 1..33 {
        stuck.send(BULK, request_id).await;
    }
    // The only place is free again once the stuck connection is gone.
    let options = ConnectionOptions::default;
    while let Err(failure) = Connection::connect(&server.address, client_hello(), options()).await {
        assert_eq!(failure.code, ErrorCode::Overloaded);
    }
}

#[tokio::test]
async fn requests_beyond_the_bytes_in_flight_wait_their_turn() {
    let options = ServerOptions {
        in_flight_bytes_max: 150_000,
        ..ServerOptions::default()
    };
    let server = server_at("127.0.0.1:0", options).await;
    let connection = connect(&server).await;
    let mut calls = JoinSet::new();
    for _ in 0..6 {
        let connection = connection.clone();
        let payload = Bytes::from(vec![0; 100_000]);
        calls.spawn(async move { connection.call(WAIT, &(), payload, LONG).await.unwrap() });
    }
    server.service.permits.add_permits(6);
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(server.service.released.load(Ordering::SeqCst), 6);
}
