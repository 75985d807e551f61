//! `dfs find`: paths that answer a description, in the words of find(1).

mod condition;
mod exec;
mod expression;

use std::ffi::OsString;
use std::io::Write;

use cairn_client::{Error, Place};
use cairn_protocol::ids::InodeId;
use clap::Args;

use super::expand;
use crate::output::{escape, is_directory};
use crate::paths::base_name;
use crate::session::{Session, Usage, about};
use crate::walk::{Found, Step, Walk};
use condition::Facts;
use expression::{Action, Search};

/// Find paths below directories that meet all conditions.
///
/// Conditions: -name PATTERN, -iname PATTERN (in either case), -path PATTERN (of the whole path; `*` also stands for slashes
/// there), -type f|d|l|p|s|c|b, -size [+-]N[c|w|b|k|M|G|T] (rounded up; blocks of 512 bytes without a letter), -mtime, -atime, -ctime
/// [+-]DAYS, -mmin, -amin, -cmin [+-]MINUTES, -newer FILE, -empty, -user NAME, -group NAME, -perm [-/]MODE, -links [+-]N. They are
/// joined with -a (or nothing), -o, ! or -not, and ( ), which the shell wants quoted.
///
/// What to do with what is found: -print, which is the default; -print0, with a NUL at the end of each path and nothing escaped;
/// -exec COMMAND {} `;` runs a command of this machine with each path, -exec COMMAND {} + with many; -delete removes files and empty
/// directories, what a directory holds before itself; -prune goes into no directory that comes to it. -maxdepth N, -mindepth N and -depth
/// (what a directory holds first) are for the whole search.
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

impl Find {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let search = match Search::parse(self.words) {
            Ok(search) => search,
            Err(error) => return Usage::error(format!("{error:#}")),
        };
        let mut newer_than = Vec::new();
        for typed in &search.newer {
            let path = session.path(typed)?;
            newer_than.push(session.fs.stat(&path).await?.mtime_ns);
        }
        let facts = Facts {
            now_ns: cairn_daemon::Clock::system().now_ns(),
            newer_than,
        };
        let mut gathered = vec![Vec::new(); search.runs.len()];
        for path in expand(session, &search.paths).await {
            let found = session.fs.stat_link(&path).await;
            let Some(attributes) = session.check(found) else {
                continue;
            };
            let mut walk = Walk::from(&session.fs, &path, attributes).depth_max(search.depth_max);
            loop {
                let found = match walk.next().await {
                    Ok(Some(Step::Enter(found))) if search.is_later(&found) => continue,
                    Ok(Some(Step::Enter(found))) => found,
                    Ok(Some(Step::Leave(found))) if search.depth_first => found,
                    Ok(Some(Step::Leave(_))) => continue,
                    Ok(None) => break,
                    Err(error) => {
                        session.report(error);
                        continue;
                    }
                };
                for action in search.actions(&found, &facts) {
                    act(session, &search, action, &found, &mut walk, &mut gathered).await?;
                }
            }
        }
        for (run, gathered) in search.runs.iter().zip(gathered) {
            if !gathered.is_empty() {
                run.run(session, gathered).await?;
            }
        }
        Ok(())
    }
}

async fn act(
    session: &mut Session,
    search: &Search,
    action: Action,
    found: &Found,
    walk: &mut Walk,
    gathered: &mut [Vec<Vec<u8>>],
) -> anyhow::Result<()> {
    match action {
        Action::Print => writeln!(session.out, "{}", escape(&found.path))?,
        Action::Print0 => {
            session.out.write_all(&found.path)?;
            session.out.write_all(b"\0")?;
        }
        Action::Run(index) => {
            let (run, gathered) = (&search.runs[index], &mut gathered[index]);
            gathered.push(found.path.clone());
            if run.is_enough(gathered) {
                run.run(session, std::mem::take(gathered)).await?;
            }
        }
        Action::Prune if !search.depth_first => walk.prune(found),
        Action::Prune => {}
        Action::Delete => {
            let deleted = delete(session, found, walk.holder()).await;
            session.check(deleted);
        }
    }
    Ok(())
}

/// Removes what was found from the directory that it was found in: a link that takes a directory's place leads nowhere else.
async fn delete(session: &Session, found: &Found, holder: Option<InodeId>) -> Result<(), String> {
    let normal = cairn_client::normalise(&found.path);
    let is_home = normal.is_ok_and(|normal| Ok(normal) == cairn_client::normalise(&session.home));
    let place = match holder {
        Some(holder) => Place::Entry(holder, base_name(&found.path)),
        // Where somebody is, with nothing said or a dot, stays, as in find(1).
        None if is_home => return Ok(()),
        None => Place::Path(found.path.clone()),
    };
    let removed = if is_directory(&found.attributes) {
        session.fs.rmdir(place).await
    } else {
        session.fs.unlink(place).await
    };
    removed.map(|_| ()).map_err(|error| match error {
        // Its directory was asked about, by a number that means nothing to people.
        Error::Refused { failure, .. } => {
            format!("{}: {}", escape(&found.path), failure.code.text())
        }
        other => about(&found.path, &other),
    })
}
