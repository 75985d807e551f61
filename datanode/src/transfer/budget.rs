//! What all streams and reads of a datanode may take together. Whoever cannot have its share is refused at once: a
//! request that waits for memory which others hold is how pipelines that cross would deadlock.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use cairn_protocol::{ErrorCode, Failure};

/// Budgets are counted in units of this many bytes, so that terabytes fit a semaphore.
const UNIT_BYTES: u64 = 4096;

/// Memory and slots for write streams.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    memory: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    streams_max: usize,
    memory_bytes: u64,
}

/// What one write stream holds until it ends.
#[derive(Debug)]
pub(crate) struct Reservation {
    _memory: OwnedSemaphorePermit,
    _stream: OwnedSemaphorePermit,
}

impl Budget {
    /// At most `streams_max` streams with windows of `memory_bytes` together.
    pub(crate) fn new(streams_max: usize, memory_bytes: u64) -> Self {
        let units = usize::try_from(memory_bytes / UNIT_BYTES).unwrap_or(usize::MAX);
        Self {
            memory: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            streams: Arc::new(Semaphore::new(streams_max.min(Semaphore::MAX_PERMITS))),
            streams_max,
            memory_bytes,
        }
    }

    /// Takes a stream's share, or says at once that it cannot be had.
    pub(crate) fn reserve(&self, window_bytes: u32) -> Result<Reservation, Failure> {
        let units = u64::from(window_bytes).div_ceil(UNIT_BYTES).max(1);
        let units = u32::try_from(units).expect("a 32-bit window has fewer units");
        let stream = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let text = format!(
                "{} write streams are open, the limit of this datanode",
                self.streams_max
            );
            Failure::new(ErrorCode::Overloaded, text)
        })?;
        let memory = Arc::clone(&self.memory).try_acquire_many_owned(units).map_err(|_| {
            let text = format!(
                "a window of {window_bytes} bytes does not fit what is left of {} bytes for write streams",
                self.memory_bytes
            );
            Failure::new(ErrorCode::Overloaded, text)
        })?;
        Ok(Reservation {
            _memory: memory,
            _stream: stream,
        })
    }

    /// Open write streams.
    pub(crate) fn stream_count(&self) -> usize {
        self.streams_max
            .saturating_sub(self.streams.available_permits())
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;
    use cairn_protocol::ErrorCode;

    #[test]
    fn what_does_not_fit_is_refused_at_once_and_ended_streams_make_room() {
        let budget = Budget::new(2, 1 << 20);
        let first = budget.reserve(1 << 20).unwrap();
        assert_eq!(budget.reserve(1).unwrap_err().code, ErrorCode::Overloaded);
        drop(first);
        let _small = [budget.reserve(0).unwrap(), budget.reserve(1).unwrap()];
        assert_eq!(budget.stream_count(), 2);
        let refused = budget.reserve(1).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Overloaded);
        assert!(refused.message.contains("2 write streams"));
    }
}
