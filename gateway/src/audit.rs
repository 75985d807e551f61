//! The audit log: one line of JSON for each request that changes something, also for those that were refused or whose client went away.
//!
//! Lines go to a file of their own, if the settings name one, else they are events of the target `audit` in the daemon's log. A
//! request does not wait for the disk. If the file cannot be written, or is slower than the requests, lines go to the log instead: none is dropped.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_daemon::disk::{Caching, Disk, DiskFile, OpenMode, RealDisk, parent_of};
use cairn_daemon::{Tasks, blocking};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::error::GatewayError;

/// Lines that wait for the disk.
const WAITING_MAX: usize = 16_384;

/// A file that is longer is renamed, and a new one begun.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Old files that are kept.
const OLD_FILES: u32 = 4;

/// Who asked for what, from where, and what came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Entry<'a> {
    /// Milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// As claimed; see `outcome` for whether that was believed.
    pub(crate) user: &'a str,
    pub(crate) from: SocketAddr,
    pub(crate) operation: &'a str,
    pub(crate) path: &'a str,
    /// The other path of operations that have two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destination: Option<&'a str>,
    /// The HTTP status; 0 if the client went away before there was one.
    pub(crate) status: u16,
    /// `ok`, or what kind of failure.
    pub(crate) outcome: &'a str,
    pub(crate) duration_ms: f64,
}

/// Takes entries.
pub(crate) struct AuditLog {
    /// To the task that writes the file. `None`: to the log.
    lines: Option<mpsc::Sender<String>>,
}

impl AuditLog {
    /// Writes to `path`, if there is one, in a component of `tasks`.
    pub(crate) fn start(path: &str, tasks: &Tasks) -> Self {
        if path.is_empty() {
            return Self { lines: None };
        }
        let (lines, waiting) = mpsc::channel(WAITING_MAX);
        let path = PathBuf::from(path);
        tasks.component("audit log", |stop| async move {
            let mut file = AuditFile::new(Arc::new(RealDisk), path);
            let mut waiting = waiting;
            let mut batch = Vec::new();
            loop {
                // Requests end before this is cancelled: what they have said is all there.
                let stopping = tokio::select! {
                    biased;
                    () = stop.cancelled() => true,
                    count = waiting.recv_many(&mut batch, WAITING_MAX) => count == 0,
                };
                while let Ok(line) = waiting.try_recv() {
                    batch.push(line);
                }
                file = write(file, std::mem::take(&mut batch)).await;
                if stopping {
                    stop.cancelled().await;
                    return Ok::<(), GatewayError>(());
                }
            }
        });
        Self { lines: Some(lines) }
    }

    pub(crate) fn write(&self, entry: &Entry<'_>) {
        // Strings and numbers: nothing in it can fail.
        let line = serde_json::to_string(entry).unwrap_or_default();
        let line = match &self.lines {
            None => line,
            Some(lines) => match lines.try_send(line) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(line))
                | Err(mpsc::error::TrySendError::Closed(line)) => line,
            },
        };
        log(&line);
    }
}

fn log(line: &str) {
    tracing::info!(target: "audit", "{line}");
}

/// What cannot be written goes to the log.
async fn write(mut file: AuditFile, lines: Vec<String>) -> AuditFile {
    blocking(move || {
        if let Err(error) = file.append(&lines) {
            let path = file.path.display();
            tracing::error!(%path, %error, "audit log not written, its lines follow here");
            lines.iter().for_each(|line| log(line));
            file.open = None;
        }
        file
    })
    .await
}

/// The file, and those before it.
struct AuditFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    open: Option<(Arc<dyn DiskFile>, u64)>,
}

impl AuditFile {
    fn new(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        let open = None;
        Self { disk, path, open }
    }

    /// Blocks.
    fn append(&mut self, lines: &[String]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let (file, length) = match self.open.take() {
            Some((file, length)) if length < FILE_BYTES_MAX => (file, length),
            full => self.begin(full.is_some())?,
        };
        let mut bytes = lines.join("\n").into_bytes();
        bytes.push(b'\n');
        file.write_all_at(&bytes, length)?;
        self.open = Some((file, length + bytes.len() as u64));
        Ok(())
    }

    /// Opens the file; if it is full, a new one.
    fn begin(&self, full: bool) -> io::Result<(Arc<dyn DiskFile>, u64)> {
        self.disk.create_dir_all(parent_of(&self.path))?;
        if full {
            for number in (1..OLD_FILES).rev() {
                let (from, to) = (self.old(number), self.old(number + 1));
                if self.disk.exists(&from)? {
                    self.disk.rename(&from, &to)?;
                }
            }
            self.disk.rename(&self.path, &self.old(1))?;
        }
        let mode = OpenMode::CreateOrOpen;
        let file = self.disk.open(&self.path, mode, Caching::Buffered)?;
        let length = file.len()?;
        Ok((file, length))
    }

    fn old(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// A duration in milliseconds, to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use cairn_daemon::disk::RealDisk;

    use super::{AuditFile, FILE_BYTES_MAX, OLD_FILES};

    #[test]
    fn lines_follow_those_that_are_there_and_old_files_are_few() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/audit.log");
        for line in ["one", "two"] {
            let mut file = AuditFile::new(Arc::new(RealDisk), path.clone());
            file.append(&[line.to_owned()]).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        let mut file = AuditFile::new(Arc::new(RealDisk), path.clone());
        for number in 0..OLD_FILES + 3 {
            file.append(&[number.to_string()]).unwrap();
            if let Some((_, length)) = &mut file.open {
                *length = FILE_BYTES_MAX;
            }
        }
        let listed = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(listed, 1 + OLD_FILES as usize);
        assert_eq!(fs::read_to_string(&path).unwrap(), "6\n");
        assert_eq!(fs::read_to_string(file.old(4)).unwrap(), "2\n");
    }
}
