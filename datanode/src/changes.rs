//! What the leader should hear of with the next heartbeat. Bounded: if more replicas change than are remembered, all of them are
//! reported; of sources that failed copies some are forgotten, for they are evidence and will fail again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{ChunkId, DatanodeId};

/// Changed replicas that are remembered one by one.
const CHUNKS_MAX: usize = 100_000;

/// Failed sources that are remembered: as many as one heartbeat tells of.
const SOURCES_MAX: usize = 100;

/// Shared by whoever notices something and the heartbeat.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Held for moments.
    news: Mutex<News>,
    /// The heartbeat waits for it.
    wake: Notify,
}

/// What is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Replicas of this datanode whose state changed.
    pub chunks: BTreeSet<ChunkId>,
    /// More changed than were remembered: all replicas are to be reported.
    pub everything: bool,
    /// Replicas of other datanodes that could not be copied, and how they failed.
    pub sources: BTreeMap<(ChunkId, DatanodeId), ErrorCode>,
}

impl News {
    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && !self.everything && self.sources.is_empty()
    }

    fn add_chunk(&mut self, chunk: ChunkId) {
        if self.everything {
            return;
        }
        self.chunks.insert(chunk);
        if self.chunks.len() > CHUNKS_MAX {
            self.chunks.clear();
            self.everything = true;
        }
    }

    fn add_source(&mut self, source: (ChunkId, DatanodeId), code: ErrorCode) {
        if self.sources.len() < SOURCES_MAX {
            self.sources.insert(source, code);
        }
    }
}

impl Changes {
    /// The leader should hear of this replica now.
    pub(crate) fn note(&self, chunk: ChunkId) {
        self.lock().add_chunk(chunk);
        self.wake.notify_one();
    }

    /// The leader should have this replica of another datanode looked at.
    pub(crate) fn note_source(&self, chunk: ChunkId, datanode: DatanodeId, code: ErrorCode) {
        self.lock().add_source((chunk, datanode), code);
        self.wake.notify_one();
    }

    /// The leader should hear of something else now: a volume's state.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until there is something to tell. Cancel-safe.
    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// What one heartbeat can tell, with at most so many replicas; it is forgotten here. Whoever cannot deliver it puts it back.
    pub(crate) fn take(&self, chunks_max: usize) -> News {
        let mut news = self.lock();
        let mut taken = News {
            chunks: BTreeSet::new(),
            everything: std::mem::take(&mut news.everything),
            sources: std::mem::take(&mut news.sources),
        };
        while taken.chunks.len() < chunks_max
            && let Some(chunk) = news.chunks.pop_first()
        {
            taken.chunks.insert(chunk);
        }
        if !news.is_empty() {
            self.wake.notify_one();
        }
        taken
    }

    /// Back to be told with the next heartbeat.
    pub(crate) fn put_back(&self, taken: News) {
        let mut news = self.lock();
        if taken.everything {
            news.chunks.clear();
            news.everything = true;
        }
        taken
            .chunks
            .into_iter()
            .for_each(|chunk| news.add_chunk(chunk));
        for (source, code) in taken.sources {
            news.add_source(source, code);
        }
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        // No code inside can panic halfway through a change.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNKS_MAX, Changes, News, SOURCES_MAX};
    use cairn_protocol::ErrorCode;
    use cairn_protocol::ids::{ChunkId, DatanodeId};

    #[test]
    fn too_many_changes_become_a_report_of_everything() {
        let changes = Changes::default();
        let count = CHUNKS_MAX as u64 + 10;
        (0..count).for_each(|chunk| changes.note(ChunkId(chunk)));
        let news = changes.take(10);
        assert!(news.everything && news.chunks.is_empty());
        changes.note(ChunkId(1));
        assert_eq!(changes.take(10).chunks, [ChunkId(1)].into());
        // What could not be told is not forgotten, however much there is.
        changes.note(ChunkId(2));
        changes.put_back(news);
        assert!(changes.take(10).everything);
        assert_eq!(changes.take(10), News::default());
    }

    #[test]
    fn news_come_in_pieces_and_come_back_if_they_were_not_heard() {
        let changes = Changes::default();
        (0..5).for_each(|chunk| changes.note(ChunkId(chunk)));
        let first = changes.take(3);
        assert_eq!(first.chunks.len(), 3);
        changes.put_back(first);
        assert_eq!(changes.take(9).chunks.len(), 5);
    }

    #[test]
    fn failed_sources_are_bounded() {
        let changes = Changes::default();
        for chunk in 0..2 * SOURCES_MAX as u64 {
            changes.note_source(ChunkId(chunk), DatanodeId(1), ErrorCode::ChecksumMismatch);
        }
        let news = changes.take(10);
        assert_eq!(news.sources.len(), SOURCES_MAX);
        changes.note_source(ChunkId(1), DatanodeId(2), ErrorCode::NoReplica);
        changes.put_back(news);
        assert_eq!(changes.take(10).sources.len(), SOURCES_MAX);
    }
}
