//! Recently read sealed replicas: open handles and the index of their blocks, least recently used ones first to go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_protocol::ids::{ChunkId, Incarnation};

use super::data_file::DataFile;
use super::index::BlockIndex;

/// Replicas kept open at most; each may have two handles.
const REPLICAS_MAX: usize = 1024;

/// What handles and table entries cost besides the index.
const FIXED_BYTES: usize = 512;

/// A sealed replica, ready to be read.
pub(super) struct HotReplica {
    pub incarnation: Incarnation,
    pub data: DataFile,
    pub index: BlockIndex,
}

impl HotReplica {
    fn memory(&self) -> usize {
        self.index.memory() + FIXED_BYTES
    }
}

/// Bounded by memory and by open handles.
pub(super) struct Cache {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    replicas: BTreeMap<ChunkId, (u64, Arc<HotReplica>)>,
    /// By last use. Ticks are unique.
    by_use: BTreeMap<u64, ChunkId>,
    tick: u64,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replica, if it is here and of this incarnation.
    pub(super) fn find(&self, chunk: ChunkId, incarnation: Incarnation) -> Option<Arc<HotReplica>> {
        let mut state = self.lock();
        let state = &mut *state;
        let (used, replica) = state.replicas.get_mut(&chunk)?;
        if replica.incarnation != incarnation {
            return None;
        }
        state.by_use.remove(used);
        state.tick += 1;
        *used = state.tick;
        state.by_use.insert(state.tick, chunk);
        Some(Arc::clone(replica))
    }

    /// Keeps a replica, and lets others go for it.
    pub(super) fn insert(&self, chunk: ChunkId, replica: Arc<HotReplica>) {
        let mut state = self.lock();
        state.remove(chunk);
        state.bytes += replica.memory();
        state.tick += 1;
        let tick = state.tick;
        state.replicas.insert(chunk, (tick, replica));
        state.by_use.insert(tick, chunk);
        while state.replicas.len() > REPLICAS_MAX
            || (state.bytes > self.bytes_max && state.replicas.len() > 1)
        {
            let Some((_, oldest)) = state.by_use.first_key_value() else {
                break;
            };
            let oldest = *oldest;
            state.remove(oldest);
        }
    }

    /// Forgets a replica.
    pub(super) fn remove(&self, chunk: ChunkId) {
        self.lock().remove(chunk);
    }
}

impl State {
    fn remove(&mut self, chunk: ChunkId) {
        if let Some((used, replica)) = self.replicas.remove(&chunk) {
            self.by_use.remove(&used);
            self.bytes -= replica.memory();
        }
    }
}
