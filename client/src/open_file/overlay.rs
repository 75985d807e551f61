//! The bytes of a file that are written and not yet committed, as ranges without overlaps: a later write wins.
//!
//! A range is *gathered* until it is taken into a unit, and *sent* from then on, until that unit is committed. What is
//! written over a sent range is gathered again; the unit's own bytes go their way, and the later ones follow in a later
//! unit. So units committed in the order of their numbers leave the file as the writes did.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::write::packet::PACKET_BYTES;

/// Pieces written one after the other are joined while they are smaller than this; larger ones are kept where they are.
const JOIN_BYTES_MAX: usize = 256 << 10;
/// Most ranges in one unit: each becomes an extent of a commit.
pub(super) const UNIT_PIECES_MAX: usize = 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Overlay {
    /// By first byte in the file. None is empty, and none overlaps the next.
    ranges: BTreeMap<u64, Dirty>,
    gathered_bytes: usize,
    gathered_count: usize,
}

struct Dirty {
    content: Content,
    /// Number of the unit it is in; `None` while it is gathered.
    unit: Option<u64>,
}

enum Content {
    Shared(Bytes),
    /// Grows with what is written at its end.
    Growing(BytesMut),
}

/// Consecutive bytes of the file.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) offset_in_file: u64,
    pub(super) parts: Vec<Bytes>,
    pub(super) length: usize,
}

/// At most a packet of bytes in at most [`UNIT_PIECES_MAX`] runs, in order of the file.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) unit: u64,
    pub(super) runs: Vec<Run>,
    pub(super) length: usize,
}

impl Dirty {
    fn len(&self) -> usize {
        match &self.content {
            Content::Shared(bytes) => bytes.len(),
            Content::Growing(bytes) => bytes.len(),
        }
    }

    fn slice(&self, range: Range<usize>) -> Bytes {
        match &self.content {
            Content::Shared(bytes) => bytes.slice(range),
            Content::Growing(bytes) => Bytes::copy_from_slice(&bytes[range]),
        }
    }

    /// Keeps the first `at` bytes and returns the others.
    fn split_off(&mut self, at: usize) -> Self {
        let content = match &mut self.content {
            Content::Shared(bytes) => Content::Shared(bytes.split_off(at)),
            Content::Growing(bytes) => Content::Shared(bytes.split_off(at).freeze()),
        };
        Self {
            content,
            unit: self.unit,
        }
    }

    /// Its bytes, which do not change from now on.
    fn freeze(&mut self) -> Bytes {
        if let Content::Growing(bytes) = &mut self.content {
            self.content = Content::Shared(std::mem::take(bytes).freeze());
        }
        self.slice(0..self.len())
    }
}

impl Overlay {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes that are in no unit.
    pub(super) fn gathered_bytes(&self) -> usize {
        self.gathered_bytes
    }

    /// Ranges that are in no unit.
    pub(super) fn gathered_count(&self) -> usize {
        self.gathered_count
    }

    /// End of the last range; 0 if there is none.
    pub(super) fn end(&self) -> u64 {
        let last = self.ranges.last_key_value();
        last.map_or(0, |(start, dirty)| start + dirty.len() as u64)
    }

    /// Takes a write over: it hides what was there.
    pub(super) fn write(&mut self, offset: u64, bytes: Bytes) {
        if bytes.is_empty() || self.overwrite(offset, &bytes) {
            return;
        }
        self.cut(offset..offset + bytes.len() as u64);
        if self.extend(offset, &bytes) {
            return;
        }
        self.put(
            offset,
            Dirty {
                content: Content::Shared(bytes),
                unit: None,
            },
        );
    }

