//! Operators and namenodes among themselves.

use super::common::{Caller, DatanodeAddress};
use super::datanode::VolumeReport;

/// Founds a cluster. The namenode that is asked answers, once the cluster has an id.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FoundClusterRequest {
    /// Who asks (superuser only).
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
}

/// The cluster that the namenode belongs to now, whether or not it did before.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FoundClusterReply {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub cluster_id: Vec<u8>,
    /// Addresses of its namenodes.
    #[prost(string, repeated, tag = "2")]
    pub namenodes: Vec<String>,
}

/// Adds a namenode: it catches up as a learner, then votes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AddNamenodeRequest {
    /// Who asks (superuser only).
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// `host:port` of its RPC port; its id is asked from itself.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Member that leaves in the same step (replacement); 0 for none.
    #[prost(uint64, tag = "3")]
    pub replaces: u64,
}

/// Removes a namenode.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RemoveNamenodeRequest {
    /// Who asks (superuser only).
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// Which.
    #[prost(uint64, tag = "2")]
    pub namenode: u64,
}

/// Hands leadership over.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransferLeadershipRequest {
    /// Who asks (superuser only).
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// To whom; 0 lets the leader choose the member that is furthest.
    #[prost(uint64, tag = "2")]
    pub to: u64,
}

/// What a datanode is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum DatanodeAdminState {
    /// Serves and takes new replicas.
    InService = 0,
    /// Its replicas are copied away; it still serves reads.
    Decommissioning = 1,
    /// Nothing depends on it any more.
    Decommissioned = 2,
    /// Away for a while on purpose: not re-replicated meanwhile.
    Maintenance = 3,
}

/// Changes what a datanode is to be.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetDatanodeStateRequest {
    /// Who asks (superuser only).
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// Which.
    #[prost(uint64, tag = "2")]
    pub datanode: u64,
    /// To what.
    #[prost(enumeration = "DatanodeAdminState", tag = "3")]
    pub state: i32,
    /// Forget a dead or decommissioned datanode altogether.
    #[prost(bool, tag = "4")]
    pub forget: bool,
}

/// Nothing to tell.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AdminReply {}

/// The whole cluster at a glance. The leader answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRequest {
    /// Who asks.
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// Any member answers, with what it knows by itself: for a look at a cluster that has no leader.
    #[prost(bool, tag = "2")]
    pub local: bool,
}

/// One namenode as the leader sees it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamenodeStatus {
    /// Namenode id.
    #[prost(uint64, tag = "1")]
    pub namenode: u64,
    /// `host:port`.
    #[prost(string, tag = "2")]
    pub address: String,
    /// `leader`, `follower` or `learner`.
    #[prost(string, tag = "3")]
    pub role: String,
    /// Last log index it has acknowledged.
    #[prost(uint64, tag = "4")]
    pub matched_index: u64,
    /// Whether it answers now.
    #[prost(bool, tag = "5")]
    pub reachable: bool,
    /// Less than the reserve is free on its disk. When the others are no majority, only what removes is accepted.
    #[prost(bool, tag = "6")]
    pub disk_low: bool,
}

/// One datanode as the leader sees it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DatanodeStatus {
    /// Who and where.
    #[prost(message, required, tag = "1")]
    pub address: DatanodeAddress,
    /// Whether its heartbeats arrive.
    #[prost(bool, tag = "2")]
    pub alive: bool,
    /// What it is to be.
    #[prost(enumeration = "DatanodeAdminState", tag = "3")]
    pub state: i32,
    /// Since its last heartbeat; `u64::MAX` if this leader never heard it.
    #[prost(uint64, tag = "4")]
    pub heartbeat_age_ms: u64,
    /// Volumes as of its last heartbeat.
    #[prost(message, repeated, tag = "5")]
    pub volumes: Vec<VolumeReport>,
    /// Replicas it should hold by the committed state.
    #[prost(uint64, tag = "6")]
    pub replica_count: u64,
    /// Version of its software.
    #[prost(string, tag = "7")]
    pub version: String,
    /// Open write streams.
    #[prost(uint32, tag = "8")]
    pub write_streams: u32,
    /// Copies running towards it.
    #[prost(uint32, tag = "9")]
    pub copies: u32,
    /// How long it has been silent at least: since its last heartbeat, or since this leader began if it never heard it.
    #[prost(uint64, tag = "10")]
    pub silent_ms: u64,
}

/// Answer to `Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusReply {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub cluster_id: Vec<u8>,
    /// Raft term.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Namenode id.
    #[prost(uint64, tag = "3")]
    pub leader: u64,
    /// Last applied index of the leader.
    #[prost(uint64, tag = "4")]
    pub applied_index: u64,
    /// Namenodes.
    #[prost(message, repeated, tag = "5")]
    pub namenodes: Vec<NamenodeStatus>,
    /// Datanodes.
    #[prost(message, repeated, tag = "6")]
    pub datanodes: Vec<DatanodeStatus>,
    /// Counts of what is stored.
    #[prost(message, required, tag = "7")]
    pub counts: ClusterCounts,
    /// The cluster's time.
    #[prost(uint64, tag = "8")]
    pub time_ms: u64,
    /// Version of the leader's software.
    #[prost(string, tag = "9")]
    pub version: String,
    /// Sessions that are alive.
    #[prost(uint64, tag = "10")]
    pub session_count: u64,
    /// What one member knows by itself, at its last applied entry: it cannot tell who is alive, nor what is at risk. `leader` is the
    /// one that it follows, 0 if there is none.
    #[prost(bool, tag = "11")]
    pub local: bool,
}

