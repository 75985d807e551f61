//! Writes what an open file has gathered: a task that runs while there is something to write.
//!
//! Little goes together with other files' bytes: one append and one commit, in one go. Much goes through a stream with a
//! chunk of its own, packet by packet while more is gathered. Either way units are committed in the order in which they
//! were taken, and the bytes stay in the overlay until then, so that any failure costs time and nothing else. While nobody
//! knows whether a commit happened, no other one is sent: see `doubt`.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use cairn_protocol::ErrorCode;
use cairn_protocol::checksum::combine;
use cairn_protocol::messages::common::Location;
use cairn_protocol::messages::operation::{Commit, CommitExtent, CommitPlace, InodeOutcome};
use futures::future::try_join_all;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::Inner;
use super::custody::{self, InCustody};
use super::doubt::{self, Settled};
use super::overlay::Taken;
use super::state::{Flushed, STREAM_BYTES_MIN, Waiter};
use crate::error::{Error, Result};
use crate::namenode::lock;
use crate::session::MutateError;
use crate::write::packet::Packet;
use crate::write::placement::{Placement, lost_the_chunk};
use crate::write::small::Placed;
use crate::write::stream::{
    self, COMMIT_EXTENTS, Doubt, Follower, InDoubt, StreamHandle, Target, Unit, UnitPiece,
    extents_of,
};

/// A stream that got nothing for this long gives its chunk back.
const STREAM_IDLE: Duration = Duration::from_secs(2);
/// How often bytes go into another chunk because the namenode closed theirs.
const ATTEMPTS_MAX: u32 = 8;

/// See the module.
pub(super) struct Engine {
    file: Arc<Inner>,
    stream: Option<StreamHandle>,
    stream_until: Instant,
    /// Its units are the ones that are sent, and nothing is taken before it is settled.
    doubt: Option<Doubt>,
}

enum Next {
    Work(Work),
    Sleep(Instant),
    End,
}

#[derive(Default)]
struct Work {
    taken: Vec<Taken>,
    /// A doubt is to be settled, and nothing else is done.
    settle: bool,
    /// Nothing else is on its way, and all of it is to be committed at once.
    alone: bool,
    commit: bool,
    /// All of it is to be on disk before it is committed.
    sync: bool,
    flushes: Vec<Waiter>,
    attempts: Vec<oneshot::Sender<()>>,
    settles: Vec<Waiter>,
}

/// A packet with what it is made of.
struct Made {
    unit: u64,
    pieces: Vec<UnitPiece>,
    packet: Packet,
}

impl Engine {
    /// Starts the task if none runs. The caller holds no lock.
    pub(super) fn wake(file: &Arc<Inner>) {
        let runs = std::mem::replace(&mut lock(&file.state).running, true);
        if runs {
            file.wake.notify_one();
            return;
        }
        let core = file.fs.core();
        let token = core.dirty_files.token();
        let engine = Self {
            file: file.clone(),
            stream: None,
            stream_until: Instant::now(),
            doubt: None,
        };
        core.background.spawn_for_all(async move {
            engine.run().await;
            drop(token);
        });
    }

    async fn run(mut self) {
        let file = self.file.clone();
        let core = file.fs.core();
        loop {
            // Made before the look, so that no shortage begins unseen between look and sleep.
            let shortage = core.shortage.begun();
            match self.next() {
                Next::Work(work) => self.work(work).await,
                Next::End => return,
                Next::Sleep(until) => {
                    let closing = core.closing.is_cancelled();
                    tokio::select! {
                        biased;
                        () = core.closing.cancelled(), if !closing => {}
                        () = file.wake.notified() => {}
                        () = shortage => {}
                        () = sleep_until(until) => {}
                    }
                }
            }
        }
    }

    /// Decides, in one look at the state.
    fn next(&mut self) -> Next {
        let core = self.file.fs.core();
        let now = Instant::now();
        let mut state = lock(&self.file.state);
        let settles = std::mem::take(&mut state.settles);
        if !settles.is_empty() {
            return Next::Work(Work {
                settle: self.doubt.is_some(),
                commit: true,
                settles,
                ..Work::default()
            });
        }
        let ending = state.is_closed() || core.closing.is_cancelled();
        if state.held_back {
            // Who holds it back wakes us.
            return Next::Sleep(now + STREAM_IDLE);
        }
        if !state.is_dirty() && state.flushes.is_empty() {
            state.attempts.clear();
            if self.stream.is_none() || ending || now >= self.stream_until {
                state.running = false;
                return Next::End;
            }
            return Next::Sleep(self.stream_until);
        }
        let starved = state.room_waiters > 0 && self.file.commits_for_room;
        let urgent = ending || core.shortage.exists() || starved;
        let due = match state.due(now, urgent) {
            Ok(due) => due,
            Err(until) => return Next::Sleep(until),
        };
        if self.doubt.is_some() {
            return Next::Work(Work {
                settle: true,
                flushes: std::mem::take(&mut state.flushes),
                attempts: std::mem::take(&mut state.attempts),
                ..Work::default()
            });
        }
        let settled = state.is_settled();
        let taken = state.take(due.all);
        state.looked(self.stream.is_some() || !due.commit);
        Next::Work(Work {
            alone: settled && due.commit && self.stream.is_none(),
            taken,
            commit: due.commit,
            sync: due.commit && std::mem::take(&mut state.sync_wanted),
            flushes: std::mem::take(&mut state.flushes),
            attempts: std::mem::take(&mut state.attempts),
            ..Work::default()
        })
    }

