//! A new current token key. The present one stays good as the previous one; an older one is forgotten.

use cairn_protocol::ErrorCode;

use super::done;
use crate::namespace::command::{Outcome, RotateKeys};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::Txn;
use crate::store::records::TokenKeyRecord;

const SECRET_BYTES: usize = 32;

/// Answers the id of the current key. A command that was proposed under another current key changes nothing.
pub(super) fn apply(txn: &mut Txn, cmd: &RotateKeys, ctx: &Context) -> Result<Outcome, OpError> {
    check_secret(&cmd.secret)?;
    let Some(current) = txn.cluster().keys.first().cloned() else {
        return Err(OpError::new(
            ErrorCode::Unavailable,
            "the cluster is not founded yet",
        ));
    };
    if current.id != cmd.current_id {
        return Ok(done(current.id.into(), false));
    }
    let id = current.id.wrapping_add(1);
    let new = TokenKeyRecord {
        id,
        secret: cmd.secret.clone(),
        made_ns: ctx.stamp.time_ns,
    };
    txn.cluster_mut().keys = vec![new, current];
    Ok(done(id.into(), false))
}

/// Fails unless it is as long as a key must be.
pub(super) fn check_secret(secret: &[u8]) -> Result<(), OpError> {
    if secret.len() == SECRET_BYTES {
        return Ok(());
    }
    let message = format!("key of {} bytes, {SECRET_BYTES} are needed", secret.len());
    Err(OpError::new(ErrorCode::InvalidArgument, message))
}
