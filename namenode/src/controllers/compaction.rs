//! Compaction: what is still used of sparsely used sealed chunks moves together into a new chunk; what is left behind has no live bytes
//! and is reclaimed after its grace, in which readers that know the old place still find it.
//!
//! ```text
//! plan ──> AllocateCompactionChunk ──> every datanode of it pulls the pieces, syncs and seals ──> AdvanceSynced ──> SealOpenChunk
//!      ──> Repoint, piece by piece: a compare-and-swap for each use
//! ```
//! Wherever it stops, nothing is lost and nothing is left: uses point to the old bytes until they point to the new ones, which are on the
//! disks of all replicas by then, and a new chunk without uses is as dead as any other. One compaction runs at a time.

use std::sync::Arc;
use std::time::Duration;

use cairn_protocol::ids::{ChunkId, DatanodeId, Epoch, Incarnation};
use cairn_protocol::messages::common::ReplicaTarget;
use cairn_protocol::messages::datanode::{CopyPiece, CopyReplica, CopySource, InstructionKind};
use cairn_protocol::token::{self, Grant, GrantKind};
use cairn_protocol::{ErrorCode, Failure};
use futures::future::try_join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::instruct::instruction;
use super::placement::{Wish, choose};
use super::registry::Standing;
use super::soft::{Soft, settings};
use super::{Controllers, until_stopped};
use crate::keys::key_ring;
use crate::namespace::command::{
    AdvanceSynced, AllocateCompactionChunk, CommandKind, Repoint, SealOpenChunk,
};
use crate::store::records::{ChunkRecord, ChunkState};
use crate::store::{Read, StoreError, chunk, chunk_use};

/// Chunks that one look goes through: the next look goes on behind them.
const LOOK_MAX: usize = 4096;

/// A chunk is worth it when at most one byte in so many is still used.
const LIVE_PART_MAX: u64 = 2;

/// Fewer bytes than this are not worth a chunk's being moved.
const GAIN_BYTES_MIN: u64 = 64 << 10;

/// Pieces of one compaction: bounds its instruction. What is beyond them is left for the next one.
const PIECES_MAX: usize = 2048;

/// Chunks that one compaction empties.
const SOURCES_MAX: usize = 64;

/// Uses that are looked at for one chunk.
const USES_MAX: usize = 1 << 17;

/// Uses that one `Repoint` moves.
const REPOINT_LIMIT: u32 = 250;

/// Free space that a destination has besides the copy.
const MARGIN_BYTES: u64 = 1 << 20;

/// A chunk whose compaction failed is left alone for this long.
const AVOID_FOR: Duration = Duration::from_secs(600);

/// A run of used bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    offset: u64,
    length: u64,
}

/// A chunk to be emptied.
#[derive(Clone, Debug)]
struct Source {
    chunk: ChunkId,
    length: u64,
    /// Good replicas.
    replicas: Vec<ReplicaTarget>,
    pieces: Vec<Piece>,
}

/// What moves together.
#[derive(Clone, Debug)]
struct Plan {
    replication: u32,
    length: u64,
    sources: Vec<Source>,
}

/// The new chunk.
#[derive(Clone, Debug)]
struct Target {
    chunk: ChunkId,
    epoch: Epoch,
    replicas: Vec<(DatanodeId, Incarnation)>,
}

/// Compacts until `stop`.
pub(super) async fn run(
    controllers: Arc<Controllers>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    until_stopped(stop, async {
        let mut walk = ChunkId(0);
        loop {
            tokio::time::sleep(controllers.options.compaction_interval).await;
            let Some(term) = controllers.soft().map(|soft| soft.term) else {
                continue;
            };
            if let Some(plan) = find(&controllers, term, &mut walk)? {
                compact(&controllers, term, &plan).await;
            }
        }
    })
    .await
}

