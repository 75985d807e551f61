//! Places in the namespace as callers name them, and the checks made before anything is sent.
//!
//! Paths are bytes and start with `/`. `.`, `..` and doubled slashes are resolved lexically, before symbolic links are
//! followed: `/a/link/..` is `/a`, and `..` above the root stays at the root. A shell does the same; the kernel, which
//! resolves names itself, asks by inode and never sends `..`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cairn_protocol::ids::InodeId;
use cairn_protocol::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};
use cairn_protocol::messages::common::Location;
use cairn_protocol::{ErrorCode, Failure};

use crate::error::{Error, Result, Subject};

/// A path, an inode, or a name in an inode.
///
/// ```
/// use cairn_client::Place;
/// use cairn_protocol::ids::InodeId;
///
/// let by_path = Place::from("/logs/today");
/// let by_inode = Place::from(InodeId::ROOT);
/// let by_name = Place::entry(InodeId::ROOT, b"logs");
/// assert_ne!(by_path, by_inode);
/// assert_ne!(by_inode, by_name);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// An absolute path.
    Path(Vec<u8>),
    /// An inode itself.
    Inode(InodeId),
    /// A name in a directory.
    Entry(InodeId, Vec<u8>),
}

impl Place {
    /// A name in a directory.
    pub fn entry(parent: InodeId, name: impl Into<Vec<u8>>) -> Self {
        Self::Entry(parent, name.into())
    }

    /// What errors about this place name.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Path(path) => Subject::Path(path.clone()),
            Self::Inode(inode) => Subject::Inode(*inode),
            Self::Entry(_, name) => Subject::Path(name.clone()),
        }
    }

    /// Checked and ready to be sent.
    pub(crate) fn resolve(&self) -> Result<(Location, Subject)> {
        let subject = self.subject();
        let location = match self {
            Self::Path(path) => normalise(path).map(Location::path),
            Self::Inode(inode) => Ok(Location::inode(*inode)),
            Self::Entry(parent, name) => {
                check_name(name).map(|()| Location::entry(*parent, name.as_slice()))
            }
        };
        match location {
            Ok(location) => Ok((location, subject)),
            Err(failure) => Err(Error::Refused { subject, failure }),
        }
    }
}

impl From<&str> for Place {
    fn from(path: &str) -> Self {
        Self::Path(path.as_bytes().to_vec())
    }
}

impl From<&String> for Place {
    fn from(path: &String) -> Self {
        path.as_str().into()
    }
}

impl From<String> for Place {
    fn from(path: String) -> Self {
        Self::Path(path.into_bytes())
    }
}

impl From<&[u8]> for Place {
    fn from(path: &[u8]) -> Self {
        Self::Path(path.to_vec())
    }
}

impl From<Vec<u8>> for Place {
    fn from(path: Vec<u8>) -> Self {
        Self::Path(path)
    }
}

impl From<&Vec<u8>> for Place {
    fn from(path: &Vec<u8>) -> Self {
        Self::Path(path.clone())
    }
}

impl From<&OsStr> for Place {
    fn from(path: &OsStr) -> Self {
        path.as_bytes().into()
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        path.as_os_str().into()
    }
}

impl From<&PathBuf> for Place {
    fn from(path: &PathBuf) -> Self {
        path.as_os_str().into()
    }
}

impl From<InodeId> for Place {
    fn from(inode: InodeId) -> Self {
        Self::Inode(inode)
    }
}

impl From<&Place> for Place {
    fn from(place: &Place) -> Self {
        place.clone()
    }
}

