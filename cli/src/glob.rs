//! Patterns in remote paths: `*`, `?`, `[a-z]`, `{a,b}` and `\` before a character that means itself.
//!
//! Braces are expanded first and need not match anything; the rest is matched component by component against what
//! exists, in order of names. A name that exists as it was typed is never taken for a pattern, and neither is what cannot be
//! one, such as `a[1`.

use anyhow::bail;
use cairn_client::FileSystem;
use cairn_protocol::ErrorCode;
use globset::{GlobBuilder, GlobMatcher};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::output::escape;
use crate::paths::join;

/// Most alternatives of the braces in one argument.
const ALTERNATIVES_MAX: usize = 10_000;

/// What `path` stands for: at least one path, or an error that says that nothing matches. What has no pattern stands for
/// itself, whether it exists or not.
pub(crate) async fn expand(fs: &FileSystem, path: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    if !has_pattern(path) {
        return Ok(vec![unescape(path)]);
    }
    match fs.stat_link(path).await {
        Ok(_) => return Ok(vec![path.to_vec()]),
        // Patterns may be too long or odd for names; what they match is not.
        Err(error) if is_absence(error.code()) => {}
        Err(error) => return Err(error.into()),
    }
    let mut found = Vec::new();
    for alternative in braces(path)? {
        if has_pattern(&alternative) {
            found.extend(matches(fs, &alternative).await?);
        } else {
            found.push(unescape(&alternative));
        }
    }
    if found.is_empty() {
        bail!("{}: {}", escape(path), ErrorCode::NotFound.text());
    }
    Ok(found)
}

fn is_absence(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotFound
            | ErrorCode::NotADirectory
            | ErrorCode::NameTooLong
            | ErrorCode::InvalidArgument
    )
}

/// Whether any component is a pattern.
fn has_pattern(path: &[u8]) -> bool {
    first_braces(path).is_some()
        || path
            .split(|&byte| byte == b'/')
            .any(|component| has_wildcard(component) && matcher_of_name(component).is_ok())
}

