//! What is measured.

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use cairn_client::{ClusterConfig, FileSystem, WriteOptions};
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::operation::{IfExists, RenameMode};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::cpu::Cpu;
use crate::local;
use crate::report::Report;

/// Callers at once where the issue says so.
const CALLERS: usize = 64;
/// Operations of each metadata figure.
const METADATA_COUNT: u64 = 100_000;
/// Files of each small-file figure.
const SMALL_COUNT: u64 = 40_000;
/// Bytes of the stream figures.
const STREAM_BYTES: u64 = 2 << 30;
const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

pub(crate) async fn connect(namenodes: &[String]) -> anyhow::Result<FileSystem> {
    let mut config = ClusterConfig::new(namenodes.to_vec(), Caller::default());
    config.client_name = "bench".to_owned();
    Ok(FileSystem::connect(config).await?)
}

pub(crate) async fn prepare(fs: &FileSystem) -> anyhow::Result<()> {
    fs.mkdir_all("/bench", 0o755).await?;
    Ok(())
}

pub(crate) async fn clean(fs: &FileSystem) -> anyhow::Result<()> {
    for entry in fs.list_all("/bench").await? {
        if entry.name != b"fill" {
            let path = [b"/bench/".as_slice(), &entry.name].concat();
            fs.remove_tree(path).await?;
        }
    }
    Ok(())
}

/// Runs `operation` for 0..count with 64 at once: operations per second and CPU seconds per million.
async fn rate<F>(cpu: &Cpu, count: u64, operation: impl Fn(u64) -> F) -> anyhow::Result<(f64, f64)>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let before = cpu.seconds();
    let begin = Instant::now();
    let next = AtomicU64::new(0);
    let (next, operation) = (&next, &operation);
    stream::iter(0..CALLERS)
        .map(|_| async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return anyhow::Ok(());
                }
                operation(index).await?;
            }
        })
        .buffer_unordered(CALLERS)
        .try_collect::<()>()
        .await?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok((
        count as f64 / seconds,
        (cpu.seconds() - before) * 1e6 / count as f64,
    ))
}

/// Nothing of what was just written may come from memory: ours, the servers', or the disk's.
pub(crate) fn drop_caches() {
    rustix::fs::sync();
    // Needs root; without it the read is a warm one, and the table is worth less.
    if std::fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        eprintln!("cannot drop the page cache: reads are not cold");
    }
}

pub(crate) async fn stream(
    fs: &FileSystem,
    cpu: &Cpu,
    local: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let piece = pseudo_random(1 << 20);
    let local_file = local.join("stream");
    let mut local_write = 0.0_f64;
    let mut write = Vec::new();
    // The first round warms the machine up: memory that was never touched is slow.
    for round in 0..3 {
        local_write = local_write.max(local::write_stream(
            &local_file,
            &piece,
            (STREAM_BYTES >> 20) as usize,
        )?);
        let path = format!("/bench/stream-{round}");
        let before = cpu.seconds();
        let begin = Instant::now();
        let options = WriteOptions {
            if_exists: IfExists::Replace,
            ..WriteOptions::default()
        };
        let mut writer = fs.create_writer(path.as_str(), options)?;
        for _ in 0..STREAM_BYTES >> 20 {
            writer.write_bytes(piece.clone()).await?;
        }
        let attributes = writer.close().await?;
        ensure!(
            attributes.size == STREAM_BYTES,
            "{path} has {} bytes",
            attributes.size
        );
        let seconds = begin.elapsed().as_secs_f64();
        let per_gib = (cpu.seconds() - before) / (STREAM_BYTES as f64 / GIB);
        write.push((STREAM_BYTES as f64 / MIB / seconds, per_gib));
        if round < 2 {
            fs.unlink(path.as_str()).await?;
        }
    }
    let (value, cpu_s) = median(write);
    report.add(
        "one stream write 2 GiB",
        value,
        "MiB/s",
        Some(cpu_s),
        Some(local_write),
    );

    let mut read = Vec::new();
    let mut local_read = 0.0_f64;
    for _ in 0..3 {
        drop_caches();
        local_read = local_read.max(local::read_stream(&local_file)?);
        drop_caches();
        let before = cpu.seconds();
        let begin = Instant::now();
        let reader = fs.open("/bench/stream-2").await?;
        let mut pieces = reader.stream(0);
        let mut bytes = 0;
        while let Some(data) = pieces.next().await? {
            bytes += data.len() as u64;
        }
        ensure!(bytes == STREAM_BYTES, "read {bytes} bytes");
        let per_gib = (cpu.seconds() - before) / (STREAM_BYTES as f64 / GIB);
        read.push((
            STREAM_BYTES as f64 / MIB / begin.elapsed().as_secs_f64(),
            per_gib,
        ));
    }
    let (value, cpu_s) = median(read);
    report.add(
        "one stream read 2 GiB cold",
        value,
        "MiB/s",
        Some(cpu_s),
        Some(local_read),
    );
    std::fs::remove_file(&local_file)?;
    fs.unlink("/bench/stream-2").await?;
    Ok(())
}

