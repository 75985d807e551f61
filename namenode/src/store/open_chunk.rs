//! Table `open_chunk`: the chunks that a session writes to.

use cairn_protocol::ids::{ChunkId, SessionId};

use super::error::StoreError;
use super::key::{Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::txn::Txn;

/// `0x25, session: u64, chunk: u64`
pub fn encode(session: SessionId, chunk: ChunkId) -> Vec<u8> {
    prefix(session).u64(chunk.0).finish()
}

fn prefix(session: SessionId) -> Key {
    Key::new(KeyKind::OpenChunk).u64(session.0)
}

/// The fields of a key.
pub fn decode(key: &[u8]) -> Result<(SessionId, ChunkId), StoreError> {
    let mut reader = KeyReader::new(KeyKind::OpenChunk, key)?;
    let session = SessionId(reader.u64()?);
    let chunk = ChunkId(reader.u64()?);
    reader.finish()?;
    Ok((session, chunk))
}

/// Whether it is listed.
pub fn contains(
    reader: &(impl Read + ?Sized),
    session: SessionId,
    chunk: ChunkId,
) -> Result<bool, StoreError> {
    Ok(reader.get(&encode(session, chunk))?.is_some())
}

/// Lists one.
pub fn put(txn: &mut Txn<'_>, session: SessionId, chunk: ChunkId) {
    txn.put(encode(session, chunk), Vec::new());
}

/// Takes one off the list.
pub fn delete(txn: &mut Txn<'_>, session: SessionId, chunk: ChunkId) {
    txn.delete(encode(session, chunk));
}

/// Visits those of one session from `start` on, in order, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    session: SessionId,
    start: ChunkId,
    visit: &mut dyn FnMut(ChunkId) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_prefix(
        reader,
        encode(session, start),
        prefix(session),
        &mut |key, _| visit(decode(key)?.1),
    )
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use cairn_protocol::ids::{ChunkId, SessionId};

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(SessionId(0x0102), ChunkId(0x0304));
        assert_eq!(key, [0x25, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4]);
        assert_eq!(decode(&key).unwrap(), (SessionId(0x0102), ChunkId(0x0304)));
        assert!(decode(&key[..8]).is_err());
    }
}
