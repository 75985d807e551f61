//! A file open for reads and writes at any offset: what it costs, and what failures do to what it holds.

use cairn_client::{FileSystem, OpenFile};
use cairn_protocol::messages::operation::IfExists;
use cairn_protocol::{ErrorCode, Failure};

use crate::fake::{FakeCluster, pattern};

async fn create(fs: &FileSystem, path: &str) -> OpenFile {
    let created = fs.create(path, 0o644, IfExists::Fail).await;
    let (attributes, _) = created.expect("the name is new");
    fs.open_file_known(&attributes)
}

/// Both shared streams have their chunks.
async fn warm_up(fs: &FileSystem) {
    for path in ["/warm-1", "/warm-2"] {
        let file = create(fs, path).await;
        file.write(0, "x".into()).await.expect("there is room");
        file.flush().await.expect("nothing fails yet");
    }
}

#[tokio::test]
async fn a_small_new_file_is_one_append_and_one_commit_however_it_is_written() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    warm_up(&fs).await;
    let content = pattern(300_000, 3);
    let file = create(&fs, "/file").await;
    let (packets, applied, queries) = {
        let state = cluster.state();
        (state.packets, state.applied.len(), state.queries)
    };
    for (index, piece) in content.chunks(10_000).enumerate() {
        let bytes = content.slice_ref(piece);
        file.write(index as u64 * 10_000, bytes).await.unwrap();
    }
    // Nothing has been sent yet, and all of it can be read.
    assert!(file.is_dirty());
    assert_eq!(file.size(), 300_000);
    assert!(file.read(0, 1 << 20).await.unwrap() == content);
    assert_eq!(cluster.state().packets, packets);
    let attributes = file.flush().await.unwrap().unwrap();
    assert_eq!(attributes.size, 300_000);
    assert!(!file.is_dirty());
    assert_eq!(file.flush().await.unwrap(), None, "told once");
    let state = cluster.state();
    assert_eq!(state.packets, packets + 1);
    assert_eq!(state.applied[applied..], ["commit"]);
    assert_eq!(state.queries, queries);
    assert!(state.content("/file").unwrap() == content);
}

#[tokio::test]
async fn files_that_are_flushed_at_once_share_appends() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    warm_up(&fs).await;
    let mut files = Vec::new();
    for index in 0..100_u8 {
        let file = create(&fs, &format!("/{index}")).await;
        file.write(0, pattern(5000, index)).await.unwrap();
        files.push(file);
    }
    let packets = cluster.state().packets;
    let flushes = files.iter().map(OpenFile::flush);
    futures::future::try_join_all(flushes).await.unwrap();
    let state = cluster.state();
    let packets = state.packets - packets;
    assert!(packets < 50, "{packets} packets for 100 files");
    for index in 0..100_u8 {
        let content = state.content(&format!("/{index}")).unwrap();
        assert!(content == pattern(5000, index));
    }
}

#[tokio::test]
async fn scattered_writes_share_an_append_and_a_commit_and_later_ones_win() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    warm_up(&fs).await;
    let file = create(&fs, "/file").await;
    let mut expected = vec![0; 100 * 9000 + 500];
    let packets = cluster.state().packets;
    for round in 0..3_u8 {
        for index in 0..100 {
            let at = index * 9000 + usize::from(round) * 200;
            let bytes = pattern(300, round);
            expected[at..at + 300].copy_from_slice(&bytes);
            file.write(at as u64, bytes).await.unwrap();
        }
    }
    expected.truncate(99 * 9000 + 700);
    assert_eq!(file.seek_data(0).await.unwrap(), Some(0));
    assert_eq!(file.seek_hole(0).await.unwrap(), Some(700));
    assert_eq!(file.seek_data(700).await.unwrap(), Some(9000));
    file.flush().await.unwrap();
    let state = cluster.state();
    assert_eq!(state.packets, packets + 1);
    assert_eq!(state.count("commit"), 3);
    assert!(state.content("/file").unwrap() == expected);
}

#[tokio::test]
async fn sixteen_mebibytes_in_order_are_sixteen_packets_and_one_commit() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    cluster.state().chunk_size = 64 << 20;
    let content = pattern(16 << 20, 5);
    let file = create(&fs, "/file").await;
    let piece = 128 << 10;
    for at in (0..content.len()).step_by(piece) {
        file.write(at as u64, content.slice(at..at + piece))
            .await
            .unwrap();
    }
    file.flush().await.unwrap();
    let state = cluster.state();
    assert_eq!(state.packets, 16);
    assert_eq!(state.applied, ["create", "allocate", "commit"]);
    assert!(state.content("/file").unwrap() == content);
}

