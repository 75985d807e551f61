//! Takes back what nobody uses: sweeps of detached trees, orphans and dead maps while there are any, and sealed chunks without
//! live bytes whose grace is over. Their replicas are deleted after the chunk is gone from the committed state.

use std::sync::Arc;

use cairn_protocol::ids::{ChunkId, DatanodeId, Incarnation, InodeId, MapId};
use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::soft::settings;
use super::{Controllers, NS_PER_MS, until_stopped};
use crate::namespace::command::{CommandKind, DropChunk, Sweep};
use crate::store::records::ChunkRecord;
use crate::store::{Read, StoreError, chunk, dead_chunk, dead_map, detached, orphan};

/// Orphans and dead chunks that one look goes through: the next look goes on behind them.
const LOOK_MAX: usize = 1000;

/// Sweeps between two looks.
const SWEEPS_IN_A_ROW: usize = 16;

/// Where the walks are.
#[derive(Debug, Default)]
struct Walks {
    orphan: InodeId,
    chunk: ChunkId,
}

/// Reclaims until `stop`.
pub(super) async fn run(
    controllers: Arc<Controllers>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    until_stopped(stop, async {
        let mut walks = Walks::default();
        loop {
            if !step(&controllers, &mut walks).await? {
                tokio::time::sleep(controllers.options.interval).await;
            }
        }
    })
    .await
}

/// One bounded step. True if there is more to do at once.
async fn step(controllers: &Controllers, walks: &mut Walks) -> Result<bool, StoreError> {
    let Some(term) = controllers.soft().map(|soft| soft.term) else {
        return Ok(false);
    };
    let store = controllers.store();
    let (sweeps, dead) = {
        let snapshot = store.snapshot();
        let now_ns = controllers.now_ns(&snapshot.cluster_record()?);
        let sweeps = needs_sweep(&snapshot, now_ns, &mut walks.orphan)?;
        let limit = controllers.options.drop_limit;
        (sweeps, settled(&snapshot, now_ns, limit, &mut walks.chunk)?)
    };
    let is_full = dead.len() == controllers.options.drop_limit;
    let drops = dead
        .into_iter()
        .map(|(id, record)| drop_chunk(controllers, term, id, record));
    join_all(drops).await;
    let more = sweeps && sweep(controllers).await;
    Ok(more || is_full)
}

/// True if more is left to sweep. A few sweeps in a row, because looking whether one is needed steps over what the last ones
/// deleted.
async fn sweep(controllers: &Controllers) -> bool {
    let limit = controllers.options.sweep_limit;
    for _ in 0..SWEEPS_IN_A_ROW {
        let command = CommandKind::Sweep(Sweep { limit });
        match controllers.group.propose(command).await {
            Ok(proposed) if proposed.outcome.code == 0 && proposed.outcome.more => {}
            Ok(_) => return false,
            Err(error) => {
                tracing::debug!(%error, "cannot sweep now");
                return false;
            }
        }
    }
    true
}

/// Whether a sweep would find anything.
fn needs_sweep(reader: &impl Read, now_ns: u64, walk: &mut InodeId) -> Result<bool, StoreError> {
    let mut found = false;
    let cluster = reader.cluster_record()?;
    // Where the sweeps go on there is something, if there is anything; a scan from the first id steps over what they have deleted.
    for start in [cluster.sweep_detached_cursor, 0] {
        if !found {
            detached::scan(reader, InodeId(start), &mut |_| {
                found = true;
                Ok(false)
            })?;
        }
    }
    for start in [cluster.sweep_dead_map_cursor, 0] {
        if !found {
            dead_map::scan(reader, MapId(start), &mut |_, _| {
                found = true;
                Ok(false)
            })?;
        }
    }
    let mut looks = 0;
    let mut next = InodeId(0);
    orphan::scan(reader, *walk, &mut |id, record| {
        looks += 1;
        next = InodeId(id.0.saturating_add(1));
        found |= record.claims.is_empty() && record.keep_until_ns <= now_ns;
        Ok(looks < LOOK_MAX)
    })?;
    *walk = if looks < LOOK_MAX { InodeId(0) } else { next };
    Ok(found)
}

