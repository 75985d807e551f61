//! Consistency checks in pages: the invariants over the tables, and whether every committed byte has a live replica.

use std::collections::BTreeSet;

use cairn_protocol::ids::{ChunkId, DatanodeId, Incarnation};
use cairn_protocol::messages::admin::{FsckProblem, FsckReply};
use cairn_protocol::rpc::RpcError;
use cairn_protocol::{ErrorCode, Failure};

use crate::namespace::invariants;
use crate::store::records::{ChunkRecord, ChunkState};
use crate::store::{Read, StoreError, chunk};

/// Records of one page unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: u32 = 10_000;
const LIMIT_MAX: u32 = 100_000;

/// Which pass a cursor belongs to: its first byte.
const PASS_INVARIANTS: u8 = 1;
const PASS_REPLICAS: u8 = 2;

/// What the leader knows of datanodes and replicas besides the committed state.
pub(crate) struct Evidence {
    pub alive: BTreeSet<DatanodeId>,
    /// Replicas that are known bad, short or gone.
    pub failed: BTreeSet<Incarnation>,
}

/// One page. The cursor of a page is opaque: a pass, then where in it.
pub(crate) fn page(
    read: &impl Read,
    cursor: &[u8],
    limit: u32,
    evidence: &Evidence,
) -> Result<FsckReply, RpcError> {
    let limit = if limit == 0 {
        LIMIT_DEFAULT
    } else {
        limit.min(LIMIT_MAX)
    } as usize;
    let (pass, rest) = cursor
        .split_first()
        .map_or((PASS_INVARIANTS, cursor), |(pass, rest)| (*pass, rest));
    let page = match pass {
        PASS_INVARIANTS => invariants_page(read, rest, limit),
        PASS_REPLICAS => replicas_page(read, rest, limit, evidence),
        _ => {
            return Err(
                Failure::new(ErrorCode::InvalidArgument, "a cursor that no fsck gave out").into(),
            );
        }
    };
    page.map_err(|error| RpcError::new(ErrorCode::Internal, error.to_string()))
}

fn invariants_page(read: &impl Read, cursor: &[u8], limit: usize) -> Result<FsckReply, StoreError> {
    let page = invariants::check_page(read, cursor, limit)?;
    let problems = page
        .problems
        .into_iter()
        .map(|problem| FsckProblem {
            kind: problem.invariant.to_owned(),
            message: problem.message,
            path: Vec::new(),
            severe: true,
        })
        .collect();
    let mut next = vec![PASS_INVARIANTS];
    next.extend_from_slice(&page.cursor);
    if page.cursor.is_empty() {
        next = vec![PASS_REPLICAS];
    }
    Ok(FsckReply {
        problems,
        cursor: next,
        inodes: page.inodes,
        chunks: 0,
        extents: page.extents,
    })
}

fn replicas_page(
    read: &impl Read,
    cursor: &[u8],
    limit: usize,
    evidence: &Evidence,
) -> Result<FsckReply, StoreError> {
    let start = <[u8; 8]>::try_from(cursor).map_or(0, u64::from_be_bytes);
    let mut reply = FsckReply::default();
    chunk::scan(read, ChunkId(start), &mut |id, record| {
        if reply.chunks as usize == limit {
            reply.cursor = vec![PASS_REPLICAS];
            reply.cursor.extend_from_slice(&id.0.to_be_bytes());
            return Ok(false);
        }
        reply.chunks += 1;
        reply
            .problems
            .extend(replica_problem(id, &record, evidence));
        Ok(true)
    })?;
    Ok(reply)
}

fn replica_problem(id: ChunkId, record: &ChunkRecord, evidence: &Evidence) -> Option<FsckProblem> {
    if record.live_bytes == 0 || record.state() == ChunkState::Open {
        return None;
    }
    let on_live_datanodes = record
        .replicas
        .iter()
        .filter(|replica| evidence.alive.contains(&DatanodeId(replica.datanode)));
    let reachable = on_live_datanodes.clone().count();
    let live = on_live_datanodes
        .filter(|replica| !evidence.failed.contains(&Incarnation(replica.incarnation)))
        .count();
    let asked = record.replication as usize;
    let (kind, severe, what) = match live {
        0 if record.replicas.is_empty() => ("lost", true, "no replica is left"),
        0 if reachable > 0 => (
            "damaged",
            true,
            "every replica that can be reached is bad, and served as far as it is good",
        ),
        0 => ("unavailable", true, "no datanode that holds it is alive"),
        live if live < asked => (
            "under-replicated",
            false,
            "copies are made when there are datanodes for them",
        ),
        _ => return None,
    };
    Some(FsckProblem {
        kind: kind.to_owned(),
        message: format!(
            "chunk {}: {live} of {asked} replicas live and good, {} bytes used: {what}",
            id.hex(),
            record.live_bytes
        ),
        path: Vec::new(),
        severe,
    })
}
