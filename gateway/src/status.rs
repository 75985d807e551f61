//! The cluster's status in words and as JSON.

use cairn_client::{Safety, verdict};
use cairn_protocol::messages::admin::{
    DatanodeAdminState, DatanodeStatus, NamenodeStatus, StatusReply,
};
use serde_json::{Value, json};

/// What a datanode is and is to be, in words.
pub(crate) fn datanode_state(datanode: &DatanodeStatus) -> &'static str {
    match DatanodeAdminState::try_from(datanode.state) {
        Ok(DatanodeAdminState::InService) if datanode.alive => "in service",
        Ok(DatanodeAdminState::InService) => "dead",
        Ok(DatanodeAdminState::Decommissioning) => "decommissioning",
        Ok(DatanodeAdminState::Decommissioned) => "decommissioned",
        Ok(DatanodeAdminState::Maintenance) => "maintenance",
        Err(_) => "unknown",
    }
}

/// Everything, for scripts.
pub(crate) fn as_json(status: &StatusReply) -> Value {
    let counts = &status.counts;
    let verdict = verdict(status);
    json!({
        "verdict": verdict.text,
        "safe": verdict.all_replicas && verdict.safety != Safety::Bad,
        "cluster": hex(&status.cluster_id),
        "version": status.version,
        "term": status.term,
        "leader": status.leader,
        "applied_index": status.applied_index,
        "time_ms": status.time_ms,
        "sessions": status.session_count,
        "counts": {
            "files": counts.files,
            "directories": counts.directories,
            "inodes": counts.inodes,
            "chunks": counts.chunks,
            "chunks_open": counts.chunks_open,
            "chunks_under_replicated": counts.chunks_under_replicated,
            "chunks_unavailable": counts.chunks_unavailable,
            "chunks_lossy": counts.chunks_lossy,
            "chunks_over_replicated": counts.chunks_over_replicated,
            "chunks_dead": counts.chunks_dead,
            "live_bytes": counts.live_bytes,
            "chunk_bytes": counts.chunk_bytes,
            "copies_running": counts.copies_running,
            "sweeping": counts.sweeping,
        },
        "namenodes": status.namenodes.iter().map(namenode_json).collect::<Vec<_>>(),
        "datanodes": status.datanodes.iter().map(datanode_json).collect::<Vec<_>>(),
    })
}

fn namenode_json(namenode: &NamenodeStatus) -> Value {
    json!({
        "id": namenode.namenode,
        "address": namenode.address,
        "role": namenode.role,
        "matched_index": namenode.matched_index,
        "reachable": namenode.reachable,
    })
}

fn datanode_json(datanode: &DatanodeStatus) -> Value {
    let volumes = datanode.volumes.iter().map(|volume| {
        json!({
            "path": volume.path,
            "capacity_bytes": volume.capacity_bytes,
            "used_bytes": volume.used_bytes,
            "available_bytes": volume.available_bytes,
            "replicas": volume.replica_count,
            "failed": volume.failed,
            "reason": volume.reason,
        })
    });
    let age = (datanode.heartbeat_age_ms != u64::MAX).then_some(datanode.heartbeat_age_ms);
    json!({
        "id": datanode.address.datanode,
        "address": datanode.address.address,
        "host": datanode.address.host,
        "rack": datanode.address.rack,
        "alive": datanode.alive,
        "state": datanode_state(datanode),
        "heartbeat_age_ms": age,
        "replicas": datanode.replica_count,
        "write_streams": datanode.write_streams,
        "copies": datanode.copies,
        "version": datanode.version,
        "volumes": volumes.collect::<Vec<_>>(),
    })
}

/// An id as people copy it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