    async fn work(&mut self, mut work: Work) {
        let taken = std::mem::take(&mut work.taken);
        // Else what is committed may have been sent before anybody asked, and others may have changed the file since.
        let told_by_commit = work.sync && !taken.is_empty();
        let result = if work.settle {
            self.settle_doubt().await
        } else {
            self.write(taken, &work).await
        };
        let file = self.file.clone();
        let now = Instant::now();
        match result {
            Ok(()) if work.settle => {
                // What they ask for is still to be written.
                let mut state = lock(&file.state);
                state.flushes.append(&mut work.flushes);
                state.attempts.append(&mut work.attempts);
            }
            Ok(()) if work.commit => {
                let mut state = lock(&file.state);
                state.succeeded(now);
                state.looked(self.stream.is_some());
                // Without a flush that waits, the next one tells what there is to tell.
                if !work.flushes.is_empty() {
                    let mut report = state.report();
                    report.is_synced |= told_by_commit && state.commit_is_synced;
                    drop(state);
                    answer(work.flushes, &Ok(report));
                }
            }
            Ok(()) => {}
            Err(error) => {
                self.failed(&error, now);
                answer(work.flushes, &Err(error.clone()));
                if self.doubt.is_some() {
                    // Something is still on its way.
                    answer(std::mem::take(&mut work.settles), &Err(error));
                }
            }
        }
        answer(work.settles, &Ok(Flushed::default()));
        // They have waited for this, whatever came of it.
        drop(work.attempts);
    }

    fn failed(&mut self, error: &Error, now: Instant) {
        if let Some(stream) = self.stream.take()
            && let Some(doubt) = stream.take_doubt()
        {
            self.doubt = Some(doubt);
        }
        let (file, core) = (&self.file, self.file.fs.core());
        let mut state = lock(&file.state);
        let abandoned =
            core.closing.is_cancelled() || state.is_closed_for(now, core.config.timeouts.patience);
        if abandoned || is_final(error.code()) {
            if state.is_closed() {
                tracing::warn!(inode = %file.inode, %error, "bytes of a closed file are lost");
            }
            self.doubt = None;
            state.gave_up(error, now);
        } else {
            state.failed(error, self.doubt.as_ref().map(|doubt| doubt.last), now);
        }
        state.looked(false);
        drop(state);
        file.failed.notify_waiters();
    }

    /// Finds out whether the commit in doubt happened. Fails if that cannot be found out now.
    async fn settle_doubt(&mut self) -> Result<()> {
        let Some(doubt) = &self.doubt else {
            return Ok(());
        };
        let file = &self.file;
        match doubt::settle(&file.fs, file.inode, doubt).await? {
            Settled::Committed(attributes) => {
                // In this order: see `reads`.
                file.forget();
                lock(&file.state).turned_out_committed(doubt.last, &attributes);
            }
            Settled::NotCommitted => lock(&file.state).turned_out_failed(),
            Settled::Unknown(error) => {
                tracing::warn!(inode = %file.inode, %error, "bytes are lost");
                lock(&file.state).stays_unknown(&error);
            }
        }
        self.doubt = None;
        Ok(())
    }

    async fn write(&mut self, taken: Vec<Taken>, work: &Work) -> Result<()> {
        let bytes: usize = taken.iter().map(|taken| taken.length).sum();
        if work.alone && bytes <= STREAM_BYTES_MIN {
            return self.write_small(taken, work.sync).await;
        }
        self.file.end_custody().await?;
        let last = taken.last().map(|taken| taken.unit);
        for taken in taken {
            let Made {
                unit,
                pieces,
                packet,
            } = make(&taken);
            let stream = self.stream.get_or_insert_with(|| start(&self.file));
            // With the last packet everything before it in its chunk is on disk.
            let sync = work.sync && Some(unit) == last;
            let unit = Unit::scattered(unit, pieces, packet).synced(sync);
            stream.send(unit).await?;
            self.stream_until = Instant::now() + STREAM_IDLE;
        }
        match &self.stream {
            Some(stream) if work.commit => stream.flush().await,
            _ => Ok(()),
        }
    }

    /// One append for each packet, all at the same time, and one commit for as many as it takes.
    async fn write_small(&mut self, taken: Vec<Taken>, sync: bool) -> Result<()> {
        let mut made: Vec<Made> = taken.iter().map(make).collect();
        drop(taken);
        while !made.is_empty() {
            let mut pieces = 0;
            let fits = |made: &&Made| {
                pieces += made.pieces.len();
                pieces <= COMMIT_EXTENTS
            };
            let count = made.iter().take_while(fits).count().max(1);
            let group: Vec<Made> = made.drain(..count).collect();
            let outcome = self.write_group(&group, sync).await?;
            if let Some(last) = group.last() {
                self.file.committed(last.unit, &outcome);
            }
        }
        Ok(())
    }

