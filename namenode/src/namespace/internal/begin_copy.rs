//! Gives a copy of a sealed chunk its incarnation, so that what is left of an earlier life on the same datanode is never
//! taken for it.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::ChunkId;

use super::done;
use crate::namespace::chunks;
use crate::namespace::command::{BeginCopy, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::records::ChunkState;
use crate::store::{self, Txn};

/// Answers the incarnation. Fails with `PreconditionFailed` for an open chunk, `AlreadyExists` if the datanode has a
/// replica in the set.
pub(super) fn apply(txn: &mut Txn, cmd: &BeginCopy, _ctx: &Context) -> Result<Outcome, OpError> {
    let id = ChunkId(cmd.chunk);
    let chunk = chunks::load(txn, id)?;
    if chunk.state() != ChunkState::Sealed {
        let message = format!("chunk {} is not sealed", id.hex());
        return Err(OpError::new(ErrorCode::PreconditionFailed, message));
    }
    if store::datanode::get(txn, cmd.datanode.into())?.is_none() {
        return Err(OpError::new(
            ErrorCode::NotFound,
            format!("datanode {}", cmd.datanode),
        ));
    }
    chunks::check_no_replica(id, &chunk, cmd.datanode.into())?;
    Ok(done(chunks::next_incarnation(txn).0, false))
}
