//! Replay of a `.sum` file: from bytes to the state of a replica. Pure: decides nothing about what to cut.

use cairn_protocol::ids::{ChunkId, Epoch};

use super::index::BlockIndex;
use super::record::{self, HEADER_LEN, Header, HeaderError, Origin, Record, SEAL_LEN, SLOT, Seal};

/// A `.sum` file is refused beyond this length: 128 MiB in the smallest sensible blocks and room to spare.
pub(super) const SUM_BYTES_MAX: u64 = 256 << 20;

/// Bytes that a seal and the word that it is synced take at the end of a file.
pub(super) const TAIL_LEN: usize = SEAL_LEN + SLOT;

/// What the valid records of a file say, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replayed {
    pub header: Header,
    /// The highest epoch of any valid record, also of those in a torn tail: fencing never goes back.
    pub epoch: Epoch,
    pub synced_length: u64,
    pub index: BlockIndex,
    pub seal: Option<Seal>,
    /// The seal, and everything before it, is known to be durable.
    pub seal_synced: bool,
    /// Where the last valid record ends; whatever follows is garbage.
    pub end: u64,
}

/// Replays a whole file.
pub(super) fn replay(chunk: ChunkId, bytes: &[u8]) -> Result<Replayed, HeaderError> {
    let header = record::decode_header(chunk, bytes)?;
    let mut replayed = replay_records(
        Origin {
            chunk,
            incarnation: header.incarnation,
        },
        bytes,
    );
    replayed.header = header;
    replayed.epoch = replayed.epoch.max(header.epoch);
    Ok(replayed)
}

/// Replays the records of a replica whose incarnation is known, so that a damaged header costs nothing.
pub(super) fn replay_records(origin: Origin, bytes: &[u8]) -> Replayed {
    let mut replayed = Replayed {
        header: unknown_header(origin),
        epoch: Epoch(0),
        synced_length: 0,
        index: BlockIndex::default(),
        seal: None,
        seal_synced: false,
        end: HEADER_LEN as u64,
    };
    let mut position = HEADER_LEN;
    while position + SLOT <= bytes.len() {
        match record::decode(origin, position as u64, &bytes[position..]) {
            Some((record, length)) => {
                replayed.apply(record);
                position += length;
                replayed.end = position as u64;
            }
            // Records are looked for in every slot, so that one bad one does not hide those behind it.
            None => position += SLOT,
        }
    }
    // Records below the synced length were written before it; where they end early, they are gone.
    let promised = replayed
        .seal
        .map_or(replayed.synced_length, |seal| seal.length);
    replayed.index.push_hole_to(promised);
    replayed
}

fn unknown_header(origin: Origin) -> Header {
    Header {
        chunk: origin.chunk,
        incarnation: origin.incarnation,
        epoch: Epoch(0),
        copy: false,
    }
}

impl Replayed {
    fn apply(&mut self, record: Record) {
        if self.seal.is_some() {
            // Nothing is written after a seal but the word that it is synced.
            self.seal_synced |= record == Record::SealSynced;
            return;
        }
        match record {
            Record::Block(block) => self.index.push(block),
            Record::Epoch(epoch) => self.epoch = self.epoch.max(epoch),
            Record::Synced(length) => {
                self.synced_length = self.synced_length.max(length);
                // The records up to here were written before this one: what is missing now is a hole, even if a later
                // record starts further on.
                self.index.push_hole_to(length);
            }
            Record::Cut(length) => self.index.truncate(length),
            Record::Seal(seal) => {
                self.epoch = self.epoch.max(seal.epoch);
                self.index.seal(seal.length, seal.shortened);
                self.seal = Some(seal);
            }
            Record::SealSynced => {}
        }
    }
}

/// What the last bytes of a file tell, without reading the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SealedTail {
    pub seal: Seal,
    pub synced: bool,
}

/// The seal at the end of a file of `length` bytes, given its last `TAIL_LEN` bytes (or all of them, if it has fewer).
/// All that start-up reads of a sealed replica.
pub(super) fn seal_at_end(chunk: ChunkId, length: u64, tail: &[u8]) -> Option<SealedTail> {
    let seal_at = |from_end: usize| {
        let start = tail.len().checked_sub(from_end)?;
        let position = length.checked_sub(from_end as u64)?;
        record::decode_seal(chunk, position, &tail[start..])
    };
    if let Some(seal) = seal_at(TAIL_LEN) {
        let origin = Origin {
            chunk,
            incarnation: seal.incarnation,
        };
        let last = record::decode(origin, length - SLOT as u64, &tail[tail.len() - SLOT..]);
        return (last == Some((Record::SealSynced, SLOT)))
            .then_some(SealedTail { seal, synced: true });
    }
    seal_at(SEAL_LEN).map(|seal| SealedTail {
        seal,
        synced: false,
    })
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "one range of bytes is meant"
)]
mod tests {
    use cairn_protocol::ids::Incarnation;
    use proptest::prelude::proptest;

