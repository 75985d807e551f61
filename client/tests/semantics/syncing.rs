//! What a sync of little costs: an append that waits for the disks, and one commit that tells so. Whatever that leaves open is asked
//! of the namenode.

use std::sync::Arc;

use cairn_client::{Custodian, Error, FileSystem, InCustody, OpenFile, WriteOptions};
use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::messages::operation::{Commit, IfExists};
use cairn_protocol::{ErrorCode, Failure};
use futures::future::BoxFuture;

use crate::fake::{FakeCluster, Shared, pattern};

async fn create(fs: &FileSystem, path: &str) -> OpenFile {
    let created = fs.create(path, 0o644, IfExists::Fail).await;
    let (attributes, _) = created.expect("the name is new");
    fs.open_file_known(&attributes)
}

/// A file of which all bytes are known to be on disk, with both streams of synced appends open.
async fn synced_file(fs: &FileSystem, path: &str) -> OpenFile {
    let file = create(fs, path).await;
    for at in 0..2 {
        file.write(at, "x".into()).await.expect("there is room");
        file.sync().await.expect("nothing fails yet");
    }
    file
}

/// How many packets, mutations and syncs there were.
fn counts(cluster: &FakeCluster) -> (usize, usize, usize) {
    let state = cluster.state();
    (state.packets, state.applied.len(), state.syncs)
}

#[tokio::test]
async fn a_small_write_and_its_sync_are_one_append_and_one_commit() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let file = synced_file(&fs, "/file").await;
    assert_eq!(
        cluster.state().syncs,
        1,
        "of the first version nothing was known"
    );
    for round in 1..=5_u64 {
        let (packets, applied, syncs) = counts(&cluster);
        file.write(round * 5000, pattern(4096, 1)).await.unwrap();
        file.sync().await.unwrap();
        assert_eq!(counts(&cluster), (packets + 1, applied + 1, syncs));
    }
}

#[tokio::test]
async fn several_writes_before_a_sync_are_on_disk_together() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let file = synced_file(&fs, "/file").await;
    let (packets, applied, syncs) = counts(&cluster);
    for at in (0..3 << 20).step_by(1 << 20) {
        file.write(at, pattern(1 << 20, 1)).await.unwrap();
    }
    file.sync().await.unwrap();
    assert_eq!(counts(&cluster), (packets + 3, applied + 1, syncs));
}

#[tokio::test]
async fn bytes_that_were_flushed_before_or_that_others_wrote_are_asked_for() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let file = synced_file(&fs, "/file").await;
    let syncs = cluster.state().syncs;
    // Nothing is left to be sent.
    file.write(0, "flushed".into()).await.unwrap();
    file.flush().await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.state().syncs, syncs + 1);
    // Something is, and not all that others see.
    file.write(0, "flushed".into()).await.unwrap();
    file.flush().await.unwrap();
    file.write(9, "synced".into()).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.state().syncs, syncs + 2);
    // Others write in between, and nobody has told us.
    let other = cluster.connect().await;
    other.write_at("/file", 20, "theirs".into()).await.unwrap();
    file.write(0, "ours".into()).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.state().syncs, syncs + 3);
    // They write again, and this time we hear of it.
    other.write_at("/file", 20, "more".into()).await.unwrap();
    file.invalidate();
    file.sync().await.unwrap();
    assert_eq!(cluster.state().syncs, syncs + 4);
    file.write(0, "again".into()).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.state().syncs, syncs + 4);
}

#[tokio::test]
async fn who_knows_that_everything_is_on_disk_asks_nobody() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let file = synced_file(&fs, "/file").await;
    let same = file.open_again();
    let before = counts(&cluster);
    file.sync().await.unwrap();
    same.sync().await.unwrap();
    assert_eq!(counts(&cluster), before);
    // It was opened again: others have made a version of which nothing is known.
    let other = cluster.connect().await;
    other.write_at("/file", 0, "theirs".into()).await.unwrap();
    let opened = fs.open_file(file.inode()).await.unwrap();
    let (_, _, syncs) = counts(&cluster);
    file.sync().await.unwrap();
    opened.sync().await.unwrap();
    assert_eq!(counts(&cluster).2, syncs + 1);
    // What was told of after the question was sent is asked for again.
    file.invalidate();
    file.sync().await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(counts(&cluster).2, syncs + 2);
}

/// Sees to commits, and tells attributes of a version of its own, which is less than any of the cluster's.
struct OfOwnVersion(Arc<Shared>);

impl std::fmt::Debug for OfOwnVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OfOwnVersion")
    }
}

impl Custodian for OfOwnVersion {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Option<InCustody>> {
        Box::pin(async move {
            let inode = commit.location.inode;
            self.0.state().commit(commit);
            Some(InCustody::Committed(Attributes {
                inode,
                kind: InodeKind::File as i32,
                version: 1,
                ..Attributes::default()
            }))
        })
    }

