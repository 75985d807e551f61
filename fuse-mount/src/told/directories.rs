//! Attributes of directories in which this mount works. The kernel drops what it knows of a directory whenever it makes or removes a
//! name there, and asks again before the next one. What a change of our own did to them follows from its answer.

use std::collections::BTreeMap;

use cairn_protocol::messages::common::Attributes;

use super::Asked;

/// Most directories. Beyond that all are forgotten, and the cluster is asked again.
const DIRECTORIES_MAX: usize = 16_384;

/// Attributes, and when they were asked for: changes of others since then are not in them, ours are.
pub(crate) type Remembered = (Attributes, Asked);

/// What a change of this mount did to the directory of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A new name for a new inode.
    Made,
    /// A name is gone.
    Unlinked,
}

/// Attributes of a directory after a change in it, whose answer was these attributes of what was named.
pub(crate) fn attributes_after(
    mut directory: Attributes,
    effect: Effect,
    named: &Attributes,
) -> Attributes {
    match effect {
        Effect::Made => {
            directory.size += 1;
            let is_directory = named.kind == directory.kind;
            directory.nlink += u32::from(is_directory);
        }
        // Of what is no directory.
        Effect::Unlinked => directory.size = directory.size.saturating_sub(1),
    }
    // The same stamp is on both.
    directory.mtime_ns = named.ctime_ns;
    directory.ctime_ns = named.ctime_ns;
    directory.version = named.version.max(directory.version + 1);
    directory
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Directories {
    remembered: BTreeMap<u64, Remembered>,
    /// Changes of ours that are on their way.
    busy: BTreeMap<u64, u32>,
}

impl Directories {
    /// A change of ours is on its way. Returns what was known before, which is not known any more.
    pub(super) fn begin(&mut self, directory: u64) -> Option<Remembered> {
        *self.busy.entry(directory).or_default() += 1;
        self.remembered.remove(&directory)
    }

    /// It has been answered, and left these attributes, if they can be told.
    pub(super) fn end(&mut self, directory: u64, after: Option<Remembered>) {
        let last = match self.busy.get_mut(&directory) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => true,
        };
        if last {
            self.busy.remove(&directory);
            if let Some(after) = after {
                self.remember(after);
            }
        }
    }

    pub(super) fn remember(&mut self, remembered: Remembered) {
        let directory = remembered.0.inode;
        if self.busy.contains_key(&directory) {
            return;
        }
        if self.remembered.len() >= DIRECTORIES_MAX {
            self.remembered.clear();
        }
        self.remembered.insert(directory, remembered);
    }

    pub(super) fn get(&self, directory: u64) -> Option<&Remembered> {
        self.remembered.get(&directory)
    }

    pub(super) fn clear(&mut self) {
        self.remembered.clear();
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::common::{Attributes, InodeKind};

    use super::{Asked, Directories, Effect, attributes_after};

    fn directory(size: u64) -> Attributes {
        Attributes {
            inode: 1,
            kind: InodeKind::Directory as i32,
            size,
            nlink: 2,
            version: 5,
            ..Attributes::default()
        }
    }

    #[test]
    fn a_change_in_a_directory_changes_its_attributes() {
        let mut named = Attributes {
            inode: 2,
            kind: InodeKind::File as i32,
            ctime_ns: 77,
            version: 9,
            ..Attributes::default()
        };
        let made = attributes_after(directory(3), Effect::Made, &named);
        assert_eq!((made.size, made.nlink, made.version), (4, 2, 9));
        assert_eq!((made.mtime_ns, made.ctime_ns), (77, 77));
        named.version = 2;
        let gone = attributes_after(made, Effect::Unlinked, &named);
        assert_eq!((gone.size, gone.nlink, gone.version), (3, 2, 10));
        named.kind = InodeKind::Directory as i32;
        assert_eq!(attributes_after(gone, Effect::Made, &named).nlink, 3);
    }

    #[test]
    fn nothing_is_known_while_a_change_is_on_its_way() {
        let mut directories = Directories::default();
        directories.remember((directory(3), Asked(1)));
        let size = |directories: &Directories| directories.get(1).map(|known| known.0.size);
        assert_eq!(size(&directories), Some(3));
        let first = directories.begin(1);
        assert_eq!(first.map(|known| known.0.size), Some(3));
        assert!(directories.begin(1).is_none());
        directories.remember((directory(3), Asked(1)));
        assert_eq!(size(&directories), None);
        // The first one does not know of the second.
        directories.end(1, Some((directory(4), Asked(1))));
        assert_eq!(size(&directories), None);
        directories.end(1, None);
        assert_eq!(size(&directories), None);
        directories.begin(1);
        directories.end(1, Some((directory(5), Asked(1))));
        assert_eq!(size(&directories), Some(5));
    }
}