    async fn write_group(&mut self, group: &[Made], sync: bool) -> Result<InodeOutcome> {
        let file = &self.file;
        let last = group.last().map_or(0, |last| last.unit);
        let mut attempts = 0;
        loop {
            let append = |made: &Made| {
                let packet = made.packet.clone();
                let small = &file.fs.inner.small;
                small.append(&file.subject, file.replication, packet, sync)
            };
            let placed: Vec<Placed> = try_join_all(group.iter().map(append)).await?;
            let pieces = group.iter().zip(&placed).flat_map(|(made, placed)| {
                let at = placed.extent;
                extents_of(&made.pieces, at.chunk, at.epoch, at.offset_in_chunk).map(
                    move |extent| CommitExtent {
                        synced: at.synced,
                        ..extent
                    },
                )
            });
            let commit = Commit {
                location: Location::inode(file.inode),
                extents: pieces.collect::<Vec<CommitExtent>>(),
                place: CommitPlace::At as i32,
                ..Commit::default()
            };
            attempts += 1;
            match file.commit_in_custody(&commit).await {
                Some(InCustody::Failed(error))
                    if lost_the_chunk(&error) && attempts < ATTEMPTS_MAX =>
                {
                    placed.iter().for_each(Placed::mark_stale);
                    continue;
                }
                Some(InCustody::Failed(error)) => return Err(error),
                // Nothing is said of what is fsynced: that is asked for.
                Some(InCustody::Committed(attributes)) => {
                    lock(&file.state).committed_in_custody();
                    return Ok(InodeOutcome {
                        attributes,
                        done: true,
                        ..InodeOutcome::default()
                    });
                }
                Some(InCustody::Unknown { version_before }) => {
                    self.doubt = Some(Doubt {
                        sent: InDoubt::Step(commit.extents),
                        version_before,
                        last,
                    });
                    return Err(custody::unknown(&file.subject));
                }
                None => {}
            }
            let version_before = file.version();
            let sessions = &file.fs.core().sessions;
            match sessions
                .commit(&file.subject, commit, file.fs.caller())
                .await
            {
                Ok(outcome) => return Ok(outcome),
                Err(MutateError { error, .. })
                    if lost_the_chunk(&error) && attempts < ATTEMPTS_MAX =>
                {
                    placed.iter().for_each(Placed::mark_stale);
                }
                Err(MutateError { error, unanswered }) => {
                    self.doubt = unanswered.map(|unanswered| Doubt {
                        sent: InDoubt::Mutation(unanswered),
                        version_before,
                        last,
                    });
                    return Err(error);
                }
            }
        }
    }
}

fn answer(waiters: Vec<Waiter>, report: &Result<Flushed>) {
    for waiter in waiters {
        // A caller that has gone does not miss the answer.
        let _ = waiter.send(report.clone());
    }
}

fn start(file: &Arc<Inner>) -> StreamHandle {
    let core = file.fs.core();
    let target = Target {
        inode: file.inode,
        subject: file.subject.clone(),
        place: CommitPlace::At,
        caller: file.fs.caller(),
    };
    let placement = Placement::new(file.replication, true, core.config.write_window_bytes);
    stream::start(core, target, placement, Some(file.clone()))
}

/// Checksums, and one buffer for all the runs.
fn make(taken: &Taken) -> Made {
    let mut packet: Option<Packet> = None;
    let mut pieces = Vec::with_capacity(taken.runs.len());
    let mut joined = BytesMut::new();
    for run in &taken.runs {
        let bytes = match run.parts.as_slice() {
            [only] => only.clone(),
            parts => parts.concat().into(),
        };
        let part = Packet::new(bytes);
        pieces.push(UnitPiece {
            offset_in_file: run.offset_in_file,
            length: part.len(),
            crc: part.crc,
        });
        match &mut packet {
            None => packet = Some(part),
            Some(packet) => {
                if joined.is_empty() {
                    joined.reserve(taken.length);
                    joined.extend_from_slice(&packet.bytes);
                }
                joined.extend_from_slice(&part.bytes);
                packet.crc = combine(packet.crc, part.crc, part.len());
                packet.block_lengths.extend(part.block_lengths);
                packet.block_crcs.extend(part.block_crcs);
            }
        }
    }
    let mut packet = packet.expect("a unit has at least one run");
    if !joined.is_empty() {
        packet.bytes = joined.freeze();
    }
    Made {
        unit: taken.unit,
        pieces,
        packet,
    }
}

/// True if no later attempt can succeed: the file is gone, or takes no such bytes. All else may pass, and the bytes are
/// kept: what is committed twice is the same bytes at the same place.
fn is_final(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotFound
            | ErrorCode::IsADirectory
            | ErrorCode::PermissionDenied
            | ErrorCode::NotPermitted
            | ErrorCode::InvalidArgument
            | ErrorCode::FileTooLarge
            | ErrorCode::TooLarge
            | ErrorCode::NotSupported
            | ErrorCode::LockLost
    )
}
