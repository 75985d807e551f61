//! The closed list of failures that cross a connection. Errno and HTTP status are exhaustive matches at the edges.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// A failure as the wire and the replicated log know it. Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl ErrorCode {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name),*];

            /// The code with this number; unknown numbers are an error, never a default.
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Its name, for logs and traces.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The sentence that people see, as coreutils words it where coreutils has one.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// A path, name, xattr or id that does not exist.
    NotFound = 1, "No such file or directory";
    /// The target name exists.
    AlreadyExists = 2, "File exists";
    /// A directory was needed.
    NotADirectory = 3, "Not a directory";
    /// Something else than a directory was needed.
    IsADirectory = 4, "Is a directory";
    /// rmdir or rename over a directory with entries.
    NotEmpty = 5, "Directory not empty";
    /// Mode bits say no.
    PermissionDenied = 6, "Permission denied";
    /// Only the owner or the superuser may.
    NotPermitted = 7, "Operation not permitted";
    /// An argument makes no sense; the message names it, the limit and the way out.
    InvalidArgument = 8, "Invalid argument";
    /// A component over 255 bytes or a path over 4,096.
    NameTooLong = 9, "File name too long";
    /// More than 40 symbolic links on the way.
    TooManyLinks = 10, "Too many levels of symbolic links";
    /// A hard link count or directory limit is reached.
    LinkLimit = 11, "Too many links";
    /// The cluster, a volume or the reserved part of it is full.
    NoSpace = 12, "No space left on device";
    /// A file beyond the largest offset.
    FileTooLarge = 13, "File too large";
    /// No such extended attribute.
    NoAttribute = 14, "No data available";
    /// A value over its limit.
    TooLarge = 15, "Argument list too long";
    /// The operation is not supported, and says so.
    NotSupported = 16, "Operation not supported";
    /// A lock or open file forbids it now.
    WouldBlock = 17, "Resource temporarily unavailable";
    /// A quota forbids it.
    QuotaExceeded = 18, "Disk quota exceeded";
    /// Committed bytes that no replica can serve.
    DataLost = 19, "Input/output error";
    /// A checksum does not match.
    ChecksumMismatch = 20, "Checksum mismatch";
    /// A precondition of a transaction or compare-and-swap does not hold.
    PreconditionFailed = 21, "Precondition failed";
    /// Too many locks on one file or of one session.
    NoLocks = 22, "No locks available";
    /// Waiting would never end: those who hold what is wished for wait for the asker.
    Deadlock = 23, "Resource deadlock avoided";
    /// The session that held locks on a file has ended: nothing is written under them any more.
    LockLost = 24, "Locks were lost";
    /// A directory is delegated to another session. Namenodes have it given back before they answer; nobody else sees this.
    Delegated = 25, "Delegated to another client";
    /// The session has expired or is unknown: pending mutations are `OutcomeUnknown`.
    SessionExpired = 30, "Session expired";
    /// The mutation may or may not have happened, and can no longer be asked.
    OutcomeUnknown = 31, "Outcome unknown";
    /// Not the leader; the reply may carry a hint.
    NotLeader = 32, "Not the leader";
    /// Try again later: starting, electing, overloaded.
    Unavailable = 33, "Service unavailable";
    /// Nobody answered in time.
    TimedOut = 34, "Connection timed out";
    /// The connection broke.
    ConnectionLost = 35, "Connection lost";
    /// A limit on requests, bytes in flight or connections.
    Overloaded = 36, "Too many requests";
    /// The writer's epoch is not the chunk's current one.
    StaleEpoch = 40, "Stale epoch";
    /// The chunk is sealed.
    Sealed = 41, "Chunk is sealed";
    /// The replica is not as long as the request assumes.
    WrongLength = 42, "Replica has another length";
    /// No such replica here.
    NoReplica = 43, "No such replica";
    /// Fewer datanodes than the replication asks for.
    NotEnoughDatanodes = 44, "Not enough datanodes";
    /// The volume or disk failed.
    DiskFailed = 45, "Disk failed";
    /// A token is missing, forged, for something else, or expired.
    BadToken = 50, "Access token refused";
    /// A frame or message that cannot be understood.
    Malformed = 51, "Malformed request";
    /// The peer speaks a version that we do not.
    VersionMismatch = 52, "Protocol version not supported";
    /// The peer belongs to another cluster.
    WrongCluster = 53, "Belongs to another cluster";
    /// An instruction of a leader whose term is over.
    StaleTerm = 54, "Stale term";
    /// Nobody is believed here without proof: a certificate, or a token that is genuine, not expired and not revoked.
    Unauthenticated = 55, "Not authenticated";
    /// A bug or a disk of ours; details are in the log of the process named.
    Internal = 60, "Internal error";
}

impl ErrorCode {
    /// True if the same request may succeed when sent again, perhaps elsewhere. Mutations may be repeated only under
    /// their (session, sequence).
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::NotLeader
                | Self::Unavailable
                | Self::Delegated
                | Self::TimedOut
                | Self::ConnectionLost
                | Self::Overloaded
        )
    }
}

/// An error code and the nouns that go with it (a path, a limit, a way out).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// What kind of failure.
    pub code: ErrorCode,
    /// What it is about; may be empty. Shown to people, never matched on.
    pub message: String,
}

impl Failure {
    /// A failure with its nouns.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self {
            code,
            message: String::new(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            f.write_str(self.code.text())
        } else {
            write!(f, "{}: {}", self.message, self.code.text())
        }
    }
}
