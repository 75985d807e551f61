//! Single conditions of `dfs find`.

use anyhow::{Context, bail};
use cairn_daemon::users::Users;
use cairn_protocol::messages::common::InodeKind;
use globset::GlobMatcher;

use crate::glob::{is_match, matcher};
use crate::mode::ModeChange;
use crate::output::kind;
use crate::paths::base_name;
use crate::quantity;
use crate::walk::Found;

const MINUTE_NS: u64 = 60_000_000_000;
const DAY_NS: u64 = 86_400_000_000_000;

/// What conditions are judged by, beside what was found.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) now_ns: u64,
    /// When the files of -newer were changed.
    pub(super) newer_than: Vec<u64>,
}

#[derive(Debug)]
pub(super) enum Condition {
    Name(GlobMatcher),
    Path(GlobMatcher),
    Kind(InodeKind),
    /// In units of so many bytes, rounded up.
    Size(Comparison, u64),
    /// In units of so many nanoseconds, rounded down.
    Age(Time, Comparison, u64),
    /// Changed after the file with this place among those of -newer.
    Newer(usize),
    Empty,
    User(u32),
    Group(u32),
    Links(Comparison),
    Mode(Bits, u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Time {
    Modified,
    Accessed,
    Changed,
}

/// Which bits of a mode are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bits {
    Exactly,
    All,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    More(u64),
    Less(u64),
    Equal(u64),
}

impl Comparison {
    fn parse(text: &str) -> Option<Self> {
        match text.as_bytes().first()? {
            b'+' => text[1..].parse().ok().map(Self::More),
            b'-' => text[1..].parse().ok().map(Self::Less),
            _ => text.parse().ok().map(Self::Equal),
        }
    }

    fn holds(self, value: u64) -> bool {
        match self {
            Self::More(than) => value > than,
            Self::Less(than) => value < than,
            Self::Equal(to) => value == to,
        }
    }
}

impl Condition {
    /// A condition that has a value.
    pub(super) fn parse(name: &str, value: &[u8], users: &Users) -> anyhow::Result<Self> {
        let text = String::from_utf8_lossy(value);
        let text = text.as_ref();
        let age = |time, unit| Comparison::parse(text).map(|age| Self::Age(time, age, unit));
        let condition = match name {
            "-name" => Some(Self::Name(matcher(value)?)),
            "-iname" => {
                let glob = globset::GlobBuilder::new(text)
                    .literal_separator(true)
                    .case_insensitive(true)
                    .build();
                Some(Self::Name(glob?.compile_matcher()))
            }
            "-path" | "-wholename" => {
                let glob = globset::GlobBuilder::new(text)
                    .literal_separator(false)
                    .build();
                Some(Self::Path(glob?.compile_matcher()))
            }
            "-type" => kind_of_letter(text).map(Self::Kind),
            "-size" => size(text),
            "-mtime" => age(Time::Modified, DAY_NS),
            "-atime" => age(Time::Accessed, DAY_NS),
            "-ctime" => age(Time::Changed, DAY_NS),
            "-mmin" => age(Time::Modified, MINUTE_NS),
            "-amin" => age(Time::Accessed, MINUTE_NS),
            "-cmin" => age(Time::Changed, MINUTE_NS),
            "-user" => Some(Self::User(users.uid(text).context("-user")?)),
            "-group" => Some(Self::Group(users.gid(text).context("-group")?)),
            "-links" => Comparison::parse(text).map(Self::Links),
            "-perm" => Some(mode(text)?),
            _ => bail!("`{name}` is not a condition that is known"),
        };
        condition.with_context(|| format!("{name}: `{text}` makes no sense"))
    }

    pub(super) fn holds(&self, found: &Found, facts: &Facts) -> bool {
        let attributes = &found.attributes;
        match self {
            Self::Name(matcher) => is_match(matcher, &base_name(&found.path)),
            Self::Path(matcher) => is_match(matcher, &found.path),
            Self::Kind(wanted) => kind(attributes) == *wanted,
            Self::Size(comparison, unit) => comparison.holds(attributes.size.div_ceil(*unit)),
            Self::Age(time, comparison, unit) => {
                let then_ns = match time {
                    Time::Modified => attributes.mtime_ns,
                    Time::Accessed => attributes.atime_ns,
                    Time::Changed => attributes.ctime_ns,
                };
                comparison.holds(facts.now_ns.saturating_sub(then_ns) / unit)
            }
            Self::Newer(index) => {
                let than = facts.newer_than.get(*index);
                than.is_some_and(|than| attributes.mtime_ns > *than)
            }
            Self::Empty => {
                attributes.size == 0
                    && matches!(kind(attributes), InodeKind::File | InodeKind::Directory)
            }
            Self::User(uid) => attributes.uid == *uid,
            Self::Group(gid) => attributes.gid == *gid,
            Self::Links(comparison) => comparison.holds(attributes.nlink.into()),
            Self::Mode(bits, wanted) => {
                let has = attributes.mode & 0o7777 & wanted;
                match bits {
                    Bits::Exactly => attributes.mode & 0o7777 == *wanted,
                    Bits::All => has == *wanted,
                    Bits::Any => *wanted == 0 || has != 0,
                }
            }
        }
    }
}

/// `644`, `-022` (all of these bits), `/222` (any of them); also `-u+w`.
fn mode(text: &str) -> anyhow::Result<Condition> {
    let (bits, rest) = match text.as_bytes().first() {
        Some(b'-') => (Bits::All, &text[1..]),
        Some(b'/') => (Bits::Any, &text[1..]),
        _ => (Bits::Exactly, text),
    };
    let change = ModeChange::parse(rest).context("-perm")?;
    Ok(Condition::Mode(bits, change.apply(0, false, 0)))
}

fn kind_of_letter(text: &str) -> Option<InodeKind> {
    Some(match text {
        "f" => InodeKind::File,
        "d" => InodeKind::Directory,
        "l" => InodeKind::Symlink,
        "p" => InodeKind::Fifo,
        "s" => InodeKind::Socket,
        "c" => InodeKind::CharDevice,
        "b" => InodeKind::BlockDevice,
        _ => return None,
    })
}

fn size(text: &str) -> Option<Condition> {
    let sign = usize::from(text.starts_with(['+', '-']));
    let (number, unit) = quantity::taken_apart(&text[sign..]);
    let unit_bytes = match unit {
        "" => 512,
        "c" => 1,
        "w" => 2,
        unit => quantity::unit_bytes(unit)?,
    };
    let number = &text[..sign + number.len()];
    Comparison::parse(number).map(|comparison| Condition::Size(comparison, unit_bytes))
}
