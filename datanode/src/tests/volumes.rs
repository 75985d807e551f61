//! Disks that fail, fill up or rot: the datanode goes on with what works, and says so.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use super::harness::{Cluster, Heard, TERM, WriteClient, data, incarnation};
use crate::chunk_store::{ChunkStore, Volume, VolumeState};
use cairn_daemon::disk::Disk;
use cairn_daemon::disk::sim::SimDisk;
use cairn_daemon::disk::watched::{Access, WatchedDisk, Watcher};
use cairn_protocol::ids::ChunkId;
use cairn_protocol::messages::datanode::{
    DeleteReplica, InstructResult, InstructionKind, SealReplica, VolumeReport,
};
use cairn_protocol::token::GrantKind;
use cairn_protocol::{ErrorCode, Failure};

const DISK_TIMEOUT: Duration = Duration::from_secs(1);
const READS_MAX: u32 = 4;

/// A datanode with two volumes on this disk.
async fn with_two_volumes(disk: Arc<dyn Disk>) -> Cluster {
    let mut cluster = Cluster::start(0).await;
    let mut config = cluster.config(0);
    config.volumes = vec!["/volume1".into(), "/volume2".into()];
    config.disk_timeout = DISK_TIMEOUT;
    config.reads_max = READS_MAX;
    let node = cluster.start_node_on(config, disk).await;
    cluster.nodes.push(node);
    cluster
}

/// A new chunk of one replica, whose writer has sent so much and been told that it is there.
async fn open_with(cluster: &Cluster, chunk: u64, sent: &[u8]) -> WriteClient {
    let open = cluster.open_write(chunk, 1, 0, &[0]);
    let mut client = cluster.open(open).await.unwrap();
    if !sent.is_empty() {
        client.send(sent).await;
        client.acknowledged().await.unwrap();
    }
    client
}

/// What the namenode was told last of this volume.
fn report_of(heard: &Heard, id: u64, volume: &Volume) -> Option<VolumeReport> {
    let path = volume.path().display().to_string();
    let reports = heard.volumes.get(&id)?;
    reports.iter().find(|report| report.path == path).cloned()
}

#[tokio::test]
async fn a_volume_that_cannot_sync_is_withdrawn_and_the_other_one_goes_on() {
    let disk = SimDisk::new();
    let cluster = with_two_volumes(Arc::new(disk.clone())).await;
    let id = cluster.nodes[0].id;
    let mut client = open_with(&cluster, 1, &[]).await;
    let store = cluster.nodes[0].datanode.store();
    let volume = store.volume_of(ChunkId(1)).unwrap();
    disk.fail_next_sync(&volume.files_of(ChunkId(1)).0);
    let frame = client.packet(Bytes::from_static(b"data"), true, false);
    client.to.send(frame).await.unwrap();
    assert_eq!(
        client.acknowledged().await,
        Err((id, ErrorCode::DiskFailed))
    );
    let gone = |heard: &Heard| {
        let state = heard.changed.get(&(id, 1));
        state.is_some_and(|state| state.gone && state.incarnation == incarnation(id))
            && report_of(heard, id, volume).is_some_and(|report| report.failed)
    };
    cluster.namenode.until(gone).await;
    cluster.write(2, &[0], b"on the other volume").await;
    assert_ne!(store.volume_of(ChunkId(2)).unwrap().path(), volume.path());
    assert!(cluster.read(0, 2, 0, 19).await == b"on the other volume");
}

