//! Verification of replicas, in steps that the scrubber can pace: records are read from disk anew, and all bytes.

use std::ops::Range;
use std::sync::Arc;

use cairn_protocol::buffer;
use cairn_protocol::ids::ChunkId;

use super::error::StoreError;
use super::read::{Source, first_mismatch};
use super::volume::Volume;
use super::{ALIGNMENT, BlockChecksum, CHECKSUM_BLOCK_MAX};

/// Bytes that one read of a scrub gathers from neighbouring blocks: a pooled buffer, with room for alignment.
const READ_MAX: u64 = (1 << 20) - 2 * ALIGNMENT as u64;
const BUFFER_LEN: usize = 1 << 20;

/// What one step of a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyStep {
    /// Where the next step starts; `None` after the last.
    pub next: Option<u64>,
    /// Bytes read and compared.
    pub checked_bytes: u64,
    /// Ranges that are bad: missing, unreadable or not matching their checksums.
    pub bad: Vec<Range<u64>>,
}

impl Volume {
    /// Verifies a replica from `from` on, about `budget_bytes` of it, an open one as far as it is written now. What is bad
    /// is remembered: reported in lists and not served again.
    pub fn verify(
        &self,
        chunk: ChunkId,
        from: u64,
        budget_bytes: u64,
    ) -> Result<VerifyStep, StoreError> {
        let (source, blocks, holes, end) = self.to_verify(chunk, from)?;
        let mut step = VerifyStep {
            bad: holes,
            ..VerifyStep::default()
        };
        let mut rest = blocks.as_slice();
        while let Some(first) = rest.first() {
            if step.checked_bytes >= budget_bytes.max(1) {
                step.next = Some(first.offset);
                break;
            }
            let run = run_length(rest, end);
            let (now, later) = rest.split_at(run);
            self.verify_run(chunk, &source, now, &mut step)?;
            rest = later;
        }
        // A seal may have cut the end of an open replica meanwhile: it shortens the index first, then the data.
        if let Source::Open(replica) = &source {
            let length = replica.snapshot().length;
            step.bad.retain(|range| range.end <= length);
        }
        step.bad
            .iter()
            .for_each(|range| self.note_bad(chunk, range.clone()));
        Ok(step)
    }

    /// The source, its blocks from `from` on, its holes there, and where verification ends.
    #[expect(
        clippy::type_complexity,
        reason = "taken apart at once by its only caller"
    )]
    fn to_verify(
        &self,
        chunk: ChunkId,
        from: u64,
    ) -> Result<(Source, Vec<BlockChecksum>, Vec<Range<u64>>, u64), StoreError> {
        let (source, mut blocks, holes, end) = match self.sealed(chunk) {
            Some(sealed) => {
                let hot = Arc::new(self.load(chunk, sealed)?);
                let blocks = hot.index.blocks_from(from, usize::MAX);
                let holes = hot.index.holes();
                (Source::Sealed(hot), blocks, holes, sealed.length)
            }
            None => match self.source(chunk)? {
                Source::Open(replica) => {
                    let end = replica.snapshot().length;
                    let blocks = replica.blocks_from(from, usize::MAX);
                    let holes = replica.holes();
                    (Source::Open(replica), blocks, holes, end)
                }
                // Sealed between the two looks.
                Source::Sealed(_) => return self.to_verify(chunk, from),
            },
        };
        blocks.retain(|block| block.end() <= end);
        let holes = holes
            .into_iter()
            .filter(|hole| hole.start >= from)
            .collect();
        Ok((source, blocks, holes, end))
    }

    fn verify_run(
        &self,
        chunk: ChunkId,
        source: &Source,
        blocks: &[BlockChecksum],
        step: &mut VerifyStep,
    ) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return Ok(());
        };
        let range = first.offset..last.end();
        let mut buffer = buffer::pool().take(BUFFER_LEN);
        step.checked_bytes += range.end - range.start;
        match self.read_blocks(chunk, source, range, &mut buffer) {
            Ok(bytes) => {
                let mut rest = blocks;
                let mut bytes = &buffer[bytes];
                while let Some(bad) = first_mismatch(rest, bytes) {
                    step.bad.push(bad.offset..bad.end());
                    let position = rest.iter().position(|block| *block == bad).unwrap_or(0) + 1;
                    let skip = bad.end() - rest[0].offset;
                    rest = &rest[position..];
                    bytes = &bytes[skip as usize..];
                }
                Ok(())
            }
            // Which of the blocks it is: one by one.
            Err(StoreError::BadBlock { .. }) if blocks.len() > 1 => {
                blocks.iter().try_for_each(|block| {
                    self.verify_run(chunk, source, std::slice::from_ref(block), step)
                })
            }
            Err(StoreError::BadBlock { offset, end, .. }) => {
                step.bad.push(offset..end);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// How many of the first blocks are neighbours and fit one read.
fn run_length(blocks: &[BlockChecksum], end: u64) -> usize {
    let Some(first) = blocks.first() else {
        return 0;
    };
    let mut until = first.offset;
    let fits = |block: &&BlockChecksum| {
        let next =
            block.offset == until && block.end() <= end && block.end() - first.offset <= READ_MAX;
        until = block.end();
        next
    };
    blocks.iter().take_while(fits).count().max(1)
}

const _: () = assert!(
    CHECKSUM_BLOCK_MAX + 2 * ALIGNMENT <= BUFFER_LEN,
    "a block fits a read"
);
