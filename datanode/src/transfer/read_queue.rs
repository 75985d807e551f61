//! Reads on their way to the disks. A thread that is handed one read costs more than a small read itself, so threads
//! take reads from a queue until it is empty: under load a few threads serve many small reads without anybody being
//! woken, while large reads, and small ones that wait for a slow disk, get more threads.
//!
//! Each volume has a queue and a share of the threads, so that reads of one do not wait for the disk of another. Half of the threads are
//! for whoever needs more than its share, and those that wait for a disk that hangs are not counted among them.
//!
//! Bounded: in threads, and in reads that wait; more are refused.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::OptionFuture;
use tokio::sync::oneshot;
use tokio::time::sleep;

use cairn_daemon::blocking;
use cairn_protocol::ids::ChunkId;
use cairn_protocol::{ErrorCode, Failure};

use crate::chunk_store::Volume;
use crate::replicas::{Blocks, Replicas};

/// Reads of one volume that may wait; more are told to come back.
const WAITING_MAX: usize = 4096;

/// A read of so many bytes weighs one more.
const WEIGHT_BYTES: u64 = 16 << 10;

/// How much weight may wait for each thread before another one helps: eight small reads, or a large one.
const WEIGHT_PER_WORKER: u64 = 8;

/// Who waits for so long looks whether the disk hangs.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Cheap to clone: clones share the queues.
#[derive(Clone, Debug)]
pub(crate) struct ReadQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    replicas: Replicas,
    limits: Limits,
    /// One for each volume. Held for a push or a pop.
    queues: Mutex<Vec<Queue>>,
}

/// Of threads.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// A volume may always have so many.
    share: u64,
    /// So many are for volumes that need more.
    common: u64,
    /// With more than this, counting those that wait for disks that hang, no volume gets more than its share.
    all: u64,
}

#[derive(Debug)]
struct Queue {
    volume: Arc<Volume>,
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

impl Limits {
    fn new(workers_max: u64, volumes: u64) -> Self {
        let share = (workers_max / (2 * volumes.max(1))).max(1);
        Self {
            share,
            common: workers_max.saturating_sub(share * volumes),
            all: 2 * workers_max,
        }
    }
}

impl ReadQueue {
    pub(crate) fn new(replicas: Replicas, workers_max: u32) -> Self {
        let volumes = replicas.volumes();
        let limits = Limits::new(workers_max.into(), volumes.len() as u64);
        let queues = volumes.iter().map(|volume| Queue {
            volume: Arc::clone(volume),
            jobs: VecDeque::new(),
            weight: 0,
            workers: 0,
        });
        Self {
            shared: Arc::new(Shared {
                limits,
                queues: Mutex::new(queues.collect()),
                replicas,
            }),
        }
    }

    /// Reads that wait, and threads that read.
    pub(crate) fn count(&self) -> usize {
        let queues = self.shared.lock();
        let count = |queue: &Queue| queue.jobs.len() + queue.workers as usize;
        queues.iter().map(count).sum()
    }

    /// Reads the checksum blocks that cover a range. Does not wait for a disk that hangs.
    pub(crate) async fn read(&self, chunk: ChunkId, range: Range<u64>) -> Result<Blocks, Failure> {
        let (number, volume) = self.shared.replicas.volume_of(chunk)?;
        volume.expect_answering()?;
        let (answer, mut answered) = oneshot::channel();
        let job = Job {
            chunk,
            range,
            answer,
        };
        let mut works = self.shared.push(number, job)?;
        let worker = OptionFuture::from(works.then(|| {
            let shared = Arc::clone(&self.shared);
            blocking(move || Worker::new(&shared, number).run())
        }));
        tokio::pin!(worker);
        // The thread is polled first, and so provided in any case: it is counted already. It goes on when this future
        // is gone, for it serves others too.
        loop {
            tokio::select! {
                biased;
                _ = &mut worker, if works => works = false,
                result = &mut answered => return result.unwrap_or_else(|_| Err(lost())),
                () = sleep(LOOK_AFTER) => volume.expect_answering()?,
            }
        }
    }
}

/// A job is dropped without an answer only when its thread panics.
fn lost() -> Failure {
    Failure::new(ErrorCode::Internal, "the read was lost")
}

impl Shared {
    /// Queues a job of this volume; true if the caller must provide a thread.
    fn push(&self, number: usize, job: Job) -> Result<bool, Failure> {
        let mut queues = self.lock();
        let queue = &mut queues[number];
        if queue.jobs.len() >= WAITING_MAX {
            return Err(Failure::new(
                ErrorCode::Overloaded,
                "too many reads wait for the disk",
            ));
        }
        queue.weight += job.weight();
        queue.jobs.push_back(job);
        let hire = queue.weight > queue.workers * WEIGHT_PER_WORKER
            && (queue.workers < self.limits.share || self.has_more(&queues));
        queues[number].workers += u64::from(hire);
        Ok(hire)
    }

