//! `dfs ls`: what directories hold.

use std::ffi::OsString;
use std::io::{self, Write};

use cairn_daemon::users::Users;
use cairn_protocol::messages::common::{Attributes, InodeKind};
use clap::Args;
use serde_json::Value;

use super::expand;
use crate::output::{
    Align, JsonArray, Table, escape, is_directory, json_attributes, kind, mode_string, size,
    time_to_minute,
};
use crate::paths::join;
use crate::session::Session;
use crate::walk::searched;

/// List directories, or tell about files.
///
/// The columns of -l are mode (with a + where there is an access control list: `dfs getfacl`), replicas (- for what has no data), owner, group, size in bytes (entries of a directory),
/// time of the last change, and name. Names that begin with a dot are shown like all others.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Mode, replicas, owner, group, size and time.
    #[arg(short = 'l', long)]
    long: bool,
    /// Sizes for people: 1.5K, 12M.
    #[arg(short = 'h', long)]
    human_readable: bool,
    /// Everything below, too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Directories themselves, not what they hold.
    #[arg(short = 'd', long)]
    directory: bool,
    /// Newest first.
    #[arg(short = 't', conflicts_with = "by_size")]
    by_time: bool,
    /// Largest first.
    #[arg(short = 'S')]
    by_size: bool,
    /// The other way round.
    #[arg(short = 'r', long)]
    reverse: bool,
    /// After names: / of directories, * of programs, @ of symbolic links, | of pipes, = of sockets.
    #[arg(short = 'F', long)]
    classify: bool,
    /// Names that begin with a dot are always shown.
    #[arg(short = 'a', short_alias = 'A', hide = true)]
    all: bool,
    /// One name on each line, as always without -l.
    #[arg(short = '1', short_alias = 'C', hide = true)]
    lines: bool,
    /// One JSON array of objects.
    #[arg(long)]
    json: bool,
    /// Paths; your home directory if there are none.
    paths: Vec<OsString>,
}

struct Entry {
    name: Vec<u8>,
    path: Vec<u8>,
    attributes: Attributes,
}

/// Entries printed with columns of one width, so that memory is bounded.
const BATCH: usize = 4096;

impl Ls {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let typed = if self.paths.is_empty() {
            vec![OsString::from(".")]
        } else {
            self.paths.clone()
        };
        let paths = expand(session, &typed).await;
        let headers = paths.len() > 1 || self.recursive || paths.len() < typed.len();
        let mut printer = Printer::new(&self);
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for path in paths {
            // A link that is named is followed, unless it is asked about or leads nowhere.
            let mut found = session.fs.stat_link(&path).await;
            if matches!(&found, Ok(attributes) if kind(attributes) == InodeKind::Symlink && !self.long)
            {
                found = match session.fs.stat(&path).await {
                    Ok(target) => Ok(target),
                    Err(_) => found,
                };
            }
            let Some(attributes) = session.check(found) else {
                continue;
            };
            if is_directory(&attributes) && !self.directory {
                directories.push(path);
            } else {
                files.push(Entry {
                    name: path.clone(),
                    path,
                    attributes,
                });
            }
        }
        let mut first = files.is_empty();
        self.sort(&mut files);
        printer.print(&mut session.out, files)?;
        // The next one to list is at the end.
        directories.reverse();
        while let Some(path) = directories.pop() {
            if headers && !self.json {
                let gap = if std::mem::take(&mut first) { "" } else { "\n" };
                writeln!(session.out, "{gap}{}:", escape(&path))?;
            }
            let below = self.list(session, &path, &mut printer).await?;
            directories.extend(below.into_iter().rev());
        }
        printer.end(&mut session.out)?;
        Ok(())
    }

    /// Prints one directory; with -R, gives those that it holds.
    async fn list(
        &self,
        session: &mut Session,
        path: &[u8],
        printer: &mut Printer,
    ) -> anyhow::Result<Vec<Vec<u8>>> {
        let (mut batch, mut below) = (Vec::new(), Vec::new());
        let listing = session.fs.list(path, true);
        let Some(mut listing) = session.check(listing) else {
            return Ok(below);
        };
        loop {
            let entry = match listing.next().await {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) => {
                    session.report(error);
                    break;
                }
            };
            let Some((name, attributes)) = session.check(searched(entry, path)) else {
                break;
            };
            let full = join(path, &name);
            if self.recursive && is_directory(&attributes) {
                below.push(full.clone());
            }
            batch.push(Entry {
                name,
                path: full,
                attributes,
            });
            if batch.len() >= BATCH && !self.sorted() {
                printer.print(&mut session.out, std::mem::take(&mut batch))?;
            }
        }
        self.sort(&mut batch);
        printer.print(&mut session.out, batch)?;
        Ok(below)
    }

    /// Whether anything but the order of the cluster was asked for.
    fn sorted(&self) -> bool {
        self.by_time || self.by_size || self.reverse
    }

    fn sort(&self, entries: &mut [Entry]) {
        if self.by_time {
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.attributes.mtime_ns));
        }
        if self.by_size {
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.attributes.size));
        }
        if self.reverse {
            entries.reverse();
        }
    }
}

struct Printer {
    long: bool,
    human: bool,
    classify: bool,
    json: Option<JsonArray>,
    users: Users,
}

impl Printer {
    fn new(ls: &Ls) -> Self {
        let users = if ls.long {
            Users::load()
        } else {
            Users::default()
        };
        let json = ls.json.then(JsonArray::default);
        Self {
            long: ls.long,
            human: ls.human_readable,
            classify: ls.classify,
            json,
            users,
        }
    }

