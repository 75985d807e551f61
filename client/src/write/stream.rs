//! One large content on its way into a file: a task that owns the pipeline, keeps every byte until it is committed, commits at
//! least every 16 MiB, and goes on in another chunk when one is full or fails.
//!
//! Bytes are, in order of the file: `acked` (all replicas have them; the first `committing` of them are in a commit that
//! runs), `sent`, `unsent`. A failure moves them to the right, never loses or reorders them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_protocol::checksum::combine;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Caller, Location};
use cairn_protocol::messages::operation::{Commit, CommitExtent, CommitPlace, InodeOutcome};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::sleep;

use super::packet::{PACKET_BYTES, Packet};
use super::pipeline::{Pipeline, PipelineFailure, seal};
use super::placement::{Placement, lost_the_chunk};
use crate::error::{Error, Result, Subject};
use crate::file_system::Core;
use crate::namenode::lock;
use crate::session::{MutateError, Unanswered};

/// Acknowledged bytes are committed when there are this many.
const COMMIT_BYTES: u64 = 16 << 20;
/// Most extents in one commit.
pub(crate) const COMMIT_EXTENTS: usize = 1024;
/// Acknowledged bytes of a writer that pauses are committed after this long, so that they do not hold memory.
const COMMIT_IDLE: Duration = Duration::from_millis(100);
/// Pipelines in a row that fail without a single acknowledgement or commit between them, before the writer gives up.
const FAILURES_MAX: u32 = 8;
/// Commands that wait in a stream's channel.
const QUEUE: usize = 4;

/// What a stream writes to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) inode: InodeId,
    pub(crate) subject: Subject,
    /// `At` the offsets of its units, or `Append`ed wherever the file ends at each commit.
    pub(crate) place: CommitPlace,
    /// Who writes: commits are in his name.
    pub(crate) caller: Caller,
}

/// A packet and where in the file its bytes go.
pub(crate) struct Unit {
    pieces: Vec<UnitPiece>,
    packet: Packet,
    /// For whoever follows the commits.
    number: u64,
    /// Holds its share of the memory for bytes in flight until it is committed, unless its sender does.
    _permit: Option<OwnedSemaphorePermit>,
    /// It is to be on the disks of all replicas before it is committed, and what came before it in its chunk, unless that fails.
    sync: bool,
    /// Where it was sent to.
    placed: Option<(ChunkEpoch, u64)>,
}

/// Consecutive bytes of the file in a packet: they follow those of the piece before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnitPiece {
    pub(crate) offset_in_file: u64,
    pub(crate) length: u64,
    pub(crate) crc: u32,
}

impl Unit {
    pub(crate) fn new(offset_in_file: u64, packet: Packet, permit: OwnedSemaphorePermit) -> Self {
        let piece = UnitPiece {
            offset_in_file,
            length: packet.len(),
            crc: packet.crc,
        };
        Self {
            pieces: vec![piece],
            packet,
            number: 0,
            _permit: Some(permit),
            sync: false,
            placed: None,
        }
    }

    /// A packet whose bytes go to several places, at most [`COMMIT_EXTENTS`]. The sender counts its memory.
    pub(crate) fn scattered(number: u64, pieces: Vec<UnitPiece>, packet: Packet) -> Self {
        debug_assert!(pieces.len() <= COMMIT_EXTENTS);
        Self {
            pieces,
            packet,
            number,
            _permit: None,
            sync: false,
            placed: None,
        }
    }

    /// The same, fsynced by all replicas before it is committed.
    pub(crate) fn synced(self, sync: bool) -> Self {
        Self { sync, ..self }
    }
}

/// The extents of pieces that lie one after the other in a chunk.
pub(crate) fn extents_of(
    pieces: &[UnitPiece],
    chunk: u64,
    epoch: u64,
    offset_in_chunk: u64,
) -> impl Iterator<Item = CommitExtent> {
    let mut at = offset_in_chunk;
    pieces.iter().map(move |piece| {
        let offset_in_chunk = at;
        at += piece.length;
        CommitExtent {
            offset_in_file: piece.offset_in_file,
            chunk,
            epoch,
            offset_in_chunk,
            length: piece.length,
            crc32c: piece.crc,
            synced: false,
        }
    })
}

