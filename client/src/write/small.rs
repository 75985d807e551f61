//! Many small contents share a chunk and a pipeline: what several callers append at the same time travels as one packet.
//!
//! Appends that are to be on disk before they are acknowledged have streams and chunks of their own: nobody else waits for the
//! disks.
//!
//! Each append is acknowledged to its caller alone, who then commits it. A chunk is given back or sealed only after every
//! caller with bytes in it has committed or lost interest, because no commit may name it afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::buffer;
use cairn_protocol::messages::operation::CommitExtent;
use cairn_protocol::{ErrorCode, Failure};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::packet::{PACKET_BYTES, Packet};
use super::pipeline::{Pipeline, PipelineFailure, seal};
use super::placement::Placement;
use crate::error::{Error, Result, Subject};
use crate::file_system::Core;
use crate::namenode::lock;

/// Streams of one kind: two, so that one may roll over to another chunk while the other goes on.
const STREAMS: usize = 2;
/// Packets in flight per stream: while two are on their way, appends gather for the next.
const GROUPS_IN_FLIGHT: usize = 2;
/// Most appends in one packet: each has at least a checksum block of its own in the header.
const GROUP_APPENDS_MAX: usize = 1024;
/// Appends that wait in a stream's channel.
const QUEUE: usize = 256;
/// Window of a stream, which every datanode reserves.
const WINDOW_BYTES: usize = 2 << 20;
/// A stream without appends for this long gives its chunk back.
const IDLE: Duration = Duration::from_secs(5);
/// How often one append goes into another chunk before its caller hears of it.
const ATTEMPTS_MAX: u32 = 5;

/// Appends that share streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StreamKind {
    replication: u32,
    /// Acknowledged once all replicas have fsynced them.
    sync: bool,
}

/// The shared streams of a file system.
pub(crate) struct SmallFiles {
    core: Arc<Core>,
    /// Senders to the streams' tasks; `None` once closed. Held for a look-up.
    streams: Mutex<Option<BTreeMap<StreamKind, Streams>>>,
}

struct Streams {
    senders: [mpsc::Sender<Append>; STREAMS],
    next: AtomicUsize,
}

/// Bytes that all replicas have, at a place in an open chunk. Until it is dropped the chunk can be committed.
#[derive(Debug)]
pub(crate) struct Placed {
    /// `offset_in_file` is for the caller to set.
    pub(crate) extent: CommitExtent,
    chunk: ChunkUse,
}

impl Placed {
    /// A commit failed because the chunk is not ours any more: nothing else goes into it.
    pub(crate) fn mark_stale(&self) {
        self.chunk.stale.store(true, Ordering::Relaxed);
    }
}

/// Keeps a chunk from being given back.
#[derive(Debug)]
struct ChunkUse {
    _token: TaskTrackerToken,
    stale: Arc<AtomicBool>,
}

/// One caller's bytes.
struct Append {
    packet: Packet,
    attempts: u32,
    answer: oneshot::Sender<Result<Placed>>,
}

impl SmallFiles {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            streams: Mutex::new(Some(BTreeMap::new())),
        }
    }

    /// Appends a packet to a chunk of `replication` (0: the cluster's default) and returns once all replicas have it; with `sync`
    /// and without a failure on the way, on disk: the extent tells. The caller holds permits for its bytes. Cancel-safe: bytes that nobody commits are reclaimed with their chunk.
    pub(crate) async fn append(
        &self,
        subject: &Subject,
        replication: u32,
        packet: Packet,
        sync: bool,
    ) -> Result<Placed> {
        let closed = || Error::refused(subject, closed_failure());
        let sender = self.sender(replication, sync).ok_or_else(closed)?;
        let (answer, answered) = oneshot::channel();
        let append = Append {
            packet,
            attempts: 0,
            answer,
        };
        sender.send(append).await.map_err(|_| closed())?;
        let placed = answered.await.map_err(|_| closed())?;
        placed.map_err(|error| match error {
            // The stream is shared; the error is about this caller's file.
            Error::Refused { failure, .. } => Error::refused(subject, failure),
            Error::Unreachable {
                patience, failure, ..
            } => Error::Unreachable {
                subject: subject.clone(),
                patience,
                failure,
            },
            other => other,
        })
    }

    /// Lets the streams end: they finish what they have and give their chunks back.
    pub(crate) fn close(&self) {
        *lock(&self.streams) = None;
    }

    fn sender(&self, replication: u32, sync: bool) -> Option<mpsc::Sender<Append>> {
        // Those who ask for the default and those who ask for as many share streams.
        let replication = match replication {
            0 => self.core.namenode.settings().replication,
            asked => asked,
        };
        let kind = StreamKind { replication, sync };
        let mut streams = lock(&self.streams);
        let streams = streams.as_mut()?.entry(kind).or_insert_with(|| Streams {
            senders: std::array::from_fn(|_| {
                let (sender, queue) = mpsc::channel(QUEUE);
                let stream = Stream {
                    core: self.core.clone(),
                    placement: Placement::new(replication, false, WINDOW_BYTES),
                    sync,
                    queue,
                    waiting: VecDeque::new(),
                    waiting_bytes: 0,
                    open: None,
                    closing: false,
                };
                self.core.background.spawn_for_all(stream.run());
                sender
            }),
            next: AtomicUsize::new(0),
        });
        let index = streams.next.fetch_add(1, Ordering::Relaxed) % STREAMS;
        Some(streams.senders[index].clone())
    }
}

