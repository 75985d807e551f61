//! The codec of `.sum` files: a header, then records in 16-byte slots. No record is ever rewritten.
//!
//! All integers are little-endian; reserved bytes are zero when written and ignored when read. The last four bytes of the header and of each
//! record are its CRC32C over (chunk u64, incarnation u64, position in the file u64, the bytes before the CRC), so that a
//! record that a disk delivers for another file, another life of the file or another place never reads as valid.
//!
//! ```text
//! header (64 bytes, at position 0)
//!   0  8  magic "CAIRNSUM"
//!   8  2  format version, 1
//!  10  2  flags: bit 0 = destination of a copy, discarded at start-up unless sealed
//!  12  4  reserved
//!  16  8  chunk
//!  24  8  incarnation
//!  32  8  epoch of the first writer
//!  40 20  reserved
//!  60  4  CRC32C (incarnation taken from the header itself)
//!
//! block (16 bytes): a checksum block
//!   0  1  kind 1         2  2  length - 1     4  4  offset in chunk
//!   1  1  reserved       8  4  CRC32C of the data            12  4  CRC32C of the record
//!
//! epoch (16 bytes): a writer with a higher epoch came
//!   0  1  kind 2         1  3  reserved       4  8  epoch    12  4  CRC32C of the record
//!
//! synced (16 bytes): data and records below this length were durable before this was written
//!   0  1  kind 3         1  3  reserved       4  8  length   12  4  CRC32C of the record
//!
//! cut (16 bytes): start-up found a torn tail: all blocks at or above this length are void
//!   0  1  kind 4         1  3  reserved       4  8  length   12  4  CRC32C of the record
//!
//! seal synced (16 bytes): everything before this is durable; the last record of a sealed replica
//!   0  1  kind 6         1 11  reserved                      12  4  CRC32C of the record
//!
//! seal (64 bytes): at the end of a sealed replica, so that start-up reads only the file's tail
//!   0  1  kind 5         1  1  flags: bit 0 = a shortened last block follows          2  6  reserved
//!   8  8  epoch         16  8  incarnation   24  8  length: all blocks at or above it are void
//!  32  4  offset, 36 4 length, 40 4 CRC32C of the block that takes the place of the one that crossed `length`
//!  44 16  reserved      60  4  CRC32C of the record (incarnation taken from the seal itself)
//! ```

use cairn_protocol::checksum::crc32c;
use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};

use super::{BlockChecksum, CHECKSUM_BLOCK_MAX};

/// All records start at multiples of this and fill whole slots.
pub(super) const SLOT: usize = 16;
/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 64;
/// Bytes of a seal.
pub(super) const SEAL_LEN: usize = 64;
/// The format that this code writes, and the newest that it reads.
pub(super) const FORMAT_VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"CAIRNSUM";
const FLAG_COPY: u16 = 1;
const FLAG_SHORTENED: u8 = 1;
const KIND_BLOCK: u8 = 1;
const KIND_EPOCH: u8 = 2;
const KIND_SYNCED: u8 = 3;
const KIND_CUT: u8 = 4;
const KIND_SEAL: u8 = 5;
const KIND_SEAL_SYNCED: u8 = 6;

/// What opens a `.sum` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub chunk: ChunkId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    /// Destination of a copy: does not exist until it is sealed.
    pub copy: bool,
}

/// The record that ends a `.sum` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub epoch: Epoch,
    pub incarnation: Incarnation,
    pub length: u64,
    /// The kept part of the block that crossed `length`, if one did.
    pub shortened: Option<BlockChecksum>,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Block(BlockChecksum),
    Epoch(Epoch),
    Synced(u64),
    Cut(u64),
    Seal(Seal),
    SealSynced,
}

/// Why a header was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Not a header, or a damaged one.
    Damaged,
    /// A format that a newer version of the software wrote, and the incarnation, which its header still tells.
    Newer(u16, Incarnation),
}

/// Which file the records belong to: the seed of their CRCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub chunk: ChunkId,
    pub incarnation: Incarnation,
}

impl Origin {
    fn crc(self, position: u64, body: &[u8]) -> u32 {
        let mut bytes = [0; 24 + HEADER_LEN];
        bytes[..8].copy_from_slice(&self.chunk.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&position.to_le_bytes());
        bytes[24..24 + body.len()].copy_from_slice(body);
        crc32c(&bytes[..24 + body.len()])
    }
}

/// The header's bytes.
pub(super) fn encode_header(header: &Header) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    let flags = if header.copy { FLAG_COPY } else { 0 };
    bytes[10..12].copy_from_slice(&flags.to_le_bytes());
    bytes[16..24].copy_from_slice(&header.chunk.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&header.incarnation.0.to_le_bytes());
    bytes[32..40].copy_from_slice(&header.epoch.0.to_le_bytes());
    let origin = Origin {
        chunk: header.chunk,
        incarnation: header.incarnation,
    };
    put_crc(&mut bytes, origin, 0);
    bytes
}

