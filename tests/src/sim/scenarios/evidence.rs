//! What scenarios look at to be sure that what they are named for has happened.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use cairn_namenode::consensus::state::State;
use cairn_namenode::store::records::ChunkRecord;
use cairn_namenode::store::{Read, chunk};
use cairn_protocol::ids::{ChunkId, DatanodeId};
use futures::FutureExt;

use super::super::cluster::DatanodeMachine;
use super::stage::Stage;

/// A replica as it lies on a datanode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replica {
    pub(super) chunk: ChunkId,
    pub(super) datanode: DatanodeId,
    /// Which life of it.
    pub(super) incarnation: u64,
    pub(super) length: u64,
}

impl Replica {
    /// Whether the cluster relies on it.
    pub(super) fn is_listed(&self, record: &ChunkRecord) -> bool {
        let mut listed = record.replicas.iter();
        listed.any(|it| (it.datanode, it.incarnation) == (self.datanode.0, self.incarnation))
    }
}

impl Stage {
    /// Something of what a namenode has applied.
    pub(super) fn state_of<T>(
        &self,
        namenode: usize,
        look: impl FnOnce(&State) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let running = self.cluster.namenodes[namenode].running.borrow();
        let running = running.as_ref().context("the namenode runs")?;
        look(running.node.group().state())
    }

    /// All chunks as the leader knows them.
    pub(super) fn chunks(&mut self) -> anyhow::Result<BTreeMap<ChunkId, ChunkRecord>> {
        let leader = self.leader()?;
        self.state_of(leader, |state| {
            let store = state.store();
            let mut all = BTreeMap::new();
            let mut keep = |id, record| {
                all.insert(id, record);
                Ok(true)
            };
            chunk::scan(&store.snapshot(), ChunkId(0), &mut keep)?;
            Ok(all)
        })
    }

    /// How many inode numbers a namenode knows to have been given out.
    pub(super) fn inodes_given(&self, namenode: usize) -> anyhow::Result<u64> {
        self.state_of(namenode, |state| {
            let store = state.store();
            Ok(store.snapshot().cluster_record()?.next_inode)
        })
    }

    /// Entries that a leader has in its log and could not commit.
    pub(super) fn unfinished(&self, namenode: usize) -> anyhow::Result<u64> {
        let running = self.cluster.namenodes[namenode].running.borrow();
        let group = running.as_ref().context("the namenode runs")?.node.group();
        let mut members = group.members().into_iter();
        let own = members.find(|member| member.id == group.id());
        let written = own.and_then(|own| own.matched_index);
        let applied = group.state().applied_log_id();
        let applied = applied.map_or(0, |log_id| log_id.index);
        Ok(written.context("it leads")?.saturating_sub(applied))
    }

    /// Replicas with something in them on a datanode that runs, as it knows them.
    pub(super) fn replicas_on(&self, datanode: usize) -> anyhow::Result<Vec<Replica>> {
        let running = self.cluster.datanodes[datanode].running.borrow();
        let running = running.as_ref().context("the datanode runs")?;
        let id = running.registered().now_or_never();
        let id = id.context("the datanode has registered")?;
        let replicas = running.store().list().into_iter();
        let replicas = replicas.filter(|info| info.length > 0).map(|info| Replica {
            chunk: info.chunk,
            datanode: id,
            incarnation: info.incarnation.0,
            length: info.length,
        });
        Ok(replicas.collect())
    }

    /// A replica that is not listed any more: its chunk has others, and this life of it is over where it lay.
    pub(super) fn was_replaced(&mut self, datanode: usize, old: Replica) -> anyhow::Result<()> {
        let chunks = self.chunks()?;
        let record = chunks.get(&old.chunk).context("the chunk is still there")?;
        ensure!(!old.is_listed(record), "{old:?} counts: {record:?}");
        ensure!(
            record.replicas.len() as u64 == u64::from(record.replication),
            "nothing took the place of {old:?}: {record:?}"
        );
        let left = self.replicas_on(datanode)?;
        let same = |it: &&Replica| (it.chunk, it.incarnation) == (old.chunk, old.incarnation);
        let left = left.iter().find(same);
        ensure!(left.is_none(), "{left:?} is still there");
        Ok(())
    }

    /// What the datanodes that run have counted, all together.
    pub(super) fn counted(&self, counter: &str) -> u64 {
        let of_line = |line: &str| -> Option<u64> {
            let rest = line.strip_prefix(counter)?;
            rest.rsplit(' ').next()?.parse().ok()
        };
        let of_one = |machine: &DatanodeMachine| {
            let running = machine.running.borrow();
            let rendered = running.as_ref().map(|it| it.metrics().render());
            let rendered = rendered.unwrap_or_default();
            rendered.lines().filter_map(of_line).sum::<u64>()
        };
        self.cluster.datanodes.iter().map(of_one).sum()
    }
}
