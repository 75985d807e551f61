//! Writing: bytes go into a chunk through its pipeline, then a commit makes them part of a file.
//!
//! | file | what |
//! |---|---|
//! | `packet` | bytes cut into checksum blocks |
//! | `pipeline` | one append stream through the datanodes of one chunk |
//! | `placement` | finds a chunk and a pipeline, around datanodes that fail |
//! | `replication` | how many replicas small writes want |
//! | `small` | many small contents share a pipeline |
//! | `stream` | one large content: window, commits, rolling over chunks, failures |
//! | `whole` | operations that write all they have at once |
//! | `writer` | the writer that callers hold |

pub(crate) mod packet;
pub(crate) mod pipeline;
pub(crate) mod placement;
pub(crate) mod replication;
pub(crate) mod small;
pub(crate) mod stream;
pub(crate) mod whole;
pub(crate) mod writer;
