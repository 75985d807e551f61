//! What is written is read, through every size that takes another way.

use bytes::Bytes;
use cairn_client::{AttributeChange, FileChecksum, WriteOptions};
use cairn_protocol::ErrorCode;
use cairn_protocol::checksum::crc32c;
use cairn_protocol::messages::operation::IfExists;
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_every_size_are_read_as_they_were_written() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.mkdir("/data", 0o755).await.unwrap();
    // Empty, small, at the edges of blocks, packets and chunks, over several chunks.
    let sizes = [
        0,
        1,
        4096,
        65_536,
        65_537,
        1 << 20,
        (1 << 20) + 1,
        8 << 20,
        (20 << 20) + 12_345,
    ];
    for (seed, size) in sizes.into_iter().enumerate() {
        let path = format!("/data/{size}");
        let bytes = content(seed as u64, size);
        fs.write_file(path.as_str(), bytes.clone(), &WriteOptions::default())
            .await
            .unwrap();
        let read = fs.read_file(path.as_str()).await.unwrap();
        assert!(read == bytes, "{path} differs");
        assert_eq!(fs.stat(path.as_str()).await.unwrap().size, size as u64);
    }
    assert_eq!(fs.list_all("/data").await.unwrap().len(), sizes.len());
    assert_eq!(cluster.fsck(&fs).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_namenodes_found_one_cluster() {
    let options = ClusterOptions {
        namenodes: 3,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.write_file(
        "/hello",
        Bytes::from_static(b"world"),
        &WriteOptions::default(),
    )
    .await
    .unwrap();
    assert_eq!(
        fs.read_file("/hello").await.unwrap(),
        Bytes::from_static(b"world")
    );
    let status = fs.status().await.unwrap();
    assert_eq!(status.namenodes.len(), 3);
    assert_eq!(status.datanodes.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_what_was_expected_gets_no_name_and_takes_none() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let replace = WriteOptions {
        if_exists: IfExists::Replace,
        ..WriteOptions::default()
    };
    for size in [5_000, (3 << 20) + 1] {
        let path = format!("/{size}");
        let (old, new) = (content(1, 700), content(2, size));
        fs.write_file(path.as_str(), old.clone(), &replace)
            .await
            .unwrap();
        let expected = |crc32c| FileChecksum {
            crc32c,
            length: size as u64,
        };
        let close = async |crc| {
            let mut writer = fs.create_writer(path.as_str(), replace.clone()).unwrap();
            writer.write_bytes(new.clone()).await.unwrap();
            writer.close_verified(expected(crc)).await
        };
        let right = crc32c(&new);
        let error = close(right ^ 1).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ChecksumMismatch);
        assert!(error.to_string().starts_with(&path), "{error}");
        assert!(fs.read_file(path.as_str()).await.unwrap() == old);
        assert_eq!(close(right).await.unwrap().size, size as u64);
        assert!(fs.read_file(path.as_str()).await.unwrap() == new);
    }
    assert_eq!(cluster.fsck(&fs).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_writes_have_the_replicas_that_their_file_or_directory_asks_for() {
    let options = ClusterOptions {
        replication: 1,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.mkdir("/safe", 0o755).await.unwrap();
    let change = AttributeChange {
        replication: Some(3),
        ..AttributeChange::default()
    };
    fs.set_attributes("/safe", change).await.unwrap();
    // Another client, which has heard nothing yet.
    let fs = cluster.client().await.unwrap();
    fs.write_file("/safe/file", content(1, 500), &WriteOptions::default())
        .await
        .unwrap();
    fs.record_append("/safe/file", content(2, 500))
        .await
        .unwrap();
    let other = cluster.client().await.unwrap();
    other
        .record_append("/safe/file", content(3, 500))
        .await
        .unwrap();
    let other = cluster.client().await.unwrap();
    other
        .write_at("/safe/file", 9, content(4, 5))
        .await
        .unwrap();
    let chunks = cluster.chunks().await.unwrap();
    for id in cluster.chunks_of(&fs, "/safe/file").await.unwrap() {
        assert_eq!(chunks[&id].replicas.len(), 3, "chunk {id}");
    }
    fs.write_file("/file", content(5, 500), &WriteOptions::default())
        .await
        .unwrap();
    for id in cluster.chunks_of(&fs, "/file").await.unwrap() {
        assert_eq!(cluster.chunks().await.unwrap()[&id].replicas.len(), 1);
    }
}
