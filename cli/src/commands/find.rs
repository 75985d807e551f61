//! `dfs find`: paths that answer a description, in the words of find(1).

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use anyhow::bail;
use cairn_protocol::messages::common::InodeKind;
use clap::Args;
use globset::GlobMatcher;
use tokio::process::Command;

use super::expand;
use crate::glob::{is_match, matcher};
use crate::output::{escape, kind};
use crate::paths::base_name;
use crate::quantity;
use crate::session::{Session, Usage, local_error};
use crate::walk::{Found, Step, Walk};

/// Find paths below directories that meet all conditions.
///
/// Conditions: -name PATTERN, -iname PATTERN (in either case), -path PATTERN (of the whole path; `*` also stands for slashes
/// there), -type f|d|l|p|s|c|b, -size [+-]N[c|w|b|k|M|G|T] (rounded up; blocks of 512 bytes without a letter), -mtime
/// [+-]DAYS, -mmin [+-]MINUTES, -newer FILE, -empty, -maxdepth N, -mindepth N. -print0 ends names with a NUL and does not
/// escape them; -exec COMMAND {} `;` runs a command of this machine with each path, -exec COMMAND {} + with many.
#[derive(Debug, Args)]
#[command(override_usage = "dfs [CLUSTER OPTIONS] find [PATH...] [CONDITION...]")]
pub(crate) struct Find {
    /// Paths, then conditions.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PATH OR CONDITION"
    )]
    words: Vec<OsString>,
}

#[derive(Debug)]
struct Search {
    paths: Vec<OsString>,
    conditions: Vec<Condition>,
    /// Files of the cluster; what is wanted was changed after them.
    newer: Vec<OsString>,
    run: Option<Run>,
    depth_min: usize,
    depth_max: usize,
    print0: bool,
}

#[derive(Debug)]
enum Condition {
    Name(GlobMatcher),
    Path(GlobMatcher),
    Kind(InodeKind),
    /// In units of so many bytes, rounded up.
    Size(Comparison, u64),
    /// In units of so many nanoseconds, rounded down.
    Age(Comparison, u64),
    /// Changed after this.
    Newer(u64),
    Empty,
}

/// A command of this machine, run with what was found.
#[derive(Debug)]
struct Run {
    words: Vec<OsString>,
    /// Many paths for each command, not one.
    together: bool,
}

/// Paths for one command at most, and their bytes: the kernel takes 2 MiB of arguments.
const TOGETHER: usize = 1000;
const TOGETHER_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
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

impl Find {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let mut search = match Search::parse(self.words) {
            Ok(search) => search,
            Err(error) => return Usage::error(format!("{error:#}")),
        };
        for typed in &search.newer {
            let path = session.path(typed)?;
            let than = session.fs.stat(&path).await?;
            search.conditions.push(Condition::Newer(than.mtime_ns));
        }
        let mut gathered = Vec::new();
        let now_ns = cairn_daemon::Clock::system().now_ns();
        for path in expand(session, &search.paths).await {
            let found = session.fs.stat_link(&path).await;
            let Some(attributes) = session.check(found) else {
                continue;
            };
            let mut walk = Walk::from(&session.fs, &path, attributes).depth_max(search.depth_max);
            loop {
                match walk.next().await {
                    Ok(Some(Step::Enter(found))) if search.matches(&found, now_ns) => {
                        if let Some(run) = &search.run {
                            gathered.push(found.path);
                            if run.is_enough(&gathered) {
                                run.run(session, std::mem::take(&mut gathered)).await?;
                            }
                        } else if search.print0 {
                            session.out.write_all(&found.path)?;
                            session.out.write_all(b"\0")?;
                        } else {
                            writeln!(session.out, "{}", escape(&found.path))?;
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => session.report(error),
                }
            }
        }
        match &search.run {
            Some(run) if !gathered.is_empty() => run.run(session, gathered).await,
            _ => Ok(()),
        }
    }
}

impl Run {
    /// The words up to `;`, or to `+` behind `{}`.
    fn parse(words: &mut impl Iterator<Item = OsString>) -> anyhow::Result<Self> {
        let mut found: Vec<OsString> = Vec::new();
        for word in words {
            let together = word == "+" && found.last().is_some_and(|last| last == "{}");
            if word != ";" && !together {
                found.push(word);
                continue;
            }
            if found.first().is_none_or(|first| first == "{}") {
                bail!("-exec needs a command");
            }
            if together {
                found.pop();
            }
            return Ok(Self {
                words: found,
                together,
            });
        }
        bail!("-exec ends with `;`, which the shell wants quoted, or with `{{}} +`")
    }

