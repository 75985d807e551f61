//! What can go wrong, and how HTTP says it.

use std::io;

use axum::http::StatusCode;
use cairn_client::{Error, Place};
use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::Attributes;
use cairn_protocol::messages::query::ListingEntry;

/// Why the gateway did not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Another program has the port, or the address is not ours.
    #[error("listen on {address} for HTTP: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
}

/// What a listing of `place` tells of an entry. It tells nothing to those who may read the directory and not search it: HDFS lists
/// it to nobody else, and without its entries it would look empty.
pub(crate) fn known_attributes<'a>(
    entry: &'a ListingEntry,
    place: &Place,
) -> Result<&'a Attributes, Error> {
    entry.attributes.as_ref().ok_or_else(|| Error::Refused {
        subject: place.subject(),
        failure: ErrorCode::PermissionDenied.into(),
    })
}

/// The HTTP status of a failure.
pub(crate) fn http_status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::NotFound | ErrorCode::NoAttribute => StatusCode::NOT_FOUND,
        ErrorCode::AlreadyExists
        | ErrorCode::NotADirectory
        | ErrorCode::IsADirectory
        | ErrorCode::NotEmpty
        | ErrorCode::TooManyLinks
        | ErrorCode::LinkLimit
        | ErrorCode::WouldBlock
        | ErrorCode::NoLocks
        | ErrorCode::Deadlock
        | ErrorCode::LockLost => StatusCode::CONFLICT,
        ErrorCode::PermissionDenied | ErrorCode::NotPermitted => StatusCode::FORBIDDEN,
        ErrorCode::InvalidArgument | ErrorCode::NameTooLong | ErrorCode::Malformed => {
            StatusCode::BAD_REQUEST
        }
        ErrorCode::NoSpace | ErrorCode::QuotaExceeded => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::FileTooLarge | ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::NotSupported => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        ErrorCode::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::BadToken | ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::NotLeader
        | ErrorCode::Unavailable
        | ErrorCode::Delegated
        | ErrorCode::ConnectionLost
        | ErrorCode::NotEnoughDatanodes => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::DataLost
        | ErrorCode::ChecksumMismatch
        | ErrorCode::SessionExpired
        | ErrorCode::OutcomeUnknown
        | ErrorCode::StaleEpoch
        | ErrorCode::Sealed
        | ErrorCode::WrongLength
        | ErrorCode::NoReplica
        | ErrorCode::DiskFailed
        | ErrorCode::VersionMismatch
        | ErrorCode::WrongCluster
        | ErrorCode::StaleTerm
        | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ErrorCode;

    use super::http_status;

    #[test]
    fn every_failure_is_an_error_to_http() {
        for &code in ErrorCode::ALL {
            let status = http_status(code);
            assert!(
                status.is_client_error() || status.is_server_error(),
                "{code:?}"
            );
            assert!(
                !code.is_retryable() || [429, 503, 504].contains(&status.as_u16()),
                "{code:?}"
            );
        }
    }
}
