//! `dfs get`: files and directories of the cluster onto the local disk.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::{cat, expand};
use crate::paths::base_name;
use crate::session::{Session, local_error};
use crate::transfer::download::{DownloadOptions, download};

/// Copy files and directories of the cluster to the local disk.
///
/// Directories are copied with all they hold, many files at once. Every byte is verified by its checksum on the way. A file
/// appears under its name when it is complete.
#[derive(Debug, Args)]
#[command(override_usage = "dfs get [OPTIONS] SOURCE... [TARGET]")]
pub(crate) struct Get {
    /// Replace files that exist.
    #[arg(short = 'f', long)]
    force: bool,
    /// Keep mode and times, and as root also owner and group.
    #[arg(short = 'p', long)]
    preserve: bool,
    /// Directories are always copied with all they hold.
    #[arg(short = 'r', short_alias = 'R', long, hide = true)]
    recursive: bool,
    /// No progress, even on a terminal.
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Paths in the cluster, and last where they go: a local directory that exists, a new name, or `-` for standard output.
    /// With one path alone, the current directory.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

impl Get {
    pub(crate) async fn run(mut self, session: &mut Session) -> anyhow::Result<()> {
        let target = match self.paths.len() {
            0 | 1 => OsString::from("."),
            _ => self.paths.pop().unwrap_or_default(),
        };
        let sources = expand(session, &self.paths).await;
        if target == "-" {
            for source in sources {
                cat::copy_to_stdout(session, &source).await?;
            }
            return Ok(());
        }
        let target = PathBuf::from(target);
        let directory = target.is_dir();
        if sources.len() > 1 && !directory {
            let kind = if target.exists() {
                NOT_A_DIRECTORY
            } else {
                NOT_FOUND
            };
            bail!(
                "{}",
                local_error(&target, &io::Error::from_raw_os_error(kind))
            );
        }
        let pairs = sources.into_iter().map(|source| {
            let base = base_name(&source);
            let into = directory && !base.is_empty();
            let local = if into {
                target.join(OsStr::from_bytes(&base))
            } else {
                target.clone()
            };
            (source, local)
        });
        let pairs: Vec<_> = pairs.collect();
        let options = DownloadOptions {
            overwrite: self.force,
            preserve: self.preserve,
            quiet: self.quiet,
        };
        download(session, pairs, options).await;
        Ok(())
    }
}

/// `ENOTDIR` and `ENOENT`, for the usual wording.
const NOT_A_DIRECTORY: i32 = 20;
const NOT_FOUND: i32 = 2;