    /// Writes into a gathered range that covers all of it and can be written to.
    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let Some((start, dirty)) = self.ranges.range_mut(..=offset).next_back() else {
            return false;
        };
        let at = (offset - start) as usize;
        if let Content::Growing(content) = &mut dirty.content
            && dirty.unit.is_none()
            && let Some(target) = content.get_mut(at..at.saturating_add(bytes.len()))
        {
            target.copy_from_slice(bytes);
            return true;
        }
        false
    }

    /// Joins a write to the gathered range that ends where it begins, if both are small.
    fn extend(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let Some((start, dirty)) = self.ranges.range_mut(..offset).next_back() else {
            return false;
        };
        let length = dirty.len();
        // At multiples of a packet joined ranges coincide with packets.
        let crosses =
            start / PACKET_BYTES as u64 != (offset + bytes.len() as u64 - 1) / PACKET_BYTES as u64;
        if dirty.unit.is_some()
            || start + length as u64 != offset
            || bytes.len() > JOIN_BYTES_MAX
            || crosses
        {
            return false;
        }
        let total = length + bytes.len();
        // At most half of it is empty, so that memory is at most twice what is counted.
        let capacity = total.next_power_of_two();
        if let Content::Shared(shared) = &dirty.content {
            let mut growing = BytesMut::with_capacity(capacity);
            growing.extend_from_slice(shared);
            dirty.content = Content::Growing(growing);
        }
        if let Content::Growing(growing) = &mut dirty.content {
            if growing.capacity() < total {
                growing.reserve(capacity - length);
            }
            growing.extend_from_slice(bytes);
        }
        self.gathered_bytes += bytes.len();
        true
    }

    fn put(&mut self, offset: u64, dirty: Dirty) {
        if dirty.unit.is_none() {
            self.gathered_bytes += dirty.len();
            self.gathered_count += 1;
        }
        self.ranges.insert(offset, dirty);
    }

    fn remove(&mut self, offset: u64) -> Option<Dirty> {
        let dirty = self.ranges.remove(&offset)?;
        if dirty.unit.is_none() {
            self.gathered_bytes -= dirty.len();
            self.gathered_count -= 1;
        }
        Some(dirty)
    }

    /// Forgets what lies in `range`.
    pub(super) fn cut(&mut self, range: Range<u64>) {
        self.cut_if(range, |_| true);
    }

    fn cut_if(&mut self, range: Range<u64>, goes: impl Fn(Option<u64>) -> bool) {
        let touched: Vec<u64> = self.overlapping(&range).map(|(start, _)| start).collect();
        for start in touched {
            if !self
                .ranges
                .get(&start)
                .is_some_and(|dirty| goes(dirty.unit))
            {
                continue;
            }
            let Some(mut dirty) = self.remove(start) else {
                continue;
            };
            if start + dirty.len() as u64 > range.end {
                let rest = dirty.split_off((range.end - start) as usize);
                self.put(range.end, rest);
            }
            if start < range.start {
                dirty.split_off((range.start - start) as usize);
                self.put(start, dirty);
            }
        }
    }

    /// The ranges that have bytes in `range`.
    fn overlapping(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, &Dirty)> {
        let before = self.ranges.range(..range.start).next_back();
        let before = before.filter(|(start, dirty)| *start + dirty.len() as u64 > range.start);
        let first = before.map_or(range.start, |(start, _)| *start);
        let within = (range.start < range.end).then(|| self.ranges.range(first..range.end));
        within
            .into_iter()
            .flatten()
            .map(|(start, dirty)| (*start, dirty))
    }

    /// True if no byte in `range` is here.
    pub(super) fn is_empty_in(&self, range: &Range<u64>) -> bool {
        self.overlapping(range).next().is_none()
    }

    /// The bytes in `range`, in order: where each piece begins, and the piece.
    pub(super) fn slices(&self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        let slice = |(start, dirty): (u64, &Dirty)| {
            let from = range.start.max(start);
            let to = range.end.min(start + dirty.len() as u64);
            (
                from,
                dirty.slice((from - start) as usize..(to - start) as usize),
            )
        };
        self.overlapping(range).map(slice).collect()
    }

    /// End of the bytes that begin at or before `offset` without a gap; `offset` itself if nothing is there.
    pub(super) fn covered_to(&self, offset: u64) -> u64 {
        let mut to = offset;
        for (start, dirty) in self.overlapping(&(offset..u64::MAX)) {
            if start > to {
                break;
            }
            to = start + dirty.len() as u64;
        }
        to
    }

    /// The first byte at or after `offset` that is here.
    pub(super) fn next(&self, offset: u64) -> Option<u64> {
        let (start, _) = self.overlapping(&(offset..u64::MAX)).next()?;
        Some(start.max(offset))
    }

    /// Takes gathered bytes into units, the first of which gets the number `unit`: all of them, or only those that fill
    /// packets.
    pub(super) fn take(&mut self, all: bool, mut unit: u64) -> Vec<Taken> {
        let mut taken = Vec::new();
        let mut open = Taken::new(unit);
        for (offset_in_file, length) in self.gathered_packets(all) {
            let full = open.length + length > PACKET_BYTES || open.runs.len() == UNIT_PIECES_MAX;
            if full {
                unit += 1;
                taken.push(std::mem::replace(&mut open, Taken::new(unit)));
            }
            let parts = self.mark(offset_in_file..offset_in_file + length as u64, unit);
            open.length += length;
            open.runs.push(Run {
                offset_in_file,
                parts,
                length,
            });
        }
        if !open.runs.is_empty() {
            taken.push(open);
        }
        taken
    }

    /// The gathered bytes as ranges of at most a packet that end where the file's packets do.
    fn gathered_packets(&self, all: bool) -> Vec<(u64, usize)> {
        let mut packets: Vec<(u64, usize)> = Vec::new();
        let packet_end = |offset: u64| (offset / PACKET_BYTES as u64 + 1) * PACKET_BYTES as u64;
        for (&start, dirty) in self.ranges.iter().filter(|(_, dirty)| dirty.unit.is_none()) {
            let (mut at, end) = (start, start + dirty.len() as u64);
            while at < end {
                let to = end.min(packet_end(at));
                let length = (to - at) as usize;
                match packets.last_mut() {
                    Some((offset, before))
                        if *offset + *before as u64 == at && packet_end(*offset) > at =>
                    {
                        *before += length;
                    }
                    _ => packets.push((at, length)),
                }
                at = to;
            }
        }
        if !all {
            // A run may begin anywhere: what fills a packet to its end goes, if it is worth it.
            packets.retain(|(offset, length)| {
                offset + *length as u64 == packet_end(*offset) && *length >= PACKET_BYTES / 2
            });
        }
        packets
    }

    /// Marks a range, all of which is gathered, as sent with `unit`; returns its bytes.
    fn mark(&mut self, range: Range<u64>, unit: u64) -> Vec<Bytes> {
        let starts: Vec<u64> = self.overlapping(&range).map(|(start, _)| start).collect();
        let mut parts = Vec::with_capacity(starts.len());
        for mut start in starts {
            let Some(mut dirty) = self.remove(start) else {
                continue;
            };
            dirty.freeze();
            if start < range.start {
                let rest = dirty.split_off((range.start - start) as usize);
                self.put(start, std::mem::replace(&mut dirty, rest));
                start = range.start;
            }
            if start + dirty.len() as u64 > range.end {
                let rest = dirty.split_off((range.end - start) as usize);
                self.put(range.end, rest);
            }
            dirty.unit = Some(unit);
            parts.push(dirty.freeze());
            self.put(start, dirty);
        }
        parts
    }

    /// A unit is committed: what of it nobody wrote over is forgotten.
    pub(super) fn committed(&mut self, unit: u64, ranges: &[Range<u64>]) {
        for range in ranges {
            self.cut_if(range.clone(), |of| of == Some(unit));
        }
    }

    /// No unit from `first` on will be committed any more: what is sent with them is gathered again.
    pub(super) fn take_back(&mut self, first: u64) {
        for dirty in self.ranges.values_mut() {
            if dirty.unit.take_if(|unit| *unit >= first).is_some() {
                self.gathered_bytes += dirty.len();
                self.gathered_count += 1;
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Taken {
    fn new(unit: u64) -> Self {
        Self {
            unit,
            runs: Vec::new(),
            length: 0,
        }
    }

    /// Which bytes of the file it has.
    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        let range = |run: &Run| run.offset_in_file..run.offset_in_file + run.length as u64;
        self.runs.iter().map(range).collect()
    }
}

#[cfg(test)]
mod tests;
