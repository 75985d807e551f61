//! The cluster's status as a document: the same facts as `dfs status --json`, under the same names.

use cairn_client::{Safety, verdict};
use cairn_protocol::messages::admin::{
    ClusterCounts, DatanodeAdminState, DatanodeStatus, NamenodeStatus, StatusReply,
};
use cairn_protocol::messages::datanode::VolumeReport;
use serde::Serialize;
use utoipa::ToSchema;

/// The whole cluster at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Status {
    /// Whether all data is safe, in a sentence or two.
    verdict: String,
    /// Whether every chunk is known to have all its replicas, and everything can be read and changed.
    safe: bool,
    /// The cluster's id.
    cluster: String,
    /// Version of the leader's software.
    version: String,
    /// Raft term.
    term: u64,
    /// Id of the namenode that leads.
    leader: u64,
    /// Last entry of the log that the leader has applied.
    applied_index: u64,
    /// The cluster's time, in milliseconds since 1970.
    time_ms: u64,
    /// Sessions of clients that are alive.
    sessions: u64,
    counts: Counts,
    namenodes: Vec<Namenode>,
    datanodes: Vec<Datanode>,
}

/// What is stored, and what is at risk.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Counts {
    files: u64,
    directories: u64,
    inodes: u64,
    chunks: u64,
    chunks_open: u64,
    /// With fewer live replicas than asked for, at least one left.
    chunks_under_replicated: u64,
    /// With no live replica now.
    chunks_unavailable: u64,
    /// Parts of which are on no disk any more.
    chunks_lossy: u64,
    chunks_over_replicated: u64,
    /// Waiting to be deleted.
    chunks_dead: u64,
    /// Distinct bytes that files use.
    live_bytes: u64,
    /// Bytes of all chunks, once each.
    chunk_bytes: u64,
    copies_running: u64,
    /// Of the copies, those that balance.
    moves_running: u64,
    /// How full the emptiest datanode is, in thousandths.
    fill_min_permille: u64,
    /// How full the fullest datanode is, in thousandths.
    fill_max_permille: u64,
    /// Removed files and trees still to be swept.
    sweeping: u64,
}

/// One namenode, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Namenode {
    id: u64,
    address: String,
    /// `leader`, `follower` or `learner`.
    role: String,
    /// Last entry of the log that it has acknowledged.
    matched_index: u64,
    /// Whether it answers now.
    reachable: bool,
    /// Less than its `reserve` is free on its disk.
    disk_low: bool,
}

/// One datanode, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Datanode {
    id: u64,
    address: String,
    host: String,
    rack: String,
    /// Whether its heartbeats arrive.
    alive: bool,
    /// What it is and is to be, in words.
    state: String,
    /// Since its last heartbeat; null if this leader never heard it.
    #[schema(required)]
    heartbeat_age_ms: Option<u64>,
    /// How long it has been silent at least.
    silent_ms: u64,
    /// Replicas that it should hold.
    replicas: u64,
    capacity_bytes: u64,
    used_bytes: u64,
    available_bytes: u64,
    /// Open write streams.
    write_streams: u32,
    /// Copies running towards it.
    copies: u32,
    version: String,
    volumes: Vec<Volume>,
}

/// One directory, on one disk, of a datanode.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Volume {
    path: String,
    capacity_bytes: u64,
    used_bytes: u64,
    available_bytes: u64,
    replicas: u64,
    /// Whether it was withdrawn.
    failed: bool,
    /// Why.
    reason: String,
}

impl From<&StatusReply> for Status {
    fn from(status: &StatusReply) -> Self {
        let verdict = verdict(status);
        Self {
            safe: verdict.all_replicas && verdict.safety != Safety::Bad,
            verdict: verdict.text,
            cluster: hex(&status.cluster_id),
            version: status.version.clone(),
            term: status.term,
            leader: status.leader,
            applied_index: status.applied_index,
            time_ms: status.time_ms,
            sessions: status.session_count,
            counts: Counts::from(&status.counts),
            namenodes: namenodes(status),
            datanodes: datanodes(status),
        }
    }
}

/// All namenodes.
pub(crate) fn namenodes(status: &StatusReply) -> Vec<Namenode> {
    status.namenodes.iter().map(Namenode::from).collect()
}

/// All datanodes.
pub(crate) fn datanodes(status: &StatusReply) -> Vec<Datanode> {
    status.datanodes.iter().map(Datanode::from).collect()
}

