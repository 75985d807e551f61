//! What the chunk store costs on a real disk, without network: `cargo run --release --example chunk_store_bench [dir]`.
//!
//! Prints MiB/s (or operations/s) and CPU seconds per GiB of large appends, small appends one by one and many at once,
//! reads, verification, syncs, and the start-up of a volume with many sealed replicas.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use cairn_daemon::disk::{Disk, RealDisk, create_dir_all_synced};
use cairn_datanode::chunk_store::{
    Append, Appender, BlockChecksum, READ_MARGIN, Volume, VolumeOptions,
};
use cairn_protocol::buffer;
use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};

const MIB: usize = 1 << 20;
const CHUNK_BYTES: usize = 128 * MIB;
const BLOCK: usize = 64 << 10;
const SMALL: usize = 4096;
const SMALL_COUNT: usize = 100_000;
const SEALED_COUNT: u64 = 5_000;
const LIFE: Incarnation = Incarnation(1);
const EPOCH: Epoch = Epoch(1);

fn main() -> Result<()> {
    let scratch = tempfile::tempdir_in(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned()))?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    println!("{:<52} {:>12} {:>12}", "work", "rate", "CPU-s/GiB");
    for (name, direct_from) in [("O_DIRECT", BLOCK), ("buffered", usize::MAX)] {
        let path = scratch.path().join(name);
        create_dir_all_synced(&*disk, &path)?;
        let options = VolumeOptions {
            direct_write_bytes: direct_from,
            ..VolumeOptions::default()
        };
        let volume = Volume::open(Arc::clone(&disk), &path, options)?;
        large(&volume, name)?;
    }
    let path = scratch.path().join("small");
    create_dir_all_synced(&*disk, &path)?;
    let volume = Volume::open(Arc::clone(&disk), &path, VolumeOptions::default())?;
    for batch in [64, 16, 1] {
        small(&volume, ChunkId(1000 + batch as u64 * 100), batch)?;
    }
    many(&disk, &scratch.path().join("many"))
}

/// 1 GiB in 1 MiB appends, sealed and so synced; then read and verified.
fn large(volume: &Volume, name: &str) -> Result<()> {
    let data = filled(MIB);
    let total = 1024 * MIB;
    let chunks = total / CHUNK_BYTES;
    let pass = |verified: bool| -> Result<()> {
        for chunk in 0..chunks as u64 {
            let stream = volume.create(ChunkId(chunk), LIFE, EPOCH)?;
            for offset in (0..CHUNK_BYTES).step_by(MIB) {
                let blocks = blocks_of(offset, &data, BLOCK);
                let part = Append {
                    offset: offset as u64,
                    data: &data,
                    blocks: &blocks,
                    verified,
                };
                stream.append_many(&[part])?;
            }
            volume.seal(ChunkId(chunk), EPOCH, CHUNK_BYTES as u64)?;
        }
        Ok(())
    };
    // Once to warm the disk up; the client's sums are part of the measured cost.
    pass(true)?;
    delete(volume, chunks)?;
    measure(&format!("{name}: 1 MiB appends, sealed"), total, 0, || {
        pass(true)
    })?;
    delete(volume, chunks)?;
    measure(
        &format!("{name}: the same, verified by the store"),
        total,
        0,
        || pass(false),
    )?;
    let mut buffer = buffer::pool().take(MIB + READ_MARGIN);
    measure(&format!("{name}: 1 MiB reads"), total, 0, || {
        for chunk in 0..chunks as u64 {
            for offset in (0..CHUNK_BYTES).step_by(MIB) {
                volume.read(
                    ChunkId(chunk),
                    offset as u64,
                    MIB as u64,
                    &mut buffer,
                    false,
                )?;
            }
        }
        Ok(())
    })?;
    measure(&format!("{name}: verify"), total, 0, || {
        for chunk in 0..chunks as u64 {
            anyhow::ensure!(volume.verify(ChunkId(chunk), 0, u64::MAX)?.bad.is_empty());
        }
        Ok(())
    })
}

fn delete(volume: &Volume, chunks: usize) -> Result<()> {
    (0..chunks as u64).try_for_each(|chunk| Ok(volume.delete(ChunkId(chunk), LIFE)?))
}

