//! Several operations in one step or not at all: preconditions first, then the operations, each seeing those
//! before it.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{
    Operation, OperationKind, OutcomeKind, OutcomeValue, Precondition, RemoveTree, Transaction,
    TransactionOutcome,
};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::{delegation, inode, path, tree};
use crate::store::Txn;

/// Most preconditions, and most operations.
pub(super) const ITEMS_MAX: usize = 1024;

/// A failure names the item that failed. The caller's savepoint undoes those before it.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &Transaction,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    for (what, count) in [
        ("preconditions", cmd.preconditions.len()),
        ("operations", cmd.operations.len()),
    ] {
        if count > ITEMS_MAX {
            let message = format!("{count} {what}, at most {ITEMS_MAX} are allowed");
            return Err(OpError::new(ErrorCode::InvalidArgument, message));
        }
    }
    for (index, precondition) in cmd.preconditions.iter().enumerate() {
        check(txn, precondition, ctx)
            .map_err(|error| error.within(&format!("precondition {index}")))?;
    }
    let mut outcomes = Vec::with_capacity(cmd.operations.len());
    for (index, operation) in cmd.operations.iter().enumerate() {
        let outcome = apply_one(txn, operation, ctx);
        outcomes.push(outcome.map_err(|error| error.within(&format!("operation {index}")))?);
    }
    Ok(OutcomeKind::Transaction(TransactionOutcome { outcomes }).into())
}

fn check(txn: &Txn, precondition: &Precondition, ctx: &Context) -> Result<(), OpError> {
    let location = &precondition.location;
    let unmet = |what: String| {
        let message = format!("{} {what}", path::show(location));
        Err(OpError::new(ErrorCode::PreconditionFailed, message))
    };
    let node = match path::resolve(txn, &ctx.caller, location, false) {
        Ok(node) => node,
        Err(OpError::Failure(failure)) if failure.code == ErrorCode::NotFound => {
            return match precondition {
                Precondition {
                    exists: Some(false),
                    ..
                } => Ok(()),
                Precondition {
                    exists: None,
                    version: None,
                    inode: None,
                    size: None,
                    ..
                } => Ok(()),
                Precondition { .. } => unmet("does not exist".into()),
            };
        }
        Err(error) => return Err(error),
    };
    delegation::check(txn, &ctx.caller, &node)?;
    if precondition.exists == Some(false) {
        return unmet("exists".into());
    }
    let found = inode::attributes(node.id, &node.inode);
    for (what, wanted, is) in [
        ("version", precondition.version, found.version),
        ("inode", precondition.inode, found.inode),
        ("size", precondition.size, found.size),
    ] {
        if let Some(wanted) = wanted
            && wanted != is
        {
            return unmet(format!("has {what} {is}, not {wanted}"));
        }
    }
    Ok(())
}

/// One operation among several.
pub(super) fn apply_one(
    txn: &mut Txn,
    operation: &Operation,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    let Some(kind) = &operation.kind else {
        return Err(OpError::new(
            ErrorCode::Malformed,
            "an operation of an unknown kind",
        ));
    };
    if !may_be_inside(kind) {
        let message =
            "transactions, sessions, claims, locks and chunks have no place in a transaction";
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    if let OperationKind::RemoveTree(cmd) = kind {
        check_remove_tree(txn, cmd, ctx)?;
    }
    let outcome = super::apply(txn, kind, None, ctx)?;
    match &outcome.kind {
        Some(OutcomeKind::Inode(inode)) if !inode.done => {
            let message = "it touches more than one log entry may";
            Err(OpError::new(ErrorCode::NotSupported, message))
        }
        _ => Ok(outcome),
    }
}

/// What lies in a tree is checked by the service before it proposes, and it does not look into transactions:
/// there, only the superuser, who may remove everything, removes a directory with entries.
fn check_remove_tree(txn: &Txn, cmd: &RemoveTree, ctx: &Context) -> Result<(), OpError> {
    if ctx.caller.uid == 0 {
        return Ok(());
    }
    let node = path::resolve(txn, &ctx.caller, &cmd.location, false)?;
    delegation::check(txn, &ctx.caller, &node)?;
    if inode::is_directory(&node.inode) && !tree::is_empty(&node.inode) {
        let message = format!("{}: a tree, in a transaction", path::show(&cmd.location));
        return Err(OpError::new(ErrorCode::NotSupported, message));
    }
    Ok(())
}

fn may_be_inside(kind: &OperationKind) -> bool {
    match kind {
        OperationKind::Mkdir(_)
        | OperationKind::Create(_)
        | OperationKind::Symlink(_)
        | OperationKind::Link(_)
        | OperationKind::Rename(_)
        | OperationKind::Unlink(_)
        | OperationKind::Rmdir(_)
        | OperationKind::RemoveTree(_)
        | OperationKind::SetAttributes(_)
        | OperationKind::Truncate(_)
        | OperationKind::PunchHole(_)
        | OperationKind::SetXattr(_)
        | OperationKind::RemoveXattr(_)
        | OperationKind::Commit(_)
        | OperationKind::Concat(_)
        | OperationKind::CloneRange(_) => true,
        OperationKind::AllocateChunk(_)
        | OperationKind::ReturnChunk(_)
        | OperationKind::SealChunk(_)
        | OperationKind::ClaimInode(_)
        | OperationKind::ReleaseInode(_)
        | OperationKind::CloseSession(_)
        | OperationKind::SetLock(_)
        | OperationKind::WriteBehind(_)
        | OperationKind::Delegate(_)
        | OperationKind::ReserveInodes(_)
        | OperationKind::NoteReads(_)
        | OperationKind::Transaction(_) => false,
    }
}