/// Whoever keeps the bytes of a stream until they are committed. Units are committed in order.
pub(crate) trait Follower: Send + Sync {
    /// The version of the file as last heard of.
    fn version(&self) -> u64;

    /// Units up to `last` are committed, and the file is as that left it.
    fn committed(&self, last: u64, outcome: &InodeOutcome);
}

/// A commit of which nobody knows whether it happened.
#[derive(Debug)]
pub(crate) struct Doubt {
    pub(crate) sent: InDoubt,
    /// The commit makes a later version than this; the file had it before it was sent, or an earlier one.
    pub(crate) version_before: u64,
    /// The last unit in it; the first is the oldest that is not committed.
    pub(crate) last: u64,
}

/// How it was sent.
#[derive(Debug)]
pub(crate) enum InDoubt {
    /// By itself: it can be asked again under its number.
    Mutation(Box<Unanswered>),
    /// By a custodian, with other things, in a session that is over. It brought these.
    Step(Vec<CommitExtent>),
}

impl InDoubt {
    /// The extents that it commits.
    pub(crate) fn extents(&self) -> &[CommitExtent] {
        match self {
            Self::Mutation(unanswered) => unanswered.extents(),
            Self::Step(extents) => extents,
        }
    }
}

/// Why a stream ended.
struct StreamFailure {
    error: Error,
    doubt: Option<Doubt>,
}

