//! Calls that overlap, fail, time out, break, and are cut off by a shutdown.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{
    BLOCK, ECHO, FAIL, LONG, NEVER, RELEASE, Text, WAIT, client_hello, connect, echo, server, text,
};
use crate::ErrorCode;
use crate::rpc::{Connection, ConnectionOptions, RpcError};

#[tokio::test]
async fn many_calls_share_a_connection() {
    let server = server().await;
    let connection = connect(&server).await;
    assert_eq!(connection.peer().hello.node, 3);
    let mut calls = JoinSet::new();
    for index in 0..500 {
        let connection = connection.clone();
        calls.spawn(async move {
            let word = format!("word {index}");
            let payload = Bytes::from(vec![index as u8; index * 100]);
            let (reply, echoed): (Text, _) = connection
                .call_typed(ECHO, &text(&word), payload.clone(), LONG)
                .await
                .unwrap();
            assert_eq!((reply.text, echoed), (word, payload));
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(server.service.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn replies_overtake_a_request_that_waits() {
    let server = server().await;
    let connection = connect(&server).await;
    let waiting = connection.call(WAIT, &(), Bytes::new(), LONG);
    let releasing = async {
        assert_eq!(echo(&connection, "meanwhile").await.unwrap(), "meanwhile");
        connection
            .call(RELEASE, &(), Bytes::new(), LONG)
            .await
            .unwrap();
    };
    let (waited, ()) = tokio::join!(waiting, releasing);
    assert_eq!(waited.unwrap().decode::<Text>().unwrap().text, "released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_heavy_request_does_not_stop_its_connection() {
    let server = server().await;
    let connection = connect(&server).await;
    let blocking = connection.call(BLOCK, &(), Bytes::new(), LONG);
    let unblocking = async {
        server.service.waiting.notified().await;
        echo(&connection, "unblocks").await.unwrap();
    };
    let (blocked, ()) = tokio::join!(blocking, unblocking);
    assert_eq!(blocked.unwrap().decode::<Text>().unwrap().text, "unblocked");
}

#[tokio::test]
async fn errors_come_back_with_their_hint() {
    let server = server().await;
    let connection = connect(&server).await;
    let error = connection
        .call(FAIL, &(), Bytes::new(), LONG)
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotLeader);
    assert_eq!(error.leader_hint.as_deref(), Some("elsewhere:1"));
    let error = connection
        .call(999, &(), Bytes::new(), LONG)
        .await
        .unwrap_err();
    assert_eq!(error, RpcError::new(ErrorCode::NotSupported, "method 999"));
    assert_eq!(echo(&connection, "still here").await.unwrap(), "still here");
}

#[tokio::test]
async fn a_call_times_out_and_the_connection_goes_on() {
    let server = server().await;
    let connection = connect(&server).await;
    let error = connection
        .call(NEVER, &(), Bytes::new(), Duration::from_millis(5))
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::TimedOut);
    assert!(error.failure.message.contains(&server.address));
    assert!(!connection.is_closed());
    assert_eq!(echo(&connection, "on").await.unwrap(), "on");
}

#[tokio::test]
async fn a_silent_connection_is_given_up_after_a_timeout() {
    let server = server().await;
    let options = ConnectionOptions {
        silence_max: Duration::ZERO,
        ..ConnectionOptions::default()
    };
    let connection = Connection::connect(&server.address, client_hello(), options)
        .await
        .unwrap();
    let short = Duration::from_millis(5);
    let (other, timed_out) = tokio::join!(
        connection.call(NEVER, &(), Bytes::new(), LONG),
        connection.call(NEVER, &(), Bytes::new(), short),
    );
    assert_eq!(timed_out.unwrap_err().code(), ErrorCode::TimedOut);
    assert_eq!(other.unwrap_err().code(), ErrorCode::ConnectionLost);
    assert!(connection.is_closed());
}

#[tokio::test]
async fn the_reply_to_a_dropped_call_disturbs_nobody() {
    let server = server().await;
    let connection = connect(&server).await;
    {
        let call = connection.call(WAIT, &(), Bytes::new(), LONG);
        tokio::select! {
            _ = call => panic!("nobody released it"),
            () = server.service.waiting.notified() => {}
        }
    }
    connection
        .call(RELEASE, &(), Bytes::new(), LONG)
        .await
        .unwrap();
    server.service.waiting.notified().await;
    assert_eq!(echo(&connection, "on").await.unwrap(), "on");
}

#[tokio::test]
async fn a_broken_connection_fails_every_call_in_flight() {
    let mut server = server().await;
    let connection = connect(&server).await;
    let breaking = async {
        server.service.waiting.notified().await;
        server.task.shutdown().await;
    };
    let (first, second, ()) = tokio::join!(
        connection.call(NEVER, &(), Bytes::new(), LONG),
        connection.call(WAIT, &(), Bytes::new(), LONG),
        breaking,
    );
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert_eq!(error.code(), ErrorCode::ConnectionLost);
        assert!(error.failure.message.contains(&server.address));
    }
    assert!(connection.is_closed());
    assert_eq!(
        echo(&connection, "late").await.unwrap_err().code(),
        ErrorCode::ConnectionLost
    );
}

#[tokio::test]
async fn a_started_request_finishes_after_its_caller_has_gone() {
    let server = server().await;
    let connection = connect(&server).await;
    {
        let call = connection.call(WAIT, &(), Bytes::new(), LONG);
        tokio::select! {
            _ = call => panic!("nobody released it"),
            () = server.service.waiting.notified() => {}
        }
    }
    drop(connection);
    server.service.permits.add_permits(1);
    server.service.waiting.notified().await;
    assert_eq!(server.service.released.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn shutdown_answers_what_runs_and_takes_nothing_new() {
    let mut server = server().await;
    let connection = connect(&server).await;
    let stopping = async {
        server.service.waiting.notified().await;
        server.shutdown.cancel();
        server.service.permits.add_permits(1);
    };
    let (waited, ()) = tokio::join!(connection.call(WAIT, &(), Bytes::new(), LONG), stopping);
    assert_eq!(waited.unwrap().decode::<Text>().unwrap().text, "released");
    server.task.join_next().await.unwrap().unwrap();
    assert_eq!(
        echo(&connection, "late").await.unwrap_err().code(),
        ErrorCode::ConnectionLost
    );
}
