//! `dfs rm`: removes files and trees.

use std::ffi::OsString;

use anyhow::bail;
use cairn_protocol::ErrorCode;
use clap::Args;

use crate::glob;
use crate::output::escape;
use crate::paths::absolute;
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
    /// What to remove.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Rm {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        for typed in &self.paths {
            let path = absolute(&session.home, typed);
            let paths = match glob::expand(&session.fs, &path).await {
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
                if let Err(error) = self.remove(session, &path).await {
                    session.report(format!("{error:#}"));
                }
            }
        }
        Ok(())
    }

    async fn remove(&self, session: &Session, path: &[u8]) -> anyhow::Result<()> {
        if cairn_client::normalise(path).is_ok_and(|normal| normal == b"/") {
            bail!("/: the root cannot be removed");
        }
        let removed = if self.recursive {
            session.fs.remove_tree(path).await
        } else {
            session.fs.unlink(path).await
        };
        match removed {
            Ok(_) => Ok(()),
            Err(error) if self.force && error.code() == ErrorCode::NotFound => Ok(()),
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
