//! A client on a datanode's machine reads sealed replicas from their files, and never anything but what was committed.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use cairn_client::{ClusterConfig, FileSystem, OpenFile, WriteOptions};
use cairn_protocol::ids::{ChunkId, InodeId};
use cairn_protocol::messages::common::Caller;
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};

const ROT: &[u8] = b"what should not be here";
const CHUNK_BYTES: usize = 4 << 20;
/// More than one chunk, so that all but the last are full and sealed.
const FILE_BYTES: usize = 3 * CHUNK_BYTES;
/// Far from everything else that is read.
const FAR: u64 = 2 * CHUNK_BYTES as u64 + 12_345;

/// A client on the machine of the first datanode, and a file on it that is open twice.
async fn started() -> (MiniCluster, FileSystem, OpenFile, Bytes) {
    let cluster = MiniCluster::start(ClusterOptions {
        chunk_size: CHUNK_BYTES as u64,
        datanodes: 3,
        replication: 3,
        ..ClusterOptions::default()
    })
    .await
    .unwrap();
    let mut config = ClusterConfig::new(cluster.addresses().to_vec(), Caller::default());
    config.host = cluster.datanode(0).unwrap().host().to_owned();
    let fs = FileSystem::connect(config).await.unwrap();
    let bytes = content(7, FILE_BYTES);
    fs.write_file("/file", bytes.clone(), &WriteOptions::default())
        .await
        .unwrap();
    let inode = fs.stat("/file").await.unwrap().inode;
    let file = fs.open_file(InodeId(inode)).await.unwrap();
    // A page of extents begins where the first read does, and what is told of an extent begins with a whole block.
    file.read(0, 1).await.unwrap();
    (cluster, fs, file, bytes)
}

/// Reads until the client knows where the bytes are.
async fn read_until_here(file: &OpenFile, offset: u64, expected: &[u8]) {
    let here = async {
        loop {
            let read = file.read(offset, expected.len()).await.unwrap();
            assert!(read == expected, "{offset}");
            // Reads of the same place are read ahead of, and then come from memory.
            file.read(FAR, 1).await.unwrap();
            match file.read_here(offset, expected.len()) {
                Some(read) => return assert!(read == expected, "{offset}"),
                None => tokio::task::yield_now().await,
            }
        }
    };
    let here = tokio::time::timeout(Duration::from_secs(60), here);
    here.await.expect("the replica can be read from its file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_from_files_is_what_the_file_is() {
    let (_cluster, fs, file, bytes) = started().await;
    read_until_here(&file, 100_000, &bytes[100_000..104_096]).await;
    let here = |offset: usize, length: usize| file.read_here(offset as u64, length);
    assert!(here(99_999, 3).unwrap() == bytes[99_999..100_002]);
    // The end of the file, and what is too much to block for, are for others.
    assert_eq!(here(FILE_BYTES - 1, 2), None);
    assert_eq!(here(0, 1 << 20), None);
    assert_eq!(here(0, 0), None);

    // What is written and not committed is above it, and what is committed then takes its place.
    file.write(100_000, Bytes::from_static(b"new"))
        .await
        .unwrap();
    assert_eq!(here(99_999, 3), None);
    assert!(here(90_000, 3).unwrap() == bytes[90_000..90_003]);
    let read = file.read(99_999, 5).await.unwrap();
    assert_eq!((&read[1..4], read[4]), (&b"new"[..], bytes[100_003]));
    file.flush().await.unwrap();
    assert_eq!(
        here(100_000, 3).unwrap_or(Bytes::from_static(b"new")),
        "new"
    );
    assert_eq!(file.read(100_000, 3).await.unwrap(), "new");

    // Others' changes are asked for before anything more is read.
    file.invalidate();
    assert_eq!(here(90_000, 3), None);
    drop(file);
    fs.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_on_the_disk_is_read_elsewhere_and_replaced() {
    let (cluster, fs, file, bytes) = started().await;
    read_until_here(&file, 0, &bytes[..4096]).await;
    let extent = fs.extents("/file", 0, 1).await.unwrap().extents.remove(0);
    let extent = extent.extent;
    let chunk = ChunkId(extent.chunk);
    let path = cluster.data_files(0).unwrap()[&chunk].clone();
    let replica = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    replica
        .write_all_at(ROT, extent.offset_in_chunk + 5000)
        .unwrap();
    file.read(FAR, 1).await.unwrap();
    assert_eq!(file.read_here(4096, 4096), None);
    assert!(file.read(4096, 4096).await.unwrap() == bytes[4096..8192]);
    // Not for the bytes around it either, for a while.
    assert_eq!(file.read_here(0, 4096), None);
    let replaced = cluster
        .until("the replica is replaced", async || {
            let files = cluster.data_files(0)?;
            let path = files.get(&chunk).context("no replica")?;
            let found = std::fs::read(path)?;
            let is_bad = found.windows(ROT.len()).any(|bytes| bytes == ROT);
            ensure!(!found.is_empty() && !is_bad, "still bad");
            Ok(())
        })
        .await;
    replaced.unwrap();
    fs.close().await.unwrap();
}
