//! The HTTP side of a namenode or datanode: WebHDFS for programs, a status page for people, the same as JSON, metrics, and health
//! checks. An adapter over [`cairn_client::FileSystem`] without logic of its own.
//!
//! | path | what |
//! |---|---|
//! | `/webhdfs/v1/…` | files, as clients written for Hadoop ask for them |
//! | `/` | status page |
//! | `/api/v1/status` | status as JSON |
//! | `/metrics` | metrics of this process for Prometheus |
//! | `/healthz` | 200 while the process lives |
//! | `/readyz` | 200 while the cluster answers |
//!
//! | module | what |
//! |---|---|
//! | `server` | builds and wires; routes |
//! | `connections` | accepts connections, within limits |
//! | `webhdfs` | operations on files |
//! | `who`, `params` | who asks, and for what |
//! | `datanodes` | which datanode carries a transfer |
//! | `audit`, `metrics` | what is written down |

mod audit;
mod connections;
mod datanodes;
mod error;
mod metrics;
mod page;
mod params;
mod server;
mod status;
mod webhdfs;
mod who;

pub use error::GatewayError;
pub use server::{Gateway, GatewayOptions, HttpListener};