    fn is_enough(&self, paths: &[Vec<u8>]) -> bool {
        !self.together
            || paths.len() >= TOGETHER
            || paths.iter().map(Vec::len).sum::<usize>() >= TOGETHER_BYTES
    }

    fn words_for(&self, paths: &[Vec<u8>]) -> Vec<OsString> {
        let mut words = Vec::new();
        for word in &self.words {
            let mut rest = word.as_bytes();
            let mut whole = Vec::new();
            while let Some(place) = rest.windows(2).position(|pair| pair == b"{}") {
                whole.extend_from_slice(&rest[..place]);
                whole.extend_from_slice(paths.first().map_or(b"", Vec::as_slice));
                rest = &rest[place + 2..];
            }
            whole.extend_from_slice(rest);
            words.push(OsString::from_vec(whole));
        }
        if self.together {
            words.extend(paths.iter().cloned().map(OsString::from_vec));
        }
        words
    }

    /// Runs it and waits. That it failed is said; the search goes on.
    async fn run(&self, session: &mut Session, paths: Vec<Vec<u8>>) -> anyhow::Result<()> {
        session.out.flush()?;
        let words = self.words_for(&paths);
        let Some((program, arguments)) = words.split_first() else {
            return Ok(());
        };
        let status = Command::new(program).args(arguments).status().await;
        match status {
            Ok(status) if status.success() => {}
            // The command has said why.
            Ok(_) => session.fail(),
            Err(error) => session.report(local_error(Path::new(program), &error)),
        }
        Ok(())
    }
}

impl Search {
    fn parse(words: Vec<OsString>) -> anyhow::Result<Self> {
        let mut search = Self {
            paths: Vec::new(),
            conditions: Vec::new(),
            newer: Vec::new(),
            run: None,
            depth_min: 0,
            depth_max: usize::MAX,
            print0: false,
        };
        let mut words = words.into_iter().peekable();
        while let Some(path) = words.next_if(|word| !word.as_bytes().starts_with(b"-")) {
            search.paths.push(path);
        }
        if search.paths.is_empty() {
            search.paths.push(OsString::from("."));
        }
        while let Some(word) = words.next() {
            let name = word.to_string_lossy().into_owned();
            match name.as_str() {
                "-print" => continue,
                "-print0" => {
                    search.print0 = true;
                    continue;
                }
                "-exec" => {
                    search.run = Some(Run::parse(&mut words)?);
                    continue;
                }
                "-empty" => {
                    search.conditions.push(Condition::Empty);
                    continue;
                }
                _ => {}
            }
            let Some(value) = words.next() else {
                bail!("`{name}` is not a condition, or misses its value")
            };
            let text = value.to_string_lossy().into_owned();
            if name == "-newer" {
                search.newer.push(value);
                continue;
            }
            search.condition(&name, value.as_bytes(), &text)?;
        }
        Ok(search)
    }

    fn condition(&mut self, name: &str, value: &[u8], text: &str) -> anyhow::Result<()> {
        let condition = match name {
            "-name" => Some(Condition::Name(matcher(value)?)),
            "-iname" => {
                let glob = globset::GlobBuilder::new(text)
                    .literal_separator(true)
                    .case_insensitive(true)
                    .build();
                Some(Condition::Name(glob?.compile_matcher()))
            }
            "-path" => {
                let glob = globset::GlobBuilder::new(text)
                    .literal_separator(false)
                    .build();
                Some(Condition::Path(glob?.compile_matcher()))
            }
            "-type" => kind_of_letter(text).map(Condition::Kind),
            "-size" => size(text),
            "-mtime" => {
                Comparison::parse(text).map(|days| Condition::Age(days, 86_400_000_000_000))
            }
            "-mmin" => {
                Comparison::parse(text).map(|minutes| Condition::Age(minutes, 60_000_000_000))
            }
            "-maxdepth" | "-mindepth" => {
                let Ok(depth) = text.parse() else {
                    bail!("{name}: `{text}` is not a number")
                };
                *(if name == "-maxdepth" {
                    &mut self.depth_max
                } else {
                    &mut self.depth_min
                }) = depth;
                return Ok(());
            }
            _ => bail!("`{name}` is not a condition that is known"),
        };
        let Some(condition) = condition else {
            bail!("{name}: `{text}` makes no sense")
        };
        self.conditions.push(condition);
        Ok(())
    }

