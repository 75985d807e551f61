//! Closed files whose bytes the client still tries to commit: answers about them may be old at any moment, and nobody but this
//! mount could tell the kernel so.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// So long a file stays here after its last bytes are committed or given up: longer than any answer from before is on its way.
const STAY: Duration = Duration::from_secs(120);
/// Most files. Whoever finds no room for another one keeps it open.
const FILES_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Unsettled(BTreeMap<u64, Instant>);

impl Unsettled {
    /// False if there is no room.
    pub(crate) fn add(&mut self, inode: u64, now: Instant) -> bool {
        let room = self.0.len() < FILES_MAX || self.0.contains_key(&inode);
        if room {
            self.0.insert(inode, now + STAY);
        }
        room
    }

    pub(crate) fn contains(&self, inode: u64) -> bool {
        self.0.contains_key(&inode)
    }

    /// To be called from time to time: those go that have not been dirty for long.
    pub(crate) fn look(&mut self, now: Instant, is_dirty: impl Fn(u64) -> bool) {
        self.0.retain(|inode, until| {
            if is_dirty(*inode) {
                *until = now + STAY;
            }
            now < *until
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{FILES_MAX, STAY, Unsettled};

    #[test]
    fn a_file_is_unsettled_while_it_is_dirty_and_some_time_after() {
        let mut unsettled = Unsettled::default();
        let start = Instant::now();
        assert!(unsettled.add(1, start) && unsettled.add(2, start));
        let later = start + STAY - Duration::from_secs(1);
        unsettled.look(later, |inode| inode == 2);
        assert!(unsettled.contains(1) && unsettled.contains(2));
        unsettled.look(start + STAY, |_| false);
        assert!(!unsettled.contains(1) && unsettled.contains(2));
        unsettled.look(later + STAY, |_| false);
        assert!(!unsettled.contains(2));
    }

    #[test]
    fn none_is_forgotten_for_want_of_room() {
        let mut unsettled = Unsettled::default();
        let now = Instant::now();
        assert!((0..FILES_MAX as u64).all(|inode| unsettled.add(inode, now)));
        assert!(!unsettled.add(FILES_MAX as u64, now));
        assert!(unsettled.add(0, now) && unsettled.contains(0));
    }
}
