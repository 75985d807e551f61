//! Tests of the whole log: what they share. Each concern has its file.

mod crashes;
mod damage;
mod lives;
mod suite;
mod threads;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cairn_daemon::disk::Disk;
use cairn_daemon::disk::sim::SimDisk;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};

use super::{LogError, LogOptions, LogStore};
use crate::consensus::types::{CommandBatch, Entry, LogId, Payload};

const DIRECTORY: &str = "/raft";

/// Segments that hold a handful of entries, no cache to speak of, no threads.
fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 8192,
        cache_bytes_max: 1000,
        inline: true,
        ..LogOptions::new(0x5eed_5a17)
    }
}

fn open(disk: &SimDisk) -> Result<LogStore, LogError> {
    LogStore::open(Arc::new(disk.mount()), Path::new(DIRECTORY), options())
}

fn entry(term: u64, index: u64, commands: &[u8]) -> Entry {
    Entry {
        log_id: LogId::new_term_index(term, index),
        payload: Payload::Normal(CommandBatch(Bytes::copy_from_slice(commands))),
    }
}

/// Entries of one size whose bytes tell them apart from all others.
fn entries(term: u64, indexes: std::ops::Range<u64>, bytes: usize) -> Vec<Entry> {
    let entry_of = |index: u64| {
        let mut commands = format!("{term}/{index};").into_bytes();
        commands.resize(bytes, index as u8);
        entry(term, index, &commands)
    };
    indexes.map(entry_of).collect()
}

async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    log.blocking_append(entries).await.unwrap();
}

async fn all(log: &mut LogStore) -> Vec<Entry> {
    log.get_log_reader()
        .await
        .try_get_log_entries(..)
        .await
        .unwrap()
}

fn file_names(disk: &SimDisk, prefix: &str) -> Vec<String> {
    let listing = disk.list(Path::new(DIRECTORY)).unwrap();
    listing
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| name.starts_with(prefix))
        .collect()
}
