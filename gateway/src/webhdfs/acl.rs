//! Access control lists, as HDFS words them: `user:ada:rw-,group::r--,default:other::---`. The namenode keeps them, as extended
//! attributes in the form of Linux, and obeys them. Whoever changes a list reads it first: of two at the same time the last one's stands.

use std::collections::BTreeMap;

use cairn_daemon::users::Users;
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use cairn_protocol::messages::operation::XattrMode;
use serde_json::json;

use super::call::{empty, json_answer};
use super::{Answer, Call, Exception, Refusal};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

const VERSION: [u8; 4] = 2_u32.to_le_bytes();
const ENTRY_BYTES: usize = 8;
const NO_ID: u32 = u32::MAX;

/// Of one list, as in HDFS.
const ENTRIES_MAX: usize = 32;

/// Whom an entry is about, in the order in which a list has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner,
    User(u32),
    Group,
    NamedGroup(u32),
    Mask,
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

/// Who may what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct List(BTreeMap<Tag, u16>);

impl List {
    fn of_mode(mode: u32) -> Self {
        let bits = |shift: u32| (mode >> shift & 7) as u16;
        Self(BTreeMap::from([
            (Tag::Owner, bits(6)),
            (Tag::Group, bits(3)),
            (Tag::Other, bits(0)),
        ]))
    }

