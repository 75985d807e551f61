//! Gives a session a chunk to append to: an idle one at its next epoch, or a fresh one where the leader placed it.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::ChunkId;
use cairn_protocol::messages::operation::{AllocateChunk, OutcomeKind, OutcomeValue};

use crate::namespace::chunks::{self, NewChunk};
use crate::namespace::command::Placement;
use crate::namespace::context::Context;
use crate::namespace::error::OpError;
use crate::namespace::inode::REPLICATION_MAX;
use crate::store::records::ChunkState;
use crate::store::{self, Txn};

/// Fails with `NotEnoughDatanodes` if the leader found none.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &AllocateChunk,
    placement: Option<&Placement>,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    let replication = replication(txn, cmd)?;
    let Some(placement) = placement else {
        let message = "a chunk is allocated by the leader's placement, not inside a transaction";
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    };
    chunks::check_open_limit(txn, ctx.session)?;
    let reused = ChunkId(placement.reuse_chunk);
    let idle = store::chunk::get(txn, reused)?.filter(|chunk| {
        // What it has counts, not only what it asks for: new bytes must not begin with fewer replicas than a fresh
        // chunk would give them.
        chunk.state() == ChunkState::Idle
            && chunk.replication >= replication
            && chunk.replicas.len() >= placement.datanodes.len()
    });
    let (id, chunk) = match idle {
        Some(mut chunk) => {
            chunks::hand_on(txn, ctx.session, reused, &mut chunk);
            (reused, chunk)
        }
        // None was wanted, or somebody else got it meanwhile.
        None => {
            let datanodes = &placement.datanodes;
            let new = NewChunk {
                session: ctx.session,
                replication,
                datanodes,
            };
            chunks::create(txn, ctx.stamp, &new)?
        }
    };
    Ok(OutcomeKind::Chunk(chunks::grant(txn, id, &chunk)?).into())
}

fn replication(txn: &Txn, cmd: &AllocateChunk) -> Result<u32, OpError> {
    if cmd.replication > REPLICATION_MAX {
        let message = format!(
            "replication {}, at most {REPLICATION_MAX} is allowed",
            cmd.replication
        );
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    let default = txn
        .cluster()
        .settings
        .as_ref()
        .map_or(1, |settings| settings.replication);
    Ok(if cmd.replication == 0 {
        default
    } else {
        cmd.replication
    })
}
