//! Directories whose names are one session's alone: nobody else sees or changes them, so that its client may work on them by
//! itself and tell the namenodes later, many things at once (`ops/write_behind.rs`).
//!
//! A delegation is a session's number in the record of the directory. It stands as long as that session lives and needs no clearing away
//! when it ends. Who meets another's delegation is refused ([`OpError::Delegated`]); the service has it given back
//! (`service/recall.rs`) and asks again. What names mean is protected, inodes are not: who has a file open goes on.

use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::messages::common::Caller;

use super::error::OpError;
use super::path::Node;
use crate::store::records::InodeRecord;
use crate::store::{self, Read, StoreError};

/// The session that a directory is delegated to.
pub(super) fn holder(
    read: &impl Read,
    directory: &InodeRecord,
) -> Result<Option<SessionId>, StoreError> {
    if directory.delegated_to == 0 {
        return Ok(None);
    }
    let id = SessionId(directory.delegated_to);
    let session = store::session::get(read, id)?;
    Ok(session.is_some_and(|session| !session.ended).then_some(id))
}

/// Fails if what is in a directory, or the directory as such, is another session's business. Anything but a directory passes.
pub(super) fn check(read: &impl Read, caller: &Caller, node: &Node) -> Result<(), OpError> {
    let to = node.inode.delegated_to;
    if to == 0 || to == caller.session || holder(read, &node.inode)?.is_none() {
        return Ok(());
    }
    Err(OpError::Delegated(node.id))
}

/// Whether a directory is delegated to a session that lives. One that is gone is not.
pub fn is_delegated(read: &impl Read, directory: InodeId) -> Result<bool, StoreError> {
    match store::inode::get(read, directory)? {
        Some(record) => Ok(holder(read, &record)?.is_some()),
        None => Ok(false),
    }
}

/// Whether the directory can be delegated. What is made below an access control list depends on it, which clients do not see.
pub(super) fn is_possible(directory: &InodeRecord) -> bool {
    directory.default_acl.is_empty()
}
