//! Table `claim`: the unlinked inodes that a session has open.

use cairn_protocol::ids::{InodeId, SessionId};

use super::error::StoreError;
use super::key::{Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::txn::Txn;

/// `0x43, session: u64, inode: u64`
pub fn encode(session: SessionId, inode: InodeId) -> Vec<u8> {
    prefix(session).u64(inode.0).finish()
}

fn prefix(session: SessionId) -> Key {
    Key::new(KeyKind::Claim).u64(session.0)
}

/// The fields of a key.
pub fn decode(key: &[u8]) -> Result<(SessionId, InodeId), StoreError> {
    let mut reader = KeyReader::new(KeyKind::Claim, key)?;
    let session = SessionId(reader.u64()?);
    let inode = InodeId(reader.u64()?);
    reader.finish()?;
    Ok((session, inode))
}

/// Whether it is listed.
pub fn contains(
    reader: &(impl Read + ?Sized),
    session: SessionId,
    inode: InodeId,
) -> Result<bool, StoreError> {
    Ok(reader.get(&encode(session, inode))?.is_some())
}

/// Lists one.
pub fn put(txn: &mut Txn<'_>, session: SessionId, inode: InodeId) {
    txn.put(encode(session, inode), Vec::new());
}

/// Takes one off the list.
pub fn delete(txn: &mut Txn<'_>, session: SessionId, inode: InodeId) {
    txn.delete(encode(session, inode));
}

/// Visits those of one session from `start` on, in order, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    session: SessionId,
    start: InodeId,
    visit: &mut dyn FnMut(InodeId) -> Result<bool, StoreError>,
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
    use cairn_protocol::ids::{InodeId, SessionId};

    #[test]
    fn the_key_is_as_documented() {
        let key = encode(SessionId(0x0102), InodeId(0x0304));
        assert_eq!(key, [0x43, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4]);
        assert_eq!(decode(&key).unwrap(), (SessionId(0x0102), InodeId(0x0304)));
        assert!(decode(&key[..8]).is_err());
    }
}
