//! The process ends at every instant of a reception and installation, and starts again.

use cairn_daemon::disk::sim::SimDisk;
use openraft::StorageHelper;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftStateMachine};

use super::stopping_disk::Changes;
use super::*;
use crate::consensus::log_store::{LogOptions, LogStore};
use crate::consensus::snapshot::PIECE_BYTES;
use crate::consensus::state_machine::StateMachine;
use crate::consensus::types::{Entry, Payload};

const OLD: u64 = 5;
const NEW: u64 = 20;

fn open_log(disk: &SimDisk) -> LogStore {
    let options = LogOptions {
        inline: true,
        ..LogOptions::new(7)
    };
    LogStore::open(Arc::new(disk.mount()), Path::new("/log"), options).unwrap()
}

/// A member with a state as after entry 5, a checkpoint of it, and a log of the entries from 3 to 8.
async fn lagging(directory: &Path, log_disk: &SimDisk) {
    let state = Arc::new(open(Arc::new(RealDisk), directory));
    fill(&state, log_id(1, OLD));
    build(&state).await.unwrap();
    let mut log = open_log(log_disk);
    log.save_vote(&vote(2)).await.unwrap();
    let entry = |index| Entry {
        log_id: log_id(1, index),
        payload: Payload::Blank,
    };
    let entries: Vec<Entry> = (0..9).map(entry).collect();
    log.blocking_append(entries).await.unwrap();
    log.purge(log_id(1, 2)).await.unwrap();
}

/// Starts again as the library does, and tells which state there is. It must be whole, and the log must fit.
async fn restart(directory: &Path, log_disk: &SimDisk) -> u64 {
    let state = Arc::new(open(Arc::new(RealDisk), directory));
    let reached = content(&state);
    let mut log = open_log(log_disk);
    let mut machine = StateMachine::new(state.clone());
    let mut helper = StorageHelper::new(&mut log, &mut machine).with_id(LEADER);
    helper.get_initial_state().await.unwrap();
    let known = log.get_log_state().await.unwrap();
    let applied = state.applied_log_id();
    let checkpoint = machine.get_current_snapshot().await.unwrap().unwrap().meta;
    assert!(
        known.last_log_id >= applied,
        "the log ends before the state"
    );
    assert!(
        checkpoint.last_log_id >= known.last_purged_log_id,
        "whoever needs what was purged would get a checkpoint that ends before it"
    );
    assert!(checkpoint.last_log_id <= applied);
    let left = log.get_log_reader().await.try_get_log_entries(..).await;
    let left: Vec<u64> = left.unwrap().iter().map(|it| it.log_id.index).collect();
    match reached {
        OLD => assert_eq!(left, [3, 4, 5, 6, 7, 8]),
        _ => assert_eq!(left, [0; 0]),
    }
    reached
}

fn names_in(directory: &Path) -> Vec<String> {
    let listed = RealDisk.list(directory).unwrap();
    listed.into_iter().map(|entry| entry.name).collect()
}

#[tokio::test]
async fn an_installation_that_stops_anywhere_leaves_the_old_state_or_the_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = snapshot_of(&directory.path().join("leader"), log_id(2, NEW)).await;
    let pieces = pieces_of(&snapshot, vote(2), PIECE_BYTES);
    let mut seen = Vec::new();
    for changes in 0.. {
        let member = directory.path().join(changes.to_string());
        let log_disk = SimDisk::new();
        lagging(&member, &log_disk).await;
        let (disk, left) = Changes::on_disk();
        let state = Arc::new(open(disk, &member));
        left.stop_after(changes);
        let done = receive_and_install(&state, &pieces).await;
        drop(state);
        log_disk.kill();
        let reached = restart(&member, &log_disk).await;
        seen.push(reached);
        assert_eq!(names_in(&member.join("snapshots")), [reached.to_string()]);
        let mut states = names_in(&member.join("state"));
        states.retain(|name| !name.starts_with("CURRENT"));
        assert_eq!(states.len(), 1, "{states:?}");
        if reached == OLD {
            // The leader tries again.
            let state = Arc::new(open(Arc::new(RealDisk), &member));
            receive_and_install(&state, &pieces).await.unwrap();
            assert_eq!(content(&state), NEW);
        }
        std::fs::remove_dir_all(&member).unwrap();
        if done.is_ok() {
            break;
        }
    }
    let switch = seen.iter().position(|reached| *reached == NEW).unwrap();
    assert!(switch > pieces.len(), "every piece was interrupted");
    assert!(seen[switch..].iter().all(|reached| *reached == NEW));
    // One is the run that was not stopped.
    assert!(seen.len() - switch >= 3, "stopped twice after the switch");
}

#[tokio::test]
async fn a_reset_of_the_log_that_stops_anywhere_is_finished_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = snapshot_of(&directory.path().join("leader"), log_id(2, NEW)).await;
    let pieces = pieces_of(&snapshot, vote(2), PIECE_BYTES);
    for calls in 0.. {
        let member = directory.path().join(calls.to_string());
        let log_disk = SimDisk::new();
        lagging(&member, &log_disk).await;
        let state = Arc::new(open(Arc::new(RealDisk), &member));
        receive_and_install(&state, &pieces).await.unwrap();
        drop(state);
        let mut log = open_log(&log_disk);
        log_disk.stop_after(calls);
        let purged = log.purge(log_id(2, NEW)).await;
        drop(log);
        log_disk.crash_losing_everything_unsynced();
        assert_eq!(restart(&member, &log_disk).await, NEW);
        // And once more: what start-up mended stays mended.
        log_disk.crash_losing_everything_unsynced();
        assert_eq!(restart(&member, &log_disk).await, NEW);
        std::fs::remove_dir_all(&member).unwrap();
        if purged.is_ok() {
            assert!(calls > 0);
            break;
        }
    }
}

#[tokio::test]
async fn a_log_that_was_cut_for_the_new_state_and_no_more_is_finished_at_the_start() {
    // The library cuts what conflicts with a snapshot before it installs it.
    let directory = tempfile::tempdir().unwrap();
    let snapshot = snapshot_of(&directory.path().join("leader"), log_id(2, 7)).await;
    let pieces = pieces_of(&snapshot, vote(2), PIECE_BYTES);
    let member = directory.path().join("member");
    let log_disk = SimDisk::new();
    lagging(&member, &log_disk).await;
    let mut log = open_log(&log_disk);
    log.truncate_after(Some(log_id(1, OLD))).await.unwrap();
    drop(log);
    let state = Arc::new(open(Arc::new(RealDisk), &member));
    receive_and_install(&state, &pieces).await.unwrap();
    drop(state);
    log_disk.crash_losing_everything_unsynced();
    assert_eq!(restart(&member, &log_disk).await, 7);
}
