//! Ends a session whose keep-alives stopped, in steps if it left much behind.

use cairn_protocol::ids::SessionId;

use super::done;
use crate::namespace::command::{ExpireSession, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::retry;
use crate::store::Txn;

/// Fails with `SessionExpired` if it is gone already; `more` asks for the same command again.
pub(super) fn apply(txn: &mut Txn, cmd: &ExpireSession, ctx: &Context) -> Result<Outcome, OpError> {
    let more = retry::end(txn, ctx, SessionId(cmd.session))?;
    Ok(done(0, more))
}
