//! The Raft log on disk: entries, vote, committed and purged ids of one member.
//!
//! Guarantees: what was acknowledged survives a crash; what was cut or purged never comes back; damage below what is
//! known to have been synced is an error that names the place, never a shorter log. Everything is one sequence of
//! records in segments (`format`, `record`), replayed at start (`recover`) and written by one writer (`writer`,
//! `queue`) that syncs once per batch. A cut or a purge is a record like any other, so order on disk is order of calls
//! and nothing is ever overwritten within one life of a segment; segments are written in advance and used again
//! (`directory`, `spares`). Readers get entries from memory or by index from disk (`memory`, `read`).
//!
//! The committed id is written along with the next change, without a sync of its own: after a crash it may be old.
//!
//! The caller holds the lock on the data directory: two processes must never open one log.

mod directory;
mod error;
mod format;
mod memory;
mod options;
mod queue;
mod read;
mod record;
mod recover;
mod spares;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use cairn_daemon::blocking::blocking;
use cairn_daemon::disk::Disk;
use futures::stream::{self, Stream};
use openraft::OptionalSend;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

pub use self::error::LogError;
pub use self::options::LogOptions;

use self::directory::Directory;
use self::memory::{Fetch, Memory};
use self::queue::Queue;
use self::record::EntryBody;
use self::spares::Spares;
use self::writer::{Done, Job, Op, Writer};
use super::types::{Entry, IoFlushed, LogId, LogState, TypeConfig, Vote};

/// A bounded read gives no more than this, but at least one entry.
const READ_BYTES_MAX: u64 = 2 << 20;

/// The log of one member. Dropping it blocks until the batch at hand is written.
pub struct LogStore {
    reader: LogReader,
    queue: Queue,
    entry_bytes_max: u64,
    /// What the writer was last told about the committed id.
    committed_sent: Option<LogId>,
}

/// Reads a [`LogStore`]; cheap to clone.
#[derive(Clone)]
pub struct LogReader {
    memory: Arc<Memory>,
}

impl LogStore {
    /// Opens the log in `path`, or begins one there. Blocks while it replays the log.
    ///
    /// Fails without changing any record if the log is damaged, and with [`LogError::Lost`] if there is none although
    /// the options say that there must be.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        options: LogOptions,
    ) -> Result<LogStore, LogError> {
        let (writer, memory) = open_writer(disk, path, &options)?;
        let queue = match options.inline {
            true => Queue::inline(writer),
            false => Queue::thread(writer, options.queue_bytes_max, path)?,
        };
        Ok(LogStore {
            committed_sent: memory.state().committed,
            reader: LogReader { memory },
            queue,
            entry_bytes_max: options.entry_bytes_max(),
        })
    }

    /// Largest command batch that [`append`](RaftLogStorage::append) takes. Proposers must stay below: an entry beyond
    /// it is refused, and the Raft library shuts this member down.
    pub fn entry_bytes_max(&self) -> u64 {
        self.entry_bytes_max
    }

    fn memory(&self) -> &Memory {
        &self.reader.memory
    }

    /// Hands over a change and waits until it is durable. `change` is applied to the readers' view before. Not
    /// cancel-safe once it has been handed over.
    async fn change(
        &mut self,
        op: Op,
        change: impl FnOnce(&Memory) -> io::Result<()>,
    ) -> io::Result<()> {
        let permit = self.queue.reserve(0).await?;
        self.reader.memory.check()?;
        change(&self.reader.memory)?;
        let (sender, receiver) = oneshot::channel();
        let committed = new_committed(&self.reader.memory, &mut self.committed_sent);
        permit.submit(Job::new(committed, op, Done::Waiter(sender)));
        receiver
            .await
            .map_err(|_| io::Error::other("the writer of the raft log has ended"))?
    }

    fn encode(&self, entries: &[Entry]) -> io::Result<Vec<EntryBody>> {
        let encode = |entry: &Entry| {
            let body = EntryBody::new(&entry.payload);
            match body.body_bytes() <= self.entry_bytes_max {
                true => Ok(body),
                false => Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "entry {} has {} bytes, the limit is {}",
                        entry.log_id,
                        body.body_bytes(),
                        self.entry_bytes_max
                    ),
                )),
            }
        };
        entries.iter().map(encode).collect()
    }
}

