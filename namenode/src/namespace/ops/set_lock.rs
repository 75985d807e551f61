//! Locks or unlocks a range of a file for one owner, in one step; a lock that forbids it is an answer, not a failure.

use cairn_protocol::messages::lock::{LockMode, SetLock};
use cairn_protocol::messages::operation::{OutcomeKind, OutcomeValue};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::locks;
use crate::store::{self, Txn};

/// Unlocking needs no permission, and finds nothing to do where the file is gone: its locks went with it.
pub(super) fn apply(txn: &mut Txn, cmd: &SetLock, ctx: &Context) -> Result<OutcomeValue, OpError> {
    let wish = locks::wish(ctx.session, cmd)?;
    if wish.range.mode != LockMode::Unlocked {
        let record = store::inode::get(txn, wish.inode)?;
        locks::check_may_lock(&ctx.caller, &wish, record.as_ref())?;
    }
    Ok(OutcomeKind::Lock(locks::set(txn, &wish)?).into())
}
