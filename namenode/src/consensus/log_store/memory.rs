//! What readers see: the state, an index of all entries, and the newest entries themselves.
//!
//! An entry is here from the moment its append was called; its place on disk is known once the writer has synced it,
//! and only then may it leave the cache. One lock, held for no I/O.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use cairn_daemon::disk::DiskFile;

use super::directory::Segment;
use super::format::Seed;
use super::record::State;
use crate::consensus::types::{Entry, LogId};

/// Where an entry's record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub generation: u64,
    pub offset: u64,
    pub payload_bytes: u32,
}

/// An entry as recovery or the writer placed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub log_id: LogId,
    pub location: Location,
}

/// An open segment, for reading.
#[derive(Clone)]
pub(super) struct Source {
    pub file: Arc<dyn DiskFile>,
    pub path: PathBuf,
    pub seed: Seed,
}

/// How to get one entry.
pub(super) enum Fetch {
    Cached(Entry),
    Stored(LogId, Location, Source),
}

struct Slot {
    term: u64,
    payload_bytes: u64,
    location: Option<Location>,
    entry: Option<Entry>,
}

struct Inner {
    state: State,
    /// Index of `slots[0]`.
    first_index: u64,
    slots: VecDeque<Slot>,
    /// Entries from this index on are in the cache.
    cached_from: u64,
    cached_bytes: u64,
    segments: BTreeMap<u64, Source>,
    failure: Option<Arc<str>>,
}

/// The shared view of a log.
pub(super) struct Memory {
    inner: Mutex<Inner>,
    cache_bytes_max: u64,
}

impl Memory {
    pub(super) fn new(state: State, placed: &[Placed], cache_bytes_max: u64) -> Memory {
        let first_index = placed.first().map_or(0, |first| first.log_id.index);
        let slots: VecDeque<Slot> = placed
            .iter()
            .map(|placed| Slot {
                term: placed.log_id.leader_id.term,
                payload_bytes: placed.location.payload_bytes.into(),
                location: Some(placed.location),
                entry: None,
            })
            .collect();
        let inner = Inner {
            state,
            first_index,
            cached_from: first_index + slots.len() as u64,
            slots,
            cached_bytes: 0,
            segments: BTreeMap::new(),
            failure: None,
        };
        Memory {
            inner: Mutex::new(inner),
            cache_bytes_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("no code panics while it holds this lock")
    }

    /// The state as the callers have set it; the disk may be a moment behind.
    pub(super) fn state(&self) -> State {
        self.lock().state.clone()
    }

    pub(super) fn update_state(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock().state);
    }

    /// Id of the last entry, or of the last purged one.
    pub(super) fn last_log_id(&self) -> Option<LogId> {
        let inner = self.lock();
        match inner.slots.back() {
            Some(slot) => Some(LogId::new_term_index(slot.term, inner.end() - 1)),
            None => inner.state.purged,
        }
    }

    pub(super) fn add_segment(&self, segment: &Segment) {
        let source = Source {
            file: segment.file.clone(),
            path: segment.path.clone(),
            seed: segment.seed(),
        };
        self.lock()
            .segments
            .insert(segment.seed().generation, source);
    }

    pub(super) fn remove_segment(&self, generation: u64) {
        self.lock().segments.remove(&generation);
    }

    /// Remembers the first failure: from then on the log takes nothing.
    pub(super) fn fail(&self, message: &str) {
        let mut inner = self.lock();
        if inner.failure.is_none() {
            inner.failure = Some(message.into());
        }
    }

    /// Fails if the log has failed.
    pub(super) fn check(&self) -> io::Result<()> {
        match &self.lock().failure {
            Some(message) => Err(io::Error::other(format!(
                "the raft log has stopped: {message}"
            ))),
            None => Ok(()),
        }
    }

