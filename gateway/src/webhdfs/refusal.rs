//! Failures as Hadoop words them: the exception's class, its HTTP status and the body `RemoteException`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cairn_client::Error;
use cairn_protocol::ErrorCode;
use serde_json::json;

/// The exceptions that clients of HDFS know and we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exception {
    AccessControl,
    Acl,
    Authorization,
    BlockMissing,
    FileAlreadyExists,
    FileNotFound,
    HadoopIllegalArgument,
    IllegalArgument,
    InvalidToken,
    Io,
    NameTooLong,
    NoErasureCodingPolicy,
    NotEmpty,
    ParentNotDirectory,
    QuotaExceeded,
    Retriable,
    Runtime,
    Security,
    Snapshot,
    /// Of a namenode that does not lead, where the settings say so.
    Standby,
    /// An `IOException`: a body longer than the settings allow.
    TooLarge,
    /// Retriable: the user asks too often.
    TooOften,
    Unsupported,
}

impl Exception {
    /// The class that a Java client makes of it.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::AccessControl => "org.apache.hadoop.security.AccessControlException",
            Self::Acl => "org.apache.hadoop.hdfs.protocol.AclException",
            Self::Authorization => "org.apache.hadoop.security.authorize.AuthorizationException",
            Self::BlockMissing => "org.apache.hadoop.hdfs.BlockMissingException",
            Self::FileAlreadyExists => "org.apache.hadoop.fs.FileAlreadyExistsException",
            Self::FileNotFound => "java.io.FileNotFoundException",
            Self::HadoopIllegalArgument => "org.apache.hadoop.HadoopIllegalArgumentException",
            Self::IllegalArgument => "java.lang.IllegalArgumentException",
            Self::InvalidToken => "org.apache.hadoop.security.token.SecretManager$InvalidToken",
            Self::Io | Self::TooLarge => "java.io.IOException",
            Self::NameTooLong => {
                "org.apache.hadoop.hdfs.protocol.FSLimitException$PathComponentTooLongException"
            }
            Self::NoErasureCodingPolicy => "org.apache.hadoop.hdfs.protocol.NoECPolicySetException",
            Self::NotEmpty => "org.apache.hadoop.fs.PathIsNotEmptyDirectoryException",
            Self::ParentNotDirectory => "org.apache.hadoop.fs.ParentNotDirectoryException",
            Self::QuotaExceeded => "org.apache.hadoop.hdfs.protocol.QuotaExceededException",
            Self::Retriable | Self::TooOften => "org.apache.hadoop.ipc.RetriableException",
            Self::Runtime => "java.lang.RuntimeException",
            Self::Security => "java.lang.SecurityException",
            Self::Snapshot => "org.apache.hadoop.hdfs.protocol.SnapshotException",
            Self::Standby => "org.apache.hadoop.ipc.StandbyException",
            Self::Unsupported => "java.lang.UnsupportedOperationException",
        }
    }

    /// Its class without packages and outer classes.
    pub(crate) fn name(self) -> &'static str {
        let class = self.class();
        class.rsplit(['.', '$']).next().unwrap_or(class)
    }

    /// As Hadoop's own server maps it: 403 for every `IOException` that is nothing else.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Security => StatusCode::UNAUTHORIZED,
            Self::FileNotFound => StatusCode::NOT_FOUND,
            Self::HadoopIllegalArgument | Self::IllegalArgument | Self::Unsupported => {
                StatusCode::BAD_REQUEST
            }
            Self::Runtime => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::AccessControl
            | Self::Acl
            | Self::Authorization
            | Self::BlockMissing
            | Self::FileAlreadyExists
            | Self::InvalidToken
            | Self::Io
            | Self::NameTooLong
            | Self::NoErasureCodingPolicy
            | Self::NotEmpty
            | Self::ParentNotDirectory
            | Self::QuotaExceeded
            | Self::Retriable
            | Self::Snapshot
            | Self::Standby => StatusCode::FORBIDDEN,
        }
    }
}

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) exception: Exception,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(exception: Exception, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exception, message }
    }

    /// A parameter that makes no sense, in Hadoop's words.
    pub(crate) fn parameter(name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("Invalid value for webhdfs parameter \"{name}\": {why}");
        Self::new(Exception::IllegalArgument, message)
    }

    /// A namenode that follows. The last word is what Java clients look for.
    pub(crate) fn standby(operation: &str) -> Self {
        let message = format!(
            "{operation}: this namenode does not lead and is configured to say so (gateway.follower): \
             org.apache.hadoop.ipc.StandbyException"
        );
        Self::new(Exception::Standby, message)
    }

    /// A user who asks too often.
    pub(crate) fn too_often(user: &str, limit: u32) -> Self {
        let message = format!(
            "{user} asks more than {limit} times per second (gateway.requests_per_second_max)"
        );
        Self::new(Exception::TooOften, message)
    }

    /// A body that is too long.
    pub(crate) fn too_large(limit: impl std::fmt::Display) -> Self {
        let message = format!("the body has more than {limit} (gateway.upload_size_max)");
        Self::new(Exception::TooLarge, message)
    }

    /// What Cairn has not.
    pub(crate) fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new(Exception::Unsupported, what.to_string())
    }

    /// A failure of the file system, as `user` is told of it.
    pub(crate) fn of(error: &Error, user: &str) -> Self {
        let exception = exception(error.code());
        let message = match exception {
            // Clients look for these words.
            Exception::FileNotFound if error.code() == ErrorCode::NotFound => {
                format!("File does not exist: {}", error.subject())
            }
            Exception::FileNotFound => format!("Path is not a file: {}", error.subject()),
            Exception::AccessControl => format!("Permission denied: user={user}, {error}"),
            _ => error.to_string(),
        };
        Self { exception, message }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "RemoteException": {
            "exception": self.exception.name(),
            "javaClassName": self.exception.class(),
            "message": self.message,
        }});
        let mut response = (self.exception.status(), Json(body)).into_response();
        response.extensions_mut().insert(self.exception);
        if self.exception == Exception::TooOften {
            let soon = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, soon);
        }
        response
    }
}

