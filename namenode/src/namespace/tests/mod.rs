//! The namespace as a whole, through [`apply_batch`](super::apply_batch) and [`query`](super::query) as the
//! state machine and the service call them.

mod acl;
mod bad_input;
mod broken;
mod changes;
mod chunks;
mod cluster;
mod content;
mod delegations;
mod determinism;
mod files;
mod formats;
mod locks;
mod model;
mod queries;
mod reads;
mod reference;
mod replication;
mod retry;
mod room;
mod sessions;
mod sweeps;
mod transactions;
mod user_tokens;
mod world;
