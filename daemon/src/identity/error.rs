//! Why a data directory is refused: each reason names the directory and the way out.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Uuid;
use crate::durable::DurableError;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The disk failed; the source names the file and the operation.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// `VERSION` cannot be read or written.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// Its checksum holds, but it does not say what it should.
    #[error("{}: not understood: {reason}", path.display())]
    NotUnderstood {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process has it open.
    #[error("{} is in use by another process{}", path.display(), OfPid(*pid))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process, if it has said so.
        pid: Option<u32>,
    },
    /// It holds something else.
    #[error("{} holds a {found}'s data, not a {expected}'s", path.display())]
    WrongKind {
        /// The directory.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// Newer software has used it.
    #[error(
        "{} has layout {found}, this software understands up to {supported}: upgrade it",
        path.display()
    )]
    NewerLayout {
        /// The directory.
        path: PathBuf,
        /// Its layout.
        found: u32,
        /// The newest layout that is understood.
        supported: u32,
    },
    /// It belongs to another cluster.
    #[error(
        "{} belongs to cluster {found}, this is cluster {expected}: use another directory",
        path.display()
    )]
    WrongCluster {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        found: Uuid,
        /// The cluster that wants it.
        expected: Uuid,
    },
    /// It belongs to another node.
    #[error("{} belongs to node {found}, this is node {expected}", path.display())]
    WrongNode {
        /// The directory.
        path: PathBuf,
        /// Its node.
        found: u64,
        /// The node that wants it.
        expected: u64,
    },
    /// It has files, but no `VERSION`.
    #[error(
        "{} has files ({example}, …) but no VERSION: it is not a data directory, or has lost its identity",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        example: String,
    },
}

struct OfPid(Option<u32>);

impl fmt::Display for OfPid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, " (pid {pid})"),
            None => Ok(()),
        }
    }
}
