//! `dfs append`: adds to files.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use cairn_client::Writer;
use cairn_daemon::blocking;
use cairn_protocol::ErrorCode;
use cairn_protocol::limits::BUFFER_BYTES;
use cairn_protocol::messages::operation::IfExists;
use clap::Args;

use crate::paths::absolute;
use crate::session::{Session, Usage, local_error};

/// Add local files, or standard input, to the end of a file of the cluster. A file that does not exist is made.
#[derive(Debug, Args)]
#[command(override_usage = "dfs append [OPTIONS] SOURCE... TARGET")]
pub(crate) struct Append {
    /// Local files, `-` for standard input, and last the file that grows.
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
    paths: Vec<OsString>,
}

impl Append {
    pub(crate) async fn run(mut self, session: &mut Session) -> anyhow::Result<()> {
        let Some(target) = self.paths.pop() else {
            return Usage::error("append needs sources and a target");
        };
        let target = absolute(&session.home, &target);
        let mut writer = match session.fs.open_append(&target).await {
            Err(error) if error.code() == ErrorCode::NotFound => {
                session
                    .fs
                    .create(&target, 0o666 & !session.umask, IfExists::Open)
                    .await?;
                session.fs.open_append(&target).await?
            }
            opened => opened?,
        };
        for source in &self.paths {
            let added = add(&mut writer, source).await?;
            session.check(added);
        }
        writer.close().await?;
        Ok(())
    }
}

/// The outer error is the cluster's, after which nothing more can be added; the inner one is the local file's.
async fn add(writer: &mut Writer, source: &OsString) -> cairn_client::Result<Result<(), String>> {
    let mut reader: Box<dyn Read + Send> = if source == "-" {
        Box::new(io::stdin())
    } else {
        let path = source.clone();
        match blocking(move || File::open(path)).await {
            Ok(file) => Box::new(file),
            Err(error) => return Ok(Err(local_error(Path::new(source), &error))),
        }
    };
    loop {
        let (back, piece) = blocking(move || {
            let mut piece = Vec::with_capacity(BUFFER_BYTES);
            let read = reader
                .by_ref()
                .take(BUFFER_BYTES as u64)
                .read_to_end(&mut piece);
            (reader, read.map(|_| piece))
        })
        .await;
        reader = back;
        match piece {
            Ok(piece) if piece.is_empty() => return Ok(Ok(())),
            Ok(piece) => writer.write_bytes(piece.into()).await?,
            Err(error) => return Ok(Err(local_error(Path::new(source), &error))),
        }
    }
}