fn closed_failure() -> Failure {
    Failure::new(ErrorCode::Unavailable, "the file system is closed")
}

/// One shared stream: a task that owns a pipeline and the appends on their way through it.
struct Stream {
    core: Arc<Core>,
    placement: Placement,
    sync: bool,
    queue: mpsc::Receiver<Append>,
    /// Received, and in no packet.
    waiting: VecDeque<Append>,
    waiting_bytes: usize,
    open: Option<Open>,
    closing: bool,
}

struct Open {
    pipeline: Pipeline,
    uses: TaskTracker,
    stale: Arc<AtomicBool>,
    sent: VecDeque<Group>,
}

/// The appends of one packet in flight.
struct Group {
    offset_in_chunk: u64,
    end: u64,
    members: Vec<Append>,
}

enum Event {
    Progress(std::result::Result<u64, PipelineFailure>),
    Append(Option<Append>),
    Idle,
}

impl Stream {
    async fn run(mut self) {
        loop {
            self.send_waiting().await;
            let busy = self.open.as_ref().is_some_and(|open| !open.sent.is_empty());
            if self.closing && !busy && self.waiting.is_empty() {
                return self.retire(None).await;
            }
            match self.event(busy).await {
                Event::Progress(Ok(acked_to)) => self.deliver(acked_to),
                Event::Progress(Err(failure)) => self.recover(failure),
                Event::Append(Some(append)) => {
                    self.accept(append);
                    while self.waiting_bytes < PACKET_BYTES
                        && let Ok(append) = self.queue.try_recv()
                    {
                        self.accept(append);
                    }
                }
                Event::Append(None) => self.closing = true,
                Event::Idle => self.retire_in_background(None),
            }
        }
    }

