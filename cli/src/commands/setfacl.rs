//! `dfs setfacl`: changes access control lists, as `hdfs dfs -setfacl` does.

use std::ffi::OsString;
use std::sync::Arc;

use cairn_client::{AccessListKind, FileSystem};
use cairn_daemon::acl::{List, Lists};
use cairn_daemon::users::Users;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::InodeKind;
use clap::{ArgGroup, Args};

use super::getfacl::decoded;
use super::{expand, for_each};
use crate::output::{escape, is_directory, kind};
use crate::session::{Session, Usage, about};
use crate::walk::Found;

/// Change who may what beyond owner, group and others.
///
/// SPEC is one entry or several with commas between them: user:NAME:rwx, group:NAME:r-x, mask::rwx, user::rw-, group::r--,
/// other::---; with default: before it an entry is for what is made in a directory from then on. Entries to remove need no permissions:
/// user:NAME. Unless a mask is given it becomes what takes nothing from anybody who is named.
#[derive(Debug, Args)]
#[command(
    override_usage = "dfs setfacl [OPTIONS] (-m SPEC | -x SPEC | --set SPEC | -b | -k) PATH...",
    group = ArgGroup::new("change").required(true)
)]
pub(crate) struct Setfacl {
    /// Everything below, too. Default entries are for directories alone.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Add these entries, or put them in place of those about the same users and groups.
    #[arg(short = 'm', long, value_name = "SPEC", group = "change")]
    modify: Option<String>,
    /// Remove the entries about these.
    #[arg(short = 'x', long, value_name = "SPEC", group = "change")]
    remove: Option<String>,
    /// Replace all entries by these, which have to have those of owner, group and others.
    #[arg(long, value_name = "SPEC", group = "change")]
    set: Option<String>,
    /// Remove all but what owner, group and others may.
    #[arg(short = 'b', long, group = "change")]
    remove_all: bool,
    /// Remove what is for things made in a directory.
    #[arg(short = 'k', long, group = "change")]
    remove_default: bool,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

#[derive(Debug)]
enum Change {
    Modify(Lists),
    Remove(Lists),
    Set(Lists),
    RemoveAll,
    RemoveDefault,
}

impl Change {
    fn of(typed: &Setfacl) -> Result<Self, String> {
        let users = Users::load();
        let lists = |text: &str, permitted| Lists::parse(text, permitted, &users);
        match (&typed.modify, &typed.remove, &typed.set) {
            (Some(text), _, _) => lists(text, true).map(Self::Modify),
            (_, Some(text), _) => lists(text, false).map(Self::Remove),
            (_, _, Some(text)) => lists(text, true).map(Self::Set),
            _ if typed.remove_all => Ok(Self::RemoveAll),
            _ => Ok(Self::RemoveDefault),
        }
    }

    fn apply(&self, old: &Lists, is_directory: bool, is_below: bool) -> Lists {
        let wish = |wish: &Lists| {
            let mut wish = wish.clone();
            // A file has none; whoever means a tree means its directories.
            if is_below && !is_directory {
                wish.default = List::default();
            }
            wish
        };
        match self {
            Self::Modify(lists) => old.modified(wish(lists)),
            Self::Remove(lists) => old.without(lists),
            Self::Set(lists) => old.set(wish(lists)),
            Self::RemoveAll => old.plain(),
            Self::RemoveDefault => old.without_default(),
        }
    }
}

impl Setfacl {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let change = match Change::of(&self) {
            Ok(change) => Arc::new(change),
            Err(why) => return Usage::error(why),
        };
        let paths = expand(session, &self.paths).await;
        let fs = session.fs.clone();
        for_each(session, paths, self.recursive, |found| {
            let (fs, change) = (fs.clone(), change.clone());
            async move { changed(&fs, &found, &change).await }
        })
        .await;
        Ok(())
    }
}

async fn changed(fs: &FileSystem, found: &Found, change: &Change) -> Result<(), String> {
    if kind(&found.attributes) == InodeKind::Symlink {
        return Ok(());
    }
    let inode = InodeId(found.attributes.inode);
    let fail = |error: cairn_client::Error| about(&found.path, &error);
    let kept = fs.access_lists(inode).await.map_err(fail)?;
    let (old, is_directory) = (decoded(&kept), is_directory(&kept.attributes));
    let new = change.apply(&old, is_directory, found.depth > 0);
    let checked = new.check(is_directory);
    checked.map_err(|why| {
        format!(
            "{}: invalid access control list: {why}",
            escape(&found.path)
        )
    })?;
    for (kind, new, old) in [
        (AccessListKind::Access, new.access, old.access),
        (AccessListKind::Default, new.default, old.default),
    ] {
        if new != old {
            let list = (!new.is_empty()).then(|| new.encode());
            fs.set_access_list(inode, kind, list).await.map_err(fail)?;
        }
    }
    Ok(())
}
