//! Cuts or extends a file. To zero is one step; else a file with many extents is cut from its end in steps, each of which leaves a
//! shorter file that is right in itself.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{OutcomeKind, OutcomeValue, Truncate};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::inode::{self, FILE_BYTES_MAX};
use crate::namespace::{extents, path};
use crate::store::Txn;

/// Fails with `FileTooLarge` beyond the largest offset.
pub(super) fn apply(txn: &mut Txn, cmd: &Truncate, ctx: &Context) -> Result<OutcomeValue, OpError> {
    if cmd.size > FILE_BYTES_MAX {
        let message = format!("{} bytes, a file has at most {FILE_BYTES_MAX}", cmd.size);
        return Err(OpError::new(ErrorCode::FileTooLarge, message));
    }
    let mut node = path::resolve_file(txn, &ctx.caller, &cmd.location)?;
    inode::check_write_and_clear_suid(ctx, &cmd.location, &mut node.inode)?;
    let done = if cmd.size == 0 {
        extents::drop_content(txn, ctx, node.id, &mut node.inode)?;
        true
    } else {
        extents::set_size(txn, ctx.stamp, node.id, &mut node.inode, cmd.size)?
    };
    inode::store_content(txn, ctx, &mut node, 0);
    let mut outcome = inode::outcome(&node);
    outcome.done = done;
    Ok(OutcomeKind::Inode(outcome).into())
}
