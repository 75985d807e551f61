//! Table `idle_chunk`: open chunks between two writers, by the replication that they were made with.

use cairn_protocol::ids::ChunkId;

use super::error::StoreError;
use super::key::{Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::txn::Txn;

/// `0x24, replication: u32, chunk: u64`
pub fn encode(replication: u32, chunk: ChunkId) -> Vec<u8> {
    prefix(replication).u64(chunk.0).finish()
}

fn prefix(replication: u32) -> Key {
    Key::new(KeyKind::IdleChunk).u32(replication)
}

/// The fields of a key.
pub fn decode(key: &[u8]) -> Result<(u32, ChunkId), StoreError> {
    let mut reader = KeyReader::new(KeyKind::IdleChunk, key)?;
    let replication = reader.u32()?;
    let chunk = ChunkId(reader.u64()?);
    reader.finish()?;
    Ok((replication, chunk))
}

/// Whether it is listed.
pub fn contains(
    reader: &(impl Read + ?Sized),
    replication: u32,
    chunk: ChunkId,
) -> Result<bool, StoreError> {
    Ok(reader.get(&encode(replication, chunk))?.is_some())
}

/// Lists one.
pub fn put(txn: &mut Txn<'_>, replication: u32, chunk: ChunkId) {
    txn.put(encode(replication, chunk), Vec::new());
}

/// Takes one off the list.
pub fn delete(txn: &mut Txn<'_>, replication: u32, chunk: ChunkId) {
    txn.delete(encode(replication, chunk));
}

/// Visits those of one replication from `start` on, in order, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    replication: u32,
    start: ChunkId,
    visit: &mut dyn FnMut(ChunkId) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(replication, start),
        prefix(replication),
        &mut |key, _| visit(decode(key)?.1),
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::ChunkId;

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(0x0102, ChunkId(0x0304));
        assert_eq!(key, [0x24, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4]);
        assert_eq!(decode(&key).unwrap(), (0x0102, ChunkId(0x0304)));
        assert!(decode(&key[..8]).is_err());
    }
}
