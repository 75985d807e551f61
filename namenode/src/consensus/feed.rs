//! The last changes, for those who cache what they read. Every member remembers the same ones, because they follow from the log; so who
//! has heard them up to some index from one member goes on there with any other. In memory and bounded: who comes too late is told
//! that changes are lost, and forgets everything.
//!
//! Changes arrive before the batch is written that makes them, so whoever sees a change in the state finds it here;
//! readers of the feed look no further than what is applied.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_protocol::ids::SessionId;

use crate::store::ChangeSet;

/// Memory for changes: some seconds of the highest load, and hours of an ordinary one.
const BYTES_MAX: usize = 32 << 20;

/// Sets that are read at once, so that apply does not wait long for the lock. Whole entries; one larger than this is read alone.
const PAGE_SETS: usize = 512;

/// The last changes.
pub struct Feed(Mutex<Ring>);

struct Ring {
    sets: VecDeque<Arc<ChangeSet>>,
    bytes: usize,
    bytes_max: usize,
    /// All changes of entries above this one are here.
    floor: u64,
    /// The last entry that changed anything, and the last session that did in it.
    last: (u64, SessionId),
    /// The last entry in which any other session than that one changed anything.
    last_of_others: u64,
}

/// Some changes, in order.
#[derive(Debug)]
pub struct Page {
    /// They.
    pub sets: Vec<Arc<ChangeSet>>,
    /// These are all changes up to this index.
    pub reached: u64,
}

impl Feed {
    /// A feed that begins after an index.
    pub(super) fn new(floor: u64) -> Self {
        Self::with_bytes_max(floor, BYTES_MAX)
    }

    fn with_bytes_max(floor: u64, bytes_max: usize) -> Self {
        Self(Mutex::new(Ring {
            sets: VecDeque::new(),
            bytes: 0,
            bytes_max,
            floor,
            last: (floor, SessionId(0)),
            last_of_others: floor,
        }))
    }

    /// Forgets everything: the state is another one, as of `floor`.
    pub(super) fn reset(&self, floor: u64) {
        let mut ring = self.lock();
        let fresh = Self::with_bytes_max(floor, ring.bytes_max);
        *ring = fresh.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    }

    /// Adds what a few entries change, before it is written.
    pub(super) fn extend(&self, sets: Vec<ChangeSet>) {
        if sets.is_empty() {
            return;
        }
        let mut ring = self.lock();
        for set in sets {
            ring.push(set);
        }
        ring.shrink();
    }

    /// Changes of entries above `after` up to `upto`, perhaps not all at once. `None` if some are forgotten already.
    pub fn read(&self, after: u64, upto: u64) -> Option<Page> {
        let ring = self.lock();
        if after < ring.floor {
            return None;
        }
        let start = ring.sets.partition_point(|set| set.index <= after);
        let mut sets: Vec<Arc<ChangeSet>> = Vec::new();
        for set in ring.sets.range(start..) {
            if set.index > upto {
                break;
            }
            let last = sets.last().map_or(set.index, |last| last.index);
            if sets.len() >= PAGE_SETS && set.index != last {
                return Some(Page {
                    sets,
                    reached: last,
                });
            }
            sets.push(set.clone());
        }
        Some(Page {
            sets,
            reached: upto.max(after),
        })
    }

    /// The last entry that changed anything by another session than this one (0: than none). Whoever knows all changes
    /// up to here knows all that anybody can have seen before this call, besides its own.
    pub fn changed_by_others(&self, session: SessionId) -> u64 {
        let ring = self.lock();
        if session.0 != 0 && ring.last.1 == session {
            ring.last_of_others
        } else {
            ring.last.0
        }
    }

