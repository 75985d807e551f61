//! Replicas that are not what they were: stale, short, damaged, or all of them without power.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use cairn_client::WriteOptions;
use cairn_daemon::disk::sim::SimDisk;
use cairn_daemon::disk::{Caching, Disk, OpenMode};
use cairn_protocol::ErrorCode;

use super::super::cluster::Stop;
use super::super::faults::data_files;
use super::stage::Stage;
use crate::harness::content;

/// What a datanode counts when it finds a bit changed.
const BAD_BLOCKS: &str = "dfs_datanode_bad_blocks_total";
/// Of so many readers one asks the datanode whose replica is rotten.
const READERS_MAX: usize = 30;

/// A client appends to a chunk while one of its replicas is cut off; the others are sealed and copied without it. When it
/// comes back, with bytes that were never committed, nobody may read them.
pub(super) fn stale_replica_returns(stage: &mut Stage) -> anyhow::Result<()> {
    let first = write(stage, "/c0/first", 1, 30_000)?;
    let stale = stage.holders()[0];
    let name = stage.cluster.datanodes[stale].name.clone();
    stage.cut_off(&name, &[], true);
    let [old] = stage.replicas_on(stale)?[..] else {
        bail!("one chunk was written to");
    };
    // Long enough to be held for dead, and for copies to be made elsewhere.
    write(stage, "/c0/second", 2, 40_000)?;
    stage.pass(6_000)?;
    write(stage, "/c0/third", 3, 50_000)?;
    let record = stage.chunks()?.remove(&old.chunk);
    let record = record.context("the chunk is still there")?;
    ensure!(
        !old.is_listed(&record) && stage.replicas_on(stale)?.contains(&old),
        "{old:?} is not stale"
    );
    stage.cut_off(&name, &[], false);
    // Only the stale one and one more are left: what is read is right or refused.
    stage.act(move |fs| async move {
        let read = fs.read_file("/c0/first").await?;
        ensure!(read == first, "a stale replica was read");
        Ok(())
    })?;
    let others: Vec<usize> = stage
        .holders()
        .into_iter()
        .filter(|other| *other != stale)
        .collect();
    for other in others.iter().take(1) {
        stage.cluster.stop_datanode(*other, Stop::Kill);
    }
    stage.pass(3_000)?;
    stage.finish()?;
    stage.pass(5_000)?;
    stage.was_replaced(stale, old)
}

/// A replica of an idle chunk loses its unsynced bytes and is back before anybody missed it; then the chunk is handed on.
pub(super) fn short_replica_is_handed_on(stage: &mut Stage) -> anyhow::Result<()> {
    write(stage, "/c0/first", 1, 30_000)?;
    let short = stage.holders()[0];
    let name = stage.cluster.datanodes[short].name.clone();
    let machine = &stage.cluster.datanodes[short];
    machine.disk.crash_losing_everything_unsynced();
    machine.running.borrow_mut().take();
    stage.cluster.sim.crash(name.clone());
    stage.cluster.power_losses.borrow_mut().push(short);
    stage.cluster.start_machine(&name);
    // The next writer may get the same chunk, which begins where the short replica does not end.
    for number in 2..6 {
        write(stage, &format!("/c0/file-{number}"), number, 10_000)?;
    }
    for other in stage
        .holders()
        .into_iter()
        .filter(|other| *other != short)
        .take(1)
    {
        stage.cluster.stop_datanode(other, Stop::Kill);
    }
    stage.pass(500)?;
    stage.finish()
}

/// A stream over several chunks is synced; then the power fails everywhere, at once.
pub(super) fn power_loss_after_sync(stage: &mut Stage) -> anyhow::Result<()> {
    let bytes = content(7, (3 << 20) + 123_457);
    let written = bytes.clone();
    stage.act(move |fs| async move {
        fs.create("/c0/stream", 0o644, Default::default()).await?;
        let mut writer = fs.open_append("/c0/stream").await?;
        writer.write_bytes(written.slice(..1_500_000)).await?;
        writer.flush().await?;
        writer.write_bytes(written.slice(1_500_000..)).await?;
        writer.sync().await?;
        std::mem::forget(writer);
        Ok(())
    })?;
    stage.expect("/c0/stream", &bytes, true);
    let small = write_synced(stage, "/c0/small", 8, 4_000)?;
    stage.expect("/c0/small", &small, true);
    stage.cluster.stop_all(Stop::PowerLoss);
    stage.pass(200)?;
    stage.cluster.start_all();
    stage.leader()?;
    stage.finish()
}

/// Small writes, each synced on its way and acknowledged with its commit; then the power fails everywhere, at once. Others wrote to
/// the same chunk before and did not sync, and one of them does so only now.
pub(super) fn power_loss_after_small_syncs(stage: &mut Stage) -> anyhow::Result<()> {
    let before = write(stage, "/c0/before", 3, 20_000)?;
    // Its chunk waits for its next writer.
    stage.pass(6_000)?;
    let mut bytes = vec![0; 200_000];
    let pieces: Vec<(usize, Bytes)> = (0..30_u64)
        .map(|round| {
            let at = (round * 7919 % 48) as usize * 4096;
            (at, content(round, 4096))
        })
        .collect();
    for (at, piece) in &pieces {
        bytes[*at..at + 4096].copy_from_slice(piece);
    }
    bytes.truncate(pieces.iter().map(|(at, _)| at + 4096).max().unwrap_or(0));
    stage.act(move |fs| async move {
        let (attributes, _) = fs.create("/c0/database", 0o644, Default::default()).await?;
        let database = fs.open_file(attributes.inode.into()).await?;
        for (at, piece) in pieces {
            database.write(at as u64, piece).await?;
            database.sync().await?;
        }
        fs.sync("/c0/before").await?;
        Ok(())
    })?;
    stage.expect("/c0/database", &bytes, true);
    stage.expect("/c0/before", &before, true);
    stage.cluster.stop_all(Stop::PowerLoss);
    stage.pass(200)?;
    stage.cluster.start_all();
    stage.leader()?;
    stage.finish()
}

