//! When inodes were read, as `relatime` wants to know it: a read counts if the time of access is not later than the last change, or a day
//! old. What counts is shown at once to whoever asks this mount, and told to the cluster later, many at a time.
//!
//! A note holds as long as the time of access is still the one that it was made from: whoever sets another one is right.

use std::collections::BTreeMap;

use cairn_protocol::messages::common::Attributes;
use cairn_protocol::messages::operation::ReadNote;

/// After so long a read counts in any case.
const DAY_NS: u64 = 24 * 3600 * 1_000_000_000;
/// Notes that are kept. Reads beyond are not noted until some are told.
const NOTES_MAX: usize = 65_536;

/// Which reads are noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessTimes {
    /// None.
    Off,
    /// Of anything but directories.
    NotOfDirectories,
    /// All.
    #[default]
    On,
}

/// What decides whether a read counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    atime_ns: u64,
    /// The last change of content or attributes. `None` if it is on its way, and so later than all else.
    changed_ns: Option<u64>,
}

impl Times {
    pub(crate) fn of(attributes: &Attributes) -> Self {
        Self {
            atime_ns: attributes.atime_ns,
            changed_ns: Some(attributes.mtime_ns.max(attributes.ctime_ns)),
        }
    }

    pub(crate) fn atime_ns(&self) -> u64 {
        self.atime_ns
    }

    /// It was changed here, nobody knows yet when.
    pub(crate) fn change(&mut self) {
        self.changed_ns = None;
    }

    /// The new time of access, if a read now counts: later than the last change, whatever this machine's clock says.
    fn read(self, now_ns: u64) -> Option<u64> {
        let is_old = now_ns.saturating_sub(self.atime_ns) >= DAY_NS;
        let counts = self.changed_ns.is_none_or(|at| self.atime_ns <= at);
        let after = self.changed_ns.unwrap_or(0).max(self.atime_ns);
        (counts || is_old).then(|| now_ns.max(after.saturating_add(1)))
    }
}

/// Notes that are not told yet.
#[derive(Debug, Default)]
pub(crate) struct Reads(BTreeMap<u64, ReadNote>);

impl Reads {
    /// An inode with these times was read. True if that counts; the times are then the new ones.
    pub(crate) fn note(&mut self, inode: u64, times: &mut Times, now_ns: u64) -> bool {
        let Some(atime_ns) = times.read(now_ns) else {
            return false;
        };
        let known = self.0.get(&inode).copied();
        if known.is_none() && self.0.len() >= NOTES_MAX {
            return false;
        }
        // The cluster has heard of none of those before.
        let before_ns = known.filter(|known| known.atime_ns == times.atime_ns);
        let before_ns = before_ns.map_or(times.atime_ns, |known| known.before_ns);
        let note = ReadNote {
            inode,
            before_ns,
            atime_ns,
        };
        self.0.insert(inode, note);
        *times = Times {
            atime_ns,
            changed_ns: Some(times.changed_ns.unwrap_or(atime_ns - 1)),
        };
        true
    }

    /// The cluster's attributes with what it is not told yet.
    pub(crate) fn show(&self, attributes: &mut Attributes) {
        if let Some(note) = self.0.get(&attributes.inode)
            && note.before_ns == attributes.atime_ns
        {
            attributes.atime_ns = note.atime_ns;
        }
    }

    /// True if there was a note of this inode, which is not told any more.
    pub(crate) fn forget(&mut self, inode: u64) -> bool {
        self.0.remove(&inode).is_some()
    }

    /// So many that are to be told.
    pub(crate) fn some(&self, count: usize) -> Vec<ReadNote> {
        self.0.values().take(count).copied().collect()
    }

    /// These are told, or never will be. What was read again meanwhile is told once more.
    pub(crate) fn told(&mut self, notes: &[ReadNote]) {
        for note in notes {
            match self.0.get_mut(&note.inode) {
                Some(known) if known == note => {
                    self.0.remove(&note.inode);
                }
                Some(known) if known.before_ns == note.before_ns => known.before_ns = note.atime_ns,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::common::Attributes;

    use super::{DAY_NS, NOTES_MAX, Reads, Times};

    fn attributes(atime_ns: u64, mtime_ns: u64, ctime_ns: u64) -> Attributes {
        Attributes {
            inode: 7,
            atime_ns,
            mtime_ns,
            ctime_ns,
            ..Attributes::default()
        }
    }

    fn read(times: (u64, u64, u64), now_ns: u64) -> Option<u64> {
        Times::of(&attributes(times.0, times.1, times.2)).read(now_ns)
    }

    #[test]
    fn a_read_counts_after_a_change_and_once_a_day() {
        assert_eq!(read((50, 50, 50), 90), Some(90), "new");
        assert_eq!(read((60, 50, 50), 90), None, "read since");
        assert_eq!(read((60, 70, 50), 90), Some(90), "written since");
        assert_eq!(read((60, 50, 70), 90), Some(90), "changed since");
        assert_eq!(read((60, 50, 50), 60 + DAY_NS), Some(60 + DAY_NS));
        assert_eq!(read((60, 50, 50), 59 + DAY_NS), None);
        assert_eq!(
            read((50, 80, 70), 60),
            Some(81),
            "by a clock that is behind"
        );
        let mut times = Times::of(&attributes(60, 50, 50));
        times.change();
        assert_eq!(times.read(90), Some(90), "written, and not known when");
    }

    #[test]
    fn a_note_is_shown_until_it_is_told_or_somebody_knows_better() {
        let (mut reads, now) = (Reads::default(), 90);
        let cluster = attributes(10, 20, 20);
        let mut times = Times::of(&cluster);
        assert!(reads.note(7, &mut times, now));
        assert!(!reads.note(7, &mut times, now + 1), "noted already");
        let shown = |reads: &Reads, atime_ns| {
            let mut shown = attributes(atime_ns, 20, 20);
            reads.show(&mut shown);
            shown.atime_ns
        };
        assert_eq!(shown(&reads, 10), 90);
        assert_eq!(shown(&reads, 5), 5, "set by somebody");
        // Read again while it is told.
        let telling = reads.some(9);
        times.change();
        assert!(reads.note(7, &mut times, now + 10));
        assert_eq!(reads.some(9)[0].before_ns, 10);
        reads.told(&telling);
        assert_eq!(shown(&reads, 90), 100);
        let telling = reads.some(9);
        reads.told(&telling);
        assert_eq!(reads.some(9), []);
        assert_eq!(shown(&reads, 90), 90);
        assert!(!reads.forget(7));
    }

    #[test]
    fn notes_are_bounded() {
        let mut reads = Reads::default();
        for inode in 0..NOTES_MAX as u64 + 10 {
            let mut times = Times::of(&attributes(10, 20, 20));
            let noted = reads.note(inode, &mut times, 90);
            assert_eq!(noted, inode < NOTES_MAX as u64);
        }
        assert_eq!(reads.some(1024).len(), 1024);
        assert!(reads.forget(0));
    }
}
