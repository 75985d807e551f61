//! Paths in the cluster as people type them. Relative ones begin at `/user/<name>`, as in HDFS.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use cairn_protocol::ErrorCode;

use crate::output::escape;

/// Why something that was typed is no path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoPath(String);

impl fmt::Display for NoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoPath {}

/// The absolute path that `typed` means. An empty word is none: it comes from a variable that was never set, and taking it
/// for the home directory would let `rm -r` have that. What else is wrong shows when the client library checks it.
pub(crate) fn absolute(home: &[u8], typed: &OsStr) -> Result<Vec<u8>, NoPath> {
    let bytes = typed.as_bytes();
    if bytes.is_empty() {
        return Err(NoPath(format!("'': {}", ErrorCode::NotFound.text())));
    }
    if let Some(scheme) = scheme(bytes) {
        let inside = without_authority(&bytes[scheme.len() + "://".len()..]);
        return Err(NoPath(format!(
            "{}: paths here have no scheme and no host: write {}, and --cluster HOST:PORT for another cluster",
            escape(bytes),
            escape(inside)
        )));
    }
    if bytes.starts_with(b"/") {
        return Ok(bytes.to_vec());
    }
    // Messages are to name the home itself, not a dot in it.
    let mut rest = bytes;
    while let Some(shorter) = rest.strip_prefix(b"./") {
        let name = shorter.iter().position(|&byte| byte != b'/');
        rest = &shorter[name.unwrap_or(shorter.len())..];
    }
    match rest {
        b"" | b"." => Ok(home.to_vec()),
        rest => Ok(join(home, rest)),
    }
}

/// `hdfs` of `hdfs://host:port/path`.
fn scheme(typed: &[u8]) -> Option<&[u8]> {
    let end = typed.windows(3).position(|window| window == b"://")?;
    let scheme = &typed[..end];
    let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    is_scheme.then_some(scheme)
}

fn without_authority(rest: &[u8]) -> &[u8] {
    let slash = rest.iter().position(|&byte| byte == b'/');
    slash.map_or(b"/", |slash| &rest[slash..])
}

/// Whether the last component is `.` or `..`, which mean something that has another name.
pub(crate) fn ends_in_dots(path: &[u8]) -> bool {
    let mut components = path.rsplit(|&byte| byte == b'/');
    let last = components.find(|component| !component.is_empty());
    matches!(last, Some(b"." | b".."))
}

/// A name below a directory.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The last component; empty for the root.
pub(crate) fn base_name(path: &[u8]) -> Vec<u8> {
    match cairn_client::normalise(path) {
        Ok(normal) => normal
            .rsplit(|&byte| byte == b'/')
            .next()
            .unwrap_or_default()
            .to_vec(),
        Err(_) => path
            .rsplit(|&byte| byte == b'/')
            .next()
            .unwrap_or_default()
            .to_vec(),
    }
}

/// The directory that a name is in; the root's is the root.
pub(crate) fn parent(path: &[u8]) -> Vec<u8> {
    let normal = cairn_client::normalise(path).unwrap_or_else(|_| path.to_vec());
    match normal.iter().rposition(|&byte| byte == b'/') {
        None | Some(0) => b"/".to_vec(),
        Some(slash) => normal[..slash].to_vec(),
    }
}

/// A name in the same directory that nobody else picks: for what is renamed when it is complete.
pub(crate) fn temporary_beside(path: &[u8]) -> Vec<u8> {
    let mut name = b".".to_vec();
    let base = base_name(path);
    // Room for the rest within the 255 bytes of a name.
    name.extend_from_slice(&base[..base.len().min(200)]);
    name.extend_from_slice(format!(".{:016x}.part", rand::random::<u64>()).as_bytes());
    join(&parent(path), &name)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::{absolute, base_name, ends_in_dots, join, parent, temporary_beside};

    #[test]
    fn relative_paths_begin_at_home() {
        for (typed, meant) in [
            ("a/b", "/user/ada/a/b"),
            ("/a", "/a"),
            (".", "/user/ada"),
            ("./", "/user/ada"),
            (".//./x", "/user/ada/x"),
            ("..", "/user/ada/.."),
            (".hidden", "/user/ada/.hidden"),
            ("a:b//c", "/user/ada/a:b//c"),
        ] {
            let path = absolute(b"/user/ada", OsStr::new(typed)).unwrap();
            assert_eq!(path.escape_ascii().to_string(), meant, "{typed}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused_with_a_reason() {
        let refused = |typed| {
            absolute(b"/user/ada", OsStr::new(typed))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(refused(""), "'': No such file or directory");
        assert!(refused("hdfs://localhost:9000/docs").contains("write /docs,"));
        assert!(refused("webhdfs://host").contains("write /,"));
    }

    #[test]
    fn dots_are_recognised_at_the_end_only() {
        for path in ["/a/.", "/a/..", "/a/../", "/user/ada/..//"] {
            assert!(ends_in_dots(path.as_bytes()), "{path}");
        }
        for path in ["/a", "/", "/../a", "/a/...", "/a/.b"] {
            assert!(!ends_in_dots(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(base_name(b"/a/b/"), b"b");
        assert_eq!(base_name(b"/a/.."), b"");
        assert_eq!(base_name(b"/"), b"");
        assert_eq!(parent(b"/a/b/"), b"/a");
        assert_eq!(parent(b"/a"), b"/");
        assert_eq!(join(b"/", b"x"), b"/x");
        let long = [b"/d/".as_slice(), &[b'x'; 255]].concat();
        let temporary = temporary_beside(&long);
        assert!(temporary.starts_with(b"/d/.xxx") && temporary.len() <= 3 + 255);
    }
}
