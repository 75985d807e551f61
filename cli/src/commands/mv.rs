//! `dfs mv`: renames.

use std::ffi::OsString;
use std::io::Write;

use cairn_protocol::messages::operation::RenameMode;
use clap::Args;

use super::{Destination, expand_guarded, is_tree, may_replace, no_slash};
use crate::output::escape;
use crate::paths::base_name;
use crate::session::{Session, Usage, about_any};

/// Rename or move files and directories. Each move is one step, whatever is in a directory.
#[derive(Debug, Args)]
#[command(override_usage = "dfs mv [OPTIONS] SOURCE... TARGET")]
pub(crate) struct Mv {
    /// Fail instead of replacing a file that exists.
    #[arg(short = 'n', long, overrides_with_all = ["interactive", "force"])]
    no_clobber: bool,
    /// Ask before something that exists is replaced.
    #[arg(short = 'i', long, overrides_with_all = ["no_clobber", "force"])]
    interactive: bool,
    /// Replace files that exist, which is the default.
    #[arg(short = 'f', long, overrides_with_all = ["no_clobber", "interactive"])]
    force: bool,
    /// The target is the new name itself, even if it is a directory.
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// Let two paths change places, in one step.
    #[arg(long, conflicts_with = "no_clobber")]
    exchange: bool,
    /// Tell what was moved.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// What to move, and last where it goes: a directory that exists, or a new name.
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "TARGET"])]
    paths: Vec<OsString>,
}

impl Mv {
    pub(crate) async fn run(mut self, session: &mut Session) -> anyhow::Result<()> {
        let Some(target) = self.paths.pop() else {
            return Usage::error("mv needs sources and a target");
        };
        let mut sources = Vec::new();
        for typed in &self.paths {
            let expanded = expand_guarded(session, typed, "move").await;
            let expanded = session.check(expanded.map_err(|error| format!("{error:#}")));
            sources.extend(expanded.unwrap_or_default());
        }
        let mode = match (self.exchange, self.no_clobber) {
            (true, _) => RenameMode::Exchange,
            (false, true) => RenameMode::NoReplace,
            (false, false) => RenameMode::Replace,
        };
        if self.exchange || self.no_target_directory {
            let [source] = sources.as_slice() else {
                if session.has_failed() {
                    return Ok(());
                }
                return Usage::error("--exchange and -T take one source and one target");
            };
            let target = session.path(&target)?;
            if !is_tree(session, source).await {
                no_slash(session, &target)
                    .await
                    .map_err(anyhow::Error::msg)?;
            }
            return self.rename(session, source, &target, mode).await;
        }
        if sources.is_empty() {
            return Ok(());
        }
        let mut destination = Destination::find(session, &target, sources.len(), async || {
            is_tree(session, &sources[0]).await
        })
        .await?;
        for source in sources {
            let target = destination.give(&base_name(&source), &source);
            if let Some(target) = session.check(target) {
                self.rename(session, &source, &target, mode).await?;
            }
        }
        Ok(())
    }

    async fn rename(
        &self,
        session: &mut Session,
        source: &[u8],
        target: &[u8],
        mode: RenameMode,
    ) -> anyhow::Result<()> {
        if self.interactive && !self.exchange && !may_replace(session, target).await? {
            return Ok(());
        }
        match session.fs.rename(source, target, mode).await {
            Ok(_) if self.verbose => {
                writeln!(session.out, "{} -> {}", escape(source), escape(target))?;
            }
            Ok(_) => {}
            Err(error) => {
                session.report(about_any(&[source, target], &error));
            }
        }
        Ok(())
    }
}
