//! Files open for reads and writes at any offset, as a mount has them.

use anyhow::ensure;
use cairn_client::{FileSystem, OpenFile};
use cairn_protocol::ids::{DatanodeId, InodeId};
use cairn_protocol::messages::operation::IfExists;
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

const SIZE_MAX: u64 = 6 << 20;

async fn create(fs: &FileSystem, path: &str) -> OpenFile {
    let (attributes, _) = fs.create(path, 0o644, IfExists::Fail).await.unwrap();
    fs.open_file_known(&attributes)
}

fn put(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if file.len() < end {
        file.resize(end, 0);
    }
    file[start..end].copy_from_slice(bytes);
}

fn cut(file: &[u8], offset: u64, length: usize) -> &[u8] {
    let start = file.len().min(offset as usize);
    &file[start..file.len().min(start + length)]
}

/// One random operation on the file and on plain bytes.
async fn step(rng: &mut StdRng, file: &OpenFile, expected: &mut Vec<u8>) -> String {
    let offset = match rng.random_range(0..3) {
        0 => expected.len() as u64 % SIZE_MAX,
        1 => rng.random_range(0..10_000),
        _ => rng.random_range(0..SIZE_MAX),
    };
    let length = match rng.random_range(0..4) {
        0 => rng.random_range(1..100),
        1 | 2 => rng.random_range(1..20_000),
        _ => rng.random_range(1..3 << 20),
    };
    match rng.random_range(0..100) {
        0..45 => {
            let bytes = content(rng.random(), length);
            put(expected, offset, &bytes);
            file.write(offset, bytes).await.unwrap();
            format!("write {offset} {length}")
        }
        45..70 => {
            let bytes = file.read(offset, length).await.unwrap();
            assert!(
                bytes == cut(expected, offset, length),
                "read {offset} {length}"
            );
            format!("read {offset} {length}")
        }
        70..75 => {
            expected.resize(offset as usize, 0);
            let attributes = file.truncate(offset).await.unwrap();
            assert_eq!(attributes.size.max(file.size()), offset);
            format!("truncate {offset}")
        }
        75..80 => {
            let end = expected.len().min(offset as usize + length);
            if let Some(hole) = expected.get_mut(offset as usize..end) {
                hole.fill(0);
            }
            file.punch_hole(offset, length as u64, false).await.unwrap();
            format!("punch {offset} {length}")
        }
        80..85 => {
            let bytes = content(rng.random(), length.min(100_000));
            let at = file.append(bytes.clone()).await.unwrap();
            assert_eq!(at, expected.len() as u64);
            put(expected, at, &bytes);
            format!("append {at} {}", bytes.len())
        }
        85..95 => {
            file.flush().await.unwrap();
            assert!(!file.is_dirty());
            "flush".to_owned()
        }
        _ => {
            let hole = file.seek_hole(offset).await.unwrap();
            assert_eq!(hole.is_none(), offset >= expected.len() as u64);
            let data = file.seek_data(offset).await.unwrap();
            let end = data.unwrap_or(expected.len() as u64) as usize;
            let zeros = expected.get(offset as usize..end).unwrap_or_default();
            assert!(
                zeros.iter().all(|&byte| byte == 0),
                "no data before {data:?}"
            );
            format!("seek {offset}: hole {hole:?}, data {data:?}")
        }
    }
}