impl From<&ClusterCounts> for Counts {
    fn from(counts: &ClusterCounts) -> Self {
        Self {
            files: counts.files,
            directories: counts.directories,
            inodes: counts.inodes,
            chunks: counts.chunks,
            chunks_open: counts.chunks_open,
            chunks_under_replicated: counts.chunks_under_replicated,
            chunks_unavailable: counts.chunks_unavailable,
            chunks_lossy: counts.chunks_lossy,
            chunks_over_replicated: counts.chunks_over_replicated,
            chunks_dead: counts.chunks_dead,
            live_bytes: counts.live_bytes,
            chunk_bytes: counts.chunk_bytes,
            copies_running: counts.copies_running,
            moves_running: counts.moves_running,
            fill_min_permille: counts.fill_min_permille.into(),
            fill_max_permille: counts.fill_max_permille.into(),
            sweeping: counts.sweeping,
        }
    }
}

impl From<&NamenodeStatus> for Namenode {
    fn from(namenode: &NamenodeStatus) -> Self {
        Self {
            id: namenode.namenode,
            address: namenode.address.clone(),
            role: namenode.role.clone(),
            matched_index: namenode.matched_index,
            reachable: namenode.reachable,
            disk_low: namenode.disk_low,
        }
    }
}

impl From<&DatanodeStatus> for Datanode {
    fn from(datanode: &DatanodeStatus) -> Self {
        let age = datanode.heartbeat_age_ms;
        let (capacity_bytes, used_bytes, available_bytes) = space(datanode);
        Self {
            id: datanode.address.datanode,
            address: datanode.address.address.clone(),
            host: datanode.address.host.clone(),
            rack: datanode.address.rack.clone(),
            alive: datanode.alive,
            state: datanode_state(datanode).to_owned(),
            heartbeat_age_ms: (age != u64::MAX).then_some(age),
            silent_ms: datanode.silent_ms,
            replicas: datanode.replica_count,
            capacity_bytes,
            used_bytes,
            available_bytes,
            write_streams: datanode.write_streams,
            copies: datanode.copies,
            version: datanode.version.clone(),
            volumes: datanode.volumes.iter().map(Volume::from).collect(),
        }
    }
}

impl From<&VolumeReport> for Volume {
    fn from(volume: &VolumeReport) -> Self {
        Self {
            path: volume.path.clone(),
            capacity_bytes: volume.capacity_bytes,
            used_bytes: volume.used_bytes,
            available_bytes: volume.available_bytes,
            replicas: volume.replica_count,
            failed: volume.failed,
            reason: volume.reason.clone(),
        }
    }
}

/// Capacity, used and available bytes of a datanode. What a failed volume has left is of no use.
pub(crate) fn space(datanode: &DatanodeStatus) -> (u64, u64, u64) {
    let volumes = datanode.volumes.iter();
    volumes.fold((0, 0, 0), |(capacity, used, available), volume| {
        let left = if volume.failed {
            0
        } else {
            volume.available_bytes
        };
        (
            u64::saturating_add(capacity, volume.capacity_bytes),
            u64::saturating_add(used, volume.used_bytes),
            u64::saturating_add(available, left),
        )
    })
}

/// What a datanode is and is to be, in words.
fn datanode_state(datanode: &DatanodeStatus) -> &'static str {
    match (DatanodeAdminState::try_from(datanode.state), datanode.alive) {
        (Ok(DatanodeAdminState::InService), true) => "in service",
        (Ok(DatanodeAdminState::InService), false) => "DEAD",
        (Ok(DatanodeAdminState::Decommissioning), true) => "decommissioning",
        (Ok(DatanodeAdminState::Decommissioning), false) => "decommissioning, dead",
        (Ok(DatanodeAdminState::Decommissioned), _) => "decommissioned",
        (Ok(DatanodeAdminState::Maintenance), true) => "maintenance",
        (Ok(DatanodeAdminState::Maintenance), false) => "maintenance, away",
        (Err(_), _) => "unknown",
    }
}

/// An id as people copy it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use cairn_protocol::messages::admin::{DatanodeStatus, StatusReply};

    use super::Status;

    #[test]
    fn a_datanode_that_was_never_heard_has_no_age() {
        let mut status = StatusReply::default();
        status.datanodes.push(DatanodeStatus {
            heartbeat_age_ms: u64::MAX,
            silent_ms: 7,
            ..DatanodeStatus::default()
        });
        let document = serde_json::to_value(Status::from(&status)).unwrap();
        let datanode = &document["datanodes"][0];
        assert!(datanode["heartbeat_age_ms"].is_null(), "{datanode}");
        assert_eq!(
            (&datanode["silent_ms"], &datanode["state"]),
            (&7.into(), &"DEAD".into())
        );
        assert_eq!(document["safe"], false);
    }
}
