//! Table `dead_chunk`: sealed chunks without live bytes, waiting for their grace to end.

use cairn_protocol::ids::ChunkId;

use super::error::StoreError;
use super::key::{Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::txn::Txn;

/// `0x23, chunk: u64`
pub fn encode(chunk: ChunkId) -> Vec<u8> {
    Key::new(KeyKind::DeadChunk).u64(chunk.0).finish()
}

/// The id in a key.
pub fn decode(key: &[u8]) -> Result<ChunkId, StoreError> {
    let mut reader = KeyReader::new(KeyKind::DeadChunk, key)?;
    let id = ChunkId(reader.u64()?);
    reader.finish()?;
    Ok(id)
}

/// Whether it is listed.
pub fn contains(reader: &(impl Read + ?Sized), chunk: ChunkId) -> Result<bool, StoreError> {
    Ok(reader.get(&encode(chunk))?.is_some())
}

/// Lists one.
pub fn put(txn: &mut Txn<'_>, chunk: ChunkId) {
    txn.put(encode(chunk), Vec::new());
}

/// Takes one off the list.
pub fn delete(txn: &mut Txn<'_>, chunk: ChunkId) {
    txn.delete(encode(chunk));
}

/// Visits those from `start` on, in order of ids, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    start: ChunkId,
    visit: &mut dyn FnMut(ChunkId) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(start),
        Key::new(KeyKind::DeadChunk),
        &mut |key, _| visit(decode(key)?),
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::ChunkId;

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(ChunkId(0x0102));
        assert_eq!(key, [0x23, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode(&key).unwrap(), ChunkId(0x0102));
        assert!(decode(&key[..8]).is_err());
    }
}
