//! Table `replica`: which chunks a datanode holds by the committed state (its side of the chunk table).

use cairn_protocol::ids::{ChunkId, DatanodeId};

use super::error::StoreError;
use super::key::{Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::txn::Txn;

/// `0x22, datanode: u64, chunk: u64`
pub fn encode(datanode: DatanodeId, chunk: ChunkId) -> Vec<u8> {
    prefix(datanode).u64(chunk.0).finish()
}

fn prefix(datanode: DatanodeId) -> Key {
    Key::new(KeyKind::Replica).u64(datanode.0)
}

/// The fields of a key.
pub fn decode(key: &[u8]) -> Result<(DatanodeId, ChunkId), StoreError> {
    let mut reader = KeyReader::new(KeyKind::Replica, key)?;
    let datanode = DatanodeId(reader.u64()?);
    let chunk = ChunkId(reader.u64()?);
    reader.finish()?;
    Ok((datanode, chunk))
}

/// Whether it is listed.
pub fn contains(
    reader: &(impl Read + ?Sized),
    datanode: DatanodeId,
    chunk: ChunkId,
) -> Result<bool, StoreError> {
    Ok(reader.get(&encode(datanode, chunk))?.is_some())
}

/// Lists one.
pub fn put(txn: &mut Txn<'_>, datanode: DatanodeId, chunk: ChunkId) {
    txn.put(encode(datanode, chunk), Vec::new());
}

/// Takes one off the list.
pub fn delete(txn: &mut Txn<'_>, datanode: DatanodeId, chunk: ChunkId) {
    txn.delete(encode(datanode, chunk));
}

/// Visits those of one datanode from `start` on, in order, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    datanode: DatanodeId,
    start: ChunkId,
    visit: &mut dyn FnMut(ChunkId) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(datanode, start),
        prefix(datanode),
        &mut |key, _| visit(decode(key)?.1),
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::{ChunkId, DatanodeId};

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(DatanodeId(0x0102), ChunkId(0x0304));
        assert_eq!(key, [0x22, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4]);
        assert_eq!(decode(&key).unwrap(), (DatanodeId(0x0102), ChunkId(0x0304)));
        assert!(decode(&key[..8]).is_err());
    }
}
