//! Delegates directories to the session, or takes delegations back that it does not need any more.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::operation::{Delegate, Done, OutcomeKind, OutcomeValue};

use super::transaction::ITEMS_MAX;
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::permission::{self, EXECUTE, WRITE};
use crate::namespace::{delegation, inode, path::Node};
use crate::store::{self, Txn};

/// Fails with `Delegated` if another session has one of them, and with `NotSupported` if one cannot be delegated.
pub(super) fn apply(txn: &mut Txn, cmd: &Delegate, ctx: &Context) -> Result<OutcomeValue, OpError> {
    for count in [cmd.take.len(), cmd.give_back.len()] {
        if count > ITEMS_MAX {
            let message = format!("{count} directories, at most {ITEMS_MAX} are allowed");
            return Err(OpError::new(ErrorCode::InvalidArgument, message));
        }
    }
    for &id in &cmd.give_back {
        give_back(txn, ctx, InodeId(id))?;
    }
    for &id in &cmd.take {
        take(txn, ctx, InodeId(id))?;
    }
    Ok(OutcomeKind::Done(Done {}).into())
}

fn give_back(txn: &mut Txn, ctx: &Context, id: InodeId) -> Result<(), OpError> {
    if let Some(mut record) = store::inode::get(txn, id)?
        && record.delegated_to == ctx.session.0
    {
        record.delegated_to = 0;
        store::inode::put_unnoticed(txn, id, &record);
    }
    Ok(())
}

/// Only for its owner, who may change names in it: nobody else is to keep others waiting.
fn take(txn: &mut Txn, ctx: &Context, id: InodeId) -> Result<(), OpError> {
    let failed = |code| OpError::new(code, format!("directory inode {id}"));
    let Some(record) = store::inode::get(txn, id)? else {
        return Err(failed(ErrorCode::NotFound));
    };
    if !inode::is_directory(&record) {
        return Err(failed(ErrorCode::NotADirectory));
    }
    if record.nlink == 0 {
        return Err(failed(ErrorCode::NotFound));
    }
    let may = permission::owns(&ctx.caller, &record)
        && permission::allows(&ctx.caller, &record, WRITE | EXECUTE);
    if !may {
        return Err(failed(ErrorCode::PermissionDenied));
    }
    if !delegation::is_possible(&record) {
        return Err(failed(ErrorCode::NotSupported));
    }
    let mut node = Node { id, inode: record };
    if node.inode.delegated_to == ctx.session.0 {
        return Ok(());
    }
    delegation::check(txn, &ctx.caller, &node)?;
    node.inode.delegated_to = ctx.session.0;
    store::inode::put_unnoticed(txn, id, &node.inode);
    delegation::note_taken(txn, &node);
    Ok(())
}
