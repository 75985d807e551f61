//! `dfs chown`: owners and groups.

use std::ffi::OsString;

use cairn_client::AttributeChange;
use cairn_protocol::ids::InodeId;
use clap::Args;

use super::{expand, for_each};
use crate::session::{Session, Usage, about};
use cairn_daemon::users::Users;

/// Change owner and group.
#[derive(Debug, Args)]
pub(crate) struct Chown {
    /// Everything below directories, too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// USER, USER:GROUP, USER: (with the user's own group) or :GROUP, as names of this machine or as numbers.
    owner: String,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Chown {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let (uid, gid) = match Users::load().owner(&self.owner) {
            Ok(owner) => owner,
            Err(error) => return Usage::error(format!("{error:#}")),
        };
        let paths = expand(session, &self.paths).await;
        let fs = session.fs.clone();
        for_each(session, paths, self.recursive, |found| {
            let fs = fs.clone();
            async move {
                let set = AttributeChange {
                    uid,
                    gid,
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