#[tokio::test]
async fn a_pipeline_that_fails_is_left_and_its_bytes_go_elsewhere() {
    let cluster = FakeCluster::start(1, 4).await;
    let fs = cluster.connect().await;
    cluster.state().chunk_size = 64 << 20;
    let content = pattern(20 << 20, 1);
    let file = create(&fs, "/file").await;
    cluster.state().faults.fail_at_packet = Some((8, 2));
    for at in (0..content.len()).step_by(1 << 20) {
        let piece = content.slice(at..at + (1 << 20));
        file.write(at as u64, piece).await.unwrap();
    }
    file.flush().await.unwrap();
    let state = cluster.state();
    assert!(state.content("/file").unwrap() == content);
    assert_eq!(state.seals.len(), 1);
}

#[tokio::test]
async fn a_chunk_that_the_namenode_closed_costs_another_append() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    for code in [ErrorCode::Sealed, ErrorCode::StaleEpoch] {
        let path = format!("/{code:?}");
        let content = pattern(5000, 1);
        let file = create(&fs, &path).await;
        file.write(0, content.clone()).await.unwrap();
        let refusal = vec![Failure::from(code)];
        cluster.state().faults.refusals.insert("commit", refusal);
        file.flush().await.unwrap();
        assert!(cluster.state().content(&path).unwrap() == content);
    }
}

#[tokio::test]
async fn bytes_that_a_later_attempt_may_commit_are_kept() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let content = pattern(6 << 20, 1);
    let file = create(&fs, "/file").await;
    for attempt in 0..3 {
        file.write(0, content.clone()).await.unwrap();
        // In one go, and through a stream.
        let size = [content.len(), 1000, content.len()][attempt];
        file.truncate(size as u64).await.unwrap();
        let refusal = vec![Failure::from(ErrorCode::NoSpace)];
        cluster.state().faults.refusals.insert("commit", refusal);
        let error = file.flush().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NoSpace);
        assert!(file.is_dirty());
        assert!(file.read(0, 1 << 30).await.unwrap() == content[..size]);
        let attributes = file.flush().await.unwrap().unwrap();
        assert_eq!(attributes.size, size as u64);
        assert!(cluster.state().content("/file").unwrap() == content[..size]);
    }
}

#[tokio::test]
async fn bytes_that_can_never_be_committed_are_given_up_and_the_next_flush_says_so_once() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let file = create(&fs, "/file").await;
    file.write(0, pattern(1000, 1)).await.unwrap();
    let refusal = vec![Failure::from(ErrorCode::NotFound)];
    cluster.state().faults.refusals.insert("commit", refusal);
    assert_eq!(file.flush().await.unwrap_err().code(), ErrorCode::NotFound);
    assert!(!file.is_dirty());
    assert_eq!(file.flush().await.unwrap(), None);
    // The same in the background, where nobody hears it at first.
    file.write(0, pattern(1000, 1)).await.unwrap();
    let refusal = vec![Failure::from(ErrorCode::NotFound)];
    cluster.state().faults.refusals.insert("commit", refusal);
    while file.is_dirty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(file.flush().await.unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(file.flush().await.unwrap(), None);
}

#[tokio::test]
async fn memory_is_bounded_and_files_that_only_wait_make_room_for_others() {
    let cluster = FakeCluster::start(1, 3).await;
    let mut config = cluster.config();
    config.in_flight_bytes_max = 2 << 20;
    let fs = FileSystem::connect(config).await.unwrap();
    let mut files = Vec::new();
    for index in 0..20_u8 {
        let file = create(&fs, &format!("/{index}")).await;
        file.write(3, pattern(700_000, index)).await.unwrap();
        files.push(file);
    }
    // Other writers get their share, too.
    let options = cairn_client::WriteOptions::default();
    fs.write_file("/other", pattern(5 << 20, 7), &options)
        .await
        .unwrap();
    for file in &files {
        file.flush().await.unwrap();
    }
    let state = cluster.state();
    for index in 0..20_u8 {
        let content = state.content(&format!("/{index}")).unwrap();
        assert!(content[3..] == pattern(700_000, index));
    }
    assert!(state.content("/other").unwrap() == pattern(5 << 20, 7));
}

