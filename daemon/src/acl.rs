//! Access control lists as people and HDFS word them: `user:ada:rw-,group::r--,default:other::---`, and what is done with them. The
//! namenode keeps and obeys them, as extended attributes in the form of Linux: this is that form, text, and pure rules between them.

use std::collections::BTreeMap;

use crate::users::Users;

const VERSION: [u8; 4] = 2_u32.to_le_bytes();
const ENTRY_BYTES: usize = 8;
const NO_ID: u32 = u32::MAX;

/// Of one list, as in HDFS.
const ENTRIES_MAX: usize = 32;

/// Whom an entry is about, in the order in which a list has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// Whoever owns it.
    Owner,
    /// This user.
    User(u32),
    /// Its group.
    Group,
    /// This group.
    NamedGroup(u32),
    /// The most that groups and those who are named get.
    Mask,
    /// Everybody else.
    Other,
}

impl Tag {
    fn numbers(self) -> (u16, u32) {
        match self {
            Self::Owner => (1, NO_ID),
            Self::User(id) => (2, id),
            Self::Group => (4, NO_ID),
            Self::NamedGroup(id) => (8, id),
            Self::Mask => (16, NO_ID),
            Self::Other => (32, NO_ID),
        }
    }

    fn of(number: u16, id: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Owner,
            2 => Self::User(id),
            4 => Self::Group,
            8 => Self::NamedGroup(id),
            16 => Self::Mask,
            32 => Self::Other,
            _ => return None,
        })
    }

    fn is_named(self) -> bool {
        matches!(self, Self::User(_) | Self::NamedGroup(_))
    }
}

/// What every list has.
const BASE: [Tag; 3] = [Tag::Owner, Tag::Group, Tag::Other];

/// Who may what: 4 read, 2 write, 1 execute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(BTreeMap<Tag, u16>);

impl List {
    /// What a mode says.
    pub fn of_mode(mode: u32) -> Self {
        let bits = |shift: u32| (mode >> shift & 7) as u16;
        Self(BTreeMap::from([
            (Tag::Owner, bits(6)),
            (Tag::Group, bits(3)),
            (Tag::Other, bits(0)),
        ]))
    }

    /// From the form of Linux; `None` if that is no list.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let entries = bytes.strip_prefix(&VERSION)?;
        let decoded = entries.chunks(ENTRY_BYTES).map(|entry| {
            let (tag, rest) = entry.split_first_chunk::<2>()?;
            let (permissions, id) = rest.split_first_chunk::<2>()?;
            let id = u32::from_le_bytes(id.try_into().ok()?);
            let tag = Tag::of(u16::from_le_bytes(*tag), id)?;
            Some((tag, u16::from_le_bytes(*permissions) & 7))
        });
        decoded.collect::<Option<_>>().map(Self)
    }

    /// In the form of Linux.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        for (tag, permissions) in &self.0 {
            let (number, id) = tag.numbers();
            bytes.extend(number.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    /// Nobody has an entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, tag: Tag) -> bool {
        self.0.contains_key(&tag)
    }

    /// Whether it says more than a mode can.
    pub fn names_somebody(&self) -> bool {
        self.0.keys().any(|tag| tag.is_named())
    }

    /// Unless a mask was asked for, it is the least that takes nothing from anybody who is named; where nobody is, there is none.
    fn mend_mask(&mut self, given: bool) {
        if given {
            return;
        }
        self.0.remove(&Tag::Mask);
        if self.names_somebody() {
            let grouped = |tag: &Tag| tag.is_named() || *tag == Tag::Group;
            let all = self.0.iter().filter(|(tag, _)| grouped(tag));
            let mask = all.fold(0, |mask, (_, permissions)| mask | permissions);
            self.0.insert(Tag::Mask, mask);
        }
    }

    /// What a default list does not say of owner, group and others is as for the directory itself.
    fn complete(&mut self, access: &Self) {
        if self.0.is_empty() {
            return;
        }
        for tag in BASE {
            if let Some(permissions) = access.0.get(&tag) {
                self.0.entry(tag).or_insert(*permissions);
            }
        }
    }

    /// Each entry, and what its permissions are.
    pub fn entries(&self) -> impl Iterator<Item = (Tag, u16)> {
        self.0.iter().map(|(tag, permissions)| (*tag, *permissions))
    }

    /// What an entry comes to, if the mask takes something from it.
    pub fn limited(&self, tag: Tag) -> Option<u16> {
        let (own, mask) = (*self.0.get(&tag)?, *self.0.get(&Tag::Mask)?);
        let is_masked = tag.is_named() || tag == Tag::Group;
        (is_masked && own & mask != own).then_some(own & mask)
    }
}

/// `rw-`.
pub fn letters(permissions: u16) -> String {
    let letter = |bit: u16, letter: char| if permissions & bit == 0 { '-' } else { letter };
    [letter(4, 'r'), letter(2, 'w'), letter(1, 'x')]
        .iter()
        .collect()
}

