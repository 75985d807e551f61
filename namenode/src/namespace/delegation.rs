//! Directories whose names are one session's alone: nobody else sees or changes them, so that its client may work on them by
//! itself and tell the namenodes later, many things at once (`ops/write_behind.rs`).
//!
//! A delegation is a session's number in the record of the directory. It stands as long as that session lives and needs no clearing away
//! when it ends. Who meets another's delegation is refused ([`OpError::Delegated`]); the service has it given back
//! (`service/recall.rs`) and asks again. What names mean is protected, inodes are not: who has a file open goes on.

use bytes::Bytes;
use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::messages::common::Caller;

use super::error::OpError;
use super::path::Node;
use crate::store::records::InodeRecord;
use crate::store::{self, Change, Read, StoreError, Txn, What};

/// Whether a session has a delegation that says so: one that is over has none.
pub(super) fn stands(read: &impl Read, delegated_to: u64) -> Result<bool, StoreError> {
    if delegated_to == 0 {
        return Ok(false);
    }
    let session = store::session::get(read, SessionId(delegated_to))?;
    Ok(session.is_some_and(|session| !session.ended))
}

/// Fails if what is in a directory, or the directory as such, is another session's business. Anything but a directory passes.
pub(super) fn check(read: &impl Read, caller: &Caller, node: &Node) -> Result<(), OpError> {
    check_names(read, caller, node.id, node.inode.delegated_to)
}

/// The same for a directory of which no more is known.
pub(super) fn check_names(
    read: &impl Read,
    caller: &Caller,
    directory: InodeId,
    delegated_to: u64,
) -> Result<(), OpError> {
    if delegated_to == caller.session || !stands(read, delegated_to)? {
        return Ok(());
    }
    Err(OpError::Delegated(directory))
}

/// Notes that a session has a directory for itself now: whoever has cached names in it, or that they are missing, is not told of
/// changes in time any more, and is told to forget them all.
pub(super) fn note_taken(txn: &mut Txn, directory: &Node) {
    txn.note(Change {
        inode: directory.id,
        kind: directory.inode.kind,
        parent: directory.id,
        what: What::Named,
        name: Bytes::new(),
    });
}

/// Whether a directory is delegated to another session, one that lives. A directory that is gone is not.
pub fn is_kept_from(
    read: &impl Read,
    session: SessionId,
    directory: InodeId,
) -> Result<bool, StoreError> {
    match store::inode::get(read, directory)? {
        Some(record) if record.delegated_to != session.0 => stands(read, record.delegated_to),
        _ => Ok(false),
    }
}

/// Whether the directory can be delegated. What is made below an access control list depends on it, which clients do not see.
pub(super) fn is_possible(directory: &InodeRecord) -> bool {
    directory.default_acl.is_empty()
}
