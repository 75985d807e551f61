//! `dfs cat`: contents to standard output.

use std::ffi::OsString;
use std::io::{self, Read, Write};

use cairn_daemon::blocking;
use cairn_protocol::limits::BUFFER_BYTES;
use clap::Args;

use super::expand;
use crate::session::Session;

/// Write the content of files to standard output.
#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// Files; `-` is standard input.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Cat {
    pub(crate) async fn run(self, session: &mut Session) -> anyhow::Result<()> {
        for typed in &self.paths {
            if typed == "-" {
                copy_stdin(session).await?;
                continue;
            }
            for path in expand(session, std::slice::from_ref(typed)).await {
                copy_to_stdout(session, &path).await?;
            }
        }
        Ok(())
    }
}

/// Writes a whole file. What cannot be read is reported; a standard output that takes no more ends the command.
pub(crate) async fn copy_to_stdout(session: &mut Session, path: &[u8]) -> io::Result<()> {
    let opened = session.fs.open(path).await;
    let Some(reader) = session.check(opened) else {
        return Ok(());
    };
    let mut stream = reader.stream(0);
    loop {
        match stream.next().await {
            Ok(Some(piece)) => write(session, &piece)?,
            Ok(None) => return Ok(()),
            Err(error) => {
                session.report(error);
                return Ok(());
            }
        }
    }
}

/// Writes to standard output without holding other tasks up.
pub(crate) fn write(session: &mut Session, bytes: &[u8]) -> io::Result<()> {
    tokio::task::block_in_place(|| session.out.write_all(bytes))
}

async fn copy_stdin(session: &mut Session) -> io::Result<()> {
    loop {
        let piece = blocking(|| {
            let mut piece = vec![0; BUFFER_BYTES];
            let count = io::stdin().read(&mut piece)?;
            piece.truncate(count);
            io::Result::Ok(piece)
        });
        let piece = piece.await?;
        if piece.is_empty() {
            return Ok(());
        }
        write(session, &piece)?;
    }
}
