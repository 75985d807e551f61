//! Why a log cannot be opened, written or read.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the log store. Every one of them ends this member's service: none is retried.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What we tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Bytes that were known to be durable are damaged or gone.
    #[error(
        "raft log is damaged: {} at offset {offset}: {reason}; this member must not start from it: remove it from \
         the group and add it again under a new id with an empty directory",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset in the file.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A format that we do not know.
    #[error("{} has log format {version}; this release reads up to {known}", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        version: u32,
        /// Newest version that we read.
        known: u32,
    },
    /// There is no log although there should be one.
    #[error("no raft log in {}, but this member has had one; it must join again under a new id", path.display())]
    Lost {
        /// The log's directory.
        path: PathBuf,
    },
    /// A setting is out of range.
    #[error("{setting} is {value}, must be {rule}")]
    Options {
        /// Name of the setting.
        setting: &'static str,
        /// What it must be.
        rule: &'static str,
        /// What it is.
        value: u64,
    },
}

impl LogError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        let path = path.to_path_buf();
        move |source| LogError::Io {
            action,
            path,
            source,
        }
    }

    pub(super) fn damaged(path: &Path, offset: u64, reason: impl Into<String>) -> LogError {
        LogError::Damaged {
            path: path.to_path_buf(),
            offset,
            reason: reason.into(),
        }
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> io::Error {
        let kind = match &error {
            LogError::Io { source, .. } => source.kind(),
            LogError::Damaged { .. } | LogError::TooNew { .. } => io::ErrorKind::InvalidData,
            LogError::Lost { .. } => io::ErrorKind::NotFound,
            LogError::Options { .. } => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}