/// Whether any character may mean more than itself.
fn has_wildcard(path: &[u8]) -> bool {
    let mut escaped = false;
    for &byte in path {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Takes `\` away before characters that would mean more than themselves; elsewhere it is a character of the name.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut bytes = path.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\\', Some(&next)) if b"*?[]{}\\,".contains(&next) => {
                plain.push(next);
                bytes.next();
            }
            _ => plain.push(byte),
        }
    }
    plain
}

/// Expands the first outermost pair of braces with a comma, and then what that gives. Braces may hold slashes.
fn braces(pattern: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut done = Vec::new();
    let mut left = vec![pattern.to_vec()];
    while let Some(next) = left.pop() {
        match first_braces(&next) {
            None => done.push(next),
            Some((start, end, commas)) => {
                let mut cuts = vec![start];
                cuts.extend(commas);
                cuts.push(end);
                for pair in cuts.windows(2).rev() {
                    let middle = &next[pair[0] + 1..pair[1]];
                    left.push([&next[..start], middle, &next[end + 1..]].concat());
                }
            }
        }
        if done.len() + left.len() > ALTERNATIVES_MAX {
            bail!(
                "{}: more than {ALTERNATIVES_MAX} alternatives in braces",
                escape(pattern)
            );
        }
    }
    Ok(done)
}

/// Where the first braces with a comma between them are, and those commas.
fn first_braces(pattern: &[u8]) -> Option<(usize, usize, Vec<usize>)> {
    let opening = |from: usize| unescaped(pattern, from).find(|&at| pattern[at] == b'{');
    let mut from = 0;
    while let Some(start) = opening(from) {
        let (mut depth, mut commas) = (0_u32, Vec::new());
        for at in unescaped(pattern, start) {
            match pattern[at] {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                b',' if depth == 1 => commas.push(at),
                _ => {}
            }
            if depth == 0 {
                if commas.is_empty() {
                    break;
                }
                return Some((start, at, commas));
            }
        }
        from = start + 1;
    }
    None
}

/// Indexes from `from` on, without backslashes and what they escape.
fn unescaped(pattern: &[u8], from: usize) -> impl Iterator<Item = usize> {
    let mut escaped = false;
    (from..pattern.len()).filter(move |&at| {
        if escaped || pattern[at] == b'\\' {
            escaped = !escaped;
            return false;
        }
        true
    })
}

/// Everything that exists and matches, component by component.
async fn matches(fs: &FileSystem, pattern: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    let components: Vec<&[u8]> = pattern
        .split(|&byte| byte == b'/')
        .filter(|component| !component.is_empty())
        .collect();
    let mut found = vec![b"/".to_vec()];
    for (index, component) in components.iter().enumerate() {
        let last = index + 1 == components.len();
        let mut next = Vec::new();
        for directory in found {
            if !has_pattern(component) {
                next.push(join(&directory, &unescape(component)));
                continue;
            }
            let matcher = matcher_of_name(component)?;
            next.extend(matching_names(fs, &directory, &matcher, last).await?);
        }
        found = next;
    }
    // Components behind the last pattern were only appended.
    if components
        .last()
        .is_some_and(|component| !has_pattern(component))
    {
        let mut existing = Vec::new();
        for path in found {
            match fs.stat_link(&path).await {
                Ok(_) => existing.push(path),
                Err(error) if is_absence(error.code()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        found = existing;
    }
    Ok(found)
}

async fn matching_names(
    fs: &FileSystem,
    directory: &[u8],
    matcher: &GlobMatcher,
    last: bool,
) -> anyhow::Result<Vec<Vec<u8>>> {
    use cairn_protocol::messages::common::InodeKind;
    let mut found = Vec::new();
    let mut entries = fs.list(directory, false)?;
    loop {
        match entries.next().await {
            Ok(None) => return Ok(found),
            // A file lists as itself, without a name: nothing is below it.
            Ok(Some(entry)) if entry.name.is_empty() => return Ok(found),
            Ok(Some(entry)) => {
                let leads_on = entry.kind == InodeKind::Directory as i32
                    || entry.kind == InodeKind::Symlink as i32;
                if (last || leads_on) && is_match(matcher, &entry.name) {
                    found.push(join(directory, &entry.name));
                }
            }
            Err(error) if is_absence(error.code()) => return Ok(found),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A matcher of one component of a path, whose braces have been expanded: those that are left mean themselves.
fn matcher_of_name(component: &[u8]) -> anyhow::Result<GlobMatcher> {
    let mut escaped = Vec::with_capacity(component.len());
    let mut after_backslash = false;
    for &byte in component {
        if !after_backslash && matches!(byte, b'{' | b'}') {
            escaped.push(b'\\');
        }
        after_backslash = byte == b'\\' && !after_backslash;
        escaped.push(byte);
    }
    matcher(&escaped)
}

/// A matcher of one name.
pub(crate) fn matcher(component: &[u8]) -> anyhow::Result<GlobMatcher> {
    let Ok(text) = std::str::from_utf8(component) else {
        bail!(
            "{}: a pattern must be UTF-8; `?` matches any byte",
            escape(component)
        );
    };
    let glob = GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(true)
        .build();
    Ok(glob
        .map_err(|error| anyhow::anyhow!("{text}: {}", error.kind()))?
        .compile_matcher())
}

/// Whether a name matches. Names are bytes.
pub(crate) fn is_match(matcher: &GlobMatcher, name: &[u8]) -> bool {
    matcher.is_match(Path::new(OsStr::from_bytes(name)))
}

#[cfg(test)]
mod tests {
    use super::{braces, has_pattern, is_match, matcher, matcher_of_name, unescape};

    fn expanded(pattern: &str) -> Vec<String> {
        let all = braces(pattern.as_bytes()).unwrap();
        all.into_iter()
            .map(|path| String::from_utf8(path).unwrap())
            .collect()
    }

    #[test]
    fn braces_give_every_alternative_in_order() {
        assert_eq!(expanded("/a/{b,c}"), ["/a/b", "/a/c"]);
        assert_eq!(expanded("/{a,b}/{1,2}"), ["/a/1", "/a/2", "/b/1", "/b/2"]);
        assert_eq!(expanded("/{a,b{c,d}}x"), ["/ax", "/bcx", "/bdx"]);
        assert_eq!(expanded("/{a/b,c}"), ["/a/b", "/c"]);
        assert_eq!(expanded("/{,x}y"), ["/y", "/xy"]);
        assert_eq!(expanded("/{a}"), ["/{a}"]);
        assert_eq!(expanded("/{a,b"), ["/{a,b"]);
        assert_eq!(expanded("/\\{a,b}"), ["/\\{a,b}"]);
        assert_eq!(expanded("/{x}{a,b}"), ["/{x}a", "/{x}b"]);
    }

    #[test]
    fn too_many_alternatives_are_refused() {
        let error = braces("{a,b}".repeat(20).as_bytes())
            .unwrap_err()
            .to_string();
        assert!(error.contains("10000 alternatives"), "{error}");
    }

    #[test]
    fn escaped_characters_mean_themselves() {
        assert!(has_pattern(b"/a*") && has_pattern(b"/[a]") && has_pattern(b"/a?b"));
        assert!(!has_pattern(b"/a\\*b") && !has_pattern(b"/a,b}"));
        assert!(!has_pattern(b"/a[1") && !has_pattern(b"/{a}") && has_pattern(b"/a[1/b*"));
        assert_eq!(unescape(b"/a\\*\\?\\[\\{\\\\x"), b"/a*?[{\\x");
        assert_eq!(unescape(b"/a\\nb\\"), b"/a\\nb\\");
    }

    #[test]
    fn names_match_as_bytes() {
        let matches = |pattern: &[u8], name: &[u8]| is_match(&matcher(pattern).unwrap(), name);
        assert!(matches(b"*.log", b"a.log") && matches(b"*", b".hidden"));
        assert!(matches(b"[a-c]?", b"b1") && !matches(b"[!a-c]?", b"b1"));
        assert!(matches(b"a*", b"a\xff\xfe"));
        assert!(matches(b"\\*x", b"*x") && !matches(b"\\*x", b"yx"));
        let named = matcher_of_name(b"{x}*").unwrap();
        assert!(is_match(&named, b"{x}y") && !is_match(&named, b"xy"));
        assert!(matcher(b"[a").is_err() && matcher(b"\xff*").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_argument_is_taken_apart_without_a_panic(pattern in "[a{},\\\\/*?\\[\\]]{0,40}") {
            for alternative in braces(pattern.as_bytes()).unwrap_or_default() {
                proptest::prop_assert!(unescape(&alternative).len() <= alternative.len());
            }
        }
    }
}
