//! Removes an empty directory.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{OutcomeValue, Rmdir};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::{delegation, inode, path, tree};
use crate::store::Txn;

/// Fails with `NotEmpty` if anything is in it, and with `InvalidArgument` for the root.
pub(super) fn apply(txn: &mut Txn, cmd: &Rmdir, ctx: &Context) -> Result<OutcomeValue, OpError> {
    let mut entry =
        path::resolve_entry(txn, &ctx.caller, &cmd.location, ErrorCode::InvalidArgument)?;
    let mut node = path::load(txn, entry.existing(&cmd.location)?)?;
    tree::check_may_remove(&ctx.caller, &cmd.location, &entry.parent, &node.inode)?;
    if !inode::is_directory(&node.inode) {
        return Err(path::failure(ErrorCode::NotADirectory, &cmd.location));
    }
    delegation::check(txn, &ctx.caller, &node)?;
    if !tree::is_empty(&node.inode) {
        return Err(path::failure(ErrorCode::NotEmpty, &cmd.location));
    }
    tree::remove_name(txn, ctx, &mut entry.parent, &entry.name, &node);
    tree::drop_directory(txn, ctx, &mut node);
    Ok(inode::answer(&node))
}
