//! Reads: checksum blocks that cover a range, with their CRCs, for the reader to verify.
//!
//! Files share chunks, so a block may reach beyond what a token covers. Such a block is verified here, cut to what the
//! bearer may see, and sent with the CRC of the part: nobody gets a neighbour's byte, nor a CRC over it.

use std::ops::Range;

use bytes::Bytes;

use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::ChunkId;
use cairn_protocol::limits::BUFFER_BYTES;
use cairn_protocol::messages::transfer::{ReadReplica, ReadReply};
use cairn_protocol::rpc::{Reply, Request};
use cairn_protocol::token::{Grant, GrantKind};
use cairn_protocol::{ErrorCode, Failure};

use super::Transfer;
use crate::chunk_store::BlockChecksum;
use crate::replicas::Blocks;

/// Answers `ReadReplica`.
pub(crate) async fn read(transfer: &Transfer, request: &Request) -> Result<Reply, Failure> {
    let result = serve(transfer, request).await;
    match &result {
        Ok(reply) => transfer.metrics.read(reply.payload.len()),
        Err(failure) => transfer.metrics.read_failed(failure),
    }
    result
}

async fn serve(transfer: &Transfer, request: &Request) -> Result<Reply, Failure> {
    let request: ReadReplica = request.decode()?;
    if request.length == 0 || request.length as usize > BUFFER_BYTES {
        let text = format!("a read of {} bytes, 1 to {BUFFER_BYTES}", request.length);
        return Err(Failure::new(ErrorCode::InvalidArgument, text));
    }
    let chunk = ChunkId(request.chunk);
    let grant = transfer.cluster.known()?.verify(&request.token)?;
    if !grant.covers_read(chunk, request.offset, request.length.into()) {
        let text = format!(
            "token does not cover {} bytes at {} of chunk {chunk}",
            request.length, request.offset
        );
        return Err(Failure::new(ErrorCode::BadToken, text));
    }
    // Cannot overflow: the grant covers it.
    let range = request.offset..request.offset + u64::from(request.length);
    let found = transfer.reads.read(chunk, range).await?;
    let cut = cut(found, granted(&grant));
    let Cut {
        offset,
        bytes,
        blocks,
        recomputed,
    } = match cut {
        Ok(cut) => cut,
        Err(block) => {
            transfer.replicas.suspect(chunk, block.offset).await;
            let text = format!(
                "chunk {chunk}: the block at {} does not match its checksum",
                block.offset
            );
            return Err(Failure::new(ErrorCode::ChecksumMismatch, text));
        }
    };
    let reply = ReadReply {
        offset,
        block_lengths: blocks.iter().map(|block| block.length).collect(),
        block_crcs: blocks.iter().map(|block| block.crc32c).collect(),
        recomputed,
    };
    Ok(Reply::new(&reply).with_payload(bytes))
}

fn granted(grant: &Grant) -> Range<u64> {
    match grant.kind {
        GrantKind::Read { offset, len } => offset..offset.saturating_add(len),
        _ => 0..0,
    }
}

/// What is sent.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    offset: u64,
    bytes: Bytes,
    blocks: Vec<BlockChecksum>,
    recomputed: bool,
}

/// Cuts away what lies outside `granted`. Fails with the block that had to be cut and does not match its CRC. Copies
/// nothing: the CRC of a part is computed, and the bytes outside it are left out of the slice.
fn cut(found: Blocks, granted: Range<u64>) -> Result<Cut, BlockChecksum> {
    let Blocks {
        offset: found_offset,
        bytes,
        blocks: found,
    } = found;
    let at = |offset: u64| (offset - found_offset) as usize;
    let mut blocks = Vec::with_capacity(found.len());
    let mut recomputed = false;
    for block in found {
        let start = block.offset.max(granted.start);
        let end = block.end().min(granted.end);
        if start >= end {
            // The blocks cover a range inside the grant, so each has a part of it; an empty one would prove nothing.
            continue;
        }
        if start == block.offset && end == block.end() {
            blocks.push(block);
            continue;
        }
        if crc32c(&bytes[at(block.offset)..at(block.end())]) != block.crc32c {
            return Err(block);
        }
        recomputed = true;
        let crc = crc32c(&bytes[at(start)..at(end)]);
        blocks.push(BlockChecksum {
            offset: start,
            length: (end - start) as u32,
            crc32c: crc,
        });
    }
    let first = blocks.first().map_or(found_offset, |block| block.offset);
    let last = blocks.last().map_or(first, BlockChecksum::end);
    Ok(Cut {
        offset: first,
        bytes: bytes.slice(at(first)..at(last)),
        blocks,
        recomputed,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

    use super::{Blocks, cut};
    use crate::chunk_store::BlockChecksum;
    use cairn_protocol::checksum::crc32c;

    /// Blocks of these lengths, from chunk offset 100 on.
    fn blocks(lengths: &[u32]) -> Blocks {
        let mut offset = 100;
        let mut bytes = Vec::new();
        let mut blocks = Vec::new();
        for &length in lengths {
            let data: Vec<u8> = (0..length).map(|i| (offset as u32 + i * 7) as u8).collect();
            blocks.push(BlockChecksum {
                offset,
                length,
                crc32c: crc32c(&data),
            });
            offset += u64::from(length);
            bytes.extend(data);
        }
        Blocks {
            offset: 100,
            bytes: Bytes::from(bytes),
            blocks,
        }
    }

    #[test]
    fn blocks_inside_the_grant_are_sent_as_they_are() {
        let found = blocks(&[10, 20]);
        let sent = cut(found.clone(), 100..130).unwrap();
        assert_eq!(
            (sent.offset, sent.bytes, sent.recomputed),
            (100, found.bytes, false)
        );
        assert_eq!(sent.blocks, found.blocks);
    }

    #[test]
    fn a_bad_block_is_never_given_a_good_crc() {
        let mut found = blocks(&[10, 20]);
        found.blocks[1].crc32c ^= 1;
        let bad = found.blocks[1];
        assert_eq!(cut(found.clone(), 100..120), Err(bad));
        // Whole, it is sent with the CRC that it should have: the reader will see.
        assert_eq!(cut(found, 100..130).unwrap().blocks[1], bad);
    }

    proptest! {
        #[test]
        fn nothing_outside_the_grant_is_sent_and_every_crc_holds(
            lengths in prop::collection::vec(1u32..50, 1..6),
            from in 0u64..60,
            len in 1u64..100,
        ) {
            let found = blocks(&lengths);
            let end = found.blocks.last().unwrap().end();
            let granted = (100 + from).min(end - 1)..(100 + from + len).min(end).max((100 + from).min(end - 1) + 1);
            let sent = cut(found.clone(), granted.clone()).unwrap();
            prop_assert!(sent.offset >= granted.start);
            prop_assert!(sent.offset + sent.bytes.len() as u64 <= granted.end);
            let mut at = 0;
            for block in &sent.blocks {
                let part = &sent.bytes[at..at + block.length as usize];
                prop_assert_eq!(crc32c(part), block.crc32c);
                prop_assert_eq!(part, &found.bytes[(block.offset - 100) as usize..(block.end() - 100) as usize]);
                at += block.length as usize;
            }
            prop_assert_eq!(at, sent.bytes.len());
        }
    }
}
