//! Sync: on disk on every replica, whoever wrote the bytes.

use cairn_client::{FileSystem, WriteOptions};
use cairn_protocol::ids::ChunkId;
use cairn_protocol::messages::operation::IfExists;
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};

/// Each chunk of the file is durable through what the file uses of it: by the committed state and by every replica itself.
async fn assert_synced(cluster: &MiniCluster, fs: &FileSystem, path: &str) {
    let located = fs.extents(path, 0, u64::MAX / 2).await.unwrap();
    assert!(!located.extents.is_empty());
    let chunks = cluster.chunks().await.unwrap();
    for extent in located.extents.iter().map(|located| located.extent) {
        let id = ChunkId(extent.chunk);
        let end = extent.offset_in_chunk + extent.length;
        assert!(
            chunks[&id].synced_length >= end,
            "chunk {id}: {:?}, needs {end}",
            chunks[&id]
        );
        assert_eq!(chunks[&id].replicas.len(), 3);
        for index in 0..3 {
            let info = cluster.datanode(index).unwrap().store().find(id).unwrap();
            assert!(
                info.synced_length >= end,
                "replica on {index}: {info:?}, needs {end}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_is_durable_on_every_replica() {
    let options = ClusterOptions {
        chunk_size: 2 << 20,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    // Small, and over several chunks.
    for (path, len) in [("/small", 3000), ("/large", 7 << 20)] {
        let options = WriteOptions {
            sync: true,
            ..WriteOptions::default()
        };
        fs.write_file(path, content(1, len), &options)
            .await
            .unwrap();
        assert_synced(&cluster, &fs, path).await;
    }
    // A file that grows.
    fs.create("/log", 0o644, IfExists::Fail).await.unwrap();
    let mut log = fs.open_append("/log").await.unwrap();
    for round in 0..3 {
        log.write(&content(round, 900_000)).await.unwrap();
        log.sync().await.unwrap();
        assert_synced(&cluster, &fs, "/log").await;
    }
    log.close().await.unwrap();
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_covers_bytes_that_others_wrote() {
    let mut cluster = MiniCluster::start(ClusterOptions::of_namenodes(3))
        .await
        .unwrap();
    let writers = [
        cluster.client().await.unwrap(),
        cluster.client().await.unwrap(),
    ];
    let fs = cluster.client().await.unwrap();
    fs.create("/shared", 0o644, IfExists::Fail).await.unwrap();
    for (seed, writer) in writers.iter().enumerate() {
        let path = format!("/part-{seed}");
        writer
            .write_file(
                &path,
                content(seed as u64, 100_000),
                &WriteOptions::default(),
            )
            .await
            .unwrap();
        let shared = fs
            .clone_range(&path, 0, 100_000, "/shared", seed as u64 * 100_000)
            .await
            .unwrap();
        assert_eq!(shared, 100_000);
        writer
            .record_append("/shared", content(9, 50))
            .await
            .unwrap();
        fs.truncate("/shared", (seed as u64 + 1) * 100_000)
            .await
            .unwrap();
    }
    assert!(
        cluster.chunks_of(&fs, "/shared").await.unwrap().len() >= 2,
        "written by two clients"
    );
    fs.sync("/shared").await.unwrap();
    assert_synced(&cluster, &fs, "/shared").await;
    // A leader that knows nothing yet still syncs everywhere.
    writers[0]
        .write_at("/shared", 50_000, content(5, 80_000))
        .await
        .unwrap();
    let leader = cluster.leader().await.unwrap();
    cluster.kill_namenode(leader).await;
    fs.sync("/shared").await.unwrap();
    assert_synced(&cluster, &fs, "/shared").await;
}

/// The value of a counter in a text of metrics; 0 if it has counted nothing yet.
fn counter(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

/// Entries of the log, and syncs that the leader was asked for.
fn costs(cluster: &MiniCluster, leader: usize) -> (u64, u64) {
    let namenode = cluster.namenode(leader).unwrap();
    let applied = *namenode.group().state().watch_applied().borrow();
    let asked = r#"dfs_namenode_requests_total{method="Sync"}"#;
    let asked = counter(&namenode.metrics().render(), asked);
    (applied.unwrap().index, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_write_and_its_sync_are_one_entry_of_the_log() {
    const ROUNDS: u64 = 50;
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let (attributes, _) = fs.create("/file", 0o644, IfExists::Fail).await.unwrap();
    let file = fs.open_file_known(&attributes);
    for at in 0..4 {
        file.write(at, content(at, 4096)).await.unwrap();
        file.sync().await.unwrap();
    }
    let (entries, asked) = costs(&cluster, leader);
    assert_eq!(asked, 1, "of the first version nothing was known");
    for round in 0..ROUNDS {
        let at = round * 37 % 50 * 4096;
        file.write(at, content(round, 4096)).await.unwrap();
        file.sync().await.unwrap();
    }
    let (after, asked) = costs(&cluster, leader);
    assert_eq!(asked, 1);
    // The leader may have had something to do for itself.
    assert!(after - entries < ROUNDS + 5, "{entries} to {after}");
    assert_synced(&cluster, &fs, "/file").await;
    // A file that is made and synced is one, too.
    let options = WriteOptions {
        sync: true,
        ..WriteOptions::default()
    };
    fs.write_file("/small", content(1, 3000), &options)
        .await
        .unwrap();
    assert_eq!(costs(&cluster, leader).1, 1);
    assert_synced(&cluster, &fs, "/small").await;
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_is_not_believed_about_what_others_wrote_before_in_the_same_chunk() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let [first, second] = [
        cluster.client().await.unwrap(),
        cluster.client().await.unwrap(),
    ];
    let unsynced = WriteOptions::default();
    first
        .write_file("/flushed", content(1, 50_000), &unsynced)
        .await
        .unwrap();
    let chunks = cluster.chunks_of(&first, "/flushed").await.unwrap();
    // It gives its chunk back, and the next one who writes gets it.
    first.close().await.unwrap();
    let (attributes, _) = second.create("/file", 0o644, IfExists::Fail).await.unwrap();
    let file = second.open_file_known(&attributes);
    for round in 0..4 {
        file.write(round * 9000, content(round, 4096))
            .await
            .unwrap();
        file.sync().await.unwrap();
        assert_synced(&cluster, &second, "/file").await;
    }
    let shared = cluster.chunks_of(&second, "/file").await.unwrap();
    assert!(
        shared.iter().any(|chunk| chunks.contains(chunk)),
        "{chunks:?} and {shared:?}"
    );
    second.sync("/flushed").await.unwrap();
    assert_synced(&cluster, &second, "/flushed").await;
    cluster.check(&second).await.unwrap();
}
