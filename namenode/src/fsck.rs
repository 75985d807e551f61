//! Consistency checks in pages: the invariants over the tables, and whether every committed byte has a live replica.

use std::collections::BTreeSet;

use cairn_protocol::ids::{ChunkId, DatanodeId, Incarnation, InodeId};
use cairn_protocol::messages::admin::{FsckProblem, FsckReply};
use cairn_protocol::rpc::RpcError;
use cairn_protocol::{ErrorCode, Failure};

use crate::namespace::invariants;
use crate::store::chunk_use::UseOwner;
use crate::store::records::{ChunkRecord, ChunkState};
use crate::store::{Read, StoreError, chunk, chunk_use, dirent, inode, map_owner};

/// Records of one page unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: u32 = 10_000;
const LIMIT_MAX: u32 = 100_000;

/// Problems after which a page ends: each may have cost a look through a directory.
const PROBLEMS_MAX: usize = 1_000;
/// Files of one chunk that are named.
const FILES_MAX: usize = 1_000;
/// Names of a directory that are looked at for a file's, and the depth of a path.
const NAMES_MAX: usize = 100_000;
const DEPTH_MAX: usize = 2_048;

/// Which pass a cursor belongs to: its first byte.
const PASS_INVARIANTS: u8 = 1;
const PASS_REPLICAS: u8 = 2;

/// What the leader knows of datanodes and replicas besides the committed state.
pub(crate) struct Evidence {
    pub alive: BTreeSet<DatanodeId>,
    /// Replicas that are known bad, short or gone.
    pub failed: BTreeSet<Incarnation>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// Records to check at most; 0 leaves it to us.
    pub limit: u32,
    /// What is being repaired is told for each file, too, not only once for its chunk.
    pub name_files: bool,
}

/// One page. The cursor of a page is opaque: a pass, then where in it.
pub(crate) fn page(
    read: &impl Read,
    cursor: &[u8],
    wish: Wish,
    evidence: &Evidence,
) -> Result<FsckReply, RpcError> {
    let limit = match wish.limit {
        0 => LIMIT_DEFAULT,
        limit => limit.min(LIMIT_MAX),
    } as usize;
    let (pass, rest) = cursor
        .split_first()
        .map_or((PASS_INVARIANTS, cursor), |(pass, rest)| (*pass, rest));
    let page = match pass {
        PASS_INVARIANTS => invariants_page(read, rest, limit),
        PASS_REPLICAS => replicas_page(read, rest, (limit, wish.name_files), evidence),
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
    (limit, name_files): (usize, bool),
    evidence: &Evidence,
) -> Result<FsckReply, StoreError> {
    let start = <[u8; 8]>::try_from(cursor).map_or(0, u64::from_be_bytes);
    let mut reply = FsckReply::default();
    chunk::scan(read, ChunkId(start), &mut |id, record| {
        if reply.chunks as usize == limit || reply.problems.len() >= PROBLEMS_MAX {
            reply.cursor = vec![PASS_REPLICAS];
            reply.cursor.extend_from_slice(&id.0.to_be_bytes());
            return Ok(false);
        }
        reply.chunks += 1;
        if record.live_bytes == 0 {
            return Ok(true);
        }
        if let Some(problem) = loss(id, &record) {
            per_file(read, id, record.held_length(), problem, &mut reply.problems)?;
        }
        match replica_problem(id, &record, evidence) {
            Some(problem) if problem.severe || name_files => {
                per_file(read, id, 0, problem, &mut reply.problems)?;
            }
            problem => reply.problems.extend(problem),
        }
        Ok(true)
    })?;
    Ok(reply)
}

/// The same problem for each file that uses bytes of the chunk from `start` on; nothing if none does.
fn per_file(
    read: &impl Read,
    id: ChunkId,
    start: u64,
    problem: FsckProblem,
    problems: &mut Vec<FsckProblem>,
) -> Result<(), StoreError> {
    let mut owners = BTreeSet::new();
    let mut is_cut = false;
    chunk_use::scan(read, id, 0, &mut |chunk_use| {
        if chunk_use.end() > start {
            owners.insert(chunk_use.owner);
        }
        is_cut = owners.len() == FILES_MAX;
        Ok(!is_cut)
    })?;
    for owner in owners {
        let inode = match owner {
            UseOwner::Inode(inode) => inode,
            UseOwner::Map(map) => match map_owner::get(read, map)? {
                Some(owner) => InodeId(owner.inode),
                None => continue,
            },
        };
        problems.push(FsckProblem {
            path: path_of(read, inode)?,
            ..problem.clone()
        });
    }
    if is_cut {
        problems.push(FsckProblem {
            message: format!("{}; more than {FILES_MAX} files use it", problem.message),
            ..problem
        });
    }
    Ok(())
}

/// A path of the inode; empty if it has no name, or none that a look at its last directory finds.
fn path_of(read: &impl Read, inode: InodeId) -> Result<Vec<u8>, StoreError> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut here = inode;
    while here != InodeId::ROOT {
        let Some(record) = inode::get(read, here)? else {
            return Ok(Vec::new());
        };
        let parent = InodeId(record.parent);
        let mut found = None;
        let mut looks = 0;
        dirent::scan(read, parent, b"", &mut |name, entry| {
            if entry.inode == here.0 {
                found = Some(name.to_vec());
            }
            looks += 1;
            Ok(found.is_none() && looks < NAMES_MAX)
        })?;
        match found {
            Some(name) if names.len() < DEPTH_MAX => names.push(name),
            _ => return Ok(Vec::new()),
        }
        here = parent;
    }
    let mut path = Vec::new();
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    Ok(path)
}

fn loss(id: ChunkId, record: &ChunkRecord) -> Option<FsckProblem> {
    (record.lost_bytes > 0).then(|| FsckProblem {
        kind: "lost".to_owned(),
        message: format!(
            "chunk {}: no replica held its last {} bytes; what files have there cannot be read, the rest can",
            id.hex(),
            record.lost_bytes
        ),
        path: Vec::new(),
        severe: true,
    })
}

fn replica_problem(id: ChunkId, record: &ChunkRecord, evidence: &Evidence) -> Option<FsckProblem> {
    if record.state() == ChunkState::Open {
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
