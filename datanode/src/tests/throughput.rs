//! Measurements, not tests: `cargo test --release -p cairn-datanode throughput -- --ignored --nocapture`.
//!
//! Three datanodes, the client and its checksums run in this process; `CAIRN_BENCH_DIR` says on which disk.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::harness::{Cluster, WriteClient, data};
use cairn_protocol::token::GrantKind;

const CHUNKS: u64 = 16;
const PACKETS: usize = 64;

/// CPU time of this process, all threads, children excluded.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn report(what: &str, bytes: u64, started: Instant, cpu_before: Duration) {
    let seconds = started.elapsed().as_secs_f64();
    let gib = bytes as f64 / f64::from(1 << 30);
    let cpu_seconds = (cpu() - cpu_before).as_secs_f64();
    println!(
        "{what}: {:.0} MiB/s, {:.2} CPU-s/GiB",
        gib * 1024.0 / seconds,
        cpu_seconds / gib
    );
}

/// Keeps eight packets in flight.
async fn stream(client: &mut WriteClient, payload: &Bytes) {
    const WINDOW: u64 = 4;
    let mut acknowledged = 0;
    for _ in 0..PACKETS {
        while client.sequence - acknowledged >= WINDOW {
            acknowledged = client.acknowledgement().await;
        }
        let frame = client.packet(payload.clone(), false, false);
        client.to.send(frame).await.unwrap();
    }
    while acknowledged < client.sequence {
        acknowledged = client.acknowledgement().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_of_one_stream_with_three_replicas() {
    let cluster = Cluster::start(3).await;
    let payload = Bytes::from(data(1 << 20, 1));
    for round in 0..3 {
        let (started, cpu_before) = (Instant::now(), cpu());
        for chunk in 0..CHUNKS {
            let open = cluster.open_write(1 + round * CHUNKS + chunk, 1, 0, &[0, 1, 2]);
            let mut client = cluster.open(open).await.unwrap();
            stream(&mut client, &payload).await;
            client.close().await.unwrap();
        }
        report(
            "write, 3 replicas",
            CHUNKS * PACKETS as u64 * (1 << 20),
            started,
            cpu_before,
        );
        for chunk in 0..CHUNKS {
            for index in 0..3 {
                cluster
                    .seal(index, 1 + round * CHUNKS + chunk, (PACKETS << 20) as u64)
                    .await;
            }
        }
    }
    let (started, cpu_before) = (Instant::now(), cpu());
    for chunk in 1..=CHUNKS {
        cluster.read_all(0, chunk, (PACKETS << 20) as u64, 4).await;
    }
    report(
        "read, 4 at once",
        CHUNKS * PACKETS as u64 * (1 << 20),
        started,
        cpu_before,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_of_small_appends_and_reads() {
    const COUNT: usize = 20_000;
    let cluster = Cluster::start(3).await;
    let payload = Bytes::from(data(4096, 1));
    let mut client = cluster
        .open(cluster.open_write(1, 1, 0, &[0, 1, 2]))
        .await
        .unwrap();
    let (started, cpu_before) = (Instant::now(), cpu());
    let mut acknowledged = 0;
    for _ in 0..COUNT / 2 {
        while client.sequence - acknowledged >= 64 {
            acknowledged = client.acknowledgement().await;
        }
        let frame = client.packet(payload.clone(), false, false);
        client.to.send(frame).await.unwrap();
    }
    while acknowledged < client.sequence {
        acknowledged = client.acknowledgement().await;
    }
    let per = |count: usize, started: Instant, cpu_before: Duration| {
        let seconds = started.elapsed().as_secs_f64();
        let cpu_us = (cpu() - cpu_before).as_secs_f64() * 1e6 / count as f64;
        format!("{:.0}/s, {cpu_us:.1} us CPU each", count as f64 / seconds)
    };
    println!(
        "4 KiB appends, 3 replicas, 64 in flight: {}",
        per(COUNT / 2, started, cpu_before)
    );
    client.close().await.unwrap();
    let connection = cluster.connection(0).await;
    let (started, cpu_before) = (Instant::now(), cpu());
    let token = cluster.token(
        1,
        GrantKind::Read {
            offset: 0,
            len: 4096 * (COUNT as u64 / 2),
        },
    );
    let reads = (0..64u64).map(|lane| {
        let (connection, token) = (&connection, &token);
        async move {
            for i in 0..COUNT as u64 / 64 {
                let offset = (lane * 131 + i * 17) % (COUNT as u64 / 2) * 4096;
                Cluster::read_over(connection, 1, offset, 4096, token.clone())
                    .await
                    .unwrap();
            }
        }
    });
    futures::future::join_all(reads).await;
    println!(
        "4 KiB reads, 64 in flight: {}",
        per(COUNT, started, cpu_before)
    );
}

/// The middle and the worst of a hundred, in microseconds.
fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
    format!("p50 {} us, p99 {} us", at(50), at(99))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_of_one_caller_who_waits() {
    const COUNT: usize = 2000;
    let cluster = Cluster::start(3).await;
    let payload = Bytes::from(data(4096, 1));
    for sync in [false, true] {
        let chunk = 1 + u64::from(sync);
        let mut client = cluster
            .open(cluster.open_write(chunk, 1, 0, &[0, 1, 2]))
            .await
            .unwrap();
        let mut times = Vec::new();
        for _ in 0..COUNT {
            let started = Instant::now();
            let frame = client.packet(payload.clone(), sync, false);
            client.to.send(frame).await.unwrap();
            client.acknowledgement().await;
            times.push(started.elapsed());
        }
        println!(
            "4 KiB append, 3 replicas, sync {sync}: {}",
            percentiles(times)
        );
        client.close().await.unwrap();
    }
    let mut times = Vec::new();
    for chunk in 3..103 {
        let started = Instant::now();
        let client = cluster
            .open(cluster.open_write(chunk, 1, 0, &[0, 1, 2]))
            .await
            .unwrap();
        times.push(started.elapsed());
        client.close().await.unwrap();
    }
    println!("opening a pipeline of 3: {}", percentiles(times));
    let connection = cluster.connection(0).await;
    let token = cluster.token(
        1,
        GrantKind::Read {
            offset: 0,
            len: 4096 * COUNT as u64,
        },
    );
    let mut times = Vec::new();
    for index in 0..COUNT as u64 {
        let started = Instant::now();
        Cluster::read_over(&connection, 1, index * 4096, 4096, token.clone())
            .await
            .unwrap();
        times.push(started.elapsed());
    }
    println!("4 KiB read: {}", percentiles(times));
}
