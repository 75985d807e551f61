//! `-exec`: commands of this machine, run with what was found.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use anyhow::bail;
use tokio::process::Command;

use crate::session::{Session, local_error};

/// A command of this machine, run with what was found.
#[derive(Debug)]
pub(super) struct Run {
    words: Vec<OsString>,
    /// Many paths for each command, not one.
    together: bool,
}

/// Paths for one command at most, and their bytes: the kernel takes 2 MiB of arguments.
const TOGETHER: usize = 1000;
const TOGETHER_BYTES: usize = 1 << 20;

impl Run {
    /// The words up to `;`, or to `+` behind `{}`.
    pub(super) fn parse(words: &mut impl Iterator<Item = OsString>) -> anyhow::Result<Self> {
        let mut found: Vec<OsString> = Vec::new();
        for word in words {
            let together = word == "+" && found.last().is_some_and(|last| last == "{}");
            if word != ";" && !together {
                found.push(word);
                continue;
            }
            if found.first().is_none_or(|first| first == "{}") {
                bail!("-exec needs a command");
            }
            if together {
                found.pop();
            }
            return Ok(Self {
                words: found,
                together,
            });
        }
        bail!("-exec ends with `;`, which the shell wants quoted, or with `{{}} +`")
    }

    pub(super) fn is_enough(&self, paths: &[Vec<u8>]) -> bool {
        !self.together
            || paths.len() >= TOGETHER
            || paths.iter().map(Vec::len).sum::<usize>() >= TOGETHER_BYTES
    }

    pub(super) fn words_for(&self, paths: &[Vec<u8>]) -> Vec<OsString> {
        let mut words = Vec::new();
        for word in &self.words {
            let mut rest = word.as_bytes();
            let mut whole = Vec::new();
            while let Some(place) = rest.windows(2).position(|pair| pair == b"{}") {
                whole.extend_from_slice(&rest[..place]);
                whole.extend_from_slice(paths.first().map_or(b"", Vec::as_slice));
                rest = &rest[place + 2..];
            }
            whole.extend_from_slice(rest);
            words.push(OsString::from_vec(whole));
        }
        if self.together {
            words.extend(paths.iter().cloned().map(OsString::from_vec));
        }
        words
    }

    /// Runs it and waits. That it failed is said; the search goes on.
    pub(super) async fn run(
        &self,
        session: &mut Session,
        paths: Vec<Vec<u8>>,
    ) -> anyhow::Result<()> {
        session.out.flush()?;
        let words = self.words_for(&paths);
        let Some((program, arguments)) = words.split_first() else {
            return Ok(());
        };
        let status = Command::new(program).args(arguments).status().await;
        match status {
            Ok(status) if status.success() => {}
            // The command has said why.
            Ok(_) => session.fail(),
            Err(error) => session.report(local_error(Path::new(program), &error)),
        }
        Ok(())
    }
}
