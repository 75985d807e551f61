//! Written files that wait to become segments.
//!
//! Writing 64 MiB of zeros takes tens of milliseconds, so a thread writes the next spare while the current segment
//! fills. In the simulator it is written when it is needed.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tracing::warn;

use super::directory::{Directory, Segment};
use super::error::LogError;

/// The spares of one log.
pub(super) struct Spares {
    directory: Directory,
    segment_bytes: u64,
    count_max: usize,
    free: Vec<u64>,
    next_number: u64,
    maker: Option<Maker>,
}

impl Spares {
    /// Takes over the spares found in the directory; those of another size go.
    pub(super) fn open(
        directory: Directory,
        found: &[(u64, u64)],
        segment_bytes: u64,
        count_max: usize,
        inline: bool,
    ) -> Result<Spares, LogError> {
        let mut free = Vec::new();
        for &(number, bytes) in found {
            if bytes == segment_bytes && free.len() < count_max {
                free.push(number);
            } else {
                directory.remove_spare(number)?;
            }
        }
        let next_number = found
            .last()
            .map_or(0, |&(number, _)| number.saturating_add(1));
        let maker = match inline {
            true => None,
            false => Some(Maker::start(directory.clone(), segment_bytes)?),
        };
        Ok(Spares {
            directory,
            segment_bytes,
            count_max,
            free,
            next_number,
            maker,
        })
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// Has a spare written in the background if there is none.
    pub(super) fn prepare(&mut self) {
        if !self.free.is_empty() || self.maker.as_ref().is_none_or(|maker| maker.busy) {
            return;
        }
        let number = self.number();
        if let Some(maker) = &mut self.maker {
            maker.request(number);
        }
    }

    /// A spare's number; waits for one, or writes one.
    pub(super) fn take(&mut self) -> Result<u64, LogError> {
        if let Some(number) = self.free.pop() {
            return Ok(number);
        }
        match self.maker.as_mut().and_then(Maker::wait) {
            Some((number, Ok(()))) => return Ok(number),
            Some((number, Err(failure))) => {
                // No record was ever in it. The disk may have been full when it was written and have room now.
                warn!(error = %failure, "could not write a raft log segment in advance");
                // What stays because this fails too goes at the next opening.
                let _ = self.directory.remove_spare(number);
            }
            None => {}
        }
        let number = self.number();
        self.directory.create_spare(number, self.segment_bytes)?;
        Ok(number)
    }

    /// Keeps the file of a segment that is no longer needed, or deletes it if there are enough.
    pub(super) fn retire(&mut self, segment: &Segment) -> Result<(), LogError> {
        if self.free.len() >= self.count_max || segment.header.capacity != self.segment_bytes {
            return self.directory.remove_segment(segment);
        }
        let number = self.number();
        self.directory.retire_segment(segment, number)?;
        self.free.push(number);
        Ok(())
    }
}

/// A spare's number, and whether it could be written.
type Made = (u64, Result<(), LogError>);

/// The thread that writes spares: at most one asked for at a time. It ends when `requests` is dropped.
struct Maker {
    requests: Option<mpsc::SyncSender<u64>>,
    made: mpsc::Receiver<Made>,
    thread: Option<JoinHandle<()>>,
    busy: bool,
}

impl Maker {
    fn start(directory: Directory, segment_bytes: u64) -> Result<Maker, LogError> {
        let (requests, inbox) = mpsc::sync_channel::<u64>(1);
        let (outbox, made) = mpsc::sync_channel(1);
        let path = directory.path().to_path_buf();
        let work = move || {
            for number in inbox {
                let result = directory.create_spare(number, segment_bytes);
                if outbox.send((number, result)).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("raft-log-spare".to_owned())
            .spawn(work)
            .map_err(LogError::io("start the spare writer of", &path))?;
        Ok(Maker {
            requests: Some(requests),
            made,
            thread: Some(thread),
            busy: false,
        })
    }

    fn request(&mut self, number: u64) {
        self.busy = self
            .requests
            .as_ref()
            .is_some_and(|requests| requests.try_send(number).is_ok());
    }

    /// The spare that was asked for; `None` if none was.
    fn wait(&mut self) -> Option<Made> {
        if !self.busy {
            return None;
        }
        self.busy = false;
        self.made.recv().ok()
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread panicked; the spare it was writing is not used then.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use cairn_daemon::disk::sim::SimDisk;

    use super::*;

    #[test]
    fn a_spare_that_could_not_be_written_in_advance_is_replaced_by_another() {
        let disk = SimDisk::new();
        let path = Path::new("/raft");
        let directory = Directory::open(Arc::new(disk.mount()), path).unwrap();
        disk.fail_next_sync(&path.join("spare-0000000000000000"));
        let mut spares = Spares::open(directory.clone(), &[], 8192, 2, false).unwrap();
        spares.prepare();
        assert_eq!(spares.take().unwrap(), 1);
        spares.prepare();
        assert_eq!(spares.take().unwrap(), 2);
        assert_eq!(directory.list().unwrap().spares, [(1, 8192), (2, 8192)]);
    }

    #[test]
    fn a_full_disk_is_an_error_and_not_the_end_of_the_pool() {
        let disk = SimDisk::new();
        let directory = Directory::open(Arc::new(disk.mount()), Path::new("/raft")).unwrap();
        let mut spares = Spares::open(directory, &[], 8192, 2, false).unwrap();
        disk.set_capacity(5000);
        spares.prepare();
        assert!(matches!(spares.take(), Err(LogError::Io { .. })));
        disk.set_capacity(1 << 20);
        spares.prepare();
        assert_eq!(spares.take().unwrap(), 2);
    }
}
