//! Reads of an open file: what is not yet committed lies over what is.
//!
//! First it is decided where all bytes of a read are: the extents as of one version of the file, and at one moment the overlay
//! above them. Nothing of that changes any more, so a read sees each write and each commit of others wholly or not at
//! all. A commit of our own makes the extents known before it be forgotten, before its bytes leave the overlay; a read during which that
//! happened decides anew. So no byte is missed that was written before the read began.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Inner;
use super::state::State;
use crate::error::Result;
use crate::namenode::lock;
use crate::read::reader::Pinned;
use crate::read::replica::READ_BYTES;

/// How often a read decides anew without a pause.
const PLANS_AT_ONCE: u32 = 3;

/// Most bytes that a thread of its own reads while it blocks: more are on their way together, ahead of the reader.
const HERE_BYTES_MAX: u64 = 64 << 10;

/// Where the bytes of a read are.
struct Plan {
    range: Range<u64>,
    /// Where each piece of the overlay begins, and the piece.
    dirty: Vec<(u64, Bytes)>,
    /// What lies below; `None` if no byte of it is needed.
    below: Option<Pinned>,
    /// End of the bytes that are expected there.
    below_to: u64,
}

impl Inner {
    /// Up to `length` bytes from `offset`, fewer only at the end of the file.
    pub(super) async fn read(self: &Arc<Self>, offset: u64, length: usize) -> Result<Bytes> {
        self.refresh_if_stale(offset).await?;
        let mut backoff = self.reader.backoff();
        let mut attempts = 0;
        loop {
            if let Some(plan) = self.plan(offset, length).await?
                && let Some(bytes) = self.carry_out(plan).await?
            {
                return Ok(bytes);
            }
            attempts += 1;
            if attempts > PLANS_AT_ONCE {
                self.reader.wait_for_calm(&mut backoff).await?;
            }
        }
    }

    /// Bytes that lie in one extent, with nothing above them, and can be read on this machine. As with a plan, where they are is
    /// decided at one moment, at which neither the file nor the overlay changes; bytes of a chunk do not.
    pub(super) fn read_here(self: &Arc<Self>, offset: u64, length: usize) -> Option<Bytes> {
        let length = length as u64;
        let range = offset..offset.checked_add(length)?;
        if length == 0 || length > HERE_BYTES_MAX {
            return None;
        }
        let changes = lies_below(&lock(&self.state), &range)?;
        if self.ahead.has(offset) {
            return None;
        }
        let bytes = self.reader.read_local(offset, length)?;
        let size = {
            let state = lock(&self.state);
            if lies_below(&state, &range) != Some(changes) {
                return None;
            }
            state.committed_size
        };
        self.ahead.note(self, offset, length, size);
        Some(bytes)
    }

    /// `None` if the file changed meanwhile.
    async fn plan(&self, offset: u64, length: usize) -> Result<Option<Plan>> {
        let end = offset.saturating_add(length as u64);
        let (changes, below) = {
            let state = lock(&self.state);
            let range = offset..state.size().min(end).max(offset);
            if state.overlay.covered_to(offset) >= range.end {
                return Ok(Some(Plan {
                    dirty: state.overlay.slices(&range),
                    below: None,
                    below_to: offset,
                    range,
                }));
            }
            (state.changes(), offset..range.end.min(state.committed_size))
        };
        let below_to = below.end;
        let below = match below.is_empty() {
            true => None,
            false => Some(self.reader.pin(below).await?),
        };
        let state = lock(&self.state);
        let range = offset..state.size().min(end).max(offset);
        // What others have committed meanwhile is not in what was pinned, and no zeros either.
        if state.changes() != changes || range.end.min(state.committed_size) != below_to {
            return Ok(None);
        }
        Ok(Some(Plan {
            dirty: state.overlay.slices(&range),
            below,
            below_to,
            range,
        }))
    }

    /// `None` if what was pinned is gone.
    async fn carry_out(self: &Arc<Self>, plan: Plan) -> Result<Option<Bytes>> {
        let Plan { range, dirty, .. } = &plan;
        if let [(at, bytes)] = dirty.as_slice()
            && *at == range.start
            && bytes.len() as u64 == range.end - range.start
        {
            return Ok(Some(bytes.clone()));
        }
        if dirty.is_empty() && range.end <= plan.below_to {
            return self.read_below(&plan, range.clone()).await;
        }
        let mut all = BytesMut::with_capacity((range.end - range.start) as usize);
        for (at, bytes) in dirty {
            let gap = range.start + all.len() as u64..*at;
            if !self.fill(&plan, &mut all, gap).await? {
                return Ok(None);
            }
            all.extend_from_slice(bytes);
        }
        let gap = range.start + all.len() as u64..range.end;
        let filled = self.fill(&plan, &mut all, gap).await?;
        Ok(filled.then(|| all.freeze()))
    }

