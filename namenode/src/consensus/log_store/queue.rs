//! The way from the log store to its writer: a bounded channel and one thread, or a plain call in the simulator.

use std::io;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc;

use super::error::LogError;
use super::writer::{Job, Writer};

/// A batch takes no further jobs above this size, so that the first of them does not wait too long.
const BATCH_BYTES_MAX: u64 = 4 << 20;

/// Sends jobs to the writer, in order.
pub(super) enum Queue {
    Thread {
        /// `None` only while the queue is being dropped.
        sender: Option<mpsc::Sender<Job>>,
        thread: Option<JoinHandle<()>>,
    },
    Inline(Box<Mutex<Writer>>),
}

/// A reserved place: what is submitted with it is written after everything submitted before.
pub(super) enum Permit<'a> {
    Thread(mpsc::Permit<'a, Job>),
    Inline(&'a Mutex<Writer>),
}

impl Queue {
    /// Starts the writer's thread. It ends when the queue is dropped.
    pub(super) fn thread(
        writer: Writer,
        jobs_max: usize,
        path: &std::path::Path,
    ) -> Result<Queue, LogError> {
        let (sender, receiver) = mpsc::channel(jobs_max);
        let thread = thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || run(writer, receiver))
            .map_err(LogError::io("start the writer of", path))?;
        Ok(Queue::Thread {
            sender: Some(sender),
            thread: Some(thread),
        })
    }

    pub(super) fn inline(writer: Writer) -> Queue {
        Queue::Inline(Box::new(Mutex::new(writer)))
    }

    /// Waits for room. Cancel-safe.
    pub(super) async fn reserve(&self) -> io::Result<Permit<'_>> {
        match self {
            Queue::Thread { sender, .. } => {
                let gone = || io::Error::other("the writer of the raft log has ended");
                let sender = sender.as_ref().ok_or_else(gone)?;
                sender
                    .reserve()
                    .await
                    .map(Permit::Thread)
                    .map_err(|_| gone())
            }
            Queue::Inline(writer) => Ok(Permit::Inline(writer)),
        }
    }
}

impl Permit<'_> {
    pub(super) fn submit(self, job: Job) {
        match self {
            Permit::Thread(permit) => permit.send(job),
            Permit::Inline(writer) => match writer.lock() {
                Ok(mut writer) => writer.write(&mut vec![job]),
                // It panicked in the middle of something: it must not go on from there.
                Err(_) => job.refuse("the writer of the raft log has panicked"),
            },
        }
    }
}

impl Drop for Queue {
    /// Blocks until the batch at hand is written, so that the directory is free afterwards.
    fn drop(&mut self) {
        if let Queue::Thread { sender, thread } = self {
            *sender = None;
            if let Some(thread) = thread.take() {
                // It only fails if the thread panicked; waiters have learnt it from their dropped channels.
                let _ = thread.join();
            }
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
