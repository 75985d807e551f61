//! Bytes of a replica change on disk: no reader ever gets them, and the replica is replaced.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use cairn_client::{FileSystem, WriteOptions};
use cairn_daemon::config::ByteSize;
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, DatanodeId};
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};

/// Changes one byte.
fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 0x40;
    file.write_all_at(&byte, offset).unwrap();
}

async fn only_chunk(cluster: &MiniCluster, fs: &FileSystem, path: &str) -> ChunkId {
    let chunks = cluster.chunks_of(fs, path).await.unwrap();
    assert_eq!(chunks.len(), 1);
    *chunks.first().unwrap()
}

/// The data of a chunk on every datanode that should have it.
async fn replicas(cluster: &MiniCluster, chunk: ChunkId) -> anyhow::Result<Vec<Vec<u8>>> {
    let chunks = cluster.chunks().await?;
    let mut all = Vec::new();
    for replica in &chunks[&chunk].replicas {
        let index = cluster
            .datanode_index(DatanodeId(replica.datanode))
            .unwrap();
        let files = cluster.data_files(index)?;
        let Some(path) = files.get(&chunk) else {
            continue;
        };
        all.push(fs::read(path)?);
    }
    Ok(all)
}

async fn wait_repaired(cluster: &MiniCluster, chunk: ChunkId, good: &[u8]) {
    cluster
        .until("the bad replica is replaced", async || {
            let found = replicas(cluster, chunk).await?;
            let right = found.iter().filter(|bytes| bytes[..] == *good).count();
            ensure!(
                found.len() == 3 && right == 3,
                "{right} of {} are right",
                found.len()
            );
            Ok(())
        })
        .await
        .unwrap();
}

/// Reads with clients that choose replicas differently.
async fn read_often(cluster: &mut MiniCluster, path: &str, expected: &Bytes) {
    for _ in 0..12 {
        let fs = cluster.client().await.unwrap();
        assert!(
            fs.read_file(path).await.unwrap() == *expected,
            "{path} differs"
        );
        let reader = fs.open(path).await.unwrap();
        let half = expected.len() as u64 / 2;
        assert!(reader.read_at(half, expected.len()).await.unwrap() == expected[half as usize..]);
    }
}

async fn corrupt_and_read(datanodes: usize, len: usize) {
    let mut cluster = MiniCluster::start(ClusterOptions {
        datanodes,
        ..ClusterOptions::default()
    })
    .await
    .unwrap();
    let fs = cluster.client().await.unwrap();
    let bytes = content(1, len);
    fs.write_file("/file", bytes.clone(), &WriteOptions::default())
        .await
        .unwrap();
    let chunk = only_chunk(&cluster, &fs, "/file").await;
    let good = replicas(&cluster, chunk).await.unwrap().pop().unwrap();
    let holder = cluster.chunks().await.unwrap()[&chunk].replicas[0].datanode;
    let index = cluster.datanode_index(DatanodeId(holder)).unwrap();
    flip(&cluster.data_files(index).unwrap()[&chunk], len as u64 / 2);
    read_often(&mut cluster, "/file", &bytes).await;
    wait_repaired(&cluster, chunk, &good).await;
    read_often(&mut cluster, "/file", &bytes).await;
    cluster.wait_healthy(&fs).await.unwrap();
    cluster.wait_files_match().await.unwrap();
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_in_a_large_file_is_never_read_and_the_replica_moves() {
    corrupt_and_read(4, 3 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_byte_in_an_open_chunk_is_never_read_and_the_replica_moves() {
    corrupt_and_read(4, 5000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_datanode_to_spare_a_bad_replica_is_replaced_in_place() {
    corrupt_and_read(3, 2 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_reads_is_found_by_the_scrubber() {
    let mut options = ClusterOptions {
        datanodes: 4,
        scrub_rate: ByteSize::mib(64),
        ..ClusterOptions::default()
    };
    // Only sealed replicas are scrubbed.
    options.controllers.idle_chunk_max = Duration::from_millis(200);
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let bytes = content(1, 3 << 20);
    fs.write_file("/file", bytes.clone(), &WriteOptions::default())
        .await
        .unwrap();
    let chunk = only_chunk(&cluster, &fs, "/file").await;
    let good = replicas(&cluster, chunk).await.unwrap().pop().unwrap();
    let holder = cluster.chunks().await.unwrap()[&chunk].replicas[2].datanode;
    let index = cluster.datanode_index(DatanodeId(holder)).unwrap();
    flip(&cluster.data_files(index).unwrap()[&chunk], 1 << 20);
    wait_repaired(&cluster, chunk, &good).await;
    assert!(fs.read_file("/file").await.unwrap() == bytes);
    cluster.wait_healthy(&fs).await.unwrap();
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_no_replica_holds_are_an_error_and_never_made_up() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let bytes = content(1, 3 << 20);
    fs.write_file("/file", bytes.clone(), &WriteOptions::default())
        .await
        .unwrap();
    let chunk = only_chunk(&cluster, &fs, "/file").await;
    for index in 0..3 {
        flip(&cluster.data_files(index).unwrap()[&chunk], 1 << 20);
    }
    for _ in 0..3 {
        assert_eq!(
            fs.read_file("/file").await.unwrap_err().code(),
            ErrorCode::DataLost
        );
    }
    // The rest of the file is still served: nobody threw the last replicas away.
    let reader = fs.open("/file").await.unwrap();
    assert!(reader.read_at(0, 512 << 10).await.unwrap() == bytes[..512 << 10]);
    assert!(reader.read_at(2 << 20, 1 << 20).await.unwrap() == bytes[2 << 20..]);
    cluster
        .until("the loss is reported", async || {
            ensure!(!cluster.fsck(&fs).await?.is_empty());
            Ok(())
        })
        .await
        .unwrap();
    assert!(reader.read_at(0, 512 << 10).await.unwrap() == bytes[..512 << 10]);
}
