//! What can go wrong inside apply and inside a query: an outcome for the caller, or a fault of ours.

use cairn_protocol::ids::InodeId;
use cairn_protocol::{ErrorCode, Failure};

use crate::store::StoreError;

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// The caller's business: it becomes an outcome, and the command changes nothing.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The names in a directory are another session's: to be asked again when it has given them back. Changes nothing, and is not
    /// remembered.
    #[error("directory {0} is delegated to another client")]
    Delegated(InodeId),
    /// Ours or the disk's: the process must stop, for its state may differ from that of its peers.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpError {
    /// A failure with its nouns.
    pub(crate) fn new(code: ErrorCode, nouns: impl Into<String>) -> Self {
        Self::Failure(Failure::new(code, nouns))
    }

    /// Puts `nouns` before those of a failure; faults of ours stay as they are.
    pub(crate) fn within(self, nouns: &str) -> Self {
        match self {
            Self::Failure(failure) if failure.message.is_empty() => Self::new(failure.code, nouns),
            Self::Failure(failure) => {
                Self::new(failure.code, format!("{nouns}: {}", failure.message))
            }
            Self::Delegated(_) | Self::Store(_) => self,
        }
    }
}

impl From<ErrorCode> for OpError {
    fn from(code: ErrorCode) -> Self {
        Self::Failure(code.into())
    }
}