/// Goes on with the walk through all chunks, and gathers what can move together.
fn find(
    controllers: &Controllers,
    term: u64,
    walk: &mut ChunkId,
) -> Result<Option<Plan>, StoreError> {
    let store = controllers.store();
    let snapshot = store.snapshot();
    let cluster = snapshot.cluster_record()?;
    let rest = u64::try_from(controllers.options.compaction_rest.as_nanos()).unwrap_or(u64::MAX);
    let before_ns = controllers.now_ns(&cluster).saturating_sub(rest);
    let sparse = sparse_chunks(&snapshot, before_ns, walk)?;
    let capacity = settings(&snapshot)?.chunk_size;
    let Some(mut soft) = controllers.soft_of(term) else {
        return Ok(None);
    };
    soft.compaction_avoid
        .retain(|_, until| *until > Instant::now());
    let mut plan: Option<Plan> = None;
    let mut pieces_left = PIECES_MAX;
    for (id, record) in sparse {
        let (replication, taken) = plan.as_ref().map_or((record.replication, 0), |plan| {
            (plan.replication, plan.length)
        });
        let fits = record.replication == replication && taken + record.live_bytes <= capacity;
        if !fits || pieces_left == 0 || soft.compaction_avoid.contains_key(&id) {
            continue;
        }
        let Some(replicas) = soft.good_replicas(&record) else {
            continue;
        };
        let pieces = used_pieces(&snapshot, id, pieces_left)?;
        let held = record.held_length();
        if pieces
            .iter()
            .any(|piece| piece.offset + piece.length > held)
        {
            continue;
        }
        pieces_left -= pieces.len();
        let length: u64 = pieces.iter().map(|piece| piece.length).sum();
        let plan = plan.get_or_insert_with(|| Plan {
            replication,
            length: 0,
            sources: Vec::new(),
        });
        plan.length += length;
        plan.sources.push(Source {
            chunk: id,
            length: record.length,
            replicas,
            pieces,
        });
        if plan.sources.len() == SOURCES_MAX {
            break;
        }
    }
    Ok(plan.filter(|plan| plan.length > 0))
}

/// Sealed chunks of which little is used, and of which nothing changed for a while.
fn sparse_chunks(
    reader: &impl Read,
    before_ns: u64,
    walk: &mut ChunkId,
) -> Result<Vec<(ChunkId, ChunkRecord)>, StoreError> {
    let mut sparse = Vec::new();
    let mut looks = 0;
    let mut next = ChunkId(0);
    chunk::scan(reader, *walk, &mut |id, record| {
        looks += 1;
        next = ChunkId(id.0.saturating_add(1));
        if is_sparse(&record) && record.settled_ns <= before_ns {
            sparse.push((id, record));
        }
        Ok(looks < LOOK_MAX)
    })?;
    *walk = if looks < LOOK_MAX { ChunkId(0) } else { next };
    Ok(sparse)
}

/// Whether so little of what a chunk has is still used that giving back the rest is worth something.
pub(super) fn is_mostly_unused(record: &ChunkRecord) -> bool {
    let live = record.live_bytes;
    live <= record.length / LIVE_PART_MAX && record.length - live >= GAIN_BYTES_MIN
}

fn is_sparse(record: &ChunkRecord) -> bool {
    let live = record.live_bytes;
    let gain = is_mostly_unused(record);
    // Once nothing uses what is lost, moving the rest ends the matter.
    record.state() == ChunkState::Sealed && live > 0 && (gain || record.lost_bytes > 0)
}

/// The runs of bytes that are used, overlapping and touching uses as one.
fn used_pieces(reader: &impl Read, id: ChunkId, limit: usize) -> Result<Vec<Piece>, StoreError> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut looks = 0;
    chunk_use::scan(reader, id, 0, &mut |chunk_use| {
        looks += 1;
        let (start, end) = (chunk_use.offset_in_chunk, chunk_use.end());
        let is_full = pieces.len() == limit;
        match pieces.last_mut() {
            Some(last) if start <= last.offset + last.length => {
                last.length = last.length.max(end - last.offset);
            }
            _ if is_full => return Ok(false),
            _ => pieces.push(Piece {
                offset: start,
                length: end - start,
            }),
        }
        Ok(looks < USES_MAX)
    })?;
    Ok(pieces)
}

async fn compact(controllers: &Controllers, term: u64, plan: &Plan) {
    if let Some(mut soft) = controllers.soft_of(term) {
        // Before the new chunk exists, so that nobody takes it for one that a former leader left behind.
        soft.compacting = true;
    }
    let done = try_compact(controllers, term, plan).await;
    let Some(mut soft) = controllers.soft_of(term) else {
        return;
    };
    soft.compacting = false;
    let sources = plan.sources.len();
    match done {
        Ok(chunk) => {
            tracing::info!(%chunk, sources, bytes = plan.length, "compacted");
        }
        Err(reason) => {
            tracing::warn!(sources, bytes = plan.length, reason, "compaction given up");
            let until = Instant::now() + AVOID_FOR;
            for source in &plan.sources {
                soft.compaction_avoid.insert(source.chunk, until);
            }
        }
    }
}

async fn try_compact(controllers: &Controllers, term: u64, plan: &Plan) -> Result<ChunkId, String> {
    let target = allocate(controllers, term, plan).await?;
    let copied = copy_everywhere(controllers, term, plan, &target).await;
    let synced = match copied {
        Ok(()) => advance_synced(controllers, plan, &target).await,
        Err(reason) => Err(reason),
    };
    // Also one that came to nothing: it is then sealed empty, and reclaimed.
    let (chunk, epoch) = (target.chunk.0, target.epoch.0);
    propose(
        controllers,
        CommandKind::SealOpenChunk(SealOpenChunk { chunk, epoch }),
    )
    .await?;
    synced?;
    let mut target_offset = 0;
    for source in &plan.sources {
        for piece in &source.pieces {
            repoint(controllers, source.chunk, piece, &target, target_offset).await?;
            target_offset += piece.length;
        }
    }
    Ok(target.chunk)
}

