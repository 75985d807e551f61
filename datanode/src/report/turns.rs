//! One order for a chunk at a time, so that nothing happens between the look at an incarnation and the deed. A turn lasts as long as
//! the work on the disk, also when nobody waits for it any more; other chunks have their own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use cairn_protocol::ids::ChunkId;

/// Cheap to clone: clones share the turns.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Chunks whose turn is taken. Held for a look.
    taken: Mutex<BTreeSet<ChunkId>>,
    freed: Notify,
}

/// A chunk's turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    shared: Arc<Shared>,
    chunk: ChunkId,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<ChunkId>> {
        // No code inside can panic halfway through a change.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    /// The chunk's turn, if nobody has it.
    pub(super) fn try_take(&self, chunk: ChunkId) -> Option<Turn> {
        let is_free = self.shared.lock().insert(chunk);
        is_free.then(|| Turn {
            shared: Arc::clone(&self.shared),
            chunk,
        })
    }

    /// Waits for the chunk's turn. Cancel-safe.
    pub(super) async fn take(&self, chunk: ChunkId) -> Turn {
        loop {
            // It hears of every turn that ends from here on: so of one that ends after the look.
            let freed = self.shared.freed.notified();
            if let Some(turn) = self.try_take(chunk) {
                return turn;
            }
            freed.await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.chunk);
        self.shared.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::{ChunkId, Turns};

    #[tokio::test]
    async fn a_chunk_has_one_turn_and_others_have_theirs() {
        let turns = Turns::default();
        let first = turns.take(ChunkId(1)).await;
        assert!(turns.try_take(ChunkId(1)).is_none());
        assert!(turns.try_take(ChunkId(65)).is_some());
        let waiting = turns.take(ChunkId(1));
        let ending = async { drop(first) };
        let (second, ()) = tokio::join!(waiting, ending);
        drop(second);
        assert!(turns.try_take(ChunkId(1)).is_some());
    }
}
