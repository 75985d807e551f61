//! How many may belong to a group.

use std::sync::Arc;

use cairn_daemon::Tasks;
use cairn_daemon::clock::Clock;
use cairn_daemon::disk::RealDisk;
use cairn_protocol::rpc::{ConnectionOptions, Hello, Peers};

use super::*;
use crate::consensus::group::{GroupOptions, GroupParts};
use crate::consensus::log_store::{LogOptions, LogStore};
use crate::consensus::room::RoomOptions;
use crate::consensus::state::State;
use crate::store::StoreOptions;

const OWN: NodeId = 1;

/// A group of one, which leads.
async fn leader(directory: &std::path::Path, tasks: &Tasks) -> Group {
    let disk = Arc::new(RealDisk);
    let log = LogStore::open(disk.clone(), &directory.join("log"), LogOptions::new(OWN));
    let state = State::open(disk, directory, StoreOptions::small()).unwrap();
    let hello = Hello::new("namenode", None, OWN);
    let parts = GroupParts {
        id: OWN,
        log: log.unwrap(),
        state: Arc::new(state),
        peers: Peers::new(hello, ConnectionOptions::default()),
        clock: Clock::system(),
        options: GroupOptions::default(),
        room: RoomOptions {
            directories: Vec::new(),
            reserve_bytes: 0,
        },
    };
    let group = Group::start(parts, tasks).await.unwrap();
    let founding = BTreeMap::from([(OWN, nowhere())]);
    group.initialize(founding).await.unwrap();
    let mut leadership = group.leadership();
    leadership.wait_for(|now| now.ready).await.unwrap();
    group
}

/// A namenode that nobody reaches.
fn nowhere() -> Member {
    Member {
        address: "127.0.0.1:1".to_owned(),
        ..Member::default()
    }
}

#[tokio::test]
async fn one_more_member_than_followers_take_is_refused_and_nothing_changes() {
    let directory = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let group = leader(directory.path(), &tasks).await;
    let last = MEMBERS_MAX as NodeId;
    for id in 2..=last {
        group.enlist(id, nowhere()).await.unwrap();
    }
    assert_eq!(group.members().len(), MEMBERS_MAX);
    for replaces in [None, Some(last)] {
        let refused = group.add_member(last + 1, nowhere(), replaces).await;
        let failure = refused.unwrap_err().failure;
        assert_eq!(failure.code, ErrorCode::InvalidArgument);
        assert!(failure.to_string().contains("64"), "{failure}");
        assert_eq!(group.members().len(), MEMBERS_MAX);
    }
    // Who is listed may ask again, and a place that is given up is free for the next.
    group.enlist(last, nowhere()).await.unwrap();
    group.remove_member(last).await.unwrap();
    group.enlist(last + 1, nowhere()).await.unwrap();
    group.shutdown().await.unwrap();
}

#[tokio::test]
async fn of_many_who_ask_at_once_only_as_many_join_as_there_are_places() {
    let directory = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let group = leader(directory.path(), &tasks).await;
    for id in 2..MEMBERS_MAX as NodeId {
        group.enlist(id, nowhere()).await.unwrap();
    }
    let first = MEMBERS_MAX as NodeId;
    let asking = (first..first + 8).map(|id| group.enlist(id, nowhere()));
    let answers = futures::future::join_all(asking).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(group.members().len(), MEMBERS_MAX);
    group.shutdown().await.unwrap();
}