/// An entry as HDFS writes it: `user:ada:rw-`.
pub fn text(tag: Tag, permissions: u16, users: &Users) -> String {
    let (kind, name) = match tag {
        Tag::Owner => ("user", String::new()),
        Tag::User(uid) => ("user", users.user_name(uid)),
        Tag::Group => ("group", String::new()),
        Tag::NamedGroup(gid) => ("group", users.group_name(gid)),
        Tag::Mask => ("mask", String::new()),
        Tag::Other => ("other", String::new()),
    };
    format!("{kind}:{name}:{}", letters(permissions))
}

/// The list of an inode, and the one of what is made in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// For the inode itself.
    pub access: List,
    /// For what is made in it.
    pub default: List,
}

impl Lists {
    /// Entries with commas between them. `permitted`: each entry says what is permitted; else none need to, and whom they are about
    /// is all that counts.
    ///
    /// # Errors
    /// Why it is no list, for people.
    pub fn parse(text: &str, permitted: bool, users: &Users) -> Result<Self, String> {
        let mut lists = Self::default();
        for entry in text.split(',') {
            let (list, rest) = match entry.strip_prefix("default:") {
                Some(rest) => (&mut lists.default, rest),
                None => (&mut lists.access, entry),
            };
            let parts: Vec<&str> = rest.split(':').collect();
            let (kind, name, permissions) = match parts[..] {
                [kind, name, permissions] => (kind, name, permissions),
                [kind, name] if !permitted => (kind, name, ""),
                [kind] if !permitted => (kind, "", ""),
                _ => return Err(format!("`{entry}` is no entry of an access control list")),
            };
            let tag = tag(kind, name, users)?;
            let permissions = match permissions {
                "" if !permitted => 0,
                text => bits(text).ok_or_else(|| format!("`{text}` is none of --- to rwx"))?,
            };
            if list.0.insert(tag, permissions).is_some() {
                return Err(format!("`{entry}` says who more than once"));
            }
        }
        Ok(lists)
    }

    /// Each of the two lists that `wish` says anything of is replaced.
    pub fn set(&self, wish: Self) -> Self {
        let replaced = |mut new: List, old: &List| {
            if new.is_empty() {
                return old.clone();
            }
            let given = new.has(Tag::Mask);
            new.mend_mask(given);
            new
        };
        let access = replaced(wish.access, &self.access);
        let mut default = replaced(wish.default, &self.default);
        default.complete(&access);
        Self { access, default }
    }

    /// With the entries of `wish` added, or in place of those that are about the same.
    pub fn modified(&self, wish: Self) -> Self {
        let merged = |new: List, old: &List, access: &List| {
            let mut list = old.clone();
            if new.is_empty() {
                return list;
            }
            let given = new.has(Tag::Mask);
            list.0.extend(new.0);
            list.complete(access);
            list.mend_mask(given);
            list
        };
        let access = merged(wish.access, &self.access, &self.access);
        let default = merged(wish.default, &self.default, &access);
        Self { access, default }
    }

    /// Without the entries about whom `gone` has any.
    pub fn without(&self, gone: &Self) -> Self {
        let without = |gone: &List, old: &List, access: Option<&List>| {
            let mut list = old.clone();
            if gone.is_empty() {
                return list;
            }
            list.0.retain(|tag, _| !gone.has(*tag));
            if let Some(access) = access {
                list.complete(access);
            }
            // Whoever takes the mask away is told if it is needed.
            list.mend_mask(gone.has(Tag::Mask));
            list
        };
        let access = without(&gone.access, &self.access, None);
        let default = without(&gone.default, &self.default, Some(&access));
        Self { access, default }
    }

    /// Without the list of what is made in it.
    pub fn without_default(&self) -> Self {
        Self {
            access: self.access.clone(),
            default: List::default(),
        }
    }

    /// What owner, group and others may, and nothing else.
    pub fn plain(&self) -> Self {
        let mut access = self.access.clone();
        access.0.retain(|tag, _| BASE.contains(tag));
        Self {
            access,
            default: List::default(),
        }
    }

    /// Whether an inode can have them.
    ///
    /// # Errors
    /// Why not, in HDFS's words.
    pub fn check(&self, is_directory: bool) -> Result<(), String> {
        if !self.default.is_empty() && !is_directory {
            return Err("only directories may have a default ACL.".to_owned());
        }
        for list in [&self.access, &self.default] {
            let complete = BASE.iter().all(|tag| list.has(*tag));
            if !(list.is_empty() || complete) {
                return Err("the user, group and other entries are required.".to_owned());
            }
            if list.names_somebody() && !list.has(Tag::Mask) {
                return Err("mask is required and cannot be deleted.".to_owned());
            }
            if list.0.len() > ENTRIES_MAX {
                let count = list.0.len();
                return Err(format!(
                    "ACL has {count} entries, which exceeds maximum of {ENTRIES_MAX}."
                ));
            }
        }
        Ok(())
    }
}

