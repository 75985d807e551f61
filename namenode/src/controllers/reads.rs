//! What the leader knows, for those who ask: order of replicas, status, counts, space.

use std::collections::BTreeSet;

use cairn_protocol::ids::{DatanodeId, Incarnation, InodeId, MapId};
use cairn_protocol::messages::admin::{ClusterCounts, DatanodeStatus};
use cairn_protocol::messages::datanode::VolumeSpace;
use rand::Rng;
use tokio::time::Instant;

use super::Controllers;
use super::balance::extremes;
use super::decide::Health;
use super::registry::{Datanode, Standing, address};
use super::soft::{Soft, datanode_records};
use crate::store::records::{DatanodeRecord, ReplicaRecord};
use crate::store::{Read, StoreError, dead_map, detached, orphan};

/// What waits to be swept is counted up to this; a display needs no more.
const SWEEPING_MAX: u64 = 10_000;

pub(super) fn order_replicas(
    controllers: &Controllers,
    replicas: &[ReplicaRecord],
    client_host: &str,
) -> Vec<DatanodeId> {
    match controllers.soft() {
        Some(mut soft) => soft.order_replicas(replicas, client_host),
        // Without soft state the order of the committed set is as good as any.
        None => replicas
            .iter()
            .map(|replica| DatanodeId(replica.datanode))
            .collect(),
    }
}

impl Soft {
    pub(super) fn order_replicas(
        &mut self,
        replicas: &[ReplicaRecord],
        client_host: &str,
    ) -> Vec<DatanodeId> {
        let mut ranked: Vec<((u8, bool, u32), DatanodeId)> = Vec::with_capacity(replicas.len());
        for replica in replicas {
            let id = DatanodeId(replica.datanode);
            let known = self.datanodes.get(id);
            let doubt = match self
                .datanodes
                .standing(id, Incarnation(replica.incarnation))
            {
                Standing::Failed => 3,
                Standing::Away => 2,
                Standing::Unconfirmed | Standing::Good => {
                    u8::from(!known.is_some_and(Datanode::is_alive))
                }
            };
            let is_near = !client_host.is_empty()
                && known.is_some_and(|known| known.record.host == client_host);
            ranked.push(((doubt, !is_near, self.rng.random()), id));
        }
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, id)| id).collect()
    }
}

pub(super) fn alive_datanodes(controllers: &Controllers) -> BTreeSet<DatanodeId> {
    let Some(soft) = controllers.soft() else {
        return BTreeSet::new();
    };
    let alive = soft.datanodes.iter().filter(|(_, known)| known.is_alive());
    alive.map(|(id, _)| id).collect()
}

pub(super) fn failed_replicas(controllers: &Controllers) -> BTreeSet<Incarnation> {
    let Some(soft) = controllers.soft() else {
        return BTreeSet::new();
    };
    let failed = soft
        .datanodes
        .iter()
        .flat_map(|(_, known)| known.failed.keys());
    failed.copied().collect()
}

/// The committed records say which datanodes there are and what each is to be, so that whoever changed that sees it; the rest is what
/// this leader heard, and a member that does not lead has heard nothing.
pub(super) fn datanode_statuses(
    controllers: &Controllers,
) -> Result<Vec<DatanodeStatus>, StoreError> {
    let now = Instant::now();
    let records = datanode_records(&controllers.store().snapshot())?;
    let soft = controllers.soft();
    let known = |id| soft.as_ref()?.datanodes.get(id);
    let statuses = records
        .iter()
        .map(|(id, record)| status(*id, record, known(*id), now));
    Ok(statuses.collect())
}

fn status(
    id: DatanodeId,
    record: &DatanodeRecord,
    known: Option<&Datanode>,
    now: Instant,
) -> DatanodeStatus {
    let silent = known.map_or(0, |known| {
        now.saturating_duration_since(known.heard).as_millis()
    });
    let silent_ms = u64::try_from(silent).unwrap_or(u64::MAX);
    let process = known.and_then(|known| known.process.as_ref());
    let (volumes, write_streams) = match process {
        Some(process) => (process.volumes.clone(), process.write_streams),
        None => (Vec::new(), 0),
    };
    DatanodeStatus {
        address: address(id, record),
        alive: known.is_some_and(Datanode::is_alive),
        state: record.state,
        heartbeat_age_ms: match process {
            Some(_) => silent_ms,
            None => u64::MAX,
        },
        silent_ms,
        volumes,
        replica_count: record.replica_count,
        version: record.version.clone(),
        write_streams,
        copies: known.map_or(0, |known| {
            u32::try_from(known.copies_in).unwrap_or(u32::MAX)
        }),
    }
}

pub(super) fn counts(controllers: &Controllers) -> ClusterCounts {
    let store = controllers.store();
    let snapshot = store.snapshot();
    let mut counts = match committed_counts(&snapshot) {
        Ok(counts) => counts,
        Err(error) => {
            tracing::error!(%error, "cannot count what is stored");
            ClusterCounts::default()
        }
    };
    let Some(soft) = controllers.soft() else {
        return counts;
    };
    counts.copies_running = soft.copies.len() as u64;
    counts.moves_running = soft.balance.running.len() as u64;
    if let Some((min, max)) = extremes(&soft.fills()) {
        counts.fill_min_permille = u32::try_from(min).unwrap_or(1000);
        counts.fill_max_permille = u32::try_from(max).unwrap_or(1000);
    }
    for health in soft.health.values() {
        let count = match health {
            Health::Open => &mut counts.chunks_open,
            Health::Dead => &mut counts.chunks_dead,
            Health::Under => &mut counts.chunks_under_replicated,
            Health::Unavailable => &mut counts.chunks_unavailable,
            Health::Lossy => &mut counts.chunks_lossy,
            Health::Over => &mut counts.chunks_over_replicated,
            Health::Well => continue,
        };
        *count += 1;
    }
    counts
}

fn committed_counts(reader: &impl Read) -> Result<ClusterCounts, StoreError> {
    let cluster = reader.cluster_record()?;
    Ok(ClusterCounts {
        files: cluster.file_count,
        directories: cluster.directory_count,
        inodes: cluster.inode_count,
        chunks: cluster.chunk_count,
        live_bytes: cluster.live_bytes,
        chunk_bytes: cluster.chunk_bytes,
        sweeping: sweeping(reader)?,
        ..ClusterCounts::default()
    })
}

fn sweeping(reader: &impl Read) -> Result<u64, StoreError> {
    let mut count = 0;
    let mut one_more = || {
        count += 1;
        Ok(count < SWEEPING_MAX)
    };
    orphan::scan(reader, InodeId(0), &mut |_, _| one_more())?;
    detached::scan(reader, InodeId(0), &mut |_| one_more())?;
    dead_map::scan(reader, MapId(0), &mut |_, _| one_more())?;
    Ok(count)
}

/// Space over datanodes that are alive.
pub(super) fn space(controllers: &Controllers) -> VolumeSpace {
    let Some(soft) = controllers.soft() else {
        return VolumeSpace::default();
    };
    let alive = soft.datanodes.iter().filter(|(_, known)| known.is_alive());
    VolumeSpace::of(alive.flat_map(|(_, known)| known.volumes()))
}
