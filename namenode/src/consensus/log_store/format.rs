//! The bytes of a log segment. Pure: no disk here.
//!
//! A segment file is a header and records, each padded with zeros to a multiple of 8 bytes. All numbers are
//! little-endian. What follows the last record is whatever the file held before: zeros or an earlier life.
//!
//! ```text
//! segment header (64 bytes, at 0; records start at 4096)
//!   0  8  magic "CAIRNLOG"
//!   8  4  format version, 1
//!  12  4  zero
//!  16  8  generation: 1 for a log's first segment, one more for each next; never used twice
//!  24  8  salt of this segment's checksums
//!  32  8  end of the segment before (0 in generation 1)
//!  40  4  chain value at that end (0 in generation 1)
//!  44  4  zero
//!  48  8  size of this file, which never changes
//!  56  4  zero
//!  60  4  CRC32C of bytes 0..60
//!
//! record header (32 bytes)
//!   0  4  CRC32C of (salt 8, generation 8, offset of this header in the file 8, bytes 4..32 of this header)
//!   4  4  payload length
//!   8  4  CRC32C of the payload
//!  12  4  chain: bytes 0..4 of the record before; the segment header's CRC for a segment's first record
//!  16  8  synced end: everything in this segment below this offset was durable before this record was written
//!  24  1  kind: 1 entry, 2 state
//!  25  7  zero
//!  32  …  payload
//! ```
//!
//! The chain through record headers covers the payload CRCs, so each record is bound to its segment's generation, its
//! place and everything before it. A header can be recognised without its predecessor, so a scan behind damage finds
//! out whether the damaged place was below a synced end.

use cairn_protocol::checksum::crc32c;

/// Newest segment format that we read, and the one that we write.
pub(super) const VERSION: u32 = 1;
/// Offset of a segment's first record: the header has its page to itself, so no later write can tear it.
pub(super) const SEGMENT_START: u64 = 4096;
/// Bytes of a segment header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a record header.
pub(super) const RECORD_HEADER_BYTES: usize = 32;
/// Payload bytes of a state record.
pub(super) const STATE_BYTES: u64 = 80;
/// Payload bytes of an entry record before the commands or membership.
pub(super) const ENTRY_FIXED_BYTES: u64 = 24;

const MAGIC: &[u8; 8] = b"CAIRNLOG";

/// Bytes that a record with this payload takes in the file.
pub(super) const fn record_bytes(payload_bytes: u64) -> u64 {
    (RECORD_HEADER_BYTES as u64 + payload_bytes).next_multiple_of(8)
}

/// Reads a little-endian number; the caller has checked the length.
pub(super) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// Reads a little-endian number; the caller has checked the length.
pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

/// What makes the checksums of one segment different from those of every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seed {
    pub salt: u64,
    pub generation: u64,
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub seed: Seed,
    pub previous_end: u64,
    pub previous_chain: u32,
    /// Size of the file: no record goes beyond.
    pub capacity: u64,
}

/// Why a segment header is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    Damaged,
    Version(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.seed.generation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.seed.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.previous_chain.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.capacity.to_le_bytes());
        let crc = crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<SegmentHeader, BadHeader> {
        if bytes.len() < SEGMENT_HEADER_BYTES
            || bytes[0..8] != *MAGIC
            || crc32c(&bytes[..60]) != read_u32(bytes, 60)
        {
            return Err(BadHeader::Damaged);
        }
        match read_u32(bytes, 8) {
            VERSION => Ok(SegmentHeader {
                seed: Seed {
                    generation: read_u64(bytes, 16),
                    salt: read_u64(bytes, 24),
                },
                previous_end: read_u64(bytes, 32),
                previous_chain: read_u32(bytes, 40),
                capacity: read_u64(bytes, 48),
            }),
            version => Err(BadHeader::Version(version)),
        }
    }

    /// The chain value that the segment's first record continues.
    pub(super) fn chain(&self) -> u32 {
        read_u32(&self.encode(), 60)
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Entry,
    State,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Entry => 1,
            Kind::State => 2,
        }
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Entry),
            2 => Some(Kind::State),
            _ => None,
        }
    }
}

/// The header of a record, as found intact at one offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// Chain value that the next record continues.
    pub crc: u32,
    pub payload_len: u32,
    pub payload_crc: u32,
    /// Chain value that this record continues.
    pub chain: u32,
    pub synced_end: u64,
    pub kind: Kind,
}

