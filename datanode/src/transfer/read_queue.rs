//! Reads on their way to the disks. A thread that is handed one read costs more than a small read itself, so threads
//! take reads from a queue until it is empty: under load a few threads serve many small reads without anybody being
//! woken, while large reads, and small ones that wait for a slow disk, get more threads.
//!
//! Bounded twice: in threads, and in reads that wait; more are refused.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use cairn_daemon::blocking;
use cairn_protocol::ids::ChunkId;
use cairn_protocol::{ErrorCode, Failure};

use crate::replicas::{Blocks, Replicas};

/// Reads that may wait; more are told to come back.
const WAITING_MAX: usize = 4096;

/// A read of so many bytes weighs one more.
const WEIGHT_BYTES: u64 = 16 << 10;

/// How much weight may wait for each thread before another one helps: eight small reads, or a large one.
const WEIGHT_PER_WORKER: u64 = 8;

/// Cheap to clone: clones share the queue.
#[derive(Clone, Debug)]
pub(crate) struct ReadQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    replicas: Replicas,
    workers_max: u64,
    /// Held for a push or a pop.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Of all jobs.
    weight: u64,
    /// Threads that take from `jobs`.
    workers: u64,
}

#[derive(Debug)]
struct Job {
    chunk: ChunkId,
    range: Range<u64>,
    /// Closed if the reader went away.
    answer: oneshot::Sender<Result<Blocks, Failure>>,
}

impl Job {
    fn weight(&self) -> u64 {
        1 + (self.range.end - self.range.start) / WEIGHT_BYTES
    }
}

impl ReadQueue {
    pub(crate) fn new(replicas: Replicas, workers_max: u32) -> Self {
        let workers_max = workers_max.into();
        Self {
            shared: Arc::new(Shared {
                replicas,
                workers_max,
                state: Mutex::default(),
            }),
        }
    }

    /// Reads that wait, and threads that read.
    pub(crate) fn count(&self) -> usize {
        let state = self.shared.lock();
        state.jobs.len() + state.workers as usize
    }

    /// Reads the checksum blocks that cover a range.
    pub(crate) async fn read(&self, chunk: ChunkId, range: Range<u64>) -> Result<Blocks, Failure> {
        let (answer, mut answered) = oneshot::channel();
        let hire = self.shared.push(Job {
            chunk,
            range,
            answer,
        })?;
        if hire {
            let shared = Arc::clone(&self.shared);
            // The thread is polled first, and so provided in any case: it is counted already. It goes on when this future
            // is gone, for it serves others too.
            tokio::select! {
                biased;
                () = blocking(move || Worker::new(&shared).run()) => {}
                result = &mut answered => return result.unwrap_or_else(|_| Err(lost())),
            }
        }
        answered.await.unwrap_or_else(|_| Err(lost()))
    }
}

/// A job is dropped without an answer only when its thread panics.
fn lost() -> Failure {
    Failure::new(ErrorCode::Internal, "the read was lost")
}

impl Shared {
    /// Queues a job; true if the caller must provide a thread.
    fn push(&self, job: Job) -> Result<bool, Failure> {
        let mut state = self.lock();
        if state.jobs.len() >= WAITING_MAX {
            return Err(Failure::new(
                ErrorCode::Overloaded,
                "too many reads wait for the disks",
            ));
        }
        state.weight += job.weight();
        state.jobs.push_back(job);
        let hire =
            state.workers < self.workers_max && state.weight > state.workers * WEIGHT_PER_WORKER;
        state.workers += u64::from(hire);
        Ok(hire)
    }

    /// The next job; without one the thread that asks has left. Both under one lock: whoever pushes a job either finds
    /// it taken by a thread that will look again, or is told to provide one.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        let Some(job) = state.jobs.pop_front() else {
            state.workers -= 1;
            return None;
        };
        state.weight -= job.weight();
        Some(job)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code inside can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread that serves the queue; counted out when it finds it empty, or by a panic.
struct Worker<'a> {
    shared: &'a Shared,
    left: bool,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            left: false,
        }
    }

    fn run(mut self) {
        while let Some(job) = self.shared.next() {
            if !job.answer.is_closed() {
                let result = self.shared.replicas.read_blocking(job.chunk, job.range);
                // The reader may have gone meanwhile.
                let _ = job.answer.send(result);
            }
        }
        self.left = true;
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if !self.left {
            self.shared.lock().workers -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::{Job, ReadQueue, WAITING_MAX};
    use crate::changes::Changes;
    use crate::chunk_store::ChunkStore;
    use crate::metrics::Metrics;
    use crate::replicas::Replicas;
    use cairn_protocol::ErrorCode;
    use cairn_protocol::ids::ChunkId;

    fn queue(workers_max: u32) -> ReadQueue {
        let store = Arc::new(ChunkStore::new(Vec::new()));
        let metrics = Arc::new(Metrics::new());
        ReadQueue::new(
            Replicas::new(store, Arc::new(Changes::default()), metrics),
            workers_max,
        )
    }

    fn job(length: u64) -> Job {
        Job {
            chunk: ChunkId(1),
            range: 0..length,
            answer: oneshot::channel().0,
        }
    }

    #[test]
    fn a_thread_that_found_nothing_is_not_counted_on() {
        let queue = queue(4);
        assert!(queue.shared.push(job(1)).unwrap());
        assert!(queue.shared.next().is_some());
        assert!(
            !queue.shared.push(job(1)).unwrap(),
            "the thread is still there"
        );
        assert!(queue.shared.next().is_some() && queue.shared.next().is_none());
        assert!(queue.shared.push(job(1)).unwrap(), "it has left");
    }

    #[test]
    fn many_small_reads_share_a_thread_and_large_ones_get_their_own() {
        let small = queue(4);
        let hired = (0..20)
            .filter(|_| small.shared.push(job(4096)).unwrap())
            .count();
        assert_eq!(hired, 3);
        let large = queue(4);
        let hired = (0..20)
            .filter(|_| large.shared.push(job(1 << 20)).unwrap())
            .count();
        assert_eq!(hired, 4, "the most there may be");
        assert!((20..WAITING_MAX).all(|_| !large.shared.push(job(1)).unwrap()));
        assert_eq!(
            large.shared.push(job(1)).unwrap_err().code,
            ErrorCode::Overloaded
        );
    }

    /// Readers on several threads, so that pushes, pops and answers meet in every order. A thread that is counted and not
    /// there would stop it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_read_is_forgotten() {
        let queue = queue(3);
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let queue = queue.clone();
            readers.spawn(async move {
                for _ in 0..2000 {
                    let two = futures::future::join(
                        queue.read(ChunkId(1), 0..10),
                        queue.read(ChunkId(2), 0..100_000),
                    );
                    assert!(two.await.0.is_err());
                }
            });
        }
        readers.join_all().await;
        while queue.count() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(
            queue.shared.push(job(1)).unwrap(),
            "nobody is counted who is not there"
        );
    }

    #[tokio::test]
    async fn failures_reach_the_reader_and_threads_leave() {
        let queue = queue(2);
        let error = queue.read(ChunkId(1), 0..10).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NoReplica);
        while queue.count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