/// What is stored, and what is at risk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterCounts {
    /// Regular files.
    #[prost(uint64, tag = "1")]
    pub files: u64,
    /// Directories.
    #[prost(uint64, tag = "2")]
    pub directories: u64,
    /// All inodes.
    #[prost(uint64, tag = "3")]
    pub inodes: u64,
    /// Chunks.
    #[prost(uint64, tag = "4")]
    pub chunks: u64,
    /// Open ones.
    #[prost(uint64, tag = "5")]
    pub chunks_open: u64,
    /// With fewer live replicas than asked for, at least one left.
    #[prost(uint64, tag = "6")]
    pub chunks_under_replicated: u64,
    /// With committed bytes and no live replica now.
    #[prost(uint64, tag = "7")]
    pub chunks_unavailable: u64,
    /// With more replicas than asked for.
    #[prost(uint64, tag = "8")]
    pub chunks_over_replicated: u64,
    /// Waiting for their grace to end before deletion.
    #[prost(uint64, tag = "9")]
    pub chunks_dead: u64,
    /// Distinct bytes that files use.
    #[prost(uint64, tag = "10")]
    pub live_bytes: u64,
    /// Committed bytes of all chunks, once each.
    #[prost(uint64, tag = "11")]
    pub chunk_bytes: u64,
    /// Copies running now.
    #[prost(uint64, tag = "12")]
    pub copies_running: u64,
    /// Unlinked inodes and detached trees still to be swept.
    #[prost(uint64, tag = "13")]
    pub sweeping: u64,
    /// With committed bytes that no replica holds: they are lost.
    #[prost(uint64, tag = "14")]
    pub chunks_lossy: u64,
    /// Of the copies that run, those that take replicas from full datanodes to empty ones.
    #[prost(uint64, tag = "15")]
    pub moves_running: u64,
    /// How full the emptiest datanode is that takes replicas, in thousandths of what replicas may have there.
    #[prost(uint32, tag = "16")]
    pub fill_min_permille: u32,
    /// The fullest one.
    #[prost(uint32, tag = "17")]
    pub fill_max_permille: u32,
}

/// One page of checks. The leader answers from one snapshot per page.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsckRequest {
    /// Who asks (superuser only).
    #[prost(message, required, tag = "1")]
    pub caller: Caller,
    /// From the last page; empty for the first.
    #[prost(bytes = "vec", tag = "2")]
    pub cursor: Vec<u8>,
    /// Records to check at most; 0 means 10,000.
    #[prost(uint32, tag = "3")]
    pub limit: u32,
    /// Name the files of what is being repaired, too: a problem for each. What is severe always names them.
    #[prost(bool, tag = "4")]
    pub name_files: bool,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsckProblem {
    /// `I2`, `lost`, `under-replicated`, `unavailable`, ….
    #[prost(string, tag = "1")]
    pub kind: String,
    /// What it is about.
    #[prost(string, tag = "2")]
    pub message: String,
    /// A path that it affects, if one is known.
    #[prost(bytes = "vec", tag = "3")]
    pub path: Vec<u8>,
    /// Whether data is lost or state is broken (true) or repair is under way (false).
    #[prost(bool, tag = "4")]
    pub severe: bool,
}

/// One page of findings.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FsckReply {
    /// Findings.
    #[prost(message, repeated, tag = "1")]
    pub problems: Vec<FsckProblem>,
    /// For the next page; empty when done.
    #[prost(bytes = "vec", tag = "2")]
    pub cursor: Vec<u8>,
    /// Inodes checked by this page.
    #[prost(uint64, tag = "3")]
    pub inodes: u64,
    /// Chunks checked by this page.
    #[prost(uint64, tag = "4")]
    pub chunks: u64,
    /// Extents checked by this page.
    #[prost(uint64, tag = "5")]
    pub extents: u64,
}

/// Asks this process for its metrics.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricsRequest {}

/// Prometheus text.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricsReply {
    /// Exposition format 0.0.4.
    #[prost(string, tag = "1")]
    pub text: String,
}

/// Identity of a namenode, asked by its peers before the group exists.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GreetRequest {
    /// Namenode that asks.
    #[prost(uint64, tag = "1")]
    pub namenode: u64,
    /// Its address as others reach it.
    #[prost(string, tag = "2")]
    pub address: String,
}

/// Who answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GreetReply {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub namenode: u64,
    /// Its address as others reach it.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Empty while it belongs to no cluster.
    #[prost(bytes = "vec", tag = "3")]
    pub cluster_id: Vec<u8>,
    /// It has voted or has a log: it belongs to a group, even while the cluster has no id yet.
    #[prost(bool, tag = "4")]
    pub in_group: bool,
}

/// openraft's own messages, encoded by the namenode's `consensus/network.rs`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RaftEnvelope {
    /// Version of the encoding: 1 = postcard of openraft 0.10.
    #[prost(uint32, tag = "1")]
    pub encoding: u32,
    /// Encoded message (entries may travel in the frame's payload instead).
    #[prost(bytes = "vec", tag = "2")]
    pub body: Vec<u8>,
    /// Sender's namenode id.
    #[prost(uint64, tag = "3")]
    pub from: u64,
    /// Receiver's namenode id: another process at the same address refuses it.
    #[prost(uint64, tag = "4")]
    pub to: u64,
}

/// What comes with the answer to a [`RaftEnvelope`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RaftAnswer {
    /// Less than the reserve is free on the answering namenode's disk.
    #[prost(bool, tag = "1")]
    pub disk_low: bool,
}

/// A follower asks the leader for an index that a linearizable read must have applied.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadIndexRequest {}

/// The index.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadIndexReply {
    /// Applied at least through here before the read.
    #[prost(uint64, tag = "1")]
    pub index: u64,
}