#[tokio::test]
async fn a_full_disk_refuses_writers_and_still_seals_and_deletes() {
    let disk = SimDisk::new();
    let cluster = with_two_volumes(Arc::new(disk.clone())).await;
    let id = cluster.nodes[0].id;
    let mut client = open_with(&cluster, 1, &data(5000, 1)).await;
    // Half of the reserve is left.
    disk.set_full(32 << 20);
    let full =
        |volumes: &Vec<VolumeReport>| volumes.iter().all(|volume| volume.available_bytes == 0);
    cluster
        .namenode
        .until(|heard| heard.volumes.get(&id).is_some_and(full))
        .await;
    client.send(&data(5000, 2)).await;
    assert_eq!(client.acknowledged().await, Err((id, ErrorCode::NoSpace)));
    let refused = cluster.open(cluster.open_write(2, 1, 0, &[0])).await.err();
    assert_eq!(refused, Some((id, ErrorCode::NoSpace)));
    assert!(cluster.seal(0, 1, 5000).await.sealed);
    assert!(cluster.read(0, 1, 0, 5000).await == data(5000, 1));
}

#[tokio::test]
async fn open_replicas_are_synced_although_nobody_asks() {
    let cluster = with_two_volumes(Arc::new(SimDisk::new())).await;
    cluster.write(1, &[0], &data(100, 1)).await;
    let store = cluster.nodes[0].datanode.store();
    while store.find(ChunkId(1)).unwrap().synced_length < 100 {
        tokio::task::yield_now().await;
    }
}

/// Holds up every call below one directory until it is dropped.
struct Hang(Arc<Gate>);

#[derive(Default)]
struct Gate {
    held: Mutex<Option<PathBuf>>,
    changed: Condvar,
    /// What was called while it was held up.
    waited: Mutex<BTreeSet<PathBuf>>,
}

impl Gate {
    fn hold(self: &Arc<Self>, directory: &Path) -> Hang {
        *self.held.lock().unwrap() = Some(directory.to_path_buf());
        Hang(Arc::clone(self))
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        *self.0.held.lock().unwrap() = None;
        self.0.changed.notify_all();
    }
}

impl Watcher for Gate {
    type UnderWay = ();

    fn begin(&self, path: &Path, _access: Access) -> io::Result<()> {
        let is_held = |held: &mut Option<PathBuf>| {
            let held = held.as_ref();
            held.is_some_and(|directory| path.starts_with(directory))
        };
        let mut held = self.held.lock().unwrap();
        if is_held(&mut held) {
            self.waited.lock().unwrap().insert(path.to_path_buf());
        }
        drop(self.changed.wait_while(held, is_held).unwrap());
        Ok(())
    }
}

/// A datanode with two volumes, and what can make one of them hang.
async fn with_a_gate() -> (Cluster, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let disk = WatchedDisk::new(Arc::new(SimDisk::new()), Arc::clone(&gate));
    (with_two_volumes(Arc::new(disk)).await, gate)
}

fn store_of(cluster: &Cluster) -> Arc<ChunkStore> {
    Arc::clone(cluster.nodes[0].datanode.store())
}

#[tokio::test]
async fn a_disk_that_hangs_takes_nothing_new_until_it_answers_and_the_other_one_goes_on() {
    let (cluster, gate) = with_a_gate().await;
    let id = cluster.nodes[0].id;
    let mut client = open_with(&cluster, 1, &data(5000, 1)).await;
    let store = store_of(&cluster);
    let volume = Arc::clone(store.volume_of(ChunkId(1)).unwrap());

    let hang = gate.hold(volume.path());
    let frame = client.packet(Bytes::from_static(b"data"), true, false);
    client.to.send(frame).await.unwrap();
    let told = |heard: &Heard| {
        report_of(heard, id, &volume).is_some_and(|report| {
            report.hanging
                && !report.failed
                && report.available_bytes == 0
                && report.reason.starts_with("its disk has not answered for")
        })
    };
    cluster.namenode.until(told).await;
    assert!(matches!(volume.state(), VolumeState::Hanging(_)));
    for chunk in 2..6 {
        cluster.write(chunk, &[0], b"on the other volume").await;
        let other = store.volume_of(ChunkId(chunk)).unwrap();
        assert_ne!(other.path(), volume.path());
        assert!(cluster.read(0, chunk, 0, 19).await == b"on the other volume");
    }
    let refused = store.open_append(ChunkId(1), 1.into(), 5000).err().unwrap();
    assert_eq!(refused.code(), ErrorCode::Overloaded);

    drop(hang);
    // What was under way is done, or refused if something else was under way for too long then, and the volume is as good as before.
    let more = match client.acknowledged().await {
        Ok(_) => &b"data"[..],
        Err((_, code)) => {
            assert_eq!(code, ErrorCode::Overloaded);
            &[]
        }
    };
    let serves = |heard: &Heard| {
        report_of(heard, id, &volume)
            .is_some_and(|report| report.available_bytes > 0 && !report.hanging)
    };
    cluster.namenode.until(serves).await;
    assert_eq!(volume.state(), VolumeState::Serving);
    let expected = [&data(5000, 1)[..], more].concat();
    let length = expected.len() as u64;
    assert!(cluster.seal(0, 1, length).await.sealed);
    assert!(cluster.read(0, 1, 0, length).await == expected);
}

