//! Chunk replicas on local disks: raw bytes in `.data`, an append-only log of checksums in `.sum`.
//!
//! What the rest of the datanode may rely on:
//! - bytes below a replica's *synced length*, and all bytes of a *sealed* replica, survive power loss; whatever the disk
//!   does to them later is reported as a bad block, never repaired, never cut and never served as good;
//! - bytes above it are, after power loss, either the right ones or gone: a replica can only be short, never wrong;
//! - a writer with an older epoch, or one that assumes another length, is refused and changes nothing;
//! - a disk that cannot sync or write ends its volume; a full one refuses appends but can still seal and delete; one that does not
//!   answer is left alone until it does.
//!
//! Synchronous: every call blocks, so callers go through `daemon::blocking`. All I/O goes through `daemon::disk`.
//!
//! ```text
//! store     several volumes: routing, placement, aggregated lists
//! volume    one directory: the table of replicas and the operations on it
//! replica   one open replica: append, sync, seal                     (all ordering arguments are here)
//! read      whole checksum blocks around a range; bad ranges
//! startup   what a scan finds, what it cuts, what it only reports
//! data_file O_DIRECT or page cache, byte ranges
//! sum_file  replay of a .sum file        record  its codec        index  checksum blocks in memory
//! cache     recently read sealed replicas      scrub  verification      health  full and failed disks
//! under_way calls to the disk that have not returned
//! ```
//!
//! Lock order, outermost first: `ChunkStore::placing`, `Volume::naming`, `OpenReplica::syncing`, `OpenReplica::writer`,
//! then one of the short ones (`Volume::table`, `OpenReplica::view`, `Cache`), never two of these together.

mod cache;
mod data_file;
mod error;
mod health;
mod index;
mod layout;
mod read;
mod record;
mod replica;
mod scrub;
mod startup;
mod store;
mod sum_file;
mod under_way;
mod volume;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::ops::Range;

use cairn_protocol::ids::{ChunkId, Epoch, Incarnation};

pub use data_file::ALIGNMENT;
pub use error::StoreError;
pub use health::VolumeState;
pub use replica::Appender;
pub use scrub::VerifyStep;
pub use store::ChunkStore;
pub use volume::{Volume, VolumeOptions, VolumeStatus};

/// The largest checksum block.
pub const CHECKSUM_BLOCK_MAX: usize = 64 * 1024;

/// Bytes that a read buffer needs beyond the bytes asked for: the rest of a checksum block at each end, and alignment.
pub const READ_MARGIN: usize = 2 * CHECKSUM_BLOCK_MAX + 2 * ALIGNMENT;

/// One checksum block of a chunk: where it lies and what its bytes must sum to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockChecksum {
    /// Where the block starts in the chunk.
    pub offset: u64,
    /// How many bytes, 1 to 65,536.
    pub length: u32,
    /// CRC32C of the bytes.
    pub crc32c: u32,
}

impl BlockChecksum {
    /// The byte after the block.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// Bytes to append, with the checksum blocks that cover them exactly.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// Where the bytes go: must be the replica's length.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
    /// Blocks that cover the bytes from `offset` on, in order, without gaps.
    pub blocks: &'a [BlockChecksum],
    /// True if the caller has compared the blocks with these very bytes; otherwise the store does.
    pub verified: bool,
}

/// What a read found: whole checksum blocks around the range that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRange {
    /// Chunk offset of the first byte delivered (the start of a checksum block).
    pub offset: u64,
    /// Where the delivered bytes lie in the caller's buffer.
    pub buffer: Range<usize>,
    /// The blocks that cover the delivered bytes, in order.
    pub blocks: Vec<BlockChecksum>,
}

/// How far a replica is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReplicaState {
    /// May still grow.
    Open,
    /// Will never change.
    Sealed,
    /// Found at start-up without one of its files, or with files that make no sense: for deletion only.
    Damaged,
}

/// A replica as reports name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// The chunk.
    pub chunk: ChunkId,
    /// Which life of this replica; 0 if its files do not say.
    pub incarnation: Incarnation,
    /// The highest epoch seen; of a sealed replica, the epoch of the seal.
    pub epoch: Epoch,
    /// Bytes that can be read.
    pub length: u64,
    /// Bytes that survive power loss.
    pub synced_length: u64,
    /// Open, sealed or damaged.
    pub state: ReplicaState,
    /// True if some range is known to be unreadable or wrong.
    pub bad: bool,
}

/// What a seal left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealOutcome {
    /// True if some range of the sealed replica is known to be bad: it counts as a copy of the rest only.
    pub bad: bool,
}
