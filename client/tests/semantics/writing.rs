//! What is written arrives once, whole and right, whatever fails on the way.

use cairn_client::WriteOptions;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::operation::IfExists;
use cairn_protocol::{ErrorCode, Failure};

use crate::fake::{FakeCluster, Interrupted, pattern};

fn options() -> WriteOptions {
    WriteOptions::default()
}

#[tokio::test]
async fn a_small_file_is_one_append_and_one_entry() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    fs.write_file("/first", "x".into(), &options())
        .await
        .unwrap();
    let packets = cluster.state().packets;
    let applied = cluster.state().applied.len();
    let content = pattern(100_000, 3);
    // Streams take turns: the second has no chunk yet.
    fs.write_file("/second", content.clone(), &options())
        .await
        .unwrap();
    fs.write_file("/third", content.clone(), &options())
        .await
        .unwrap();
    let state = cluster.state();
    assert_eq!(state.packets, packets + 2);
    assert_eq!(state.applied[applied..], ["allocate", "create", "create"]);
    assert_eq!(state.content("/third").unwrap(), content);
}

#[tokio::test]
async fn an_empty_file_needs_no_chunk() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    fs.write_file("/empty", "".into(), &options())
        .await
        .unwrap();
    assert_eq!(cluster.state().applied, ["create"]);
}

#[tokio::test]
async fn many_small_files_share_packets_and_keep_their_bytes() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let contents: Vec<_> = (0..300).map(|i| pattern(1 + i * 37, i as u8)).collect();
    let all = contents.iter().enumerate().map(|(i, content)| {
        let fs = fs.clone();
        let content = content.clone();
        async move { fs.write_file(format!("/{i}"), content, &options()).await }
    });
    for result in futures::future::join_all(all).await {
        result.unwrap();
    }
    let state = cluster.state();
    assert!(state.packets < 300, "{} packets", state.packets);
    for (i, content) in contents.iter().enumerate() {
        assert_eq!(&state.content(&format!("/{i}")).unwrap(), content);
    }
}

#[tokio::test]
async fn a_large_file_rolls_over_chunks_and_appears_when_it_is_closed() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let content = pattern((11 << 20) + 12_345, 1);
    let mut writer = fs.create_writer("/large", options()).unwrap();
    for piece in content.chunks(300_001) {
        writer.write(piece).await.unwrap();
    }
    writer.flush().await.unwrap();
    assert!(!cluster.state().names.contains_key(b"/large".as_slice()));
    let attributes = writer.close().await.unwrap();
    assert_eq!(attributes.size, content.len() as u64);
    fs.close().await.unwrap();
    let state = cluster.state();
    assert!(state.content("/large").unwrap() == content);
    assert_eq!(state.chunks.len(), 3);
    assert_eq!(state.returned.len(), 3);
    assert!(
        state.count("commit") <= 4,
        "{} commits",
        state.count("commit")
    );
}

#[tokio::test]
async fn a_large_content_is_committed_in_the_name_of_who_writes_it() {
    let cluster = FakeCluster::start(1, 3).await;
    let connected = cluster.connect().await;
    let ada = Caller {
        uid: 4321,
        token: vec![7; 46],
        ..cluster.config().caller
    };
    let fs = connected.on_behalf_of(ada.clone());
    let content = pattern(3 << 20, 1);
    let mut writer = fs.create_writer("/large", options()).unwrap();
    writer.write(&content).await.unwrap();
    writer.close().await.unwrap();
    let mut writer = fs.open_append("/large").await.unwrap();
    writer.write(&content).await.unwrap();
    writer.close().await.unwrap();
    let committers = cluster.state().committers.clone();
    assert!(committers.len() >= 2);
    assert!(committers.iter().all(|one| *one == ada), "{committers:?}");
}

#[tokio::test]
async fn whole_packets_of_bytes_are_not_copied_into_other_packets() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let content = pattern((3 << 20) + 100, 1);
    fs.write_file("/large", content.clone(), &options())
        .await
        .unwrap();
    assert!(cluster.state().content("/large").unwrap() == content);
}

#[tokio::test]
async fn a_dropped_writer_leaves_nothing() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let mut writer = fs.create_writer("/large", options()).unwrap();
    writer.write(&pattern(3 << 20, 1)).await.unwrap();
    drop(writer);
    fs.close().await.unwrap();
    let state = cluster.state();
    assert!(state.names.is_empty());
    assert_eq!(state.count("release"), 1);
    assert_eq!(state.returned.len(), 1);
}

