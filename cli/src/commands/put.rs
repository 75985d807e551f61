//! `dfs put`: local files and directories into the cluster.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Destination;
use crate::session::{Session, Usage};
use crate::transfer::upload::{UploadOptions, upload, upload_stdin};

/// Copy local files and directories into the cluster.
///
/// Directories are copied with all they hold, many files at once. A file appears under its name when it is complete, after
/// its checksum in the cluster was compared with what was read here; an interrupted put leaves nothing half-written.
#[derive(Debug, Args)]
#[command(override_usage = "dfs put [OPTIONS] SOURCE... TARGET")]
pub(crate) struct Put {
    /// Replace files that exist.
    #[arg(short = 'f', long)]
    force: bool,
    /// Keep mode and times, and as root also owner and group.
    #[arg(short = 'p', long)]
    preserve: bool,
    /// Directories are always copied with all they hold.
    #[arg(short = 'r', short_alias = 'R', long, hide = true)]
    recursive: bool,
    /// Replicas of the new files; 0 takes what the directory says.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=16))]
    replication: u32,
    /// On the disks of all replicas before a file counts as done.
    #[arg(long)]
    sync: bool,
    /// No progress, even on a terminal.
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Local files and directories, `-` for standard input, and last where they go: a directory that exists, or a new name.
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    paths: Vec<OsString>,
}

impl Put {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let Some((target, sources)) = self.paths.split_last() else {
            return Usage::error("put needs sources and a target");
        };
        let options = UploadOptions {
            overwrite: self.force,
            preserve: self.preserve,
            replication: self.replication,
            sync: self.sync,
            quiet: self.quiet,
        };
        let standard_input = OsStr::new("-");
        if sources.contains(&standard_input.to_owned()) {
            let [_] = sources else {
                return Usage::error("standard input (-) cannot be mixed with other sources");
            };
            let path = crate::paths::absolute(&session.home, target);
            let result = upload_stdin(session, &path, options).await;
            session.check(result);
            return Ok(());
        }
        let is_tree = sources.iter().all(|source| Path::new(source).is_dir());
        let destination = Destination::find(session, target, sources.len(), is_tree).await?;
        let pairs = sources.iter().map(|source| {
            let local = PathBuf::from(source);
            let base = local
                .file_name()
                .map(OsStrExt::as_bytes)
                .unwrap_or_default();
            let remote = destination.name_for(base);
            (local, remote)
        });
        let pairs: Vec<_> = pairs.collect();
        upload(session, pairs, options).await;
        Ok(())
    }
}