    /// `None` if that is no list.
    fn decode(bytes: &[u8]) -> Option<Self> {
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

    fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        for (tag, permissions) in &self.0 {
            let (number, id) = tag.numbers();
            bytes.extend(number.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    fn has(&self, tag: Tag) -> bool {
        self.0.contains_key(&tag)
    }

    fn names_somebody(&self) -> bool {
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

    /// As HDFS writes it, but for what a mode says as well.
    fn texts(&self, is_default: bool, users: &Users) -> Vec<String> {
        if !is_default && !self.names_somebody() {
            return Vec::new();
        }
        let told = |tag: &Tag| is_default || tag.is_named() || *tag == Tag::Group;
        let entries = self.0.iter().filter(|(tag, _)| told(tag));
        let scope = if is_default { "default:" } else { "" };
        entries
            .map(|(tag, permissions)| format!("{scope}{}", text(*tag, *permissions, users)))
            .collect()
    }
}

fn text(tag: Tag, permissions: u16, users: &Users) -> String {
    let (kind, name) = match tag {
        Tag::Owner => ("user", String::new()),
        Tag::User(uid) => ("user", users.user_name(uid)),
        Tag::Group => ("group", String::new()),
        Tag::NamedGroup(gid) => ("group", users.group_name(gid)),
        Tag::Mask => ("mask", String::new()),
        Tag::Other => ("other", String::new()),
    };
    let letter = |bit: u16, letter: char| if permissions & bit == 0 { '-' } else { letter };
    let (read, write, execute) = (letter(4, 'r'), letter(2, 'w'), letter(1, 'x'));
    format!("{kind}:{name}:{read}{write}{execute}")
}

/// Entries of a request, for the inode itself and for what is made in it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Spec {
    access: List,
    default: List,
}

impl Spec {
    /// `permitted`: each entry says what is permitted; else none need to, and whom they are about is all that counts.
    fn parse(text: &str, permitted: bool, users: &Users) -> Result<Self, String> {
        let mut spec = Self::default();
        for entry in text.split(',') {
            let (list, rest) = match entry.strip_prefix("default:") {
                Some(rest) => (&mut spec.default, rest),
                None => (&mut spec.access, entry),
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
        Ok(spec)
    }

    fn of(call: &Call, permitted: bool) -> Result<Self, Refusal> {
        let text = String::from_utf8_lossy(call.params.required("aclspec")?).into_owned();
        let parsed = Self::parse(&text, permitted, &call.users);
        parsed.map_err(|why| Refusal::parameter("aclspec", why))
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

fn invalid(why: &str) -> Refusal {
    Refusal::new(Exception::Acl, format!("Invalid ACL: {why}"))
}

/// The lists of a path.
struct Lists {
    attributes: Attributes,
    access: List,
    default: List,
}

impl Lists {
    async fn read(call: &Call) -> Result<Self, Refusal> {
        let attributes = call.fs.stat(call.place()).await;
        let attributes = attributes.map_err(|error| call.fail(error))?;
        let access = kept(call, ACCESS).await?;
        let default = kept(call, DEFAULT).await?;
        Ok(Self {
            access: access.unwrap_or_else(|| List::of_mode(attributes.mode)),
            default: default.unwrap_or_default(),
            attributes,
        })
    }

    /// Puts others into the place of these.
    async fn replace(self, call: &Call, access: List, default: List) -> Answer {
        let new = Self {
            attributes: self.attributes.clone(),
            access,
            default,
        };
        new.write(call, &self).await
    }

    /// Checks and keeps what differs from `old`.
    async fn write(&self, call: &Call, old: &Self) -> Answer {
        let is_directory = self.attributes.kind == InodeKind::Directory as i32;
        if !self.default.0.is_empty() && !is_directory {
            return Err(invalid("only directories may have a default ACL."));
        }
        for list in [&self.access, &self.default] {
            let complete = BASE.iter().all(|tag| list.has(*tag));
            if !(list.0.is_empty() || complete) {
                return Err(invalid("the user, group and other entries are required."));
            }
            if list.names_somebody() && !list.has(Tag::Mask) {
                return Err(invalid("mask is required and cannot be deleted."));
            }
            if list.0.len() > ENTRIES_MAX {
                let count = list.0.len();
                let why =
                    format!("ACL has {count} entries, which exceeds maximum of {ENTRIES_MAX}.");
                return Err(invalid(&why));
            }
        }
        if self.access != old.access {
            keep(call, ACCESS, &self.access).await?;
        }
        if self.default != old.default {
            keep(call, DEFAULT, &self.default).await?;
        }
        Ok(empty())
    }
}

async fn kept(call: &Call, name: &str) -> Result<Option<List>, Refusal> {
    match call.fs.get_xattr(call.place(), name, true).await {
        Ok(bytes) => match List::decode(&bytes) {
            Some(list) => Ok(Some(list)),
            None => Err(Refusal::new(Exception::Io, format!("{name} is no list"))),
        },
        Err(error) if error.code() == ErrorCode::NoAttribute => Ok(None),
        Err(error) => Err(call.fail(error)),
    }
}

/// A list that says no more than a mode becomes the mode.
async fn keep(call: &Call, name: &str, list: &List) -> Result<(), Refusal> {
    let kept = if list.0.is_empty() {
        call.fs.remove_xattr(call.place(), name, true).await
    } else {
        let set = call
            .fs
            .set_xattr(call.place(), name, list.encode(), XattrMode::Set, true);
        set.await
    };
    match kept {
        // Somebody else took it away meanwhile.
        Err(error) if error.code() == ErrorCode::NoAttribute => Ok(()),
        kept => kept.map_err(|error| call.fail(error)),
    }
}

pub(super) async fn status(call: &Call) -> Answer {
    let lists = Lists::read(call).await?;
    let mut entries = lists.access.texts(false, &call.users);
    entries.extend(lists.default.texts(true, &call.users));
    let attributes = &lists.attributes;
    Ok(json_answer(json!({ "AclStatus": {
        "entries": entries,
        "group": call.users.group_name(attributes.gid),
        "owner": call.users.user_name(attributes.uid),
        "permission": format!("{:o}", attributes.mode & 0o777),
        "stickyBit": attributes.mode & 0o1000 != 0,
    }})))
}

/// Each of the two lists that the request says anything of is replaced.
pub(super) async fn set(call: &Call) -> Answer {
    let old = Lists::read(call).await?;
    let spec = Spec::of(call, true)?;
    let replaced = |new: List, old: &List| {
        if new.0.is_empty() {
            return old.clone();
        }
        let given = new.has(Tag::Mask);
        let mut new = new;
        new.mend_mask(given);
        new
    };
    let access = replaced(spec.access, &old.access);
    let mut default = replaced(spec.default, &old.default);
    default.complete(&access);
    old.replace(call, access, default).await
}

pub(super) async fn modify(call: &Call) -> Answer {
    let old = Lists::read(call).await?;
    let spec = Spec::of(call, true)?;
    let merged = |new: List, old: &List, access: &List| {
        let mut list = old.clone();
        if new.0.is_empty() {
            return list;
        }
        let given = new.has(Tag::Mask);
        list.0.extend(new.0);
        list.complete(access);
        list.mend_mask(given);
        list
    };
    let access = merged(spec.access, &old.access, &old.access);
    let default = merged(spec.default, &old.default, &access);
    old.replace(call, access, default).await
}

pub(super) async fn remove_entries(call: &Call) -> Answer {
    let old = Lists::read(call).await?;
    let spec = Spec::of(call, false)?;
    let without = |gone: &List, old: &List, access: Option<&List>| {
        let mut list = old.clone();
        if gone.0.is_empty() {
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
    let access = without(&spec.access, &old.access, None);
    let default = without(&spec.default, &old.default, Some(&access));
    old.replace(call, access, default).await
}

pub(super) async fn remove_default(call: &Call) -> Answer {
    let old = Lists::read(call).await?;
    let access = old.access.clone();
    old.replace(call, access, List::default()).await
}

/// What owner, group and others may stays.
pub(super) async fn remove(call: &Call) -> Answer {
    let old = Lists::read(call).await?;
    let mut access = old.access.clone();
    access.0.retain(|tag, _| BASE.contains(tag));
    old.replace(call, access, List::default()).await
}

#[cfg(test)]
mod tests {
    use cairn_daemon::users::Users;

    use super::{List, Spec, Tag};

    fn users() -> Users {
        Users::parse("ada:x:1000:100::/:/\n", "wheel:x:10:ada\n")
    }

    #[test]
    fn lists_are_written_as_they_are_read() {
        let text = "user::rwx,user:ada:r--,group::r-x,group:wheel:-w-,mask::rwx,other::---";
        let spec = Spec::parse(text, true, &users()).unwrap();
        let list = List::decode(&spec.access.encode()).unwrap();
        assert_eq!(list, spec.access);
        let told = ["user:ada:r--", "group::r-x", "group:wheel:-w-"];
        assert_eq!(list.texts(false, &users()), told);
        let defaults = list.texts(true, &users());
        assert_eq!(
            (defaults.len(), defaults[0].as_str()),
            (6, "default:user::rwx")
        );
        assert!(List::of_mode(0o750).texts(false, &users()).is_empty());
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
            assert!(Spec::parse(bad, true, &users()).is_err(), "{bad}");
        }
        let removed = Spec::parse("user:ada,default:group:wheel:", false, &users()).unwrap();
        assert!(removed.access.has(Tag::User(1000)));
        assert!(removed.default.has(Tag::NamedGroup(10)));
    }
}
