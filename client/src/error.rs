//! What can go wrong, with the nouns that people need. [`Error::code`] is the contract; messages are for people.

use std::fmt;
use std::time::Duration;

use cairn_protocol::ids::InodeId;
use cairn_protocol::{ErrorCode, Failure};

use crate::place::normalise;

/// The result of a client operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A path, as bytes.
    Path(Vec<u8>),
    /// An inode, or a name in it.
    Inode(InodeId),
    /// The cluster as a whole.
    Cluster,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Names are bytes: what is not UTF-8 is shown escaped.
            Self::Path(path) => {
                for chunk in path.utf8_chunks() {
                    for char in chunk.valid().chars() {
                        if char.is_control() {
                            write!(f, "{}", char.escape_default())?;
                        } else {
                            write!(f, "{char}")?;
                        }
                    }
                    for byte in chunk.invalid() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                }
                Ok(())
            }
            Self::Inode(inode) => write!(f, "inode {inode}"),
            Self::Cluster => f.write_str("cluster"),
        }
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The cluster, or a check before asking it, said no. Nothing changed.
    #[error("{}", refusal(subject, failure))]
    Refused {
        /// What it is about.
        subject: Subject,
        /// The answer.
        failure: Failure,
    },
    /// Nobody answered within the client's patience, and nothing was changed.
    #[error("{subject}: no answer within {patience:?}: {failure}")]
    Unreachable {
        /// What it is about.
        subject: Subject,
        /// How long it was tried.
        patience: Duration,
        /// The last thing that went wrong.
        failure: Failure,
    },
    /// The change may or may not have happened, and can no longer be asked.
    #[error("{subject}: Outcome unknown: {failure}; look whether it happened before you try again")]
    OutcomeUnknown {
        /// What it is about.
        subject: Subject,
        /// Why it cannot be asked.
        failure: Failure,
    },
    /// Committed bytes that no replica served.
    #[error("{subject}: Input/output error: bytes {offset} to {} cannot be read from any replica: {failure}", offset + length)]
    DataLost {
        /// What it is about.
        subject: Subject,
        /// First byte in the file.
        offset: u64,
        /// How many.
        length: u64,
        /// The last replica's answer.
        failure: Failure,
    },
}

/// `/a/b: No such file or directory`, and in brackets what the answer adds to that.
fn refusal(subject: &Subject, failure: &Failure) -> String {
    let text = failure.code.text();
    let normal = match subject {
        Subject::Path(path) => normalise(path)
            .ok()
            .map(|path| Subject::Path(path).to_string()),
        Subject::Inode(_) | Subject::Cluster => None,
    };
    let subject = subject.to_string();
    let same = failure.message == subject || normal.as_ref() == Some(&failure.message);
    if failure.message.is_empty() || same {
        format!("{subject}: {text}")
    } else {
        format!("{subject}: {text} ({})", failure.message)
    }
}

impl Error {
    /// The kind of failure, for errno and HTTP status.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused { failure, .. } | Self::Unreachable { failure, .. } => failure.code,
            Self::OutcomeUnknown { .. } => ErrorCode::OutcomeUnknown,
            Self::DataLost { .. } => ErrorCode::DataLost,
        }
    }

    /// What it is about.
    pub fn subject(&self) -> &Subject {
        match self {
            Self::Refused { subject, .. }
            | Self::Unreachable { subject, .. }
            | Self::OutcomeUnknown { subject, .. }
            | Self::DataLost { subject, .. } => subject,
        }
    }

    pub(crate) fn refused(subject: &Subject, failure: impl Into<Failure>) -> Self {
        Self::Refused {
            subject: subject.clone(),
            failure: failure.into(),
        }
    }

    pub(crate) fn invalid(subject: &Subject, message: impl Into<String>) -> Self {
        Self::refused(subject, Failure::new(ErrorCode::InvalidArgument, message))
    }

    /// An answer of another kind than was asked for.
    pub(crate) fn unexpected(subject: &Subject) -> Self {
        Self::refused(
            subject,
            Failure::new(ErrorCode::Malformed, "answer of an unexpected kind"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Subject};
    use cairn_protocol::{ErrorCode, Failure};

    #[test]
    fn errors_read_like_those_of_coreutils() {
        let subject = Subject::Path(b"/a/b".to_vec());
        let plain = Error::refused(&subject, ErrorCode::NotFound);
        assert_eq!(plain.to_string(), "/a/b: No such file or directory");
        let same = Error::refused(&subject, Failure::new(ErrorCode::NotFound, "/a/b"));
        assert_eq!(same.to_string(), "/a/b: No such file or directory");
        let untidy = Subject::Path(b"//a/./b/".to_vec());
        let same = Error::refused(&untidy, Failure::new(ErrorCode::NotFound, "/a/b"));
        assert_eq!(same.to_string(), "//a/./b/: No such file or directory");
        let more = Error::invalid(&subject, "replication 20, at most 16");
        assert_eq!(
            more.to_string(),
            "/a/b: Invalid argument (replication 20, at most 16)"
        );
    }

    #[test]
    fn names_that_are_not_text_are_escaped() {
        let subject = Subject::Path(b"/a\xff\n\xc3\xa4".to_vec());
        assert_eq!(subject.to_string(), "/a\\xff\\n\u{e4}");
    }
}
