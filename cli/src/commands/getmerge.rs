//! `dfs getmerge`: many files of the cluster as one local file.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_daemon::blocking;
use cairn_protocol::messages::common::InodeKind;
use clap::Args;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::expand;
use crate::output::{escape, is_directory, kind};
use crate::paths::join;
use crate::progress::Progress;
use crate::session::{Session, Usage, local_error};
use crate::transfer::PIECES_BETWEEN;
use crate::transfer::local_write::{Target, Unnamed};
use crate::walk::searched;

/// Join files of the cluster, and the files that lie in its directories in the order of their names, to one local file.
///
/// The local file is replaced when the new one is complete. If a file cannot be read, it stays as it was.
#[derive(Debug, Args)]
#[command(override_usage = "dfs getmerge [OPTIONS] SOURCE... TARGET")]
pub(crate) struct Getmerge {
    /// A new line after each file.
    #[arg(long, visible_alias = "nl")]
    newline: bool,
    /// No new line after a file without a byte.
    #[arg(long)]
    skip_empty_file: bool,
    /// No progress, even on a terminal.
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Files and directories of the cluster, and last the local file; `-` is standard output.
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "TARGET"])]
    paths: Vec<OsString>,
}

impl Getmerge {
    pub(crate) async fn run(mut self, session: &mut Session) -> anyhow::Result<()> {
        let Some(target) = self.paths.pop() else {
            return Usage::error("getmerge needs sources and a target");
        };
        let files = self.files(session).await;
        if session.has_failed() {
            return Ok(());
        }
        let target = PathBuf::from(target);
        // What goes to standard output is on the same terminal, or in a pipe whose reader tells of itself.
        let progress = Progress::new(self.quiet || target == Path::new("-"));
        let (sender, pieces) = mpsc::channel(PIECES_BETWEEN);
        let mut thread = JoinSet::new();
        let path = target.clone();
        thread.spawn(blocking(move || write(&path, pieces)));
        for (_, bytes) in &files {
            progress.expect(*bytes);
        }
        if let Err(error) = self.send(session, &files, &sender, &progress).await {
            progress.suspend(|| session.report(error));
        } else {
            // The end, as opposed to a sender that went away half-way.
            let _ = sender.send(None).await;
        }
        drop(sender);
        if let Some(Ok(written)) = thread.join_next().await {
            let written = written.map_err(|error| local_error(&target, &error));
            progress.suspend(|| session.check(written));
        }
        Ok(())
    }

    /// What is joined, in order, with its size.
    async fn files(&self, session: &mut Session) -> Vec<(Vec<u8>, u64)> {
        let mut files = Vec::new();
        for path in expand(session, &self.paths).await {
            let found = session.fs.stat(&path).await;
            let Some(attributes) = session.check(found) else {
                continue;
            };
            if !is_directory(&attributes) {
                files.push((path, attributes.size));
                continue;
            }
            let listed = session.fs.list_all(&path).await;
            for entry in session.check(listed).unwrap_or_default() {
                let Some((name, attributes)) = session.check(searched(entry, &path)) else {
                    break;
                };
                if kind(&attributes) == InodeKind::File {
                    files.push((join(&path, &name), attributes.size));
                }
            }
        }
        files
    }

    async fn send(
        &self,
        session: &Session,
        files: &[(Vec<u8>, u64)],
        sender: &mpsc::Sender<Option<Bytes>>,
        progress: &Progress,
    ) -> Result<(), String> {
        for (path, _) in files {
            let reader = session.fs.open(path).await;
            let reader = reader.map_err(|error| error.to_string())?;
            if is_directory(&reader.attributes()) {
                return Err(format!("{}: Is a directory", escape(path)));
            }
            let mut stream = reader.stream(0);
            while let Some(piece) = stream.next().await.map_err(|error| error.to_string())? {
                progress.advance(piece.len() as u64);
                if sender.send(Some(piece)).await.is_err() {
                    // The thread has failed and says why.
                    return Ok(());
                }
            }
            if self.newline && !(self.skip_empty_file && stream.offset() == 0) {
                let _ = sender.send(Some(Bytes::from_static(b"\n"))).await;
            }
            progress.file_done();
        }
        Ok(())
    }
}

/// Writes all pieces; without the end there is no file. Blocks.
fn write(path: &Path, mut pieces: mpsc::Receiver<Option<Bytes>>) -> io::Result<()> {
    if path == Path::new("-") {
        let mut out = io::stdout().lock();
        while let Some(Some(piece)) = pieces.blocking_recv() {
            out.write_all(&piece)?;
        }
        return out.flush();
    }
    let mut file = Unnamed::create(&Target::find(path), 0o666)?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Some(piece) => file.write(&piece)?,
            None => return file.name(true),
        }
    }
    Ok(())
}
