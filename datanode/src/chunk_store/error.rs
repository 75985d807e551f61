//! Why the chunk store refuses or fails.

use std::io;
use std::path::PathBuf;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};

/// Everything that an operation on chunk replicas can answer instead of doing its work.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say what each variant and field is"
)]
pub enum StoreError {
    #[error("chunk {chunk}: no replica here")]
    NoReplica { chunk: ChunkId },
    #[error("chunk {chunk}: it is not to be deleted any more")]
    Unwanted { chunk: ChunkId },
    #[error("chunk {chunk}: a replica of incarnation {incarnation} is here already")]
    ReplicaExists {
        chunk: ChunkId,
        incarnation: Incarnation,
    },
    #[error("chunk {chunk}: incarnation {given} was named, the replica here is {recorded}")]
    WrongIncarnation {
        chunk: ChunkId,
        given: Incarnation,
        recorded: Incarnation,
    },
    #[error("chunk {chunk}: epoch {given} is over, the replica is at {recorded}")]
    StaleEpoch {
        chunk: ChunkId,
        given: Epoch,
        recorded: Epoch,
    },
    #[error("chunk {chunk}: another stream of epoch {epoch} has taken over")]
    Superseded { chunk: ChunkId, epoch: Epoch },
    #[error("chunk {chunk}: offset {asked} was assumed, the replica has {length} bytes")]
    WrongLength {
        chunk: ChunkId,
        asked: u64,
        length: u64,
    },
    #[error("chunk {chunk}: an append to this replica failed half-way, it can only be sealed")]
    Stopped { chunk: ChunkId },
    #[error("chunk {chunk}: it has two million checksum blocks, the most that a replica takes")]
    TooManyBlocks { chunk: ChunkId },
    #[error("chunk {chunk}: sealed at epoch {epoch} with {length} bytes")]
    Sealed {
        chunk: ChunkId,
        epoch: Epoch,
        length: u64,
    },
    #[error("chunk {chunk}: bytes {offset} to {end} of this replica are bad")]
    BadBlock {
        chunk: ChunkId,
        offset: u64,
        end: u64,
    },
    #[error("chunk {chunk}: the replica here is damaged, {reason}")]
    Damaged {
        chunk: ChunkId,
        reason: &'static str,
    },
    #[error("chunk {chunk}: the data does not match the checksum of the block at {offset}")]
    ChecksumMismatch { chunk: ChunkId, offset: u64 },
    #[error("chunk {chunk}: {reason}")]
    InvalidArgument {
        chunk: ChunkId,
        reason: &'static str,
    },
    #[error("{}: full, {available} bytes are left and {reserve} are reserved", volume.display())]
    NoSpace {
        volume: PathBuf,
        available: u64,
        reserve: u64,
    },
    #[error("no volume can take a replica of chunk {chunk}")]
    NoVolume { chunk: ChunkId },
    #[error("{}: {operation} failed, the volume is withdrawn", volume.display())]
    DiskFailed {
        volume: PathBuf,
        operation: &'static str,
        source: io::Error,
    },
    #[error("{}: withdrawn: {reason}", volume.display())]
    Withdrawn { volume: PathBuf, reason: String },
    #[error("{}: the disk has not answered for {seconds} s", volume.display())]
    Hanging { volume: PathBuf, seconds: u64 },
    #[error("{}: out of file handles or memory: {operation}", volume.display())]
    Exhausted {
        volume: PathBuf,
        operation: &'static str,
        source: io::Error,
    },
}

impl StoreError {
    /// True if it is the volume, not the request, so that another volume may do.
    pub(super) fn is_of_volume(&self) -> bool {
        matches!(
            self,
            Self::NoSpace { .. }
                | Self::DiskFailed { .. }
                | Self::Withdrawn { .. }
                | Self::Hanging { .. }
                | Self::Exhausted { .. }
        )
    }

    /// What crosses the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoReplica { .. } => ErrorCode::NoReplica,
            Self::ReplicaExists { .. } => ErrorCode::AlreadyExists,
            Self::WrongIncarnation { .. } => ErrorCode::PreconditionFailed,
            Self::StaleEpoch { .. } | Self::Superseded { .. } => ErrorCode::StaleEpoch,
            Self::WrongLength { .. } => ErrorCode::WrongLength,
            Self::Sealed { .. } => ErrorCode::Sealed,
            Self::BadBlock { .. } | Self::Damaged { .. } | Self::ChecksumMismatch { .. } => {
                ErrorCode::ChecksumMismatch
            }
            Self::InvalidArgument { .. } => ErrorCode::InvalidArgument,
            Self::NoSpace { .. }
            | Self::NoVolume { .. }
            | Self::Stopped { .. }
            | Self::TooManyBlocks { .. } => ErrorCode::NoSpace,
            Self::DiskFailed { .. } | Self::Withdrawn { .. } => ErrorCode::DiskFailed,
            Self::Exhausted { .. } | Self::Hanging { .. } | Self::Unwanted { .. } => {
                ErrorCode::Overloaded
            }
        }
    }
}
