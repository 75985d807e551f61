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
            // The thread goes on when this future is gone; it serves others too.
            tokio::select! {
                biased;
                result = &mut answered => return result.unwrap_or_else(|_| Err(lost())),
                () = blocking(move || Worker(&shared).run()) => {}
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

    /// The next job; without one the thread that asks has left.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        let job = state.jobs.pop_front()?;
        state.weight -= job.weight();
        Some(job)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code inside can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread that serves the queue; counted out when it ends, also by a panic.
struct Worker<'a>(&'a Shared);

impl Worker<'_> {
    fn run(self) {
        while let Some(job) = self.0.next() {
            if !job.answer.is_closed() {
                let result = self.0.replicas.read_blocking(job.chunk, job.range);
                // The reader may have gone meanwhile.
                let _ = job.answer.send(result);
            }
        }
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.0.lock().workers -= 1;
    }
}
