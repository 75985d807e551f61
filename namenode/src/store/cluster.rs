//! Table `cluster`: the one record of counters, identity and settings.

use super::error::StoreError;
use super::key::{self, Key, KeyKind};
use super::read::Read;
use super::records::ClusterRecord;

/// `0x02`
pub(super) fn encode() -> Vec<u8> {
    Key::new(KeyKind::Cluster).finish()
}

/// The record; before the founding an empty one. Use [`Read::cluster_record`], which sees a transaction's changes.
pub(super) fn get(reader: &(impl Read + ?Sized)) -> Result<ClusterRecord, StoreError> {
    let record = key::get_record(reader, &encode(), || "cluster record".into())?;
    Ok(record.unwrap_or_default())
}
