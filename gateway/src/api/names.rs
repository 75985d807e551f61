//! Names and paths, which are bytes, in documents, which are text.

use cairn_client::{Place, normalise};
use cairn_protocol::messages::common::Location;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::problem::Answer;

/// What need not be encoded in a path, also in a query.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// For people: what is no text is escaped.
pub(super) fn shown(bytes: &[u8]) -> String {
    Place::from(bytes).subject().to_string()
}

/// For programs: percent-encoded, as in parameters.
pub(super) fn encoded(bytes: &[u8]) -> String {
    percent_encode(bytes, KEPT).to_string()
}

/// A path in JSON as the cluster knows it.
pub(super) fn location(path: &str) -> Answer<Location> {
    Ok(Location::path(normalise(path.as_bytes())?))
}

/// The path of a name in a directory.
pub(super) fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::{below, encoded, location, shown};

    #[test]
    fn bytes_survive() {
        assert_eq!(encoded(b"/a b/+%\xff"), "/a%20b/%2B%25%FF");
        assert_eq!(shown(b"a\xff\n"), "a\\xff\\n");
        assert_eq!(below(b"/", b"a"), b"/a");
        assert_eq!(below(b"/a", b"b"), b"/a/b");
    }

    #[test]
    fn paths_begin_at_the_root() {
        assert_eq!(location("/a/../b").unwrap().path, b"/b");
        assert!(location("a").is_err());
        assert!(location("/a\0").is_err());
    }
}
