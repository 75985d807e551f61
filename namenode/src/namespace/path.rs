//! From a [`Location`] to an inode or to a name in a directory, with search permission checked in each
//! directory on the way. Symbolic links in the middle are always followed, at the end as the operation says,
//! 40 at most.
//!
//! A path may not hold `..`: a client resolves it before it asks, as HDFS clients do. The target of a
//! symbolic link may: there the parent of the directory where the walk stands is meant, as POSIX has it.

use std::borrow::Cow;
use std::fmt::Write as _;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, SYMLINKS_MAX};
use cairn_protocol::messages::common::{Caller, InodeKind, Location};

use super::error::OpError;
use super::permission::{self, EXECUTE};
use super::{delegation, inode};
use crate::store::records::{DirentRecord, InodeRecord};
use crate::store::{self, Directory, Found, Read, StoreError};

/// Deepest directory that may be changed: bounds every walk up to the root.
pub(super) const DEPTH_MAX: usize = 4096;

/// An inode with its id.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub id: InodeId,
    pub inode: InodeRecord,
}

/// A name in a directory, and what it names now. The directory has been searched, so the caller may search
/// it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub parent: Node,
    pub name: Vec<u8>,
    pub dirent: Option<DirentRecord>,
    /// The path ends in a slash: only a directory will do.
    pub slash: bool,
}

impl Entry {
    /// What the name names.
    pub(super) fn existing(&self, location: &Location) -> Result<DirentRecord, OpError> {
        self.dirent
            .ok_or_else(|| failure(ErrorCode::NotFound, location))
    }
}

/// Where a walk came to rest.
pub(super) enum Stop {
    /// At an inode without a last name: the root, the start itself, or the end of a `..`.
    Here(Node),
    /// At the last name.
    Last(Entry),
    /// A directory in the middle does not exist; the walk goes on from [`Walk::enter`].
    Missing(Entry),
}

/// The inode at a location. `follow` says what a symbolic link at the end means; a trailing slash follows it
/// too.
pub(super) fn resolve(
    read: &impl Read,
    caller: &Caller,
    location: &Location,
    follow: bool,
) -> Result<Node, OpError> {
    if let Some(node) = shortcut(read, caller, location, follow)? {
        return Ok(node);
    }
    let mut walk = Walk::start(read, caller, location)?;
    let demands_directory = location.path.ends_with(b"/") || location.path.ends_with(b"/.");
    walk.follow_last = follow || demands_directory;
    match walk.advance(read)? {
        Stop::Here(node) => Ok(node),
        Stop::Missing(_) => Err(failure(ErrorCode::NotFound, location)),
        Stop::Last(entry) => {
            let node = load(read, entry.existing(location)?)?;
            if entry.slash && !inode::is_directory(&node.inode) {
                return Err(failure(ErrorCode::NotADirectory, location));
            }
            Ok(node)
        }
    }
}

/// The same for a plain path through directories that are remembered, or are from now on. `None` if it takes a real walk: symbolic
/// links, doubled slashes and the like.
fn shortcut(
    read: &impl Read,
    caller: &Caller,
    location: &Location,
    follow: bool,
) -> Result<Option<Node>, OpError> {
    check_text(location)?;
    let path = &location.path;
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let mut components = path.split(|&byte| byte == b'/');
    if components.clone().any(|name| matches!(name, b"" | b".")) {
        return Ok(None);
    }
    let name = components.next_back().unwrap_or_default();
    let Some((mut id, mut directory)) = known_start(read, start_of(location))? else {
        return Ok(None);
    };
    for component in components {
        require_names(read, caller, (id, &directory), location)?;
        match known_step(read, id, component)? {
            Some(step) => (id, directory) = step,
            None => return Ok(None),
        }
    }
    require_names(read, caller, (id, &directory), location)?;
    let dirent = store::dirent::get(read, id, name)?;
    let dirent = dirent.ok_or_else(|| failure(ErrorCode::NotFound, location))?;
    if follow && dirent.kind == InodeKind::Symlink as i32 {
        return Ok(None);
    }
    load(read, dirent).map(Some)
}

