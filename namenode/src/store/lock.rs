//! Table `lock`: who holds which range of which file. `session_lock` lists the same locks by session.

use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::messages::lock::{LockMode, LockSpace};
use prost::Message;

use super::error::StoreError;
use super::key::{self, Key, KeyKind, KeyReader};
use super::read::{Read, scan_prefix};
use super::records::LockRecord;
use super::session_lock;
use super::txn::Txn;

/// Who holds a lock: owners of different sessions are different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockOwner {
    /// The session.
    pub session: SessionId,
    /// Whatever the client calls it.
    pub owner: u64,
}

/// Where a lock is. One owner's locks do not overlap, so that this names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockKey {
    /// File.
    pub inode: InodeId,
    /// Space.
    pub space: LockSpace,
    /// First byte.
    pub start: u64,
    /// Whose.
    pub owner: LockOwner,
}

/// `0x60, inode: u64, space: u8, start: u64, session: u64, owner: u64`
pub fn encode(lock: &LockKey) -> Vec<u8> {
    prefix(lock.inode, lock.space)
        .u64(lock.start)
        .u64(lock.owner.session.0)
        .u64(lock.owner.owner)
        .finish()
}

fn prefix(inode: InodeId, space: LockSpace) -> Key {
    Key::new(KeyKind::Lock).u64(inode.0).u8(space as u8)
}

/// The fields of a key.
pub fn decode(key: &[u8]) -> Result<LockKey, StoreError> {
    let mut reader = KeyReader::new(KeyKind::Lock, key)?;
    let inode = InodeId(reader.u64()?);
    let space = decode_space(reader.u8()?)?;
    let start = reader.u64()?;
    let session = SessionId(reader.u64()?);
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

/// The space in a key.
pub(super) fn decode_space(number: u8) -> Result<LockSpace, StoreError> {
    LockSpace::try_from(i32::from(number))
        .map_err(|_| StoreError::corrupt("key of a lock".to_owned(), "unknown space"))
}

/// Reads one.
pub fn get(
    reader: &(impl Read + ?Sized),
    lock: &LockKey,
) -> Result<Option<LockRecord>, StoreError> {
    key::get_record(reader, &encode(lock), || format!("lock {lock:?}"))
}

/// Writes one, here and in the list of its session.
pub fn put(txn: &mut Txn<'_>, lock: &LockKey, record: &LockRecord) {
    session_lock::put(txn, lock);
    txn.put(encode(lock), record.encode_to_vec());
}

/// Removes one, here and from the list of its session.
pub fn delete(txn: &mut Txn<'_>, lock: &LockKey) {
    session_lock::delete(txn, lock);
    txn.delete(encode(lock));
}

/// Is called with each lock until it returns false.
pub type VisitLock<'v> = dyn FnMut(LockKey, LockRecord) -> Result<bool, StoreError> + 'v;

/// Visits all of a file until `visit` returns false.
pub fn scan_file(
    reader: &(impl Read + ?Sized),
    inode: InodeId,
    visit: &mut VisitLock<'_>,
) -> Result<(), StoreError> {
    let prefix = || Key::new(KeyKind::Lock).u64(inode.0);
    scan_prefix(reader, prefix().finish(), prefix(), &mut |key, value| {
        let (lock, record) = decode_pair(key, value)?;
        visit(lock, record)
    })
}

/// Visits those of one space of a file in order of their first bytes, until `visit` returns false.
pub fn scan(
    reader: &(impl Read + ?Sized),
    inode: InodeId,
    space: LockSpace,
    visit: &mut VisitLock<'_>,
) -> Result<(), StoreError> {
    let start = prefix(inode, space).finish();
    scan_prefix(reader, start, prefix(inode, space), &mut |key, value| {
        let (lock, record) = decode_pair(key, value)?;
        visit(lock, record)
    })
}

/// A key and its value.
pub fn decode_pair(key: &[u8], value: &[u8]) -> Result<(LockKey, LockRecord), StoreError> {
    let lock = decode(key)?;
    let record: LockRecord = key::decode_record(value, || format!("lock {lock:?}"))?;
    let mode = LockMode::try_from(record.mode);
    if !matches!(mode, Ok(LockMode::Read | LockMode::Write)) || record.end < lock.start {
        return Err(StoreError::corrupt(
            format!("lock {lock:?}"),
            "mode or range makes no sense",
        ));
    }
    Ok((lock, record))
}

#[cfg(test)]
mod tests {
    use super::{LockKey, LockOwner, decode, encode};
    use cairn_protocol::ids::{InodeId, SessionId};
    use cairn_protocol::messages::lock::LockSpace;
    use proptest::prelude::{any, proptest};

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
        let mut expected = vec![0x60, 0, 0, 0, 0, 0, 0, 1, 2, 1];
        expected.extend([0, 0, 0, 0, 0, 0, 3, 4]);
        expected.extend([0, 0, 0, 0, 0, 0, 5, 6]);
        expected.extend([0, 0, 0, 0, 0, 0, 7, 8]);
        assert_eq!(key, expected);
        assert_eq!(decode(&key).unwrap(), lock);
        assert!(decode(&key[..12]).is_err());
        let mut unknown = key;
        unknown[9] = 2;
        assert!(decode(&unknown).is_err(), "an unknown space");
    }

    proptest! {
        #[test]
        fn keys_are_in_the_order_of_their_fields(
            a in any::<(u64, bool, u64, u64, u64)>(), b in any::<(u64, bool, u64, u64, u64)>(),
        ) {
            let lock = |(inode, flock, start, session, owner): (u64, bool, u64, u64, u64)| LockKey {
                inode: InodeId(inode),
                space: if flock { LockSpace::Flock } else { LockSpace::Posix },
                start,
                owner: LockOwner { session: SessionId(session), owner },
            };
            let (a, b) = (lock(a), lock(b));
            assert_eq!(a.cmp(&b), encode(&a).cmp(&encode(&b)));
            assert_eq!(decode(&encode(&a)).unwrap(), a);
        }
    }
}