impl From<Error> for StreamFailure {
    fn from(error: Error) -> Self {
        let doubt = None;
        Self { error, doubt }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ChunkEpoch {
    chunk: u64,
    epoch: u64,
}

enum Command {
    Data(Unit),
    Flush(oneshot::Sender<Result<()>>),
}

/// The writer's end of a stream. Dropping it lets the stream commit what it has and give its chunk back.
pub(crate) struct StreamHandle {
    commands: mpsc::Sender<Command>,
    /// Why the stream ended, once it has.
    failed: Arc<Mutex<Option<StreamFailure>>>,
    subject: Subject,
}

impl StreamHandle {
    /// Hands a unit over. Waits while the window is full. Cancel-safe in that the unit is handed over wholly or dropped.
    pub(crate) async fn send(&self, unit: Unit) -> Result<()> {
        self.commands
            .send(Command::Data(unit))
            .await
            .map_err(|_| self.error())
    }

    /// Returns once all that was handed over is committed. Cancel-safe.
    pub(crate) async fn flush(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.commands
            .send(Command::Flush(answer))
            .await
            .map_err(|_| self.error())?;
        answered.await.map_err(|_| self.error())?
    }

    /// The commit in whose midst a stream that followers listen to has ended.
    pub(crate) fn take_doubt(&self) -> Option<Doubt> {
        lock(&self.failed).as_mut()?.doubt.take()
    }

    fn error(&self) -> Error {
        let failed = lock(&self.failed);
        let error = failed.as_ref().map(|failed| failed.error.clone());
        error.unwrap_or_else(|| {
            let closed = cairn_protocol::Failure::new(
                cairn_protocol::ErrorCode::Unavailable,
                "the file system is closed",
            );
            Error::refused(&self.subject, closed)
        })
    }
}

/// Starts a stream; chunks are chosen as `placement` says.
pub(crate) fn start(
    core: &Arc<Core>,
    target: Target,
    placement: Placement,
    follower: Option<Arc<dyn Follower>>,
) -> StreamHandle {
    let (sender, commands) = mpsc::channel(QUEUE);
    let failed = Arc::new(Mutex::new(None));
    let handle = StreamHandle {
        commands: sender,
        failed: failed.clone(),
        subject: target.subject.clone(),
    };
    let stream = Stream {
        core: core.clone(),
        target,
        placement,
        follower,
        commands,
        unsent: VecDeque::new(),
        sent: VecDeque::new(),
        acked: VecDeque::new(),
        acked_bytes: 0,
        committing: 0,
        commit: None,
        version_before: 0,
        commit_now: false,
        pipeline: None,
        synced: None,
        retiring: Vec::new(),
        flushes: Vec::new(),
        failures: 0,
        closing: false,
    };
    core.background.spawn(stream.run(failed));
    handle
}

type CommitResult = std::result::Result<InodeOutcome, MutateError>;
type CommitFuture = BoxFuture<'static, CommitResult>;

struct Stream {
    core: Arc<Core>,
    target: Target,
    placement: Placement,
    follower: Option<Arc<dyn Follower>>,
    commands: mpsc::Receiver<Command>,
    unsent: VecDeque<Unit>,
    sent: VecDeque<Unit>,
    acked: VecDeque<Unit>,
    acked_bytes: u64,
    committing: usize,
    commit: Option<CommitFuture>,
    /// What the follower knew when that was sent.
    version_before: u64,
    /// Commit at the next chance, however little it is.
    commit_now: bool,
    pipeline: Option<Pipeline>,
    /// How far all replicas of the chunk that was last synced have fsynced it.
    synced: Option<(ChunkEpoch, u64)>,
    /// Chunks that get nothing more, but have bytes that are not yet committed.
    retiring: Vec<Retiring>,
    flushes: Vec<oneshot::Sender<Result<()>>>,
    failures: u32,
    closing: bool,
}

struct Retiring {
    pipeline: Pipeline,
    /// The datanode that failed, or 0; `None` if the chunk can be given back.
    failed: Option<u64>,
}

enum Event {
    Progress(std::result::Result<u64, PipelineFailure>),
    Committed(CommitResult),
    Command(Option<Command>),
    Idle,
}

impl Stream {
    async fn run(mut self, failed: Arc<Mutex<Option<StreamFailure>>>) {
        let Err(mut failure) = self.drive().await else {
            return;
        };
        // Its bytes would else be committed again by whoever keeps them, perhaps after somebody else has written there.
        if let Some(commit) = self.commit.take()
            && let Err(late) = self.committed(commit.await)
            && late.doubt.is_some()
        {
            failure = late;
        }
        let error = failure.error.clone();
        *lock(&failed) = Some(failure);
        self.commands.close();
        for flush in self.flushes.drain(..) {
            // A caller that has gone does not miss the answer.
            let _ = flush.send(Err(error.clone()));
        }
        self.retire(Some(0));
        self.finish_retiring(true);
    }

    async fn drive(&mut self) -> std::result::Result<(), StreamFailure> {
        loop {
            // First the commit, which may race with a seal of the namenode's own; finding another chunk can take long.
            self.start_commit();
            if let Some(result) = self
                .commit
                .as_mut()
                .and_then(|commit| commit.now_or_never())
            {
                self.committed(result)?;
            }
            self.push_unsent().await?;
            if self.is_settled() {
                for flush in self.flushes.drain(..) {
                    // A caller that has gone does not miss the answer.
                    let _ = flush.send(Ok(()));
                }
                if self.closing {
                    self.retire(None);
                    self.finish_retiring(true);
                    return Ok(());
                }
            }
            match self.event().await {
                Event::Progress(Ok(acked_to)) => self.acknowledge(acked_to),
                Event::Progress(Err(failure)) => self.recover(failure)?,
                Event::Committed(result) => self.committed(result)?,
                Event::Command(Some(Command::Data(unit))) => self.unsent.push_back(unit),
                Event::Command(Some(Command::Flush(flush))) => self.flushes.push(flush),
                Event::Command(None) => self.closing = true,
                Event::Idle => self.commit_now = true,
            }
        }
    }

    /// Waits for whatever comes first.
    async fn event(&mut self) -> Event {
        let hungry = !self.closing && self.unsent.is_empty();
        let idle = self.commit.is_none() && !self.acked.is_empty() && self.sent.is_empty();
        let Self {
            pipeline,
            commit,
            commands,
            ..
        } = self;
        let progress = async {
            match pipeline {
                Some(pipeline) => pipeline.progress().await,
                None => std::future::pending().await,
            }
        };
        let committed = async {
            match commit {
                Some(commit) => commit.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            progress = progress => Event::Progress(progress),
            result = committed => Event::Committed(result),
            command = commands.recv(), if hungry => Event::Command(command),
            () = sleep(COMMIT_IDLE), if idle => Event::Idle,
        }
    }

    /// Nothing is on its way.
    fn is_settled(&self) -> bool {
        self.unsent.is_empty()
            && self.sent.is_empty()
            && self.acked.is_empty()
            && self.commit.is_none()
    }

    /// Sends what waits, as far as window and chunk allow; opens the next chunk when there is none with room.
    async fn push_unsent(&mut self) -> Result<()> {
        while let Some(unit) = self.unsent.front() {
            let length = unit.packet.len();
            let Some(pipeline) = &mut self.pipeline else {
                if self.commit.is_some() || !self.retiring.is_empty() {
                    // What is put aside keeps its window on its datanodes until it is committed: streams that asked for
                    // another one meanwhile would wait for each other. And a commit that nobody polls may be the one that
                    // opens a new session, which finding a chunk would then wait for.
                    self.start_commit();
                    return Ok(());
                }
                let subject = &self.target.subject;
                let opened = self.placement.open(&self.core, subject, length).await?;
                self.pipeline = Some(opened);
                continue;
            };
            if !pipeline.has_room(length) {
                if pipeline.in_flight() > 0 {
                    return Ok(());
                }
                self.placement.forgive();
                self.retire(None);
                continue;
            }
            if !pipeline.has_credit(length) {
                return Ok(());
            }
            let offset = pipeline.push(&unit.packet, unit.sync);
            let place = ChunkEpoch {
                chunk: pipeline.chunk,
                epoch: pipeline.epoch,
            };
            if let Some(mut unit) = self.unsent.pop_front() {
                unit.placed = Some((place, offset));
                self.sent.push_back(unit);
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, acked_to: u64) {
        while let Some(unit) = self.sent.pop_front_if(|unit| {
            unit.placed
                .is_some_and(|(_, offset)| offset + unit.packet.len() <= acked_to)
        }) {
            self.failures = 0;
            self.acked_bytes += unit.packet.len();
            if unit.sync {
                // What is acknowledged of such a packet is that.
                let end = |(place, offset)| (place, offset + unit.packet.len());
                self.synced = unit.placed.map(end);
            }
            self.acked.push_back(unit);
        }
    }

    /// After a pipeline has failed: what is acknowledged will be committed, the rest goes into another chunk.
    fn recover(&mut self, failure: PipelineFailure) -> Result<()> {
        let Some(pipeline) = &self.pipeline else {
            return Ok(());
        };
        tracing::debug!(
            chunk = pipeline.chunk, datanode = failure.datanode, error = %failure.failure,
            "pipeline failed"
        );
        let acked_to = pipeline.acked_to();
        self.acknowledge(acked_to);
        self.take_back_sent();
        self.placement.exclude(&failure);
        self.retire(Some(failure.datanode));
        self.commit_now = true;
        self.count_failure(|subject| Error::refused(subject, failure.failure))
    }

    fn count_failure(&mut self, error: impl FnOnce(&Subject) -> Error) -> Result<()> {
        self.failures += 1;
        if self.failures < FAILURES_MAX {
            Ok(())
        } else {
            Err(error(&self.target.subject))
        }
    }

    fn take_back_sent(&mut self) {
        while let Some(mut unit) = self.sent.pop_back() {
            // Perhaps a disk was too slow: the leader, who is asked then, waits longer.
            unit.sync = false;
            self.unsent.push_front(unit);
        }
    }

    /// Starts a commit of what is acknowledged, if it is time to.
    fn start_commit(&mut self) {
        let waiting = !self.flushes.is_empty() || self.closing;
        let all_acked = self.sent.is_empty() && self.unsent.is_empty();
        let memory_is_short = self.core.in_flight.available_permits() < PACKET_BYTES;
        let due = self.commit_now
            || self.acked_bytes >= COMMIT_BYTES
            || (waiting && all_acked)
            || memory_is_short;
        if self.commit.is_some() || self.acked.is_empty() || !due {
            return;
        }
        let (extents, count) = self.commit_extents();
        self.committing = count;
        self.commit_now = false;
        self.version_before = self.follower.as_ref().map_or(0, |told| told.version());
        let commit = Commit {
            location: Location::inode(self.target.inode),
            extents,
            place: self.target.place as i32,
            mtime_ns: 0,
            size_at_least: 0,
        };
        let sessions = self.core.sessions.clone();
        let Target {
            subject, caller, ..
        } = self.target.clone();
        self.commit = Some(Box::pin(async move {
            sessions.commit(&subject, commit, caller).await
        }));
    }

    /// The extents of the next commit, and of how many units they are. Neighbours in file and chunk are one extent.
    fn commit_extents(&self) -> (Vec<CommitExtent>, usize) {
        let first = self.acked.front().and_then(|unit| unit.pieces.first());
        let base = match self.target.place {
            CommitPlace::At => 0,
            CommitPlace::Append => first.map_or(0, |piece| piece.offset_in_file),
        };
        let mut extents: Vec<CommitExtent> = Vec::new();
        let mut count = 0;
        for unit in &self.acked {
            let Some((place, offset_in_chunk)) = unit.placed else {
                break;
            };
            // A unit is never cut: at most one of its pieces continues what is there.
            if extents.len() + unit.pieces.len() > COMMIT_EXTENTS && !extents.is_empty() {
                break;
            }
            let ChunkEpoch { chunk, epoch } = place;
            for mut next in extents_of(&unit.pieces, chunk, epoch, offset_in_chunk) {
                next.offset_in_file -= base;
                match extents.last_mut() {
                    Some(last) if follows(last, &next) => {
                        last.crc32c = combine(last.crc32c, next.crc32c, next.length);
                        last.length += next.length;
                    }
                    _ => extents.push(next),
                }
            }
            count += 1;
        }
        if let Some((place, synced_to)) = self.synced {
            for extent in &mut extents {
                let is_there = (extent.chunk, extent.epoch) == (place.chunk, place.epoch);
                extent.synced = is_there && extent.offset_in_chunk + extent.length <= synced_to;
            }
        }
        (extents, count)
    }

    fn committed(&mut self, result: CommitResult) -> std::result::Result<(), StreamFailure> {
        self.commit = None;
        let count = std::mem::take(&mut self.committing);
        match result {
            Ok(outcome) => {
                self.failures = 0;
                let mut last = None;
                for unit in self.acked.drain(..count) {
                    self.acked_bytes -= unit.packet.len();
                    last = Some(unit.number);
                }
                if let (Some(follower), Some(last)) = (&self.follower, last) {
                    follower.committed(last, &outcome);
                }
                self.finish_retiring(false);
                Ok(())
            }
            Err(MutateError { error, .. }) if lost_the_chunk(&error) => {
                // Everything uncommitted goes into a new chunk, in order; whichever chunk it was, this is rare.
                self.take_back_sent();
                while let Some(unit) = self.acked.pop_back() {
                    self.unsent.push_front(unit);
                }
                self.acked_bytes = 0;
                self.retire(Some(0));
                self.finish_retiring(true);
                Ok(self.count_failure(|_| error)?)
            }
            Err(MutateError { error, unanswered }) => {
                let last = count
                    .checked_sub(1)
                    .and_then(|index| self.acked.get(index))
                    .filter(|_| self.follower.is_some());
                let doubt = unanswered.zip(last).map(|(unanswered, last)| Doubt {
                    sent: InDoubt::Mutation(unanswered),
                    version_before: self.version_before,
                    last: last.number,
                });
                Err(StreamFailure { error, doubt })
            }
        }
    }

    /// Puts the current chunk aside.
    fn retire(&mut self, failed: Option<u64>) {
        if let Some(pipeline) = self.pipeline.take() {
            self.retiring.push(Retiring { pipeline, failed });
            self.commit_now = true;
            self.finish_retiring(false);
        }
    }

    /// Gives back or seals the chunks in which nothing waits for a commit any more; with `all`, every one.
    fn finish_retiring(&mut self, all: bool) {
        let waits = |chunk: u64| {
            self.acked
                .iter()
                .any(|unit| unit.placed.is_some_and(|(place, _)| place.chunk == chunk))
        };
        let (stay, go): (Vec<_>, Vec<_>) = std::mem::take(&mut self.retiring)
            .into_iter()
            .partition(|retiring| !all && waits(retiring.pipeline.chunk));
        self.retiring = stay;
        for Retiring { pipeline, failed } in go {
            let core = self.core.clone();
            let subject = self.target.subject.clone();
            self.core.background.spawn(async move {
                match failed {
                    None => pipeline.give_back(&core, &subject).await,
                    Some(datanode) => {
                        seal(&core, &subject, pipeline.chunk, pipeline.epoch, datanode).await;
                    }
                }
            });
        }
    }
}

/// True if `next` begins where `last` ends, in the file and in the same chunk.
fn follows(last: &CommitExtent, next: &CommitExtent) -> bool {
    last.chunk == next.chunk
        && last.epoch == next.epoch
        && last.offset_in_chunk + last.length == next.offset_in_chunk
        && last.offset_in_file + last.length == next.offset_in_file
}
