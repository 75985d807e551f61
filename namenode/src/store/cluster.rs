//! Table `cluster`: the one record of counters, identity and settings.

use std::path::Path;

use super::error::StoreError;
use super::key::{self, Key, KeyKind};
use super::read::Read;
use super::records::ClusterRecord;

/// The newest feature level that this version knows, and what a new cluster agrees on (ADR 11).
pub const FEATURE_LEVEL: u32 = 1;

/// `0x02`
pub(super) fn encode() -> Vec<u8> {
    Key::new(KeyKind::Cluster).finish()
}

/// The record; before the founding an empty one. Use [`Read::cluster_record`], which sees a transaction's changes.
pub(super) fn get(reader: &(impl Read + ?Sized)) -> Result<ClusterRecord, StoreError> {
    let record = key::get_record(reader, &encode(), || "cluster record".into())?;
    Ok(record.unwrap_or_default())
}

/// Fails if the cluster has agreed on what this version does not know: it would misread the state, or change it differently from the
/// other members.
pub(super) fn check_level(cluster: &ClusterRecord, dir: &Path) -> Result<(), StoreError> {
    if cluster.feature_level <= FEATURE_LEVEL {
        return Ok(());
    }
    Err(StoreError::NewerLevel {
        path: dir.to_path_buf(),
        found: cluster.feature_level,
        supported: FEATURE_LEVEL,
    })
}
