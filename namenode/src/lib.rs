//! The namenode: the namespace, kept by one Raft group in RocksDB.
//!
//! ```text
//! consensus/    the Raft library, our log, snapshots, group commit
//! store/        tables in RocksDB, one file per key kind
//! namespace/    operations: a pure function of (state, command); queries
//! controllers/  the leader's loops: liveness, placement, sealing, replication, reclaim
//! service/      what the process answers: authorise, stamp, translate, call
//! founding.rs   how a namenode comes to belong to a cluster
//! removal.rs    how it notices that it does not any more
//! server.rs     builds and wires all of it
//! ```

#[cfg(test)]
mod allocations;
pub mod config;
pub mod consensus;
pub mod controllers;
mod founding;
mod fsck;
mod keys;
mod metrics;
pub mod namespace;
mod removal;
pub mod server;
mod service;
pub mod store;

pub use config::NamenodeConfig;
pub use server::{Doors, Namenode};
