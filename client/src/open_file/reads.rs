//! Reads of an open file: what is not yet committed lies over what is.
//!
//! A read looks at the overlay first and asks for committed bytes afterwards, and a commit makes the extents known before it
//! be forgotten, before its bytes leave the overlay. So no byte is missed that was written before the read began.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Inner;
use crate::error::Result;
use crate::namenode::lock;
use crate::read::replica::READ_BYTES;

impl Inner {
    /// Up to `length` bytes from `offset`, fewer only at the end of the file.
    pub(super) async fn read(self: &Arc<Self>, offset: u64, length: usize) -> Result<Bytes> {
        self.refresh_if_stale(offset).await?;
        let (range, dirty, committed_size) = {
            let state = lock(&self.state);
            let end = state.size().min(offset.saturating_add(length as u64));
            let range = offset..end.max(offset);
            (
                range.clone(),
                state.overlay.slices(&range),
                state.committed_size,
            )
        };
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if let [(at, bytes)] = dirty.as_slice()
            && *at == range.start
            && bytes.len() as u64 == range.end - range.start
        {
            return Ok(bytes.clone());
        }
        if dirty.is_empty() && range.end <= committed_size {
            return self.read_below(range).await;
        }
        let mut all = BytesMut::with_capacity((range.end - range.start) as usize);
        for (at, bytes) in dirty {
            let gap = range.start + all.len() as u64..at;
            self.fill(&mut all, gap, committed_size).await?;
            all.extend_from_slice(&bytes);
        }
        let gap = range.start + all.len() as u64..range.end;
        self.fill(&mut all, gap, committed_size).await?;
        Ok(all.freeze())
    }

    /// Committed bytes where nothing dirty is, and zeros beyond them: a write further on made the file longer.
    async fn fill(
        self: &Arc<Self>,
        all: &mut BytesMut,
        gap: Range<u64>,
        committed_size: u64,
    ) -> Result<()> {
        let end = all.len() + (gap.end - gap.start) as usize;
        let below = gap.start..gap.end.min(committed_size);
        if !below.is_empty() {
            all.extend_from_slice(&self.read_below(below).await?);
        }
        all.resize(end, 0);
        Ok(())
    }

    /// Committed bytes below the committed size, fewer only if others have cut the file meanwhile.
    async fn read_below(self: &Arc<Self>, range: Range<u64>) -> Result<Bytes> {
        let size = lock(&self.state).committed_size;
        self.ahead
            .note(self, range.start, range.end - range.start, size);
        let first = self.read_piece(range.clone()).await?;
        if first.len() as u64 == range.end - range.start || first.is_empty() {
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity((range.end - range.start) as usize);
        all.extend_from_slice(&first);
        loop {
            let at = range.start + all.len() as u64;
            if at >= range.end {
                return Ok(all.freeze());
            }
            let piece = self.read_piece(at..range.end).await?;
            if piece.is_empty() {
                return Ok(all.freeze());
            }
            all.extend_from_slice(&piece);
        }
    }

    async fn read_piece(&self, range: Range<u64>) -> Result<Bytes> {
        let length = range.end - range.start;
        if let Some(bytes) = self.ahead.read(range.start, length).await {
            return Ok(bytes);
        }
        // Up to where a block that was read ahead may begin.
        let to_block = READ_BYTES - range.start % READ_BYTES;
        let length = length.min(to_block);
        let bytes = self.reader.read_piece(range.start, length, false).await?;
        if bytes.is_empty() {
            self.learn(&self.reader.attributes());
        }
        Ok(bytes)
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
