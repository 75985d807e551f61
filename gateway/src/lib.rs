//! The HTTP side of a namenode: a status page for people, the same as JSON, metrics, and health checks. An adapter over
//! [`cairn_client::FileSystem`] without logic of its own.
//!
//! | path | what |
//! |---|---|
//! | `/` | status page |
//! | `/api/v1/status` | status as JSON |
//! | `/metrics` | metrics of this process for Prometheus |
//! | `/healthz` | 200 while the process lives |
//! | `/readyz` | 200 while the cluster answers |

mod error;
mod page;
mod server;
mod status;

pub use error::GatewayError;
pub use server::{Gateway, GatewayOptions};
