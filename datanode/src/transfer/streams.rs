//! The write streams that are open, by chunk: so that a newer writer, a seal or a deletion ends the one that it fences
//! at once, even if it is idle, and its memory is free again. The chunk store fences too; this is only quicker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use cairn_protocol::ids::{ChunkId, Epoch};

/// Streams by chunk. Cheap to clone: clones share the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    by_chunk: BTreeMap<ChunkId, Stream>,
    next: u64,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    epoch: Epoch,
    ended: CancellationToken,
}

/// A stream's place in the table; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct StreamEntry {
    streams: Streams,
    chunk: ChunkId,
    number: u64,
    ended: CancellationToken,
}

impl Streams {
    /// The stream that may append to `chunk` from now on; the one before is told to end. One of an older epoch that comes
    /// late is told to end itself.
    pub(crate) fn enter(&self, chunk: ChunkId, epoch: Epoch) -> StreamEntry {
        let ended = CancellationToken::new();
        let mut table = self.lock();
        table.next += 1;
        let number = table.next;
        if table
            .by_chunk
            .get(&chunk)
            .is_some_and(|present| present.epoch > epoch)
        {
            ended.cancel();
        } else {
            let stream = Stream {
                number,
                epoch,
                ended: ended.clone(),
            };
            if let Some(before) = table.by_chunk.insert(chunk, stream) {
                before.ended.cancel();
            }
        }
        StreamEntry {
            streams: self.clone(),
            chunk,
            number,
            ended,
        }
    }

    /// Tells the stream of a chunk to end: it is sealed or gone.
    pub(crate) fn end(&self, chunk: ChunkId) {
        if let Some(stream) = self.lock().by_chunk.get(&chunk) {
            stream.ended.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No code inside can panic halfway through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamEntry {
    /// Waits until somebody else took over. Cancel-safe.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for StreamEntry {
    fn drop(&mut self) {
        let mut table = self.streams.lock();
        if table
            .by_chunk
            .get(&self.chunk)
            .is_some_and(|stream| stream.number == self.number)
        {
            table.by_chunk.remove(&self.chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::Streams;
    use cairn_protocol::ids::{ChunkId, Epoch};

    #[test]
    fn the_latest_stream_of_a_chunk_ends_the_one_before_and_only_that() {
        let streams = Streams::default();
        let first = streams.enter(ChunkId(1), Epoch(2));
        let other = streams.enter(ChunkId(2), Epoch(1));
        assert!(first.ended().now_or_never().is_none());
        let second = streams.enter(ChunkId(1), Epoch(2));
        assert!(first.ended().now_or_never().is_some());
        drop(first);
        let late = streams.enter(ChunkId(1), Epoch(1));
        assert!(late.ended().now_or_never().is_some() && second.ended().now_or_never().is_none());
        streams.end(ChunkId(1));
        assert!(second.ended().now_or_never().is_some());
        assert!(other.ended().now_or_never().is_none());
    }
}
