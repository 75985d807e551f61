//! What a batch changes, as those want to know who cache what they read. Noted while the batch is applied, never stored: a pure
//! function of the log, so every member has the same.
//!
//! Notes say more than nothing and never too little: who forgets what they name keeps nothing that is out of date.

use std::collections::BTreeSet;

use bytes::Bytes;
use cairn_protocol::ids::{InodeId, SessionId};

/// What happened to an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Its attributes or extended attributes are other ones.
    Attributes,
    /// Its bytes or its size are other ones, and with them its attributes.
    Content,
    /// A name means it now, whatever it meant before. The attributes of both inode and directory changed with it.
    Named,
    /// A name does not mean it any more. The attributes of both inode and directory changed with it.
    Unnamed,
    /// It does not exist any more.
    Gone,
}

/// One change of one inode.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// What it is about.
    pub inode: InodeId,
    /// Its kind, as it is stored.
    pub kind: i32,
    /// The directory of the name; without a name, the directory of its last name as far as that is known, or 0.
    pub parent: InodeId,
    /// What happened.
    pub what: What,
    /// Which name; empty if this is not about a name.
    pub name: Bytes,
}

/// What one command changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeSet {
    /// Index of its log entry, which may have made several sets.
    pub index: u64,
    /// The session that did it; 0 for the leader's own commands.
    pub session: SessionId,
    /// In the order in which it happened; what follows from another change is left out.
    pub changes: Vec<Change>,
}

impl ChangeSet {
    /// Bytes of memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let names: usize = self.changes.iter().map(|change| change.name.len()).sum();
        size_of::<Self>() + self.changes.len() * size_of::<Change>() + names
    }
}

/// The changes of one command without those that follow from others.
pub(super) fn condense(changes: &mut Vec<Change>) {
    if changes.len() < 2 {
        return;
    }
    // Inodes whose attributes are known to have changed.
    let mut told = BTreeSet::new();
    for change in changes.iter() {
        match change.what {
            What::Attributes => {}
            What::Content | What::Gone => drop(told.insert(change.inode)),
            What::Named | What::Unnamed => {
                told.insert(change.inode);
                told.insert(change.parent);
            }
        }
    }
    changes.retain(|change| change.what != What::Attributes || told.insert(change.inode));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cairn_protocol::ids::InodeId;

    use super::{Change, What, condense};

    fn change(inode: u64, parent: u64, what: What) -> Change {
        let (inode, parent) = (InodeId(inode), InodeId(parent));
        let name = Bytes::new();
        Change {
            inode,
            kind: 1,
            parent,
            what,
            name,
        }
    }

    #[test]
    fn what_follows_from_another_change_is_left_out_once_and_the_rest_stays_in_order() {
        let mut changes = vec![
            change(7, 1, What::Attributes),
            change(7, 1, What::Unnamed),
            change(1, 1, What::Attributes),
            change(7, 2, What::Named),
            change(2, 1, What::Attributes),
            change(9, 2, What::Attributes),
            change(9, 2, What::Attributes),
            change(8, 2, What::Content),
            change(8, 2, What::Attributes),
        ];
        condense(&mut changes);
        let left = [
            change(7, 1, What::Unnamed),
            change(7, 2, What::Named),
            change(9, 2, What::Attributes),
            change(8, 2, What::Content),
        ];
        assert_eq!(changes, left);
    }
}
