//! Segments that live more than once, and logs that are opened more than once.

use super::*;
use crate::consensus::types::Vote;

#[tokio::test]
async fn a_reopened_log_has_everything() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    let written = entries(1, 0..40, 300);
    append(&mut log, written.clone()).await;
    log.save_vote(&Vote::new_committed(7, 3)).await.unwrap();
    log.save_committed(Some(LogId::new_term_index(1, 30)))
        .await
        .unwrap();
    append(&mut log, entries(1, 40..41, 10)).await;
    log.purge(LogId::new_term_index(1, 9)).await.unwrap();
    drop(log);
    disk.crash_losing_everything_unsynced();

    let mut log = open(&disk).unwrap();
    let found = all(&mut log).await;
    assert_eq!(found.len(), 31);
    assert_eq!(found[..30], written[10..]);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(LogId::new_term_index(1, 40)));
    assert_eq!(state.last_purged_log_id, Some(LogId::new_term_index(1, 9)));
    let mut reader = log.get_log_reader().await;
    assert_eq!(
        reader.read_vote().await.unwrap(),
        Some(Vote::new_committed(7, 3))
    );
    assert_eq!(
        log.read_committed().await.unwrap(),
        Some(LogId::new_term_index(1, 30))
    );
}

#[tokio::test]
async fn purged_segments_are_used_again_and_their_number_stays_bounded() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    for round in 0..50 {
        append(&mut log, entries(1, round * 10..round * 10 + 10, 700)).await;
        if round > 0 {
            log.purge(LogId::new_term_index(1, round * 10 - 1))
                .await
                .unwrap();
        }
    }
    assert!(
        file_names(&disk, "log-").len() <= 5,
        "{:?}",
        file_names(&disk, "")
    );
    assert!(
        file_names(&disk, "spare-").len() <= 2,
        "{:?}",
        file_names(&disk, "")
    );
    drop(log);
    let mut log = open(&disk).unwrap();
    assert_eq!(all(&mut log).await, entries(1, 490..500, 700));
}

#[tokio::test]
async fn a_recycled_segment_with_leftovers_after_a_truncation_reads_only_new_records() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    // Old life: entries of one size, so that records of the next life begin at the very same offsets.
    append(&mut log, entries(1, 0..60, 300)).await;
    log.truncate_after(Some(LogId::new_term_index(1, 49)))
        .await
        .unwrap();
    append(&mut log, entries(2, 50..60, 300)).await;
    log.purge(LogId::new_term_index(2, 59)).await.unwrap();
    assert!(!file_names(&disk, "spare-").is_empty());
    // New life: a long suffix, cut again, then one new entry in the middle of what was cut.
    append(&mut log, entries(3, 60..72, 300)).await;
    log.truncate_after(Some(LogId::new_term_index(3, 61)))
        .await
        .unwrap();
    append(&mut log, entries(4, 62..63, 300)).await;
    let expected = [entries(3, 60..62, 300), entries(4, 62..63, 300)].concat();
    assert_eq!(all(&mut log).await, expected);
    drop(log);
    for _ in 0..3 {
        disk.crash_losing_everything_unsynced();
        assert_eq!(all(&mut open(&disk).unwrap()).await, expected);
    }
}

/// Of three records written together the first is torn and the last is whole. The opening's own record takes the place
/// of the first, and what is written next ends where the last begins: it must not follow.
#[tokio::test]
async fn a_record_behind_a_torn_one_does_not_come_back_when_the_gap_is_filled() {
    let mut torn = 0;
    for seed in 0..300 {
        let disk = SimDisk::new();
        let mut log = open(&disk).unwrap();
        append(&mut log, entries(1, 0..1, 100)).await;
        // As long as a state record, so that the second and third keep their places behind it.
        let batch = [entries(1, 1..2, 56), entries(1, 2..4, 900)].concat();
        disk.stop_after(1); // the write, but not the sync
        assert!(log.blocking_append(batch).await.is_err());
        crash(&disk, seed);
        let mut log = open(&disk).unwrap();
        if all(&mut log).await.len() > 1 {
            continue;
        }
        torn += 1;
        append(&mut log, entries(1, 1..2, 900)).await;
        disk.crash_losing_everything_unsynced();
        let mut log = open(&disk).unwrap();
        assert_eq!(all(&mut log).await.len(), 2, "seed {seed}");
    }
    assert!(torn > 30, "{torn}");
}

/// A killed process leaves records that only the page cache holds. The next opening builds on them, so it must sync them
/// first, even where its own record goes to the next segment.
#[tokio::test]
async fn what_a_killed_process_left_unsynced_is_durable_once_the_log_is_open() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    // Leaves no room for a state record in the segment.
    let filling = entries(1, 0..1, 3824);
    disk.stop_after(1); // the write, but not the sync
    assert!(log.blocking_append(filling.clone()).await.is_err());
    disk.kill();
    assert_eq!(all(&mut open(&disk).unwrap()).await, filling);
    assert_eq!(file_names(&disk, "log-").len(), 2);
    disk.crash_losing_everything_unsynced();
    assert_eq!(all(&mut open(&disk).unwrap()).await, filling);
}

fn crash(disk: &SimDisk, seed: u64) {
    use rand::SeedableRng;
    disk.crash(&mut rand::rngs::StdRng::seed_from_u64(seed));
}

#[tokio::test]
async fn an_empty_directory_is_refused_where_a_log_must_be() {
    let disk = SimDisk::new();
    let must_exist = LogOptions {
        must_exist: true,
        ..options()
    };
    let path = Path::new(DIRECTORY);
    let lost = LogStore::open(Arc::new(disk.mount()), path, must_exist.clone()).err();
    assert!(matches!(lost, Some(LogError::Lost { .. })), "{lost:?}");
    drop(open(&disk).unwrap());
    disk.crash_losing_everything_unsynced();
    LogStore::open(Arc::new(disk.mount()), path, must_exist).unwrap();
}

#[tokio::test]
async fn the_segment_size_may_change() {
    let disk = SimDisk::new();
    append(&mut open(&disk).unwrap(), entries(1, 0..40, 300)).await;
    let larger = LogOptions {
        segment_bytes: 16384,
        ..options()
    };
    let mut log = LogStore::open(Arc::new(disk.mount()), Path::new(DIRECTORY), larger).unwrap();
    append(&mut log, entries(1, 40..140, 300)).await;
    log.purge(LogId::new_term_index(1, 99)).await.unwrap();
    drop(log);
    assert_eq!(
        all(&mut open(&disk).unwrap()).await,
        entries(1, 100..140, 300)
    );
}

#[tokio::test]
async fn an_entry_beyond_the_limit_is_refused_and_changes_nothing() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    let limit = log.entry_bytes_max() as usize;
    append(&mut log, entries(1, 0..3, limit)).await;
    let error = log
        .blocking_append(entries(1, 3..4, limit + 1))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(&format!("the limit is {limit}")),
        "{error}"
    );
    let error = log.blocking_append(entries(1, 4..5, 1)).await.unwrap_err();
    assert!(error.to_string().contains("goes on at 3"), "{error}");
    append(&mut log, entries(1, 3..4, 1)).await;
    drop(log);
    assert_eq!(all(&mut open(&disk).unwrap()).await.len(), 4);
}
