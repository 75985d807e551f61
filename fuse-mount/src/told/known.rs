//! Directories whose names are all known, because this mount has made them: what is not among the names means nothing, and nobody
//! needs to be asked. Kept by [`super::Told`] as others change names.

use std::collections::{BTreeMap, BTreeSet};

use cairn_protocol::limits::NAME_BYTES_MAX;

/// Most names and directories. Beyond that all are forgotten, and the cluster is asked again.
const KNOWN_MAX: usize = 1 << 18;

/// See the module. A name may be here that means nothing; no name is missing.
#[derive(Debug, Default)]
pub(super) struct Known {
    directories: BTreeMap<u64, BTreeSet<Box<[u8]>>>,
    count: usize,
}

impl Known {
    /// A directory is new, and empty.
    pub(super) fn begin(&mut self, directory: u64) {
        self.make_room();
        self.count += usize::from(
            self.directories
                .insert(directory, BTreeSet::new())
                .is_none(),
        );
    }

    /// A name may mean something from now on.
    pub(super) fn add(&mut self, directory: u64, name: &[u8]) {
        if !self.directories.contains_key(&directory) {
            return;
        }
        self.make_room();
        if let Some(names) = self.directories.get_mut(&directory) {
            self.count += usize::from(names.insert(name.into()));
        }
    }

    /// Any name may mean something, or the directory is gone.
    pub(super) fn forget(&mut self, directory: u64) {
        if let Some(names) = self.directories.remove(&directory) {
            self.count -= names.len() + 1;
        }
    }

    pub(super) fn means_nothing(&self, directory: u64, name: &[u8]) -> bool {
        // No directory has longer names, and the cluster says that, rather than that there is no such file.
        if name.len() > NAME_BYTES_MAX {
            return false;
        }
        let names = self.directories.get(&directory);
        names.is_some_and(|names| !names.contains(name))
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn make_room(&mut self) {
        if self.count >= KNOWN_MAX {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KNOWN_MAX, Known};

    #[test]
    fn what_is_not_among_all_names_means_nothing() {
        let mut known = Known::default();
        known.add(1, b"a");
        assert!(!known.means_nothing(1, b"a"));
        known.begin(1);
        assert!(!known.means_nothing(1, &[b'a'; 256]), "too long");
        assert!(known.means_nothing(1, b"a"));
        known.add(1, b"a");
        assert!(!known.means_nothing(1, b"a"));
        assert!(known.means_nothing(1, b"b"));
        assert!(!known.means_nothing(2, b"b"));
        known.forget(1);
        known.forget(1);
        assert!(!known.means_nothing(1, b"b"));
        assert_eq!(known.count, 0);
    }

    #[test]
    fn all_is_forgotten_when_it_is_too_much() {
        let mut known = Known::default();
        known.begin(1);
        for name in 0..KNOWN_MAX as u64 {
            known.add(1, &name.to_be_bytes());
        }
        assert!(!known.means_nothing(1, b"b"));
        assert_eq!(known.count, 0);
        known.begin(1);
        assert!(known.means_nothing(1, b"b"));
    }
}
