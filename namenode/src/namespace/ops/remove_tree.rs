//! Removes a name and, for a directory, all below it: one step however large the tree is. The tree is
//! detached at once and swept in the background.
//!
//! Whether the caller may remove what lies deeper is the service's to check, in pages, before it proposes.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{OutcomeValue, RemoveTree};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::{delegation, inode, path, tree};
use crate::store::Txn;

/// Fails with `NotPermitted` for the root.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &RemoveTree,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    let mut entry = path::resolve_entry(txn, &ctx.caller, &cmd.location, ErrorCode::NotPermitted)?;
    let mut node = path::load(txn, entry.existing(&cmd.location)?)?;
    let directory = inode::is_directory(&node.inode);
    if entry.slash && !directory {
        return Err(path::failure(ErrorCode::NotADirectory, &cmd.location));
    }
    tree::check_may_remove(&ctx.caller, &cmd.location, &entry.parent, &node.inode)?;
    delegation::check(txn, &ctx.caller, &node)?;
    tree::remove_name(txn, ctx, &mut entry.parent, &entry.name, &node);
    if !directory {
        tree::drop_link(txn, ctx, &mut node);
    } else if tree::is_empty(&node.inode) {
        tree::drop_directory(txn, ctx, &mut node);
    } else {
        tree::detach(txn, ctx, &mut node);
    }
    Ok(inode::answer(&node))
}
