//! What clients ask for, one file per operation: `apply(txn, message, ctx)` answers an outcome or fails and
//! has changed nothing (the caller rolls back).

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{OperationKind, OutcomeValue};

use super::command::Placement;
use super::context::Context;
use super::error::OpError;
use crate::store::Txn;

mod allocate_chunk;
mod claim_inode;
mod clone_range;
mod close_session;
mod commit;
mod concat;
mod create;
mod delegate;
mod link;
mod mkdir;
mod note_reads;
mod punch_hole;
mod release_inode;
mod remove_tree;
mod remove_xattr;
mod rename;
mod reserve_inodes;
mod return_chunk;
mod rmdir;
mod seal_chunk;
mod set_attributes;
mod set_lock;
mod set_xattr;
mod symlink;
mod transaction;
mod truncate;
mod unlink;
mod write_behind;

/// Says which disks, and what helps.
const NO_ROOM: &str = "the namenodes' disks are almost full (`dfs status` says which): remove files, or make room on those disks";

/// Whether it adds records for good. What removes, ends or replaces does not, nor what holds others together: a group with little room
/// must still be able to give some back. Steps of a transaction or of a mount are judged one by one.
fn needs_room(kind: &OperationKind) -> bool {
    match kind {
        OperationKind::Mkdir(_)
        | OperationKind::Create(_)
        | OperationKind::Symlink(_)
        | OperationKind::Link(_)
        | OperationKind::SetXattr(_)
        | OperationKind::Commit(_)
        | OperationKind::AllocateChunk(_)
        | OperationKind::Concat(_)
        | OperationKind::CloneRange(_) => true,
        OperationKind::Rename(_)
        | OperationKind::Unlink(_)
        | OperationKind::Rmdir(_)
        | OperationKind::RemoveTree(_)
        | OperationKind::SetAttributes(_)
        | OperationKind::Truncate(_)
        | OperationKind::PunchHole(_)
        | OperationKind::RemoveXattr(_)
        | OperationKind::ReturnChunk(_)
        | OperationKind::SealChunk(_)
        | OperationKind::ClaimInode(_)
        | OperationKind::ReleaseInode(_)
        | OperationKind::CloseSession(_)
        | OperationKind::SetLock(_)
        | OperationKind::Transaction(_)
        | OperationKind::WriteBehind(_)
        | OperationKind::Delegate(_)
        | OperationKind::ReserveInodes(_)
        | OperationKind::NoteReads(_) => false,
    }
}

/// Applies one operation. `placement` is what the leader chose for a new chunk.
pub(super) fn apply(
    txn: &mut Txn,
    kind: &OperationKind,
    placement: Option<&Placement>,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    if ctx.no_growth && needs_room(kind) {
        return Err(OpError::new(ErrorCode::NoSpace, NO_ROOM));
    }
    match kind {
        OperationKind::Mkdir(cmd) => mkdir::apply(txn, cmd, ctx),
        OperationKind::Create(cmd) => create::apply(txn, cmd, ctx),
        OperationKind::Symlink(cmd) => symlink::apply(txn, cmd, ctx),
        OperationKind::Link(cmd) => link::apply(txn, cmd, ctx),
        OperationKind::Rename(cmd) => rename::apply(txn, cmd, ctx),
        OperationKind::Unlink(cmd) => unlink::apply(txn, cmd, ctx),
        OperationKind::Rmdir(cmd) => rmdir::apply(txn, cmd, ctx),
        OperationKind::RemoveTree(cmd) => remove_tree::apply(txn, cmd, ctx),
        OperationKind::SetAttributes(cmd) => set_attributes::apply(txn, cmd, ctx),
        OperationKind::SetXattr(cmd) => set_xattr::apply(txn, cmd, ctx),
        OperationKind::RemoveXattr(cmd) => remove_xattr::apply(txn, cmd, ctx),
        OperationKind::ClaimInode(cmd) => claim_inode::apply(txn, cmd, ctx),
        OperationKind::ReleaseInode(cmd) => release_inode::apply(txn, cmd, ctx),
        OperationKind::CloseSession(_) => close_session::apply(txn, ctx),
        OperationKind::Transaction(cmd) => transaction::apply(txn, cmd, ctx),
        OperationKind::Truncate(cmd) => truncate::apply(txn, cmd, ctx),
        OperationKind::PunchHole(cmd) => punch_hole::apply(txn, cmd, ctx),
        OperationKind::Commit(cmd) => commit::apply(txn, cmd, ctx),
        OperationKind::Concat(cmd) => concat::apply(txn, cmd, ctx),
        OperationKind::CloneRange(cmd) => clone_range::apply(txn, cmd, ctx),
        OperationKind::AllocateChunk(cmd) => allocate_chunk::apply(txn, cmd, placement, ctx),
        OperationKind::ReturnChunk(cmd) => return_chunk::apply(txn, cmd, ctx),
        OperationKind::SealChunk(cmd) => seal_chunk::apply(txn, cmd, ctx),
        OperationKind::SetLock(cmd) => set_lock::apply(txn, cmd, ctx),
        OperationKind::WriteBehind(cmd) => write_behind::apply(txn, cmd, ctx),
        OperationKind::Delegate(cmd) => delegate::apply(txn, cmd, ctx),
        OperationKind::ReserveInodes(cmd) => reserve_inodes::apply(txn, *cmd, ctx),
        OperationKind::NoteReads(cmd) => note_reads::apply(txn, cmd, ctx),
    }
}