    fn release(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn what_somebody_else_commits_is_asked_for_each_time() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let file = create(&fs, "/file").await;
    file.entrust(Arc::new(OfOwnVersion(cluster.shared.clone())));
    for round in 1..=3 {
        file.write(0, pattern(100, round)).await.unwrap();
        file.flush().await.unwrap();
        let before = cluster.state().syncs;
        file.sync().await.unwrap();
        assert_eq!(cluster.state().syncs, before + 1, "round {round}");
        file.sync().await.unwrap();
        assert_eq!(cluster.state().syncs, before + 1, "nothing new");
        file.write(0, pattern(50, round)).await.unwrap();
        file.sync().await.unwrap();
        assert_eq!(cluster.state().syncs, before + 2, "nothing is told of it");
    }
}

#[tokio::test]
async fn a_namenode_that_does_not_listen_to_claims_is_asked_every_time() {
    let cluster = FakeCluster::start(1, 3).await;
    cluster.state().faults.deaf_to_claims = true;
    let fs = cluster.connect().await;
    let file = synced_file(&fs, "/file").await;
    file.write(1, "y".into()).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.state().syncs, 3);
    let options = WriteOptions {
        sync: true,
        ..WriteOptions::default()
    };
    fs.write_file("/small", "content".into(), &options)
        .await
        .unwrap();
    assert_eq!(cluster.state().syncs, 4);
}

#[tokio::test]
async fn bytes_that_go_into_another_chunk_after_all_are_synced_there() {
    let cluster = FakeCluster::start(1, 4).await;
    let fs = cluster.connect().await;
    let file = synced_file(&fs, "/file").await;
    let syncs = cluster.state().syncs;
    {
        let mut state = cluster.state();
        let sealed = vec![Failure::from(ErrorCode::Sealed)];
        state.faults.refusals.insert("commit", sealed);
    }
    file.write(0, "bytes".into()).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.state().syncs, syncs);
    assert!(
        cluster
            .state()
            .content("/file")
            .unwrap()
            .starts_with(b"bytes")
    );
}

#[tokio::test]
async fn a_stream_is_synced_with_its_last_packet_and_goes_on() {
    let cluster = FakeCluster::start(1, 3).await;
    cluster.state().chunk_size = 64 << 20;
    let fs = cluster.connect().await;
    let file = synced_file(&fs, "/file").await;
    file.write(0, pattern(9 << 20, 1)).await.unwrap();
    file.sync().await.unwrap();
    // What it has committed meanwhile may not have been on disk; nothing more is open.
    let syncs = cluster.state().syncs;
    for at in [77, 5 << 20, 20 << 20] {
        file.write(at, pattern(4096, 2)).await.unwrap();
        file.sync().await.unwrap();
    }
    assert_eq!(cluster.state().syncs, syncs);
    file.write(3, "unsynced".into()).await.unwrap();
    file.flush().await.unwrap();
    file.write(99, "synced".into()).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.state().syncs, syncs + 1);
}

#[tokio::test]
async fn a_small_file_and_a_log_that_are_synced_ask_for_nothing_more() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let options = WriteOptions {
        sync: true,
        ..WriteOptions::default()
    };
    fs.write_file("/small", "content".into(), &options)
        .await
        .unwrap();
    assert_eq!(cluster.state().syncs, 0);
    fs.create("/log", 0o644, IfExists::Fail).await.unwrap();
    let mut log = fs.open_append("/log").await.unwrap();
    for _ in 0..4 {
        log.write(&[7; 1000]).await.unwrap();
        log.sync().await.unwrap();
    }
    assert_eq!(
        cluster.state().syncs,
        1,
        "of the first version nothing was known"
    );
    log.write(&[7; 1000]).await.unwrap();
    log.flush().await.unwrap();
    log.sync().await.unwrap();
    assert_eq!(cluster.state().syncs, 2);
    log.close().await.unwrap();
    assert_eq!(cluster.state().syncs, 2);
}

#[tokio::test]
async fn after_a_pipeline_has_failed_the_leader_is_asked_who_waits_longer_for_slow_disks() {
    let cluster = FakeCluster::start(1, 4).await;
    let fs = cluster.connect().await;
    let file = synced_file(&fs, "/file").await;
    let syncs = cluster.state().syncs;
    cluster.state().faults.fail_at_packet = Some((0, 2));
    file.write(0, "bytes".into()).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.state().syncs, syncs + 1);
    assert!(
        cluster
            .state()
            .content("/file")
            .unwrap()
            .starts_with(b"bytes")
    );
    file.write(0, "again".into()).await.unwrap();
    file.sync().await.unwrap();
    assert_eq!(cluster.state().syncs, syncs + 1);
}
