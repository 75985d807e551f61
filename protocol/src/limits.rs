//! Every limit of the wire and of names, in one place, so that messages, docs and checks quote the same numbers.

use std::time::Duration;

/// Largest header (prost message) of a frame.
pub const HEADER_BYTES_MAX: usize = 1 << 20;

/// Largest payload of a frame.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// Largest header of the first frame of a connection, whose sender nobody knows yet; it has no payload.
pub const HELLO_BYTES_MAX: usize = 4 << 10;

/// Payloads from this size on are read straight into an aligned buffer; smaller ones share the reader's buffer.
pub const BULK_BYTES_MIN: usize = 32 << 10;

/// The standard size of a bulk buffer, and of a packet in a pipeline.
pub const BUFFER_BYTES: usize = 1 << 20;

/// Longest component of a path.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest path.
pub const PATH_BYTES_MAX: usize = 4096;

/// Most symbolic links followed while one path is resolved.
pub const SYMLINKS_MAX: usize = 40;

/// How long the two ends of a new connection may take to introduce themselves.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
