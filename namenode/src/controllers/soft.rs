//! What one term of leadership has learned. Thrown away with the term; nothing here is a truth, only evidence and work to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use cairn_protocol::ids::{ChunkId, DatanodeId, Epoch, Incarnation, SessionId};
use cairn_protocol::messages::common::ClusterSettings;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::balance::Balance;
use super::copies::{CopyJob, CopyQueue};
use super::decide::Health;
use super::instruct::Outbox;
use super::registry::Registry;
use super::sessions::Sessions;
use crate::store::records::DatanodeRecord;
use crate::store::{Read, StoreError, datanode};

/// The soft state.
#[derive(Debug)]
pub(super) struct Soft {
    /// The term that it belongs to; 0 before the first.
    pub term: u64,
    pub rng: StdRng,
    /// When this leader took over the current token key, or made it.
    pub keys_since: Option<Instant>,
    pub datanodes: Registry,
    pub sessions: Sessions,
    /// Sessions whose expiry has been proposed.
    pub ending: BTreeSet<SessionId>,
    pub work: Work,
    /// Chunks that need a copy.
    pub queue: CopyQueue,
    pub balance: Balance,
    /// Copies that run: one per chunk.
    pub copies: BTreeMap<ChunkId, CopyJob>,
    pub outbox: Outbox,
    /// Replicas outside the committed set that are to be deleted once that is safe.
    /// The chunk is part of the key: damaged replicas that lost their header are all of incarnation 0.
    pub deletes: BTreeSet<(DatanodeId, ChunkId, Incarnation)>,
    /// Deletions that were refused, and when they are tried again: a disk that hangs refuses them as quickly as they come.
    pub deletes_later: BTreeSet<(Instant, (DatanodeId, ChunkId, Incarnation))>,
    /// How far the walk through `deletes` is.
    pub delete_cursor: (DatanodeId, ChunkId, Incarnation),
    /// Idle chunks, and since when this leader has seen them idle at this epoch.
    pub idle: BTreeMap<ChunkId, (Epoch, Instant)>,
    /// Idle chunks that were offered to a session at this epoch, so that two do not compete for one.
    pub offered: BTreeMap<ChunkId, Epoch>,
    /// Chunks that are not simply sealed and well.
    pub health: BTreeMap<ChunkId, Health>,
    /// A compaction of this leader runs: an open chunk that compaction allocated is not one that a former leader left behind.
    pub compacting: bool,
    /// Chunks whose compaction failed, and until when they are left alone.
    pub compaction_avoid: BTreeMap<ChunkId, Instant>,
}

impl Soft {
    /// Before the first term.
    pub fn new(seed: u64) -> Self {
        Self {
            term: 0,
            rng: StdRng::seed_from_u64(seed),
            keys_since: None,
            datanodes: Registry::default(),
            sessions: Sessions::default(),
            ending: BTreeSet::new(),
            work: Work::default(),
            queue: CopyQueue::default(),
            balance: Balance::default(),
            copies: BTreeMap::new(),
            outbox: Outbox::default(),
            deletes: BTreeSet::new(),
            deletes_later: BTreeSet::new(),
            delete_cursor: (DatanodeId(0), ChunkId(0), Incarnation(0)),
            idle: BTreeMap::new(),
            offered: BTreeMap::new(),
            health: BTreeMap::new(),
            compacting: false,
            compaction_avoid: BTreeMap::new(),
        }
    }

    /// Forgets everything but how to draw random numbers.
    pub fn forget_term(&mut self) {
        let rng = self.rng.clone();
        *self = Self {
            rng,
            ..Self::new(0)
        };
    }

    /// Starts over: every session and datanode has a full life, every chunk is looked at once.
    pub fn begin_term(
        &mut self,
        term: u64,
        reader: &impl Read,
        now: Instant,
    ) -> Result<(), StoreError> {
        self.forget_term();
        self.datanodes.refresh(datanode_records(reader)?, now);
        let ttl = Duration::from_millis(settings(reader)?.session_ttl_ms);
        self.sessions.find(reader, now + ttl)?;
        self.work.scan_chunks();
        // Last, so that a failure on the way is a failure to begin.
        self.term = term;
        Ok(())
    }
}

/// The cluster's settings; zeros before it is founded, when there is nothing to control.
pub(super) fn settings(reader: &impl Read) -> Result<ClusterSettings, StoreError> {
    Ok(reader.cluster_record()?.settings.unwrap_or_default())
}

/// All datanodes of the committed state.
pub(super) fn datanode_records(
    reader: &impl Read,
) -> Result<BTreeMap<DatanodeId, DatanodeRecord>, StoreError> {
    let mut records = BTreeMap::new();
    datanode::scan(reader, DatanodeId(0), &mut |id, record| {
        records.insert(id, record);
        Ok(true)
    })?;
    Ok(records)
}

/// A walk through chunks, a few at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// All chunks, from this one on.
    Chunks(ChunkId),
    /// The chunks of a datanode, from this one on.
    Datanode(DatanodeId, ChunkId),
}

/// Chunks to examine.
#[derive(Debug, Default)]
pub(super) struct Work {
    dirty: BTreeSet<ChunkId>,
    delayed: BTreeSet<(Instant, ChunkId)>,
    /// At most one for each datanode, and one for all.
    scans: VecDeque<Scan>,
}

impl Work {
    /// Look at it soon.
    pub fn touch(&mut self, chunk: ChunkId) {
        self.dirty.insert(chunk);
    }

    /// Look at it then.
    pub fn touch_at(&mut self, when: Instant, chunk: ChunkId) {
        self.delayed.insert((when, chunk));
    }

    /// Look at all chunks.
    pub fn scan_chunks(&mut self) {
        self.scans.retain(|scan| !matches!(scan, Scan::Chunks(_)));
        self.scans.push_back(Scan::Chunks(ChunkId(0)));
    }

    /// Look at all chunks of a datanode.
    pub fn scan_datanode(&mut self, datanode: DatanodeId) {
        self.scans
            .retain(|scan| !matches!(scan, Scan::Datanode(of, _) if *of == datanode));
        self.scans.push_back(Scan::Datanode(datanode, ChunkId(0)));
    }

    /// The walk that is to go on, if there is one.
    pub fn next_scan(&mut self) -> Option<Scan> {
        self.scans.pop_front()
    }

    /// Goes on with a walk, after the others had their turn.
    pub fn put_scan(&mut self, scan: Scan) {
        self.scans.push_back(scan);
    }

    /// Some of the chunks that are due.
    pub fn take(&mut self, now: Instant, limit: usize) -> Vec<ChunkId> {
        while let Some((when, chunk)) = self.delayed.first().copied() {
            if when > now {
                break;
            }
            self.delayed.pop_first();
            self.dirty.insert(chunk);
        }
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(chunk) = self.dirty.pop_first()
        {
            taken.push(chunk);
        }
        taken
    }

    /// Whether something waits to be looked at now.
    pub fn is_waiting(&self) -> bool {
        !self.dirty.is_empty() || !self.scans.is_empty()
    }
}
