//! What can go wrong below the namespace. All of it is our fault or the disk's: apply stops the process.

use std::path::PathBuf;

use cairn_protocol::ErrorCode;

/// A failure of the state store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// RocksDB or the disk below it failed.
    #[error("{verb} {object}: {source}")]
    Rocks {
        /// What we were doing.
        verb: &'static str,
        /// With what.
        object: String,
        /// Why it failed.
        source: rocksdb::Error,
    },
    /// A key or value that this version cannot have written.
    #[error("decode {object}: {reason}")]
    Corrupt {
        /// What it is.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Records that contradict one another.
    #[error("inconsistent state: {0}")]
    Inconsistent(String),
    /// The directory holds something else.
    #[error("open state in {path}: it holds a database that is not a namenode's state")]
    Foreign {
        /// Directory.
        path: PathBuf,
    },
    /// Written by a later version of this software.
    #[error(
        "open state in {path}: its format is {found}, this version reads up to {supported}; run a newer version"
    )]
    NewerFormat {
        /// Directory.
        path: PathBuf,
        /// Format on disk.
        found: u32,
        /// Newest format that is read.
        supported: u32,
    },
    /// The cluster has agreed on a level that this software does not know.
    #[error(
        "open state in {path}: the cluster's feature level is {found}, this version knows up to {supported}; run a newer version"
    )]
    NewerLevel {
        /// Directory.
        path: PathBuf,
        /// What the cluster has agreed on.
        found: u32,
        /// The newest level that is known.
        supported: u32,
    },
}

impl StoreError {
    /// The wire's word for it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NewerFormat { .. } | Self::NewerLevel { .. } => ErrorCode::VersionMismatch,
            Self::Rocks { .. }
            | Self::Corrupt { .. }
            | Self::Inconsistent(_)
            | Self::Foreign { .. } => ErrorCode::Internal,
        }
    }

    /// Wraps a RocksDB error with what we were doing to what.
    pub(super) fn rocks(
        verb: &'static str,
        object: impl FnOnce() -> String,
    ) -> impl FnOnce(rocksdb::Error) -> Self {
        move |source| Self::Rocks {
            verb,
            object: object(),
            source,
        }
    }

    /// A key or value that cannot be understood.
    pub(super) fn corrupt(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            object: object.into(),
            reason: reason.into(),
        }
    }
}
