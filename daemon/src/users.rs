//! Users and groups of this machine, by name and number, from `/etc/passwd` and `/etc/group`.
//!
//! The cluster knows numbers only; names are this machine's. Numbers without a name are shown and taken as they are.

use std::collections::BTreeMap;
use std::path::Path;

/// A name that this machine does not know, or a text that names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownName {
    /// No such user.
    #[error("no user `{0}` on this machine; a number is taken as it is")]
    User(String),
    /// No such group.
    #[error("no group `{0}` on this machine; a number is taken as it is")]
    Group(String),
    /// A user whose own group is asked for and unknown.
    #[error("user `{0}` has no group here")]
    NoGroup(String),
    /// Neither.
    #[error("`{0}` names neither a user nor a group")]
    Nobody(String),
}

/// The numbers of a user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserIds {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Other groups.
    pub groups: Vec<u32>,
}

/// Names and numbers, both ways.
#[derive(Debug, Default)]
pub struct Users {
    users: Names,
    groups: Names,
    /// Primary group by user number.
    primary: BTreeMap<u32, u32>,
    /// Group numbers by name of a member.
    memberships: BTreeMap<String, Vec<u32>>,
}

#[derive(Debug, Default)]
struct Names {
    by_name: BTreeMap<String, u32>,
    by_number: BTreeMap<u32, String>,
}

impl Names {
    fn add(&mut self, name: &str, number: u32) {
        // The first entry for a number gives its name, as in the C library.
        self.by_number
            .entry(number)
            .or_insert_with(|| name.to_owned());
        self.by_name.entry(name.to_owned()).or_insert(number);
    }

    fn name(&self, number: u32) -> String {
        self.by_number
            .get(&number)
            .cloned()
            .unwrap_or_else(|| number.to_string())
    }

    fn number(&self, text: &str) -> Option<u32> {
        self.by_name
            .get(text)
            .copied()
            .or_else(|| text.parse().ok())
    }
}

impl Users {
    /// This machine's. A file that cannot be read has no names.
    pub fn load() -> Self {
        let read = |path: &str| {
            let bytes = std::fs::read(Path::new(path)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self::parse(&read("/etc/passwd"), &read("/etc/group"))
    }

    /// Of the texts of `/etc/passwd` and `/etc/group`; lines that make no sense are left out.
    pub fn parse(passwd: &str, group: &str) -> Self {
        let mut all = Self::default();
        for line in passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, _, uid, gid, ..] = fields[..]
                && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
            {
                all.users.add(name, uid);
                all.primary.entry(uid).or_insert(gid);
            }
        }
        for line in group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, ref rest @ ..] = fields[..] else {
                continue;
            };
            let Ok(gid) = gid.parse() else { continue };
            all.groups.add(name, gid);
            let members = rest.first().copied().unwrap_or_default();
            for member in members.split(',').filter(|member| !member.is_empty()) {
                all.memberships
                    .entry(member.to_owned())
                    .or_default()
                    .push(gid);
            }
        }
        all
    }

    /// A user's name, or the number.
    pub fn user_name(&self, uid: u32) -> String {
        self.users.name(uid)
    }

    /// A group's name, or the number.
    pub fn group_name(&self, gid: u32) -> String {
        self.groups.name(gid)
    }

    /// A user by name or number.
    pub fn uid(&self, text: &str) -> Result<u32, UnknownName> {
        let uid = self.users.number(text);
        uid.ok_or_else(|| UnknownName::User(text.to_owned()))
    }

    /// A group by name or number.
    pub fn gid(&self, text: &str) -> Result<u32, UnknownName> {
        let gid = self.groups.number(text);
        gid.ok_or_else(|| UnknownName::Group(text.to_owned()))
    }

    /// `user`, `user:group`, `user:` (the user's own group) or `:group`; what is not named stays.
    pub fn owner(&self, text: &str) -> Result<(Option<u32>, Option<u32>), UnknownName> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let uid = if user.is_empty() {
            None
        } else {
            Some(self.uid(user)?)
        };
        let gid = match (group, uid) {
            (None, _) => None,
            (Some(""), Some(uid)) => Some(
                *self
                    .primary
                    .get(&uid)
                    .ok_or_else(|| UnknownName::NoGroup(user.to_owned()))?,
            ),
            (Some(""), None) => None,
            (Some(group), _) => Some(self.gid(group)?),
        };
        if uid.is_none() && gid.is_none() {
            return Err(UnknownName::Nobody(text.to_owned()));
        }
        Ok((uid, gid))
    }

    /// The numbers of a user, by name or number.
    pub fn ids(&self, user: &str) -> Result<UserIds, UnknownName> {
        let uid = self.uid(user)?;
        let gid = self.primary.get(&uid).copied().unwrap_or(uid);
        let groups = self
            .memberships
            .get(&self.user_name(uid))
            .cloned()
            .unwrap_or_default();
        Ok(UserIds { uid, gid, groups })
    }
}

#[cfg(test)]
mod tests {
    use super::Users;

    fn users() -> Users {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nada:x:1000:100::/home/ada:/bin/sh\nbroken\nx:y:z:0:\n";
        Users::parse(
            passwd,
            "root:x:0:\nusers:x:100:\nwheel:x:10:ada,bob\nbroken:x\n",
        )
    }

    #[test]
    fn owners_are_named_or_numbered() {
        let users = users();
        assert_eq!(users.owner("ada").unwrap(), (Some(1000), None));
        assert_eq!(users.owner("ada:wheel").unwrap(), (Some(1000), Some(10)));
        assert_eq!(users.owner("ada:").unwrap(), (Some(1000), Some(100)));
        assert_eq!(users.owner(":7").unwrap(), (None, Some(7)));
        assert_eq!(users.owner("42:43").unwrap(), (Some(42), Some(43)));
        for bad in ["", ":", "nobody-here", "ada:nogroup-here", "42:", "-1"] {
            assert!(users.owner(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_without_names_are_shown_as_they_are() {
        assert_eq!(users().user_name(1000), "ada");
        assert_eq!(users().user_name(5), "5");
        assert_eq!(users().group_name(10), "wheel");
    }

    #[test]
    fn a_user_comes_with_all_groups() {
        let ada = users().ids("ada").unwrap();
        assert_eq!((ada.uid, ada.gid, ada.groups), (1000, 100, vec![10]));
        assert_eq!(users().ids("77").unwrap().gid, 77);
    }
}
