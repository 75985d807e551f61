//! Shares a range of one file with another: no data moves, holes stay holes.
//!
//! A range with many extents goes in steps from its start; each leaves the target right up to `length_done`, and beyond
//! it as it was.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{CloneRange, OutcomeKind, OutcomeValue};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::extents::{self, STEP_EXTENTS_MAX};
use crate::namespace::inode::{self, FILE_BYTES_MAX};
use crate::namespace::path::{self, Node};
use crate::namespace::permission::READ;
use crate::store::Txn;
use crate::store::records::ExtentRecord;

/// Fails with `InvalidArgument` if the ranges overlap in one file.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &CloneRange,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    let source = path::resolve_file(txn, &ctx.caller, &cmd.source)?;
    inode::check_access(&ctx.caller, &cmd.source, &source.inode, READ)?;
    let mut target = path::resolve_file(txn, &ctx.caller, &cmd.target)?;
    inode::check_write_and_clear_suid(ctx, &cmd.target, &mut target.inode)?;
    let length = cmd
        .length
        .min(source.inode.size.saturating_sub(cmd.source_offset));
    check_ranges(cmd, &source, &target, length)?;
    let length_done = share(txn, ctx, cmd, &source, &mut target, length)?;
    inode::store_content(txn, ctx, &mut target, 0);
    let mut outcome = inode::outcome(&target);
    outcome.length_done = length_done;
    outcome.done = length_done == length;
    Ok(OutcomeKind::Inode(outcome).into())
}

fn check_ranges(
    cmd: &CloneRange,
    source: &Node,
    target: &Node,
    length: u64,
) -> Result<(), OpError> {
    let end = cmd.target_offset.saturating_add(length);
    if end > FILE_BYTES_MAX {
        let message = format!("{end} bytes, a file has at most {FILE_BYTES_MAX}");
        return Err(OpError::new(ErrorCode::FileTooLarge, message));
    }
    let apart = cmd.target_offset >= cmd.source_offset + length || cmd.source_offset >= end;
    if source.id == target.id && !apart {
        let message = format!(
            "{length} bytes from {} and from {} of one file overlap",
            cmd.source_offset, cmd.target_offset
        );
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    Ok(())
}

/// Shares as much of the range as one step may. Answers how many bytes.
fn share(
    txn: &mut Txn,
    ctx: &Context,
    cmd: &CloneRange,
    source: &Node,
    target: &mut Node,
    length: u64,
) -> Result<u64, OpError> {
    let wanted = cmd.source_offset..cmd.source_offset + length;
    let found = extents::intersecting(txn, &source.inode, &wanted, STEP_EXTENTS_MAX + 1)?;
    // What this step can read, then what it can make room for, from the start of the range.
    let readable = found
        .get(STEP_EXTENTS_MAX)
        .map_or(length, |next| next.offset_in_file - cmd.source_offset);
    let room = cmd.target_offset..cmd.target_offset + readable;
    let cut = extents::cut(
        txn,
        ctx.stamp,
        target.id,
        &mut target.inode,
        &room,
        STEP_EXTENTS_MAX,
    )?;
    let length = cut.up_to - cmd.target_offset;
    let piece = cmd.source_offset..cmd.source_offset + length;
    for extent in found
        .iter()
        .filter_map(|extent| extents::part(extent, &piece))
    {
        let offset_in_file = extent.offset_in_file - cmd.source_offset + cmd.target_offset;
        let shared = ExtentRecord {
            offset_in_file,
            ..extent
        };
        extents::add_shared(txn, target.id, &mut target.inode, &shared)?;
    }
    if length > 0 {
        target.inode.size = target.inode.size.max(cmd.target_offset + length);
    }
    Ok(length)
}
