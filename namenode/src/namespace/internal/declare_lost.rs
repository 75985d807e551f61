//! The end of a sealed chunk is lost: every replica of its set is known, and none holds it. Files keep their extents, whose reads
//! fail; what the replicas do hold can be confirmed, copied and relied on again.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::ChunkId;

use super::done;
use crate::namespace::chunks;
use crate::namespace::command::{DeclareLost, Outcome};
use crate::namespace::error::OpError;
use crate::store::records::ChunkState;
use crate::store::{self, Txn};

/// Fails with `PreconditionFailed` unless the chunk is sealed at this epoch with exactly this replica set, and its replicas were to
/// be longer: a copy that joined meanwhile may have what the others lack.
pub(super) fn apply(txn: &mut Txn, cmd: &DeclareLost) -> Result<Outcome, OpError> {
    let id = ChunkId(cmd.chunk);
    let mut chunk = chunks::load(txn, id)?;
    let sealed_so = chunk.state() == ChunkState::Sealed && chunk.epoch == cmd.epoch;
    if !sealed_so || cmd.held_length == 0 || cmd.held_length >= chunk.held_length() {
        let message = format!(
            "chunk {} is not sealed at epoch {} with replicas of more than {} bytes",
            id.hex(),
            cmd.epoch,
            cmd.held_length
        );
        return Err(OpError::new(ErrorCode::PreconditionFailed, message));
    }
    chunks::check_set(id, &chunk, &cmd.decided_on)?;
    chunk.lost_bytes = chunk.length - cmd.held_length;
    chunk.synced_length = chunk.synced_length.min(cmd.held_length);
    store::chunk::put(txn, id, &chunk);
    txn.touched_chunk(id);
    Ok(done(0, false))
}