/// The path without `.`, `..` and doubled or trailing slashes.
///
/// # Errors
/// `InvalidArgument` for a relative path or one with NUL, `NameTooLong` beyond the limits of names and paths.
pub fn normalise(path: &[u8]) -> std::result::Result<Vec<u8>, Failure> {
    if path.first() != Some(&b'/') {
        let message = if path.is_empty() {
            "a path is not empty"
        } else {
            "a path starts with /"
        };
        return Err(Failure::new(ErrorCode::InvalidArgument, message));
    }
    if path.contains(&0) {
        return Err(Failure::new(
            ErrorCode::InvalidArgument,
            "a path has no NUL byte",
        ));
    }
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop();
            }
            name => {
                check_length(name)?;
                components.push(name);
            }
        }
    }
    let mut normal = Vec::with_capacity(path.len());
    for component in components {
        normal.push(b'/');
        normal.extend_from_slice(component);
    }
    if normal.is_empty() {
        normal.push(b'/');
    }
    if normal.len() > PATH_BYTES_MAX {
        let message = format!(
            "a path of {} bytes, at most {PATH_BYTES_MAX}: use shorter names or fewer directories",
            normal.len()
        );
        return Err(Failure::new(ErrorCode::NameTooLong, message));
    }
    Ok(normal)
}

fn check_name(name: &[u8]) -> std::result::Result<(), Failure> {
    if name.is_empty() || name == b"." || name == b".." {
        return Err(Failure::new(
            ErrorCode::InvalidArgument,
            "not a name of its own",
        ));
    }
    if name.contains(&0) || name.contains(&b'/') {
        return Err(Failure::new(
            ErrorCode::InvalidArgument,
            "a name has no NUL byte and no /",
        ));
    }
    check_length(name)
}

fn check_length(name: &[u8]) -> std::result::Result<(), Failure> {
    if name.len() > NAME_BYTES_MAX {
        let message = format!(
            "a name of {} bytes, at most {NAME_BYTES_MAX}: choose a shorter one",
            name.len()
        );
        return Err(Failure::new(ErrorCode::NameTooLong, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Place, normalise};
    use cairn_protocol::ErrorCode;
    use cairn_protocol::ids::InodeId;

    #[test]
    fn paths_are_resolved_lexically() {
        for (path, normal) in [
            ("/", "/"),
            ("//", "/"),
            ("/a", "/a"),
            ("/a/", "/a"),
            ("//a///b", "/a/b"),
            ("/a/./b/.", "/a/b"),
            ("/a/../b", "/b"),
            ("/../..", "/"),
            ("/a/..b", "/a/..b"),
        ] {
            assert_eq!(
                normalise(path.as_bytes()).unwrap(),
                normal.as_bytes(),
                "{path}"
            );
        }
    }

    #[test]
    fn bad_paths_are_refused_before_they_are_sent() {
        let long_name = [b"/".as_slice(), &[b'x'; 256]].concat();
        let long_path = b"/xyz".repeat(1025);
        for (path, code) in [
            (b"".as_slice(), ErrorCode::InvalidArgument),
            (b"a/b", ErrorCode::InvalidArgument),
            (b"/a\0b", ErrorCode::InvalidArgument),
            (&long_name, ErrorCode::NameTooLong),
            (&long_path, ErrorCode::NameTooLong),
        ] {
            assert_eq!(normalise(path).unwrap_err().code, code);
        }
        // What is too long, the limit, and what to do.
        let message = |path: &[u8]| normalise(path).unwrap_err().message;
        assert_eq!(
            [message(&long_name), message(&long_path)],
            [
                "a name of 256 bytes, at most 255: choose a shorter one",
                "a path of 4100 bytes, at most 4096: use shorter names or fewer directories",
            ]
        );
        assert!(normalise(&b"/xyz".repeat(1024)).is_ok());
        assert!(normalise(&long_name[..256]).is_ok());
    }

    #[test]
    fn a_name_is_one_component() {
        for name in [b"".as_slice(), b".", b"..", b"a/b", b"a\0"] {
            assert!(Place::entry(InodeId::ROOT, name).resolve().is_err());
        }
        assert!(Place::entry(InodeId::ROOT, b"..a").resolve().is_ok());
    }
}
