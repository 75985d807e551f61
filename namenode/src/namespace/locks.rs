//! Advisory locks: which ranges an owner holds after a change, what forbids a wish, and the table behind both (I10).
//!
//! As in Linux, an owner never conflicts with itself: what it asks for replaces what it held there, byte by byte, in one step.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::messages::common::{Caller, Location};
use cairn_protocol::messages::lock::{
    LockHolder, LockMode, LockOutcome, LockPiece, LockSpace, SetLock,
};

use super::error::OpError;
use super::permission::{READ, WRITE};
use super::{inode, path};
use crate::store::lock::{LockKey, LockOwner};
use crate::store::records::{InodeRecord, LockRecord};
use crate::store::{self, Read, StoreError, Txn};

/// Most locks in one space of a file: each change looks at all of them.
pub(super) const LOCKS_PER_FILE_MAX: usize = 2048;

/// Most locks of one session.
pub(super) const LOCKS_PER_SESSION_MAX: u64 = 65_536;

/// A range in a mode, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// How it is held, or is to be.
    pub mode: LockMode,
    /// Process, for people.
    pub pid: u32,
}

impl Range {
    fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Whether two owners may not have these at a time.
    fn conflicts(&self, other: &Self) -> bool {
        self.overlaps(other) && (self.mode == LockMode::Write || other.mode == LockMode::Write)
    }
}

/// A checked wish for a lock, or for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// File.
    pub inode: InodeId,
    /// Space.
    pub space: LockSpace,
    /// Whose.
    pub owner: LockOwner,
    /// What.
    pub range: Range,
}

impl Wish {
    /// Whether two wishes cannot both come true.
    pub fn conflicts(&self, other: &Self) -> bool {
        let meet = (self.inode, self.space) == (other.inode, other.space);
        meet && self.owner != other.owner && self.range.conflicts(&other.range)
    }
}

/// Takes a message apart.
pub fn wish(session: SessionId, message: &SetLock) -> Result<Wish, OpError> {
    let wrong = |what: &str| OpError::new(ErrorCode::InvalidArgument, what);
    let space = LockSpace::try_from(message.space).map_err(|_| wrong("unknown lock space"))?;
    let mode = LockMode::try_from(message.mode).map_err(|_| wrong("unknown lock mode"))?;
    if message.start > message.end {
        return Err(wrong("a lock ends before it starts"));
    }
    let (start, end) = match space {
        LockSpace::Posix => (message.start, message.end),
        LockSpace::Flock => (0, u64::MAX),
    };
    Ok(Wish {
        inode: InodeId(message.inode),
        space,
        owner: LockOwner {
            session,
            owner: message.owner,
        },
        range: Range {
            start,
            end,
            mode,
            pid: message.pid,
        },
    })
}

/// All locks in one space of a file, in order of their first bytes.
#[derive(Debug, Default)]
pub struct Locks(Vec<(LockKey, Range)>);

impl Locks {
    /// Reads them.
    pub fn load(
        read: &(impl Read + ?Sized),
        inode: InodeId,
        space: LockSpace,
    ) -> Result<Self, StoreError> {
        let mut locks = Vec::new();
        store::lock::scan(read, inode, space, &mut |key, record| {
            locks.push((key, range(&key, &record)));
            Ok(true)
        })?;
        Ok(Self(locks))
    }

    /// Those that forbid a wish, in order.
    pub fn conflicts<'a>(&'a self, wish: &'a Wish) -> impl Iterator<Item = &'a (LockKey, Range)> {
        self.0.iter().filter(move |(key, range)| {
            wish.range.mode != LockMode::Unlocked
                && key.owner != wish.owner
                && range.conflicts(&wish.range)
        })
    }

    /// The first that forbids a wish.
    pub fn first_conflict(&self, wish: &Wish) -> Option<LockHolder> {
        self.conflicts(wish).next().map(holder)
    }

    /// All of them, for people.
    pub(super) fn holders(&self) -> impl Iterator<Item = LockHolder> {
        self.0.iter().map(holder)
    }

    /// Whether the owner of a lock holds another one that overlaps it.
    pub(super) fn overlaps_itself(&self, lock: &Wish) -> bool {
        let own = self.0.iter().filter(|(key, _)| key.owner == lock.owner);
        own.filter(|(_, range)| range.overlaps(&lock.range)).count() > 1
    }

    fn of(&self, owner: LockOwner) -> Vec<Range> {
        let own = self.0.iter().filter(|(key, _)| key.owner == owner);
        own.map(|(_, range)| *range).collect()
    }
}

fn range(key: &LockKey, record: &LockRecord) -> Range {
    Range {
        start: key.start,
        end: record.end,
        mode: record.mode(),
        pid: record.pid,
    }
}

fn holder((key, range): &(LockKey, Range)) -> LockHolder {
    LockHolder {
        session: key.owner.session.0,
        owner: key.owner.owner,
        pid: range.pid,
        space: key.space as i32,
        mode: range.mode as i32,
        start: range.start,
        end: range.end,
        client_name: String::new(),
    }
}

