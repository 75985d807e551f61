//! What passes between a datanode and the leader: registration, heartbeats, replica reports, instructions.
//!
//! Reports only reconcile: which replicas there should be is replicated state of the namenodes.

mod commands;
mod heartbeat;
mod leader;
mod replicas;
mod turns;

pub(crate) use commands::Commands;
pub(crate) use heartbeat::{Introduction, Reporter};
pub(crate) use leader::Leader;
