//! The namespace as a pure function of the Raft log: no clock, no randomness, no configuration, no I/O but
//! the transaction (I7). [`apply_batch`] changes it, [`query`] reads it.
//!
//! ```text
//! apply      a batch into outcomes: a savepoint per command
//! retry      (session, sequence) makes each mutation happen exactly once (I6)
//! path       from a location to an inode, with search permission on the way
//! permission mode bits, sticky directories, who may change what
//! inode      attributes, times, versions
//! xattr      extended attributes: their names, and who may use them
//! tree       names come and go: entry counts, link counts, orphans (I2)
//! extents    which bytes of a file are where (I3);  chunks: who uses a chunk (I4, I5)
//! delegation directories whose names are one session's alone for a while
//! locks      advisory locks on ranges (I10)
//! replication a file's wish for replicas reaches its chunks
//! ops        what clients ask for; internal: what only the leader proposes; read: queries
//! ```

mod acl;
mod apply;
mod chunks;
pub mod command;
mod context;
mod delegation;
mod error;
mod extents;
mod inode;
mod internal;
pub mod invariants;
pub mod locks;
mod ops;
mod path;
mod permission;
mod read;
mod replication;
mod retry;
mod tree;
mod xattr;

pub use apply::apply_batch;
pub use context::{Context, Stamp};
pub use delegation::is_kept_from;
pub use error::OpError;
pub(crate) use internal::issue_user_token::GENERATIONS_MAX;
pub use read::{Interest, Onlooker, check_remove_tree, query};

#[cfg(test)]
mod tests;