/// What an owner holds after it got its wish: disjoint ranges in order, neighbours of one mode merged.
pub(super) fn replace(held: &[Range], wish: &Range) -> Vec<Range> {
    let mut after = Vec::with_capacity(held.len() + 2);
    for range in held {
        if range.start < wish.start {
            let end = range.end.min(wish.start - 1);
            after.push(Range { end, ..*range });
        }
        if range.end > wish.end {
            let start = range.start.max(wish.end + 1);
            after.push(Range { start, ..*range });
        }
    }
    if wish.mode != LockMode::Unlocked {
        after.push(*wish);
    }
    after.sort_unstable_by_key(|range| range.start);
    after.dedup_by(|next, last| {
        let merge = last.mode == next.mode && last.end.checked_add(1) == Some(next.start);
        if merge {
            last.end = next.end;
            last.pid = wish.pid;
        }
        merge
    });
    after
}

/// What was held in the range of a wish.
fn replaced(held: &[Range], wish: &Range) -> Vec<LockPiece> {
    let inside = held.iter().filter(|range| range.overlaps(wish));
    inside
        .map(|range| LockPiece {
            start: range.start.max(wish.start),
            end: range.end.min(wish.end),
            mode: range.mode as i32,
        })
        .collect()
}

/// Fails unless the caller may lock the file so, as somebody who had to open it for that.
pub fn check_may_lock(
    caller: &Caller,
    wish: &Wish,
    record: Option<&InodeRecord>,
) -> Result<(), OpError> {
    let location = Location::inode(wish.inode);
    let Some(record) = record else {
        return Err(path::failure(ErrorCode::NotFound, &location));
    };
    if inode::is_directory(record) {
        return Err(path::failure(ErrorCode::IsADirectory, &location));
    }
    if !inode::is_file(record) {
        let message = format!("inode {} is not a regular file", wish.inode);
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    let allowed = |mask| inode::check_access(caller, &location, record, mask);
    match (wish.space, wish.range.mode) {
        (LockSpace::Posix, LockMode::Write) => allowed(WRITE),
        (LockSpace::Posix, LockMode::Read) => allowed(READ),
        (LockSpace::Flock, _) | (_, LockMode::Unlocked) => {
            allowed(READ).or_else(|_| allowed(WRITE))
        }
    }
}

/// Makes a wish come true, or answers what forbids it.
pub(super) fn set(txn: &mut Txn, wish: &Wish) -> Result<LockOutcome, OpError> {
    let locks = Locks::load(txn, wish.inode, wish.space)?;
    let held = locks.of(wish.owner);
    if let Some(holder) = locks.first_conflict(wish) {
        let mut outcome = LockOutcome {
            conflict: Some(holder),
            replaced: Vec::new(),
            held: held.len() as u64,
        };
        if wish.space == LockSpace::Flock {
            // As Linux does: to change the mode is to let go first. So two readers who both want to write do not wait for ever.
            write(txn, wish, &held, &[])?;
            outcome.held = 0;
        }
        return Ok(outcome);
    }
    let after = replace(&held, &wish.range);
    if after.len() > held.len() && locks.0.len() - held.len() + after.len() > LOCKS_PER_FILE_MAX {
        let message = format!(
            "inode {} has {} locks, at most {LOCKS_PER_FILE_MAX} are possible",
            wish.inode,
            locks.0.len()
        );
        return Err(OpError::new(ErrorCode::NoLocks, message));
    }
    write(txn, wish, &held, &after)?;
    Ok(LockOutcome {
        conflict: None,
        replaced: replaced(&held, &wish.range),
        held: after.len() as u64,
    })
}

/// Puts what an owner holds now in the place of what it held before.
fn write(txn: &mut Txn, wish: &Wish, before: &[Range], after: &[Range]) -> Result<(), OpError> {
    count(txn, wish.owner.session, before.len(), after.len())?;
    let key = |range: &Range| LockKey {
        inode: wish.inode,
        space: wish.space,
        start: range.start,
        owner: wish.owner,
    };
    for old in before.iter().filter(|old| !after.contains(old)) {
        if !after.iter().any(|new| new.start == old.start) {
            store::lock::delete(txn, &key(old));
        }
        let weaker =
            |new: &Range| new.start > old.start || new.end < old.end || new.mode < old.mode;
        if after.iter().all(weaker) {
            txn.unlocked(wish.inode);
        }
    }
    for new in after.iter().filter(|new| !before.contains(new)) {
        let record = LockRecord {
            end: new.end,
            mode: new.mode as i32,
            pid: new.pid,
        };
        store::lock::put(txn, &key(new), &record);
    }
    Ok(())
}

fn count(txn: &mut Txn, id: SessionId, fewer: usize, more: usize) -> Result<(), OpError> {
    if fewer == more {
        return Ok(());
    }
    let Some(mut session) = store::session::get(txn, id)? else {
        let what = format!("session {id} changes a lock and does not exist");
        return Err(StoreError::Inconsistent(what).into());
    };
    session.lock_count = session.lock_count.saturating_sub(fewer as u64) + more as u64;
    if more > fewer && session.lock_count > LOCKS_PER_SESSION_MAX {
        let message =
            format!("session {id} has {LOCKS_PER_SESSION_MAX} locks, no more are possible");
        return Err(OpError::new(ErrorCode::NoLocks, message));
    }
    store::session::put(txn, id, &session);
    Ok(())
}

/// Releases locks of a session that ends, at most `limit`; how many.
pub(super) fn release_of_session(
    txn: &mut Txn,
    id: SessionId,
    limit: usize,
) -> Result<usize, StoreError> {
    let mut keys = Vec::new();
    if limit > 0 {
        store::session_lock::scan(txn, id, &mut |key| {
            keys.push(key);
            Ok(keys.len() < limit)
        })?;
    }
    for key in &keys {
        store::lock::delete(txn, key);
        txn.unlocked(key.inode);
    }
    Ok(keys.len())
}

/// Releases locks on a file that goes, at most `limit`; how many.
pub(super) fn release_of_file(
    txn: &mut Txn,
    inode: InodeId,
    limit: usize,
) -> Result<usize, OpError> {
    let mut keys = Vec::new();
    if limit > 0 {
        store::lock::scan_file(txn, inode, &mut |key, _| {
            keys.push(key);
            Ok(keys.len() < limit)
        })?;
    }
    for key in &keys {
        store::lock::delete(txn, key);
        txn.unlocked(inode);
        count(txn, key.owner.session, 1, 0)?;
    }
    Ok(keys.len())
}

#[cfg(test)]
mod tests {
    use super::{LockMode, Range, replace, replaced};
    use proptest::prelude::{Strategy, prop, prop_oneof, proptest};

    /// Bytes of the reference; the last one stands for all up to the largest offset.
    const BYTES: u64 = 24;

    fn range(start: u64, end: u64, mode: LockMode) -> Range {
        Range {
            start,
            end,
            mode,
            pid: 7,
        }
    }

    #[test]
    fn a_range_in_the_middle_splits_and_a_neighbour_merges() {
        let whole = [range(0, u64::MAX, LockMode::Write)];
        let hole = replace(&whole, &range(10, 19, LockMode::Unlocked));
        let split = [
            range(0, 9, LockMode::Write),
            range(20, u64::MAX, LockMode::Write),
        ];
        assert_eq!(hole, split);
        assert_eq!(replace(&hole, &range(10, 19, LockMode::Write)), whole);
        let mixed = replace(&hole, &range(10, 19, LockMode::Read));
        assert_eq!(mixed.len(), 3, "modes do not merge");
        let pieces = replaced(&mixed, &range(5, 12, LockMode::Unlocked));
        let pieces: Vec<_> = pieces.iter().map(|p| (p.start, p.end, p.mode())).collect();
        assert_eq!(pieces, [(5, 9, LockMode::Write), (10, 12, LockMode::Read)]);
    }

    fn wish() -> impl Strategy<Value = Range> {
        let mode = prop_oneof![
            proptest::strategy::Just(LockMode::Unlocked),
            proptest::strategy::Just(LockMode::Read),
            proptest::strategy::Just(LockMode::Write),
        ];
        (0..BYTES, 0..BYTES, mode).prop_map(|(a, b, mode)| {
            let end = if a.max(b) == BYTES - 1 {
                u64::MAX
            } else {
                a.max(b)
            };
            range(a.min(b), end, mode)
        })
    }

    fn bytes(ranges: &[Range]) -> Vec<LockMode> {
        let at = |byte: u64| {
            let found = ranges.iter().find(|r| r.start <= byte && byte <= r.end);
            found.map_or(LockMode::Unlocked, |range| range.mode)
        };
        (0..BYTES).map(at).collect()
    }

    proptest! {
        #[test]
        fn ranges_are_what_a_map_of_bytes_says(wishes in prop::collection::vec(wish(), 1..40)) {
            let mut held = Vec::new();
            let mut reference = vec![LockMode::Unlocked; BYTES as usize];
            for wish in wishes {
                let before = replaced(&held, &wish);
                held = replace(&held, &wish);
                for (byte, mode) in reference.iter_mut().enumerate() {
                    let byte = byte as u64;
                    if wish.start <= byte && byte <= wish.end {
                        let piece = before.iter().find(|p| p.start <= byte && byte <= p.end);
                        let was = piece.map_or(LockMode::Unlocked, |piece| piece.mode());
                        assert_eq!(was, *mode, "the way back");
                        *mode = wish.mode;
                    }
                }
                assert_eq!(bytes(&held), reference);
                for pair in held.windows(2) {
                    assert!(pair[0].end < pair[1].start, "disjoint and in order: {held:?}");
                    let neighbours = pair[0].end + 1 == pair[1].start;
                    assert!(!neighbours || pair[0].mode != pair[1].mode, "merged: {held:?}");
                }
            }
        }
    }
}
