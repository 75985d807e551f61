//! What this machine can do at best: one stream through loopback, and one past the page cache to the disk and back.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, anyhow};

use crate::report::Report;

/// Of each stream.
const PIECES: usize = 2048;
const PIECE: usize = 1 << 20;
const O_DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;

pub(crate) fn measure(directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    let mib_per_s = loopback().context("loopback")?;
    let name = "limit: one TCP connection over loopback, 1 MiB pieces";
    report.add(name, mib_per_s, "MiB/s", None, None);
    let (write, read) = direct(&directory.join("direct")).context("O_DIRECT")?;
    report.add("limit: disk, O_DIRECT write", write, "MiB/s", None, None);
    report.add("limit: disk, O_DIRECT read", read, "MiB/s", None, None);
    Ok(())
}

fn per_second(begin: Instant) -> f64 {
    PIECES as f64 * PIECE as f64 / f64::from(1 << 20) / begin.elapsed().as_secs_f64()
}

fn loopback() -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let begin = Instant::now();
    let writer = thread::spawn(move || {
        let piece = vec![7; PIECE];
        (0..PIECES).try_for_each(|_| sender.write_all(&piece))
    });
    let mut buffer = vec![0; PIECE];
    while receiver.read(&mut buffer)? > 0 {}
    let written = writer.join();
    written.map_err(|_| anyhow!("the writer panicked"))??;
    Ok(per_second(begin))
}

fn direct(path: &Path) -> anyhow::Result<(f64, f64)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let file = options.custom_flags(O_DIRECT).open(path)?;
    // O_DIRECT wants its memory aligned.
    let mut room = vec![7; PIECE + 4096];
    let start = room.as_ptr().align_offset(4096);
    let piece = &mut room[start..start + PIECE];
    let begin = Instant::now();
    for index in 0..PIECES {
        file.write_all_at(piece, (index * PIECE) as u64)?;
    }
    file.sync_data()?;
    let write = per_second(begin);
    let begin = Instant::now();
    for index in 0..PIECES {
        file.read_exact_at(piece, (index * PIECE) as u64)?;
    }
    let read = per_second(begin);
    std::fs::remove_file(path)?;
    Ok((write, read))
}
