//! `dfs mkdir`: new directories.

use std::ffi::OsString;
use std::io::Write;

use clap::Args;

use crate::mode::ModeChange;
use crate::output::escape;
use crate::session::Session;

/// Make directories.
#[derive(Debug, Args)]
pub(crate) struct Mkdir {
    /// Make what is missing above, too; a directory that exists is fine.
    #[arg(short = 'p', long)]
    parents: bool,
    /// Mode as chmod takes it, instead of rwxrwxrwx without the umask.
    #[arg(short = 'm', long, allow_hyphen_values = true)]
    mode: Option<String>,
    /// Tell what was made.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Directories to make.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Mkdir {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let plain = 0o777 & !session.umask;
        let mode = match &self.mode {
            Some(text) => Some(ModeChange::parse(text)?.apply(0o777, true, session.umask)),
            None => None,
        };
        for typed in &self.paths {
            let path = session.path(typed);
            let Some(path) = session.check(path) else {
                continue;
            };
            // With -p the mode is that of the last directory; those above get the usual one, as coreutils has it.
            let made = match (self.parents, mode) {
                (false, mode) => session.fs.mkdir(&path, mode.unwrap_or(plain)).await,
                (true, None) => session.fs.mkdir_all(&path, plain).await,
                (true, Some(mode)) => match session.fs.stat(&path).await {
                    Ok(_) => session.fs.mkdir_all(&path, plain).await,
                    Err(_) => {
                        let above = crate::paths::parent(&path);
                        match session.fs.mkdir_all(&above, plain).await {
                            Ok(_) => session.fs.mkdir_all(&path, mode).await,
                            Err(error) => Err(error),
                        }
                    }
                },
            };
            if session.check(made).is_some() && self.verbose {
                writeln!(session.out, "made {}", escape(&path))?;
            }
        }
        Ok(())
    }
}
