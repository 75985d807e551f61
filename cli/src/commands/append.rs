//! `dfs append`: adds to files.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use cairn_client::Writer;
use cairn_daemon::blocking;
use cairn_protocol::ErrorCode;
use cairn_protocol::limits::BUFFER_BYTES;
use cairn_protocol::messages::operation::IfExists;
use clap::Args;

use super::file_path;
use crate::progress::Progress;
use crate::session::{Session, Usage, local_error};

/// Add local files, or standard input, to the end of a file of the cluster. A file that does not exist is made.
#[derive(Debug, Args)]
#[command(override_usage = "dfs append [OPTIONS] SOURCE... TARGET")]
pub(crate) struct Append {
    /// No progress, even on a terminal.
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Local files, `-` for standard input, and last the file that grows.
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "TARGET"])]
    paths: Vec<OsString>,
}

/// `EISDIR`, for the usual wording.
const IS_A_DIRECTORY: i32 = 21;

/// What is added.
struct Source {
    reader: Box<dyn Read + Send>,
    /// 0 where nobody knows.
    bytes: u64,
}

impl Append {
    pub(crate) async fn run(mut self, session: &mut Session) -> anyhow::Result<()> {
        let Some(target) = self.paths.pop() else {
            return Usage::error("append needs sources and a target");
        };
        let target = file_path(session, &target)
            .await
            .map_err(anyhow::Error::msg)?;
        let progress = Progress::new(self.quiet);
        let mut writer = None;
        for name in &self.paths {
            // Before anything is made: a source that is not there leaves no empty file.
            let source = open(name).await;
            let Some(source) = progress.suspend(|| session.check(source)) else {
                continue;
            };
            progress.expect(source.bytes);
            let grows = match &mut writer {
                Some(writer) => writer,
                none => none.insert(open_or_make(session, &target).await?),
            };
            let added = add(grows, name, source.reader, &progress).await?;
            progress.suspend(|| session.check(added));
            progress.file_done();
        }
        if let Some(writer) = writer {
            writer.close().await?;
        }
        Ok(())
    }
}

async fn open_or_make(session: &Session, target: &[u8]) -> cairn_client::Result<Writer> {
    match session.fs.open_append(target).await {
        Err(error) if error.code() == ErrorCode::NotFound => {
            let mode = 0o666 & !session.umask;
            session.fs.create(target, mode, IfExists::Open).await?;
            session.fs.open_append(target).await
        }
        opened => opened,
    }
}

async fn open(name: &OsStr) -> Result<Source, String> {
    if name == "-" {
        return Ok(Source {
            reader: Box::new(io::stdin()),
            bytes: 0,
        });
    }
    let path = name.to_owned();
    let opened = blocking(move || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::from_raw_os_error(IS_A_DIRECTORY));
        }
        Ok(Source {
            reader: Box::new(file),
            bytes: metadata.len(),
        })
    });
    opened
        .await
        .map_err(|error| local_error(Path::new(name), &error))
}

/// The outer error is the cluster's, after which nothing more can be added; the inner one is the local file's.
async fn add(
    writer: &mut Writer,
    name: &OsStr,
    mut source: Box<dyn Read + Send>,
    progress: &Progress,
) -> cairn_client::Result<Result<(), String>> {
    loop {
        let (back, piece) = blocking(move || {
            let mut piece = Vec::with_capacity(BUFFER_BYTES);
            let read = source
                .by_ref()
                .take(BUFFER_BYTES as u64)
                .read_to_end(&mut piece);
            (source, read.map(|_| piece))
        })
        .await;
        source = back;
        match piece {
            Ok(piece) if piece.is_empty() => return Ok(Ok(())),
            Ok(piece) => {
                let bytes = piece.len() as u64;
                writer.write_bytes(piece.into()).await?;
                progress.advance(bytes);
            }
            Err(error) => return Ok(Err(local_error(Path::new(name), &error))),
        }
    }
}