/// Where a shortcut begins; `None` unless it is a directory.
fn known_start(read: &impl Read, id: InodeId) -> Result<Option<(InodeId, Directory)>, StoreError> {
    if let Found::Known(id, directory) = read.known_directory(id) {
        return Ok(Some((id, directory)));
    }
    let found = store::inode::get(read, id)?;
    let directory = found.as_ref().and_then(Directory::of);
    if let Some(directory) = directory {
        read.remember(None, id, directory);
    }
    Ok(directory.map(|directory| (id, directory)))
}

/// The directory of this name; `None` unless it is one.
fn known_step(
    read: &impl Read,
    parent: InodeId,
    name: &[u8],
) -> Result<Option<(InodeId, Directory)>, OpError> {
    if let Found::Known(id, directory) = read.known_entry(parent, name) {
        return Ok(Some((id, directory)));
    }
    let Some(dirent) = store::dirent::get(read, parent, name)? else {
        return Ok(None);
    };
    if dirent.kind != InodeKind::Directory as i32 {
        return Ok(None);
    }
    let node = load(read, dirent)?;
    let directory = Directory::of(&node.inode);
    if let Some(directory) = directory {
        read.remember(Some((parent, name)), node.id, directory);
    }
    Ok(directory.map(|directory| (node.id, directory)))
}

/// Fails unless the caller may look names up in the directory, and nobody else has it for itself.
fn require_names(
    read: &impl Read,
    caller: &Caller,
    (id, directory): (InodeId, &Directory),
    location: &Location,
) -> Result<(), OpError> {
    if !permission::may_search(caller, directory) {
        return Err(failure(ErrorCode::PermissionDenied, location));
    }
    delegation::check_names(read, caller, id, directory.delegated_to)
}

/// The regular file at a location.
pub(super) fn resolve_file(
    read: &impl Read,
    caller: &Caller,
    location: &Location,
) -> Result<Node, OpError> {
    let node = resolve(read, caller, location, true)?;
    require_file(location, &node.inode)?;
    Ok(node)
}

/// Fails unless the inode is a regular file.
pub(super) fn require_file(location: &Location, found: &InodeRecord) -> Result<(), OpError> {
    if inode::is_file(found) {
        Ok(())
    } else if inode::is_directory(found) {
        Err(failure(ErrorCode::IsADirectory, location))
    } else {
        Err(OpError::new(
            ErrorCode::InvalidArgument,
            format!("{} is not a regular file", show(location)),
        ))
    }
}

/// The name at a location, for an operation that changes its directory. A symbolic link at the end is the
/// name itself. `Err` of `unnamed` if the location has no last name (the root, an inode itself).
pub(super) fn resolve_entry(
    read: &impl Read,
    caller: &Caller,
    location: &Location,
    unnamed: ErrorCode,
) -> Result<Entry, OpError> {
    let mut walk = Walk::start_change(read, caller, location)?;
    match walk.advance(read)? {
        Stop::Last(entry) => Ok(entry),
        Stop::Missing(_) => Err(failure(ErrorCode::NotFound, location)),
        Stop::Here(_) => Err(failure(unnamed, location)),
    }
}

/// The same for a second name of which nothing has been changed since the first was resolved. Names in one directory, as most renames
/// have them, take one walk.
pub(super) fn resolve_second_entry(
    read: &impl Read,
    caller: &Caller,
    location: &Location,
    unnamed: ErrorCode,
    (first_location, first): (&Location, &Entry),
) -> Result<Entry, OpError> {
    let Some(name) = name_beside(location, first_location) else {
        return resolve_entry(read, caller, location, unnamed);
    };
    check_text(location)?;
    let dirent = store::dirent::get(read, first.parent.id, name)?;
    Ok(Entry {
        parent: first.parent.clone(),
        name: name.to_vec(),
        dirent,
        slash: false,
    })
}

/// The last name of a location, if it follows on the same path as the last name of the other: only the names may differ, and
/// both have to be plain ones, at the very end.
fn name_beside<'a>(location: &'a Location, other: &Location) -> Option<&'a [u8]> {
    let (directory, name) = split_name(location)?;
    let (other_directory, _) = split_name(other)?;
    (start_of(location) == start_of(other) && directory == other_directory).then_some(name)
}

