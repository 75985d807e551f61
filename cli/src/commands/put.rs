//! `dfs put`: local files and directories into the cluster.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cairn_daemon::blocking;
use clap::Args;

use super::{Destination, file_path};
use crate::session::{Session, Usage};
use crate::transfer::local_remove::remove_stored;
use crate::transfer::upload::{UploadOptions, upload, upload_stdin};

/// Copy local files and directories into the cluster.
///
/// Directories are copied with all they hold, many files at once. Pipes and devices that are named are read to their end. A file appears under its name when it is complete, after
/// its checksum in the cluster was compared with what was read here; an interrupted put leaves nothing half-written.
#[derive(Debug, Args)]
#[command(override_usage = "dfs put [OPTIONS] SOURCE... [TARGET]")]
pub(crate) struct Put {
    /// Replace files that exist.
    #[arg(short = 'f', long)]
    force: bool,
    /// Keep mode and times, and as root also owner and group.
    #[arg(short = 'p', long)]
    preserve: bool,
    /// Copy symbolic links that are named as links, as cp -r does; directories are copied with all they hold in any case.
    #[arg(short = 'r', short_alias = 'R', long)]
    recursive: bool,
    /// Replicas of the new files; 0 takes what the directory says.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=16))]
    replication: u32,
    /// On the disks of all replicas before a file counts as done.
    #[arg(long)]
    sync: bool,
    /// Remove the local files and directories once all of them are on the disks of the cluster. What has changed or was added
    /// meanwhile stays; pipes and devices do in any case.
    #[arg(long)]
    remove_source: bool,
    /// No progress, even on a terminal.
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Local files and directories, `-` for standard input, and last where they go: a directory that exists, or a new name.
    /// With one source alone, your home directory.
    #[arg(required = true, value_names = ["SOURCE", "TARGET"], num_args = 1..)]
    paths: Vec<OsString>,
}

impl Put {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let home = OsString::from(".");
        let (target, sources) = match self.paths.as_slice() {
            [] => return Usage::error("put needs a source"),
            [source] if source == "-" => {
                return Usage::error("standard input (-) has no name: say where it goes");
            }
            [source] => (&home, std::slice::from_ref(source)),
            [sources @ .., target] => (target, sources),
        };
        let options = UploadOptions {
            overwrite: self.force,
            preserve: self.preserve,
            replication: self.replication,
            sync: self.sync || self.remove_source,
            links: self.recursive,
            quiet: self.quiet,
            tell: self.remove_source,
        };
        let standard_input = OsStr::new("-");
        if sources.contains(&standard_input.to_owned()) {
            let [_] = sources else {
                return Usage::error("standard input (-) cannot be mixed with other sources");
            };
            let path = file_path(session, target).await;
            if let Some(path) = session.check(path) {
                let result = upload_stdin(session, &path, options).await;
                session.check(result);
            }
            return Ok(());
        }
        let is_tree = async || sources.iter().all(|source| Path::new(source).is_dir());
        let mut destination = Destination::find(session, target, sources.len(), is_tree).await?;
        let mut pairs = Vec::new();
        for source in sources {
            let local = PathBuf::from(source);
            let base = local
                .file_name()
                .map(OsStrExt::as_bytes)
                .unwrap_or_default();
            let remote = destination.give(base, source.as_bytes());
            pairs.extend(session.check(remote).map(|remote| (local, remote)));
        }
        let stored = upload(session, pairs, options).await;
        if self.remove_source && !session.has_failed() {
            let named = sources.iter().map(PathBuf::from).collect();
            for left in blocking(move || remove_stored(named, stored)).await {
                session.report(left);
            }
        }
        Ok(())
    }
}
