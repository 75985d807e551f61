//! `dfs setrep`: how many replicas files have.

use std::ffi::OsString;

use cairn_client::AttributeChange;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::InodeKind;
use clap::Args;

use super::{expand, for_each};
use crate::output::kind;
use crate::session::{Session, about};

/// Change how many replicas files have, and new files in directories will have.
///
/// The cluster copies or deletes replicas in the background; `dfs status` tells what is left to do.
#[derive(Debug, Args)]
pub(crate) struct Setrep {
    /// Directories with all they hold.
    #[arg(short = 'R', short_alias = 'r', long)]
    recursive: bool,
    /// Replicas, 1 to 16.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16))]
    replication: u32,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Setrep {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let paths = expand(session, &self.paths).await;
        let (fs, replication) = (session.fs.clone(), self.replication);
        for_each(session, paths, self.recursive, |found| {
            let fs = fs.clone();
            async move {
                if !matches!(
                    kind(&found.attributes),
                    InodeKind::File | InodeKind::Directory
                ) {
                    return Ok(());
                }
                let set = AttributeChange {
                    replication: Some(replication),
                    ..AttributeChange::default()
                };
                let changed = fs
                    .set_attributes(InodeId(found.attributes.inode), set)
                    .await;
                changed
                    .map(|_| ())
                    .map_err(|error| about(&found.path, &error))
            }
        })
        .await;
        Ok(())
    }
}
