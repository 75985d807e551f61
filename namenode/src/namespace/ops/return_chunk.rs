//! Gives a chunk back after a clean end: nothing is in flight and every replica is exactly `length` long. The next
//! writer goes on there; a chunk that is nearly full is sealed instead.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::ChunkId;
use cairn_protocol::messages::operation::{Done, OutcomeKind, OutcomeValue, ReturnChunk};

use crate::namespace::chunks;
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::Txn;

/// Fails with `InvalidArgument` for a length below what is committed or where the epoch began, or above the capacity.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &ReturnChunk,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    let id = ChunkId(cmd.chunk);
    let mut chunk = chunks::load(txn, id)?;
    chunks::check_writer(id, &chunk, ctx.session, cmd.epoch.into())?;
    let least = chunk.length.max(chunk.epoch_start);
    if cmd.length < least || cmd.length > chunk.capacity {
        let message = format!(
            "chunk {} cannot be {} bytes long: {least} are committed or written before, {} is its capacity",
            id.hex(),
            cmd.length,
            chunk.capacity
        );
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    chunks::take_back(txn, ctx.stamp, id, &mut chunk, cmd.length);
    Ok(OutcomeKind::Done(Done {}).into())
}
