//! Clone, concat, append and record append through the client.

use std::collections::BTreeSet;

use bytes::Bytes;
use cairn_client::{Place, WriteOptions};
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::IfExists;
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_shares_bytes_and_changes_alone() {
    let options = ClusterOptions {
        chunk_size: 2 << 20,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let bytes = content(1, 5 << 20);
    fs.write_file("/original", bytes.clone(), &WriteOptions::default())
        .await
        .unwrap();
    let before = fs.status().await.unwrap().counts.live_bytes;
    fs.create("/clone", 0o644, IfExists::Fail).await.unwrap();
    assert_eq!(
        fs.clone_range("/original", 0, u64::MAX / 2, "/clone", 0)
            .await
            .unwrap(),
        5 << 20
    );
    assert!(fs.read_file("/clone").await.unwrap() == bytes);
    assert_eq!(
        fs.status().await.unwrap().counts.live_bytes,
        before,
        "no data was written"
    );
    // Each changes without the other.
    let patch = content(2, 300_000);
    fs.write_at("/clone", 1_000_000, patch.clone())
        .await
        .unwrap();
    fs.punch_hole("/original", 3 << 20, 1 << 20, false)
        .await
        .unwrap();
    let mut clone = bytes.to_vec();
    clone[1_000_000..1_300_000].copy_from_slice(&patch);
    let mut original = bytes.to_vec();
    original[3 << 20..4 << 20].fill(0);
    assert!(fs.read_file("/clone").await.unwrap() == clone);
    assert!(fs.read_file("/original").await.unwrap() == original);
    fs.unlink("/original").await.unwrap();
    cluster.wait_files_match().await.unwrap();
    assert!(fs.read_file("/clone").await.unwrap() == clone);
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concat_moves_contents_and_removes_the_sources() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let mut expected = Vec::new();
    for (seed, len) in [700, 3 << 20, 0, 65_537].into_iter().enumerate() {
        let bytes = content(seed as u64, len);
        fs.write_file(
            format!("/part-{seed}"),
            bytes.clone(),
            &WriteOptions::default(),
        )
        .await
        .unwrap();
        expected.extend_from_slice(&bytes);
    }
    let sources = (1..4).map(|seed| Place::from(format!("/part-{seed}")));
    let whole = fs.concat("/part-0", sources).await.unwrap();
    assert_eq!(whole.size, expected.len() as u64);
    assert!(fs.read_file("/part-0").await.unwrap() == expected);
    assert_eq!(fs.list_all("/").await.unwrap().len(), 1);
    // All or nothing.
    fs.write_file("/more", content(9, 10), &WriteOptions::default())
        .await
        .unwrap();
    let missing = fs
        .concat("/part-0", [Place::from("/more"), Place::from("/missing")])
        .await
        .unwrap_err();
    assert_eq!(missing.code(), ErrorCode::NotFound);
    assert_eq!(fs.stat("/more").await.unwrap().size, 10);
    assert_eq!(
        fs.stat("/part-0").await.unwrap().size,
        expected.len() as u64
    );
    let itself = fs
        .concat("/part-0", [Place::from("/part-0")])
        .await
        .unwrap_err();
    assert_eq!(itself.code(), ErrorCode::InvalidArgument);
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_go_to_the_end_and_are_seen_when_flushed() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let reader_fs = cluster.client().await.unwrap();
    let bytes = content(1, 4 << 20);
    fs.write_file("/file", bytes.slice(..1000), &WriteOptions::default())
        .await
        .unwrap();
    let reader = reader_fs.open("/file").await.unwrap();
    let mut writer = fs.open_append("/file").await.unwrap();
    let mut end = 1000;
    for step in [1, 500, 70_000, 2 << 20] {
        writer.write(&bytes[end..end + step]).await.unwrap();
        writer.flush().await.unwrap();
        assert!(
            reader.read_at(end as u64, step).await.unwrap() == bytes[end..end + step],
            "tail"
        );
        end += step;
    }
    assert_eq!(writer.close().await.unwrap().size, end as u64);
    assert!(reader_fs.read_file("/file").await.unwrap() == bytes[..end]);
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_many_writers_arrive_whole_and_once() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.create("/records", 0o644, IfExists::Fail).await.unwrap();
    let mut writers = JoinSet::new();
    for writer in 0..4_u64 {
        let fs = cluster.client().await.unwrap();
        writers.spawn(async move {
            let mut offsets = Vec::new();
            for round in 0..25 {
                let seed = writer * 25 + round;
                let offset = fs
                    .record_append("/records", content(seed, 1000))
                    .await
                    .unwrap();
                offsets.push((seed, offset));
            }
            offsets
        });
    }
    let mut offsets = BTreeSet::new();
    let mut records: Vec<(u64, u64)> = Vec::new();
    while let Some(writer) = writers.join_next().await {
        records.extend(writer.unwrap());
    }
    let whole: Bytes = fs.read_file("/records").await.unwrap();
    assert_eq!(whole.len(), 100 * 1000);
    for (seed, offset) in records {
        let at = offset as usize;
        assert!(
            whole[at..at + 1000] == content(seed, 1000),
            "record {seed} at {offset}"
        );
        offsets.insert(offset);
    }
    assert_eq!(offsets.len(), 100);
    cluster.check(&fs).await.unwrap();
}
