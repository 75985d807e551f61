//! Every replica of the set has fsynced a chunk through a length.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::ChunkId;

use super::done;
use crate::namespace::chunks;
use crate::namespace::command::{AdvanceSynced, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::records::ChunkState;
use crate::store::{self, Txn};

/// Fails with `PreconditionFailed` if the set is not the one that confirmed. A lower length than known changes nothing.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &AdvanceSynced,
    _ctx: &Context,
) -> Result<Outcome, OpError> {
    let id = ChunkId(cmd.chunk);
    let mut chunk = chunks::load(txn, id)?;
    let (pairs, rest) = cmd.confirmed_incarnations.as_chunks::<2>();
    let confirmed = pairs
        .iter()
        .map(|&[datanode, incarnation]| (datanode, incarnation))
        .collect();
    if !rest.is_empty() || chunks::replica_set(&chunk) != confirmed || confirmed.is_empty() {
        let message = format!(
            "chunk {} has other replicas than those that confirmed",
            id.hex()
        );
        return Err(OpError::new(ErrorCode::PreconditionFailed, message));
    }
    // Beyond the seal there is nothing; an open chunk may be on disk beyond what is committed.
    let most = match chunk.state() {
        ChunkState::Sealed => chunk.length,
        ChunkState::Open | ChunkState::Idle => chunk.capacity,
    };
    let synced = cmd.synced_length.min(most);
    if synced > chunk.synced_length {
        chunk.synced_length = synced;
        store::chunk::put(txn, id, &chunk);
    }
    Ok(done(0, false))
}
