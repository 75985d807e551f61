//! What is written is read, through every size that takes another way.

use bytes::Bytes;
use cairn_client::WriteOptions;
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