/// A path up to its last slash, and the plain name behind it.
fn split_name(location: &Location) -> Option<(&[u8], &[u8])> {
    let path = &location.path;
    let at = path.iter().rposition(|&byte| byte == b'/');
    let (directory, name) = path.split_at(at.map_or(0, |slash| slash + 1));
    (!matches!(name, b"" | b"." | b"..")).then_some((directory, name))
}

/// A walk along a path. It holds no borrow of the state, so that missing directories can be made on the way.
pub(super) struct Walk<'a> {
    caller: &'a Caller,
    location: &'a Location,
    /// The path, or what it became by symbolic links; walked through `at`.
    path: Cow<'a, [u8]>,
    at: usize,
    node: Node,
    links: usize,
    /// Whether a symbolic link at the end is followed.
    pub follow_last: bool,
}

impl<'a> Walk<'a> {
    /// Checks the path as text and loads the start.
    pub(super) fn start(
        read: &impl Read,
        caller: &'a Caller,
        location: &'a Location,
    ) -> Result<Self, OpError> {
        check_text(location)?;
        let id = start_of(location);
        let found = store::inode::get(read, id)?;
        let found = found.ok_or_else(|| failure(ErrorCode::NotFound, location))?;
        Ok(Self {
            caller,
            location,
            path: Cow::Borrowed(&location.path),
            at: 0,
            node: Node { id, inode: found },
            links: 0,
            follow_last: false,
        })
    }

    /// The same, for an operation that changes a directory: one in a detached tree is gone already, but for the session that has it for
    /// itself, which may have taken things out of it before that.
    pub(super) fn start_change(
        read: &impl Read,
        caller: &'a Caller,
        location: &'a Location,
    ) -> Result<Self, OpError> {
        let walk = Self::start(read, caller, location)?;
        let own = caller.session != 0 && walk.node.inode.delegated_to == caller.session;
        if walk.node.id != InodeId::ROOT && inode::is_directory(&walk.node.inode) && !own {
            let attached = ancestors(read, &walk.node, |_| false)?;
            if attached != Ancestry::Root {
                return Err(attached.failure(location));
            }
        }
        Ok(walk)
    }

    /// Walks until the last name, a missing directory, or the end.
    pub(super) fn advance(&mut self, read: &impl Read) -> Result<Stop, OpError> {
        while let Some(component) = self.next_component() {
            self.check_search()?;
            delegation::check(read, self.caller, &self.node)?;
            let name = &self.path[component.start..component.end];
            if name == b".." {
                self.step_up(read)?;
                continue;
            }
            check_name(name, self.location)?;
            let dirent = store::dirent::get(read, self.node.id, name)?;
            match dirent {
                Some(dirent)
                    if dirent.kind == InodeKind::Symlink as i32
                        && (!component.last || self.follow_last) =>
                {
                    self.follow(read, load(read, dirent)?, component.slash)?;
                }
                Some(dirent) if !component.last => self.node = load(read, dirent)?,
                _ => {
                    let (parent, name) = (self.node.clone(), name.to_vec());
                    let entry = Entry {
                        parent,
                        name,
                        dirent,
                        slash: component.slash,
                    };
                    return Ok(match component.last {
                        true => Stop::Last(entry),
                        false => Stop::Missing(entry),
                    });
                }
            }
        }
        Ok(Stop::Here(self.node.clone()))
    }

    /// Goes on in a directory that was just made for [`Stop::Missing`].
    pub(super) fn enter(&mut self, node: Node) {
        self.node = node;
    }

    fn next_component(&mut self) -> Option<Component> {
        let start = self.at + meaningless(&self.path[self.at..]);
        let rest = &self.path[start..];
        if rest.is_empty() {
            self.at = start;
            return None;
        }
        let end = start
            + rest
                .iter()
                .position(|&byte| byte == b'/')
                .unwrap_or(rest.len());
        self.at = end + meaningless(&self.path[end..]);
        let (slash, last) = (end < self.path.len(), self.at == self.path.len());
        Some(Component {
            start,
            end,
            slash,
            last,
        })
    }

    fn check_search(&self) -> Result<(), OpError> {
        if !inode::is_directory(&self.node.inode) {
            return Err(failure(ErrorCode::NotADirectory, self.location));
        }
        if !permission::allows(self.caller, &self.node.inode, EXECUTE) {
            return Err(failure(ErrorCode::PermissionDenied, self.location));
        }
        Ok(())
    }