async fn propose(controllers: &Controllers, command: CommandKind) -> Result<(u64, bool), String> {
    let proposed = controllers.group.propose(command).await;
    let outcome = proposed.map_err(|error| error.to_string())?.outcome;
    if outcome.code != 0 {
        return Err(outcome.message);
    }
    Ok((outcome.id, outcome.more))
}

async fn allocate(controllers: &Controllers, term: u64, plan: &Plan) -> Result<Target, String> {
    let datanodes = {
        let mut soft = controllers.soft_of(term).ok_or("the term is over")?;
        let soft = &mut *soft;
        let candidates = soft
            .datanodes
            .candidates(&std::collections::BTreeSet::new(), |_| MARGIN_BYTES);
        let wish = Wish {
            count: plan.replication as usize,
            bytes: plan.length,
            host: "",
        };
        choose(&candidates, &wish, &mut soft.rng).map_err(|error| error.to_string())?
    };
    let command = CommandKind::AllocateCompactionChunk(AllocateCompactionChunk {
        replication: plan.replication,
        datanodes: datanodes.iter().map(|id| id.0).collect(),
    });
    let (id, _) = propose(controllers, command).await?;
    let store = controllers.store();
    let record = chunk::get(&store.snapshot(), ChunkId(id)).map_err(|error| error.to_string())?;
    let record = record.ok_or("the new chunk is gone")?;
    Ok(Target {
        chunk: ChunkId(id),
        epoch: Epoch(record.epoch),
        replicas: record
            .replicas
            .iter()
            .map(|replica| {
                (
                    DatanodeId(replica.datanode),
                    Incarnation(replica.incarnation),
                )
            })
            .collect(),
    })
}

async fn copy_everywhere(
    controllers: &Controllers,
    term: u64,
    plan: &Plan,
    target: &Target,
) -> Result<(), String> {
    let copies = target.replicas.iter().map(|&(datanode, incarnation)| {
        wait_for_copy(controllers, term, plan, target, datanode, incarnation)
    });
    try_join_all(copies).await.map(|_| ())
}

/// Orders one replica, and asks for it again, until it is there.
async fn wait_for_copy(
    controllers: &Controllers,
    term: u64,
    plan: &Plan,
    target: &Target,
    datanode: DatanodeId,
    incarnation: Incarnation,
) -> Result<(), String> {
    let options = &controllers.options;
    let deadline = Instant::now() + options.copy_timeout;
    while Instant::now() < deadline {
        let kind = InstructionKind::Copy(order(controllers, plan, target)?);
        let instructions = vec![instruction(target.chunk, incarnation, kind)];
        let answer = controllers.instruct(term, datanode, instructions, options.instruct_timeout);
        let result = answer.await.ok().and_then(|mut results| results.pop());
        if let Some(result) = result {
            let failure = result.failure.map(Failure::from);
            if let Some(failure) = failure.filter(|failure| failure.code != ErrorCode::Overloaded) {
                return Err(format!("datanode {datanode}: {failure}"));
            }
            let is_there = result.state.is_some_and(|state| {
                state.incarnation == incarnation.0
                    && state.sealed
                    && !state.bad
                    && !state.gone
                    && (state.epoch, state.length) == (target.epoch.0, plan.length)
            });
            if is_there {
                return Ok(());
            }
        }
        drop(controllers.soft_of(term).ok_or("the term is over")?);
        tokio::time::sleep(options.compaction_poll).await;
    }
    Err(format!("datanode {datanode} took too long"))
}

/// A token lives as long as the copy may take, so each request brings fresh ones.
fn order(controllers: &Controllers, plan: &Plan, target: &Target) -> Result<CopyReplica, String> {
    let store = controllers.store();
    let cluster = store
        .snapshot()
        .cluster_record()
        .map_err(|error| error.to_string())?;
    let keys =
        key_ring(&cluster, controllers.now_ms(&cluster)).map_err(|error| error.to_string())?;
    let expires_at_ms = controllers.expires_at_ms(&cluster, controllers.options.copy_timeout);
    let mut order = CopyReplica {
        epoch: target.epoch.0,
        length: plan.length,
        ..CopyReplica::default()
    };
    for (index, source) in (0..).zip(&plan.sources) {
        let grant = Grant {
            chunk: source.chunk,
            kind: GrantKind::Read {
                offset: 0,
                len: source.length,
            },
            expires_at_ms,
        };
        order.piece_sources.push(CopySource {
            chunk: source.chunk.0,
            sources: source.replicas.clone(),
            token: token::mint(&keys, &grant),
        });
        order
            .pieces
            .extend(source.pieces.iter().map(|piece| CopyPiece {
                source_index: index,
                offset: piece.offset,
                length: piece.length,
            }));
    }
    Ok(order)
}

