//! `dfs mv`: renames.

use std::ffi::OsString;

use cairn_protocol::messages::operation::RenameMode;
use clap::Args;

use super::{Destination, expand};
use crate::paths::{absolute, base_name};
use crate::session::{Session, Usage};

/// Rename or move files and directories. Each move is one step, whatever is in a directory.
#[derive(Debug, Args)]
#[command(override_usage = "dfs mv [OPTIONS] SOURCE... TARGET")]
pub(crate) struct Mv {
    /// Fail instead of replacing a file that exists.
    #[arg(short = 'n', long)]
    no_clobber: bool,
    /// Replacing is the default.
    #[arg(short = 'f', long, hide = true)]
    force: bool,
    /// The target is the new name itself, even if it is a directory.
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// Let two paths change places, in one step.
    #[arg(long, conflicts_with = "no_clobber")]
    exchange: bool,
    /// What to move, and last where it goes: a directory that exists, or a new name.
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    paths: Vec<OsString>,
}

impl Mv {
    pub(crate) async fn run(mut self, session: &mut Session) -> anyhow::Result<()> {
        let Some(target) = self.paths.pop() else {
            return Usage::error("mv needs sources and a target");
        };
        let sources = expand(session, &self.paths).await;
        let mode = match (self.exchange, self.no_clobber) {
            (true, _) => RenameMode::Exchange,
            (false, true) => RenameMode::NoReplace,
            (false, false) => RenameMode::Replace,
        };
        if self.exchange || self.no_target_directory {
            let [source] = sources.as_slice() else {
                return Usage::error("--exchange and -T take one source and one target");
            };
            let target = absolute(&session.home, &target);
            let moved = session.fs.rename(source, &target, mode).await;
            session.check(moved);
            return Ok(());
        }
        if sources.is_empty() {
            return Ok(());
        }
        let destination = Destination::find(session, &target, sources.len(), true).await?;
        for source in sources {
            let target = destination.name_for(&base_name(&source));
            let moved = session.fs.rename(&source, &target, mode).await;
            session.check(moved);
        }
        Ok(())
    }
}
