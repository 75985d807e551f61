//! The log as production runs it: its own threads, a real disk, many appends in flight.

use cairn_daemon::disk::RealDisk;
use openraft::type_config::TypeConfigExt;

use super::*;
use crate::consensus::types::{IoFlushed, TypeConfig};

fn open_real(path: &Path) -> LogStore {
    let options = LogOptions {
        segment_bytes: 64 << 10,
        inline: false,
        queue_bytes_max: 3000,
        ..options()
    };
    LogStore::open(Arc::new(RealDisk), path, options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_in_flight_are_readable_at_once_and_durable_when_their_callback_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open_real(directory.path());
    let mut waiting = Vec::new();
    for index in 0..2000 {
        let (sender, receiver) = TypeConfig::oneshot();
        log.append(entries(1, index..index + 1, 200), IoFlushed::signal(sender))
            .await
            .unwrap();
        waiting.push(receiver);
        let mut reader = log.get_log_reader().await;
        let found = reader
            .try_get_log_entries(index.saturating_sub(3)..=index)
            .await
            .unwrap();
        assert_eq!(found, entries(1, index.saturating_sub(3)..index + 1, 200));
    }
    for receiver in waiting {
        receiver.await.unwrap().unwrap();
    }
    assert_eq!(all(&mut log).await, entries(1, 0..2000, 200));
    log.purge(LogId::new_term_index(1, 1499)).await.unwrap();
    drop(log);
    assert_eq!(
        all(&mut open_real(directory.path())).await,
        entries(1, 1500..2000, 200)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_is_bounded_and_what_left_it_is_read_from_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open_real(directory.path());
    append(&mut log, entries(1, 0..500, 200)).await;
    let (count, bytes) = log.reader.memory.cached();
    assert!(
        bytes <= 1000 && count <= 4,
        "{count} entries, {bytes} bytes"
    );
    let mut reader = log.get_log_reader().await;
    assert_eq!(
        reader.try_get_log_entries(7..450).await.unwrap(),
        entries(1, 7..450, 200)
    );
    assert!(
        !reader
            .limited_get_log_entries(7, 450)
            .await
            .unwrap()
            .is_empty()
    );
}

/// Readers run beside a purge that gives their segments another life: they see entries or none, never garbage.
#[tokio::test(flavor = "multi_thread")]
async fn readers_of_purged_entries_see_them_or_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open_real(directory.path());
    let reader = log.get_log_reader().await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (mut reader, stop) = (reader.clone(), stop.clone());
        readers.spawn(async move {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for found in reader.try_get_log_entries(..).await.unwrap() {
                    assert_eq!(
                        found,
                        entries(1, found.log_id.index..found.log_id.index + 1, 200)[0]
                    );
                }
            }
        });
    }
    for round in 1..60 {
        append(&mut log, entries(1, (round - 1) * 100..round * 100, 200)).await;
        log.purge(LogId::new_term_index(1, (round * 100).saturating_sub(150)))
            .await
            .unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    while let Some(result) = readers.join_next().await {
        result.unwrap();
    }
}