#[tokio::test]
async fn a_disk_that_hangs_does_not_hold_up_orders_for_the_other_one() {
    let (cluster, gate) = with_a_gate().await;
    let id = cluster.nodes[0].id;
    open_with(&cluster, 1, &data(5000, 1)).await;
    let store = store_of(&cluster);
    let volume = Arc::clone(store.volume_of(ChunkId(1)).unwrap());
    let mut others = Vec::new();
    for chunk in (1..20).map(|n| 64 * n + 1) {
        cluster.write(chunk, &[0], b"on the other volume").await;
        let found = store.volume_of(ChunkId(chunk)).unwrap();
        others.extend((found.path() != volume.path()).then_some(chunk));
    }
    assert!(others.len() > 8, "more than are carried out at once");
    let hang = gate.hold(volume.path());
    let orders = || {
        let seal = |length| InstructionKind::Seal(SealReplica { epoch: 1, length });
        let mut request = cluster.instruction(0, TERM, 1, incarnation(id), seal(5000));
        for chunk in &others {
            let one = cluster.instruction(0, TERM, *chunk, incarnation(id), seal(19));
            request.instructions.extend(one.instructions);
        }
        request
    };
    // The first time the order comes to hang, then it hangs already.
    for already in [false, true] {
        let answered = cluster.instruct_with(0, orders()).await.unwrap();
        let (first, others) = answered.results.split_first().unwrap();
        let refused = Failure::from(first.failure.clone().unwrap());
        assert_eq!(refused.code, ErrorCode::Overloaded, "{refused}");
        assert!(first.hanging || !already);
        assert!(!first.state.as_ref().unwrap().sealed, "nothing is done yet");
        let done = |result: &InstructResult| result.failure.is_none() && !result.hanging;
        assert!(others.iter().all(done));
    }
    drop(hang);
    let sealed = |heard: &Heard| {
        let state = heard.changed.get(&(id, 1));
        state.is_some_and(|state| state.sealed && state.length == 5000)
    };
    // The order went on although nobody waited for it, or was refused because the disk did not answer; repeated, it is done.
    loop {
        let answered = cluster.instruct_with(0, orders()).await.unwrap();
        match answered.results[0].failure.clone().map(Failure::from) {
            None => break,
            Some(failure) => assert_eq!(failure.code, ErrorCode::Overloaded),
        }
    }
    cluster.namenode.until(sealed).await;
}

