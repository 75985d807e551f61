//! `dfs chown` and `dfs chgrp`: owners and groups.

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

/// Change the group.
#[derive(Debug, Args)]
pub(crate) struct Chgrp {
    /// Everything below directories, too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// A group, as a name of this machine or as a number.
    group: String,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Chown {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let owner = match Users::load().owner(&self.owner) {
            Ok(owner) => owner,
            Err(error) => return Usage::error(error.to_string()),
        };
        change(session, &self.paths, self.recursive, owner).await;
        Ok(())
    }
}

impl Chgrp {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let gid = match Users::load().gid(&self.group) {
            Ok(gid) => gid,
            Err(error) => return Usage::error(error.to_string()),
        };
        change(session, &self.paths, self.recursive, (None, Some(gid))).await;
        Ok(())
    }
}

async fn change(
    session: &mut Session,
    typed: &[OsString],
    recursive: bool,
    (uid, gid): (Option<u32>, Option<u32>),
) {
    let paths = expand(session, typed).await;
    let fs = session.fs.clone();
    for_each(session, paths, recursive, |found| {
        let fs = fs.clone();
        async move {
            let set = AttributeChange {
                uid,
                gid,
                ..AttributeChange::default()
            };
            let inode = InodeId(found.attributes.inode);
            let changed = fs.set_attributes(inode, set).await;
            changed
                .map(|_| ())
                .map_err(|error| about(&found.path, &error))
        }
    })
    .await;
}
