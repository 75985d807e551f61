//! What programs are told: every failure of the client as the kernel's number.

use cairn_client::Error;
use cairn_protocol::ErrorCode;

/// The number for a failed operation. What a local file system has no word for is an input/output error.
pub(crate) fn errno(error: &Error) -> i32 {
    match error.code() {
        ErrorCode::NotFound => libc::ENOENT,
        ErrorCode::AlreadyExists => libc::EEXIST,
        ErrorCode::NotADirectory => libc::ENOTDIR,
        ErrorCode::IsADirectory => libc::EISDIR,
        ErrorCode::NotEmpty => libc::ENOTEMPTY,
        ErrorCode::PermissionDenied => libc::EACCES,
        ErrorCode::Unauthenticated => libc::EACCES,
        ErrorCode::NotPermitted => libc::EPERM,
        ErrorCode::InvalidArgument => libc::EINVAL,
        ErrorCode::NameTooLong => libc::ENAMETOOLONG,
        ErrorCode::TooManyLinks => libc::ELOOP,
        ErrorCode::LinkLimit => libc::EMLINK,
        ErrorCode::NoSpace | ErrorCode::NotEnoughDatanodes => libc::ENOSPC,
        ErrorCode::FileTooLarge => libc::EFBIG,
        ErrorCode::NoAttribute => libc::ENODATA,
        ErrorCode::TooLarge => libc::E2BIG,
        ErrorCode::NotSupported => libc::EOPNOTSUPP,
        ErrorCode::WouldBlock => libc::EAGAIN,
        ErrorCode::QuotaExceeded => libc::EDQUOT,
        ErrorCode::NoLocks => libc::ENOLCK,
        ErrorCode::Deadlock => libc::EDEADLK,
        ErrorCode::DataLost
        | ErrorCode::ChecksumMismatch
        | ErrorCode::PreconditionFailed
        | ErrorCode::LockLost
        | ErrorCode::SessionExpired
        | ErrorCode::OutcomeUnknown
        | ErrorCode::NotLeader
        | ErrorCode::Unavailable
        | ErrorCode::Delegated
        | ErrorCode::TimedOut
        | ErrorCode::ConnectionLost
        | ErrorCode::Overloaded
        | ErrorCode::StaleEpoch
        | ErrorCode::Sealed
        | ErrorCode::WrongLength
        | ErrorCode::NoReplica
        | ErrorCode::DiskFailed
        | ErrorCode::BadToken
        | ErrorCode::Malformed
        | ErrorCode::VersionMismatch
        | ErrorCode::WrongCluster
        | ErrorCode::StaleTerm
        | ErrorCode::Internal => libc::EIO,
    }
}
