//! `dfs chmod`: permission bits.

use std::ffi::OsString;

use cairn_client::AttributeChange;
use cairn_protocol::ids::InodeId;
use clap::Args;

use super::{expand, for_each};
use crate::mode::ModeChange;
use crate::output::{is_directory, kind};
use crate::session::{Session, Usage, about};

/// Change permission bits.
#[derive(Debug, Args)]
pub(crate) struct Chmod {
    /// Everything below directories, too; symbolic links are left alone.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Octal, such as 750, or clauses, such as u=rwX,go-w.
    #[arg(allow_hyphen_values = true)]
    mode: String,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Chmod {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let change = match ModeChange::parse(&self.mode) {
            Ok(change) => change,
            Err(error) => return Usage::error(format!("{error:#}")),
        };
        let paths = expand(session, &self.paths).await;
        let (fs, umask) = (session.fs.clone(), session.umask);
        for_each(session, paths, self.recursive, |found| {
            let (fs, change) = (fs.clone(), change.clone());
            async move {
                let attributes = &found.attributes;
                let mode = change.apply(attributes.mode, is_directory(attributes), umask);
                let link = kind(attributes) == cairn_protocol::messages::common::InodeKind::Symlink;
                if link || mode == attributes.mode {
                    return Ok(());
                }
                let set = AttributeChange {
                    mode: Some(mode),
                    ..AttributeChange::default()
                };
                let changed = fs.set_attributes(InodeId(attributes.inode), set).await;
                changed
                    .map(|_| ())
                    .map_err(|error| about(&found.path, &error))
            }
        })
        .await;
        Ok(())
    }
}
