//! Balancing: while the fullest datanode is much fuller than the emptiest one, replicas move.
//!
//! A move is a copy that nothing asks for: it goes through the same limits and the same steps as re-replication, and joins the set as
//! one replica more than the policy wants. Only then does the chunk have a surplus, and [`decide`](super::decide) takes it from the
//! fullest of its datanodes once all others are verified (I9). So there is never a replica less than before, and whatever fails on
//! the way leaves one too many, which goes like any other.
//!
//! Moves are planned a batch at a time, in the fills that they lead to. The next batch waits until the last one is over and datanodes
//! have told their space again, so that nothing swings back and forth.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_protocol::ids::{ChunkId, DatanodeId};
use tokio::time::Instant;

use super::copies::{MARGIN_BYTES, Order};
use super::options::ControllerOptions;
use super::placement::Spread;
use super::registry::{Datanode, Standing};
use super::soft::Soft;
use crate::store::records::{ChunkRecord, ChunkState};
use crate::store::{Read, StoreError, chunk, replica};

/// Chunks of one datanode that are looked at for one move.
const LOOKS_MAX: usize = 256;

/// What balancing remembers between two batches.
#[derive(Debug, Default)]
pub(super) struct Balance {
    /// Chunks of which a replica moves.
    pub running: BTreeSet<ChunkId>,
    /// Not before then.
    next: Option<Instant>,
    /// How far the walk through each datanode's chunks is.
    cursors: BTreeMap<DatanodeId, ChunkId>,
}

/// How full a datanode is, or will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fill {
    pub datanode: DatanodeId,
    used: u64,
    free: u64,
}

impl Fill {
    /// As the datanode told it last.
    pub fn of(datanode: DatanodeId, known: &Datanode) -> Self {
        let space = known.space();
        Self {
            datanode,
            used: space.used_bytes,
            free: space.available_bytes,
        }
    }

    /// Of what replicas may have there at all.
    pub fn permille(&self) -> u64 {
        let all = u128::from(self.used) + u128::from(self.free);
        match all {
            0 => 1000,
            all => u64::try_from(u128::from(self.used) * 1000 / all).unwrap_or(1000),
        }
    }

    fn after(&self, gained: u64, lost: u64) -> Self {
        Self {
            used: self.used.saturating_add(gained).saturating_sub(lost),
            free: self.free.saturating_add(lost).saturating_sub(gained),
            ..*self
        }
    }
}

/// The emptiest and the fullest, in thousandths; nothing without datanodes.
pub(super) fn extremes(fills: &[Fill]) -> Option<(u64, u64)> {
    let permille = || fills.iter().map(Fill::permille);
    permille().min().zip(permille().max())
}

impl Balance {
    /// The copy of a chunk is over; if it was a move, the next batch waits a while.
    pub fn ended(&mut self, chunk: ChunkId, now: Instant, rest: Duration) {
        if self.running.remove(&chunk) {
            self.next = Some(now + rest);
        }
    }
}

impl Soft {
    /// How full those datanodes are that replicas may move between.
    pub(super) fn fills(&self) -> Vec<Fill> {
        let known = self
            .datanodes
            .iter()
            .filter(|(_, known)| known.takes_replicas());
        known
            .map(|(datanode, known)| Fill::of(datanode, known))
            // One without a volume that works is neither full nor empty.
            .filter(|fill| fill.used > 0 || fill.free > 0)
            .collect()
    }

    /// Starts a batch of moves, if it is time and there is nothing more urgent to copy.
    pub(super) fn start_moves(
        &mut self,
        reader: &impl Read,
        now: Instant,
        options: &ControllerOptions,
    ) -> Result<Vec<Order>, StoreError> {
        let is_early = self.balance.next.is_some_and(|next| now < next);
        if is_early || !self.queue.is_empty() || !self.copies.is_empty() {
            return Ok(Vec::new());
        }
        let threshold = u64::from(options.balance_threshold) * 10;
        let mut fills = self.fills();
        let mut orders = Vec::new();
        let spread = extremes(&fills).map_or(0, |(min, max)| max - min);
        if spread <= threshold {
            return Ok(orders);
        }
        self.balance.next = Some(now + options.balance_rest);
        // Beyond the threshold it begins, and does not stop right at it.
        let enough = threshold / 2;
        let mut spent = BTreeSet::new();
        while orders.len() < options.balance_moves_max {
            let full = fills.iter().filter(|fill| !spent.contains(&fill.datanode));
            let Some(source) = full.max_by_key(|fill| fill.permille()).copied() else {
                break;
            };
            let min = extremes(&fills).map_or(0, |(min, _)| min);
            if source.permille().saturating_sub(min) <= enough {
                break;
            }
            let found = self.find_move(reader, source, &fills, options)?;
            let Some((id, record, target)) = found else {
                spent.insert(source.datanode);
                continue;
            };
            let length = record.held_length();
            for fill in &mut fills {
                let gained = if fill.datanode == target { length } else { 0 };
                let lost = if fill.datanode == source.datanode {
                    length
                } else {
                    0
                };
                *fill = fill.after(gained, lost);
            }
            if let Some(order) = self.begin_move(id, &record, target) {
                self.balance.running.insert(id);
                orders.push(order);
            }
        }
        Ok(orders)
    }

