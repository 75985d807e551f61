//! The deterministic simulation: a whole cluster in one thread, from one seed.
//!
//! Real namenodes (openraft, log, state machine, controllers), real datanodes and the real client library run on
//! turmoil's network, on disks in memory that lose what was not synced, on clocks that jump. A seed decides everything,
//! so that a failure can be played again: `DFS_SEED=n make sim`.
//!
//! ```text
//! options    how large and how fast a cluster is, from the seed
//! cluster    hosts, disks, and what can be done to them
//! faults     what goes wrong when, from the seed
//! workload   what clients do; model: what they may rely on
//! held       holders of delegated directories and those who visit them
//! history    names that all clients change: a linearizable history
//! checks     invariants of the state of each namenode, as it runs
//! verify     after healing: everything acknowledged is there, the cluster is whole again
//! run        one seed from founding to verdict
//! scenarios  named histories that random seeds may take long to find
//! recycling  counts log segments that live again
//! trace      what happened, and its hash
//! ```

mod checks;
mod cluster;
mod faults;
mod held;
mod history;
mod model;
mod options;
mod recycling;
mod run;
mod scenarios;
mod trace;
mod verify;
mod workload;

pub use run::{Report, run_seed};
pub use scenarios::{SCENARIO_SEED, run_scenario, scenario_names};