/// The power fails on all datanodes: what was only flushed is gone everywhere. What was synced in the same chunk is readable, and
/// has all its replicas again; the rest is refused.
pub(super) fn end_lost_everywhere(stage: &mut Stage) -> anyhow::Result<()> {
    let synced = write_synced(stage, "/c0/synced", 8, 40_000)?;
    stage.expect("/c0/synced", &synced, true);
    write(stage, "/c0/flushed", 9, 10_000)?;
    stage.taint("/c0/flushed");
    let names: Vec<String> = stage
        .cluster
        .datanodes
        .iter()
        .map(|machine| machine.name.clone())
        .collect();
    for (index, name) in names.iter().enumerate() {
        let machine = &stage.cluster.datanodes[index];
        machine.disk.crash_losing_everything_unsynced();
        machine.running.borrow_mut().take();
        stage.cluster.sim.crash(name.clone());
        stage.cluster.power_losses.borrow_mut().push(index);
    }
    for name in &names {
        stage.cluster.start_machine(name);
    }
    stage.act(move |fs| async move {
        ensure!(
            fs.read_file("/c0/synced").await? == synced,
            "synced bytes differ"
        );
        loop {
            let status = fs.status().await?;
            let counts = &status.counts;
            let alive = status.datanodes.iter().all(|datanode| datanode.alive);
            if alive && counts.chunks_lossy == 1 && counts.chunks_unavailable == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let Err(lost) = fs.read_file("/c0/flushed").await else {
            anyhow::bail!("bytes that no disk has were read")
        };
        ensure!(lost.code() == ErrorCode::DataLost, "{lost}");
        ensure!(
            fs.read_file("/c0/synced").await? == synced,
            "synced bytes differ"
        );
        Ok(())
    })?;
    stage.finish()
}

/// One bit of an open replica changes. No reader may get it, no copy may keep it.
pub(super) fn bit_rot_in_an_unsealed_replica(stage: &mut Stage) -> anyhow::Result<()> {
    let bytes = write(stage, "/c0/first", 1, 150_000)?;
    let rotten = stage.holders()[0];
    let [old] = stage.replicas_on(rotten)?[..] else {
        bail!("one chunk was written to");
    };
    ensure!(stage.cluster.rot(rotten), "no bit was flipped");
    // Whom a client asks is its own choice.
    for _ in 0..READERS_MAX {
        if stage.counted(BAD_BLOCKS) > 0 {
            break;
        }
        let bytes = bytes.clone();
        stage.act(move |fs| async move {
            ensure!(
                fs.read_file("/c0/first").await? == bytes,
                "rotten bytes were read"
            );
            Ok(())
        })?;
    }
    write(stage, "/c0/second", 2, 20_000)?;
    stage.finish()?;
    // Old replicas are deleted, and what is left is equal byte by byte.
    stage.pass(5_000)?;
    ensure!(stage.counted(BAD_BLOCKS) > 0, "nobody found the bit");
    stage.was_replaced(rotten, old)?;
    replicas_are_equal(stage)
}

fn replicas_are_equal(stage: &Stage) -> anyhow::Result<()> {
    let mut seen: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    for machine in &stage.cluster.datanodes {
        for (path, len) in data_files(&machine.disk) {
            let bytes = bytes_of(&machine.disk, &path, len)?;
            let chunk: PathBuf = path.components().skip(2).collect();
            let first = seen.entry(chunk).or_insert_with(|| bytes.clone());
            ensure!(*first == bytes, "replicas of {} differ", path.display());
        }
    }
    Ok(())
}

fn bytes_of(disk: &SimDisk, path: &std::path::Path, len: u64) -> anyhow::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read, Caching::Buffered)?;
    let mut bytes = vec![0; usize::try_from(len)?];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Writes a file and expects it from now on.
pub(super) fn write(stage: &mut Stage, path: &str, seed: u64, len: usize) -> anyhow::Result<Bytes> {
    write_with(stage, path, content(seed, len), WriteOptions::default())
}

fn write_synced(stage: &mut Stage, path: &str, seed: u64, len: usize) -> anyhow::Result<Bytes> {
    let options = WriteOptions {
        sync: true,
        ..WriteOptions::default()
    };
    write_with(stage, path, content(seed, len), options)
}

fn write_with(
    stage: &mut Stage,
    path: &str,
    bytes: Bytes,
    options: WriteOptions,
) -> anyhow::Result<Bytes> {
    let (target, written) = (path.to_owned(), bytes.clone());
    stage.act(move |fs| async move {
        fs.write_file(target.as_str(), written, &options).await?;
        Ok(())
    })?;
    stage.expect(path, &bytes, false);
    Ok(bytes)
}