    use super::super::BlockChecksum;
    use super::*;

    const CHUNK: ChunkId = ChunkId(3);
    const INCARNATION: Incarnation = Incarnation(5);

    fn file(records: &[Record]) -> Vec<u8> {
        let header = Header {
            chunk: CHUNK,
            incarnation: INCARNATION,
            epoch: Epoch(1),
            copy: false,
        };
        let mut bytes = record::encode_header(&header).to_vec();
        for record in records {
            let position = bytes.len() as u64;
            record::encode(
                &mut bytes,
                Origin {
                    chunk: CHUNK,
                    incarnation: INCARNATION,
                },
                position,
                record,
            );
        }
        bytes
    }

    fn block(offset: u64, length: u32) -> Record {
        Record::Block(BlockChecksum {
            offset,
            length,
            crc32c: 1,
        })
    }

    #[test]
    fn a_damaged_record_below_the_synced_length_is_a_hole() {
        let mut bytes = file(&[
            block(0, 10),
            block(10, 10),
            block(20, 10),
            Record::Synced(30),
            block(30, 10),
        ]);
        bytes[HEADER_LEN + SLOT + 9] ^= 4;
        let replayed = replay(CHUNK, &bytes).unwrap();
        assert_eq!(replayed.index.holes(), [10..20]);
        assert_eq!((replayed.index.length(), replayed.synced_length), (40, 30));
        assert_eq!(replayed.end, bytes.len() as u64);
    }

    #[test]
    fn epochs_in_a_torn_tail_still_fence() {
        let mut bytes = file(&[
            block(0, 10),
            block(10, 10),
            Record::Epoch(Epoch(4)),
            block(20, 10),
        ]);
        bytes[HEADER_LEN + SLOT] = 0;
        bytes.extend_from_slice(&[0; 40]);
        let replayed = replay(CHUNK, &bytes).unwrap();
        assert_eq!(replayed.epoch, Epoch(4));
        assert_eq!(replayed.end, bytes.len() as u64 - 40);
    }

    #[test]
    fn a_cut_voids_what_was_above_it() {
        let records = [
            block(0, 10),
            block(10, 10),
            block(20, 10),
            Record::Cut(10),
            block(10, 7),
        ];
        let replayed = replay(CHUNK, &file(&records)).unwrap();
        assert_eq!(replayed.index.length(), 17);
        assert!(replayed.index.holes().is_empty());
    }

    #[test]
    fn the_tail_alone_tells_a_sealed_replica() {
        let seal = Seal {
            epoch: Epoch(2),
            incarnation: INCARNATION,
            length: 10,
            shortened: None,
        };
        let mut records = vec![block(0, 10), block(10, 10), Record::Seal(seal)];
        for synced in [false, true] {
            let bytes = file(&records);
            let length = bytes.len() as u64;
            let tail = &bytes[bytes.len() - TAIL_LEN..];
            assert_eq!(
                seal_at_end(CHUNK, length, tail),
                Some(SealedTail { seal, synced })
            );
            assert_eq!(seal_at_end(ChunkId(4), length, tail), None);
            let replayed = replay(CHUNK, &bytes).unwrap();
            assert_eq!((replayed.seal, replayed.seal_synced), (Some(seal), synced));
            assert_eq!(replayed.index.length(), 10);
            records.push(Record::SealSynced);
        }
        let mut torn = file(&records[..4]);
        torn.truncate(torn.len() - 3);
        let tail = &torn[torn.len() - TAIL_LEN..];
        assert_eq!(seal_at_end(CHUNK, torn.len() as u64, tail), None);
        assert_eq!(replay(CHUNK, &torn).unwrap().seal, Some(seal));
    }

    proptest! {
        #[test]
        fn any_bytes_replay_without_panic(tail: Vec<u8>) {
            let mut bytes = file(&[]);
            bytes.extend_from_slice(&tail);
            let _ = replay(CHUNK, &bytes);
        }
    }
}
