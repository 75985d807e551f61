//! `dfs setrep`: how many replicas files have.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_client::{AttributeChange, Error, FileSystem};
use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::admin::{DatanodeAdminState, DatanodeStatus, StatusReply};
use cairn_protocol::messages::common::InodeKind;
use cairn_protocol::messages::query::ChunkLocation;
use clap::Args;
use tokio::time::sleep;

use super::{expand, for_each};
use crate::output::{escape, kind};
use crate::session::{Session, about, complain};
use crate::walk::{Found, Step, Walk};

/// Between looks at a file that has too few.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Change how many replicas files have, and new files in directories will have.
///
/// The cluster copies or deletes replicas in the background; `dfs status` tells what is left to do. More replicas than there are
/// datanodes can be asked for: they come when there are as many, and that is said.
#[derive(Debug, Args)]
pub(crate) struct Setrep {
    /// Directories with all they hold.
    #[arg(short = 'R', short_alias = 'r', long)]
    recursive: bool,
    /// Wait until all bytes of the files have so many replicas.
    #[arg(short = 'w', long)]
    wait: bool,
    /// Replicas, 1 to 16.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16))]
    replication: u32,
    /// Paths.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

/// Datanodes that can hold a replica each.
fn takes_replicas(status: &StatusReply) -> usize {
    let able =
        |one: &&DatanodeStatus| one.alive && one.state == DatanodeAdminState::InService as i32;
    status.datanodes.iter().filter(able).count()
}

impl Setrep {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let paths = expand(session, &self.paths).await;
        let waited_for = if self.wait { paths.clone() } else { Vec::new() };
        let named = paths.clone();
        let (fs, replication) = (session.fs.clone(), self.replication);
        let is_set = Arc::new(AtomicBool::new(false));
        for_each(session, paths, self.recursive, |found| {
            let (fs, is_set) = (fs.clone(), is_set.clone());
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
                changed.map_err(|error| about(&found.path, &error))?;
                is_set.store(true, Ordering::Relaxed);
                Ok(())
            }
        })
        .await;
        // Who waits is told what for.
        if is_set.load(Ordering::Relaxed) && !self.wait {
            self.warn(session, &named).await;
        }
        for path in waited_for {
            let waited = self.wait_for(session, &path).await;
            session.check(waited);
        }
        Ok(())
    }

    /// Says that there cannot be so many, for now.
    async fn warn(&self, session: &Session, paths: &[Vec<u8>]) {
        // The wish is noted; whether it can be fulfilled is no part of that.
        let Ok(status) = session.fs.status().await else {
            return;
        };
        let (able, wanted) = (takes_replicas(&status), self.replication);
        if able >= wanted as usize {
            return;
        }
        let fewer = if able == 0 {
            String::new()
        } else {
            let recursive = if self.recursive { "-R " } else { "" };
            let paths: Vec<String> = paths.iter().map(|path| escape(path)).collect();
            let paths = paths.join(" ");
            format!("; `dfs setrep {recursive}{able} {paths}` asks for as many as there can be")
        };
        complain(format_args!(
            "{wanted} replicas are asked for, and {able} datanodes are in service: the wish stays, and until there are as many, `dfs \
             status` says that replicas are missing, and new files in directories with that wish are refused{fewer}"
        ));
    }

    async fn wait_for(&self, session: &mut Session, path: &[u8]) -> Result<(), Error> {
        let attributes = session.fs.stat(path).await?;
        let depth_max = if self.recursive { usize::MAX } else { 0 };
        let mut walk = Walk::from(&session.fs, path, attributes).depth_max(depth_max);
        while let Some(step) = walk.next().await? {
            let Step::Enter(found) = step else { continue };
            if kind(&found.attributes) != InodeKind::File {
                continue;
            }
            let mut told = false;
            while !self.has_replicas(&session.fs, &found).await? {
                if !std::mem::replace(&mut told, true) {
                    self.tell(session, &found.path).await;
                }
                sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }

    /// Says what is waited for, and whether it can come.
    async fn tell(&self, session: &Session, path: &[u8]) {
        let (path, wanted) = (escape(path), self.replication);
        let status = session.fs.status().await;
        let able = status.map(|status| takes_replicas(&status));
        match able {
            Ok(able) if able < wanted as usize => complain(format_args!(
                "waiting for {wanted} replicas of {path}: there can be {able} now, for as many datanodes are in service; this waits until \
                 there are more. Ctrl-C ends the waiting, and the wish stays"
            )),
            _ => complain(format_args!("waiting for {wanted} replicas of {path}")),
        }
    }

    /// Whether every chunk of a file has enough; a file that is gone has.
    async fn has_replicas(&self, fs: &FileSystem, found: &Found) -> Result<bool, Error> {
        let inode = InodeId(found.attributes.inode);
        let mut offset = 0;
        loop {
            let page = match fs.extents(inode, offset, u64::MAX - offset).await {
                Err(error) if error.code() == ErrorCode::NotFound => return Ok(true),
                page => page?,
            };
            let enough = |chunk: &ChunkLocation| chunk.datanodes.len() >= self.replication as usize;
            if !page.chunks.iter().all(enough) {
                return Ok(false);
            }
            match page.extents.last() {
                Some(last) if page.more => offset = last.extent.offset_in_file + last.extent.length,
                _ => return Ok(true),
            }
        }
    }
}
