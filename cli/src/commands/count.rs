//! `dfs count`: directories, files and bytes below paths.

use std::ffi::OsString;
use std::io::Write;

use clap::Args;

use super::expand;
use crate::output::{escape, is_directory, size};
use crate::session::Session;
use crate::walk::{Step, Walk};

/// Count directories, files and bytes at and below paths.
#[derive(Debug, Args)]
pub(crate) struct Count {
    /// Sizes for people: 1.5K, 12M.
    #[arg(short = 'h', long)]
    human_readable: bool,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Count {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        for path in expand(session, &self.paths).await {
            let found = session.fs.stat(&path).await;
            let Some(attributes) = session.check(found) else {
                continue;
            };
            let mut walk = Walk::from(&session.fs, &path, attributes);
            let (mut directories, mut files, mut bytes) = (0_u64, 0_u64, 0_u64);
            loop {
                match walk.next().await {
                    Ok(Some(Step::Enter(found))) if is_directory(&found.attributes) => {
                        directories += 1
                    }
                    Ok(Some(Step::Enter(found))) => {
                        files += 1;
                        bytes = bytes.saturating_add(found.attributes.size);
                    }
                    Ok(Some(Step::Leave(_))) => {}
                    Ok(None) => break,
                    Err(error) => session.report(error),
                }
            }
            let bytes = size(bytes, self.human_readable);
            writeln!(
                session.out,
                "{directories:>12} {files:>12} {bytes:>15} {}",
                escape(&path)
            )?;
        }
        Ok(())
    }
}
