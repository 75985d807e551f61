//! `dfs tree`: what is below, drawn.

use std::ffi::OsString;
use std::io::Write;

use cairn_protocol::messages::common::InodeKind;
use clap::Args;

use super::expand;
use crate::output::{counted, escape, is_directory, kind};
use crate::paths::join;
use crate::session::Session;
use crate::walk::searched;

/// Draw what is below directories.
#[derive(Debug, Args)]
pub(crate) struct Tree {
    /// No deeper than this.
    #[arg(short = 'L', long, value_name = "DEPTH", default_value_t = usize::MAX, hide_default_value = true)]
    level: usize,
    /// Directories only.
    #[arg(short = 'd', long)]
    directories: bool,
    /// Paths; your home directory if there are none.
    paths: Vec<OsString>,
}

/// A directory on the way: what of it is still to be drawn, last first.
struct Level {
    path: Vec<u8>,
    prefix: String,
    entries: Vec<(Vec<u8>, String, bool)>,
}

impl Tree {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let typed = if self.paths.is_empty() {
            vec![OsString::from(".")]
        } else {
            self.paths.clone()
        };
        let (mut directories, mut files) = (0_u64, 0_u64);
        for path in expand(session, &typed).await {
            writeln!(session.out, "{}", escape(&path))?;
            let mut stack: Vec<Level> = self
                .level(session, path, String::new())
                .await
                .into_iter()
                .collect();
            while let Some(level) = stack.last_mut() {
                let Some((name, shown, directory)) = level.entries.pop() else {
                    stack.pop();
                    continue;
                };
                let last = level.entries.is_empty();
                let (branch, indent) = if last {
                    ("└── ", "    ")
                } else {
                    ("├── ", "│   ")
                };
                writeln!(session.out, "{}{branch}{shown}", level.prefix)?;
                *(if directory {
                    &mut directories
                } else {
                    &mut files
                }) += 1;
                if directory && stack.len() < self.level {
                    let Some(level) = stack.last() else { break };
                    let (below, prefix) = (
                        join(&level.path, &name),
                        format!("{}{indent}", level.prefix),
                    );
                    stack.extend(self.level(session, below, prefix).await);
                }
            }
        }
        let (directories, files) = (
            counted(directories, "directory", "directories"),
            counted(files, "file", "files"),
        );
        writeln!(session.out, "\n{directories}, {files}")?;
        Ok(())
    }

    /// One directory, read; it must be held to know which entry is the last.
    async fn level(&self, session: &mut Session, path: Vec<u8>, prefix: String) -> Option<Level> {
        let listed = session.fs.list_all(&path).await;
        let listed = session.check(listed)?;
        let entries = listed.into_iter().map(|entry| searched(entry, &path));
        let entries = session.check(entries.collect::<Result<Vec<_>, _>>())?;
        let entries = entries.into_iter().rev().filter_map(|(name, attributes)| {
            let directory = is_directory(&attributes);
            let mut shown = escape(&name);
            if kind(&attributes) == InodeKind::Symlink {
                shown = format!("{shown} -> {}", escape(&attributes.symlink_target));
            }
            let wanted = (directory || !self.directories) && !name.is_empty();
            wanted.then_some((name, shown, directory))
        });
        let entries = entries.collect();
        Some(Level {
            path,
            prefix,
            entries,
        })
    }
}
