//! Removes a sealed chunk that nobody uses and whose grace is over. Readers that still hold its extents have fetched
//! newer ones by now; datanodes delete what the state does not name.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::ChunkId;

use super::done;
use crate::namespace::chunks;
use crate::namespace::command::{DropChunk, Outcome};
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::store::records::ChunkState;
use crate::store::{self, Txn};

const NS_PER_MS: u64 = 1_000_000;

/// Fails with `PreconditionFailed` if it is open, used, or died too recently.
pub(super) fn apply(txn: &mut Txn, cmd: &DropChunk, ctx: &Context) -> Result<Outcome, OpError> {
    let id = ChunkId(cmd.chunk);
    let chunk = chunks::load(txn, id)?;
    let settings = txn.cluster().settings.as_ref();
    let grace_ms = settings.map_or(0, |settings| settings.reclaim_grace_ms);
    let until_ns = chunk
        .settled_ns
        .saturating_add(grace_ms.saturating_mul(NS_PER_MS));
    let dead = chunk.state() == ChunkState::Sealed && chunk.live_bytes == 0;
    if !dead || ctx.stamp.time_ns < until_ns {
        let message = format!(
            "chunk {} has {} live bytes, or is not sealed, or its grace is not over",
            id.hex(),
            chunk.live_bytes
        );
        return Err(OpError::new(ErrorCode::PreconditionFailed, message));
    }
    for replica in &chunk.replicas {
        chunks::remove_replica_row(txn, replica.datanode.into(), id)?;
    }
    store::dead_chunk::delete(txn, id);
    store::chunk::delete(txn, id);
    let cluster = txn.cluster_mut();
    cluster.chunk_count = cluster.chunk_count.saturating_sub(1);
    cluster.chunk_bytes = cluster.chunk_bytes.saturating_sub(chunk.length);
    txn.touched_chunk(id);
    Ok(done(0, false))
}