async fn assert_equal(file: &OpenFile, expected: &[u8]) {
    assert_eq!(file.size(), expected.len() as u64);
    let bytes = file.read(0, expected.len() + 1).await.unwrap();
    let differs = bytes.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!((bytes.len(), differs), (expected.len(), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clients_that_take_turns_see_what_a_plain_file_would_hold() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let clients = [
        cluster.client().await.unwrap(),
        cluster.client().await.unwrap(),
    ];
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(seed);
        let path = format!("/{seed}");
        let first = create(&clients[0], &path).await;
        let second = clients[1].open_file(first.inode()).await.unwrap();
        let mut expected = Vec::new();
        for turn in 0..12 {
            let file = if turn % 2 == 0 { &first } else { &second };
            file.invalidate();
            file.read(0, 1).await.unwrap();
            let mut history = Vec::new();
            for _ in 0..rng.random_range(1..20) {
                history.push(step(&mut rng, &file.clone(), &mut expected).await);
                let size = file.size();
                assert_eq!(size, expected.len() as u64, "seed {seed}: {history:?}");
            }
            let flushed = file.flush().await.unwrap();
            assert!(flushed.is_none_or(|attributes| attributes.size == expected.len() as u64));
            assert_equal(file, &expected).await;
        }
        for (file, fs) in [(&first, &clients[1]), (&second, &clients[0])] {
            file.invalidate();
            file.read(0, 1).await.unwrap();
            assert_equal(file, &expected).await;
            assert!(
                fs.read_file(&path).await.unwrap() == expected,
                "seed {seed}"
            );
        }
    }
    cluster.check(&clients[0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_write_outlives_a_datanode() {
    let mut cluster = MiniCluster::start(ClusterOptions {
        datanodes: 4,
        chunk_size: 40 << 20,
        ..ClusterOptions::default()
    })
    .await
    .unwrap();
    let fs = cluster.client().await.unwrap();
    let file = create(&fs, "/large").await;
    let bytes = content(1, 60 << 20);
    let piece = 128 << 10;
    for at in (0..bytes.len()).step_by(piece) {
        if at == 24 << 20 {
            cluster
                .until("a chunk is written to", async || {
                    ensure!(!cluster.open_chunks().await?.is_empty());
                    Ok(())
                })
                .await
                .unwrap();
            let (_, open) = cluster.open_chunks().await.unwrap().pop_last().unwrap();
            let victim = DatanodeId(open.replicas[1].datanode);
            let index = cluster.datanode_index(victim).unwrap();
            cluster.kill_datanode(index).await;
        }
        let end = bytes.len().min(at + piece);
        file.write(at as u64, bytes.slice(at..end)).await.unwrap();
    }
    // What is not committed is seen here all the same.
    let read = file.read(59 << 20, 1 << 20).await.unwrap();
    assert!(read == bytes.slice(59 << 20..));
    let attributes = file.sync().await.unwrap().unwrap();
    assert_eq!(attributes.size, bytes.len() as u64);
    for at in (0..bytes.len()).step_by(1 << 20) {
        let read = file.read(at as u64, 1 << 20).await.unwrap();
        assert!(read == bytes.slice(at..at + (1 << 20)), "at {at}");
    }
    let other = cluster.client().await.unwrap();
    assert!(other.read_file("/large").await.unwrap() == bytes);
}

/// Writes, reads and flushes a region that is this task's alone.
async fn work_on_region(file: OpenFile, start: u64, seed: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut expected = vec![0; REGION as usize];
    for _ in 0..60 {
        let length = rng.random_range(1..REGION as usize / 4);
        let at = rng.random_range(0..REGION as usize - length);
        if rng.random_bool(0.6) {
            let bytes = content(rng.random(), length);
            expected[at..at + length].copy_from_slice(&bytes);
            file.write(start + at as u64, bytes).await.unwrap();
        } else if rng.random_bool(0.7) {
            let mut read = file.read(start + at as u64, length).await.unwrap().to_vec();
            read.resize(length, 0);
            assert!(
                read == expected[at..at + length],
                "at {}",
                start + at as u64
            );
        } else {
            file.flush().await.unwrap();
        }
    }
    expected
}

const REGION: u64 = 1_500_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_a_file_while_the_leader_dies() {
    let mut cluster = MiniCluster::start(ClusterOptions::of_namenodes(3))
        .await
        .unwrap();
    let fs = cluster.client().await.unwrap();
    let file = create(&fs, "/shared").await;
    // Written first, so that every region has its place.
    file.write(8 * REGION - 1, "\0".into()).await.unwrap();
    let mut tasks = JoinSet::new();
    for index in 0..8 {
        let file = file.clone();
        tasks.spawn(async move { (index, work_on_region(file, index * REGION, index).await) });
    }
    let leader = cluster.leader().await.unwrap();
    cluster.kill_namenode(leader).await;
    let mut regions = tasks.join_all().await;
    regions.sort_by_key(|(index, _)| *index);
    file.sync().await.unwrap();
    let expected: Vec<u8> = regions.into_iter().flat_map(|(_, region)| region).collect();
    assert_equal(&file, &expected).await;
    let other = cluster.client().await.unwrap();
    assert!(other.read_file("/shared").await.unwrap() == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_synced_outlives_the_death_of_every_process() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let small = create(&fs, "/small").await;
    let large = create(&fs, "/large").await;
    let bytes = content(2, 9 << 20);
    for index in (0..200_u64).rev() {
        let at = index * 40_000;
        let piece = bytes.slice(at as usize..at as usize + 3000);
        small.write(at, piece).await.unwrap();
    }
    large.write(0, bytes.clone()).await.unwrap();
    small.sync().await.unwrap();
    large.sync().await.unwrap();
    let chunks = cluster.chunks().await.unwrap();
    for path in ["/small", "/large"] {
        let located = fs.extents(path, 0, u64::MAX / 2).await.unwrap();
        assert!(!located.extents.is_empty());
        for extent in located.extents.iter().map(|located| located.extent) {
            let synced = chunks[&extent.chunk.into()].synced_length;
            assert!(synced >= extent.offset_in_chunk + extent.length);
        }
    }
    cluster.kill_all().await;
    cluster.start_all().await.unwrap();
    let fs = cluster.client().await.unwrap();
    assert!(fs.read_file("/large").await.unwrap() == bytes);
    let file = fs.open_file(small.inode()).await.unwrap();
    for index in 0..200_u64 {
        let at = index * 40_000;
        let read = file.read(at, 3000).await.unwrap();
        assert!(read == bytes.slice(at as usize..at as usize + 3000), "{at}");
    }
    // The first client's handles go on where they were.
    small.write(1, bytes.slice(..100)).await.unwrap();
    small.flush().await.unwrap();
    file.invalidate();
    assert!(file.read(1, 100).await.unwrap() == bytes.slice(..100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_files_written_and_flushed_at_once_stay_within_little_memory() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let mut files = Vec::new();
    for index in 0..100_u64 {
        let file = create(&fs, &format!("/{index}")).await;
        // Far more than may be in flight: those before are written to make room.
        file.write(0, content(index, 1_500_000)).await.unwrap();
        files.push(file);
    }
    let flushes = files.iter().map(OpenFile::flush);
    futures::future::try_join_all(flushes).await.unwrap();
    for (index, file) in files.iter().enumerate() {
        let bytes = file.read(0, 2_000_000).await.unwrap();
        assert!(bytes == content(index as u64, 1_500_000), "{index}");
    }
    drop(files);
    fs.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_and_never_flushed_is_there_when_the_file_system_is_closed() {
    let mut cluster = MiniCluster::start(ClusterOptions::default()).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let kept = create(&fs, "/kept").await;
    let dropped = create(&fs, "/dropped").await;
    kept.write(5, content(1, 5_000_000)).await.unwrap();
    dropped.write(5, content(2, 100)).await.unwrap();
    drop(dropped);
    fs.close().await.unwrap();
    let other = cluster.client().await.unwrap();
    assert!(other.read_file("/kept").await.unwrap()[5..] == content(1, 5_000_000));
    assert!(other.read_file("/dropped").await.unwrap()[5..] == content(2, 100));
    assert_eq!(
        kept.inode(),
        InodeId(other.stat("/kept").await.unwrap().inode)
    );
}
