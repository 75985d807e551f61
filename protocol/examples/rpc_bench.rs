//! What calls and streams cost over loopback, with client and server in processes of their own.
//!
//! `cargo run --release -p cairn-protocol --example rpc_bench [seconds]` starts its own server and prints small calls per
//! second, 1, 64 and 256 in flight, and the rate of a 1 GiB stream of 1 MiB frames, each with the CPU time of both processes.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::buffer;
use cairn_protocol::frame::{Flags, Frame};
use cairn_protocol::limits::BUFFER_BYTES;
use cairn_protocol::rpc::{
    Connection, ConnectionOptions, FramedStream, Hello, Peer, Reply, Request, RpcError,
    ServerOptions, Service, serve,
};
use cairn_protocol::{Failure, net};
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Answered when first polled.
const READY: u16 = 20;
/// Answered when polled again, as a request that waits for a commit would be.
const DEFERRED: u16 = 21;

const STREAM_BYTES: usize = 1 << 30;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A look-up as a namenode sees it: about 80 bytes asked, 120 answered.
#[derive(Clone, PartialEq, prost::Message)]
struct Lookup {
    #[prost(uint64, tag = "1")]
    inode: u64,
    #[prost(bytes = "vec", tag = "2")]
    text: Vec<u8>,
}

struct Echo;

impl Service for Echo {
    fn hello(&self, _theirs: &Hello) -> Result<Hello, Failure> {
        Ok(Hello::new("server", None, 1))
    }

    async fn call(&self, _peer: &Peer, request: Request) -> Result<Reply, RpcError> {
        let lookup: Lookup = request.decode()?;
        if request.method == DEFERRED {
            yield_now().await;
        }
        Ok(Reply::new(&Lookup {
            inode: lookup.inode + 1,
            text: vec![b'r'; 110],
        }))
    }

    async fn stream(&self, _peer: &Peer, stream: FramedStream) {
        let (mut sender, mut receiver) = stream.split();
        let mut received = 0;
        while let Ok(Some(frame)) = receiver.recv().await {
            received += frame.payload.len();
            if frame.flags.contains(Flags::LAST) {
                let reply = Frame {
                    flags: Flags::REPLY,
                    request_id: received as u64,
                    ..Frame::default()
                };
                if sender.send(reply).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn main() -> Result<(), AnyError> {
    let workers = env::var("BENCH_WORKERS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    let argument = env::args().nth(1);
    if argument.as_deref() == Some("server") {
        return runtime.block_on(server());
    }
    let seconds = argument.map_or(Ok(3), |argument| argument.parse())?;
    let mut child = Command::new(env::current_exe()?)
        .arg("server")
        .stdout(Stdio::piped())
        .spawn()?;
    let result = runtime.block_on(client(&mut child, Duration::from_secs(seconds)));
    child.kill()?;
    child.wait()?;
    result
}

async fn server() -> Result<(), AnyError> {
    let listener = net::listen("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    serve(
        listener,
        Arc::new(Echo),
        ServerOptions::default(),
        CancellationToken::new(),
    )
    .await?;
    Ok(())
}

async fn client(server: &mut Child, duration: Duration) -> Result<(), AnyError> {
    let mut address = String::new();
    let stdout = server.stdout.take().ok_or("the server has no output")?;
    BufReader::new(stdout).read_line(&mut address)?;
    let address = address.trim();
    let pids = [std::process::id(), server.id()];
    for in_flight in [1, 64, 256] {
        calls(address, READY, in_flight, duration, pids).await?;
    }
    calls(address, DEFERRED, 64, duration, pids).await?;
    for _ in 0..3 {
        stream(address, pids).await?;
    }
    Ok(())
}

async fn calls(
    address: &str,
    method: u16,
    in_flight: usize,
    duration: Duration,
    pids: [u32; 2],
) -> Result<(), AnyError> {
    let hello = Hello::new("bench", None, 0);
    let connection = Connection::connect(address, hello, ConnectionOptions::default()).await?;
    let start = Instant::now();
    let cpu = cpu_seconds(pids)?;
    let mut callers = JoinSet::new();
    for _ in 0..in_flight {
        let connection = connection.clone();
        callers.spawn(async move {
            let mut latencies_us = Vec::new();
            let request = Lookup {
                inode: 5,
                text: vec![b'q'; 70],
            };
            while start.elapsed() < duration {
                let asked = Instant::now();
                let timeout = Duration::from_secs(5);
                let (_, _) = connection
                    .call_typed::<Lookup>(method, &request, Bytes::new(), timeout)
                    .await?;
                latencies_us.push(asked.elapsed().as_micros() as u32);
            }
            Ok::<_, RpcError>(latencies_us)
        });
    }
    let mut latencies_us = Vec::new();
    while let Some(caller) = callers.join_next().await {
        latencies_us.extend(caller??);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds(pids)? - cpu;
    latencies_us.sort_unstable();
    let count = latencies_us.len();
    println!(
        "calls ({}), {in_flight:3} in flight: {:8.0}/s  p50 {:4} us  p99 {:5} us  {:5.2} us CPU each (both ends)",
        if method == READY { "ready" } else { "deferred" },
        count as f64 / elapsed,
        latencies_us[count / 2],
        latencies_us[count * 99 / 100],
        cpu * 1e6 / count as f64,
    );
    Ok(())
}

async fn stream(address: &str, pids: [u32; 2]) -> Result<(), AnyError> {
    let stream = FramedStream::connect(
        address,
        Hello::new("bench", None, 0),
        &ConnectionOptions::default(),
    )
    .await?;
    let (mut sender, mut receiver) = stream.split();
    let payload = buffer::pool().take(BUFFER_BYTES).freeze();
    let start = Instant::now();
    let cpu = cpu_seconds(pids)?;
    let count = STREAM_BYTES / BUFFER_BYTES;
    for index in 1..=count {
        let flags = if index == count {
            Flags::LAST
        } else {
            Flags::NONE
        };
        let header = Bytes::from_static(&[7; 100]);
        sender
            .send(Frame {
                method: 1,
                flags,
                request_id: index as u64,
                header,
                payload: payload.clone(),
            })
            .await?;
    }
    let reply = receiver.recv().await?.ok_or("the server hung up")?;
    assert_eq!(reply.request_id, STREAM_BYTES as u64, "every byte arrived");
    let cpu = cpu_seconds(pids)? - cpu;
    println!(
        "stream: {:.2} GiB/s  {cpu:.2} CPU-s/GiB (both ends)",
        1.0 / start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// User and system time of the processes, from `/proc`, in ticks of 10 ms.
fn cpu_seconds(pids: [u32; 2]) -> Result<f64, AnyError> {
    let mut ticks = 0;
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat
            .rsplit(") ")
            .next()
            .ok_or("no fields")?
            .split(' ')
            .collect();
        ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    }
    Ok(ticks as f64 / 100.0)
}