fn open_writer(
    disk: Arc<dyn Disk>,
    path: &Path,
    options: &LogOptions,
) -> Result<(Writer, Arc<Memory>), LogError> {
    options.validate()?;
    let directory = Directory::open(disk, path)?;
    let listing = directory.list()?;
    let recovered = recover::recover(&directory, &listing.segments, options.must_exist)?;
    let memory = Memory::new(
        recovered.state.clone(),
        &recovered.entries,
        options.cache_bytes_max,
    );
    let memory = Arc::new(memory);
    let spares = Spares::open(
        directory.clone(),
        &listing.spares,
        options.segment_bytes,
        options.spare_segments_max,
        options.inline,
    )?;
    let writer = Writer::start(directory, spares, memory.clone(), recovered, options.salt)?;
    Ok((writer, memory))
}

/// The committed id, if the writer has not been told of it.
fn new_committed(memory: &Memory, sent: &mut Option<LogId>) -> Option<Option<LogId>> {
    let committed = memory.state().committed;
    let changed = committed != *sent;
    *sent = committed;
    changed.then_some(committed)
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState> {
        Ok(LogState {
            last_purged_log_id: self.memory().state().purged,
            last_log_id: self.memory().last_log_id(),
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = *vote;
        self.change(Op::Vote(vote), move |memory| {
            memory.update_state(|state| state.vote = Some(vote));
            Ok(())
        })
        .await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.memory()
            .update_state(|state| state.committed = committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.memory().state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IoFlushed) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let bodies = self.encode(&entries)?;
        let payload_bytes: Vec<u64> = bodies.iter().map(EntryBody::payload_bytes).collect();
        // The place in the queue comes first: nothing may fail between showing the entries and handing them over.
        let permit = self.queue.reserve(payload_bytes.iter().sum()).await?;
        self.reader.memory.check()?;
        self.reader.memory.append(&entries, &payload_bytes)?;
        let op = Op::Entries(entries.into_iter().zip(bodies).collect());
        let committed = new_committed(&self.reader.memory, &mut self.committed_sent);
        permit.submit(Job::new(committed, op, Done::Raft(callback)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let state = self.memory().state();
        let purged_end = state.purged.map(|purged| purged.index + 1);
        let next_index = last.map(|last| last.index + 1).max(purged_end);
        if state.next_index <= next_index {
            return Ok(());
        }
        // Readers keep the entries until they are gone for good: until then the writer may still be placing them.
        self.change(Op::Truncate(next_index), |_| Ok(())).await?;
        self.memory().truncate(next_index);
        Ok(())
    }

    async fn purge(&mut self, purged: LogId) -> io::Result<()> {
        if self
            .memory()
            .state()
            .purged
            .is_some_and(|before| before.index >= purged.index)
        {
            return Ok(());
        }
        // Readers lose the entries first: when the purge is durable, their segments are used again at once.
        self.change(Op::Purge(purged), |memory| memory.purge(purged))
            .await
    }
}

impl LogReader {
    async fn read(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        loop {
            let first_index = self.memory.first_index();
            let plan = self.memory.plan(start, end, bytes_max);
            if plan.iter().all(|fetch| matches!(fetch, Fetch::Cached(_))) {
                return read::load(plan).map_err(io::Error::from);
            }
            match blocking(move || read::load(plan)).await {
                Ok(entries) => return Ok(entries),
                // The entries were purged while we read them, and their segment has begun another life.
                Err(LogError::Damaged { .. }) if self.memory.first_index() > first_index => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn bounds(range: impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(range);
        self.read(start, end, u64::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES_MAX).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(range);
        let pieces = stream::unfold((self.clone(), start), move |(reader, start)| async move {
            let entries = match reader.read(start, end, READ_BYTES_MAX).await {
                Ok(entries) => entries,
                Err(error) => return Some((vec![Err(error)], (reader, end))),
            };
            let next = entries.last()?.log_id.index + 1;
            let items: Vec<io::Result<Entry>> = entries.into_iter().map(Ok).collect();
            Some((items, (reader, next)))
        });
        Box::pin(futures::StreamExt::flat_map(pieces, stream::iter))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.memory.state().vote)
    }
}
