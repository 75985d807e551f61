//! The engines of `put` and `get`: many small files and a few large ones at once, in bounded memory.

pub(crate) mod download;
pub(crate) mod local_remove;
pub(crate) mod local_walk;
pub(crate) mod local_write;
pub(crate) mod upload;

/// Files up to this size travel whole.
pub(crate) const SMALL_BYTES: u64 = 1 << 20;

/// Larger files at once: enough to keep disks and pipelines busy.
pub(crate) const LARGE_AT_ONCE: usize = 4;

/// Pieces of 1 MiB between the local disk and the cluster, for each large file.
pub(crate) const PIECES_BETWEEN: usize = 4;