/// Dead chunks whose grace is over.
fn settled(
    reader: &impl Read,
    now_ns: u64,
    limit: usize,
    walk: &mut ChunkId,
) -> Result<Vec<(ChunkId, ChunkRecord)>, StoreError> {
    let grace_ns = settings(reader)?.reclaim_grace_ms.saturating_mul(NS_PER_MS);
    let mut settled = Vec::new();
    let mut looks = 0;
    let mut next = ChunkId(0);
    dead_chunk::scan(reader, *walk, &mut |id| {
        looks += 1;
        next = ChunkId(id.0.saturating_add(1));
        if let Some(record) = chunk::get(reader, id)?
            && record.settled_ns.saturating_add(grace_ns) <= now_ns
        {
            settled.push((id, record));
        }
        Ok(looks < LOOK_MAX && settled.len() < limit)
    })?;
    let ended = looks < LOOK_MAX && settled.len() < limit;
    *walk = if ended { ChunkId(0) } else { next };
    Ok(settled)
}

async fn drop_chunk(controllers: &Controllers, term: u64, id: ChunkId, record: ChunkRecord) {
    let command = CommandKind::DropChunk(DropChunk { chunk: id.0 });
    let answer = controllers.group.propose(command).await;
    let dropped = matches!(&answer, Ok(proposed) if proposed.outcome.code == 0);
    if !dropped {
        // Used again, gone already, or not now: the next walk sees.
        return;
    }
    let Some(mut soft) = controllers.soft_of(term) else {
        // The datanodes report these replicas to the next leader.
        return;
    };
    for replica in &record.replicas {
        let key = (
            DatanodeId(replica.datanode),
            id,
            Incarnation(replica.incarnation),
        );
        soft.deletes.insert(key);
    }
    soft.work.touch(id);
    drop(soft);
    controllers.work.notify_one();
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ids::{ChunkId, InodeId};
    use cairn_protocol::messages::common::ClusterSettings;

    use super::{needs_sweep, settled};
    use crate::store::records::{ChunkRecord, ChunkState, OrphanRecord};
    use crate::store::{AppliedState, Store, StoreOptions, chunk, dead_chunk, detached, orphan};

    fn store(dir: &std::path::Path) -> Store {
        Store::open(&dir.join("state"), StoreOptions::default()).unwrap()
    }

    #[test]
    fn dead_chunks_are_dropped_when_their_grace_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut txn = store.begin();
        txn.cluster_mut().settings = Some(ClusterSettings {
            reclaim_grace_ms: 1,
            ..ClusterSettings::default()
        });
        for (id, settled_ns) in [(1, 0), (2, 5_000_000), (3, 0)] {
            let record = ChunkRecord {
                state: ChunkState::Sealed.into(),
                settled_ns,
                ..ChunkRecord::default()
            };
            chunk::put(&mut txn, ChunkId(id), &record);
            dead_chunk::put(&mut txn, ChunkId(id));
        }
        txn.commit(AppliedState::default()).unwrap();
        let at = |now_ns, limit, walk: &mut ChunkId| -> Vec<u64> {
            let found = settled(&store.snapshot(), now_ns, limit, walk).unwrap();
            found.iter().map(|(id, _)| id.0).collect()
        };
        let mut walk = ChunkId(0);
        assert_eq!(at(999_999, 9, &mut walk), []);
        assert_eq!(at(1_000_000, 9, &mut walk), [1, 3]);
        assert_eq!(at(6_000_000, 2, &mut walk), [1, 2]);
        assert_eq!(at(6_000_000, 2, &mut walk), [3], "goes on behind them");
        assert_eq!(walk, ChunkId(0));
    }

    #[test]
    fn a_sweep_is_proposed_only_if_it_finds_something() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut walk = InodeId(0);
        let mut needs = |now_ns| needs_sweep(&store.snapshot(), now_ns, &mut walk).unwrap();
        assert!(!needs(0));
        let mut txn = store.begin();
        let waiting = OrphanRecord {
            keep_until_ns: 10,
            claims: vec![],
        };
        let claimed = OrphanRecord {
            keep_until_ns: 1,
            claims: vec![7],
        };
        orphan::put(&mut txn, InodeId(5), &waiting);
        orphan::put(&mut txn, InodeId(6), &claimed);
        txn.commit(AppliedState::default()).unwrap();
        assert!(!needs(9));
        assert!(needs(10));
        let mut txn = store.begin();
        detached::put(&mut txn, InodeId(9));
        txn.commit(AppliedState::default()).unwrap();
        assert!(needs(0));
    }
}