#[tokio::test]
async fn a_pipeline_that_fails_half_way_is_left_and_the_rest_goes_elsewhere() {
    let cluster = FakeCluster::start(1, 4).await;
    let fs = cluster.connect().await;
    cluster.state().chunk_size = 64 << 20;
    cluster.state().faults.fail_at_packet = Some((4, 2));
    let content = pattern(9 << 20, 5);
    fs.write_file("/large", content.clone(), &options())
        .await
        .unwrap();
    fs.close().await.unwrap();
    let state = cluster.state();
    assert!(state.content("/large").unwrap() == content);
    let (first, second) = (state.seals[0].0, state.returned[0]);
    assert_eq!(state.seals, [(first, vec![2])]);
    assert_eq!(state.chunks[&first].data.len(), 3 << 20);
    assert_eq!(state.chunks[&second].targets, [1, 3, 4]);
    // What was acknowledged before was committed where it was.
    let file = &state.inodes[&state.names[b"/large".as_slice()]];
    assert_eq!(file.extents[0].chunk, first);
    assert_eq!(file.extents[0].length, 3 << 20);
}

#[tokio::test]
async fn small_files_survive_a_pipeline_that_fails() {
    let cluster = FakeCluster::start(1, 4).await;
    let fs = cluster.connect().await;
    cluster.state().faults.fail_at_packet = Some((3, 1));
    for i in 0..20 {
        let content = pattern(1000 + i, i as u8);
        fs.write_file(format!("/{i}"), content.clone(), &options())
            .await
            .unwrap();
        assert_eq!(cluster.state().content(&format!("/{i}")).unwrap(), content);
    }
    fs.close().await.unwrap();
    let state = cluster.state();
    assert_eq!(state.seals.len(), 1);
    assert_eq!(state.seals[0].1, [1]);
}

#[tokio::test]
async fn a_datanode_that_refuses_is_left_out() {
    let cluster = FakeCluster::start(1, 4).await;
    let fs = cluster.connect().await;
    cluster.state().faults.dead.insert(1);
    let content = pattern(2 << 20, 5);
    fs.write_file("/large", content.clone(), &options())
        .await
        .unwrap();
    assert!(cluster.state().content("/large").unwrap() == content);
    assert_eq!(cluster.state().seals[0].1, [1]);
}

#[tokio::test]
async fn bytes_of_a_chunk_that_was_sealed_meanwhile_go_into_another() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let sealed = || vec![Failure::from(ErrorCode::Sealed)];
    cluster.state().faults.refusals.insert("commit", sealed());
    cluster.state().faults.refusals.insert("create", vec![]);
    let content = pattern(5 << 20, 5);
    fs.write_file("/large", content.clone(), &options())
        .await
        .unwrap();
    assert!(cluster.state().content("/large").unwrap() == content);
    cluster.state().faults.refusals.insert("create", sealed());
    fs.write_file("/small", content.slice(..1000), &options())
        .await
        .unwrap();
    assert_eq!(cluster.state().content("/small").unwrap(), content[..1000]);
}

#[tokio::test]
async fn lost_answers_during_a_write_do_no_harm() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    cluster.state().faults.lost_answers = 6;
    let content = pattern(6 << 20, 5);
    fs.write_file("/large", content.clone(), &options())
        .await
        .unwrap();
    assert!(cluster.state().content("/large").unwrap() == content);
}

#[tokio::test]
async fn a_writer_never_has_more_in_flight_than_its_window() {
    let cluster = FakeCluster::start(1, 3).await;
    cluster.state().chunk_size = 64 << 20;
    let mut config = cluster.config();
    config.write_window_bytes = 2 << 20;
    config.in_flight_bytes_max = 4 << 20;
    let fs = cairn_client::FileSystem::connect(config).await.unwrap();
    let acks = &cluster.shared.acks;
    acks.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let content = pattern(20 << 20, 5);
    let options = options();
    let write = fs.write_file("/large", content.clone(), &options);
    let release = async {
        // One acknowledgement for each packet that has come, so that the writer always waits for its window.
        for number in 1..=20 {
            while cluster.state().packets < number {
                tokio::task::yield_now().await;
            }
            acks.add_permits(1);
        }
        // The clean end of the stream.
        acks.add_permits(10);
    };
    let (written, ()) = tokio::join!(write, release);
    written.unwrap();
    assert!(cluster.state().unacked_bytes_max <= 2 << 20);
    assert!(cluster.state().content("/large").unwrap() == content);
}

