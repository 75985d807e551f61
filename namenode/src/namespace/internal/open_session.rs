//! Registers a session. A repeated nonce gets the session that it got before, so that a lost answer costs
//! nothing.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::SessionId;

use super::done;
use crate::namespace::command::{OpenSession, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::retry::FIRST_SEQUENCE;
use crate::store::records::SessionRecord;
use crate::store::{self, Txn};

const NONCE_BYTES: usize = 16;
const CLIENT_NAME_BYTES_MAX: usize = 255;
const HOST_BYTES_MAX: usize = 255;

/// Most sessions at a time.
const SESSIONS_MAX: u64 = 100_000;

/// Answers the session's id.
pub(super) fn apply(txn: &mut Txn, cmd: &OpenSession, ctx: &Context) -> Result<Outcome, OpError> {
    if txn.cluster().cluster_id.is_empty() {
        return Err(OpError::new(
            ErrorCode::Unavailable,
            "the cluster is not founded yet",
        ));
    }
    if cmd.nonce.len() != NONCE_BYTES {
        let message = format!(
            "nonce of {} bytes, {NONCE_BYTES} are needed",
            cmd.nonce.len()
        );
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    if cmd.owner.len() > CLIENT_NAME_BYTES_MAX {
        let message = "an owner has at most 255 bytes";
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    if cmd.client_name.len() > CLIENT_NAME_BYTES_MAX {
        let length = cmd.client_name.len();
        let message =
            format!("client name of {length} bytes, at most {CLIENT_NAME_BYTES_MAX} are allowed");
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    if cmd.host.len() > HOST_BYTES_MAX {
        let length = cmd.host.len();
        let message =
            format!("client's host of {length} bytes, at most {HOST_BYTES_MAX} are allowed");
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    if let Some(id) = store::session_nonce::get(txn, &cmd.nonce)? {
        return Ok(done(id.0, false));
    }
    let cluster = txn.cluster_mut();
    if cluster.session_count >= SESSIONS_MAX {
        let message = format!("{SESSIONS_MAX} sessions are open, no more are allowed");
        return Err(OpError::new(ErrorCode::Overloaded, message));
    }
    let id = SessionId(cluster.next_session);
    cluster.next_session += 1;
    cluster.session_count += 1;
    let session = SessionRecord {
        client_name: cmd.client_name.clone(),
        nonce: cmd.nonce.clone(),
        opened_ns: ctx.stamp.time_ns,
        lowest_unanswered: FIRST_SEQUENCE,
        highest_sequence: 0,
        pruned_below: FIRST_SEQUENCE,
        ended: false,
        owner: cmd.owner.clone(),
        lock_count: 0,
        host: cmd.host.clone(),
        reserved_next: 0,
        reserved_end: 0,
    };
    store::session::put(txn, id, &session);
    store::session_nonce::put(txn, &cmd.nonce, id);
    Ok(done(id.0, false))
}
