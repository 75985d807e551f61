//! Gives a session inode numbers that nobody else gets, for what it makes by itself in directories that are delegated to it.

use cairn_protocol::ErrorCode;
use cairn_protocol::messages::operation::{InodeRange, OutcomeKind, OutcomeValue, ReserveInodes};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::{self, Txn};

/// Most numbers at once.
const COUNT_MAX: u32 = 65_536;

/// What the session has left of an earlier range is used by nobody: numbers are never used again.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: ReserveInodes,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    if !(1..=COUNT_MAX).contains(&cmd.count) {
        let message = format!("{} inode numbers, 1 to {COUNT_MAX} are allowed", cmd.count);
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    let Some(mut session) = store::session::get(txn, ctx.session)? else {
        let message = format!("session {}", ctx.session);
        return Err(OpError::new(ErrorCode::SessionExpired, message));
    };
    let cluster = txn.cluster_mut();
    let first = cluster.next_inode;
    let end = first + u64::from(cmd.count);
    cluster.next_inode = end;
    (session.reserved_next, session.reserved_end) = (first, end);
    store::session::put(txn, ctx.session, &session);
    Ok(OutcomeKind::Inodes(InodeRange { first, end }).into())
}