    fn matches(&self, found: &Found, now_ns: u64) -> bool {
        found.depth >= self.depth_min
            && self
                .conditions
                .iter()
                .all(|condition| condition.holds(found, now_ns))
    }
}

impl Condition {
    fn holds(&self, found: &Found, now_ns: u64) -> bool {
        let attributes = &found.attributes;
        match self {
            Self::Name(matcher) => is_match(matcher, &base_name(&found.path)),
            Self::Path(matcher) => is_match(matcher, &found.path),
            Self::Kind(wanted) => kind(attributes) == *wanted,
            Self::Size(comparison, unit) => comparison.holds(attributes.size.div_ceil(*unit)),
            Self::Age(comparison, unit) => {
                comparison.holds(now_ns.saturating_sub(attributes.mtime_ns) / unit)
            }
            Self::Newer(than) => attributes.mtime_ns > *than,
            Self::Empty => {
                attributes.size == 0
                    && matches!(kind(attributes), InodeKind::File | InodeKind::Directory)
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::common::{Attributes, InodeKind};

    use super::Search;
    use crate::walk::Found;

    fn search(line: &str) -> anyhow::Result<Search> {
        Search::parse(line.split_whitespace().map(Into::into).collect())
    }

    const DAY: u64 = 86_400_000_000_000;

    fn matches(line: &str, path: &str, size: u64, age_days: u64) -> bool {
        let attributes = Attributes {
            kind: InodeKind::File as i32,
            size,
            mtime_ns: 1000 * DAY - age_days * DAY,
            ..Attributes::default()
        };
        let found = Found {
            path: path.into(),
            attributes,
            depth: 1,
        };
        search(line).unwrap().matches(&found, 1000 * DAY + 5)
    }

    #[test]
    fn conditions_mean_what_find_means() {
        assert!(matches("/ -name *.log", "/a/b.log", 0, 0));
        assert!(!matches("/ -name *.log", "/a.log/b", 0, 0));
        assert!(
            matches("/ -iname *.LOG", "/a.log", 0, 0) && !matches("/ -iname *.LOG", "/x", 0, 0)
        );
        assert!(matches("/ -path */x/*", "/a/x/b/c", 0, 0));
        assert!(matches("/ -type f -size 1", "/a", 512, 0) && !matches("/ -size 1", "/a", 513, 0));
        assert!(
            matches("/ -size +1M", "/a", (1 << 20) + 1, 0)
                && !matches("/ -size +1M", "/a", 1 << 20, 0)
        );
        assert!(matches("/ -size +10K", "/a", 10_241, 0) && matches("/ -size 1kB", "/a", 9, 0));
        assert!(matches("/ -size 3w", "/a", 5, 0) && matches("/ -size -2MiB", "/a", 99, 0));
        assert!(matches("/ -size -1k -empty", "/a", 0, 0) && matches("/ -size 5c", "/a", 5, 0));
        assert!(matches("/ -mtime +2", "/a", 0, 3) && !matches("/ -mtime +3", "/a", 0, 3));
        assert!(matches("/ -mtime -1", "/a", 0, 0) && matches("/ -mtime 3", "/a", 0, 3));
        assert!(!matches("/ -mindepth 2", "/a", 0, 0) && !matches("/ -type d", "/a", 0, 0));
    }

    #[test]
    fn lines_are_taken_apart() {
        let parsed = search("/a /b -maxdepth 3 -print0").unwrap();
        assert_eq!(
            (parsed.paths.len(), parsed.depth_max, parsed.print0),
            (2, 3, true)
        );
        assert_eq!(search("-name x").unwrap().paths, ["."]);
        let paths = [b"/a b".to_vec(), b"/c".to_vec()];
        let run = |line| search(line).unwrap().run.unwrap().words_for(&paths);
        assert_eq!(run("-exec ls x{}{}y -l ;"), ["ls", "x/a b/a by", "-l"]);
        assert_eq!(run("-exec ls -l {} +"), ["ls", "-l", "/a b", "/c"]);
        assert_eq!(search("-newer /x -empty").unwrap().newer, ["/x"]);
        for bad in [
            "/ -frob x",
            "/ -name",
            "/ -type x",
            "/ -size k",
            "/ -mtime x",
            "/ -maxdepth -1",
            "/ -name [a",
            "/ -exec",
            "/ -exec ;",
            "/ -exec ls {}",
            "/ -newer",
        ] {
            assert!(search(bad).is_err(), "{bad}");
        }
    }
}