    /// Takes entries that continue the log. They are readable at once. `payload_bytes` belongs to `entries`, one each.
    pub(super) fn append(&self, entries: &[Entry], payload_bytes: &[u64]) -> io::Result<()> {
        let mut inner = self.lock();
        let mut expected = inner.state.next_index;
        for entry in entries {
            if expected.is_some_and(|expected| expected != entry.log_id.index) {
                let message = format!(
                    "entry {} does not continue the log, which goes on at {}",
                    entry.log_id,
                    expected.unwrap_or_default()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            expected = Some(entry.log_id.index + 1);
        }
        if inner.slots.is_empty()
            && let Some(first) = entries.first()
        {
            inner.first_index = first.log_id.index;
            inner.cached_from = first.log_id.index;
        }
        for (entry, &payload_bytes) in entries.iter().zip(payload_bytes) {
            inner.cached_bytes += payload_bytes;
            inner.slots.push_back(Slot {
                term: entry.log_id.leader_id.term,
                payload_bytes,
                location: None,
                entry: Some(entry.clone()),
            });
        }
        inner.state.next_index = expected;
        Ok(())
    }

    /// Notes where entries are now durable, and lets the oldest of them leave the cache.
    pub(super) fn place(&self, placed: &[Placed]) {
        let mut inner = self.lock();
        for placed in placed {
            // Entries that were purged while they were being written have no slot any more.
            let position = placed.log_id.index.checked_sub(inner.first_index);
            if let Some(slot) = position.and_then(|position| inner.slots.get_mut(position as usize))
            {
                slot.location = Some(placed.location);
            }
        }
        inner.evict(self.cache_bytes_max);
    }

    /// Drops all entries from `next_index` on. The writer must not be at work on any of them.
    pub(super) fn truncate(&self, next_index: Option<u64>) {
        let mut inner = self.lock();
        while !inner.slots.is_empty() && next_index.is_none_or(|next| inner.end() > next) {
            inner.pop_back();
        }
        inner.state.next_index = next_index;
    }

    /// Drops all entries up to `purged`. Fails if that would leave a hole.
    pub(super) fn purge(&self, purged: LogId) -> io::Result<()> {
        let mut inner = self.lock();
        let next_index = purged.index + 1;
        if !inner.slots.is_empty() && next_index < inner.first_index {
            let message = format!(
                "purge up to {purged}, but the log begins at {}",
                inner.first_index
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        while !inner.slots.is_empty() && inner.first_index < next_index {
            inner.pop_front();
        }
        inner.state.purged = Some(purged);
        inner.state.next_index = inner.state.next_index.max(Some(next_index));
        Ok(())
    }

    /// How to get the entries of `[start, end)` that there are; at least one if there is any, then no more than
    /// `bytes_max` payload bytes.
    pub(super) fn plan(&self, start: u64, end: u64, bytes_max: u64) -> Vec<Fetch> {
        let inner = self.lock();
        let (start, end) = (start.max(inner.first_index), end.min(inner.end()));
        let mut plan = Vec::new();
        let mut bytes = 0;
        for index in start..end {
            let slot = &inner.slots[(index - inner.first_index) as usize];
            bytes += slot.payload_bytes;
            if bytes > bytes_max && !plan.is_empty() {
                break;
            }
            plan.push(match (&slot.entry, slot.location) {
                (Some(entry), _) => Fetch::Cached(entry.clone()),
                (None, location) => {
                    let location =
                        location.expect("an entry leaves the cache only once it has a place");
                    let source = inner.segments.get(&location.generation);
                    let source = source
                        .expect("a segment goes only after its entries")
                        .clone();
                    Fetch::Stored(LogId::new_term_index(slot.term, index), location, source)
                }
            });
        }
        plan
    }

    /// Index of the first entry that is still there.
    pub(super) fn first_index(&self) -> u64 {
        let inner = self.lock();
        inner.state.purged.map_or(inner.first_index, |purged| {
            inner.first_index.max(purged.index + 1)
        })
    }

    #[cfg(test)]
    pub(super) fn cached(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.end() - inner.cached_from, inner.cached_bytes)
    }
}

impl Inner {
    /// Index after the last entry.
    fn end(&self) -> u64 {
        self.first_index + self.slots.len() as u64
    }

    fn forget(&mut self, slot: &Slot) {
        if slot.entry.is_some() {
            self.cached_bytes -= slot.payload_bytes;
        }
    }

    fn pop_back(&mut self) {
        if let Some(slot) = self.slots.pop_back() {
            self.forget(&slot);
            self.cached_from = self.cached_from.min(self.end());
        }
    }

    fn pop_front(&mut self) {
        if let Some(slot) = self.slots.pop_front() {
            self.forget(&slot);
            self.first_index += 1;
            self.cached_from = self.cached_from.max(self.first_index);
        }
    }

    fn evict(&mut self, bytes_max: u64) {
        while self.cached_bytes > bytes_max && self.cached_from < self.end() {
            let slot = &mut self.slots[(self.cached_from - self.first_index) as usize];
            if slot.location.is_none() {
                return;
            }
            slot.entry = None;
            self.cached_bytes -= slot.payload_bytes;
            self.cached_from += 1;
        }
    }
}