fn exception(code: ErrorCode) -> Exception {
    match code {
        ErrorCode::NotFound | ErrorCode::IsADirectory => Exception::FileNotFound,
        ErrorCode::AlreadyExists => Exception::FileAlreadyExists,
        ErrorCode::NotADirectory => Exception::ParentNotDirectory,
        ErrorCode::NotEmpty => Exception::NotEmpty,
        ErrorCode::PermissionDenied | ErrorCode::NotPermitted => Exception::AccessControl,
        ErrorCode::Unauthenticated => Exception::Security,
        ErrorCode::InvalidArgument | ErrorCode::Malformed => Exception::IllegalArgument,
        ErrorCode::NameTooLong => Exception::NameTooLong,
        ErrorCode::NotSupported => Exception::Unsupported,
        ErrorCode::QuotaExceeded => Exception::QuotaExceeded,
        ErrorCode::DataLost | ErrorCode::ChecksumMismatch | ErrorCode::NoReplica => {
            Exception::BlockMissing
        }
        ErrorCode::NotLeader
        | ErrorCode::Unavailable
        | ErrorCode::Delegated
        | ErrorCode::TimedOut
        | ErrorCode::ConnectionLost
        | ErrorCode::Overloaded
        | ErrorCode::WouldBlock => Exception::Retriable,
        ErrorCode::TooManyLinks
        | ErrorCode::LinkLimit
        | ErrorCode::NoSpace
        | ErrorCode::FileTooLarge
        | ErrorCode::NoAttribute
        | ErrorCode::TooLarge
        | ErrorCode::PreconditionFailed
        | ErrorCode::SessionExpired
        | ErrorCode::OutcomeUnknown
        | ErrorCode::StaleEpoch
        | ErrorCode::Sealed
        | ErrorCode::WrongLength
        | ErrorCode::NotEnoughDatanodes
        | ErrorCode::DiskFailed
        | ErrorCode::BadToken
        | ErrorCode::VersionMismatch
        | ErrorCode::WrongCluster
        | ErrorCode::StaleTerm
        | ErrorCode::NoLocks
        | ErrorCode::Deadlock
        | ErrorCode::LockLost => Exception::Io,
        ErrorCode::Internal => Exception::Runtime,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use cairn_client::{Error, Subject};
    use cairn_protocol::{ErrorCode, Failure};

    use super::{Exception, Refusal, exception};

    #[test]
    fn failures_have_the_words_that_clients_look_for() {
        let about = |code: ErrorCode| {
            let error = Error::Refused {
                subject: Subject::Path(b"/a".to_vec()),
                failure: Failure::from(code),
            };
            Refusal::of(&error, "ada")
        };
        let absent = about(ErrorCode::NotFound);
        assert_eq!(absent.exception.name(), "FileNotFoundException");
        assert_eq!(absent.exception.status(), StatusCode::NOT_FOUND);
        assert_eq!(absent.message, "File does not exist: /a");
        let denied = about(ErrorCode::PermissionDenied);
        assert_eq!(denied.exception.status(), StatusCode::FORBIDDEN);
        assert!(denied.message.starts_with("Permission denied: user=ada"));
        assert_eq!(
            Exception::NameTooLong.name(),
            "PathComponentTooLongException"
        );
    }

    #[test]
    fn what_may_be_repeated_is_an_exception_that_clients_repeat() {
        for &code in ErrorCode::ALL {
            if code.is_retryable() {
                assert_eq!(exception(code), Exception::Retriable, "{code:?}");
            }
        }
        assert_ne!(exception(ErrorCode::OutcomeUnknown), Exception::Retriable);
    }
}
