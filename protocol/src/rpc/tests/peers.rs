//! Connections by address, and streams.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{CLUSTER, ECHO, LONG, client_hello, server, server_at};
use crate::ErrorCode;
use crate::frame::{Flags, Frame};
use crate::rpc::{ConnectionOptions, FramedStream, Hello, Peers, ServerOptions};

#[tokio::test]
async fn peers_share_a_connection_and_dial_again_when_it_breaks() {
    let mut first = server().await;
    let peers = Peers::new(client_hello(), ConnectionOptions::default());
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let (peers, address) = (peers.clone(), first.address.clone());
        calls.spawn(async move {
            peers
                .call(&address, ECHO, &(), Bytes::new(), LONG)
                .await
                .unwrap()
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(first.service.connections.load(Ordering::SeqCst), 1);

    let lost = peers.get(&first.address).await.unwrap();
    first.task.shutdown().await;
    assert_eq!(
        lost.call(ECHO, &(), Bytes::new(), LONG)
            .await
            .unwrap_err()
            .code(),
        ErrorCode::ConnectionLost
    );
    let second = server_at(&first.address, ServerOptions::default()).await;
    peers.set_hello(Hello::new("renamed", Some(CLUSTER), 0));
    peers
        .call(&first.address, ECHO, &(), Bytes::new(), LONG)
        .await
        .unwrap();
    assert!(second.service.hellos.lock().unwrap().contains("renamed"));
}

#[tokio::test]
async fn peers_leave_an_unreachable_address_alone_for_a_moment() {
    let mut server = server().await;
    server.task.shutdown().await;
    let peers = Peers::new(client_hello(), ConnectionOptions::default());
    let first = peers.get(&server.address).await.unwrap_err();
    assert_eq!(first.code, ErrorCode::Unavailable);
    assert_eq!(peers.get(&server.address).await.unwrap_err(), first);
    let _again = server_at(&server.address, ServerOptions::default()).await;
    while let Err(failure) = peers.get(&server.address).await {
        assert_eq!(failure, first);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stream_carries_frames_both_ways_and_ends() {
    let server = server().await;
    let stream = FramedStream::connect(
        &server.address,
        client_hello(),
        &ConnectionOptions::default(),
    )
    .await
    .unwrap();
    assert_eq!(stream.peer().version, 1);
    let (mut sender, mut receiver) = stream.split();
    let frames: Vec<Frame> = (0..40)
        .map(|index| Frame {
            method: 7,
            flags: if index == 39 {
                Flags::LAST
            } else {
                Flags::NONE
            },
            request_id: index,
            header: vec![index as u8; 100].into(),
            payload: vec![index as u8; index as usize * 20_000].into(),
        })
        .collect();
    let sending = async {
        sender.send_all(frames.clone()).await.unwrap();
        sender.finish().await.unwrap();
    };
    let receiving = async {
        let mut received = Vec::new();
        while let Some(frame) = receiver.recv().await.unwrap() {
            received.push(frame);
        }
        received
    };
    let ((), received) = tokio::join!(sending, receiving);
    assert!(received == frames, "every frame comes back as it was");
}