impl RecordHeader {
    /// `None` if no header of this segment starts here.
    pub(super) fn decode(bytes: &[u8], seed: Seed, offset: u64) -> Option<RecordHeader> {
        let header: &[u8; RECORD_HEADER_BYTES] =
            bytes.get(..RECORD_HEADER_BYTES)?.try_into().ok()?;
        // The cheap tests come first: a scan behind damage tries every offset.
        let kind = Kind::from_byte(header[24])?;
        if header[25..32] != [0; 7] || read_u32(header, 0) != header_crc(header, seed, offset) {
            return None;
        }
        Some(RecordHeader {
            crc: read_u32(header, 0),
            payload_len: read_u32(header, 4),
            payload_crc: read_u32(header, 8),
            chain: read_u32(header, 12),
            synced_end: read_u64(header, 16),
            kind,
        })
    }
}

fn header_crc(header: &[u8; RECORD_HEADER_BYTES], seed: Seed, offset: u64) -> u32 {
    let mut bytes = [0; 24 + RECORD_HEADER_BYTES - 4];
    bytes[0..8].copy_from_slice(&seed.salt.to_le_bytes());
    bytes[8..16].copy_from_slice(&seed.generation.to_le_bytes());
    bytes[16..24].copy_from_slice(&offset.to_le_bytes());
    bytes[24..].copy_from_slice(&header[4..]);
    crc32c(&bytes)
}

/// Where and after what a record is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub seed: Seed,
    pub offset: u64,
    pub chain: u32,
    pub synced_end: u64,
}

/// Appends one record to `buffer`, padded; gives the chain value for the next one. `write_payload` must append at most
/// `u32::MAX` bytes.
pub(super) fn encode_record(
    buffer: &mut Vec<u8>,
    place: Place,
    kind: Kind,
    write_payload: impl FnOnce(&mut Vec<u8>),
) -> u32 {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    write_payload(buffer);
    let payload = &buffer[start + RECORD_HEADER_BYTES..];
    let payload_len = u32::try_from(payload.len()).expect("an entry is limited to 16 MiB");
    let mut header = [0; RECORD_HEADER_BYTES];
    header[4..8].copy_from_slice(&payload_len.to_le_bytes());
    header[8..12].copy_from_slice(&crc32c(payload).to_le_bytes());
    header[12..16].copy_from_slice(&place.chain.to_le_bytes());
    header[16..24].copy_from_slice(&place.synced_end.to_le_bytes());
    header[24] = kind.byte();
    let crc = header_crc(&header, place.seed, place.offset);
    header[0..4].copy_from_slice(&crc.to_le_bytes());
    buffer[start..start + RECORD_HEADER_BYTES].copy_from_slice(&header);
    buffer.resize(start + (buffer.len() - start).next_multiple_of(8), 0);
    crc
}

/// What stands at one offset of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// An intact record that continues the chain.
    Record(RecordHeader, &'a [u8]),
    /// Anything else: the end of the log, a torn write or damage.
    Nothing(&'static str),
}

/// Looks for a record of `segment` (the whole file) at `offset` that continues `chain`.
pub(super) fn record_at(segment: &[u8], seed: Seed, offset: u64, chain: u32) -> Found<'_> {
    let Some(bytes) = usize::try_from(offset)
        .ok()
        .and_then(|start| segment.get(start..))
    else {
        return Found::Nothing("the segment ends before this record");
    };
    let Some(header) = RecordHeader::decode(bytes, seed, offset) else {
        return Found::Nothing("no record header with a matching checksum");
    };
    if header.chain != chain {
        return Found::Nothing("the record does not continue the one before it");
    }
    let payload_end = RECORD_HEADER_BYTES + header.payload_len as usize;
    match bytes.get(RECORD_HEADER_BYTES..payload_end) {
        Some(payload) if crc32c(payload) == header.payload_crc => Found::Record(header, payload),
        Some(_) => Found::Nothing("the record's payload does not match its checksum"),
        None => Found::Nothing("the record is longer than the segment"),
    }
}