    /// Whether a volume may have more threads than its share.
    fn has_more(&self, queues: &[Queue]) -> bool {
        let share = self.limits.share;
        let beyond = queues.iter().filter(|queue| queue.workers > share);
        let counted = beyond.filter(|queue| !queue.volume.is_hanging());
        let common: u64 = counted.map(|queue| queue.workers - share).sum();
        let all: u64 = queues.iter().map(|queue| queue.workers).sum();
        common < self.limits.common && all < self.limits.all
    }

    /// The next job of this volume; without one the thread that asks has left. Both under one lock: whoever pushes a job either finds
    /// it taken by a thread that will look again, or is told to provide one.
    fn next(&self, number: usize) -> Option<Job> {
        let mut queues = self.lock();
        let queue = &mut queues[number];
        let Some(job) = queue.jobs.pop_front() else {
            queue.workers -= 1;
            return None;
        };
        queue.weight -= job.weight();
        Some(job)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Queue>> {
        // No code inside can panic halfway through a change.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread that serves the queue of a volume; counted out when it finds it empty, or by a panic.
struct Worker<'a> {
    shared: &'a Shared,
    number: usize,
    left: bool,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, number: usize) -> Self {
        Self {
            shared,
            number,
            left: false,
        }
    }

    fn run(mut self) {
        while let Some(job) = self.shared.next(self.number) {
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
            self.shared.lock()[self.number].workers -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::{Job, Limits, ReadQueue, WAITING_MAX};
    use crate::changes::Changes;
    use crate::chunk_store::{ChunkStore, Volume, VolumeOptions};
    use crate::metrics::Metrics;
    use crate::replicas::Replicas;
    use cairn_daemon::disk::sim::SimDisk;
    use cairn_protocol::ErrorCode;
    use cairn_protocol::ids::ChunkId;

    /// Of so many volumes; on the first are two empty replicas, of which reads fail.
    fn queue_of(volumes: usize, workers_max: u32) -> ReadQueue {
        let disk = SimDisk::new();
        let volumes = (0..volumes).map(|number| {
            let path = format!("/volume{number}");
            let options = VolumeOptions::default();
            let opened = Volume::open(Arc::new(disk.clone()), path.as_ref(), options);
            Arc::new(opened.unwrap())
        });
        let store = Arc::new(ChunkStore::new(volumes.collect()));
        for chunk in [1, 2] {
            let chunk = ChunkId(chunk);
            store.volumes()[0]
                .create(chunk, 1.into(), 1.into())
                .unwrap();
        }
        let metrics = Arc::new(Metrics::new());
        ReadQueue::new(
            Replicas::new(store, Arc::new(Changes::default()), metrics),
            workers_max,
        )
    }

    fn queue(workers_max: u32) -> ReadQueue {
        queue_of(1, workers_max)
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
        assert!(queue.shared.push(0, job(1)).unwrap());
        assert!(queue.shared.next(0).is_some());
        assert!(
            !queue.shared.push(0, job(1)).unwrap(),
            "the thread is still there"
        );
        assert!(queue.shared.next(0).is_some() && queue.shared.next(0).is_none());
        assert!(queue.shared.push(0, job(1)).unwrap(), "it has left");
    }

    #[test]
    fn many_small_reads_share_a_thread_and_large_ones_get_their_own() {
        let small = queue(4);
        let hired = (0..20)
            .filter(|_| small.shared.push(0, job(4096)).unwrap())
            .count();
        assert_eq!(hired, 3);
        let large = queue(4);
        let hired = (0..20)
            .filter(|_| large.shared.push(0, job(1 << 20)).unwrap())
            .count();
        assert_eq!(hired, 4, "the most there may be");
        assert!((20..WAITING_MAX).all(|_| !large.shared.push(0, job(1)).unwrap()));
        assert_eq!(
            large.shared.push(0, job(1)).unwrap_err().code,
            ErrorCode::Overloaded
        );
    }

    #[test]
    fn a_volume_takes_what_is_common_and_the_others_keep_their_share() {
        let queue = queue_of(2, 8);
        let hired = |number| {
            let pushed = (0..20).map(|_| queue.shared.push(number, job(1 << 20)).unwrap());
            pushed.filter(|hire| *hire).count()
        };
        assert_eq!((hired(0), hired(1)), (6, 2));
        for (workers_max, volumes) in [(1, 1), (1, 5), (64, 1), (64, 3), (64, 12), (10_000, 100)] {
            let limits = Limits::new(workers_max, volumes);
            let most = limits.common + limits.share * volumes;
            assert_eq!(most, workers_max.max(volumes), "{limits:?}");
        }
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
            queue.shared.push(0, job(1)).unwrap(),
            "nobody is counted who is not there"
        );
    }

    #[tokio::test]
    async fn failures_reach_the_reader_and_threads_leave() {
        let queue = queue(2);
        let error = queue.read(ChunkId(1), 0..10).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::WrongLength);
        let error = queue.read(ChunkId(3), 0..10).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NoReplica);
        while queue.count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