/// The leader may count on the replica again by then.
#[tokio::test]
async fn a_deletion_that_nobody_waits_for_any_more_is_not_carried_out() {
    let (cluster, gate) = with_a_gate().await;
    let id = cluster.nodes[0].id;
    cluster.write(1, &[0], &data(5000, 1)).await;
    let store = store_of(&cluster);
    let volume = Arc::clone(store.volume_of(ChunkId(1)).unwrap());
    let hang = gate.hold(volume.path());
    // Names are changed one at a time: the deletion waits behind this.
    let creates = Arc::clone(&volume);
    let created = tokio::task::spawn_blocking(move || {
        creates.create(ChunkId(99), 1.into(), 1.into()).map(drop)
    });
    let (data_path, _) = volume.files_of(ChunkId(99));
    let waits = |path: &PathBuf| data_path.starts_with(path) && path != volume.path();
    while !gate.waited.lock().unwrap().iter().any(waits) {
        tokio::task::yield_now().await;
    }
    let order = |kind| cluster.instruction(0, TERM, 1, incarnation(id), kind);
    let delete = order(InstructionKind::Delete(DeleteReplica {}));
    let answered = cluster.instruct_with(0, delete).await.unwrap();
    let refused = Failure::from(answered.results[0].failure.clone().unwrap());
    assert_eq!(refused.code, ErrorCode::Overloaded, "{refused}");
    assert!(answered.results[0].state.is_some());
    drop(hang);
    created.await.unwrap().ok();
    // Whoever comes after the deletion finds the replica.
    loop {
        let seal = SealReplica {
            epoch: 1,
            length: 5000,
        };
        let answered = cluster
            .instruct_with(0, order(InstructionKind::Seal(seal)))
            .await;
        match answered.unwrap().results[0]
            .failure
            .clone()
            .map(Failure::from)
        {
            None => break,
            Some(failure) => assert_eq!(failure.code, ErrorCode::Overloaded, "{failure}"),
        }
    }
    assert!(cluster.read(0, 1, 0, 5000).await == data(5000, 1));
}

#[tokio::test]
async fn readers_of_a_disk_that_hangs_are_told_and_the_others_do_not_wait_behind_them() {
    let (cluster, gate) = with_a_gate().await;
    open_with(&cluster, 1, &data(5000, 1)).await;
    cluster.write(2, &[0], &data(5000, 2)).await;
    let store = store_of(&cluster);
    let volume = |chunk| Arc::clone(store.volume_of(ChunkId(chunk)).unwrap());
    assert_ne!(volume(1).path(), volume(2).path());
    let _hang = gate.hold(volume(1).path());
    let read = |_| {
        let whole = GrantKind::Read {
            offset: 0,
            len: 5000,
        };
        cluster.read_with(0, 1, 0, 5000, cluster.token(1, whole))
    };
    // Twice as many as there are threads.
    let stuck = join_all((0..2 * READS_MAX).map(read));
    let other = async {
        while !volume(1).is_hanging() {
            tokio::task::yield_now().await;
        }
        for _ in 0..20 {
            assert!(cluster.read(0, 2, 0, 5000).await == data(5000, 2));
        }
    };
    let (told, ()) = tokio::join!(stuck, other);
    let codes: Vec<_> = told.into_iter().map(Result::err).collect();
    assert!(
        codes
            .iter()
            .all(|code| *code == Some(ErrorCode::Overloaded)),
        "{codes:?}"
    );
}

#[tokio::test]
async fn a_clean_stop_waits_a_while_for_a_disk_that_hangs() {
    let (cluster, gate) = with_a_gate().await;
    let client = open_with(&cluster, 1, &data(5000, 1)).await;
    let store = store_of(&cluster);
    let volume = Arc::clone(store.volume_of(ChunkId(1)).unwrap());
    let hang = gate.hold(volume.path());
    let whole = GrantKind::Read {
        offset: 0,
        len: 5000,
    };
    let token = cluster.token(1, whole);
    let refused = cluster.read_with(0, 1, 0, 5000, token).await.err();
    assert_eq!(refused, Some(ErrorCode::Overloaded));
    assert!(volume.is_hanging());
    assert_eq!(store.find(ChunkId(1)).unwrap().synced_length, 0);
    drop(client);
    let answers = async {
        // The stop comes to the disk first.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        drop(hang);
    };
    tokio::join!(cluster.nodes[0].stop(), answers);
    assert_eq!(store.find(ChunkId(1)).unwrap().synced_length, 5000);
}