    /// A chunk of which `source` may do without its replica, and where it could go: the emptiest datanode that is as good a place.
    fn find_move(
        &mut self,
        reader: &impl Read,
        source: Fill,
        fills: &[Fill],
        options: &ControllerOptions,
    ) -> Result<Option<(ChunkId, ChunkRecord, DatanodeId)>, StoreError> {
        let start = self
            .balance
            .cursors
            .get(&source.datanode)
            .copied()
            .unwrap_or_default();
        let mut looked: Vec<ChunkId> = Vec::new();
        replica::scan(reader, source.datanode, start, &mut |id| {
            looked.push(id);
            Ok(looked.len() < LOOKS_MAX)
        })?;
        for id in &looked {
            let next = ChunkId(id.0.saturating_add(1));
            self.balance.cursors.insert(source.datanode, next);
            let Some(record) = chunk::get(reader, *id)? else {
                continue;
            };
            if !self.may_move(*id, &record) {
                continue;
            }
            if let Some(target) = self.better_place(&record, source, fills, options) {
                return Ok(Some((*id, record, target)));
            }
        }
        if looked.len() < LOOKS_MAX {
            // From the beginning the next time.
            self.balance.cursors.remove(&source.datanode);
        }
        Ok(None)
    }

    /// Only what needs nothing else: sealed, with all its replicas verified on datanodes that stay.
    fn may_move(&self, id: ChunkId, record: &ChunkRecord) -> bool {
        record.state() == ChunkState::Sealed
            && record.live_bytes > 0
            && record.lost_bytes == 0
            && record.replicas.len() == record.replication as usize
            && !self.copies.contains_key(&id)
            && self.views(record).iter().all(|view| {
                view.standing == Standing::Good
                    && self
                        .datanodes
                        .get(view.datanode)
                        .is_some_and(Datanode::takes_replicas)
            })
    }

    fn better_place(
        &self,
        record: &ChunkRecord,
        source: Fill,
        fills: &[Fill],
        options: &ControllerOptions,
    ) -> Option<DatanodeId> {
        let length = record.held_length();
        let holds = |datanode: DatanodeId| {
            let mut replicas = record.replicas.iter();
            replicas.any(|replica| replica.datanode == datanode.0)
        };
        // How crowded a place is by the other replicas: it must not become worse.
        let mut others = Spread::default();
        let others_of = record
            .replicas
            .iter()
            .map(|replica| DatanodeId(replica.datanode));
        for datanode in others_of.filter(|datanode| *datanode != source.datanode) {
            if let Some(known) = self.datanodes.get(datanode) {
                others.add(&known.record.rack, &known.record.host);
            }
        }
        let crowding = |datanode: DatanodeId| {
            let known = self.datanodes.get(datanode)?;
            Some(others.crowding(&known.record.rack, &known.record.host))
        };
        let here = crowding(source.datanode)?;
        let is_free = |datanode: DatanodeId| {
            let known = self.datanodes.get(datanode);
            known.is_some_and(|known| known.copies_in < options.copies_per_datanode)
        };
        let places = fills.iter().filter(|fill| {
            fill.free >= length.saturating_add(MARGIN_BYTES)
                && fill.after(length, 0).permille() <= source.after(0, length).permille()
                && !holds(fill.datanode)
                && !self.share_disk(source.datanode, fill.datanode)
                && is_free(fill.datanode)
                && crowding(fill.datanode).is_some_and(|there| there <= here)
        });
        places
            .min_by_key(|fill| fill.permille())
            .map(|fill| fill.datanode)
    }

    /// What moves between them stays where it is.
    fn share_disk(&self, one: DatanodeId, other: DatanodeId) -> bool {
        let filesystems = |datanode| {
            let known = self.datanodes.get(datanode);
            let volumes = known.into_iter().flat_map(Datanode::volumes);
            let known_ones = volumes.filter(|(_, volume)| volume.filesystem != 0);
            known_ones.map(|(host, volume)| (host, volume.filesystem))
        };
        filesystems(one).any(|disk| filesystems(other).any(|there| there == disk))
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ids::DatanodeId;

    use super::{Fill, extremes};

    #[test]
    fn a_datanode_is_as_full_as_what_is_its_to_fill() {
        let fill = |used, free| Fill {
            datanode: DatanodeId(1),
            used,
            free,
        };
        assert_eq!(fill(25, 75).permille(), 250);
        assert_eq!(fill(0, 0).permille(), 1000);
        assert_eq!(fill(u64::MAX, u64::MAX).permille(), 500);
        assert_eq!(fill(20, 80).after(10, 0).permille(), 300);
        assert_eq!(fill(20, 80).after(0, 10).permille(), 100);
        assert_eq!(extremes(&[]), None);
        let fills = [fill(1, 9), fill(9, 1), fill(5, 5)];
        assert_eq!(extremes(&fills), Some((100, 900)));
    }
}
