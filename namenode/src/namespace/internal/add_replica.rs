//! A copy that its datanode has on disk, and confirmed with the seal's epoch and length, joins the replica set.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, DatanodeId};

use super::done;
use crate::namespace::chunks;
use crate::namespace::command::{AddReplica, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::records::{ChunkState, ReplicaRecord};
use crate::store::{self, Txn};

/// Fails with `PreconditionFailed` unless the chunk is sealed exactly so and the set is the one that this was decided on,
/// `AlreadyExists` if the datanode has a replica in
/// the set, `NotFound` if the chunk or the datanode is gone.
pub(super) fn apply(txn: &mut Txn, cmd: &AddReplica, _ctx: &Context) -> Result<Outcome, OpError> {
    let id = ChunkId(cmd.chunk);
    let datanode = DatanodeId(cmd.datanode);
    let mut chunk = chunks::load(txn, id)?;
    let sealed_so = chunk.state() == ChunkState::Sealed
        && (chunk.epoch, chunk.held_length()) == (cmd.epoch, cmd.length);
    // The counter names every life once: a number that was never given out is not one.
    if !sealed_so || cmd.incarnation == 0 || cmd.incarnation >= txn.cluster().next_incarnation {
        let message = format!(
            "chunk {} is not sealed at epoch {} with {} bytes, or {} is no incarnation",
            id.hex(),
            cmd.epoch,
            cmd.length,
            cmd.incarnation
        );
        return Err(OpError::new(ErrorCode::PreconditionFailed, message));
    }
    if store::datanode::get(txn, datanode)?.is_none() {
        return Err(OpError::new(
            ErrorCode::NotFound,
            format!("datanode {datanode}"),
        ));
    }
    chunks::check_no_replica(id, &chunk, datanode)?;
    // A leader that was deposed and leads again may still have proposals of its former term waiting. In between, another leader may
    // have made up for the missing replica, and deleted this one because nobody had heard of it.
    if !cmd.decided_on.is_empty() {
        chunks::check_set(id, &chunk, &cmd.decided_on)?;
    }
    chunk.replicas.push(ReplicaRecord {
        datanode: datanode.0,
        incarnation: cmd.incarnation,
    });
    chunks::add_replica_row(txn, datanode, id)?;
    store::chunk::put(txn, id, &chunk);
    txn.touched_chunk(id);
    Ok(done(0, false))
}