    /// Committed bytes where nothing dirty is, and zeros beyond them: a write further on made the file longer. False if they
    /// are gone.
    async fn fill(
        self: &Arc<Self>,
        plan: &Plan,
        all: &mut BytesMut,
        gap: Range<u64>,
    ) -> Result<bool> {
        let end = all.len() + (gap.end - gap.start) as usize;
        let below = gap.start..gap.end.min(plan.below_to);
        if !below.is_empty() {
            match self.read_below(plan, below).await? {
                Some(bytes) => all.extend_from_slice(&bytes),
                None => return Ok(false),
            }
        }
        all.resize(end, 0);
        Ok(true)
    }

    /// Committed bytes, fewer only if others have cut the file meanwhile.
    async fn read_below(self: &Arc<Self>, plan: &Plan, range: Range<u64>) -> Result<Option<Bytes>> {
        let Some(pinned) = &plan.below else {
            return Ok(Some(Bytes::new()));
        };
        let length = range.end - range.start;
        let size = pinned.attributes().size;
        self.ahead.note(self, range.start, length, size);
        let Some(first) = self.read_piece(pinned, range.clone()).await? else {
            return Ok(None);
        };
        if first.len() as u64 == length {
            return Ok(Some(first));
        }
        let mut all = BytesMut::with_capacity(length as usize);
        all.extend_from_slice(&first);
        let mut last = first.len();
        while last > 0 && (all.len() as u64) < length {
            let at = range.start + all.len() as u64;
            let Some(piece) = self.read_piece(pinned, at..range.end).await? else {
                return Ok(None);
            };
            last = piece.len();
            all.extend_from_slice(&piece);
        }
        if last == 0 {
            self.learn(pinned.attributes());
        }
        Ok(Some(all.freeze()))
    }

    async fn read_piece(&self, pinned: &Pinned, range: Range<u64>) -> Result<Option<Bytes>> {
        let length = range.end - range.start;
        let version = pinned.attributes().version;
        if let Some(bytes) = self.ahead.read(range.start, length, version).await {
            return Ok(Some(bytes));
        }
        // Up to where a block that was read ahead may begin.
        let to_block = READ_BYTES - range.start % READ_BYTES;
        let length = length.min(to_block);
        self.reader
            .read_pinned(pinned, range.start, length, false)
            .await
    }

    /// After [`super::OpenFile::invalidate`] the size must be asked for before anything can be said.
    pub(super) async fn refresh_if_stale(&self, offset: u64) -> Result<()> {
        let Some(invalidations) = lock(&self.state).stale() else {
            return Ok(());
        };
        let page = self.reader.fetch(offset).await?;
        lock(&self.state).refreshed(invalidations, &page.attributes);
        Ok(())
    }

    /// The first byte at or after `offset` that is written or lies in an extent.
    pub(super) async fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        self.refresh_if_stale(offset).await?;
        let (dirty, size) = {
            let state = lock(&self.state);
            (state.overlay.next(offset), state.committed_size)
        };
        if dirty == Some(offset) || offset >= size {
            return Ok(dirty);
        }
        let committed = self.reader.next_data(offset).await?;
        Ok(match (dirty, committed) {
            (Some(dirty), Some(committed)) => Some(dirty.min(committed)),
            (dirty, committed) => dirty.or(committed),
        })
    }

    /// The first byte at or after `offset` that is neither, which may be the end of the file; `None` beyond that.
    pub(super) async fn next_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.refresh_if_stale(offset).await?;
        let mut at = offset;
        loop {
            let (covered_to, committed_size, size) = {
                let state = lock(&self.state);
                let covered_to = state.overlay.covered_to(at);
                (covered_to, state.committed_size, state.size())
            };
            if at >= size {
                return Ok((at > offset).then_some(at));
            }
            if covered_to > at {
                at = covered_to;
                continue;
            }
            if at >= committed_size {
                return Ok(Some(at));
            }
            match self.reader.next_hole(at).await? {
                Some(hole) if hole > at => at = hole,
                Some(_) => return Ok(Some(at)),
                // Others have cut the file.
                None => return Ok((at > offset).then_some(at)),
            }
        }
    }
}

/// How often the file has changed, if all of a range is committed and nothing lies above it.
fn lies_below(state: &State, range: &Range<u64>) -> Option<u64> {
    let below = state.stale().is_none()
        && range.end <= state.committed_size
        && state.overlay.is_empty_in(range);
    below.then(|| state.changes())
}
