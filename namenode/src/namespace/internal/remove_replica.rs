//! A replica leaves the set. Which may leave is the leader's to judge (I9); its datanode deletes it only afterwards.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::ChunkId;

use super::done;
use crate::namespace::chunks;
use crate::namespace::command::{Outcome, RemoveReplica};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::{self, Txn};

/// Fails with `NoReplica` unless exactly this incarnation is in the set, `PreconditionFailed` if the set is not the one that this
/// was decided on: two decisions never add up to a loss.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &RemoveReplica,
    _ctx: &Context,
) -> Result<Outcome, OpError> {
    let id = ChunkId(cmd.chunk);
    let mut chunk = chunks::load(txn, id)?;
    let at = chunk.replicas.iter().position(|replica| {
        (replica.datanode, replica.incarnation) == (cmd.datanode, cmd.incarnation)
    });
    let Some(at) = at else {
        let message = format!(
            "incarnation {} of chunk {} on datanode {}",
            cmd.incarnation,
            id.hex(),
            cmd.datanode
        );
        return Err(OpError::new(ErrorCode::NoReplica, message));
    };
    if !cmd.decided_on.is_empty() {
        chunks::check_set(id, &chunk, &cmd.decided_on)?;
    }
    chunk.replicas.remove(at);
    chunks::remove_replica_row(txn, cmd.datanode.into(), id)?;
    store::chunk::put(txn, id, &chunk);
    txn.touched_chunk(id);
    Ok(done(0, false))
}
