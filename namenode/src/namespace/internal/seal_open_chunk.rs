//! The leader ends an open or idle chunk at its committed length: a replica failed, its writer is gone, or it was idle for long.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::ChunkId;

use super::done;
use crate::namespace::chunks;
use crate::namespace::command::{Outcome, SealOpenChunk};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::Txn;

/// Fails with `StaleEpoch` if the chunk was handed on meanwhile: its next writer did nothing wrong. One that is sealed
/// at this epoch already is as it should be.
pub(super) fn apply(txn: &mut Txn, cmd: &SealOpenChunk, ctx: &Context) -> Result<Outcome, OpError> {
    let id = ChunkId(cmd.chunk);
    let mut chunk = chunks::load(txn, id)?;
    if chunk.epoch != cmd.epoch {
        let message = format!("chunk {} is at epoch {}", id.hex(), chunk.epoch);
        return Err(OpError::new(ErrorCode::StaleEpoch, message));
    }
    chunks::seal(txn, ctx.stamp, id, &mut chunk);
    Ok(done(0, false))
}
