//! An open chunk for the leader's compaction: no session writes to it, and only `Repoint` commits its bytes.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::SessionId;

use super::done;
use crate::namespace::chunks::{self, NewChunk};
use crate::namespace::command::{AllocateCompactionChunk, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::inode::REPLICATION_MAX;
use crate::store::Txn;

/// Answers the chunk's id.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &AllocateCompactionChunk,
    ctx: &Context,
) -> Result<Outcome, OpError> {
    let replication = cmd.replication;
    if !(1..=REPLICATION_MAX).contains(&replication) {
        let message = format!("replication {replication}, 1 to {REPLICATION_MAX} is allowed");
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    let new = NewChunk {
        session: SessionId(0),
        replication,
        datanodes: &cmd.datanodes,
    };
    let (id, _) = chunks::create(txn, ctx.stamp, &new)?;
    Ok(done(id.0, false))
}
