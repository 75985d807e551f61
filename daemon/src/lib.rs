//! What every process needs: config, tasks, clock, disk, durable files, telemetry, users, access control lists. Depends on nothing of ours.
//!
//! The doors to the world are here: [`disk`] (files), [`clock`] (time), [`blocking()`] (threads) and [`tasks`] (tasks).
//! The simulator (`cfg(cairn_sim)`) puts something deterministic behind each of them.

pub mod acl;
pub mod authority;
pub mod blocking;
pub mod clock;
pub mod config;
pub mod disk;
pub mod durable;
pub mod identity;
pub mod tasks;
pub mod telemetry;
pub mod users;

pub use blocking::blocking;
pub use clock::Clock;
pub use tasks::Tasks;
