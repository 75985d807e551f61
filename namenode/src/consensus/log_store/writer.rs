//! The one writer of a log: turns jobs into records, writes them together, syncs once, then answers.
//!
//! Jobs become records in the order in which they were handed over, and nothing is ever written twice in one place of
//! one segment's life. The first error stops the log for good: after a failed write or sync nobody knows what the disk
//! holds, so nothing is tried again and everything that waits is refused.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{error, info};

use super::directory::{Directory, Segment};
use super::error::LogError;
use super::format::{
    Kind, Place, SEGMENT_START, STATE_BYTES, Seed, SegmentHeader, encode_record, record_bytes,
};
use super::memory::{Location, Memory, Placed};
use super::record::{EntryBody, State};
use super::recover::Recovered;
use super::spares::Spares;
use crate::consensus::types::{Entry, IoFlushed, LogId, Vote};

/// The write buffer is given back above this size.
const BUFFER_BYTES_KEPT: usize = 8 << 20;

/// One change of the log.
pub(super) enum Op {
    Entries(Vec<(Entry, EntryBody)>),
    Vote(Vote),
    /// All entries from this index on go; all of them if there is none.
    Truncate(Option<u64>),
    /// All entries up to this one go.
    Purge(LogId),
}

/// Who learns that a job is durable.
pub(super) enum Done {
    Raft(IoFlushed),
    Waiter(oneshot::Sender<io::Result<()>>),
}

impl Done {
    fn complete(self, result: io::Result<()>) {
        match self {
            Done::Raft(flushed) => flushed.io_completed(result),
            // A caller that went away does not want to know.
            Done::Waiter(waiter) => drop(waiter.send(result)),
        }
    }
}

/// What the log store hands to the writer.
pub(super) struct Job {
    /// A new committed id, written along: it asks for no sync of its own.
    pub committed: Option<Option<LogId>>,
    pub op: Op,
    pub done: Done,
    /// Its share of what may wait for the writer; given back with the job.
    pub budget: Option<OwnedSemaphorePermit>,
}

impl Job {
    pub(super) fn new(committed: Option<Option<LogId>>, op: Op, done: Done) -> Job {
        Job {
            committed,
            op,
            done,
            budget: None,
        }
    }

    /// Answers without having written anything.
    pub(super) fn refuse(self, reason: &str) {
        self.done.complete(Err(io::Error::other(reason.to_owned())));
    }

    /// Payload bytes, roughly: enough to bound a batch.
    pub(super) fn bytes(&self) -> u64 {
        match &self.op {
            Op::Entries(entries) => entries.iter().map(|(_, body)| body.payload_bytes()).sum(),
            Op::Vote(_) | Op::Truncate(_) | Op::Purge(_) => STATE_BYTES,
        }
    }
}

/// See the module's page.
pub(super) struct Writer {
    directory: Directory,
    spares: Spares,
    memory: Arc<Memory>,
    salt: u64,
    /// Oldest first; records go to the last.
    segments: VecDeque<Segment>,
    /// What replaying everything up to here would give.
    state: State,
    /// Where the next record goes, and the chain value that it continues.
    end: u64,
    chain: u32,
    /// Everything below is durable.
    synced_end: u64,
    /// Records from `synced_end` to `end`.
    buffer: Vec<u8>,
    placed: Vec<Placed>,
}

impl Writer {
    /// Goes on where recovery ended. Counts the opening and makes it durable before anything else.
    pub(super) fn start(
        directory: Directory,
        spares: Spares,
        memory: Arc<Memory>,
        recovered: Recovered,
        salt: u64,
    ) -> Result<Writer, LogError> {
        let mut writer = Writer {
            directory,
            spares,
            memory,
            salt,
            segments: recovered.segments,
            state: recovered.state,
            end: recovered.end,
            chain: recovered.chain,
            synced_end: recovered.end,
            buffer: Vec::new(),
            placed: Vec::new(),
        };
        writer
            .segments
            .iter()
            .for_each(|segment| writer.memory.add_segment(segment));
        writer.state.opens += 1;
        writer
            .memory
            .update_state(|state| state.opens = writer.state.opens);
        if writer.segments.is_empty() {
            writer.begin_segment(1, 0, 0)?;
        } else {
            writer.push_state()?;
        }
        writer.flush()?;
        // A purge may have been durable without its segments having been freed.
        writer.free_segments()?;
        writer.spares.prepare();
        Ok(writer)
    }

    /// Writes all jobs, syncs, and answers them.
    pub(super) fn write(&mut self, jobs: &mut Vec<Job>) {
        let mut result = self.memory.check();
        if result.is_ok() {
            result = self.write_batch(jobs).map_err(|failure| {
                error!(error = %failure, "raft log failed and has stopped");
                self.memory.fail(&failure.to_string());
                failure.into()
            });
        }
        for job in jobs.drain(..) {
            job.done.complete(match &result {
                Ok(()) => Ok(()),
                Err(failure) => Err(io::Error::new(failure.kind(), failure.to_string())),
            });
        }
    }

