//! Revokes a user's token, or makes it good for longer. What was revoked stays so.

use cairn_protocol::ErrorCode;

use super::done;
use crate::namespace::command::{ChangeUserToken, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::{Txn, user_token};

/// What was revoked is kept for so long, so that people can see it, and then makes room.
const REVOKED_KEPT_MS: u64 = 3_600_000;

/// Answers the token's number.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &ChangeUserToken,
    ctx: &Context,
) -> Result<Outcome, OpError> {
    let Some(mut record) = user_token::get(txn, cmd.id)? else {
        let message = format!("token {}", cmd.id);
        return Err(OpError::new(ErrorCode::NotFound, message));
    };
    let now_ms = ctx.stamp.time_ns / 1_000_000;
    if cmd.lifetime_ms == 0 {
        record.revoked = true;
        let forgotten_ms = now_ms.saturating_add(REVOKED_KEPT_MS);
        record.renewable_until_ms = record.renewable_until_ms.min(forgotten_ms);
        record.expires_at_ms = record.expires_at_ms.min(forgotten_ms);
    } else if record.revoked {
        let message = format!("token {} was revoked", cmd.id);
        return Err(OpError::new(ErrorCode::NotPermitted, message));
    } else {
        let wished = now_ms.saturating_add(cmd.lifetime_ms);
        // A renewal never takes time away.
        record.expires_at_ms = wished
            .min(record.renewable_until_ms)
            .max(record.expires_at_ms);
    }
    user_token::put(txn, cmd.id, &record);
    Ok(done(cmd.id, false))
}