#[tokio::test]
async fn writers_that_pause_with_all_the_memory_do_not_stop_each_other() {
    let cluster = FakeCluster::start(1, 3).await;
    let mut config = cluster.config();
    config.in_flight_bytes_max = 2 << 20;
    let fs = cairn_client::FileSystem::connect(config).await.unwrap();
    let content = pattern((2 << 20) + 1, 5);
    let mut writers = Vec::new();
    for i in 0..5 {
        writers.push(fs.create_writer(format!("/{i}"), options()).unwrap());
    }
    for writer in &mut writers {
        writer.write(&content).await.unwrap();
    }
    for writer in writers {
        writer.close().await.unwrap();
    }
    for i in 0..5 {
        assert!(cluster.state().content(&format!("/{i}")).unwrap() == content);
    }
}

#[tokio::test]
async fn records_of_many_appenders_are_there_once_and_in_one_piece() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    fs.write_file("/log", "".into(), &options()).await.unwrap();
    cluster.state().faults.lost_answers = 5;
    let records: Vec<_> = (0..50).map(|i| pattern(100 + i, i as u8)).collect();
    let all = records
        .iter()
        .map(|record| fs.record_append("/log", record.clone()));
    let offsets = futures::future::join_all(all).await;
    let content = cluster.state().content("/log").unwrap();
    assert_eq!(
        content.len(),
        records.iter().map(|record| record.len()).sum::<usize>()
    );
    for (record, offset) in records.iter().zip(offsets) {
        let offset = offset.unwrap() as usize;
        assert_eq!(&content[offset..offset + record.len()], record);
    }
}

#[tokio::test]
async fn appends_go_on_where_the_file_ends() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let content = pattern((3 << 20) + 77, 5);
    fs.write_file("/log", content.slice(..10), &options())
        .await
        .unwrap();
    let mut writer = fs.open_append("/log").await.unwrap();
    writer.write(&content[10..100]).await.unwrap();
    writer.flush().await.unwrap();
    writer.write(&content[100..]).await.unwrap();
    let attributes = writer.close().await.unwrap();
    assert_eq!(attributes.size, content.len() as u64);
    assert!(cluster.state().content("/log").unwrap() == content);
}

#[tokio::test]
async fn an_existing_name_is_kept_or_replaced_as_asked() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let large = pattern(2 << 20, 5);
    fs.write_file("/a", "old".into(), &options()).await.unwrap();
    let error = fs
        .write_file("/a", large.clone(), &options())
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "/a: File exists");
    assert_eq!(cluster.state().content("/a").unwrap(), b"old");
    let replace = WriteOptions {
        if_exists: IfExists::Replace,
        ..options()
    };
    fs.write_file("/a", large.clone(), &replace).await.unwrap();
    assert!(cluster.state().content("/a").unwrap() == large);
}

#[tokio::test]
async fn a_failed_writer_keeps_failing_in_the_same_way() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let failure = Failure::from(ErrorCode::NoSpace);
    cluster
        .state()
        .faults
        .refusals
        .insert("commit", vec![failure]);
    let mut writer = fs.create_writer("/large", options()).unwrap();
    writer.write(&pattern(2 << 20, 5)).await.unwrap();
    let error = writer.flush().await.unwrap_err();
    assert_eq!(error.to_string(), "/large: No space left on device");
    assert_eq!(writer.write(b"more").await.unwrap_err(), error);
    assert_eq!(writer.close().await.unwrap_err(), error);
}

#[tokio::test]
async fn small_and_large_files_get_the_mode_asked_for() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let read_only = WriteOptions {
        mode: 0o444,
        ..options()
    };
    let large = fs
        .write_file("/large", pattern(2 << 20, 5), &read_only)
        .await
        .unwrap();
    let small = fs
        .write_file("/small", "small".into(), &read_only)
        .await
        .unwrap();
    assert_eq!((small.mode, large.mode), (0o444, 0o444));
}

#[tokio::test]
async fn a_large_file_that_went_with_its_session_says_so() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let gone = async || {
        let mut writer = fs.create_writer("/large", options()).unwrap();
        writer.write_bytes(pattern(3 << 20, 5)).await.unwrap();
        writer.flush().await.unwrap();
        let state = &mut *cluster.state();
        state
            .inodes
            .retain(|inode, _| state.names.values().any(|named| named == inode));
        writer
    };
    let mut writer = gone().await;
    let writing = async {
        writer.write_bytes(pattern(3 << 20, 6)).await?;
        writer.flush().await
    };
    let error = writing.await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SessionExpired, "{error}");
    assert!(error.to_string().starts_with("/large: "), "{error}");
    // All further calls fail in the same way.
    assert_eq!(writer.flush().await.unwrap_err(), error);
    assert_eq!(writer.close().await.unwrap_err(), error);
    let error = gone().await.close().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SessionExpired, "{error}");
    assert!(!cluster.state().names.contains_key(b"/large".as_slice()));
}

