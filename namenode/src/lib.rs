//! The namenode: the namespace, kept by one Raft group in RocksDB.

pub mod consensus;
pub mod namespace;
pub mod store;
