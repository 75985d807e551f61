//! A new token for a user. The first one brings the key that tokens are signed with. Each makes room by removing a few that are
//! over for good.

use cairn_protocol::ErrorCode;

use super::done;
use super::rotate_keys::check_secret;
use crate::namespace::command::{IssueUserToken, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::records::UserTokenRecord;
use crate::store::{Txn, user_token};

/// Most tokens at a time.
const TOKENS_MAX: u64 = 100_000;

/// Longest name of a user.
const USER_BYTES_MAX: usize = 255;

/// Tokens that are looked at, and removed if they are over.
const SWEEP_MAX: usize = 32;

/// Answers the token's number.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &IssueUserToken,
    ctx: &Context,
) -> Result<Outcome, OpError> {
    check_secret(&cmd.secret)?;
    if txn.cluster().cluster_id.is_empty() {
        let message = "the cluster is not founded yet";
        return Err(OpError::new(ErrorCode::Unavailable, message));
    }
    if cmd.user.len() > USER_BYTES_MAX {
        let message = format!("a user's name has at most {USER_BYTES_MAX} bytes");
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    let now_ms = ctx.stamp.time_ns / 1_000_000;
    sweep(txn, now_ms)?;
    if txn.cluster().user_token_count >= TOKENS_MAX {
        let message = format!("{TOKENS_MAX} tokens exist, no more are allowed");
        return Err(OpError::new(ErrorCode::Overloaded, message));
    }
    let cluster = txn.cluster_mut();
    if cluster.user_token_secret.is_empty() {
        cluster.user_token_secret.clone_from(&cmd.secret);
    }
    cluster.last_user_token += 1;
    cluster.user_token_count += 1;
    let id = cluster.last_user_token;
    let record = UserTokenRecord {
        user: cmd.user.clone(),
        bearer: cmd.bearer.clone(),
        acts_for_others: cmd.acts_for_others,
        issued_at_ms: now_ms,
        expires_at_ms: now_ms.saturating_add(cmd.lifetime_ms).min(cmd.until_ms),
        renewable_until_ms: now_ms
            .saturating_add(cmd.renewable_ms.max(cmd.lifetime_ms))
            .min(cmd.until_ms),
        revoked: false,
    };
    user_token::put(txn, id, &record);
    Ok(done(id, false))
}

/// Removes some of those that no renewal brings back, going round.
fn sweep(txn: &mut Txn, now_ms: u64) -> Result<(), OpError> {
    let mut seen = 0;
    let mut over = Vec::new();
    let mut cursor = 0;
    user_token::scan(txn, txn.cluster().user_token_cursor, &mut |id, record| {
        if seen == SWEEP_MAX {
            cursor = id;
            return Ok(false);
        }
        seen += 1;
        if record.renewable_until_ms <= now_ms {
            over.push(id);
        }
        Ok(true)
    })?;
    let cluster = txn.cluster_mut();
    cluster.user_token_cursor = cursor;
    cluster.user_token_count = cluster.user_token_count.saturating_sub(over.len() as u64);
    for id in over {
        user_token::delete(txn, id);
    }
    Ok(())
}
