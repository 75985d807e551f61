//! Datanodes and the leader. Reports only reconcile: the replica set is replicated state.

use std::collections::BTreeMap;

use super::common::{ClusterSettings, FailureInfo, ReplicaTarget};

/// A volume of a datanode.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeReport {
    /// Its directory.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Size of its file system.
    #[prost(uint64, tag = "2")]
    pub capacity_bytes: u64,
    /// Bytes of replicas.
    #[prost(uint64, tag = "3")]
    pub used_bytes: u64,
    /// What may still be written, the reserve taken off.
    #[prost(uint64, tag = "4")]
    pub available_bytes: u64,
    /// Number of replicas.
    #[prost(uint64, tag = "5")]
    pub replica_count: u64,
    /// Withdrawn: full or failing.
    #[prost(bool, tag = "6")]
    pub failed: bool,
    /// Why it is withdrawn.
    #[prost(string, tag = "7")]
    pub reason: String,
    /// Tells the file systems of a machine apart: volumes of one machine with the same number share their space. 0: not known.
    #[prost(uint64, tag = "8")]
    pub filesystem: u64,
    /// Its disk does not answer: nothing can be asked of its replicas until it does.
    #[prost(bool, tag = "9")]
    pub hanging: bool,
}

/// Space over several volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeSpace {
    /// Sizes of their file systems.
    pub capacity_bytes: u64,
    /// Bytes of replicas.
    pub used_bytes: u64,
    /// What may still be written.
    pub available_bytes: u64,
}

impl VolumeSpace {
    /// Adds up volumes that work, each beside the name of its machine. Volumes that share a file system share what is free on it:
    /// it counts once.
    pub fn of<'a>(volumes: impl IntoIterator<Item = (&'a str, &'a VolumeReport)>) -> Self {
        let mut sum = Self::default();
        let mut shared: BTreeMap<(&str, u64), (u64, u64)> = BTreeMap::new();
        for (host, volume) in volumes.into_iter().filter(|(_, volume)| !volume.failed) {
            sum.used_bytes = sum.used_bytes.saturating_add(volume.used_bytes);
            if volume.filesystem == 0 {
                sum.add(volume.capacity_bytes, volume.available_bytes);
                continue;
            }
            // They were not asked at the same moment, and their reserves may differ.
            let known = shared.entry((host, volume.filesystem)).or_default();
            known.0 = known.0.max(volume.capacity_bytes);
            known.1 = known.1.max(volume.available_bytes);
        }
        for (capacity, available) in shared.into_values() {
            sum.add(capacity, available);
        }
        sum
    }

    fn add(&mut self, capacity_bytes: u64, available_bytes: u64) {
        self.capacity_bytes = self.capacity_bytes.saturating_add(capacity_bytes);
        self.available_bytes = self.available_bytes.saturating_add(available_bytes);
    }
}

/// First contact of a datanode's process. Idempotent under (uuid).
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterDatanodeRequest {
    /// 16 bytes, made when its first volume was formatted.
    #[prost(bytes = "vec", tag = "1")]
    pub uuid: Vec<u8>,
    /// Cluster its volumes belong to; empty before the first registration.
    #[prost(bytes = "vec", tag = "2")]
    pub cluster_id: Vec<u8>,
    /// `host:port` of its data port, as others reach it.
    #[prost(string, tag = "3")]
    pub address: String,
    /// Name of its machine.
    #[prost(string, tag = "4")]
    pub host: String,
    /// Failure domain, like `/rack1`.
    #[prost(string, tag = "5")]
    pub rack: String,
    /// Unix socket for short-circuit reads; empty if none.
    #[prost(string, tag = "6")]
    pub local_socket: String,
    /// Version of the software.
    #[prost(string, tag = "7")]
    pub version: String,
    /// 16 random bytes of this process: heartbeats of an earlier one are refused.
    #[prost(bytes = "vec", tag = "8")]
    pub boot_nonce: Vec<u8>,
    /// Volumes.
    #[prost(message, repeated, tag = "9")]
    pub volumes: Vec<VolumeReport>,
    /// `host:port` of its HTTP gateway; empty if none.
    #[prost(string, tag = "10")]
    pub http_address: String,
    /// The id that its volumes carry; 0 before the first registration. `PreconditionFailed` if the cluster has forgotten it.
    #[prost(uint64, tag = "11")]
    pub datanode: u64,
}

