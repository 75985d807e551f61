//! A datanode: keeps chunk replicas on local disks, takes part in write pipelines, serves reads to who has a token.
//!
//! ```text
//! server       builds and wires everything          config      its configuration file
//! chunk_store  replicas on volumes (synchronous)    volumes     whose the volumes are
//! replicas     the chunk store, asynchronous        cluster     identity, keys and time of the cluster
//! transfer     write streams, reads, copies         report      registration, heartbeats, instructions
//! scrubber     verifies sealed replicas             metrics     what is counted
//! changes      what the leader should hear of
//! ```

mod changes;
pub mod chunk_store;
mod cluster;
pub mod config;
pub mod error;
mod metrics;
mod replicas;
mod report;
mod scrubber;
pub mod server;
#[cfg(test)]
mod tests;
mod transfer;
mod volumes;

pub use config::DatanodeConfig;
pub use error::DatanodeError;
pub use server::Datanode;
