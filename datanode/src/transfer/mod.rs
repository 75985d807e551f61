//! Chunk data between clients and datanodes.
//!
//! ```text
//! open_write   checks and opens a pipeline      receiver    one write stream         downstream  its next hop
//! packet       decoded and verified             progress    what may be acknowledged
//! budget       the memory of streams           locate      for readers on the same machine
//! sender       reads                            read_queue  their way to the disks       copy        replicas made from other datanodes' replicas
//! ```

mod budget;
mod copy;
mod downstream;
mod locate;
mod open_write;
mod packet;
mod progress;
mod read_queue;
mod receiver;
mod sender;

use std::sync::Arc;

use cairn_protocol::net::Proof;
use cairn_protocol::rpc::{ConnectionOptions, Peer};
use cairn_protocol::{ErrorCode, Failure};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::metrics::Metrics;
use crate::replicas::Replicas;

pub(crate) use budget::Budget;
pub(crate) use copy::{Copies, CopyOrder, CopySource, Piece};
pub(crate) use downstream::downstream_options;
pub(crate) use locate::locate;
pub(crate) use open_write::serve as serve_write;
pub(crate) use packet::Packet;
pub(crate) use read_queue::ReadQueue;
pub(crate) use sender::read;

/// Notes in the audit log who came with a token that is not good, where anybody has to prove anything.
pub(crate) fn audit(peer: &Peer, operation: &str, failure: &Failure) {
    if failure.code == ErrorCode::BadToken && peer.proof != Proof::Clear {
        let from = peer.address.as_str();
        tracing::info!(target: "audit", from, operation, outcome = %failure, "refused");
    }
}

/// What moving data needs of the rest of the datanode.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) replicas: Replicas,
    pub(crate) budget: Budget,
    pub(crate) reads: ReadQueue,
    pub(crate) metrics: Arc<Metrics>,
    /// How the next datanode of a pipeline is connected to.
    pub(crate) downstream: ConnectionOptions,
    /// Ends write streams when the daemon stops: their clients go on elsewhere at once.
    pub(crate) shutdown: CancellationToken,
}
