//! `dfs count`: directories, files and bytes below paths.

use std::ffi::OsString;
use std::io::{self, Write};

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
    /// Quotas, too: names and space that are allowed and left. There are none: `none` and `inf`, as HDFS says it.
    #[arg(short = 'q', long)]
    quotas: bool,
    /// A line of titles first.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Count {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let mut paths = expand(session, &self.paths).await.into_iter().peekable();
        if self.verbose && paths.peek().is_some() {
            let quotas = ["QUOTA", "REM_QUOTA", "SPACE_QUOTA", "REM_SPACE_QUOTA"];
            self.line(
                session,
                quotas,
                ["DIR_COUNT", "FILE_COUNT", "CONTENT_SIZE"],
                b"PATHNAME",
            )?;
        }
        for path in paths {
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
            let counts = [directories.to_string(), files.to_string(), bytes];
            let counts = counts.each_ref().map(String::as_str);
            self.line(session, ["none", "inf", "none", "inf"], counts, &path)?;
        }
        Ok(())
    }

    fn line(
        &self,
        session: &mut Session,
        [names, names_left, space, space_left]: [&str; 4],
        [directories, files, bytes]: [&str; 3],
        path: &[u8],
    ) -> io::Result<()> {
        if self.quotas {
            write!(
                session.out,
                "{names:>12} {names_left:>15} {space:>15} {space_left:>15} "
            )?;
        }
        let path = escape(path);
        writeln!(
            session.out,
            "{directories:>12} {files:>12} {bytes:>15} {path}"
        )
    }
}
