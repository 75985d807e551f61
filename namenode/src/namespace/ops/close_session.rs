//! Ends the session at its client's wish. Its outcome cannot be remembered: a retry finds `SessionExpired`,
//! which means the same.

use cairn_protocol::messages::operation::{Done, OutcomeKind, OutcomeValue};

use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::retry;
use crate::store::Txn;

/// What is too much for one entry is cleaned up by `ExpireSession` commands that follow.
pub(super) fn apply(txn: &mut Txn, ctx: &Context) -> Result<OutcomeValue, OpError> {
    retry::end(txn, ctx, ctx.session)?;
    Ok(OutcomeKind::Done(Done {}).into())
}
