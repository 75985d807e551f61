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
    let mut cluster = MiniCluster::start(ClusterOptions {
        namenodes: 3,
        ..ClusterOptions::default()
    })
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
