//! `dfs put`: local files and directories into the cluster.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cairn_daemon::blocking;
use clap::Args;

use super::{Destination, file_path};
use crate::session::{Session, Usage, local_error};
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
    /// Remove the local files and directories once all of them are on the disks of the cluster.
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
        if self.remove_source && !session.has_failed() {
            for source in sources {
                let path = PathBuf::from(source);
                let removed = blocking(move || remove(&path)).await;
                session.check(removed);
            }
        }
        Ok(())
    }
}

/// Removes what was stored. Blocks.
fn remove(path: &Path) -> Result<(), String> {
    let is_tree = path.is_dir() && !path.is_symlink();
    let removed = if is_tree {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    removed.map_err(|error| local_error(path, &error))
}
