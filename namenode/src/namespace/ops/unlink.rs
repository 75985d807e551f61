//! Removes a name of anything but a directory. Without names, the inode is kept for those who have it open.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{OutcomeValue, Unlink};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::{inode, path, tree};
use crate::store::Txn;

/// Fails with `IsADirectory` for a directory.
pub(super) fn apply(txn: &mut Txn, cmd: &Unlink, ctx: &Context) -> Result<OutcomeValue, OpError> {
    let mut entry = path::resolve_entry(txn, &ctx.caller, &cmd.location, ErrorCode::IsADirectory)?;
    let mut node = path::load(txn, entry.existing(&cmd.location)?)?;
    let directory = inode::is_directory(&node.inode);
    if entry.slash && !directory {
        return Err(path::failure(ErrorCode::NotADirectory, &cmd.location));
    }
    tree::check_may_remove(&ctx.caller, &cmd.location, &entry.parent, &node.inode)?;
    if directory {
        return Err(path::failure(ErrorCode::IsADirectory, &cmd.location));
    }
    tree::remove_name(txn, ctx, &mut entry.parent, &entry.name, &node);
    tree::drop_link(txn, ctx, &mut node);
    Ok(inode::answer(&node))
}
