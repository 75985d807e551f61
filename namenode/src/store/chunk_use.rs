//! Table `chunk_use`: which extents use which bytes of a chunk; the other side of the extents (I4).
//!
//! The owner of a use is the inode while the extent is inline, and the map once extents are in their table, so that a
//! map can be dropped without touching its uses.

use cairn_protocol::ids::{ChunkId, InodeId, MapId};

use super::error::StoreError;
use super::key::{Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::txn::Txn;

/// Top bit of the owner field: set for a map.
const MAP_BIT: u64 = 1 << 63;

/// Where the extent of a use is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UseOwner {
    /// Inline in this inode.
    Inode(InodeId),
    /// In the extent table under this map.
    Map(MapId),
}

impl UseOwner {
    fn encode(self) -> u64 {
        match self {
            Self::Inode(inode) => inode.0,
            Self::Map(map) => map.0 | MAP_BIT,
        }
    }

    fn decode(field: u64) -> Self {
        if field & MAP_BIT == 0 {
            Self::Inode(InodeId(field))
        } else {
            Self::Map(MapId(field & !MAP_BIT))
        }
    }
}

/// One use: `length` bytes from `offset_in_chunk` on are the owner's extent at `offset_in_file`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkUse {
    /// First byte in the chunk.
    pub offset_in_chunk: u64,
    /// Who uses it.
    pub owner: UseOwner,
    /// First byte in the owner's file.
    pub offset_in_file: u64,
    /// Bytes.
    pub length: u64,
}

impl ChunkUse {
    /// First byte after it in the chunk.
    pub fn end(&self) -> u64 {
        self.offset_in_chunk + self.length
    }
}

/// `0x21, chunk: u64, offset_in_chunk: u64, owner: u64 (top bit: a map), offset_in_file: u64`
pub fn encode(
    chunk: ChunkId,
    offset_in_chunk: u64,
    owner: UseOwner,
    offset_in_file: u64,
) -> Vec<u8> {
    prefix(chunk)
        .u64(offset_in_chunk)
        .u64(owner.encode())
        .u64(offset_in_file)
        .finish()
}

fn prefix(chunk: ChunkId) -> Key {
    Key::new(KeyKind::ChunkUse).u64(chunk.0)
}

/// A use from its key and value (the length, little-endian without trailing zeros).
pub fn decode_pair(key: &[u8], value: &[u8]) -> Result<(ChunkId, ChunkUse), StoreError> {
    let mut reader = KeyReader::new(KeyKind::ChunkUse, key)?;
    let chunk = ChunkId(reader.u64()?);
    let offset_in_chunk = reader.u64()?;
    let owner = UseOwner::decode(reader.u64()?);
    let offset_in_file = reader.u64()?;
    reader.finish()?;
    let length = decode_length(chunk, value)?;
    Ok((
        chunk,
        ChunkUse {
            offset_in_chunk,
            owner,
            offset_in_file,
            length,
        },
    ))
}

fn encode_length(length: u64) -> Vec<u8> {
    let used = 8 - length.leading_zeros() as usize / 8;
    length.to_le_bytes()[..used].to_vec()
}

fn decode_length(chunk: ChunkId, value: &[u8]) -> Result<u64, StoreError> {
    let mut bytes = [0; 8];
    match bytes.get_mut(..value.len()) {
        Some(used) => used.copy_from_slice(value),
        None => {
            return Err(StoreError::corrupt(
                format!("use of chunk {chunk}"),
                "too long",
            ));
        }
    }
    Ok(u64::from_le_bytes(bytes))
}

/// The use under the same key as `wanted`; its length may be another.
pub fn get(
    reader: &(impl Read + ?Sized),
    chunk: ChunkId,
    wanted: &ChunkUse,
) -> Result<Option<ChunkUse>, StoreError> {
    let ChunkUse {
        offset_in_chunk,
        owner,
        offset_in_file,
        ..
    } = *wanted;
    let value = reader.get(&encode(chunk, offset_in_chunk, owner, offset_in_file))?;
    value
        .map(|value| decode_length(chunk, &value).map(|length| ChunkUse { length, ..*wanted }))
        .transpose()
}

/// Writes one.
pub fn put(txn: &mut Txn<'_>, chunk: ChunkId, chunk_use: &ChunkUse) {
    let ChunkUse {
        offset_in_chunk,
        owner,
        offset_in_file,
        length,
    } = *chunk_use;
    txn.put(
        encode(chunk, offset_in_chunk, owner, offset_in_file),
        encode_length(length),
    );
}

/// Removes one.
pub fn delete(txn: &mut Txn<'_>, chunk: ChunkId, chunk_use: &ChunkUse) {
    let ChunkUse {
        offset_in_chunk,
        owner,
        offset_in_file,
        ..
    } = *chunk_use;
    txn.delete(encode(chunk, offset_in_chunk, owner, offset_in_file));
}

/// Visits the uses that begin at or after `start` in the chunk, in order, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    chunk: ChunkId,
    start: u64,
    visit: &mut dyn FnMut(ChunkUse) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let start = prefix(chunk).u64(start).finish();
    scan_prefix(reader, start, prefix(chunk), &mut |key, value| {
        visit(decode_pair(key, value)?.1)
    })
}

#[cfg(test)]
mod tests {
    use super::{ChunkUse, UseOwner, decode_length, decode_pair, encode, encode_length};
    use cairn_protocol::ids::{ChunkId, InodeId, MapId};

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(ChunkId(1), 2, UseOwner::Inode(InodeId(3)), 4);
        let fields = |owner: [u8; 8]| {
            let mut key = vec![0x21, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
            key.extend(owner);
            key.extend([0, 0, 0, 0, 0, 0, 0, 4]);
            key
        };
        assert_eq!(key, fields([0, 0, 0, 0, 0, 0, 0, 3]));
        let key = encode(ChunkId(1), 2, UseOwner::Map(MapId(3)), 4);
        assert_eq!(key, fields([0x80, 0, 0, 0, 0, 0, 0, 3]));
        let owner = UseOwner::Map(MapId(3));
        let chunk_use = ChunkUse {
            offset_in_chunk: 2,
            owner,
            offset_in_file: 4,
            length: 5,
        };
        assert_eq!(decode_pair(&key, &[5]).unwrap(), (ChunkId(1), chunk_use));
        assert!(decode_pair(&key[..32], &[5]).is_err());
    }

    #[test]
    fn lengths_take_the_bytes_that_they_need() {
        for length in [1, 255, 256, 65_535, 65_536, 128 << 20, u64::MAX] {
            let value = encode_length(length);
            assert_eq!(decode_length(ChunkId(1), &value).unwrap(), length);
        }
        assert_eq!(encode_length(4096), [0, 16]);
        assert!(decode_length(ChunkId(1), &[0; 9]).is_err());
    }
}
