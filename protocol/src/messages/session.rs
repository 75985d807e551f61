//! Client sessions and cluster discovery.

use super::common::{Caller, ClusterSettings};
use super::operation::{Operation, OutcomeValue};

/// Asks any namenode about the cluster.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterInfoRequest {}

/// One namenode.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NamenodeAddress {
    /// Namenode id.
    #[prost(uint64, tag = "1")]
    pub namenode: u64,
    /// `host:port` of its RPC port.
    #[prost(string, tag = "2")]
    pub address: String,
}

/// What a namenode knows of the cluster.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterInfo {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub cluster_id: Vec<u8>,
    /// All voters and learners.
    #[prost(message, repeated, tag = "2")]
    pub namenodes: Vec<NamenodeAddress>,
    /// The leader's id, 0 if unknown.
    #[prost(uint64, tag = "3")]
    pub leader: u64,
    /// Replicated settings.
    #[prost(message, required, tag = "4")]
    pub settings: ClusterSettings,
    /// The cluster's time (wall clock of the leader's stamps), for token expiry.
    #[prost(uint64, tag = "5")]
    pub time_ms: u64,
    /// The log entry that `namenodes` comes from.
    #[prost(uint64, tag = "6")]
    pub members_index: u64,
}

/// Registers a session.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenSessionRequest {
    /// For people: host, process, role. At most 255 bytes.
    #[prost(string, tag = "1")]
    pub client_name: String,
    /// 16 random bytes: a repeated request with the same nonce gets the same session.
    #[prost(bytes = "vec", tag = "2")]
    pub nonce: Vec<u8>,
}

/// A registered session.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenSessionReply {
    /// Session id.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Time to live without keep-alive.
    #[prost(uint64, tag = "2")]
    pub ttl_ms: u64,
}

/// Keeps a session alive.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeepAliveRequest {
    /// Session id.
    #[prost(uint64, tag = "1")]
    pub session: u64,
}

/// The session lives on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeepAliveReply {
    /// Time to live from now.
    #[prost(uint64, tag = "1")]
    pub ttl_ms: u64,
}

/// One mutation: (session, sequence) makes it happen exactly once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MutateRequest {
    /// Session id.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Grows by one with each new mutation of the session; a retry repeats it.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// All outcomes below this number have reached the client and may be forgotten.
    #[prost(uint64, tag = "3")]
    pub lowest_unanswered: u64,
    /// Who asks.
    #[prost(message, required, tag = "4")]
    pub caller: Caller,
    /// What to do.
    #[prost(message, optional, tag = "5")]
    pub operation: Option<Operation>,
}

/// The outcome of a mutation that succeeded (failures travel as error replies).
#[derive(Clone, PartialEq, prost::Message)]
pub struct MutateReply {
    /// What the operation answers.
    #[prost(message, optional, tag = "1")]
    pub outcome: Option<OutcomeValue>,
    /// Index of the log entry that did it.
    #[prost(uint64, tag = "2")]
    pub applied_index: u64,
    /// The last entry with a change by any other session that the outcome can reflect.
    #[prost(uint64, tag = "3")]
    pub changed_index: u64,
}

/// Makes every byte that the file's extents use durable on every replica.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SyncRequest {
    /// File.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// Who asks.
    #[prost(message, required, tag = "2")]
    pub caller: Caller,
}

/// All is on disk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SyncReply {
    /// All bytes of the file as of this version; 0 from older software, which does not tell.
    #[prost(uint64, tag = "1")]
    pub version: u64,
}

/// Tells the namenode which replicas failed a reader or writer. Evidence to check, never a verdict.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReportReplicasRequest {
    /// What failed.
    #[prost(message, repeated, tag = "1")]
    pub replicas: Vec<FailedReplica>,
}

/// One replica that failed a client.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FailedReplica {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Datanode id.
    #[prost(uint64, tag = "2")]
    pub datanode: u64,
    /// How: number of an [`crate::ErrorCode`].
    #[prost(uint32, tag = "3")]
    pub code: u32,
}

/// Heard.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReportReplicasReply {}