fn tag(kind: &str, name: &str, users: &Users) -> Result<Tag, String> {
    match (kind.to_lowercase().as_str(), name) {
        ("user", "") => Ok(Tag::Owner),
        ("user", name) => {
            let uid = users.uid(name).map_err(|error| error.to_string())?;
            Ok(Tag::User(uid))
        }
        ("group", "") => Ok(Tag::Group),
        ("group", name) => {
            let gid = users.gid(name).map_err(|error| error.to_string())?;
            Ok(Tag::NamedGroup(gid))
        }
        ("mask", "") => Ok(Tag::Mask),
        ("other", "") => Ok(Tag::Other),
        ("mask" | "other", _) => Err(format!("`{kind}` has no name")),
        _ => Err(format!("`{kind}` is none of user, group, mask, other")),
    }
}

fn bits(text: &str) -> Option<u16> {
    let letters: [char; 3] = text.chars().collect::<Vec<_>>().try_into().ok()?;
    let mut bits = 0;
    for (found, (letter, bit)) in letters.into_iter().zip([('r', 4), ('w', 2), ('x', 1)]) {
        match found {
            '-' => {}
            found if found == letter => bits |= bit,
            _ => return None,
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::{List, Lists, Tag, letters, text};
    use crate::users::Users;

    fn users() -> Users {
        Users::parse("ada:x:1000:100::/:/\n", "wheel:x:10:ada\n")
    }

    fn lists(text: &str) -> Lists {
        Lists::parse(text, true, &users()).unwrap()
    }

    #[test]
    fn lists_are_written_as_they_are_read() {
        let typed = "user::rwx,user:ada:r--,group::r-x,group:wheel:-w-,mask::r--,other::---";
        let list = List::decode(&lists(typed).access.encode()).unwrap();
        assert_eq!(list, lists(typed).access);
        let told = list.entries().map(|(tag, may)| text(tag, may, &users()));
        assert_eq!(told.collect::<Vec<_>>().join(","), typed);
        let limited = |tag| list.limited(tag).map(letters);
        assert_eq!(limited(Tag::NamedGroup(10)).as_deref(), Some("---"));
        assert_eq!(limited(Tag::Group).as_deref(), Some("r--"));
        assert_eq!(
            (limited(Tag::User(1000)), limited(Tag::Owner)),
            (None, None)
        );
        for bad in [&b""[..], b"\x02\0\0", b"\x02\0\0\0\x01", b"\x01\0\0\0"] {
            assert!(List::decode(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_mask_takes_nothing_from_those_who_are_named() {
        let mut list = List::of_mode(0o640);
        list.0.insert(Tag::User(7), 0o3);
        list.mend_mask(false);
        assert_eq!(list.0[&Tag::Mask], 0o7);
        list.0.remove(&Tag::User(7));
        list.mend_mask(false);
        assert_eq!(list, List::of_mode(0o640));
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for bad in [
            "",
            "user",
            "user:ada",
            "user:ada:rwxx",
            "user:ada:xwr",
            "user:nobody-here:r--",
            "mask:ada:r--",
            "all::r--",
            "user:ada:r--,user:1000:r--",
            "default:",
        ] {
            assert!(Lists::parse(bad, true, &users()).is_err(), "{bad}");
        }
        let removed = Lists::parse("user:ada,default:group:wheel:", false, &users()).unwrap();
        assert!(removed.access.has(Tag::User(1000)));
        assert!(removed.default.has(Tag::NamedGroup(10)));
    }

    #[test]
    fn lists_change_as_those_of_hdfs() {
        let old = Lists {
            access: List::of_mode(0o750),
            default: List::default(),
        };
        let more = old.modified(lists("user:ada:rw-,default:user:ada:r--"));
        assert_eq!(
            more,
            lists(
                "user::rwx,user:ada:rw-,group::r-x,mask::rwx,other::---,\
                 default:user::rwx,default:user:ada:r--,default:group::r-x,default:mask::r-x,default:other::---"
            )
        );
        assert!(more.check(true).is_ok() && more.check(false).is_err());
        assert_eq!(more.plain(), old);
        assert_eq!(more.without_default().default, List::default());
        let gone = Lists::parse("user:ada,default:user:ada", false, &users()).unwrap();
        let less = more.without(&gone);
        assert_eq!(less.access, old.access);
        assert_eq!(less.default, List::of_mode(0o750));
        let set = more.set(lists("user::r--,group::---,other::r--"));
        assert_eq!(
            (set.access, set.default),
            (List::of_mode(0o404), more.default.clone())
        );
        assert!(more.set(lists("user:ada:r--")).check(true).is_err());
    }
}