    fn write_batch(&mut self, jobs: &[Job]) -> Result<(), LogError> {
        let mut purges = false;
        for job in jobs {
            if let Some(committed) = job.committed {
                self.state.committed = committed;
                self.push_state()?;
            }
            match &job.op {
                Op::Entries(entries) => {
                    entries
                        .iter()
                        .try_for_each(|(entry, body)| self.push_entry(&entry.log_id, body))?;
                }
                Op::Vote(vote) => {
                    self.state.vote = Some(*vote);
                    self.push_state()?;
                }
                Op::Truncate(next_index) => {
                    self.state.next_index = *next_index;
                    self.push_state()?;
                }
                Op::Purge(purged) => {
                    self.state.purged = Some(*purged);
                    self.state.next_index = self.state.next_index.max(Some(purged.index + 1));
                    self.push_state()?;
                    purges = true;
                }
            }
        }
        self.flush()?;
        if purges {
            self.free_segments()?;
        }
        Ok(())
    }

    fn active(&mut self) -> &mut Segment {
        self.segments
            .back_mut()
            .expect("a log has a segment once it has started")
    }

    fn place(&mut self) -> Place {
        let seed = self.active().seed();
        Place {
            seed,
            offset: self.end,
            chain: self.chain,
            synced_end: self.synced_end,
        }
    }

    fn has_room(&mut self, payload_bytes: u64) -> bool {
        self.end + record_bytes(payload_bytes) <= self.active().header.capacity
    }

    fn push_state(&mut self) -> Result<(), LogError> {
        if !self.has_room(STATE_BYTES) {
            // The new segment begins with the state.
            return self.next_segment();
        }
        let (place, bytes) = (self.place(), self.state.encode());
        self.chain = encode_record(&mut self.buffer, place, Kind::State, |buffer| {
            buffer.extend(bytes)
        });
        self.end += record_bytes(STATE_BYTES);
        Ok(())
    }

    fn push_entry(&mut self, log_id: &LogId, body: &EntryBody) -> Result<(), LogError> {
        let payload_bytes = body.payload_bytes();
        if !self.has_room(payload_bytes) {
            self.next_segment()?;
        }
        let place = self.place();
        self.chain = encode_record(&mut self.buffer, place, Kind::Entry, |buffer| {
            body.encode(log_id, buffer)
        });
        self.end += record_bytes(payload_bytes);
        self.state.next_index = Some(log_id.index + 1);
        let segment = self.active();
        segment.last_index = segment.last_index.max(Some(log_id.index));
        let location = Location {
            generation: place.seed.generation,
            offset: place.offset,
            payload_bytes: payload_bytes as u32,
        };
        self.placed.push(Placed {
            log_id: *log_id,
            location,
        });
        Ok(())
    }

    /// Makes everything pushed so far durable.
    fn flush(&mut self) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let offset = self.synced_end;
        let segment = self
            .segments
            .back()
            .expect("a log has a segment once it has started");
        segment
            .file
            .write_all_at(&self.buffer, offset)
            .map_err(LogError::io("write", &segment.path))?;
        segment
            .file
            .sync_data()
            .map_err(LogError::io("sync", &segment.path))?;
        self.synced_end = self.end;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.memory.place(&self.placed);
        self.placed.clear();
        Ok(())
    }

    /// Ends the active segment, which is durable before the next one exists.
    fn next_segment(&mut self) -> Result<(), LogError> {
        self.flush()?;
        let generation = self.active().seed().generation + 1;
        self.begin_segment(generation, self.end, self.chain)?;
        self.spares.prepare();
        Ok(())
    }

    fn begin_segment(
        &mut self,
        generation: u64,
        previous_end: u64,
        previous_chain: u32,
    ) -> Result<(), LogError> {
        let seed = Seed {
            salt: self.salt,
            generation,
        };
        let header = SegmentHeader {
            seed,
            previous_end,
            previous_chain,
            capacity: 0,
        };
        let segment = self.directory.begin_segment(self.spares.take()?, header)?;
        self.memory.add_segment(&segment);
        self.chain = segment.header.chain();
        self.segments.push_back(segment);
        self.end = SEGMENT_START;
        self.synced_end = SEGMENT_START;
        self.push_state()
    }

    /// Frees the oldest segments as far as all that they ever held is purged. The purge is durable.
    fn free_segments(&mut self) -> Result<(), LogError> {
        let Some(purged) = self.state.purged else {
            return Ok(());
        };
        while self.segments.len() > 1
            && let Some(oldest) = self.segments.front()
            && oldest.last_index.is_none_or(|last| last <= purged.index)
        {
            self.spares.retire(oldest)?;
            let generation = oldest.seed().generation;
            self.memory.remove_segment(generation);
            self.segments.pop_front();
            info!(generation, purged = purged.index, "raft log segment freed");
        }
        Ok(())
    }
}
