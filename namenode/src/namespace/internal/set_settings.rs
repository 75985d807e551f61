//! Replaces the cluster's settings, within their limits.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::common::ClusterSettings;

use super::done;
use crate::namespace::command::{Outcome, SetSettings};
use crate::namespace::error::OpError;
use crate::namespace::inode::REPLICATION_MAX;
use crate::store::Txn;

const MIB: u64 = 1 << 20;
const CHUNK_BYTES_MIN: u64 = MIB;
const CHUNK_BYTES_MAX: u64 = 128 * MIB;
/// Longest of the settings' times: longer ones are mistakes in the unit.
const TIME_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// Fails with `Unavailable` before the cluster is founded.
pub(super) fn apply(txn: &mut Txn, cmd: &SetSettings) -> Result<Outcome, OpError> {
    if txn.cluster().cluster_id.is_empty() {
        return Err(OpError::new(
            ErrorCode::Unavailable,
            "the cluster is not founded yet",
        ));
    }
    check(&cmd.settings)?;
    txn.cluster_mut().settings = Some(cmd.settings.clone());
    Ok(done(0, false))
}

/// Fails with `InvalidArgument` that names the setting and its limits.
pub(super) fn check(settings: &ClusterSettings) -> Result<(), OpError> {
    // A grace of 0 is for tests that want their space back at once.
    let limits = [
        (
            "chunk_size",
            settings.chunk_size,
            CHUNK_BYTES_MIN,
            CHUNK_BYTES_MAX,
        ),
        (
            "replication",
            settings.replication.into(),
            1,
            REPLICATION_MAX.into(),
        ),
        ("session_ttl_ms", settings.session_ttl_ms, 1, TIME_MS_MAX),
        (
            "reclaim_grace_ms",
            settings.reclaim_grace_ms,
            0,
            TIME_MS_MAX,
        ),
        (
            "datanode_dead_after_ms",
            settings.datanode_dead_after_ms,
            1,
            TIME_MS_MAX,
        ),
        (
            "datanode_sync_interval_ms",
            settings.datanode_sync_interval_ms,
            1,
            TIME_MS_MAX,
        ),
    ];
    for (name, value, min, max) in limits {
        if !(min..=max).contains(&value) {
            let message = format!("setting {name} is {value}, {min} to {max} is allowed");
            return Err(OpError::new(ErrorCode::InvalidArgument, message));
        }
    }
    Ok(())
}
