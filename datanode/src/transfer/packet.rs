//! A packet as it arrived: decoded, its checksum blocks compared once with the bytes, its frame kept for the next hop.

use bytes::Bytes;
use prost::Message;

use cairn_protocol::checksum::crc32c;
use cairn_protocol::frame::Frame;
use cairn_protocol::limits::BUFFER_BYTES;
use cairn_protocol::messages::transfer::PacketHeader;
use cairn_protocol::{ErrorCode, Failure, Method};

use crate::chunk_store::{BlockChecksum, CHECKSUM_BLOCK_MAX};

/// Verified bytes on their way to the disk and to the next datanode.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub sequence: u64,
    pub offset: u64,
    pub payload: Bytes,
    /// Cover the payload exactly.
    pub blocks: Vec<BlockChecksum>,
    pub sync: bool,
    pub last: bool,
}

impl Packet {
    /// Understands and verifies a frame of a stream. Fails with `Malformed` if it makes no sense and with
    /// `ChecksumMismatch` if the bytes changed on their way.
    pub(super) fn decode(frame: &Frame) -> Result<Self, Failure> {
        let malformed = |text: &str| Failure::new(ErrorCode::Malformed, format!("packet: {text}"));
        if Method::from_number(frame.method) != Some(Method::Packet) {
            return Err(malformed("another frame on a write stream"));
        }
        let header =
            PacketHeader::decode(frame.header.as_ref()).map_err(|_| malformed("header"))?;
        if frame.payload.len() > BUFFER_BYTES {
            return Err(malformed("more than 1 MiB"));
        }
        Self::verified(header, frame.payload.clone())
    }

    /// A packet of these bytes, once every block has been compared with its CRC.
    pub(super) fn verified(header: PacketHeader, payload: Bytes) -> Result<Self, Failure> {
        let malformed = |text: &str| Failure::new(ErrorCode::Malformed, format!("packet: {text}"));
        if header.block_lengths.len() != header.block_crcs.len() {
            return Err(malformed("as many lengths as CRCs are needed"));
        }
        if header
            .offset_in_chunk
            .checked_add(payload.len() as u64)
            .is_none()
        {
            return Err(malformed("ends beyond the largest offset"));
        }
        let blocks = verify(&header, &payload)?;
        Ok(Self {
            sequence: header.sequence,
            offset: header.offset_in_chunk,
            payload,
            blocks,
            sync: header.sync,
            last: header.last,
        })
    }

    /// The byte after the packet's.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.payload.len() as u64
    }
}

fn verify(header: &PacketHeader, payload: &[u8]) -> Result<Vec<BlockChecksum>, Failure> {
    let malformed = |text: &str| Failure::new(ErrorCode::Malformed, format!("packet: {text}"));
    let mut rest = payload;
    let mut offset = header.offset_in_chunk;
    let mut blocks = Vec::with_capacity(header.block_lengths.len());
    for (&length, &crc) in header.block_lengths.iter().zip(&header.block_crcs) {
        let len = length as usize;
        if len == 0 || len > CHECKSUM_BLOCK_MAX {
            return Err(malformed("a checksum block has 1 to 65,536 bytes"));
        }
        let (block, after) = rest
            .split_at_checked(len)
            .ok_or_else(|| malformed("blocks reach beyond the payload"))?;
        if crc32c(block) != crc {
            let text = format!("{length} bytes at {offset} changed on their way to this datanode");
            return Err(Failure::new(ErrorCode::ChecksumMismatch, text));
        }
        blocks.push(BlockChecksum {
            offset,
            length,
            crc32c: crc,
        });
        offset += u64::from(length);
        rest = after;
    }
    if rest.is_empty() {
        Ok(blocks)
    } else {
        Err(malformed("the payload reaches beyond the blocks"))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{any, prop, proptest};
    use prost::Message;

    use super::{Packet, PacketHeader};
    use cairn_protocol::checksum::crc32c;
    use cairn_protocol::frame::Frame;
    use cairn_protocol::{ErrorCode, Method};

    fn header(payload: &[u8], lengths: &[usize]) -> PacketHeader {
        let mut at = 0;
        let mut header = PacketHeader {
            sequence: 1,
            offset_in_chunk: 10,
            ..Default::default()
        };
        for &len in lengths {
            header.block_lengths.push(len as u32);
            header.block_crcs.push(crc32c(&payload[at..at + len]));
            at += len;
        }
        header
    }

    fn frame(header: &PacketHeader, payload: &[u8]) -> Frame {
        Frame {
            method: Method::Packet.into(),
            header: header.encode_to_vec().into(),
            payload: Bytes::copy_from_slice(payload),
            ..Default::default()
        }
    }

    #[test]
    fn blocks_cover_the_payload_in_order() {
        let packet = Packet::decode(&frame(&header(b"cairn", &[2, 3]), b"cairn")).unwrap();
        assert_eq!(packet.end(), 15);
        let places: Vec<_> = packet.blocks.iter().map(|b| (b.offset, b.length)).collect();
        assert_eq!(places, [(10, 2), (12, 3)]);
    }

    #[test]
    fn a_packet_that_makes_no_sense_is_refused() {
        let good = header(b"cairn", &[2, 3]);
        let refused = |header: &PacketHeader, payload: &[u8]| {
            Packet::decode(&frame(header, payload)).unwrap_err().code
        };
        assert_eq!(refused(&good, b"cairm"), ErrorCode::ChecksumMismatch);
        assert_eq!(refused(&good, b"cair"), ErrorCode::Malformed);
        assert_eq!(refused(&good, b"cairns"), ErrorCode::Malformed);
        let mut uneven = good.clone();
        uneven.block_crcs.pop();
        assert_eq!(refused(&uneven, b"cairn"), ErrorCode::Malformed);
        let mut far = good.clone();
        far.offset_in_chunk = u64::MAX - 2;
        assert_eq!(refused(&far, b"cairn"), ErrorCode::Malformed);
        let long = vec![0; 65_537];
        assert_eq!(
            refused(&header(&long, &[65_537]), &long),
            ErrorCode::Malformed
        );
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(
            header in prop::collection::vec(any::<u8>(), 0..200),
            payload in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let _ = Packet::decode(&Frame {
                method: Method::Packet.into(),
                header: header.into(),
                payload: payload.into(),
                ..Default::default()
            });
        }
    }
}