#[tokio::test]
async fn a_large_file_whose_directory_is_gone_is_not_found() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let refusal = ErrorCode::NotFound.into();
    cluster
        .state()
        .faults
        .refusals
        .insert("link", vec![refusal]);
    let error = fs
        .write_file("/a/large", pattern(3 << 20, 5), &options())
        .await;
    assert_eq!(error.unwrap_err().code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_change_of_leader_does_not_stop_a_write() {
    let cluster = FakeCluster::start(3, 3).await;
    let fs = cluster.connect().await;
    let content = pattern(12 << 20, 5);
    let mut writer = fs.create_writer("/large", options()).unwrap();
    for (index, piece) in content.chunks(1 << 20).enumerate() {
        cluster.state().leader = index % 3;
        cluster.state().faults.silent_followers = index % 2 == 0;
        writer.write(piece).await.unwrap();
        writer.flush().await.unwrap();
    }
    writer.close().await.unwrap();
    assert!(cluster.state().content("/large").unwrap() == content);
}

#[tokio::test]
async fn a_write_whose_session_expired_is_unknown_and_is_not_finished_under_another() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    let mut writer = fs.create_writer("/large", options()).unwrap();
    writer.write(&pattern(3 << 20, 5)).await.unwrap();
    writer.flush().await.unwrap();
    cluster.state().faults.interrupted = Some(("commit", Interrupted::Before));
    writer.write(&pattern(1 << 20, 5)).await.unwrap();
    let error = writer.flush().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::OutcomeUnknown);
    assert_eq!(
        writer.close().await.unwrap_err().code(),
        ErrorCode::OutcomeUnknown
    );
    assert!(cluster.state().names.is_empty());
}

#[tokio::test]
async fn a_writer_fails_after_an_interrupted_write_rather_than_leave_a_gap() {
    let cluster = FakeCluster::start(1, 3).await;
    cluster.state().chunk_size = 64 << 20;
    let mut config = cluster.config();
    config.write_window_bytes = 1 << 20;
    config.in_flight_bytes_max = 2 << 20;
    let fs = cairn_client::FileSystem::connect(config).await.unwrap();
    let acks = &cluster.shared.acks;
    acks.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let mut writer = fs.create_writer("/large", options()).unwrap();
    // Nothing is acknowledged, so this waits for memory; what ends it is the first packet's arrival.
    let content = pattern(8 << 20, 5);
    let arrived = async {
        while cluster.state().packets == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = writer.write(&content) => panic!("it cannot all be in flight"),
        () = arrived => {}
    }
    acks.add_permits(1000);
    let error = writer.close().await.unwrap_err();
    assert!(error.to_string().contains("interrupted"), "{error}");
    assert!(cluster.state().names.is_empty());
}

#[tokio::test]
async fn when_too_few_datanodes_are_left_a_write_goes_on_with_those() {
    let cluster = FakeCluster::start(1, 3).await;
    let fs = cluster.connect().await;
    cluster.state().chunk_size = 64 << 20;
    cluster.state().faults.fail_at_packet = Some((3, 2));
    cluster.state().faults.dead.insert(2);
    let content = pattern(5 << 20, 5);
    fs.write_file("/large", content.clone(), &options())
        .await
        .unwrap();
    fs.write_file("/small", content.slice(..1000), &options())
        .await
        .unwrap();
    let state = cluster.state();
    assert!(state.content("/large").unwrap() == content);
    assert_eq!(state.content("/small").unwrap(), content[..1000]);
    let committed = state.inodes.values().flat_map(|inode| &inode.extents);
    for extent in committed {
        assert_eq!(state.chunks[&extent.chunk].targets, [1, 3]);
    }
}

#[tokio::test]
async fn a_cluster_that_never_had_enough_datanodes_says_so_at_once() {
    let cluster = FakeCluster::start(1, 2).await;
    cluster.state().replication = 3;
    let fs = cluster.connect().await;
    for length in [10, 2 << 20] {
        let error = fs
            .write_file("/file", pattern(length, 5), &options())
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "/file: Not enough datanodes");
    }
    assert_eq!(cluster.state().chunks.len(), 0);
}
