//! Consensus: the only place that knows the Raft library.
//!
//! `log_store` keeps the log, `state` and `state_machine` the replicated state, `snapshot` carries it to members that lag,
//! `network` carries everything else between members, and `incoming` checks it where it arrives. [`group::Group`] is what the rest of the namenode sees: propose a command,
//! wait for a linearizable read, watch leadership, change members.

pub mod feed;
mod flusher;
pub mod group;
mod incoming;
pub mod log_store;
mod network;
mod proposer;
mod reader;
pub mod room;
mod snapshot;
pub mod state;
pub(crate) mod state_machine;
pub mod types;

pub(crate) use proposer::Proposed;
