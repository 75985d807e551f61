//! `dfs du`: how much space files take.

use std::ffi::OsString;
use std::io::Write;

use clap::Args;

use super::expand;
use crate::output::{escape, is_directory, size};
use crate::session::Session;
use crate::walk::{Step, Walk};

/// Tell how much space files and directories take: bytes once, bytes over all replicas, and the path.
///
/// Files that share bytes, as copies do, count in full each. A file with several names counts with each of them.
#[derive(Debug, Args)]
pub(crate) struct Du {
    /// One line for each path, not for each directory below it.
    #[arg(short = 's', long)]
    summarize: bool,
    /// Directories no deeper than this; 0 is -s.
    #[arg(short = 'd', long, value_name = "DEPTH", conflicts_with = "summarize")]
    max_depth: Option<usize>,
    /// Files, too.
    #[arg(short = 'a', long, conflicts_with = "summarize")]
    all: bool,
    /// A total at the end.
    #[arg(short = 'c', long)]
    total: bool,
    /// Sizes for people: 1.5K, 12M.
    #[arg(short = 'h', long)]
    human_readable: bool,
    /// Paths; your home directory if there are none.
    paths: Vec<OsString>,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    bytes: u64,
    with_replicas: u64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.with_replicas = self.with_replicas.saturating_add(other.with_replicas);
    }
}

impl Du {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let typed = if self.paths.is_empty() {
            vec![OsString::from(".")]
        } else {
            self.paths.clone()
        };
        let depth_max = match self.max_depth {
            _ if self.summarize => 0,
            depth => depth.unwrap_or(usize::MAX),
        };
        let mut total = Sum::default();
        for path in expand(session, &typed).await {
            let found = session.fs.stat_link(&path).await;
            let Some(attributes) = session.check(found) else {
                continue;
            };
            let mut walk = Walk::from(&session.fs, &path, attributes);
            // One sum per directory that the walk is in.
            let mut sums: Vec<Sum> = Vec::new();
            loop {
                match walk.next().await {
                    Ok(Some(Step::Enter(found))) if is_directory(&found.attributes) => {
                        sums.push(Sum::default())
                    }
                    Ok(Some(Step::Enter(found))) => {
                        let bytes = found.attributes.allocated;
                        let with_replicas =
                            bytes.saturating_mul(found.attributes.replication.into());
                        let sum = Sum {
                            bytes,
                            with_replicas,
                        };
                        let named = sums.is_empty();
                        sums.last_mut().unwrap_or(&mut total).add(sum);
                        if named || (self.all && found.depth <= depth_max) {
                            self.print(session, sum, &escape(&found.path))?;
                        }
                    }
                    Ok(Some(Step::Leave(found))) => {
                        let sum = sums.pop().unwrap_or_default();
                        sums.last_mut().unwrap_or(&mut total).add(sum);
                        if found.depth <= depth_max {
                            self.print(session, sum, &escape(&found.path))?;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => session.report(error),
                }
            }
        }
        if self.total {
            self.print(session, total, "total")?;
        }
        Ok(())
    }

    fn print(&self, session: &mut Session, sum: Sum, name: &str) -> std::io::Result<()> {
        let text = |bytes| size(bytes, self.human_readable);
        writeln!(
            session.out,
            "{}\t{}\t{}",
            text(sum.bytes),
            text(sum.with_replicas),
            name
        )
    }
}
