//! Table `session_lock`: the locks that a session holds, so that its end finds them. Kept by `lock`.

use cairn_protocol::ids::{InodeId, SessionId};

use super::error::StoreError;
use super::key::{Key, KeyKind, KeyReader};
use super::lock::{LockKey, LockOwner, decode_space};
use super::read::{Read, scan_prefix};
use super::txn::Txn;

/// `0x61, session: u64, inode: u64, space: u8, start: u64, owner: u64`
pub fn encode(lock: &LockKey) -> Vec<u8> {
    prefix(lock.owner.session)
        .u64(lock.inode.0)
        .u8(lock.space as u8)
        .u64(lock.start)
        .u64(lock.owner.owner)
        .finish()
}

fn prefix(session: SessionId) -> Key {
    Key::new(KeyKind::SessionLock).u64(session.0)
}

/// The fields of a key.
pub fn decode(key: &[u8]) -> Result<LockKey, StoreError> {
    let mut reader = KeyReader::new(KeyKind::SessionLock, key)?;
    let session = SessionId(reader.u64()?);
    let inode = InodeId(reader.u64()?);
    let space = decode_space(reader.u8()?)?;
    let start = reader.u64()?;
    let owner = reader.u64()?;
    reader.finish()?;
    let owner = LockOwner { session, owner };
    Ok(LockKey {
        inode,
        space,
        start,
        owner,
    })
}

/// Whether it is listed.
pub fn contains(reader: &(impl Read + ?Sized), lock: &LockKey) -> Result<bool, StoreError> {
    Ok(reader.get(&encode(lock))?.is_some())
}

/// Lists one.
pub(super) fn put(txn: &mut Txn<'_>, lock: &LockKey) {
    txn.put(encode(lock), Vec::new());
}

/// Takes one off the list.
pub(super) fn delete(txn: &mut Txn<'_>, lock: &LockKey) {
    txn.delete(encode(lock));
}

/// Visits those of one session, in order, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    session: SessionId,
    visit: &mut dyn FnMut(LockKey) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let start = prefix(session).finish();
    scan_prefix(reader, start, prefix(session), &mut |key, _| {
        visit(decode(key)?)
    })
}

#[cfg(test)]
mod tests {
    use super::{LockKey, LockOwner, decode, encode};
    use cairn_protocol::ids::{InodeId, SessionId};
    use cairn_protocol::messages::lock::LockSpace;

    #[test]
    fn the_key_is_as_documented() {
        let lock = LockKey {
            inode: InodeId(0x0102),
            space: LockSpace::Flock,
            start: 0x0304,
            owner: LockOwner {
                session: SessionId(0x0506),
                owner: 0x0708,
            },
        };
        let key = encode(&lock);
        let mut expected = vec![0x61, 0, 0, 0, 0, 0, 0, 5, 6];
        expected.extend([0, 0, 0, 0, 0, 0, 1, 2, 1]);
        expected.extend([0, 0, 0, 0, 0, 0, 3, 4]);
        expected.extend([0, 0, 0, 0, 0, 0, 7, 8]);
        assert_eq!(key, expected);
        assert_eq!(decode(&key).unwrap(), lock);
        assert!(decode(&key[..12]).is_err());
    }
}
