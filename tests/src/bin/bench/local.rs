//! The same work on the local disk.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Writes a file in 1 MiB pieces and syncs it: MiB/s.
pub(crate) fn write_stream(path: &Path, piece: &[u8], pieces: usize) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let mut file = File::create(path)?;
    for _ in 0..pieces {
        file.write_all(piece)?;
    }
    file.sync_data()?;
    Ok(pieces as f64 * (piece.len() as f64 / f64::from(1 << 20)) / begin.elapsed().as_secs_f64())
}

/// Reads a file in 1 MiB pieces: MiB/s.
pub(crate) fn read_stream(path: &Path) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(bytes as f64 / f64::from(1 << 20) / begin.elapsed().as_secs_f64());
        }
        bytes += read;
    }
}

/// Runs `operation` for 0..count on eight threads: operations per second.
pub(crate) fn rate(
    count: u64,
    operation: impl Fn(u64) -> std::io::Result<()> + Sync,
) -> anyhow::Result<f64> {
    let next = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            return Ok(());
                        }
                        operation(index)?;
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(std::io::Error::other("a worker panicked")))
            })
            .collect::<Result<Vec<()>, _>>()
    })?;
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

/// A fresh directory below `root`.
pub(crate) fn fresh(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = root.join(name);
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    fs::create_dir_all(&path)?;
    Ok(path)
}