/// Key for tokens.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TokenKeyMessage {
    /// Key id.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// 32 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub secret: Vec<u8>,
}

/// What a datanode must know to serve.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterDirections {
    /// The leader's term; instructions of lower ones are refused from now on.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// The cluster's time for token expiry.
    #[prost(uint64, tag = "2")]
    pub time_ms: u64,
    /// Current key first, then the previous one.
    #[prost(message, repeated, tag = "3")]
    pub keys: Vec<TokenKeyMessage>,
    /// Replicated settings.
    #[prost(message, required, tag = "4")]
    pub settings: ClusterSettings,
    /// Send a full replica report now.
    #[prost(bool, tag = "5")]
    pub report_replicas: bool,
    /// Addresses of all namenodes.
    #[prost(string, repeated, tag = "6")]
    pub namenodes: Vec<String>,
}

/// Registered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterDatanodeReply {
    /// Datanode id for life.
    #[prost(uint64, tag = "1")]
    pub datanode: u64,
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub cluster_id: Vec<u8>,
    /// What to know.
    #[prost(message, required, tag = "3")]
    pub directions: ClusterDirections,
}

/// What a datanode says of one replica.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReplicaState {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Which life of the replica.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    /// Highest epoch seen; of the seal if sealed.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Bytes.
    #[prost(uint64, tag = "4")]
    pub length: u64,
    /// Whether it is sealed.
    #[prost(bool, tag = "5")]
    pub sealed: bool,
    /// fsynced through here.
    #[prost(uint64, tag = "6")]
    pub synced_length: u64,
    /// A checksum block is bad or a file is lost or cannot be read.
    #[prost(bool, tag = "7")]
    pub bad: bool,
    /// The replica is gone (its volume failed or was withdrawn).
    #[prost(bool, tag = "8")]
    pub gone: bool,
}

/// Sign of life.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeartbeatRequest {
    /// Datanode id.
    #[prost(uint64, tag = "1")]
    pub datanode: u64,
    /// Of this process.
    #[prost(bytes = "vec", tag = "2")]
    pub boot_nonce: Vec<u8>,
    /// Volumes.
    #[prost(message, repeated, tag = "3")]
    pub volumes: Vec<VolumeReport>,
    /// Replicas that changed since the last answered heartbeat (sealed, bad, gone); at most 1,000.
    #[prost(message, repeated, tag = "4")]
    pub changed: Vec<ReplicaState>,
    /// Open write streams.
    #[prost(uint32, tag = "5")]
    pub write_streams: u32,
    /// Reads in progress.
    #[prost(uint32, tag = "6")]
    pub reads: u32,
    /// Replicas of other datanodes that failed as sources of copies since the last answered heartbeat; at most 100.
    #[prost(message, repeated, tag = "7")]
    pub failed_sources: Vec<super::session::FailedReplica>,
}

/// Heard.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeartbeatReply {
    /// What to know.
    #[prost(message, required, tag = "1")]
    pub directions: ClusterDirections,
}

/// One page of all replicas, in order of chunk ids.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReplicaReportRequest {
    /// Datanode id.
    #[prost(uint64, tag = "1")]
    pub datanode: u64,
    /// Of this process.
    #[prost(bytes = "vec", tag = "2")]
    pub boot_nonce: Vec<u8>,
    /// This page covers chunk ids from here …
    #[prost(uint64, tag = "3")]
    pub first_chunk: u64,
    /// … through here (`u64::MAX` on the last page).
    #[prost(uint64, tag = "4")]
    pub last_chunk: u64,
    /// At most 10,000.
    #[prost(message, repeated, tag = "5")]
    pub replicas: Vec<ReplicaState>,
}

/// Reconciled; instructions follow on their own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReplicaReportReply {}

/// Orders from the leader. Each is idempotent; results in the same order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstructRequest {
    /// The leader's term.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// Datanode that is meant.
    #[prost(uint64, tag = "2")]
    pub datanode: u64,
    /// Proves that a namenode of this cluster speaks.
    #[prost(bytes = "vec", tag = "3")]
    pub token: Vec<u8>,
    /// At most 256.
    #[prost(message, repeated, tag = "4")]
    pub instructions: Vec<Instruction>,
}

