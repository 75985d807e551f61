//! Who holds locks on a file: what would forbid one, or all of them.

use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::lock::{
    ListLocks, LockListing, LockMode, LockSpace, LockTest, TestLock,
};

use crate::namespace::error::OpError;
use crate::namespace::locks::{self, Locks};
use crate::namespace::path;
use crate::store::{self, Read};

/// Locks that one listing holds.
const LISTED_MAX: usize = 1000;

/// The first lock that forbids the one that is wished for.
pub(super) fn test(
    read: &impl Read,
    caller: &Caller,
    query: &TestLock,
) -> Result<LockTest, OpError> {
    let wish = locks::wish(query.session.into(), &query.lock)?;
    let mut asked = wish;
    // Whoever may use the file in some way may ask.
    asked.range.mode = LockMode::Unlocked;
    let record = store::inode::get(read, wish.inode)?;
    locks::check_may_lock(caller, &asked, record.as_ref())?;
    let conflict = Locks::load(read, wish.inode, wish.space)?.first_conflict(&wish);
    Ok(LockTest { conflict })
}

/// All locks, with the names of their clients.
pub(super) fn list(
    read: &impl Read,
    caller: &Caller,
    query: &ListLocks,
) -> Result<LockListing, OpError> {
    let node = path::resolve(read, caller, &query.location, true)?;
    let mut listed = Vec::new();
    for space in [LockSpace::Posix, LockSpace::Flock] {
        listed.extend(Locks::load(read, node.id, space)?.holders());
    }
    let more = listed.len() > LISTED_MAX;
    listed.truncate(LISTED_MAX);
    for holder in &mut listed {
        let session = store::session::get(read, holder.session.into())?;
        holder.client_name = session.map_or_else(String::new, |session| session.client_name);
    }
    Ok(LockListing {
        locks: listed,
        more,
    })
}
