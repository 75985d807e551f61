//! Whole clusters in one process: one file per behaviour.

#![expect(
    clippy::unwrap_used,
    reason = "all of this is tests: helpers fail where their test does"
)]

mod api;
mod bad_input;
mod corruption;
mod datanode_loss;
mod delegations;
mod files;
mod forged_raft;
mod fuzz;
mod leader;
mod linearizable;
mod local_reads;
mod locks;
mod members;
mod mount;
mod mount_delegated;
mod mount_locks;
mod open_file;
mod permissions;
mod restart;
mod sharing;
mod space;
mod sync;
mod transactions;
mod watch;
mod webhdfs;
