//! Checks of single locks: of a file and a session that exist, listed by the session, against no other lock (I10).

use super::Page;
use crate::namespace::inode;
use crate::namespace::locks::{Locks, Range, Wish};
use crate::store::lock::LockKey;
use crate::store::records::LockRecord;
use crate::store::{self, KeyKind, Read, StoreError};

/// True if the key is of one of these tables.
pub(super) fn check(
    read: &impl Read,
    key: &[u8],
    value: &[u8],
    page: &mut Page,
) -> Result<bool, StoreError> {
    if key[0] == KeyKind::Lock as u8 {
        let (lock, record) = store::lock::decode_pair(key, value)?;
        check_lock(read, &lock, &record, page)?;
    } else if key[0] == KeyKind::SessionLock as u8 {
        let lock = store::session_lock::decode(key)?;
        if store::lock::get(read, &lock)?.is_none() {
            page.problem("I10", format!("{lock:?} is listed and does not exist"));
        }
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn check_lock(
    read: &impl Read,
    lock: &LockKey,
    record: &LockRecord,
    page: &mut Page,
) -> Result<(), StoreError> {
    let file = store::inode::get(read, lock.inode)?;
    if !file.is_some_and(|file| inode::is_file(&file)) {
        page.problem("I10", format!("{lock:?} is on no file"));
    }
    if store::session::get(read, lock.owner.session)?.is_none() {
        page.problem("I10", format!("{lock:?} is of no session"));
    }
    if !store::session_lock::contains(read, lock)? {
        page.problem("I10", format!("{lock:?} is not listed by its session"));
    }
    let wish = Wish {
        inode: lock.inode,
        space: lock.space,
        owner: lock.owner,
        range: Range {
            start: lock.start,
            end: record.end,
            mode: record.mode(),
            pid: 0,
        },
    };
    let locks = Locks::load(read, lock.inode, lock.space)?;
    // Each pair is found once, by the later of the two.
    if let Some((other, _)) = locks.conflicts(&wish).find(|(other, _)| other < lock) {
        page.problem("I10", format!("{lock:?} conflicts with {other:?}"));
    }
    if locks.overlaps_itself(&wish) {
        page.problem("I10", format!("{lock:?} overlaps another of its owner"));
    }
    Ok(())
}
