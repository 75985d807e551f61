//! A whole cluster inside one process, on real sockets and real disks, whose parts can be killed and started again.

mod cluster;
mod content;
mod history;
mod http;
mod inspect;
mod names;
mod prefixes;
mod watchdog;

pub use cluster::{ClusterOptions, MiniCluster};
pub use content::content;
pub use history::Call;
pub use inspect::Dump;
pub use names::{Deed, NAMES, Seen, Where, names_are_linearizable};
pub use prefixes::{Look, Prefixes};
pub use watchdog::Watchdog;
