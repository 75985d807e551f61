//! Why a datanode cannot start or go on. What it refuses others is a [`cairn_protocol::Failure`].

use cairn_protocol::{ErrorCode, Failure};

use crate::chunk_store::StoreError;

/// Ends the daemon, or keeps it from starting.
#[derive(Debug, thiserror::Error)]
pub enum DatanodeError {
    /// A value in the configuration makes no sense.
    #[error("configuration: {0}")]
    Config(String),
    /// A volume cannot be opened.
    #[error("volume: {0}")]
    Volume(String),
    /// The port cannot be had.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Which one.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The volumes belong to another cluster or datanode.
    #[error("{0}")]
    WrongCluster(String),
    /// The cluster knows this datanode no longer.
    #[error(
        "{refusal}: nothing in the cluster depends on {volumes} any more; empty the volumes, and it joins as a new datanode"
    )]
    Forgotten {
        /// Its directories.
        volumes: String,
        /// What the leader said.
        refusal: String,
    },
    /// The chunk store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of ours cannot be read or written.
    #[error("{operation}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Why it failed; names the file.
        source: std::io::Error,
    },
}

impl DatanodeError {
    /// What crosses the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Config(_) => ErrorCode::InvalidArgument,
            Self::Volume(_) | Self::Io { .. } => ErrorCode::DiskFailed,
            Self::Listen { .. } => ErrorCode::Unavailable,
            Self::WrongCluster(_) | Self::Forgotten { .. } => ErrorCode::WrongCluster,
            Self::Store(error) => error.code(),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
