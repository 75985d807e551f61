//! Checks of single sessions: the inode numbers that one has reserved are below what the cluster gives out next, and nobody's yet (I11).

use cairn_protocol::ids::InodeId;

use super::Page;
use crate::store::records::SessionRecord;
use crate::store::{self, KeyKind, Read, StoreError};
use prost::Message;

/// True if the key is of this table.
pub(super) fn check(
    read: &impl Read,
    key: &[u8],
    value: &[u8],
    page: &mut Page,
) -> Result<bool, StoreError> {
    if key[0] != KeyKind::Session as u8 {
        return Ok(false);
    }
    let id = store::session::decode(key)?;
    let session = SessionRecord::decode(value).map_err(|error| {
        StoreError::Inconsistent(format!("session {id} cannot be decoded: {error}"))
    })?;
    let (next, end) = (session.reserved_next, session.reserved_end);
    if next > end || end > read.cluster_record()?.next_inode {
        let message =
            format!("session {id} has reserved inodes {next} to {end}, which nobody gave it");
        page.problem("I11", message);
    } else if next < end {
        store::inode::scan(read, InodeId(next), &mut |inode, _| {
            if inode.0 < end {
                page.problem(
                    "I11",
                    format!("inode {inode} exists, and session {id} has still reserved it"),
                );
            }
            Ok(false)
        })?;
    }
    Ok(true)
}
