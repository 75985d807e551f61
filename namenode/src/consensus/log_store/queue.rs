//! The way from the log store to its writer: a channel bounded in jobs and bytes and one thread, or a plain call in the
//! simulator.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::error::LogError;
use super::writer::{Job, Writer};

/// A batch takes no further jobs above this size, so that the first of them does not wait too long.
const BATCH_BYTES_MAX: u64 = 4 << 20;
/// Jobs that may wait, however small.
const QUEUE_JOBS_MAX: usize = 1024;
/// Unit in which waiting bytes are counted.
const BUDGET_UNIT_BYTES: u64 = 1024;

/// Sends jobs to the writer, in order.
pub(super) enum Queue {
    Thread(WriterThread),
    Inline(Box<Mutex<Writer>>),
}

/// The writer's thread: whoever holds the queue feeds it, and it ends when the queue is dropped.
pub(super) struct WriterThread {
    /// `None` only while the queue is being dropped.
    sender: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Bytes that may still join those that wait, in units.
    budget: Arc<Semaphore>,
    budget_units: u32,
}

/// A reserved place: what is submitted with it is written after everything submitted before.
pub(super) enum Permit<'a> {
    Thread(mpsc::Permit<'a, Job>, OwnedSemaphorePermit),
    Inline(&'a Mutex<Writer>),
}

impl Queue {
    /// Starts the writer's thread.
    pub(super) fn thread(
        writer: Writer,
        bytes_max: u64,
        path: &std::path::Path,
    ) -> Result<Queue, LogError> {
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS_MAX);
        let thread = thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || run(writer, receiver))
            .map_err(LogError::io("start the writer of", path))?;
        let budget_units = units(bytes_max);
        Ok(Queue::Thread(WriterThread {
            sender: Some(sender),
            thread: Some(thread),
            budget: Arc::new(Semaphore::new(budget_units as usize)),
            budget_units,
        }))
    }

    pub(super) fn inline(writer: Writer) -> Queue {
        Queue::Inline(Box::new(Mutex::new(writer)))
    }

    /// Waits for room for a job of this size; one beyond the limit waits until it is alone. Cancel-safe.
    pub(super) async fn reserve(&self, bytes: u64) -> io::Result<Permit<'_>> {
        match self {
            Queue::Thread(thread) => thread.reserve(bytes).await,
            Queue::Inline(writer) => Ok(Permit::Inline(writer)),
        }
    }
}

impl WriterThread {
    async fn reserve(&self, bytes: u64) -> io::Result<Permit<'_>> {
        let gone = || io::Error::other("the writer of the raft log has ended");
        let sender = self.sender.as_ref().ok_or_else(gone)?;
        let units = units(bytes).min(self.budget_units);
        let budget = self.budget.clone().acquire_many_owned(units).await;
        let budget = budget.map_err(|_| gone())?;
        let permit = sender.reserve().await.map_err(|_| gone())?;
        Ok(Permit::Thread(permit, budget))
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX)
}

impl Permit<'_> {
    pub(super) fn submit(self, mut job: Job) {
        match self {
            Permit::Thread(permit, budget) => {
                job.budget = Some(budget);
                permit.send(job);
            }
            Permit::Inline(writer) => match writer.lock() {
                Ok(mut writer) => writer.write(&mut vec![job]),
                // It panicked in the middle of something: it must not go on from there.
                Err(_) => job.refuse("the writer of the raft log has panicked"),
            },
        }
    }
}

impl Drop for WriterThread {
    /// Blocks until the batch at hand is written, so that the directory is free afterwards.
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // It only fails if the thread panicked; waiters have learnt it from their dropped channels.
            let _ = thread.join();
        }
    }
}

fn run(mut writer: Writer, mut receiver: mpsc::Receiver<Job>) {
    let mut jobs = Vec::new();
    while let Some(job) = receiver.blocking_recv() {
        let mut bytes = job.bytes();
        jobs.push(job);
        while bytes < BATCH_BYTES_MAX
            && let Ok(job) = receiver.try_recv()
        {
            bytes += job.bytes();
            jobs.push(job);
        }
        writer.write(&mut jobs);
    }
}