/// 4 KiB appends, `batch` at a time; then random reads of them.
fn small(volume: &Volume, first: ChunkId, batch: usize) -> Result<()> {
    let data = filled(SMALL);
    let total = SMALL * SMALL_COUNT;
    let per_chunk = CHUNK_BYTES / SMALL;
    measure(
        &format!("4 KiB appends, {batch} at a time"),
        total,
        SMALL_COUNT,
        || {
            let mut stream: Option<Appender> = None;
            let mut done = 0;
            while done < SMALL_COUNT {
                if done % per_chunk == 0 {
                    let chunk = ChunkId(first.0 + (done / per_chunk) as u64);
                    stream = Some(volume.create(chunk, LIFE, EPOCH)?);
                }
                let stream = stream
                    .as_ref()
                    .context("a stream was opened at the chunk's start")?;
                let count = batch
                    .min(SMALL_COUNT - done)
                    .min(per_chunk - done % per_chunk);
                append_small(stream, &data, done % per_chunk, count)?;
                done += count;
            }
            Ok(())
        },
    )?;
    let mut buffer = buffer::pool().take(SMALL + READ_MARGIN);
    measure(
        "  4 KiB reads of them, scattered",
        total,
        SMALL_COUNT,
        || {
            for i in 0..SMALL_COUNT {
                let at = i.wrapping_mul(7_919) % SMALL_COUNT;
                let chunk = ChunkId(first.0 + (at / per_chunk) as u64);
                volume.read(
                    chunk,
                    (at % per_chunk * SMALL) as u64,
                    SMALL as u64,
                    &mut buffer,
                    false,
                )?;
            }
            Ok(())
        },
    )?;
    measure("  sync of all", total, 0, || {
        volume.sync_all_open()?;
        Ok(())
    })
}

fn append_small(stream: &Appender, data: &[u8], first: usize, count: usize) -> Result<()> {
    let blocks: Vec<[BlockChecksum; 1]> = (first..first + count)
        .map(|i| {
            let offset = (i * SMALL) as u64;
            [BlockChecksum {
                offset,
                length: SMALL as u32,
                crc32c: crc32c(data),
            }]
        })
        .collect();
    let parts: Vec<Append<'_>> = blocks
        .iter()
        .map(|blocks| Append {
            offset: blocks[0].offset,
            data,
            blocks,
            verified: true,
        })
        .collect();
    stream.append_many(&parts)?;
    Ok(())
}

/// Start-up with many sealed replicas.
fn many(disk: &Arc<dyn Disk>, path: &Path) -> Result<()> {
    create_dir_all_synced(&**disk, path)?;
    let volume = Volume::open(Arc::clone(disk), path, VolumeOptions::default())?;
    let data = filled(SMALL);
    let started = Instant::now();
    for chunk in 0..SEALED_COUNT {
        let stream = volume.create(ChunkId(chunk), LIFE, EPOCH)?;
        append_small(&stream, &data, 0, 1)?;
        volume.seal(ChunkId(chunk), EPOCH, SMALL as u64)?;
    }
    let each = started.elapsed() / SEALED_COUNT as u32;
    println!(
        "{:<52} {:>12}",
        "create, append 4 KiB, seal: each",
        format!("{each:.0?}")
    );
    drop(volume);
    let started = Instant::now();
    let volume = Volume::open(Arc::clone(disk), path, VolumeOptions::default())?;
    let took = started.elapsed();
    anyhow::ensure!(volume.list().len() as u64 == SEALED_COUNT);
    println!(
        "{:<52} {:>12}",
        format!("start-up with {SEALED_COUNT} sealed replicas"),
        format!("{took:.1?}")
    );
    Ok(())
}

fn filled(len: usize) -> buffer::Buffer {
    let mut data = buffer::pool().take(len);
    for (i, byte) in data.iter_mut().enumerate() {
        *byte = (i.wrapping_mul(31) >> 3) as u8;
    }
    data
}

fn blocks_of(offset: usize, data: &[u8], block_len: usize) -> Vec<BlockChecksum> {
    let starts = (offset..offset + data.len()).step_by(block_len);
    let block = |(start, bytes): (usize, &[u8])| BlockChecksum {
        offset: start as u64,
        length: bytes.len() as u32,
        crc32c: crc32c(bytes),
    };
    starts.zip(data.chunks(block_len)).map(block).collect()
}

/// Runs, and prints bytes (or operations, if any) per second and CPU per GiB.
fn measure(
    work: &str,
    bytes: usize,
    operations: usize,
    run: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (cpu, started) = (cpu_seconds(), Instant::now());
    run()?;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let rate = match operations {
        0 => format!("{:.0} MiB/s", bytes as f64 / MIB as f64 / seconds),
        count => format!("{:.0} /s", count as f64 / seconds),
    };
    println!(
        "{work:<52} {rate:>12} {:>12.2}",
        cpu / (bytes as f64 / (1 << 30) as f64)
    );
    Ok(())
}

/// User and system time of this process, as the kernel counts it in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    // Fields 14 and 15 of the line; the first after the name is field 3.
    let ticks: f64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}
