//! What is read is what was written, or an error.

use std::time::Duration;

use bytes::Bytes;
use cairn_client::{Error, FileSystem, WriteOptions};
use cairn_protocol::ErrorCode;
use cairn_protocol::checksum::crc32c;

use crate::fake::{FakeCluster, pattern};

async fn with_file(content: &Bytes) -> (FakeCluster, FileSystem) {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    fs.write_file("/file", content.clone(), &WriteOptions::default())
        .await
        .expect("nothing fails yet");
    // What the write asked for is not what these tests count.
    cluster.state().queries = 0;
    (cluster, fs)
}

async fn read_all(fs: &FileSystem, offset: u64) -> Vec<u8> {
    let mut stream = fs.open("/file").await.expect("it is there").stream(offset);
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await.expect("replicas serve") {
        all.extend_from_slice(&piece);
        assert_eq!(stream.offset(), offset + all.len() as u64);
    }
    all
}

#[tokio::test]
async fn a_small_file_is_one_request_to_each() {
    let content = pattern(4096, 1);
    let (cluster, fs) = with_file(&content).await;
    assert_eq!(fs.read_file("/file").await.unwrap(), content);
    let state = cluster.state();
    assert_eq!((state.queries, state.reads), (1, 1));
}

#[tokio::test]
async fn any_range_reads_the_same() {
    let content = pattern((9 << 20) + 345, 1);
    let (_cluster, fs) = with_file(&content).await;
    let reader = fs.open("/file").await.unwrap();
    for (offset, length) in [
        (0, 10),
        (65_530, 20),
        ((4 << 20) - 5, 10),
        ((1 << 20) - 1, 3 << 20),
        (0, 20 << 20),
    ] {
        let end = content.len().min(offset + length);
        assert!(reader.read_at(offset as u64, length).await.unwrap() == content[offset..end]);
        let mut buffer = vec![0; length];
        let read = reader
            .read_at_into(offset as u64, &mut buffer)
            .await
            .unwrap();
        assert!(buffer[..read] == content[offset..end]);
    }
    assert!(
        reader
            .read_at(content.len() as u64, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(reader.read_at(u64::MAX, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_stream_reads_all_in_order() {
    let content = pattern((9 << 20) + 345, 1);
    let (_cluster, fs) = with_file(&content).await;
    assert!(read_all(&fs, 0).await == content);
    assert!(read_all(&fs, 1_234_567).await == content[1_234_567..]);
}

#[tokio::test]
async fn a_corrupt_replica_is_reported_and_the_next_one_read() {
    let content = pattern(200_000, 1);
    let (cluster, fs) = with_file(&content).await;
    cluster.state().faults.corrupt.insert(1);
    assert_eq!(fs.read_file("/file").await.unwrap(), content);
    fs.close().await.unwrap();
    let reports = cluster.state().reports.clone();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].datanode, 1);
    assert_eq!(reports[0].code, ErrorCode::ChecksumMismatch as u32);
}

#[tokio::test]
async fn a_datanode_that_hangs_costs_no_timeout_and_is_no_failure() {
    let content = pattern(200_000, 1);
    let (cluster, _) = with_file(&content).await;
    let mut config = cluster.config();
    config.timeouts.hedge = Duration::from_millis(1);
    config.timeouts.read = Duration::from_secs(3600);
    let fs = FileSystem::connect(config).await.unwrap();
    cluster.state().faults.silent.insert(1);
    for _ in 0..3 {
        assert_eq!(fs.read_file("/file").await.unwrap(), content);
    }
    fs.close().await.unwrap();
    assert_eq!(cluster.state().reports.len(), 0);
}

#[tokio::test]
async fn bytes_that_no_replica_has_right_are_an_error_that_names_them() {
    let content = pattern(200_000, 1);
    let (cluster, fs) = with_file(&content).await;
    cluster.state().faults.corrupt.extend([1, 2, 3]);
    let reader = fs.open("/file").await.unwrap();
    let error = reader.read_at(1000, 50).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::DataLost {
                offset: 1000,
                length: 50,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .starts_with("/file: Input/output error: bytes 1000 to 1050")
    );
    // Extents were fetched once more before it was believed.
    assert_eq!(cluster.state().queries, 2);
}

#[tokio::test]
async fn holes_read_as_zeros() {
    let content = pattern(1000, 1);
    let (_cluster, fs) = with_file(&content).await;
    fs.write_at("/file", 3_000_000, content.clone())
        .await
        .unwrap();
    fs.truncate("/file", 5_000_000).await.unwrap();
    let mut expected = content.to_vec();
    expected.resize(3_000_000, 0);
    expected.extend_from_slice(&content);
    expected.resize(5_000_000, 0);
    assert!(read_all(&fs, 0).await == expected);
    assert!(fs.read_file("/file").await.unwrap() == expected);
    let checksum = fs.checksum("/file").await.unwrap();
    assert_eq!(
        (checksum.crc32c, checksum.length),
        (crc32c(&expected), 5_000_000)
    );
}

#[tokio::test]
async fn a_checksum_moves_no_data_unless_an_extent_was_cut() {
    let content = pattern((9 << 20) + 345, 1);
    let (cluster, fs) = with_file(&content).await;
    assert_eq!(fs.checksum("/file").await.unwrap().crc32c, crc32c(&content));
    assert_eq!(cluster.state().reads, 0);
    for inode in cluster.state().inodes.values_mut() {
        for extent in &mut inode.extents {
            extent.crc_known = false;
        }
    }
    assert_eq!(fs.checksum("/file").await.unwrap().crc32c, crc32c(&content));
    assert!(cluster.state().reads > 0);
}

#[tokio::test]
async fn a_tail_sees_what_is_appended() {
    let content = pattern(1000, 1);
    let (_cluster, fs) = with_file(&content).await;
    let mut stream = fs.open("/file").await.unwrap().stream(0);
    assert_eq!(stream.next().await.unwrap().unwrap(), content);
    assert_eq!(stream.next().await.unwrap(), None);
    fs.record_append("/file", "more".into()).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), "more");
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let (_cluster, fs) = with_file(&pattern(10, 1)).await;
    let error = fs.read_file("/nothing").await.unwrap_err();
    assert_eq!(error.to_string(), "/nothing: No such file or directory");
}

#[tokio::test]
async fn a_read_sees_each_commit_wholly_or_not_at_all_however_many_pages_it_takes() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let content = pattern(10, 0);
    fs.write_file("/f", content, &WriteOptions::default())
        .await
        .unwrap();
    // Four extents that are not neighbours in their chunk: pages of the fake have two.
    for at in [0_u64, 30, 20, 10] {
        let bytes = vec![b'A'; 10].into();
        fs.write_at("/f", at, bytes).await.unwrap();
    }
    let reader = fs.open("/f").await.unwrap();
    let file = fs.open_file(reader.inode()).await.unwrap();
    file.write(15, "x".into()).await.unwrap();
    assert_eq!(file.read(10, 10).await.unwrap(), "AAAAAxAAAA");
    // Both know the first page of what is there now.
    fs.write_at("/f", 0, vec![b'B'; 40].into()).await.unwrap();
    assert_eq!(reader.read_at(0, 40).await.unwrap(), [b'B'; 40].as_slice());
    let mut buffer = [0; 50];
    assert_eq!(reader.read_at_into(0, &mut buffer).await.unwrap(), 40);
    assert_eq!(buffer[..40], [b'B'; 40]);
    let mut expected = file.read(0, 40).await.unwrap().to_vec();
    expected[15] = expected[0];
    assert_eq!(expected, vec![expected[0]; 40]);
}
