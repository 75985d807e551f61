//! Consensus: the only place that knows the Raft library.

pub mod log_store;
pub mod types;
