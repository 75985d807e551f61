//! `dfs df`: space in the cluster.

use std::ffi::OsString;
use std::io::Write;

use clap::Args;
use serde_json::json;

use super::expand;
use crate::output::{Align, Table, print_json, size};
use crate::session::Session;

/// Tell how much space the cluster has, over all datanodes and replicas.
#[derive(Debug, Args)]
pub(crate) struct Df {
    /// Sizes for people: 1.5K, 12M.
    #[arg(short = 'h', long)]
    human_readable: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Paths, which all have the same space: the cluster's.
    paths: Vec<OsString>,
}

impl Df {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        for path in expand(session, &self.paths).await {
            let found = session.fs.stat(&path).await;
            session.check(found);
        }
        if session.has_failed() {
            return Ok(());
        }
        let space = session.fs.statfs().await?;
        let replication = u64::from(space.replication.max(1));
        if self.json {
            let value = json!({
                "capacity_bytes": space.capacity_bytes,
                "used_bytes": space.used_bytes,
                "available_bytes": space.available_bytes,
                "replication": space.replication,
                "inodes": space.inode_count,
                "chunks": space.chunk_count,
            });
            return Ok(print_json(&mut session.out, &value)?);
        }
        let text = |bytes| size(bytes, self.human_readable);
        let right = Align::Right;
        let mut table = Table::new(&[right; 5]);
        table.row(["SIZE", "USED", "AVAILABLE", "USE%", "INODES"].map(str::to_owned));
        table.row([
            text(space.capacity_bytes),
            text(space.used_bytes),
            text(space.available_bytes),
            percent(space.used_bytes, space.available_bytes),
            space.inode_count.to_string(),
        ]);
        table.print(&mut session.out, "  ")?;
        let room = text(space.available_bytes / replication);
        writeln!(
            session.out,
            "room for {room} of files with {replication} replicas each"
        )?;
        Ok(())
    }
}

/// Of what files can have at all, rounded up, as df does it.
fn percent(used: u64, available: u64) -> String {
    let all = u128::from(used) + u128::from(available);
    if all == 0 {
        "-".to_owned()
    } else {
        format!("{}%", (u128::from(used) * 100).div_ceil(all))
    }
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn percentages_are_rounded_up() {
        assert_eq!(
            [
                percent(0, 0),
                percent(0, 5),
                percent(1, 999),
                percent(u64::MAX, 0)
            ],
            ["-", "0%", "1%", "100%"]
        );
    }
}
