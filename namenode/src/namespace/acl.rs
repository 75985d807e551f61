//! POSIX access control lists, as acl(5) has them: who may what beyond owner, group and others, and what new inodes of a directory
//! get. Kept in the inode in the form in which Linux hands them out:
//!
//! ```text
//! version: u32 LE = 2, then for each entry: tag: u16 LE, permissions: u16 LE, id: u32 LE
//! ```
//!
//! A list always agrees with the mode: owner and others are the mode's, and the mode's group bits are the mask (or the
//! group's entry where there is none). A list that says no more than a mode is not kept.

use cairn_protocol::messages::common::Caller;

use super::permission::in_group;
use crate::store::records::InodeRecord;

/// Longest list: Linux takes no more than a page from a file system in user space.
pub(super) const BYTES_MAX: usize = 4096;

const VERSION: [u8; 4] = 2_u32.to_le_bytes();
const ENTRY_BYTES: usize = 8;
const NO_ID: u32 = u32::MAX;
const ALL: u32 = 7;
const MODE_BITS: u32 = 0o777;

/// In the order in which a list has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner,
    User,
    Group,
    NamedGroup,
    Mask,
    Other,
}

impl Tag {
    const ALL: [(u16, Self); 6] = [
        (1, Self::Owner),
        (2, Self::User),
        (4, Self::Group),
        (8, Self::NamedGroup),
        (16, Self::Mask),
        (32, Self::Other),
    ];

    fn of(number: u16) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == number);
        found.map(|(_, tag)| *tag)
    }

    fn number(self) -> u16 {
        let found = Self::ALL.iter().find(|(_, tag)| *tag == self);
        found.expect("all are listed").0
    }

    fn is_named(self) -> bool {
        matches!(self, Self::User | Self::NamedGroup)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    permissions: u32,
    id: u32,
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// `None` if the bytes are no valid list.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let entries = bytes.strip_prefix(&VERSION)?;
        if bytes.len() > BYTES_MAX || !entries.len().is_multiple_of(ENTRY_BYTES) {
            return None;
        }
        let entries = entries.chunks_exact(ENTRY_BYTES).map(entry);
        let acl = Self(entries.collect::<Option<_>>()?);
        acl.is_valid().then_some(acl)
    }

    /// Tags in order; one owner, one group, others once; a mask where somebody is named.
    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let once = [Tag::Owner, Tag::Group, Tag::Other];
        let named = self.0.iter().any(|entry| entry.tag.is_named());
        self.0.is_sorted_by_key(|entry| entry.tag)
            && once.iter().all(|&tag| count(tag) == 1)
            && count(Tag::Mask) <= 1
            && (!named || count(Tag::Mask) == 1)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        for entry in &self.0 {
            bytes.extend(entry.tag.number().to_le_bytes());
            let permissions = entry.permissions & ALL;
            bytes.extend((permissions as u16).to_le_bytes());
            bytes.extend(entry.id.to_le_bytes());
        }
        bytes
    }

    fn find(&self, tag: Tag) -> Option<u32> {
        let found = self.0.iter().find(|entry| entry.tag == tag);
        found.map(|entry| entry.permissions)
    }

    fn set(&mut self, tag: Tag, permissions: u32) {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.tag == tag) {
            entry.permissions = permissions & ALL;
        }
    }

    /// What a mode shows as its group's bits: the most that anybody but the owner and the others gets.
    fn group_class(&self) -> Tag {
        if self.find(Tag::Mask).is_some() {
            Tag::Mask
        } else {
            Tag::Group
        }
    }

    /// The mode's nine bits.
    pub(super) fn mode(&self) -> u32 {
        let bits = |tag| self.find(tag).unwrap_or(0);
        bits(Tag::Owner) << 6 | bits(self.group_class()) << 3 | bits(Tag::Other)
    }

    /// A mode says the same.
    pub(super) fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// What chmod(2) makes of it.
    pub(super) fn set_mode(&mut self, mode: u32) {
        self.set(Tag::Owner, mode >> 6);
        self.set(self.group_class(), mode >> 3);
        self.set(Tag::Other, mode);
    }

    /// As the default list of a directory: the list of what is made in it with this mode, which gets no more than either says.
    pub(super) fn inherited(&self, mode: u32) -> Self {
        let mut own = self.clone();
        own.set_mode(self.mode() & mode);
        own
    }

    /// Whether it gives the caller all bits of `mask`, on an inode of this owner and group. The caller is not the superuser.
    fn allows(&self, caller: &Caller, (uid, gid): (u32, u32), mask: u32) -> bool {
        let limit = self.find(Tag::Mask).unwrap_or(ALL);
        let gives = |permissions: u32| permissions & mask == mask;
        if caller.uid == uid {
            return gives(self.find(Tag::Owner).unwrap_or(0));
        }
        let user = |entry: &&Entry| entry.tag == Tag::User && entry.id == caller.uid;
        if let Some(user) = self.0.iter().find(user) {
            return gives(user.permissions & limit);
        }
        let mut groups = self.0.iter().filter(|entry| match entry.tag {
            Tag::Group => in_group(caller, gid),
            Tag::NamedGroup => in_group(caller, entry.id),
            Tag::Owner | Tag::User | Tag::Mask | Tag::Other => false,
        });
        let Some(first) = groups.next() else {
            return gives(self.find(Tag::Other).unwrap_or(0));
        };
        std::iter::once(first)
            .chain(groups)
            .any(|group| gives(group.permissions & limit))
    }
}