#[tokio::test]
async fn a_truncate_is_not_overtaken_by_writes_before_it() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    cluster.state().chunk_size = 64 << 20;
    let file = create(&fs, "/file").await;
    for round in 0..4_u8 {
        file.write(0, pattern(9 << 20, round)).await.unwrap();
        let attributes = file.truncate(1000).await.unwrap();
        assert_eq!(attributes.size, 1000);
        assert_eq!(file.size(), 1000);
        let read = file.read(0, 5000).await.unwrap();
        assert!(read == pattern(9 << 20, round)[..1000]);
    }
    file.flush().await.unwrap();
    assert!(cluster.state().content("/file").unwrap() == pattern(9 << 20, 3)[..1000]);
}

#[tokio::test]
async fn reads_in_order_are_fetched_ahead_and_extents_are_asked_for_once() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    cluster.state().chunk_size = 64 << 20;
    let content = pattern(12 << 20, 9);
    let options = cairn_client::WriteOptions::default();
    let attributes = fs
        .write_file("/file", content.clone(), &options)
        .await
        .unwrap();
    let file = fs.open_file_known(&attributes);
    let (queries, reads) = {
        let state = cluster.state();
        (state.queries, state.reads)
    };
    let piece = 128 << 10;
    for at in (0..content.len()).step_by(piece) {
        let read = file.read(at as u64, piece).await.unwrap();
        assert!(read == content[at..at + piece], "at {at}");
    }
    assert_eq!(file.read(content.len() as u64, piece).await.unwrap(), "");
    assert_eq!(cluster.state().queries, queries + 1);
    let reads = cluster.state().reads - reads;
    assert!(reads <= 16, "{reads} requests for 96 reads of 12 blocks");
    // What others do is seen after an invalidation.
    fs.write_at("/file", 5, "other".into()).await.unwrap();
    assert!(file.read(0, 20).await.unwrap() == content[..20]);
    file.invalidate();
    assert_eq!(file.read(5, 5).await.unwrap(), "other");
}

#[tokio::test]
async fn what_streams_through_does_not_stay() {
    let cluster = FakeCluster::start(1, 3).await;
    cluster.state().chunk_size = 64 << 20;
    let mut config = cluster.config();
    config.in_flight_bytes_max = 8 << 20;
    config.read_ahead_bytes_max = 4 << 20;
    let fs = FileSystem::connect(config).await.unwrap();
    let within = |fs: &FileSystem| {
        let used = fs.memory_use();
        assert!(used.in_flight_bytes <= 8 << 20, "{used:?}");
        assert!(used.read_ahead_bytes <= 4 << 20, "{used:?}");
    };
    let piece = pattern(128 << 10, 3);
    let file = create(&fs, "/file").await;
    for index in 0..512_u64 {
        let at = index * piece.len() as u64;
        file.write(at, piece.clone()).await.unwrap();
        within(&fs);
    }
    file.flush().await.unwrap();
    assert_eq!(fs.memory_use().in_flight_bytes, 0);
    let mut kept = Vec::new();
    for index in 0..512_u64 {
        let at = index * piece.len() as u64;
        let read = file.read(at, piece.len()).await.unwrap();
        assert!(read == piece);
        // Somebody who is slow to pass them on.
        kept.push(read);
        kept.drain(..kept.len().saturating_sub(8));
        within(&fs);
    }
    assert!(fs.memory_use().read_ahead_bytes > 0);
    drop(kept);
    drop(file);
    while fs.memory_use().read_ahead_bytes > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_file_that_others_make_longer_during_a_read_does_not_end_in_zeros() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let other = cluster.connect().await;
    let file = create(&fs, "/file").await;
    file.write(0, pattern(5000, 1)).await.unwrap();
    file.flush().await.unwrap();
    let mut read = Box::pin(file.read(0, 10_000));
    // It knows how long the file is, and asks where its bytes are.
    assert!(futures::poll!(&mut read).is_pending());
    let longer = other.open_file(file.inode()).await.unwrap();
    longer.write(5000, pattern(5000, 2)).await.unwrap();
    let attributes = longer.flush().await.unwrap().unwrap();
    assert_eq!(file.observe(&attributes), Some(10_000));
    let bytes = read.await.unwrap();
    assert!(bytes[..5000] == pattern(5000, 1));
    assert!(bytes[5000..] == pattern(5000, 2));
}
