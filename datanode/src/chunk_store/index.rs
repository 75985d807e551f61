//! The checksum blocks of one replica in memory: eight bytes a block, contiguous from offset 0.
//!
//! A stretch whose records are missing or damaged stays in the index as a *hole*: readers get an error for it, never
//! bytes that nobody can vouch for.

use std::ops::Range;

use cairn_protocol::ids::ChunkId;

use super::BlockChecksum;
use super::error::StoreError;

/// Blocks in order; block `i` covers `[end of i - 1, end of i)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockIndex {
    blocks: Vec<Entry>,
    /// Positions in `blocks` that are holes, ascending. Almost always empty.
    holes: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    end: u32,
    crc32c: u32,
}

impl BlockIndex {
    /// How many bytes the blocks (and holes) cover.
    pub(super) fn length(&self) -> u64 {
        self.blocks.last().map_or(0, |entry| u64::from(entry.end))
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.blocks.capacity() * size_of::<Entry>() + self.holes.capacity() * size_of::<u32>()
    }

    /// Adds what a record says. A record that starts beyond the end leaves a hole; one that starts below it follows a cut
    /// whose record was lost, so what it overlaps is void.
    pub(super) fn push(&mut self, block: BlockChecksum) {
        if block.offset < self.length() {
            self.truncate(block.offset);
        }
        self.push_hole_to(block.offset);
        self.push_end(block.end(), block.crc32c);
    }

    /// Covers everything from the present end up to `end` with a hole.
    pub(super) fn push_hole_to(&mut self, end: u64) {
        if end > self.length() {
            self.holes.push(self.blocks.len() as u32);
            self.push_end(end, 0);
        }
    }

    fn push_end(&mut self, end: u64, crc32c: u32) {
        // Lengths are limited to u32::MAX where they come in: by `Appender` and by the record format.
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        self.blocks.push(Entry { end, crc32c });
    }

    /// Forgets everything at or above `length`. What a block that crosses it keeps becomes a hole.
    pub(super) fn truncate(&mut self, length: u64) {
        if length >= self.length() {
            return;
        }
        let keep = self.position(length);
        self.blocks.truncate(keep);
        let holes = self.holes.partition_point(|hole| (*hole as usize) < keep);
        self.holes.truncate(holes);
        self.push_hole_to(length);
    }

    /// Makes what a seal says of it: cut at `length`, the last block replaced by its kept part.
    pub(super) fn seal(&mut self, length: u64, shortened: Option<BlockChecksum>) {
        if let Some(block) = shortened {
            self.truncate(block.offset);
            self.push(block);
        }
        self.truncate(length);
        self.push_hole_to(length);
    }

    /// Turns every block with bytes at or above `data_length` into a hole: the data file ends there.
    pub(super) fn mark_missing_from(&mut self, data_length: u64) {
        for position in self.position(data_length)..self.blocks.len() {
            if !self.is_hole(position) {
                self.holes.push(position as u32);
            }
        }
        self.holes.sort_unstable();
    }

    /// The block that crosses `length` (starts below it, ends above it), unless it is a hole.
    pub(super) fn crossing(&self, length: u64) -> Option<BlockChecksum> {
        if length >= self.length() {
            return None;
        }
        let position = self.position(length);
        let block = self.block(position);
        (block.offset < length && !self.is_hole(position)).then_some(block)
    }

    /// The whole blocks that cover `range` (which must lie below `length()` and not be empty), or the first hole in it.
    pub(super) fn cover(&self, range: Range<u64>) -> Result<Vec<BlockChecksum>, Range<u64>> {
        let first = self.position(range.start);
        let mut blocks = Vec::new();
        for position in first..self.blocks.len() {
            let block = self.block(position);
            if block.offset >= range.end {
                break;
            }
            if self.is_hole(position) {
                return Err(block.offset..block.end());
            }
            blocks.push(block);
        }
        Ok(blocks)
    }

    /// `cover`, with errors that name the chunk. An empty range has no blocks.
    pub(super) fn cover_checked(
        &self,
        chunk: ChunkId,
        range: Range<u64>,
    ) -> Result<Vec<BlockChecksum>, StoreError> {
        let length = self.length();
        if range.end > length {
            return Err(StoreError::WrongLength {
                chunk,
                asked: range.end,
                length,
            });
        }
        let error = |hole: Range<u64>| StoreError::BadBlock {
            chunk,
            offset: hole.start,
            end: hole.end,
        };
        self.cover(range).map_err(error)
    }

