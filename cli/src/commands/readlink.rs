//! `dfs readlink`: what symbolic links say.

use std::ffi::OsString;
use std::io::Write;

use cairn_protocol::messages::common::InodeKind;
use clap::Args;

use super::expand;
use crate::output::{escape, kind};
use crate::session::Session;

/// Print what symbolic links say.
#[derive(Debug, Args)]
pub(crate) struct Readlink {
    /// Symbolic links.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Readlink {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        for path in expand(session, &self.paths).await {
            let found = session.fs.stat_link(&path).await;
            let Some(attributes) = session.check(found) else {
                continue;
            };
            if kind(&attributes) == InodeKind::Symlink {
                writeln!(session.out, "{}", escape(&attributes.symlink_target))?;
            } else {
                session.report(format!("{}: Not a symbolic link", escape(&path)));
            }
        }
        Ok(())
    }
}