/// Whether a record behind `offset` proves that the bytes at `offset` had been synced.
pub(super) fn was_synced(segment: &[u8], seed: Seed, offset: u64) -> Option<u64> {
    let mut candidate = offset + 8;
    while let Some(bytes) = usize::try_from(candidate)
        .ok()
        .and_then(|start| segment.get(start..))
    {
        if bytes.len() < RECORD_HEADER_BYTES {
            return None;
        }
        if RecordHeader::decode(bytes, seed, candidate)
            .is_some_and(|header| header.synced_end > offset)
        {
            return Some(candidate);
        }
        candidate += 8;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed {
        salt: 0x5a17,
        generation: 3,
    };

    fn place(offset: u64, chain: u32, synced_end: u64) -> Place {
        Place {
            seed: SEED,
            offset,
            chain,
            synced_end,
        }
    }

    #[test]
    fn the_bytes_of_version_1_never_change() {
        let header = SegmentHeader {
            seed: SEED,
            previous_end: 0x1234_5678,
            previous_chain: 0x9abc_def0,
            capacity: 0x0400_0000,
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        let mut golden = Vec::new();
        golden.extend_from_slice(b"CAIRNLOG\x01\0\0\0\0\0\0\0");
        golden.extend_from_slice(b"\x03\0\0\0\0\0\0\0\x17\x5a\0\0\0\0\0\0");
        golden.extend_from_slice(b"\x78\x56\x34\x12\0\0\0\0\xf0\xde\xbc\x9a\0\0\0\0\0\0\0\x04");
        golden.resize(60, 0);
        assert_eq!(bytes[..60], golden[..]);
        let mut record = Vec::new();
        encode_record(&mut record, place(4096, 7, 4096), Kind::State, |buffer| {
            buffer.extend(b"abc")
        });
        assert_eq!(record.len(), 40);
        assert_eq!(record[4..8], 3u32.to_le_bytes());
        assert_eq!(record[12..16], 7u32.to_le_bytes());
        assert_eq!(record[16..24], 4096u64.to_le_bytes());
        assert_eq!(record[24..40], *b"\x02\0\0\0\0\0\0\0abc\0\0\0\0\0");
    }

    #[test]
    fn a_newer_segment_is_told_from_a_damaged_one() {
        let mut bytes = SegmentHeader {
            seed: SEED,
            previous_end: 0,
            previous_chain: 0,
            capacity: 0,
        }
        .encode();
        bytes[8] = 2;
        assert_eq!(SegmentHeader::decode(&bytes), Err(BadHeader::Damaged));
        let crc = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(BadHeader::Version(2)));
    }

    #[test]
    fn a_record_is_only_valid_in_its_place_its_generation_and_its_chain() {
        let mut segment = vec![0; 64];
        let crc = encode_record(&mut segment, place(64, 9, 64), Kind::Entry, |b| {
            b.extend([1; 30])
        });
        assert!(
            matches!(record_at(&segment, SEED, 64, 9), Found::Record(h, p) if h.crc == crc && p == [1; 30])
        );
        assert!(matches!(
            record_at(&segment, SEED, 64, 8),
            Found::Nothing(_)
        ));
        let other = Seed {
            generation: 4,
            ..SEED
        };
        assert!(matches!(
            record_at(&segment, other, 64, 9),
            Found::Nothing(_)
        ));
        let moved = segment[64..].to_vec();
        assert!(matches!(record_at(&moved, SEED, 0, 9), Found::Nothing(_)));
        for bit in 0..(32 + 30) * 8 {
            let mut flipped = segment.clone();
            flipped[64 + bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(record_at(&flipped, SEED, 64, 9), Found::Nothing(_)),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_later_batch_proves_that_earlier_bytes_were_synced_and_the_same_batch_does_not() {
        let mut segment = vec![0; 64];
        encode_record(&mut segment, place(64, 9, 64), Kind::Entry, |b| {
            b.extend([1; 30])
        });
        let second = segment.len() as u64;
        encode_record(&mut segment, place(second, 1, 64), Kind::Entry, |b| {
            b.extend([2; 30])
        });
        let third = segment.len() as u64;
        assert_eq!(was_synced(&segment, SEED, 64), None);
        encode_record(&mut segment, place(third, 2, third), Kind::Entry, |b| {
            b.extend([3; 30])
        });
        assert_eq!(was_synced(&segment, SEED, 64), Some(third));
        assert_eq!(was_synced(&segment, SEED, second), Some(third));
        assert_eq!(was_synced(&segment, SEED, third), None);
    }
}
