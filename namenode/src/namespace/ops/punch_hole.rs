//! Makes a range of a file read as zeros without data. Many extents go in steps, from the range's start; each step's
//! call is the same.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{OutcomeKind, OutcomeValue, PunchHole};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::extents::STEP_EXTENTS_MAX;
use crate::namespace::inode::{self, FILE_BYTES_MAX};
use crate::namespace::{extents, path};
use crate::store::Txn;

/// Fails with `InvalidArgument` for an empty range, `FileTooLarge` beyond the largest offset.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &PunchHole,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    if cmd.length == 0 {
        return Err(OpError::new(
            ErrorCode::InvalidArgument,
            "a hole of no bytes",
        ));
    }
    let end = cmd.offset.saturating_add(cmd.length);
    if end > FILE_BYTES_MAX {
        let message = format!("hole up to {end}, a file has at most {FILE_BYTES_MAX} bytes");
        return Err(OpError::new(ErrorCode::FileTooLarge, message));
    }
    let mut node = path::resolve_file(txn, &ctx.caller, &cmd.location)?;
    inode::check_write_and_clear_suid(ctx, &cmd.location, &mut node.inode)?;
    let range = cmd.offset..end;
    let cut = extents::cut(
        txn,
        ctx.stamp,
        node.id,
        &mut node.inode,
        &range,
        STEP_EXTENTS_MAX,
    )?;
    if cmd.extend {
        node.inode.size = node.inode.size.max(end);
    }
    inode::store_content(txn, ctx, &mut node, 0);
    let mut outcome = inode::outcome(&node);
    outcome.done = cut.up_to == end;
    Ok(OutcomeKind::Inode(outcome).into())
}
