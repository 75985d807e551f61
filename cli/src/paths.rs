//! Paths in the cluster as people type them. Relative ones begin at `/user/<name>`, as in HDFS.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The absolute path that `typed` means. What is wrong with it shows when the client library checks it.
pub(crate) fn absolute(home: &[u8], typed: &OsStr) -> Vec<u8> {
    let typed = typed.as_bytes();
    if typed.starts_with(b"/") {
        return typed.to_vec();
    }
    join(home, typed)
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

    use super::{absolute, base_name, join, parent, temporary_beside};

    #[test]
    fn relative_paths_begin_at_home() {
        assert_eq!(absolute(b"/user/ada", OsStr::new("a/b")), b"/user/ada/a/b");
        assert_eq!(absolute(b"/user/ada", OsStr::new("/a")), b"/a");
        assert_eq!(absolute(b"/user/ada", OsStr::new(".")), b"/user/ada/.");
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
