//! `dfs stat`: all that is known of a file.

use std::ffi::OsString;
use std::io::{self, Write};

use cairn_protocol::messages::common::{Attributes, InodeKind};
use clap::Args;
use serde_json::Value;

use super::expand;
use crate::output::{
    JsonArray, escape, json_attributes, kind, kind_name, mode_string, time_in_full,
};
use crate::session::Session;
use cairn_daemon::users::Users;

/// Tell all that is known of files and directories.
///
/// In a format, %n is the name, %N the name and a link's target, %s the size, %b the bytes that take space, %F the type, %a
/// the mode in octal and %A in letters, %u %U %g %G owner and group as numbers and names, %i the inode, %h the number of
/// names, %r the replicas, %x %y %z %w the times of the last read, of the last change, of the last change of attributes
/// and of creation, %X %Y %Z %W the same in seconds since 1970, %% a percent sign; \n and \t as usual.
#[derive(Debug, Args)]
pub(crate) struct Stat {
    /// Print this, and a new line, for each.
    #[arg(short = 'c', long)]
    format: Option<String>,
    /// Tell about what a symbolic link points to.
    #[arg(short = 'L', long)]
    dereference: bool,
    /// One JSON array of objects.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Stat {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let users = Users::load();
        let mut json = JsonArray::default();
        for path in expand(session, &self.paths).await {
            let found = if self.dereference {
                session.fs.stat(&path).await
            } else {
                session.fs.stat_link(&path).await
            };
            let Some(attributes) = session.check(found) else {
                continue;
            };
            if self.json {
                let object = json_attributes("path", &path, &attributes);
                json.element(&mut session.out, &Value::Object(object))?;
                continue;
            }
            match &self.format {
                Some(format) => {
                    writeln!(
                        session.out,
                        "{}",
                        formatted(format, &path, &attributes, &users)
                    )?;
                }
                None => print(&mut session.out, &path, &attributes, &users)?,
            }
        }
        if self.json {
            json.end(&mut session.out)?;
        }
        Ok(())
    }
}

fn print(
    out: &mut impl Write,
    path: &[u8],
    attributes: &Attributes,
    users: &Users,
) -> io::Result<()> {
    let text = |format: &str| formatted(format, path, attributes, users);
    writeln!(out, "{}", text("  File: %N"))?;
    writeln!(
        out,
        "{}",
        text("  Size: %-14s Space: %-14b Replicas: %-3r %F")
    )?;
    writeln!(out, "{}", text(" Inode: %-14i Links: %h"))?;
    writeln!(
        out,
        "{}",
        text("Access: (%4a/%A)  Uid: (%u/%U)  Gid: (%g/%G)")
    )?;
    writeln!(
        out,
        "{}",
        text("Access: %x\nModify: %y\nChange: %z\n Birth: %w")
    )
}

fn formatted(format: &str, path: &[u8], attributes: &Attributes, users: &Users) -> String {
    let mut text = String::with_capacity(format.len() * 2);
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, letters.peek().copied()) {
            ('\\', Some('n')) => text.push('\n'),
            ('\\', Some('t')) => text.push('\t'),
            ('\\', Some('\\')) => text.push('\\'),
            ('%', Some(_)) => {
                let mut width = String::new();
                while let Some(digit) =
                    letters.next_if(|next| next.is_ascii_digit() || *next == '-')
                {
                    width.push(digit);
                }
                let Some(directive) = letters.next() else {
                    break;
                };
                let value = value(directive, path, attributes, users);
                let left = width.starts_with('-');
                let width = width
                    .trim_start_matches('-')
                    .parse::<usize>()
                    .unwrap_or(0)
                    .min(1000);
                if left {
                    text.push_str(&format!("{value:<width$}"));
                } else {
                    text.push_str(&format!("{value:>width$}"));
                }
                continue;
            }
            _ => {
                text.push(letter);
                continue;
            }
        }
        letters.next();
    }
    text
}

fn value(directive: char, path: &[u8], attributes: &Attributes, users: &Users) -> String {
    let seconds = |ns: u64| (ns / 1_000_000_000).to_string();
    match directive {
        'n' => escape(path),
        'N' if kind(attributes) == InodeKind::Symlink => {
            format!("{} -> {}", escape(path), escape(&attributes.symlink_target))
        }
        'N' => escape(path),
        's' => attributes.size.to_string(),
        'b' => attributes.allocated.to_string(),
        'F' => kind_name(kind(attributes)).to_owned(),
        'a' => format!("{:o}", attributes.mode),
        'A' => mode_string(kind(attributes), attributes.mode),
        'u' => attributes.uid.to_string(),
        'U' => users.user_name(attributes.uid),
        'g' => attributes.gid.to_string(),
        'G' => users.group_name(attributes.gid),
        'i' => attributes.inode.to_string(),
        'h' => attributes.nlink.to_string(),
        'r' => attributes.replication.to_string(),
        'x' => time_in_full(attributes.atime_ns),
        'y' => time_in_full(attributes.mtime_ns),
        'z' => time_in_full(attributes.ctime_ns),
        'w' => time_in_full(attributes.btime_ns),
        'X' => seconds(attributes.atime_ns),
        'Y' => seconds(attributes.mtime_ns),
        'Z' => seconds(attributes.ctime_ns),
        'W' => seconds(attributes.btime_ns),
        '%' => "%".to_owned(),
        other => format!("%{other}"),
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::common::{Attributes, InodeKind};

    use super::formatted;
    use cairn_daemon::users::Users;

    #[test]
    fn formats_are_filled_in() {
        let attributes = Attributes {
            kind: InodeKind::Symlink as i32,
            mode: 0o777,
            size: 4,
            inode: 9,
            mtime_ns: 1_500_000_000_123_456_789,
            symlink_target: b"/t\xff".to_vec(),
            ..Attributes::default()
        };
        let text = |format| formatted(format, b"/l", &attributes, &Users::default());
        assert_eq!(
            text("%n:%s:%i:%a:%A\\t%F"),
            "/l:4:9:777:lrwxrwxrwx\tsymbolic link"
        );
        assert_eq!(text("%N %Y %% %q"), "/l -> /t\\xff 1500000000 % %q");
        assert_eq!(text("[%5s][%-5s]"), "[    4][4    ]");
        assert_eq!(text("%"), "%");
        assert_eq!(text("\\"), "\\");
    }
}