/// Reads the header of the `.sum` file of `chunk`.
pub(super) fn decode_header(chunk: ChunkId, bytes: &[u8]) -> Result<Header, HeaderError> {
    let bytes = bytes.get(..HEADER_LEN).ok_or(HeaderError::Damaged)?;
    let header = Header {
        chunk: ChunkId(u64_at(bytes, 16)),
        incarnation: Incarnation(u64_at(bytes, 24)),
        epoch: Epoch(u64_at(bytes, 32)),
        copy: u16_at(bytes, 10) & FLAG_COPY != 0,
    };
    let origin = Origin {
        chunk,
        incarnation: header.incarnation,
    };
    if &bytes[..8] != MAGIC || header.chunk != chunk || !crc_holds(bytes, origin, 0) {
        return Err(HeaderError::Damaged);
    }
    match u16_at(bytes, 8) {
        FORMAT_VERSION => Ok(header),
        newer => Err(HeaderError::Newer(newer, header.incarnation)),
    }
}

/// Appends a record to `out`; `position` is where `out`'s next byte will lie in the file.
pub(super) fn encode(out: &mut Vec<u8>, origin: Origin, position: u64, record: &Record) {
    match record {
        Record::Block(block) => {
            let mut bytes = [0; SLOT];
            bytes[0] = KIND_BLOCK;
            bytes[2..4].copy_from_slice(&((block.length - 1) as u16).to_le_bytes());
            bytes[4..8].copy_from_slice(&(block.offset as u32).to_le_bytes());
            bytes[8..12].copy_from_slice(&block.crc32c.to_le_bytes());
            put_crc(&mut bytes, origin, position);
            out.extend_from_slice(&bytes);
        }
        Record::Epoch(epoch) => encode_number(out, origin, position, KIND_EPOCH, epoch.0),
        Record::Synced(length) => encode_number(out, origin, position, KIND_SYNCED, *length),
        Record::Cut(length) => encode_number(out, origin, position, KIND_CUT, *length),
        Record::SealSynced => encode_number(out, origin, position, KIND_SEAL_SYNCED, 0),
        Record::Seal(seal) => {
            let mut bytes = [0; SEAL_LEN];
            bytes[0] = KIND_SEAL;
            bytes[8..16].copy_from_slice(&seal.epoch.0.to_le_bytes());
            bytes[16..24].copy_from_slice(&seal.incarnation.0.to_le_bytes());
            bytes[24..32].copy_from_slice(&seal.length.to_le_bytes());
            if let Some(block) = &seal.shortened {
                bytes[1] = FLAG_SHORTENED;
                bytes[32..36].copy_from_slice(&(block.offset as u32).to_le_bytes());
                bytes[36..40].copy_from_slice(&block.length.to_le_bytes());
                bytes[40..44].copy_from_slice(&block.crc32c.to_le_bytes());
            }
            put_crc(&mut bytes, origin, position);
            out.extend_from_slice(&bytes);
        }
    }
}

fn encode_number(out: &mut Vec<u8>, origin: Origin, position: u64, kind: u8, number: u64) {
    let mut bytes = [0; SLOT];
    bytes[0] = kind;
    bytes[4..12].copy_from_slice(&number.to_le_bytes());
    put_crc(&mut bytes, origin, position);
    out.extend_from_slice(&bytes);
}

/// Reads the record at the start of `bytes`, which lie at `position`: the record and its length. `None` means damaged or
/// torn: the reader goes on with the next slot.
pub(super) fn decode(origin: Origin, position: u64, bytes: &[u8]) -> Option<(Record, usize)> {
    let slot = bytes.get(..SLOT)?;
    if slot[0] == KIND_SEAL {
        let seal = decode_seal(origin.chunk, position, bytes.get(..SEAL_LEN)?)?;
        return (seal.incarnation == origin.incarnation).then_some((Record::Seal(seal), SEAL_LEN));
    }
    if !crc_holds(slot, origin, position) {
        return None;
    }
    let record = match slot[0] {
        KIND_BLOCK => Record::Block(BlockChecksum {
            offset: u64::from(u32_at(slot, 4)),
            length: u32::from(u16_at(slot, 2)) + 1,
            crc32c: u32_at(slot, 8),
        }),
        KIND_EPOCH => Record::Epoch(Epoch(u64_at(slot, 4))),
        KIND_SYNCED => Record::Synced(u64_at(slot, 4)),
        KIND_CUT => Record::Cut(u64_at(slot, 4)),
        KIND_SEAL_SYNCED => Record::SealSynced,
        _ => return None,
    };
    Some((record, SLOT))
}

