//! A new token for a user. The first one brings the key that tokens are signed with. Each makes room by removing a few that are
//! over for good: that stays done also if there is no room yet.

use cairn_protocol::ErrorCode;

use super::done;
use super::rotate_keys::check_secret;
use crate::namespace::command::{IssueUserToken, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::records::UserTokenRecord;
use crate::store::{Txn, token_of_user, user_token};

/// Most tokens at a time.
const TOKENS_MAX: u64 = 100_000;

/// Most tokens of one user at a time. The superuser's are not counted.
pub(crate) const TOKENS_OF_USER_MAX: usize = 1_000;

/// A token, the one it was issued with, and so on: so many at most.
pub(crate) const GENERATIONS_MAX: usize = 16;

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
    let until_ms = cmd.until_ms.min(end_of_parent(txn, cmd.parent)?);
    sweep(txn, now_ms)?;
    let uid = cmd.bearer.uid;
    sweep_user(txn, uid, now_ms)?;
    if let Some(full) = full(txn, uid)? {
        return Ok(full);
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
        expires_at_ms: now_ms.saturating_add(cmd.lifetime_ms).min(until_ms),
        renewable_until_ms: now_ms
            .saturating_add(cmd.renewable_ms.max(cmd.lifetime_ms))
            .min(until_ms),
        revoked: false,
        parent: cmd.parent,
    };
    user_token::put(txn, id, &record);
    token_of_user::put(txn, uid, id);
    Ok(done(id, false))
}

/// When the token is over for good with which this one is issued.
fn end_of_parent(txn: &Txn, parent: u64) -> Result<u64, OpError> {
    if parent == 0 {
        return Ok(u64::MAX);
    }
    let (mut next, mut end_ms) = (parent, u64::MAX);
    // The new one is a generation, too.
    for _ in 1..GENERATIONS_MAX {
        let record = user_token::get(txn, next)?.filter(|record| !record.revoked);
        let Some(record) = record else {
            let message = format!("token {parent} is good no more");
            return Err(OpError::new(ErrorCode::NotPermitted, message));
        };
        end_ms = end_ms.min(record.renewable_until_ms);
        next = record.parent;
        if next == 0 {
            return Ok(end_ms);
        }
    }
    let message = format!("token {parent} is the last of {GENERATIONS_MAX} that begot each other");
    Err(OpError::new(ErrorCode::NotPermitted, message))
}

/// The refusal if there is no room. It is no error: what was removed would come back.
fn full(txn: &Txn, uid: u32) -> Result<Option<Outcome>, OpError> {
    let message = if txn.cluster().user_token_count >= TOKENS_MAX {
        format!("{TOKENS_MAX} tokens exist, no more are allowed")
    } else if uid != 0
        && token_of_user::oldest(txn, uid, TOKENS_OF_USER_MAX)?.len() == TOKENS_OF_USER_MAX
    {
        format!("user {uid} has {TOKENS_OF_USER_MAX} tokens, no more are allowed")
    } else {
        return Ok(None);
    };
    Ok(Some(Outcome {
        code: ErrorCode::Overloaded as u32,
        message,
        ..Outcome::default()
    }))
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
            over.push((id, record.bearer.uid));
        }
        Ok(true)
    })?;
    txn.cluster_mut().user_token_cursor = cursor;
    remove(txn, over);
    Ok(())
}

/// The same among the oldest of one user.
fn sweep_user(txn: &mut Txn, uid: u32, now_ms: u64) -> Result<(), OpError> {
    let mut over = Vec::new();
    for id in token_of_user::oldest(txn, uid, SWEEP_MAX)? {
        let record = user_token::get(txn, id)?;
        if record.is_some_and(|record| record.renewable_until_ms <= now_ms) {
            over.push((id, uid));
        }
    }
    remove(txn, over);
    Ok(())
}

fn remove(txn: &mut Txn, over: Vec<(u64, u32)>) {
    let cluster = txn.cluster_mut();
    cluster.user_token_count = cluster.user_token_count.saturating_sub(over.len() as u64);
    for (id, uid) in over {
        user_token::delete(txn, id);
        token_of_user::delete(txn, uid, id);
    }
}