fn entry(bytes: &[u8]) -> Option<Entry> {
    let half = |at: usize| Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (low, high) = (half(4)?, half(6)?);
    let tag = Tag::of(half(0)?)?;
    let permissions = u32::from(half(2)?);
    let id = u32::from(high) << 16 | u32::from(low);
    let id_fits = !tag.is_named() || id != NO_ID;
    (permissions <= ALL && id_fits).then_some(Entry {
        tag,
        permissions,
        id: if tag.is_named() { id } else { NO_ID },
    })
}

/// Whether a stored list gives the caller all bits of `mask`. One that is damaged gives nothing.
pub(super) fn allows(acl: &[u8], caller: &Caller, owner: (u32, u32), mask: u32) -> bool {
    Acl::parse(acl).is_some_and(|acl| acl.allows(caller, owner, mask))
}

/// Whether an inode's lists are valid and agree with its mode.
pub(super) fn agrees(record: &InodeRecord) -> bool {
    let shown = Acl::parse(&record.acl).map(|acl| acl.mode());
    let own = record.acl.is_empty() || shown == Some(record.mode & MODE_BITS);
    own && (record.default_acl.is_empty() || Acl::parse(&record.default_acl).is_some())
}

/// A stored list after chmod(2).
pub(super) fn after_chmod(acl: &[u8], mode: u32) -> Vec<u8> {
    match Acl::parse(acl) {
        Some(mut acl) => {
            acl.set_mode(mode);
            acl.encode()
        }
        None => acl.to_vec(),
    }
}

