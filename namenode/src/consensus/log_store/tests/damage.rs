//! Bit rot, missing files, failing disks.

use super::*;
use crate::consensus::log_store::format::SEGMENT_START;

/// A new log begins with one state record.
const FIRST_ENTRY: u64 = SEGMENT_START + 112;

fn segment(generation: u64) -> std::path::PathBuf {
    Path::new(DIRECTORY).join(format!("log-{generation:016x}"))
}

fn damage_of(disk: &SimDisk) -> (std::path::PathBuf, u64, String) {
    match open(disk).err() {
        Some(LogError::Damaged {
            path,
            offset,
            reason,
        }) => (path, offset, reason),
        other => panic!("expected damage, not {other:?}"),
    }
}

#[tokio::test]
async fn a_flipped_bit_below_the_synced_end_refuses_to_start_and_names_file_and_offset() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    append(&mut log, entries(1, 0..1, 100)).await;
    append(&mut log, entries(1, 1..2, 100)).await;
    drop(log);
    disk.flip_bit(&segment(1), FIRST_ENTRY + 100).unwrap();
    let error = open(&disk).err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, LogError::Damaged { offset, .. } if offset == FIRST_ENTRY));
    assert!(text.contains("log-0000000000000001"), "{text}");
    assert!(text.contains("offset 4208"), "{text}");
    assert!(text.contains("new id"), "{text}");
}

/// Every byte of a log of several segments is flipped in turn: the log is refused, or complete, or lacks nothing but
/// the last batch, above which there is no synced end.
#[tokio::test]
async fn no_flipped_bit_shortens_the_log_below_its_last_batch() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    append(&mut log, entries(1, 0..12, 300)).await;
    append(&mut log, entries(2, 12..30, 150)).await;
    append(&mut log, entries(2, 30..31, 150)).await;
    let (full, last_batch) = (all(&mut log).await, full_length(&disk) - 208);
    drop(log);
    let generations = file_names(&disk, "log-").len() as u64;
    assert_eq!(generations, 3);
    let (mut refused, mut complete) = (0, 0);
    for generation in 1..=generations {
        for offset in (0..60).chain(SEGMENT_START..8192) {
            disk.flip_bit(&segment(generation), offset).unwrap();
            match read_only(&disk) {
                Err(LogError::Damaged { path, .. }) => {
                    assert_eq!(path, segment(generation));
                    refused += 1;
                }
                Err(LogError::TooNew { .. }) => {
                    panic!("a damaged version number passed its checksum")
                }
                Err(error) => panic!("{error}"),
                Ok(ids) if ids.len() == full.len() => complete += 1,
                Ok(ids) => {
                    assert_eq!(ids.len(), full.len() - 1);
                    assert!(
                        generation == generations && offset >= last_batch,
                        "{generation} {offset}"
                    );
                }
            }
            disk.flip_bit(&segment(generation), offset).unwrap();
        }
    }
    assert!(refused > 8000 && complete > 10, "{refused} {complete}");
}

/// End of the records in the last segment.
fn full_length(disk: &SimDisk) -> u64 {
    recovered(disk).unwrap().end
}

fn recovered(disk: &SimDisk) -> Result<crate::consensus::log_store::recover::Recovered, LogError> {
    use crate::consensus::log_store::{directory::Directory, recover::recover};
    let directory = Directory::open(Arc::new(disk.mount()), Path::new(DIRECTORY))?;
    let generations = directory.list()?.segments;
    recover(&directory, &generations, true)
}

fn read_only(disk: &SimDisk) -> Result<Vec<LogId>, LogError> {
    Ok(recovered(disk)?
        .entries
        .iter()
        .map(|placed| placed.log_id)
        .collect())
}

#[tokio::test]
async fn missing_segments_are_noticed() {
    for missing in 1..=3 {
        let disk = SimDisk::new();
        append(&mut open(&disk).unwrap(), entries(1, 0..60, 300)).await;
        assert!(file_names(&disk, "log-").len() > 3);
        disk.remove_file(&segment(missing)).unwrap();
        let (path, _, reason) = damage_of(&disk);
        assert_eq!(path, segment(missing + 1));
        assert!(reason.contains("missing"), "{reason}");
    }
}

#[tokio::test]
async fn a_missing_first_segment_is_noticed_after_a_purge_too() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    append(&mut log, entries(1, 0..60, 300)).await;
    log.purge(LogId::new_term_index(1, 20)).await.unwrap();
    drop(log);
    let first = file_names(&disk, "log-").remove(0);
    assert_ne!(first, "log-0000000000000001");
    disk.remove_file(&Path::new(DIRECTORY).join(first)).unwrap();
    let (_, _, reason) = damage_of(&disk);
    assert!(reason.contains("missing between"), "{reason}");
}

#[tokio::test]
async fn a_shortened_file_is_noticed() {
    let disk = SimDisk::new();
    append(&mut open(&disk).unwrap(), entries(1, 0..3, 300)).await;
    let (_, file) = {
        use crate::consensus::log_store::directory::Directory;
        let directory = Directory::open(Arc::new(disk.mount()), Path::new(DIRECTORY)).unwrap();
        directory.open_segment(1).unwrap()
    };
    file.set_len(SEGMENT_START + 400).unwrap();
    let (path, offset, _) = damage_of(&disk);
    assert_eq!((path, offset), (segment(1), SEGMENT_START + 400));
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_written_over() {
    for calls in 0..2 {
        let disk = SimDisk::new();
        let mut log = open(&disk).unwrap();
        append(&mut log, entries(1, 0..2, 300)).await;
        disk.stop_after(calls);
        assert!(log.blocking_append(entries(1, 2..4, 300)).await.is_err());
        disk.crash_losing_everything_unsynced();
        let mut log = open(&disk).unwrap();
        assert_eq!(all(&mut log).await, entries(1, 0..2, 300));
        append(&mut log, entries(2, 2..3, 300)).await;
        drop(log);
        let expected = [entries(1, 0..2, 300), entries(2, 2..3, 300)].concat();
        assert_eq!(all(&mut open(&disk).unwrap()).await, expected);
    }
}

#[tokio::test]
async fn a_failed_sync_stops_the_log_for_good() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    append(&mut log, entries(1, 0..2, 300)).await;
    disk.fail_next_sync(&Path::new(DIRECTORY).join("spare-0000000000000000"));
    let error = log
        .blocking_append(entries(1, 2..3, 300))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("sync"), "{error}");
    // Later syncs would succeed and prove nothing.
    let error = log
        .blocking_append(entries(1, 3..4, 300))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("has stopped"), "{error}");
    let vote = crate::consensus::types::Vote::new(9, 9);
    assert!(log.save_vote(&vote).await.is_err());
    assert!(
        log.truncate_after(Some(LogId::new_term_index(1, 0)))
            .await
            .is_err()
    );
    assert!(log.purge(LogId::new_term_index(1, 0)).await.is_err());
    drop(log);
    disk.crash_losing_everything_unsynced();
    assert_eq!(all(&mut open(&disk).unwrap()).await, entries(1, 0..2, 300));
}

#[tokio::test]
async fn an_entry_that_rots_while_the_log_is_open_is_not_given_out() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    append(&mut log, entries(1, 0..10, 300)).await;
    disk.flip_bit(&segment(1), FIRST_ENTRY + 50).unwrap();
    let mut reader = log.get_log_reader().await;
    let error = reader.try_get_log_entries(0..10).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("offset 4208"), "{error}");
    assert_eq!(
        reader.try_get_log_entries(1..10).await.unwrap(),
        entries(1, 1..10, 300)
    );
}
