//! `dfs rm`: removes files and trees.

use std::ffi::OsString;
use std::io::Write;

use anyhow::bail;
use cairn_protocol::ErrorCode;
use clap::Args;

use super::{confirmed, expand_guarded};
use crate::output::escape;
use crate::session::Session;

/// Remove files, and with -r directories with all they hold.
///
/// A tree goes in one step, however large; its space comes back in the background. There is no undo.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Directories, too.
    #[arg(short = 'r', short_alias = 'R', long)]
    recursive: bool,
    /// What does not exist is fine.
    #[arg(short = 'f', long)]
    force: bool,
    /// Tell what was removed.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Ask before each path.
    #[arg(short = 'i', long)]
    interactive: bool,
    /// There is no trash to be skipped.
    #[arg(long, hide = true)]
    skip_trash: bool,
    /// What to remove.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Rm {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        for typed in &self.paths {
            let paths = match expand_guarded(session, typed, "remove").await {
                Ok(paths) => paths,
                Err(error)
                    if self.force && error.downcast_ref::<cairn_client::Error>().is_none() =>
                {
                    continue;
                }
                Err(error) => {
                    session.report(format!("{error:#}"));
                    continue;
                }
            };
            for path in paths {
                if self.interactive && !confirmed(session, "remove", &path).await? {
                    continue;
                }
                match self.remove(session, &path).await {
                    Ok(true) if self.verbose => {
                        writeln!(session.out, "removed {}", escape(&path))?;
                    }
                    Ok(_) => {}
                    Err(error) => session.report(format!("{error:#}")),
                }
            }
        }
        Ok(())
    }

    /// Whether there was anything to remove.
    async fn remove(&self, session: &Session, path: &[u8]) -> anyhow::Result<bool> {
        if cairn_client::normalise(path).is_ok_and(|normal| normal == b"/") {
            bail!("/: the root cannot be removed");
        }
        let removed = if self.recursive {
            session.fs.remove_tree(path).await
        } else {
            session.fs.unlink(path).await
        };
        match removed {
            Ok(_) => Ok(true),
            Err(error) if self.force && error.code() == ErrorCode::NotFound => Ok(false),
            Err(error) if error.code() == ErrorCode::IsADirectory && !self.recursive => {
                bail!(
                    "{}: Is a directory (rm -r removes it with all it holds)",
                    escape(path)
                )
            }
            Err(error) => Err(error.into()),
        }
    }
}
