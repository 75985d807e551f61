//! `dfs rmdir`: removes empty directories.

use std::ffi::OsString;

use clap::Args;

use super::expand;
use crate::session::Session;

/// Remove empty directories.
#[derive(Debug, Args)]
pub(crate) struct Rmdir {
    /// What to remove.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Rmdir {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        for path in expand(session, &self.paths).await {
            let removed = session.fs.rmdir(&path).await;
            session.check(removed);
        }
        Ok(())
    }
}