/// Mode and list of what is made with `mode` in a directory with this default list.
pub(super) fn inherit(default: &[u8], mode: u32) -> (u32, Vec<u8>) {
    let Some(default) = Acl::parse(default) else {
        return (mode & !MODE_BITS, Vec::new());
    };
    let own = default.inherited(mode);
    let mode = mode & !MODE_BITS | own.mode();
    if own.is_minimal() {
        (mode, Vec::new())
    } else {
        (mode, own.encode())
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::common::Caller;

    use super::{Acl, Entry, NO_ID, Tag, allows, inherit};

    fn acl(entries: &[(Tag, u32, u32)]) -> Acl {
        let entries = entries.iter().map(|&(tag, permissions, id)| Entry {
            tag,
            permissions,
            id,
        });
        Acl(entries.collect())
    }

    /// user::rw-, user:10:rwx, group::r--, group:20:rw-, mask::rw-, other::---
    fn example() -> Acl {
        acl(&[
            (Tag::Owner, 6, NO_ID),
            (Tag::User, 7, 10),
            (Tag::Group, 4, NO_ID),
            (Tag::NamedGroup, 6, 20),
            (Tag::Mask, 6, NO_ID),
            (Tag::Other, 0, NO_ID),
        ])
    }

    fn caller(uid: u32, gid: u32, groups: &[u32]) -> Caller {
        Caller {
            uid,
            gid,
            groups: groups.to_vec(),
            ..Caller::default()
        }
    }

    #[test]
    fn the_form_is_that_of_linux() {
        let bytes = example().encode();
        assert_eq!(bytes[..4], [2, 0, 0, 0]);
        assert_eq!(bytes[4..12], [1, 0, 6, 0, 255, 255, 255, 255]);
        assert_eq!(bytes[12..20], [2, 0, 7, 0, 10, 0, 0, 0]);
        assert_eq!(bytes.len(), 4 + 6 * 8);
        assert_eq!(Acl::parse(&bytes), Some(example()));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let good = example().encode();
        let invalid = [
            vec![],
            good[..good.len() - 1].to_vec(),
            [&[3][..], &good[1..]].concat(),
            // No mask, no owner, in the wrong order, unknown bits and tags.
            acl(&[(Tag::Owner, 6, NO_ID), (Tag::User, 6, 1)]).encode(),
            example().encode()[..4].to_vec(),
            acl(&[
                (Tag::Group, 6, NO_ID),
                (Tag::Owner, 6, NO_ID),
                (Tag::Other, 6, NO_ID),
            ])
            .encode(),
            [&good[..6], &[9], &good[7..]].concat(),
            [&good[..4], &[3], &good[5..]].concat(),
        ];
        for bytes in invalid {
            assert_eq!(Acl::parse(&bytes), None, "{bytes:?}");
            assert!(!allows(&bytes, &caller(9, 9, &[]), (9, 9), 0));
        }
    }

    #[test]
    fn the_entry_that_fits_best_decides() {
        let example = example();
        let owner = (1, 2);
        let may = |caller: &Caller, mask| example.allows(caller, owner, mask);
        assert!(may(&caller(1, 9, &[]), 6) && !may(&caller(1, 9, &[]), 1));
        assert!(may(&caller(10, 2, &[]), 6), "the mask takes execution away");
        assert!(!may(&caller(10, 2, &[]), 1));
        assert!(may(&caller(5, 2, &[]), 4) && !may(&caller(5, 2, &[]), 2));
        assert!(may(&caller(5, 2, &[20]), 2), "any of the groups is enough");
        assert!(may(&caller(5, 20, &[]), 6));
        assert!(!may(&caller(5, 6, &[]), 4), "others get nothing");
    }

    #[test]
    fn modes_and_lists_agree() {
        let mut acl = example();
        assert_eq!(acl.mode(), 0o660);
        acl.set_mode(0o714);
        assert_eq!(acl.mode(), 0o714);
        assert_eq!(acl.find(Tag::Mask), Some(1));
        assert_eq!(acl.find(Tag::Group), Some(4), "the mask stands for it");
        let (mode, own) = inherit(&example().encode(), 0o2640);
        assert_eq!(mode, 0o2640);
        let own = Acl::parse(&own).unwrap();
        assert_eq!((own.mode(), own.find(Tag::User)), (0o640, Some(7)));
        let plain = acl_of_mode(0o755);
        assert_eq!(inherit(&plain.encode(), 0o666), (0o644, Vec::new()));
    }

    fn acl_of_mode(mode: u32) -> Acl {
        let mut plain = acl(&[
            (Tag::Owner, 0, NO_ID),
            (Tag::Group, 0, NO_ID),
            (Tag::Other, 0, NO_ID),
        ]);
        plain.set_mode(mode);
        plain
    }
}