    /// The blocks from `from` on, at most `count`; holes are left out.
    pub(super) fn blocks_from(&self, from: u64, count: usize) -> Vec<BlockChecksum> {
        let positions = self.position(from)..self.blocks.len();
        positions
            .filter(|p| !self.is_hole(*p))
            .take(count)
            .map(|p| self.block(p))
            .collect()
    }

    /// Where the first range without a valid record starts.
    pub(super) fn first_hole(&self) -> Option<u64> {
        self.holes
            .first()
            .map(|hole| self.block(*hole as usize).offset)
    }

    /// Ranges without valid records.
    pub(super) fn holes(&self) -> Vec<Range<u64>> {
        let ranges = self.holes.iter().map(|hole| self.block(*hole as usize));
        ranges.map(|block| block.offset..block.end()).collect()
    }

    /// The first block whose end is above `offset`.
    fn position(&self, offset: u64) -> usize {
        self.blocks
            .partition_point(|entry| u64::from(entry.end) <= offset)
    }

    fn is_hole(&self, position: usize) -> bool {
        !self.holes.is_empty() && self.holes.binary_search(&(position as u32)).is_ok()
    }

    fn block(&self, position: usize) -> BlockChecksum {
        let start = if position == 0 {
            0
        } else {
            self.blocks[position - 1].end
        };
        let entry = self.blocks[position];
        BlockChecksum {
            offset: start.into(),
            length: entry.end - start,
            crc32c: entry.crc32c,
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "one range of bytes is meant"
)]
mod tests {
    use super::*;

    fn block(offset: u64, length: u32) -> BlockChecksum {
        BlockChecksum {
            offset,
            length,
            crc32c: offset as u32 + length,
        }
    }

    fn index(blocks: &[BlockChecksum]) -> BlockIndex {
        let mut index = BlockIndex::default();
        blocks.iter().for_each(|block| index.push(*block));
        index
    }

    #[test]
    fn a_range_is_covered_by_whole_blocks() {
        let index = index(&[block(0, 10), block(10, 5), block(15, 20)]);
        assert_eq!(index.length(), 35);
        assert_eq!(index.cover(0..1), Ok(vec![block(0, 10)]));
        assert_eq!(index.cover(10..15), Ok(vec![block(10, 5)]));
        assert_eq!(
            index.cover(9..16),
            Ok(vec![block(0, 10), block(10, 5), block(15, 20)])
        );
        assert_eq!(index.crossing(12), Some(block(10, 5)));
        assert_eq!(index.crossing(10), None);
        assert_eq!(index.crossing(35), None);
    }

    #[test]
    fn missing_records_are_holes_that_no_read_crosses() {
        let mut index = index(&[block(0, 10), block(30, 10)]);
        index.push_hole_to(50);
        assert_eq!(index.holes(), [10..30, 40..50]);
        assert_eq!(index.cover(5..12), Err(10..30));
        assert_eq!(index.cover(30..40), Ok(vec![block(30, 10)]));
        assert_eq!(index.blocks_from(0, 9), [block(0, 10), block(30, 10)]);
    }

    #[test]
    fn a_record_below_the_end_voids_what_it_overlaps() {
        let index = index(&[block(0, 10), block(10, 10), block(20, 10), block(10, 4)]);
        assert_eq!(index.cover(0..14), Ok(vec![block(0, 10), block(10, 4)]));
        assert_eq!(index.length(), 14);
    }

    #[test]
    fn a_seal_inside_a_block_keeps_the_replacement() {
        let mut sealed = index(&[block(0, 10), block(10, 10), block(20, 10)]);
        sealed.seal(13, Some(block(10, 3)));
        assert_eq!(sealed, index(&[block(0, 10), block(10, 3)]));
        let mut unverifiable = index(&[block(0, 10), block(10, 10)]);
        unverifiable.seal(13, None);
        assert_eq!(unverifiable.holes(), [10..13]);
        assert_eq!(unverifiable.length(), 13);
    }
}