fn median(mut values: Vec<(f64, f64)>) -> (f64, f64) {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    values[values.len() / 2]
}

/// Bytes that no disk compresses, without a dependency on the speed of a generator.
pub(crate) fn pseudo_random(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    Bytes::from(bytes)
}

pub(crate) async fn small(
    fs: &FileSystem,
    cpu: &Cpu,
    local: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let content = pseudo_random(4096);
    let directory = local::fresh(local, "small")?;
    let on_disk = local::rate(SMALL_COUNT, |index| {
        std::fs::write(directory.join(index.to_string()), &content)
    })?;
    let from_disk = local::rate(SMALL_COUNT, |index| {
        std::fs::read(directory.join(index.to_string())).map(drop)
    })?;
    fs.mkdir("/bench/small", 0o755).await?;
    let (value, per_million) = rate(cpu, SMALL_COUNT, |index| {
        let (fs, content) = (fs.clone(), content.clone());
        async move {
            fs.write_file(
                format!("/bench/small/{index}"),
                content,
                &WriteOptions::default(),
            )
            .await?;
            Ok(())
        }
    })
    .await?;
    report.add(
        "create+write 4 KiB files, 64 at once, flushed",
        value,
        "ops/s",
        Some(per_million),
        Some(on_disk),
    );
    let (value, per_million) = rate(cpu, SMALL_COUNT, |index| {
        let fs = fs.clone();
        async move {
            let read = fs.read_file(format!("/bench/small/{index}")).await?;
            ensure!(read.len() == 4096, "file {index} has {} bytes", read.len());
            Ok(())
        }
    })
    .await?;
    report.add(
        "read 4 KiB files, 64 at once",
        value,
        "ops/s",
        Some(per_million),
        Some(from_disk),
    );
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

async fn stat(
    fs: &FileSystem,
    cpu: &Cpu,
    local_stat: f64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (value, per_million) = rate(cpu, METADATA_COUNT * 4, |index| {
        let fs = fs.clone();
        async move {
            Ok(fs
                .stat(format!("/bench/meta/d{}", index % METADATA_COUNT))
                .await
                .map(drop)?)
        }
    })
    .await?;
    report.add(
        "stat, 64 at once, linearizable",
        value,
        "ops/s",
        Some(per_million),
        Some(local_stat),
    );
    Ok(())
}

/// Names are made, looked at and changed. Without `stats` the part is over sooner, which helps who compares two builds.
pub(crate) async fn metadata(
    fs: &FileSystem,
    cpu: &Cpu,
    local: &Path,
    stats: bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let directory = local::fresh(local, "meta")?;
    let local_mkdir = local::rate(METADATA_COUNT, |index| {
        std::fs::create_dir(directory.join(format!("d{index}")))
    })?;
    let local_stat = local::rate(METADATA_COUNT, |index| {
        std::fs::metadata(directory.join(format!("d{index}"))).map(drop)
    })?;
    let local_rename = local::rate(METADATA_COUNT, |index| {
        std::fs::rename(
            directory.join(format!("d{index}")),
            directory.join(format!("e{index}")),
        )
    })?;
    fs.mkdir("/bench/meta", 0o755).await?;
    let (value, per_million) = rate(cpu, METADATA_COUNT, |index| {
        let fs = fs.clone();
        async move {
            Ok(fs
                .mkdir(format!("/bench/meta/d{index}"), 0o755)
                .await
                .map(drop)?)
        }
    })
    .await?;
    report.add(
        "mkdir, 64 at once, fsynced on a majority",
        value,
        "ops/s",
        Some(per_million),
        Some(local_mkdir),
    );
    if stats {
        stat(fs, cpu, local_stat, report).await?;
    }
    let (value, per_million) = rate(cpu, METADATA_COUNT, |index| {
        let fs = fs.clone();
        async move {
            let (source, target) = (
                format!("/bench/meta/d{index}"),
                format!("/bench/meta/e{index}"),
            );
            Ok(fs
                .rename(source, target, RenameMode::Replace)
                .await
                .map(drop)?)
        }
    })
    .await?;
    report.add(
        "rename, 64 at once, fsynced on a majority",
        value,
        "ops/s",
        Some(per_million),
        Some(local_rename),
    );
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

/// p50 and p99 of one caller with nothing else running.
pub(crate) async fn latency(
    fs: &FileSystem,
    local: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    const COUNT: u64 = 2000;
    let directory = local::fresh(local, "latency")?;
    let content = pseudo_random(4096);
    fs.mkdir("/bench/latency", 0o755).await?;
    let mut create = Vec::new();
    let mut write = Vec::new();
    let mut stat = Vec::new();
    let mut local_create = Vec::new();
    let mut local_write = Vec::new();
    let mut local_stat = Vec::new();
    for index in 0..COUNT {
        let empty = format!("/bench/latency/empty-{index}");
        create.push(timed(fs.create(empty, 0o644, IfExists::Fail)).await?);
        let full = format!("/bench/latency/full-{index}");
        write.push(
            timed(fs.write_file(full.as_str(), content.clone(), &WriteOptions::default())).await?,
        );
        stat.push(timed(fs.stat(full.as_str())).await?);
        let path = directory.join(index.to_string());
        let begin = Instant::now();
        let file = std::fs::File::create(&path)?;
        local_create.push(begin.elapsed());
        let begin = Instant::now();
        std::os::unix::fs::FileExt::write_all_at(&file, &content, 0)?;
        local_write.push(begin.elapsed());
        let begin = Instant::now();
        std::fs::metadata(&path)?;
        local_stat.push(begin.elapsed());
    }
    for (name, ours, theirs) in [
        ("one caller: create", &mut create, &mut local_create),
        (
            "one caller: create+4 KiB write+flush",
            &mut write,
            &mut local_write,
        ),
        ("one caller: stat", &mut stat, &mut local_stat),
    ] {
        for (label, part) in [("p50", 0.5), ("p99", 0.99)] {
            report.add(
                &format!("{name}, {label}"),
                percentile(ours, part),
                "us",
                None,
                Some(percentile(theirs, part)),
            );
        }
    }
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

async fn timed<T, E>(operation: impl Future<Output = Result<T, E>>) -> Result<Duration, E> {
    let begin = Instant::now();
    operation.await?;
    Ok(begin.elapsed())
}

pub(crate) fn percentile(values: &mut [Duration], part: f64) -> f64 {
    values.sort();
    let index = ((values.len() - 1) as f64 * part) as usize;
    values[index].as_secs_f64() * 1e6
}

/// Fills the namespace with small files, a thousand in each directory.
pub(crate) async fn fill(
    fs: &FileSystem,
    cpu: &Cpu,
    files: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    const PER_DIRECTORY: u64 = 1000;
    let content = pseudo_random(64);
    fs.mkdir_all("/bench/fill", 0o755).await?;
    for directory in 0..files.div_ceil(PER_DIRECTORY) {
        fs.mkdir(format!("/bench/fill/{directory}"), 0o755).await?;
    }
    let (value, per_million) = rate(cpu, files, |index| {
        let (fs, content) = (fs.clone(), content.clone());
        async move {
            let path = format!(
                "/bench/fill/{}/{}",
                index / PER_DIRECTORY,
                index % PER_DIRECTORY
            );
            fs.write_file(path, content, &WriteOptions::default())
                .await?;
            Ok(())
        }
    })
    .await?;
    report.add(
        "create+write 64 B files while filling",
        value,
        "ops/s",
        Some(per_million),
        None,
    );
    report.add("files in the namespace", files as f64, "files", None, None);
    Ok(())
}

/// How long until a read is answered; the script started the namenodes just before.
pub(crate) async fn first_read(fs: &FileSystem, report: &mut Report) -> anyhow::Result<()> {
    let begin = Instant::now();
    let read = fs.read_file("/bench/fill/0/0").await?;
    ensure!(read.len() == 64, "read {} bytes", read.len());
    report.add(
        "first read after connecting",
        begin.elapsed().as_secs_f64() * 1e3,
        "ms",
        None,
        None,
    );
    Ok(())
}