    fn step_up(&mut self, read: &impl Read) -> Result<(), OpError> {
        if self.node.id == InodeId::ROOT {
            return Ok(());
        }
        // The parent of a detached tree may be gone.
        self.jump(read, InodeId(self.node.inode.parent))
    }

    fn jump(&mut self, read: &impl Read, id: InodeId) -> Result<(), OpError> {
        let found = store::inode::get(read, id)?;
        let inode = found.ok_or_else(|| failure(ErrorCode::NotFound, self.location))?;
        self.node = Node { id, inode };
        Ok(())
    }

    /// Puts a symbolic link's target in the place of its name.
    fn follow(&mut self, read: &impl Read, link: Node, slash: bool) -> Result<(), OpError> {
        self.links += 1;
        if self.links > SYMLINKS_MAX {
            return Err(failure(ErrorCode::TooManyLinks, self.location));
        }
        let mut path = link.inode.symlink_target;
        if path.first() == Some(&b'/') && self.node.id != InodeId::ROOT {
            self.jump(read, InodeId::ROOT)?;
        }
        if slash {
            path.push(b'/');
        }
        path.extend_from_slice(&self.path[self.at..]);
        self.path = Cow::Owned(path);
        self.at = 0;
        Ok(())
    }
}

/// Where in the path a component lies, whether a slash follows it, and whether it is the last that means
/// something.
struct Component {
    start: usize,
    end: usize,
    slash: bool,
    last: bool,
}

/// How many bytes of slashes and `.` components `path` begins with, where a component may begin.
fn meaningless(path: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match &path[at..] {
            [b'/', ..] | [b'.'] => at += 1,
            [b'.', b'/', ..] => at += 2,
            _ => return at,
        }
    }
}

/// Where the walk to a location begins.
fn start_of(location: &Location) -> InodeId {
    if location.inode == 0 || location.path.starts_with(b"/") {
        InodeId::ROOT
    } else {
        InodeId(location.inode)
    }
}

/// The inode that a directory entry names.
pub(super) fn load(read: &impl Read, dirent: DirentRecord) -> Result<Node, OpError> {
    let id = InodeId(dirent.inode);
    match store::inode::get(read, id)? {
        Some(inode) => Ok(Node { id, inode }),
        None => Err(
            StoreError::Inconsistent(format!("an entry names inode {id}, which is gone")).into(),
        ),
    }
}

/// What lies above a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ancestry {
    /// The root, and nothing that was looked for.
    Root,
    /// A directory that was looked for.
    Found,
    /// A detached tree's end: it is on its way out.
    Detached,
    /// More levels than anybody may change.
    TooDeep,
}

impl Ancestry {
    /// Why a directory cannot be changed that is not simply below the root.
    pub(super) fn failure(self, location: &Location) -> OpError {
        match self {
            Self::TooDeep => OpError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "{} is more than {DEPTH_MAX} directories deep",
                    show(location)
                ),
            ),
            Self::Detached | Self::Root | Self::Found => failure(ErrorCode::NotFound, location),
        }
    }
}

/// Walks from a directory up to the root; `wanted` ends the walk, at the directory itself or above.
pub(super) fn ancestors(
    read: &impl Read,
    from: &Node,
    wanted: impl Fn(InodeId) -> bool,
) -> Result<Ancestry, OpError> {
    let mut node = from.clone();
    for _ in 0..DEPTH_MAX {
        if wanted(node.id) {
            return Ok(Ancestry::Found);
        }
        if node.id == InodeId::ROOT {
            return Ok(Ancestry::Root);
        }
        if node.inode.nlink == 0 {
            return Ok(Ancestry::Detached);
        }
        let id = InodeId(node.inode.parent);
        match store::inode::get(read, id)? {
            Some(inode) => node = Node { id, inode },
            None => return Ok(Ancestry::Detached),
        }
    }
    Ok(Ancestry::TooDeep)
}

