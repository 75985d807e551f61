//! What can be set about the log, and the limits that follow.

use super::error::LogError;
use super::format::{ENTRY_FIXED_BYTES, SEGMENT_START, STATE_BYTES, record_bytes};

/// Largest segment that we accept: replay reads one whole segment into memory.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// No entry is larger than this, whatever the segment size.
const ENTRY_BYTES_MAX: u64 = 16 << 20;

/// Settings of a log store.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size of a segment file; 64 MiB unless told, a multiple of 4,096. An entry must fit into one segment.
    pub segment_bytes: u64,
    /// Written segments kept for reuse; what is freed beyond it is deleted.
    pub spare_segments_max: usize,
    /// Newest entries kept in memory, in payload bytes. Entries not yet on disk are kept whatever it says.
    pub cache_bytes_max: u64,
    /// Bytes that may wait for the writer before an append has to wait; 64 MiB unless told.
    pub queue_bytes_max: u64,
    /// A random number that nobody outside can guess; goes into the checksums of the segments written from now on, so
    /// that bytes chosen by a client never look like a record.
    pub salt: u64,
    /// Refuse an empty directory: set once this member has ever opened its log, so that a lost log is never taken for
    /// a new one (such a member could vote twice).
    pub must_exist: bool,
    /// Write in the caller's place instead of on a thread: for the simulator, where it is the default.
    pub inline: bool,
}

impl LogOptions {
    /// Production settings with this salt.
    pub fn new(salt: u64) -> LogOptions {
        LogOptions {
            segment_bytes: 64 << 20,
            spare_segments_max: 2,
            cache_bytes_max: 64 << 20,
            queue_bytes_max: 64 << 20,
            salt,
            must_exist: false,
            inline: cfg!(cairn_sim),
        }
    }

    /// Largest command batch or encoded membership that one entry can hold.
    pub fn entry_bytes_max(&self) -> u64 {
        let overhead =
            SEGMENT_START + record_bytes(STATE_BYTES) + record_bytes(ENTRY_FIXED_BYTES) + 8;
        self.segment_bytes
            .saturating_sub(overhead)
            .min(ENTRY_BYTES_MAX)
    }

    pub(super) fn validate(&self) -> Result<(), LogError> {
        let range = 2 * SEGMENT_START..=SEGMENT_BYTES_MAX;
        if !range.contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(4096) {
            return Err(LogError::Options {
                setting: "segment_bytes",
                rule: "a multiple of 4096 from 8 KiB to 1 GiB",
                value: self.segment_bytes,
            });
        }
        if self.queue_bytes_max == 0 {
            return Err(LogError::Options {
                setting: "queue_bytes_max",
                rule: "at least 1",
                value: 0,
            });
        }
        Ok(())
    }
}