async fn advance_synced(
    controllers: &Controllers,
    plan: &Plan,
    target: &Target,
) -> Result<(), String> {
    let pairs = target.replicas.iter();
    let confirmed = pairs.flat_map(|(datanode, incarnation)| [datanode.0, incarnation.0]);
    let command = CommandKind::AdvanceSynced(AdvanceSynced {
        chunk: target.chunk.0,
        synced_length: plan.length,
        confirmed_incarnations: confirmed.collect(),
    });
    propose(controllers, command).await.map(|_| ())
}

async fn repoint(
    controllers: &Controllers,
    source: ChunkId,
    piece: &Piece,
    target: &Target,
    target_offset: u64,
) -> Result<(), String> {
    loop {
        let command = CommandKind::Repoint(Repoint {
            source_chunk: source.0,
            source_offset: piece.offset,
            length: piece.length,
            target_chunk: target.chunk.0,
            target_offset,
            limit: REPOINT_LIMIT,
        });
        if !propose(controllers, command).await?.1 {
            return Ok(());
        }
    }
}

impl Soft {
    /// The replicas of a chunk that can be read, if all is well with it: one that waits for a copy is left in peace.
    fn good_replicas(&self, record: &ChunkRecord) -> Option<Vec<ReplicaTarget>> {
        let views = self.views(record);
        let good = views.iter().filter(|view| view.standing == Standing::Good);
        let targets: Vec<ReplicaTarget> = good
            .filter_map(|view| {
                Some(ReplicaTarget {
                    datanode: self.datanodes.address(view.datanode)?,
                    incarnation: view.incarnation.0,
                })
            })
            .collect();
        (!targets.is_empty()).then_some(targets)
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ids::{ChunkId, InodeId};

    use super::{GAIN_BYTES_MIN, Piece, is_sparse, sparse_chunks, used_pieces};
    use crate::store::chunk_use::{ChunkUse, UseOwner};
    use crate::store::records::{ChunkRecord, ChunkState};
    use crate::store::{AppliedState, Store, StoreOptions, chunk, chunk_use};

    fn record(state: ChunkState, live_bytes: u64) -> ChunkRecord {
        ChunkRecord {
            state: state.into(),
            length: 4 * GAIN_BYTES_MIN,
            live_bytes,
            settled_ns: 5,
            ..ChunkRecord::default()
        }
    }

    #[test]
    fn only_sealed_chunks_with_much_to_gain_are_compacted() {
        let half = 2 * GAIN_BYTES_MIN;
        assert!(is_sparse(&record(ChunkState::Sealed, half)));
        assert!(!is_sparse(&record(ChunkState::Sealed, half + 1)));
        assert!(!is_sparse(&record(ChunkState::Sealed, 0)), "reclaim's");
        assert!(!is_sparse(&record(ChunkState::Open, half)));
        assert!(!is_sparse(&record(ChunkState::Idle, half)));
        let mut small = record(ChunkState::Sealed, 1);
        small.length = GAIN_BYTES_MIN;
        assert!(!is_sparse(&small));
    }

    fn store(dir: &std::path::Path) -> Store {
        Store::open(&dir.join("state"), StoreOptions::default()).unwrap()
    }

    #[test]
    fn chunks_that_changed_lately_are_left_in_peace() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut txn = store.begin();
        chunk::put(&mut txn, ChunkId(1), &record(ChunkState::Sealed, 1));
        txn.commit(AppliedState::default()).unwrap();
        let mut walk = ChunkId(0);
        let mut found = |before| sparse_chunks(&store.snapshot(), before, &mut walk).unwrap();
        assert_eq!(found(4).len(), 0);
        assert_eq!(found(5).len(), 1);
    }

    #[test]
    fn uses_that_touch_or_overlap_move_as_one_piece() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut txn = store.begin();
        for (inode, offset_in_chunk, length) in [(1, 10, 10), (2, 15, 10), (3, 25, 5), (4, 40, 1)] {
            let owner = UseOwner::Inode(InodeId(inode));
            let chunk_use = ChunkUse {
                offset_in_chunk,
                owner,
                offset_in_file: 0,
                length,
            };
            chunk_use::put(&mut txn, ChunkId(7), &chunk_use);
        }
        txn.commit(AppliedState::default()).unwrap();
        let piece = |offset, length| Piece { offset, length };
        let pieces = |limit| used_pieces(&store.snapshot(), ChunkId(7), limit).unwrap();
        assert_eq!(pieces(9), [piece(10, 20), piece(40, 1)]);
        assert_eq!(pieces(1), [piece(10, 20)]);
    }
}