    fn print(&mut self, out: &mut impl Write, entries: Vec<Entry>) -> io::Result<()> {
        if let Some(json) = &mut self.json {
            for entry in entries {
                let object = json_attributes("path", &entry.path, &entry.attributes);
                json.element(out, &Value::Object(object))?;
            }
            return Ok(());
        }
        if !self.long {
            return entries
                .iter()
                .try_for_each(|entry| writeln!(out, "{}", self.name(entry)));
        }
        let (left, right) = (Align::Left, Align::Right);
        let mut table = Table::new(&[left, right, left, left, right, left, left]);
        for entry in &entries {
            table.row(self.cells(entry));
        }
        table.print(out, " ")
    }

    fn name(&self, entry: &Entry) -> String {
        let name = escape(&entry.name);
        if self.classify {
            name + mark(&entry.attributes)
        } else {
            name
        }
    }

    fn cells(&self, entry: &Entry) -> [String; 7] {
        let attributes = &entry.attributes;
        let inode_kind = kind(attributes);
        let replicas = match attributes.replication {
            0 => "-".to_owned(),
            replicas if inode_kind == InodeKind::File => replicas.to_string(),
            _ => "-".to_owned(),
        };
        let mut name = self.name(entry);
        if inode_kind == InodeKind::Symlink {
            let name_alone = escape(&entry.name);
            name = format!("{name_alone} -> {}", escape(&attributes.symlink_target));
        }
        [
            mode_string(inode_kind, attributes.mode) + if attributes.has_acl { "+" } else { "" },
            replicas,
            self.users.user_name(attributes.uid),
            self.users.group_name(attributes.gid),
            size(attributes.size, self.human),
            time_to_minute(attributes.mtime_ns),
            name,
        ]
    }

    fn end(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.json.take().map_or(Ok(()), |json| json.end(out))
    }
}

/// What -F puts after a name.
fn mark(attributes: &Attributes) -> &'static str {
    match kind(attributes) {
        InodeKind::Directory => "/",
        InodeKind::Symlink => "@",
        InodeKind::Fifo => "|",
        InodeKind::Socket => "=",
        InodeKind::File if attributes.mode & 0o111 != 0 => "*",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::common::{Attributes, InodeKind};
    use clap::Parser;

    use super::{Entry, Ls, Printer};

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        ls: Ls,
    }

    fn ls(line: &str) -> Ls {
        Line::try_parse_from(line.split(' ')).unwrap().ls
    }

    fn entry(name: &[u8], size: u64, mtime_ns: u64) -> Entry {
        let attributes = Attributes {
            kind: InodeKind::File as i32,
            mode: 0o644,
            uid: 4_000_000,
            gid: 4_000_001,
            replication: 3,
            size,
            mtime_ns,
            ..Attributes::default()
        };
        Entry {
            name: name.to_vec(),
            path: name.to_vec(),
            attributes,
        }
    }

    fn names(line: &str) -> String {
        let mut entries = vec![entry(b"a", 1, 5), entry(b"b", 3, 4), entry(b"c", 2, 6)];
        ls(line).sort(&mut entries);
        entries
            .iter()
            .map(|entry| char::from(entry.name[0]))
            .collect()
    }

    #[test]
    fn entries_are_in_the_order_asked_for() {
        assert_eq!(names("ls"), "abc");
        assert_eq!(names("ls -r"), "cba");
        assert_eq!(names("ls -S"), "bca");
        assert_eq!(names("ls -t"), "cab");
        assert_eq!(names("ls -tr"), "bac");
    }

    #[test]
    fn long_lines_have_all_columns() {
        let mut out = Vec::new();
        let entries = vec![entry(b"a\xff", 2048, 0), entry(b"b", 7, 0)];
        Printer::new(&ls("ls -lh"))
            .print(&mut out, entries)
            .unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("-rw-r--r-- 3 4000000 4000001 2.0K "),
            "{text}"
        );
        assert!(
            lines[0].ends_with(" a\\xff") && lines[1].contains("    7 "),
            "{text}"
        );
    }

    #[test]
    fn marks_tell_what_it_is() {
        let mut entries = vec![entry(b"f", 1, 0), entry(b"x", 1, 0), entry(b"d", 1, 0)];
        entries[1].attributes.mode = 0o755;
        entries[2].attributes.kind = InodeKind::Directory as i32;
        entries[2].attributes.has_acl = true;
        let mut out = Vec::new();
        let mut printer = Printer::new(&ls("ls -F"));
        printer.print(&mut out, entries).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "f\nx*\nd/\n");
    }

    #[test]
    fn an_access_control_list_shows() {
        let mut entries = vec![entry(b"f", 1, 0), entry(b"a", 1, 0)];
        entries[1].attributes.has_acl = true;
        let mut out = Vec::new();
        Printer::new(&ls("ls -l")).print(&mut out, entries).unwrap();
        let text = String::from_utf8(out).unwrap();
        let modes: Vec<&str> = text.lines().map(|line| &line[..11]).collect();
        assert_eq!(modes, ["-rw-r--r-- ", "-rw-r--r--+"], "{text}");
    }

    #[test]
    fn json_is_one_array() {
        let mut out = Vec::new();
        let mut printer = Printer::new(&ls("ls --json"));
        printer.print(&mut out, vec![entry(b"a", 1, 2)]).unwrap();
        printer.print(&mut out, vec![entry(b"b", 3, 4)]).unwrap();
        printer.end(&mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            (value[0]["path"].as_str(), value[1]["size"].as_u64()),
            (Some("a"), Some(3))
        );
    }
}
