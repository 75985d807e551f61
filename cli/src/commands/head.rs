//! `dfs head`: the beginning of files.

use std::ffi::OsString;

use cairn_client::{Error, Reader};
use clap::Args;

use super::expand;
use super::tail::{copy, end_of_lines, print_name, start_of_lines};
use crate::quantity::Amount;
use crate::session::Session;

/// Print the first lines of files.
#[derive(Debug, Args)]
pub(crate) struct Head {
    /// So many lines; -N prints all but the last N.
    #[arg(short = 'n', long, value_name = "[-]N", default_value = "10", allow_hyphen_values = true, value_parser = Amount::parse)]
    lines: Amount,
    /// So many bytes instead, such as 100 or 2K; -N prints all but the last N.
    #[arg(short = 'c', long, value_name = "[-]N", conflicts_with = "lines", allow_hyphen_values = true, value_parser = Amount::parse)]
    bytes: Option<Amount>,
    /// Files.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Head {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        let paths = expand(session, &self.paths).await;
        for (index, path) in paths.iter().enumerate() {
            let opened = session.fs.open(path).await;
            let Some(reader) = session.check(opened) else {
                continue;
            };
            if paths.len() > 1 {
                print_name(session, path, index)?;
            }
            let end = self.end(&reader).await;
            if let Some(end) = session.check(end) {
                copy(session, &reader, 0, end).await?;
            }
        }
        Ok(())
    }

    /// Where in the file to end.
    async fn end(&self, reader: &Reader) -> Result<u64, Error> {
        match (self.bytes, self.lines) {
            (Some(Amount::Minus(bytes)), _) => Ok(reader.attributes().size.saturating_sub(bytes)),
            (Some(Amount::Plain(bytes) | Amount::Plus(bytes)), _) => Ok(bytes),
            (None, Amount::Minus(lines)) => start_of_lines(reader, lines).await,
            (None, Amount::Plain(lines) | Amount::Plus(lines)) => end_of_lines(reader, lines).await,
        }
    }
}
