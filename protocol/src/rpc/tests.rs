//! Both ends over real loopback sockets, and the ways in which an end can misbehave. Here: the service and the raw client that the tests share.

mod calls;
mod misuse;
mod peers;
mod tls;

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
    Connection, ConnectionOptions, FramedStream, Hello, Peer, Reply, Request, RpcError,
    ServerOptions, Service, serve,
};
use crate::frame::{Flags, Frame, FrameReader, FrameWriter};
use crate::limits::{BUFFER_BYTES, PAYLOAD_BYTES_MAX};
use crate::method::Method;
use crate::net::{self, OwnedReadHalf, OwnedWriteHalf, Proof};
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

/// Shows that the caller may ask.
const PROVE: u16 = 108;

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

    fn admit(&self, theirs: &Hello, _proof: Proof) -> Result<(), Failure> {
        match &theirs.token[..] {
            b"bad" => Err(Failure::new(ErrorCode::Unauthenticated, "not genuine")),
            _ => Ok(()),
        }
    }

    async fn call(&self, peer: &Peer, request: Request) -> Result<Reply, RpcError> {
        match request.method {
            PROVE => {
                peer.standing.prove();
                Ok(Reply::default())
            }
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
