//! Takes notes of when inodes were read. Each is worth nothing by itself, so one that does not fit is passed over.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{Done, NoteReads, OutcomeKind, OutcomeValue, ReadNote};

use super::transaction::ITEMS_MAX;
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::permission::READ;
use crate::namespace::{delegation, inode};
use crate::store::{self, Txn};

/// Changes nothing but times of access: a read makes no new version of anything.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &NoteReads,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    let count = cmd.reads.len();
    if count > ITEMS_MAX {
        let message = format!("{count} notes of reads, at most {ITEMS_MAX} are allowed");
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    for read in &cmd.reads {
        note(txn, read, ctx)?;
    }
    Ok(OutcomeKind::Done(Done {}).into())
}

fn note(txn: &mut Txn, read: &ReadNote, ctx: &Context) -> Result<(), OpError> {
    let id = InodeId(read.inode);
    let Some(mut record) = store::inode::get(txn, id)? else {
        return Ok(());
    };
    let location = Location {
        inode: id.0,
        path: Vec::new(),
    };
    let atime_ns = read.atime_ns.min(ctx.stamp.time_ns);
    // Somebody has said since what it is to be.
    let is_known = inode::atime_ns(&record) == read.before_ns && read.before_ns < atime_ns;
    let may_read = inode::check_access(&ctx.caller, &location, &record, READ).is_ok();
    let ours = record.delegated_to == ctx.caller.session;
    if is_known && may_read && (ours || !delegation::stands(txn, record.delegated_to)?) {
        inode::set_atime(&mut record, atime_ns);
        store::inode::put(txn, id, &record);
    }
    Ok(())
}
