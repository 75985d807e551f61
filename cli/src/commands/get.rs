//! `dfs get`: files and directories of the cluster onto the local disk.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::bail;
use cairn_daemon::blocking;
use clap::Args;

use super::{Names, cat, expand};
use crate::output::escape;
use crate::paths::base_name;
use crate::session::{Session, local_error};
use crate::transfer::download::{DownloadOptions, download};
use crate::transfer::local_write::Target;

/// Copy files and directories of the cluster to the local disk.
///
/// Directories are copied with all they hold, many files at once. Every byte is verified by its checksum on the way. A file
/// appears under its name when it is complete; a get that is killed with -9 leaves a hidden `.….part` file beside it, which
/// nobody needs. Pipes and devices are written as the bytes come, and a symbolic link to a file is followed.
#[derive(Debug, Args)]
#[command(override_usage = "dfs get [OPTIONS] SOURCE... [TARGET]")]
pub(crate) struct Get {
    /// Replace files that exist.
    #[arg(short = 'f', long)]
    force: bool,
    /// Keep mode and times, and as root also owner and group.
    #[arg(short = 'p', long)]
    preserve: bool,
    /// Copy symbolic links that are named as links, as cp -r does; directories are copied with all they hold in any case.
    #[arg(short = 'r', short_alias = 'R', long)]
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
        if target.is_empty() {
            bail!(
                "{}",
                local_error(Path::new(""), &io::Error::from_raw_os_error(NOT_FOUND))
            );
        }
        let (target, force) = (PathBuf::from(target), self.force);
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
        // All before anything is made: what this very command makes leads nowhere.
        let mut targets = Vec::new();
        let mut names = Names::default();
        for source in sources {
            let base = base_name(&source);
            let into = directory && !base.is_empty();
            let local = if into {
                target.join(OsStr::from_bytes(&base))
            } else {
                target.clone()
            };
            let given = names.give(&base, &source, local.as_os_str().as_bytes());
            if session.check(given).is_none() {
                continue;
            }
            let found = blocking(move || find_target(local, force)).await;
            targets.extend(session.check(found).map(|target| (source, target)));
        }
        let options = DownloadOptions {
            overwrite: self.force,
            preserve: self.preserve,
            links: self.recursive,
            quiet: self.quiet,
        };
        download(session, targets, options).await;
        Ok(())
    }
}

/// Where a file goes that is to have this local name.
fn find_target(local: PathBuf, force: bool) -> Result<Target, String> {
    let target = Target::find(&local);
    let taken = matches!(&target, Target::File(_)) && local.is_symlink() && !local.is_dir();
    if taken && !force {
        let exists = io::Error::from_raw_os_error(EXISTS);
        return Err(local_error(&local, &exists));
    }
    if taken && !local.exists() {
        return Err(format!(
            "{}: a symbolic link to nowhere is neither followed nor replaced",
            escape(local.as_os_str().as_bytes())
        ));
    }
    Ok(target)
}

/// `EEXIST`, `ENOTDIR` and `ENOENT`, for the usual wording.
const EXISTS: i32 = 17;
const NOT_A_DIRECTORY: i32 = 20;
const NOT_FOUND: i32 = 2;