    /// Waits for whatever comes first.
    async fn event(&mut self, busy: bool) -> Event {
        let hungry = !self.closing && self.waiting_bytes < PACKET_BYTES;
        let Self { open, queue, .. } = self;
        let idle = open.is_some() && !busy;
        let progress = async {
            match open {
                Some(open) => open.pipeline.progress().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            progress = progress => Event::Progress(progress),
            append = queue.recv(), if hungry => Event::Append(append),
            () = sleep(IDLE), if idle => Event::Idle,
        }
    }

    fn accept(&mut self, append: Append) {
        self.waiting_bytes += append.packet.bytes.len();
        self.waiting.push_back(append);
    }

    /// Makes packets of what waits, as far as the pipeline has credit.
    async fn send_waiting(&mut self) {
        while let Some(first) = self.waiting.front() {
            let first_length = first.packet.len();
            let usable = self.open.as_ref().is_some_and(|open| {
                open.pipeline.has_room(first_length) && !open.stale.load(Ordering::Relaxed)
            });
            if !usable {
                if self.open.as_ref().is_some_and(|open| !open.sent.is_empty()) {
                    return;
                }
                self.retire_in_background(None);
                if !self.open_chunk(first_length).await {
                    return;
                }
            }
            let Some(open) = &mut self.open else { return };
            if open.pipeline.in_flight() >= GROUPS_IN_FLIGHT
                || !open.pipeline.has_credit(first_length)
            {
                return;
            }
            let group = take_group(&mut self.waiting, &open.pipeline);
            let packet = join(&group);
            self.waiting_bytes -= packet.bytes.len();
            // A pipeline that failed once may have waited for a slow disk. Whoever asked for a sync then has to ask the leader, who
            // waits longer.
            let sync = self.sync && group.iter().all(|append| append.attempts == 0);
            let offset_in_chunk = open.pipeline.push(&packet, sync);
            let end = offset_in_chunk + packet.len();
            let group = Group {
                offset_in_chunk,
                end,
                members: group,
            };
            open.sent.push_back(group);
        }
    }

    /// True if a pipeline stands; otherwise everybody who waits has been told why not.
    async fn open_chunk(&mut self, room: u64) -> bool {
        match self
            .placement
            .open(&self.core, &Subject::Cluster, room)
            .await
        {
            Ok(pipeline) => {
                self.open = Some(Open {
                    pipeline,
                    uses: TaskTracker::new(),
                    stale: Arc::default(),
                    sent: VecDeque::new(),
                });
                true
            }
            Err(error) => {
                self.waiting_bytes = 0;
                for append in self.waiting.drain(..) {
                    // A caller that has gone does not miss the answer.
                    let _ = append.answer.send(Err(error.clone()));
                }
                false
            }
        }
    }

    /// Tells callers that all replicas have their bytes.
    fn deliver(&mut self, acked_to: u64) {
        let Some(open) = &mut self.open else { return };
        while let Some(group) = open.sent.pop_front_if(|group| group.end <= acked_to) {
            let mut offset_in_chunk = group.offset_in_chunk;
            let synced = open.pipeline.synced_to() >= group.end;
            for append in group.members {
                let length = append.packet.len();
                let extent = CommitExtent {
                    offset_in_file: 0,
                    chunk: open.pipeline.chunk,
                    epoch: open.pipeline.epoch,
                    offset_in_chunk,
                    length,
                    crc32c: append.packet.crc,
                    synced,
                };
                offset_in_chunk += length;
                let chunk = ChunkUse {
                    _token: open.uses.token(),
                    stale: open.stale.clone(),
                };
                // A caller that has gone leaves bytes that nobody commits; they are reclaimed with the chunk.
                let _ = append.answer.send(Ok(Placed { extent, chunk }));
            }
        }
    }

    /// After a failure: what is acknowledged is delivered, the rest goes into another chunk.
    fn recover(&mut self, failure: PipelineFailure) {
        let Some(open) = &self.open else { return };
        tracing::debug!(
            chunk = open.pipeline.chunk, datanode = failure.datanode, error = %failure.failure,
            "pipeline failed"
        );
        self.deliver(open.pipeline.acked_to());
        let unsent = self
            .open
            .as_mut()
            .map(|open| std::mem::take(&mut open.sent));
        for group in unsent.unwrap_or_default().into_iter().rev() {
            let mut again = Vec::new();
            for mut append in group.members {
                append.attempts += 1;
                if append.attempts < ATTEMPTS_MAX {
                    again.push(append);
                } else {
                    let error = Error::refused(&Subject::Cluster, failure.failure.clone());
                    let _ = append.answer.send(Err(error));
                }
            }
            self.take_back(again);
        }
        self.placement.exclude(&failure);
        self.retire_in_background(Some(failure.datanode));
    }

    fn take_back(&mut self, appends: Vec<Append>) {
        for append in appends.into_iter().rev() {
            self.waiting_bytes += append.packet.bytes.len();
            self.waiting.push_front(append);
        }
    }

    fn retire_in_background(&mut self, failed: Option<u64>) {
        if let Some(open) = self.open.take() {
            if failed.is_none() {
                self.placement.forgive();
            }
            self.core
                .background
                .spawn(open.retire(self.core.clone(), failed));
        }
    }

    async fn retire(mut self, failed: Option<u64>) {
        if let Some(open) = self.open.take() {
            open.retire(self.core.clone(), failed).await;
        }
    }
}

impl Open {
    /// Ends the use of a chunk once nobody can commit to it any more: cleanly, or sealed because `failed` did.
    async fn retire(self, core: Arc<Core>, failed: Option<u64>) {
        self.uses.close();
        self.uses.wait().await;
        let (chunk, epoch) = (self.pipeline.chunk, self.pipeline.epoch);
        match failed {
            None if self.stale.load(Ordering::Relaxed) => {}
            None => self.pipeline.give_back(&core, &Subject::Cluster).await,
            Some(datanode) => seal(&core, &Subject::Cluster, chunk, epoch, datanode).await,
        }
    }
}

/// The next appends that fit into one packet, into the chunk and into the window: at least one.
fn take_group(waiting: &mut VecDeque<Append>, pipeline: &Pipeline) -> Vec<Append> {
    let mut group: Vec<Append> = Vec::new();
    let mut length = 0;
    while let Some(append) = waiting.front() {
        let with = length + append.packet.len();
        let fits = group.len() < GROUP_APPENDS_MAX
            && with <= PACKET_BYTES as u64
            && pipeline.has_room(with)
            && pipeline.has_credit(with);
        if !group.is_empty() && !fits {
            break;
        }
        length = with;
        group.extend(waiting.pop_front());
    }
    group
}

/// One packet of several: checksum blocks stay those of the members.
fn join(group: &[Append]) -> Packet {
    if let [only] = group {
        return only.packet.clone();
    }
    let total = group.iter().map(|append| append.packet.bytes.len()).sum();
    let mut bytes = buffer::pool().take(total);
    let mut packet = Packet {
        bytes: Bytes::new(),
        block_lengths: Vec::with_capacity(group.len()),
        block_crcs: Vec::with_capacity(group.len()),
        crc: 0,
    };
    let mut filled = 0;
    for append in group {
        let member = &append.packet;
        bytes[filled..filled + member.bytes.len()].copy_from_slice(&member.bytes);
        filled += member.bytes.len();
        packet
            .block_lengths
            .extend_from_slice(&member.block_lengths);
        packet.block_crcs.extend_from_slice(&member.block_crcs);
    }
    packet.bytes = bytes.freeze();
    packet
}
