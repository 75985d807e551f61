//! Table `chunk`: state and replica set of every chunk.

use cairn_protocol::ids::ChunkId;
use prost::Message;

use super::error::StoreError;
use super::key::{self, Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::records::ChunkRecord;
use super::txn::Txn;

/// `0x20, chunk: u64`
pub fn encode(chunk: ChunkId) -> Vec<u8> {
    Key::new(KeyKind::Chunk).u64(chunk.0).finish()
}

/// The id in a key.
pub fn decode(key: &[u8]) -> Result<ChunkId, StoreError> {
    let mut reader = KeyReader::new(KeyKind::Chunk, key)?;
    let id = ChunkId(reader.u64()?);
    reader.finish()?;
    Ok(id)
}

/// Reads one.
pub fn get(
    reader: &(impl Read + ?Sized),
    chunk: ChunkId,
) -> Result<Option<ChunkRecord>, StoreError> {
    key::get_record(reader, &encode(chunk), || format!("chunk {chunk}"))
}

/// Writes one.
pub fn put(txn: &mut Txn<'_>, chunk: ChunkId, record: &ChunkRecord) {
    txn.put(encode(chunk), record.encode_to_vec());
}

/// Removes one.
pub fn delete(txn: &mut Txn<'_>, chunk: ChunkId) {
    txn.delete(encode(chunk));
}

/// Visits those from `start` on, in order of ids, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    start: ChunkId,
    visit: &mut dyn FnMut(ChunkId, ChunkRecord) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(start),
        Key::new(KeyKind::Chunk),
        &mut |key, value| {
            let id = decode(key)?;
            visit(id, key::decode_record(value, || format!("chunk {id}"))?)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::ChunkId;

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(ChunkId(0x0102));
        assert_eq!(key, [0x20, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode(&key).unwrap(), ChunkId(0x0102));
        assert!(decode(&key[..8]).is_err());
    }
}
