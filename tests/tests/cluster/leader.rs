//! The leader dies while clients work: they carry on, nothing acknowledged is lost, nothing is done twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cairn_client::{FileSystem, WriteOptions};
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{IfExists, RenameMode};
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};
use tokio::task::JoinSet;

const CLIENTS: usize = 4;
const ROUNDS: usize = 40;
const RECORD: usize = 16;

fn record(client: usize, round: usize) -> Bytes {
    Bytes::from(format!(
        "{:>width$}",
        format!("{client}/{round};"),
        width = RECORD
    ))
}

/// Works through its rounds and tells at which offset each record went. Any refusal is a failure of the cluster: an operation done
/// twice is refused the second time.
async fn work(fs: FileSystem, client: usize, done: Arc<AtomicUsize>) -> Vec<(usize, u64)> {
    let mut offsets = Vec::new();
    for round in 0..ROUNDS {
        let (new, old) = (
            format!("/work/{client}/new-{round}"),
            format!("/work/{client}/old-{round}"),
        );
        let bytes = content((client * ROUNDS + round) as u64, 1000 + round);
        fs.write_file(&new, bytes, &WriteOptions::default())
            .await
            .unwrap();
        offsets.push((
            round,
            fs.record_append("/work/records", record(client, round))
                .await
                .unwrap(),
        ));
        fs.rename(&new, &old, RenameMode::NoReplace).await.unwrap();
        fs.mkdir(format!("/work/{client}/dir"), 0o755)
            .await
            .unwrap();
        fs.rmdir(format!("/work/{client}/dir")).await.unwrap();
        done.fetch_add(1, Ordering::SeqCst);
    }
    offsets
}

async fn check_work(fs: &FileSystem, offsets: &BTreeMap<usize, Vec<(usize, u64)>>) {
    for client in 0..CLIENTS {
        let names: BTreeSet<Vec<u8>> = fs
            .list_all(format!("/work/{client}"))
            .await
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        let expected: BTreeSet<Vec<u8>> = (0..ROUNDS)
            .map(|round| format!("old-{round}").into_bytes())
            .collect();
        assert_eq!(names, expected);
        for round in 0..ROUNDS {
            let read = fs
                .read_file(format!("/work/{client}/old-{round}"))
                .await
                .unwrap();
            assert!(
                read == content((client * ROUNDS + round) as u64, 1000 + round),
                "{client}/{round}"
            );
        }
    }
    let records = fs.read_file("/work/records").await.unwrap();
    assert_eq!(
        records.len(),
        CLIENTS * ROUNDS * RECORD,
        "each record is there exactly once"
    );
    for (client, offsets) in offsets {
        for (round, offset) in offsets {
            let at = *offset as usize;
            assert_eq!(
                records[at..at + RECORD],
                record(*client, *round),
                "record {round} of {client}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_carry_on_when_the_leader_dies_and_each_operation_happens_once() {
    let options = ClusterOptions {
        namenodes: 3,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    fs.mkdir("/work", 0o755).await.unwrap();
    fs.create("/work/records", 0o644, IfExists::Fail)
        .await
        .unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        fs.mkdir(format!("/work/{client}"), 0o755).await.unwrap();
        let work = work(cluster.client().await.unwrap(), client, done.clone());
        clients.spawn(async move { (client, work.await) });
    }
    let leader = cluster.leader().await.unwrap();
    let third = CLIENTS * ROUNDS / 3;
    cluster
        .eventually(|| (done.load(Ordering::SeqCst) > third).then_some(()))
        .await
        .unwrap();
    cluster.kill_namenode(leader).await;
    assert!(
        done.load(Ordering::SeqCst) < CLIENTS * ROUNDS,
        "the clients were done too early"
    );
    let mut offsets = BTreeMap::new();
    while let Some(client) = clients.join_next().await {
        let (client, client_offsets) = client.unwrap();
        offsets.insert(client, client_offsets);
    }
    check_work(&fs, &offsets).await;
    assert_ne!(cluster.leader().await.unwrap(), leader);
    // The old leader comes back, catches up, and has the same state.
    cluster.start_namenode(leader).await.unwrap();
    cluster.wait_equal_states().await.unwrap();
    check_work(&cluster.client().await.unwrap(), &offsets).await;
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_write_outlives_the_leader() {
    let options = ClusterOptions {
        namenodes: 3,
        chunk_size: 4 << 20,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let bytes = content(7, 20 << 20);
    let mut writer = fs.create_writer("/large", WriteOptions::default()).unwrap();
    writer.write(&bytes[..7 << 20]).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    cluster.kill_namenode(leader).await;
    writer.write(&bytes[7 << 20..]).await.unwrap();
    writer.close().await.unwrap();
    assert!(fs.read_file("/large").await.unwrap() == bytes);
    cluster.check(&fs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_acknowledged_and_with_it_all_goes_on() {
    let options = ClusterOptions {
        namenodes: 3,
        ..ClusterOptions::default()
    };
    let mut cluster = MiniCluster::start(options).await.unwrap();
    let fs = cluster.client().await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let followers: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    for follower in &followers {
        cluster.kill_namenode(*follower).await;
    }
    let mut waiting = JoinSet::new();
    let other = fs.clone();
    waiting.spawn(async move { other.mkdir("/patience", 0o755).await });
    cluster.start_namenode(followers[0]).await.unwrap();
    // The client asked all the time: its directory is made, once.
    waiting.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(
        fs.mkdir("/patience", 0o755).await.unwrap_err().code(),
        ErrorCode::AlreadyExists
    );
    cluster.check(&fs).await.unwrap();
}
