//! The HTTP side of a namenode or datanode: WebHDFS and an API of its own for programs, a console for people, metrics, and health
//! checks. An adapter over [`cairn_client::FileSystem`] without logic of its own.
//!
//! | path | what |
//! |---|---|
//! | `/webhdfs/v1/…` | files, as clients written for Hadoop ask for them |
//! | `/api/v1/…` | what WebHDFS cannot say; `/api/v1/openapi.json` describes it, `/api/v1/` shows it |
//! | `/` | the console |
//! | `/metrics` | metrics of this process for Prometheus |
//! | `/healthz` | 200 while the process lives |
//! | `/readyz` | 200 while the cluster answers |
//! | `/jmx` | the beans of Hadoop's namenode, for monitoring that reads them |
//!
//! | module | what |
//! |---|---|
//! | `server` | builds and wires; routes |
//! | `connections` | accepts connections, within limits |
//! | `webhdfs`, `api` | operations |
//! | `console` | the page; what it shows comes from `overview`, `lookout`, `slow`, `status` |
//! | `who`, `params`, `origin` | who asks, for what, and from which page |
//! | `datanodes` | which datanode carries a transfer |
//! | `rates` | how often each user may ask |
//! | `record`, `audit`, `metrics`, `cluster_metrics`, `jmx`, `traced` | what is written down and told |

mod api;
mod audit;
mod cluster_metrics;
mod connections;
mod console;
mod datanodes;
mod error;
mod jmx;
mod lookout;
mod metrics;
mod origin;
mod overview;
mod params;
mod rates;
mod record;
mod server;
mod slow;
mod status;
mod traced;
mod webhdfs;
mod who;

pub use error::GatewayError;
pub use server::{Gateway, GatewayOptions, HttpListener, Leads};
