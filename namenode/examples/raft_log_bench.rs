//! Measures group commit of the Raft log alone on a real disk: proposers append 200-byte entries, one each at a time,
//! and wait until they are durable.
//!
//! `cargo run --release --example raft_log_bench -- [directory] [seconds]`

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use cairn_daemon::disk::RealDisk;
use cairn_namenode::consensus::log_store::{LogOptions, LogStore};
use cairn_namenode::consensus::types::{
    CommandBatch, Entry, IoFlushed, LogId, Payload, TypeConfig,
};
use openraft::storage::RaftLogStorage;
use openraft::type_config::TypeConfigExt;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

const ENTRY_BYTES: usize = 200;
/// Entries kept when the log is purged, as a namenode would after a flush.
const ENTRIES_KEPT: u64 = 200_000;

struct Log {
    store: LogStore,
    next_index: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(
        arguments
            .next()
            .unwrap_or_else(|| "raft-log-bench".to_owned()),
    );
    let seconds = arguments
        .next()
        .map_or(Ok(5), |text| text.parse())
        .context("parse seconds")?;
    println!("proposers    ops/s   p50 us   p99 us   reopen ms");
    for proposers in [1, 32, 256, 1024] {
        let (mut latencies, replay) =
            run(&directory, proposers, Duration::from_secs(seconds)).await?;
        latencies.sort_unstable();
        let percentile = |percent: usize| latencies[latencies.len() * percent / 100].as_micros();
        let rate = latencies.len() as u64 / seconds;
        println!(
            "{proposers:>9} {rate:>8} {:>8} {:>8} {:>11}",
            percentile(50),
            percentile(99),
            replay.as_millis()
        );
    }
    std::fs::remove_dir_all(&directory).context("remove the benchmark's directory")
}

async fn run(
    directory: &PathBuf,
    proposers: usize,
    time: Duration,
) -> anyhow::Result<(Vec<Duration>, Duration)> {
    if directory.exists() {
        std::fs::remove_dir_all(directory).context("remove the benchmark's directory")?;
    }
    let store = LogStore::open(Arc::new(RealDisk), directory, LogOptions::new(1))?;
    let log = Arc::new(Mutex::new(Log {
        store,
        next_index: 0,
    }));
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..proposers {
        tasks.spawn(propose(log.clone(), stop.clone()));
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    while let Some(result) = tasks.join_next().await {
        latencies.extend(result??);
    }
    drop(log);
    let start = Instant::now();
    let store = LogStore::open(Arc::new(RealDisk), directory, LogOptions::new(2))?;
    let replay = start.elapsed();
    drop(store);
    Ok((latencies, replay))
}

async fn propose(log: Arc<Mutex<Log>>, stop: Arc<AtomicBool>) -> anyhow::Result<Vec<Duration>> {
    let commands = Bytes::from(vec![7; ENTRY_BYTES]);
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let (sender, receiver) = TypeConfig::oneshot();
        {
            let mut log = log.lock().await;
            let log_id = LogId::new_term_index(1, log.next_index);
            let payload = Payload::Normal(CommandBatch(commands.clone()));
            log.store
                .append([Entry { log_id, payload }], IoFlushed::signal(sender))
                .await?;
            log.next_index += 1;
            if log.next_index.is_multiple_of(ENTRIES_KEPT) && log.next_index > ENTRIES_KEPT {
                let purged = LogId::new_term_index(1, log.next_index - ENTRIES_KEPT);
                log.store.purge(purged).await?;
            }
        }
        receiver.await.context("the log went away")??;
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}
