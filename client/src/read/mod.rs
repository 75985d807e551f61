//! Reading: extents and tokens come from the namenode, bytes from the nearest replica that has them right.
//!
//! | file | what |
//! |---|---|
//! | `extents` | where a file's bytes are, as of the last fetch |
//! | `hedging` | when to ask a second replica although the first may still answer |
//! | `replica` | a range of one chunk, from whichever replica serves it, verified |
//! | `local` | replicas on this machine, read from their files |
//! | `reader` | positional reads of a file |
//! | `sequential` | a file from some offset on, read ahead |
//! | `checksum` | CRC32C of a whole file, mostly without reading it |

pub(crate) mod checksum;
pub(crate) mod extents;
pub(crate) mod hedging;
pub(crate) mod local;
pub(crate) mod reader;
pub(crate) mod replica;
pub(crate) mod sequential;