/// Reads a seal whose incarnation is not known from elsewhere.
pub(super) fn decode_seal(chunk: ChunkId, position: u64, bytes: &[u8]) -> Option<Seal> {
    let bytes = bytes.get(..SEAL_LEN)?;
    let incarnation = Incarnation(u64_at(bytes, 16));
    if bytes[0] != KIND_SEAL || !crc_holds(bytes, Origin { chunk, incarnation }, position) {
        return None;
    }
    let length = u64_at(bytes, 24);
    let block = BlockChecksum {
        offset: u64::from(u32_at(bytes, 32)),
        length: u32_at(bytes, 36),
        crc32c: u32_at(bytes, 40),
    };
    let shortened = bytes[1] & FLAG_SHORTENED != 0;
    if shortened && (block.end() != length || block.length as usize > CHECKSUM_BLOCK_MAX) {
        return None;
    }
    let shortened = shortened.then_some(block);
    Some(Seal {
        epoch: Epoch(u64_at(bytes, 8)),
        incarnation,
        length,
        shortened,
    })
}

fn put_crc(bytes: &mut [u8], origin: Origin, position: u64) {
    let (body, crc) = bytes.split_at_mut(bytes.len() - 4);
    crc.copy_from_slice(&origin.crc(position, body).to_le_bytes());
}

fn crc_holds(bytes: &[u8], origin: Origin, position: u64) -> bool {
    let (body, _) = bytes.split_at(bytes.len() - 4);
    u32_at(bytes, body.len()) == origin.crc(position, body)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    const ORIGIN: Origin = Origin {
        chunk: ChunkId(0x4d2),
        incarnation: Incarnation(7),
    };

    fn samples() -> Vec<Record> {
        let block = BlockChecksum {
            offset: 0x01020304,
            length: 65_536,
            crc32c: 0xaabbccdd,
        };
        let shortened = BlockChecksum {
            offset: 65_536,
            length: 100,
            crc32c: 0x11223344,
        };
        let seal = Seal {
            epoch: Epoch(9),
            incarnation: Incarnation(7),
            length: 65_636,
            shortened: Some(shortened),
        };
        vec![
            Record::Block(block),
            Record::Epoch(Epoch(u64::MAX)),
            Record::Synced(5),
            Record::Cut(6),
            Record::SealSynced,
            Record::Seal(seal),
            Record::Seal(Seal {
                shortened: None,
                ..seal
            }),
        ]
    }

    #[test]
    fn records_round_trip_only_at_their_own_place() {
        for record in samples() {
            let mut bytes = Vec::new();
            encode(&mut bytes, ORIGIN, 64, &record);
            assert_eq!(decode(ORIGIN, 64, &bytes), Some((record, bytes.len())));
            assert_eq!(decode(ORIGIN, 80, &bytes), None, "another place");
            let other = Origin {
                incarnation: Incarnation(8),
                ..ORIGIN
            };
            assert_eq!(decode(other, 64, &bytes), None, "another life");
            for bit in 0..bytes.len() * 8 {
                let mut rotten = bytes.clone();
                rotten[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode(ORIGIN, 64, &rotten), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn layouts_are_the_documented_bytes() {
        let mut bytes = Vec::new();
        encode(&mut bytes, ORIGIN, 64, &samples()[0]);
        assert_eq!(
            bytes[..12],
            [1, 0, 0xff, 0xff, 4, 3, 2, 1, 0xdd, 0xcc, 0xbb, 0xaa]
        );
        let header = Header {
            chunk: ORIGIN.chunk,
            incarnation: ORIGIN.incarnation,
            epoch: Epoch(3),
            copy: true,
        };
        let bytes = encode_header(&header);
        assert_eq!(&bytes[..12], b"CAIRNSUM\x01\0\x01\0");
        assert_eq!(bytes[16..18], [0xd2, 4]);
        assert_eq!(decode_header(ORIGIN.chunk, &bytes), Ok(header));
        assert_eq!(decode_header(ChunkId(1), &bytes), Err(HeaderError::Damaged));
    }

    #[test]
    fn a_newer_format_is_named_not_guessed() {
        let header = Header {
            chunk: ORIGIN.chunk,
            incarnation: ORIGIN.incarnation,
            epoch: Epoch(3),
            copy: false,
        };
        let mut bytes = encode_header(&header);
        bytes[8] = 2;
        put_crc(&mut bytes, ORIGIN, 0);
        assert_eq!(
            decode_header(ORIGIN.chunk, &bytes),
            Err(HeaderError::Newer(2, ORIGIN.incarnation))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>, position: u64) {
            let _ = decode(ORIGIN, position, &bytes);
            let _ = decode_seal(ORIGIN.chunk, position, &bytes);
            let _ = decode_header(ORIGIN.chunk, &bytes);
        }

        #[test]
        fn any_block_round_trips(offset in any::<u32>(), length in 1u32..=65_536, crc32c: u32, position: u64) {
            let record = Record::Block(BlockChecksum { offset: offset.into(), length, crc32c });
            let mut bytes = Vec::new();
            encode(&mut bytes, ORIGIN, position, &record);
            prop_assert_eq!(decode(ORIGIN, position, &bytes), Some((record, SLOT)));
        }
    }
}