    // Each change of the ring is complete in itself.
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, set: ChangeSet) {
        if self.last.1 != set.session {
            self.last_of_others = self.last.0;
        }
        self.last = (set.index, set.session);
        self.bytes += set.bytes();
        self.sets.push_back(Arc::new(set));
    }

    /// Forgets the oldest entries, whole.
    fn shrink(&mut self) {
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.sets.front()
        {
            let index = oldest.index;
            while let Some(set) = self.sets.pop_front_if(|set| set.index == index) {
                self.bytes -= set.bytes();
            }
            self.floor = index;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cairn_protocol::ids::{InodeId, SessionId};

    use super::{Feed, PAGE_SETS};
    use crate::store::{Change, ChangeSet, What};

    fn set(index: u64, session: u64) -> ChangeSet {
        let change = Change {
            inode: InodeId(index),
            kind: 1,
            parent: InodeId(1),
            what: What::Named,
            name: Bytes::from_static(b"a name"),
        };
        ChangeSet {
            index,
            session: SessionId(session),
            changes: vec![change],
        }
    }

    fn indexes(feed: &Feed, after: u64, upto: u64) -> Option<(Vec<u64>, u64)> {
        let page = feed.read(after, upto)?;
        let indexes = page.sets.iter().map(|set| set.index).collect();
        Some((indexes, page.reached))
    }

    #[test]
    fn changes_are_read_from_an_index_up_to_what_is_applied() {
        let feed = Feed::new(10);
        feed.extend(vec![set(11, 1), set(11, 2), set(13, 1)]);
        assert_eq!(indexes(&feed, 10, 12), Some((vec![11, 11], 12)));
        assert_eq!(indexes(&feed, 11, 12), Some((vec![], 12)));
        assert_eq!(indexes(&feed, 11, 20), Some((vec![13], 20)));
        assert_eq!(indexes(&feed, 30, 20), Some((vec![], 30)));
    }

    #[test]
    fn who_asks_for_what_was_before_the_feed_is_told_that_it_is_lost() {
        let feed = Feed::new(10);
        assert_eq!(indexes(&feed, 9, 12), None);
        assert_eq!(indexes(&feed, 10, 12), Some((vec![], 12)));
        feed.extend(vec![set(11, 1)]);
        feed.reset(40);
        assert_eq!(indexes(&feed, 11, 40), None);
        assert_eq!(indexes(&feed, 40, 40), Some((vec![], 40)));
        assert_eq!(feed.changed_by_others(SessionId(1)), 40);
    }

    #[test]
    fn the_oldest_entries_go_whole_when_memory_is_full() {
        let one = set(1, 1).bytes();
        let feed = Feed::with_bytes_max(0, 4 * one);
        feed.extend(vec![set(1, 1), set(1, 2), set(2, 1), set(3, 1)]);
        assert_eq!(indexes(&feed, 0, 3), Some((vec![1, 1, 2, 3], 3)));
        feed.extend(vec![set(4, 1)]);
        assert_eq!(indexes(&feed, 0, 4), None);
        assert_eq!(indexes(&feed, 1, 4), Some((vec![2, 3, 4], 4)));
    }

    #[test]
    fn a_page_ends_between_entries() {
        let feed = Feed::new(0);
        let count = PAGE_SETS as u64;
        feed.extend((1..count).map(|index| set(index, 1)).collect());
        feed.extend((0..5).map(|_| set(count, 1)).collect());
        feed.extend(vec![set(count + 1, 1)]);
        let (first, reached) = indexes(&feed, 0, count + 9).unwrap();
        assert_eq!((first.len(), reached), (PAGE_SETS + 4, count));
        let rest = indexes(&feed, reached, count + 9);
        assert_eq!(rest, Some((vec![count + 1], count + 9)));
    }

    #[test]
    fn a_session_need_not_wait_for_its_own_changes() {
        let feed = Feed::new(5);
        let of = |session| feed.changed_by_others(SessionId(session));
        assert_eq!((of(0), of(1)), (5, 5));
        feed.extend(vec![set(6, 1), set(7, 1)]);
        assert_eq!((of(0), of(1), of(2)), (7, 5, 7));
        feed.extend(vec![set(8, 2)]);
        assert_eq!((of(0), of(1), of(2)), (8, 8, 7));
        feed.extend(vec![set(8, 1)]);
        assert_eq!((of(0), of(1), of(2)), (8, 8, 8));
    }
}
