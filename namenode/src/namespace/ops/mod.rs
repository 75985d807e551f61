//! What clients ask for, one file per operation: `apply(txn, message, ctx)` answers an outcome or fails and
//! has changed nothing (the caller rolls back).

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

/// Applies one operation. `placement` is what the leader chose for a new chunk.
pub(super) fn apply(
    txn: &mut Txn,
    kind: &OperationKind,
    placement: Option<&Placement>,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
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
    }
}
