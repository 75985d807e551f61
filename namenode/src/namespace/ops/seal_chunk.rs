//! Ends a chunk at its committed length, as its writer asks after a failure. The datanodes that the writer names are
//! evidence for the leader's controllers, not part of the state.

use cairn_protocol::ids::ChunkId;
use cairn_protocol::messages::operation::{Done, OutcomeKind, OutcomeValue, SealChunk};

use crate::namespace::chunks;
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::Txn;
use crate::store::records::ChunkState;

/// A chunk that was sealed at this epoch already is as the writer wants it.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &SealChunk,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    let id = ChunkId(cmd.chunk);
    let mut chunk = chunks::load(txn, id)?;
    if chunk.state() != ChunkState::Sealed || chunk.epoch != cmd.epoch {
        chunks::check_writer(id, &chunk, ctx.session, cmd.epoch.into())?;
        chunks::seal(txn, ctx.stamp, id, &mut chunk);
    }
    Ok(OutcomeKind::Done(Done {}).into())
}