/// Checks what needs no look at the state: length, NUL, `..`.
fn check_text(location: &Location) -> Result<(), OpError> {
    let path = &location.path;
    if path.len() > PATH_BYTES_MAX {
        let message = format!(
            "path of {} bytes, at most {PATH_BYTES_MAX} are allowed: use shorter names or fewer directories",
            path.len()
        );
        return Err(OpError::new(ErrorCode::NameTooLong, message));
    }
    if path.contains(&0) {
        let message = format!("{} holds a NUL byte, which no name may", show(location));
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    for component in path.split(|&byte| byte == b'/') {
        check_name(component, location)?;
        if component == b".." {
            let message = format!("{} holds `..`: send the path without it", show(location));
            return Err(OpError::new(ErrorCode::InvalidArgument, message));
        }
    }
    Ok(())
}

fn check_name(name: &[u8], location: &Location) -> Result<(), OpError> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "{}: name of {} bytes, at most {NAME_BYTES_MAX} are allowed: choose a shorter one",
        show(location),
        name.len()
    );
    Err(OpError::new(ErrorCode::NameTooLong, message))
}

/// A failure about a location.
pub(super) fn failure(code: ErrorCode, location: &Location) -> OpError {
    OpError::new(code, show(location))
}

/// A location for people: `/a/b`, or `inode 7/name`. What is not UTF-8 or would upset a terminal is escaped.
pub(super) fn show(location: &Location) -> String {
    let mut text = String::with_capacity(location.path.len());
    if start_of(location) != InodeId::ROOT {
        text.push_str("inode ");
        text.push_str(&location.inode.to_string());
    }
    if !location.path.starts_with(b"/") && (text.is_empty() || !location.path.is_empty()) {
        text.push('/');
    }
    text.push_str(&show_bytes(&location.path));
    text
}

/// Bytes of a name for people.
pub(super) fn show_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{meaningless, name_beside, show};
    use cairn_protocol::ids::InodeId;
    use cairn_protocol::messages::common::Location;

    #[test]
    fn slashes_and_dots_mean_nothing() {
        for (path, count) in [
            ("", 0),
            ("a", 0),
            ("/a", 1),
            ("//./a", 4),
            ("./", 2),
            (".", 1),
            ("/.", 2),
            ("..", 0),
            ("...", 0),
            ("/.hidden", 1),
            ("./.", 3),
        ] {
            assert_eq!(meaningless(path.as_bytes()), count, "{path:?}");
        }
    }

    #[test]
    fn names_on_one_path_lie_beside_each_other() {
        let beside = |first: &str, second: &str| {
            let (first, second) = (Location::path(first), Location::path(second));
            name_beside(&second, &first).map(<[u8]>::to_vec)
        };
        assert_eq!(beside("/a/b", "/a/c"), Some(b"c".to_vec()));
        assert_eq!(beside("/b", "/c"), Some(b"c".to_vec()));
        assert_eq!(beside("b", "c"), Some(b"c".to_vec()));
        for (first, second) in [
            ("/a/b", "/d/c"),
            ("/a/b", "/a/d/c"),
            ("/a/b", "/a/c/"),
            ("/a/b/", "/a/c"),
            ("/a/b", "/a/."),
            ("/a/.", "/a/b"),
            ("/a/b", "/a/c/."),
            ("/a/b/..", "/a/b/c"),
            ("/a", "/"),
            ("/", "/a"),
            ("/a", ""),
        ] {
            assert_eq!(beside(first, second), None, "{first} {second}");
        }
        let (here, there) = (
            Location::entry(InodeId(7), "a"),
            Location::entry(InodeId(8), "b"),
        );
        assert_eq!(name_beside(&here, &there), None);
        assert_eq!(name_beside(&here, &Location::path("/b")), None);
        let sibling = Location::entry(InodeId(7), "b");
        assert_eq!(name_beside(&sibling, &here), Some(b"b".as_slice()));
    }

    #[test]
    fn places_are_shown_as_people_write_them() {
        assert_eq!(show(&Location::path("/a/b")), "/a/b");
        assert_eq!(show(&Location::path("a/b")), "/a/b");
        assert_eq!(show(&Location::path("")), "/");
        assert_eq!(show(&Location::inode(InodeId(7))), "inode 7");
        assert_eq!(show(&Location::entry(InodeId(7), "name")), "inode 7/name");
        assert_eq!(show(&Location::path(b"/a\xff\n".to_vec())), "/a\\xff\\n");
    }
}