/// One order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Instruction {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Which life of the replica is meant; another one is left alone.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    /// What to do.
    #[prost(oneof = "InstructionKind", tags = "10, 11, 12, 13, 14")]
    pub kind: Option<InstructionKind>,
}

/// The orders.
#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(missing_docs, reason = "each variant is the message of the same name")]
pub enum InstructionKind {
    #[prost(message, tag = "10")]
    Seal(SealReplica),
    #[prost(message, tag = "11")]
    Delete(DeleteReplica),
    #[prost(message, tag = "12")]
    Copy(CopyReplica),
    #[prost(message, tag = "13")]
    Sync(SyncReplica),
    #[prost(message, tag = "14")]
    Verify(VerifyReplica),
}

/// Cut to the length, fsync, seal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SealReplica {
    /// Epoch of the seal.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Committed length.
    #[prost(uint64, tag = "2")]
    pub length: u64,
}

/// Remove this incarnation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeleteReplica {}

/// Make this incarnation by copying a sealed replica.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopyReplica {
    /// Epoch of the seal.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Sealed length.
    #[prost(uint64, tag = "2")]
    pub length: u64,
    /// Where to read, best first.
    #[prost(message, repeated, tag = "3")]
    pub sources: Vec<ReplicaTarget>,
    /// Read token for the whole chunk.
    #[prost(bytes = "vec", tag = "4")]
    pub token: Vec<u8>,
    /// Compaction: instead of one replica, the copy is of these pieces in this order; `length` is their sum. At most 4,096.
    #[prost(message, repeated, tag = "5")]
    pub pieces: Vec<CopyPiece>,
    /// Where the pieces are; at most 256.
    #[prost(message, repeated, tag = "6")]
    pub piece_sources: Vec<CopySource>,
}

/// A range of a sealed chunk that goes into another.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CopyPiece {
    /// Index into `piece_sources`.
    #[prost(uint32, tag = "1")]
    pub source_index: u32,
    /// First byte in its chunk.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Bytes.
    #[prost(uint64, tag = "3")]
    pub length: u64,
}

/// A chunk that is read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopySource {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// Where to read, best first.
    #[prost(message, repeated, tag = "2")]
    pub sources: Vec<ReplicaTarget>,
    /// Read token for the whole chunk.
    #[prost(bytes = "vec", tag = "3")]
    pub token: Vec<u8>,
}

/// fsync through at least this length.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SyncReplica {
    /// Length.
    #[prost(uint64, tag = "1")]
    pub through: u64,
}

/// Read all of it and check every CRC.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VerifyReplica {}

/// What came of each order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstructReply {
    /// In the order of the instructions.
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<InstructResult>,
}

/// What came of one order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstructResult {
    /// Absent on success.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<FailureInfo>,
    /// The replica afterwards, if it exists.
    #[prost(message, optional, tag = "2")]
    pub state: Option<ReplicaState>,
    /// It failed while the disk of the replica does not answer.
    #[prost(bool, tag = "3")]
    pub hanging: bool,
}

#[cfg(test)]
mod tests {
    use super::{VolumeReport, VolumeSpace};

    #[test]
    fn volumes_that_share_a_file_system_share_its_space() {
        let volume = |filesystem, used_bytes, available_bytes| VolumeReport {
            capacity_bytes: 100,
            used_bytes,
            available_bytes,
            filesystem,
            ..VolumeReport::default()
        };
        let (first, second, third) = (volume(7, 10, 60), volume(7, 20, 59), volume(8, 1, 5));
        let space = |volumes: &[(&'static str, &VolumeReport)]| {
            let space = VolumeSpace::of(volumes.iter().copied());
            (
                space.capacity_bytes,
                space.used_bytes,
                space.available_bytes,
            )
        };
        assert_eq!(space(&[("a", &first), ("a", &second)]), (100, 30, 60));
        assert_eq!(space(&[("a", &first), ("b", &second)]), (200, 30, 119));
        assert_eq!(space(&[("a", &first), ("a", &third)]), (200, 11, 65));
        let (unknown, failed) = (
            volume(0, 1, 2),
            VolumeReport {
                failed: true,
                ..volume(9, 4, 4)
            },
        );
        let unknown_twice = [("a", &unknown), ("a", &unknown), ("a", &failed)];
        assert_eq!(space(&unknown_twice), (200, 2, 4));
    }
}
