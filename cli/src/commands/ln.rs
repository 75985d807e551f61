//! `dfs ln`: further names and symbolic links.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use anyhow::bail;
use cairn_client::Error;
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{IfExists, RenameMode};
use clap::Args;

use super::{file_path, is_tree};
use crate::output::{escape, is_directory};
use crate::paths::{base_name, join, temporary_beside};
use crate::session::{Session, about, about_any};

/// Give a file another name, or make a symbolic link with -s.
#[derive(Debug, Args)]
pub(crate) struct Ln {
    /// A symbolic link, which says TARGET exactly as it is typed.
    #[arg(short = 's', long)]
    symbolic: bool,
    /// Replace a file or link that has the name, in one step.
    #[arg(short = 'f', long)]
    force: bool,
    /// NAME is the new name itself, even if it is a link to a directory.
    #[arg(short = 'n', short_alias = 'T', long)]
    no_dereference: bool,
    /// What the name is to mean.
    target: OsString,
    /// The new name, or a directory for it.
    name: OsString,
}

impl Ln {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        if self.target.is_empty() {
            bail!("'': {}", ErrorCode::NotFound.text());
        }
        let mut name = file_path(session, &self.name)
            .await
            .map_err(anyhow::Error::msg)?;
        let into = !self.no_dereference
            && session
                .fs
                .stat(&name)
                .await
                .is_ok_and(|found| is_directory(&found));
        if into {
            let base = self
                .target
                .as_bytes()
                .rsplit(|&byte| byte == b'/')
                .find(|part| !part.is_empty());
            name = join(&name, base.unwrap_or_default());
        }
        let made = if self.symbolic {
            let made = self.symlink(session, &name).await;
            made.map_err(|error| about(&name, &error))
        } else {
            let target = file_path(session, &self.target).await;
            let target = target.map_err(anyhow::Error::msg)?;
            let if_exists = if self.force {
                IfExists::Replace
            } else {
                IfExists::Fail
            };
            let made = session.fs.link_with(&target, &name, if_exists).await;
            match made {
                Ok(_) => Ok(()),
                Err(error)
                    if error.code() == ErrorCode::NotPermitted
                        && is_tree(session, &target).await =>
                {
                    Err(format!(
                        "{}: Is a directory (only files get further names; ln -s makes a symbolic link)",
                        escape(&target)
                    ))
                }
                Err(error) => Err(about_any(&[&target, &name], &error)),
            }
        };
        session.check(made);
        Ok(())
    }

    async fn symlink(&self, session: &Session, name: &[u8]) -> Result<(), Error> {
        let target = self.target.as_bytes();
        if !self.force || base_name(name).is_empty() {
            return session.fs.symlink(target, name).await.map(|_| ());
        }
        // Beside and over it: at every moment the name means the old thing or the new.
        let temporary = temporary_beside(name);
        session.fs.symlink(target, &temporary).await?;
        let renamed = session
            .fs
            .rename(&temporary, name, RenameMode::Replace)
            .await;
        if renamed.is_err() {
            let _ = session.fs.unlink(&temporary).await;
        }
        renamed.map(|_| ())
    }
}
