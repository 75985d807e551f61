//! Both ends over real loopback sockets, and the ways in which an end can misbehave.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Connection, ConnectionOptions, FramedStream, Hello, Peer, Peers, Reply, Request, RpcError,
    ServerOptions, Service, serve,
};
use crate::frame::{Flags, Frame, FrameReader, FrameWriter};
use crate::limits::{BUFFER_BYTES, PAYLOAD_BYTES_MAX};
use crate::method::Method;
use crate::net::{self, OwnedReadHalf, OwnedWriteHalf};
use crate::{ErrorCode, Failure};

const ECHO: u16 = 100;
const FAIL: u16 = 101;
const NEVER: u16 = 102;
/// Waits for a `RELEASE`.
const WAIT: u16 = 103;
const RELEASE: u16 = 104;
const OVERSIZE: u16 = 105;
/// Blocks its thread until an `ECHO` was answered.
const BLOCK: u16 = 106;
/// A large reply.
const BULK: u16 = 107;

const LONG: Duration = Duration::from_secs(60);
const CLUSTER: [u8; 16] = [9; 16];

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn text(text: &str) -> Text {
    Text {
        text: text.to_owned(),
    }
}

struct Fixture {
    cluster: [u8; 16],
    permits: Semaphore,
    echoes: std::sync::mpsc::SyncSender<()>,
    echoed: Mutex<std::sync::mpsc::Receiver<()>>,
    waiting: Notify,
    released: AtomicUsize,
    hellos: Mutex<BTreeSet<String>>,
    connections: AtomicUsize,
}

impl Service for Fixture {
    fn hello(&self, theirs: &Hello) -> Result<Hello, Failure> {
        self.hellos.lock().unwrap().insert(theirs.role.clone());
        self.connections.fetch_add(1, Ordering::SeqCst);
        Ok(Hello::new("server", Some(self.cluster), 3))
    }

    async fn call(&self, _peer: &Peer, request: Request) -> Result<Reply, RpcError> {
        match request.method {
            ECHO => {
                let _ = self.echoes.try_send(());
                Ok(Reply {
                    header: request.header,
                    payload: request.payload,
                })
            }
            FAIL => Err(RpcError::not_leader(Some("elsewhere:1".to_owned()))),
            NEVER => pending().await,
            WAIT => {
                self.waiting.notify_one();
                self.permits.acquire().await.expect("never closed").forget();
                self.released.fetch_add(1, Ordering::SeqCst);
                self.waiting.notify_one();
                Ok(Reply::new(&text("released")))
            }
            RELEASE => {
                self.permits.add_permits(1);
                Ok(Reply::default())
            }
            OVERSIZE => Ok(Reply::default().with_payload(vec![0; PAYLOAD_BYTES_MAX + 1].into())),
            BLOCK => {
                self.waiting.notify_one();
                self.echoed.lock().unwrap().recv().unwrap();
                Ok(Reply::new(&text("unblocked")))
            }
            BULK => Ok(Reply::default().with_payload(vec![1; BUFFER_BYTES].into())),
            other => Err(RpcError::new(
                ErrorCode::NotSupported,
                format!("method {other}"),
            )),
        }
    }

    async fn stream(&self, _peer: &Peer, stream: FramedStream) {
        let (mut sender, mut receiver) = stream.split();
        while let Ok(Some(frame)) = receiver.recv().await {
            if sender.send(frame).await.is_err() {
                return;
            }
        }
    }

    fn is_heavy(&self, method: u16) -> bool {
        method == BLOCK
    }
}

/// A running server; ends with the test.
struct Server {
    address: String,
    service: Arc<Fixture>,
    shutdown: CancellationToken,
    task: JoinSet<()>,
}

async fn server_at(address: &str, options: ServerOptions) -> Server {
    let listener = net::listen(address).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (echoes, echoed) = std::sync::mpsc::sync_channel(1);
    let service = Arc::new(Fixture {
        cluster: CLUSTER,
        permits: Semaphore::new(0),
        echoes,
        echoed: Mutex::new(echoed),
        waiting: Notify::new(),
        released: AtomicUsize::new(0),
        hellos: Mutex::default(),
        connections: AtomicUsize::new(0),
    });
    let shutdown = CancellationToken::new();
    let mut task = JoinSet::new();
    let serving = serve(listener, service.clone(), options, shutdown.clone());
    task.spawn(async { serving.await.unwrap() });
    Server {
        address,
        service,
        shutdown,
        task,
    }
}

async fn server() -> Server {
    server_at("127.0.0.1:0", ServerOptions::default()).await
}

fn client_hello() -> Hello {
    Hello::new("client", Some(CLUSTER), 0)
}

async fn connect(server: &Server) -> Connection {
    Connection::connect(
        &server.address,
        client_hello(),
        ConnectionOptions::default(),
    )
    .await
    .unwrap()
}

async fn echo(connection: &Connection, word: &str) -> Result<String, RpcError> {
    let (reply, _): (Text, _) = connection
        .call_typed(ECHO, &text(word), Bytes::new(), LONG)
        .await?;
    Ok(reply.text)
}

/// A client that writes what it likes.
struct Raw {
    reader: FrameReader<OwnedReadHalf>,
    writer: FrameWriter<OwnedWriteHalf>,
}

impl Raw {
    async fn connect(server: &Server) -> Self {
        let (read, write) = net::connect(&server.address).await.unwrap().into_split();
        Self {
            reader: FrameReader::new(read),
            writer: FrameWriter::new(write),
        }
    }

    async fn greet(server: &Server, hello: Hello) -> (Self, Frame) {
        let mut raw = Self::connect(server).await;
        raw.writer
            .queue()
            .push_message(Method::Hello as u16, Flags::NONE, 0, &hello, Bytes::new())
            .unwrap();
        raw.writer.flush().await.unwrap();
        let answer = raw.reader.next().await.unwrap().unwrap();
        (raw, answer)
    }

    async fn open(server: &Server) -> Self {
        let hello = client_hello().with_kind(super::ConnectionKind::Calls);
        let (raw, answer) = Self::greet(server, hello).await;
        assert_eq!(answer.flags, Flags::REPLY);
        raw
    }

    async fn send(&mut self, method: u16, request_id: u64) {
        self.writer
            .queue()
            .push(Frame {
                method,
                request_id,
                ..Frame::default()
            })
            .unwrap();
        self.writer.flush().await.unwrap();
    }

    /// The server's last words; asserts that it hung up after them.
    async fn refusal(mut self) -> RpcError {
        let refusal = self.reader.next().await.unwrap().unwrap();
        assert_eq!(refusal.request_id, 0);
        assert!(self.reader.next().await.unwrap().is_none());
        refusal.into_reply().unwrap_err()
    }
}

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
    assert!(failure.message.contains("01010101-0101"), "{failure}");
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
    let stream = FramedStream::connect(&server.address, client_hello(), LONG)
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
