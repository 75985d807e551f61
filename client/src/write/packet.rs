//! Bytes on their way into a chunk, cut into checksum blocks. The CRC is computed once, here, and travels with the bytes from
//! then on.

use bytes::Bytes;
use cairn_protocol::checksum::{Crc32c, crc32c};
use cairn_protocol::limits::BUFFER_BYTES;
use cairn_protocol::messages::transfer::PacketHeader;

/// Most bytes under one CRC. A reader gets whole blocks, so that a block of a page makes a random read of a page cost one; its record
/// is a 256th of it. Datanodes take and serve blocks of up to 64 KiB, which older clients write.
pub(crate) const BLOCK_BYTES: usize = 4 << 10;

/// Most bytes in one packet.
pub(crate) const PACKET_BYTES: usize = BUFFER_BYTES;

/// Contiguous bytes with their checksums. Cheap to clone: the bytes are shared.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Bytes,
    pub(crate) block_lengths: Vec<u32>,
    pub(crate) block_crcs: Vec<u32>,
    /// CRC32C of all the bytes.
    pub(crate) crc: u32,
}

impl Packet {
    /// Cuts 1 to [`PACKET_BYTES`] bytes.
    pub(crate) fn new(bytes: Bytes) -> Self {
        debug_assert!(!bytes.is_empty() && bytes.len() <= PACKET_BYTES);
        let count = bytes.len().div_ceil(BLOCK_BYTES);
        let mut block_lengths = Vec::with_capacity(count);
        let mut block_crcs = Vec::with_capacity(count);
        // A second pass over a block that is in the cache costs less than combining its CRC with that of all before it.
        let mut whole = Crc32c::new();
        for block in bytes.chunks(BLOCK_BYTES) {
            whole.update(block);
            block_lengths.push(block.len() as u32);
            block_crcs.push(crc32c(block));
        }
        Self {
            bytes,
            block_lengths,
            block_crcs,
            crc: whole.value(),
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn header(&self, sequence: u64, offset_in_chunk: u64, sync: bool) -> PacketHeader {
        PacketHeader {
            sequence,
            offset_in_chunk,
            block_lengths: self.block_lengths.clone(),
            block_crcs: self.block_crcs.clone(),
            sync,
            last: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_BYTES, PACKET_BYTES, Packet};
    use bytes::Bytes;
    use cairn_protocol::checksum::crc32c;

    #[test]
    fn blocks_cover_the_packet_and_the_crc_covers_all() {
        for length in [
            1,
            BLOCK_BYTES - 1,
            BLOCK_BYTES,
            BLOCK_BYTES + 1,
            PACKET_BYTES,
        ] {
            let bytes: Bytes = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let packet = Packet::new(bytes.clone());
            assert_eq!(packet.block_lengths.iter().sum::<u32>() as usize, length);
            assert!(
                packet
                    .block_lengths
                    .iter()
                    .all(|&length| length as usize <= BLOCK_BYTES)
            );
            assert_eq!(packet.crc, crc32c(&bytes));
            assert_eq!(
                packet.block_crcs[0],
                crc32c(&bytes[..length.min(BLOCK_BYTES)])
            );
        }
    }
}
