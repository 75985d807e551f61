//! What the handles of a file share: the bytes on their way, the memory that they hold, who waits for them, and the file as
//! last heard of.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::messages::common::Attributes;
use cairn_protocol::messages::operation::InodeOutcome;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::overlay::{Overlay, Taken};
use crate::error::{Error, Result};
use crate::sync::SyncedVersion;
use crate::write::packet::PACKET_BYTES;

/// Gathered bytes that are written without being asked for: from here on a file gets a stream with a chunk of its own.
/// Less is written together with other files' bytes.
pub(super) const STREAM_BYTES_MIN: usize = 4 << 20;
/// Most gathered bytes that wait for others to fill packets with.
const GATHERED_BYTES_MAX: usize = 8 << 20;
/// Most gathered ranges.
const GATHERED_COUNT_MAX: usize = 4096;
/// A file to which nobody has written for this long is written, so that others see it and its memory is free.
const QUIET: Duration = Duration::from_secs(1);
/// The same for a file to which somebody goes on to write.
const AGE_MAX: Duration = Duration::from_secs(5);
/// Pauses between attempts to write what could not be written: they double from the first to the last.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a flush has to tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Flushed {
    /// After the last commit; `None` if there was none since the last flush.
    pub(super) attributes: Option<Attributes>,
    /// All bytes of the file are on disk: those written here, and those of others of which this client has heard.
    pub(super) is_synced: bool,
}

/// Somebody who waits for the engine.
pub(super) type Waiter = oneshot::Sender<Result<Flushed>>;

/// Room for bytes: of the file's own share of the memory, and of all.
pub(super) struct Room {
    pub(super) own: OwnedSemaphorePermit,
    pub(super) all: Option<OwnedSemaphorePermit>,
}

/// A unit that is taken and not yet committed.
struct Sent {
    unit: u64,
    ranges: Vec<Range<u64>>,
    length: usize,
}

/// The last time that bytes were given up.
#[derive(Clone)]
pub(super) struct Loss {
    /// Counts from 1.
    pub(super) number: u64,
    pub(super) error: Error,
}

/// See the module.
pub(super) struct State {
    pub(super) overlay: Overlay,
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    next_unit: u64,
    own: Option<OwnedSemaphorePermit>,
    all: Option<OwnedSemaphorePermit>,

    /// Of the attributes last heard of.
    version: u64,
    pub(super) committed_size: u64,
    /// How often the committed file has changed, or the overlay in step with it.
    changes: u64,
    /// How often others were said to have changed the file.
    invalidations: u64,
    /// How many of those are known of.
    refreshed: u64,

    /// The version of which all bytes are known to be on disk.
    pub(super) synced: SyncedVersion,
    /// Changes of the file whose version is not known: by others, and commits that somebody else sees to.
    unversioned: u64,
    /// So many of them there were when the namenode was asked to have all bytes synced.
    synced_unversioned: u64,
    /// All bytes of the version that the last commit made are.
    pub(super) commit_is_synced: bool,

    pub(super) flushes: Vec<Waiter>,
    /// One of those who flush wants its bytes on disk: they go there on their way.
    pub(super) sync_wanted: bool,
    /// Who waits for the next attempt to commit everything, and asks no questions about it.
    pub(super) attempts: Vec<oneshot::Sender<()>>,
    /// Who waits until nothing is sent.
    pub(super) settles: Vec<Waiter>,
    /// Nothing is taken: an operation is on its way that must not meet a commit.
    pub(super) held_back: bool,
    pub(super) room_waiters: usize,
    /// Open files of this inode.
    handles: usize,
    /// When the last one was dropped.
    closed_at: Option<Instant>,
    pub(super) running: bool,

    /// Attributes after commits that no flush has told of.
    unreported: Option<Attributes>,
    loss: Option<Loss>,
    /// Number of the last loss that anybody was told of.
    loss_told: u64,
    /// What went wrong last, for writers that wait for room.
    pub(super) last_error: Option<Error>,

    dirty_since: Option<Instant>,
    written_at: Instant,
    retry_at: Option<Instant>,
    retry_pause: Duration,
    /// The engine looks again when so many bytes are gathered.
    wake_at: usize,
}

/// Why the engine has something to do.
pub(super) struct Due {
    /// Everything gathered goes, also what fills no packet yet.
    pub(super) all: bool,
    /// Not before everything is committed is it done.
    pub(super) commit: bool,
}

impl State {
    pub(super) fn new(attributes: &Attributes) -> Self {
        Self {
            overlay: Overlay::default(),
            sent: VecDeque::new(),
            sent_bytes: 0,
            next_unit: 0,
            own: None,
            all: None,
            version: attributes.version,
            committed_size: attributes.size,
            changes: 0,
            invalidations: 0,
            refreshed: 0,
            synced: SyncedVersion::default(),
            unversioned: 0,
            synced_unversioned: 0,
            commit_is_synced: false,
            flushes: Vec::new(),
            sync_wanted: false,
            attempts: Vec::new(),
            settles: Vec::new(),
            held_back: false,
            room_waiters: 0,
            handles: 0,
            closed_at: None,
            running: false,
            unreported: None,
            loss: None,
            loss_told: 0,
            last_error: None,
            dirty_since: None,
            written_at: Instant::now(),
            retry_at: None,
            retry_pause: RETRY_PAUSE_MIN,
            wake_at: STREAM_BYTES_MIN,
        }
    }

    /// One more open file. It need not be told of losses up to the number that is returned: those of which nobody has been
    /// told are for whoever comes.
    pub(super) fn opened(&mut self) -> u64 {
        self.handles += 1;
        self.closed_at = None;
        self.loss_told
    }

    /// One open file fewer.
    pub(super) fn closed(&mut self, now: Instant) {
        self.handles -= 1;
        if self.handles == 0 {
            self.closed_at = Some(now);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed_at.is_some()
    }

    /// Nobody has had it open for this long.
    pub(super) fn is_closed_for(&self, now: Instant, patience: Duration) -> bool {
        self.closed_at
            .is_some_and(|closed_at| now >= closed_at + patience)
    }

    /// The last loss, if it is not yet told to somebody who was told those up to `told`.
    pub(super) fn tell_loss(&mut self, told: u64) -> Option<Loss> {
        let loss = self.loss.clone().filter(|loss| loss.number > told)?;
        self.loss_told = self.loss_told.max(loss.number);
        Some(loss)
    }

    pub(super) fn size(&self) -> u64 {
        self.committed_size.max(self.overlay.end())
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.overlay.is_empty() || !self.sent.is_empty()
    }

    /// Nothing is on its way to a commit.
    pub(super) fn is_settled(&self) -> bool {
        self.sent.is_empty()
    }

    /// True if these attributes are not older than what is known.
    pub(super) fn learn(&mut self, attributes: &Attributes) -> bool {
        let newer = attributes.version >= self.version;
        if newer {
            self.version = attributes.version;
            self.committed_size = attributes.size;
        }
        newer
    }

    /// Others have changed the file: what is known of it must be asked for again.
    pub(super) fn invalidate(&mut self) {
        self.changes += 1;
        self.invalidations += 1;
        self.unversioned += 1;
    }

    /// Bytes were committed by somebody else, who tells neither the version that this made nor what is on disk.
    pub(super) fn committed_in_custody(&mut self) {
        self.unversioned += 1;
    }

    /// How many changes by others to ask for; `None` if all are known.
    pub(super) fn stale(&self) -> Option<u64> {
        (self.refreshed < self.invalidations).then_some(self.invalidations)
    }

    /// The file was asked for after `invalidations`.
    pub(super) fn refreshed(&mut self, invalidations: u64, attributes: &Attributes) {
        self.refreshed = self.refreshed.max(invalidations);
        self.learn(attributes);
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Differs if what lies in and below the overlay must be looked at anew.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// The file is cut on behalf of one of our own: so is what is written to it.
    pub(super) fn cut(&mut self, size: u64) {
        self.changes += 1;
        self.overlay.cut(size..u64::MAX);
        self.release();
    }

    /// Takes a write over. True if the engine should look.
    pub(super) fn write(&mut self, offset: u64, bytes: Bytes, room: Room) -> bool {
        self.overlay.write(offset, bytes);
        match &mut self.own {
            Some(own) => own.merge(room.own),
            None => self.own = Some(room.own),
        }
        match (&mut self.all, room.all) {
            (Some(all), Some(more)) => all.merge(more),
            (None, more) => self.all = more,
            (Some(_), None) => {}
        }
        self.release();
        self.written_at = Instant::now();
        self.dirty_since.get_or_insert(self.written_at);
        self.overlay.gathered_bytes() >= self.wake_at
            || self.overlay.gathered_count() >= GATHERED_COUNT_MAX
    }

    /// Gives memory back that no bytes need any more.
    pub(super) fn release(&mut self) {
        let needed = self.overlay.gathered_bytes() + self.sent_bytes;
        for held in [&mut self.own, &mut self.all].into_iter().flatten() {
            let surplus = held.num_permits().saturating_sub(needed);
            drop(held.split(surplus));
        }
    }

    /// What is to be done at `now`; else until when nothing is.
    pub(super) fn due(&self, now: Instant, urgent: bool) -> std::result::Result<Due, Instant> {
        let asked = !self.flushes.is_empty() || !self.attempts.is_empty();
        let aged_at = self
            .dirty_since
            .map_or(now + AGE_MAX, |since| since + AGE_MAX)
            .min(self.written_at + QUIET);
        let aged = now >= aged_at;
        if let Some(retry_at) = self.retry_at.filter(|&at| at > now)
            && !asked
        {
            return Err(retry_at);
        }
        if asked || urgent || aged {
            return Ok(Due {
                all: true,
                commit: true,
            });
        }
        let gathered = self.overlay.gathered_bytes();
        let crowded = self.is_crowded() || (self.room_waiters > 0 && gathered > 0);
        if crowded || gathered >= self.wake_at {
            return Ok(Due {
                all: false,
                commit: false,
            });
        }
        Err(aged_at)
    }

    fn is_crowded(&self) -> bool {
        self.overlay.gathered_bytes() >= GATHERED_BYTES_MAX
            || self.overlay.gathered_count() >= GATHERED_COUNT_MAX
    }

    /// Takes gathered bytes into units: all, or what fills packets; and all if that is too little.
    pub(super) fn take(&mut self, all: bool) -> Vec<Taken> {
        let mut taken = self.take_units(all);
        if !all && (self.is_crowded() || (self.room_waiters > 0 && taken.is_empty())) {
            taken.extend(self.take_units(true));
        }
        taken
    }

    fn take_units(&mut self, all: bool) -> Vec<Taken> {
        let taken = self.overlay.take(all, self.next_unit);
        for unit in &taken {
            self.next_unit = unit.unit + 1;
            self.sent_bytes += unit.length;
            self.sent.push_back(Sent {
                unit: unit.unit,
                ranges: unit.ranges(),
                length: unit.length,
            });
        }
        taken
    }

    /// The next look of the engine, after one has been done.
    pub(super) fn looked(&mut self, streaming: bool) {
        let step = if streaming {
            PACKET_BYTES
        } else {
            STREAM_BYTES_MIN
        };
        self.wake_at = self.overlay.gathered_bytes() + step;
    }

    /// Units up to `last` are committed, and the file is as that left it.
    pub(super) fn committed(&mut self, last: u64, outcome: &InodeOutcome) {
        self.arrived(last, &outcome.attributes);
        self.commit_is_synced = self.synced.committed(outcome);
    }

    fn arrived(&mut self, last: u64, attributes: &Attributes) {
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.unit <= last) {
            self.overlay.committed(sent.unit, &sent.ranges);
            self.sent_bytes -= sent.length;
        }
        self.changes += 1;
        self.learn(attributes);
        self.unreported = Some(attributes.clone());
        self.release();
    }

    /// An operation of our own left the file with these attributes.
    pub(super) fn changed(&mut self, attributes: &Attributes) {
        self.changes += 1;
        self.learn(attributes);
        if let Some(unreported) = &mut self.unreported {
            unreported.clone_from(attributes);
        }
    }

    /// All that was taken has been committed; more may have been gathered since `now`.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.retry_at = None;
        self.retry_pause = RETRY_PAUSE_MIN;
        self.dirty_since = (!self.overlay.is_empty()).then_some(now);
    }

    /// No unit after `doubtful` will be committed any more, or none at all: their bytes are gathered again.
    pub(super) fn failed(&mut self, error: &Error, doubtful: Option<u64>, now: Instant) {
        self.take_back(doubtful.map_or(0, |last| last + 1));
        self.last_error = Some(error.clone());
        self.retry_at = Some(now + self.retry_pause);
        self.retry_pause = (self.retry_pause * 2).min(RETRY_PAUSE_MAX);
    }

    /// The same, and no attempt will succeed: everything is given up.
    pub(super) fn gave_up(&mut self, error: &Error, now: Instant) {
        self.overlay.clear();
        self.failed(error, None, now);
        self.dirty_since = None;
        self.lost(error);
    }

    /// Units from `first` on will not be committed.
    fn take_back(&mut self, first: u64) {
        self.sent.retain(|sent| sent.unit < first);
        self.sent_bytes = self.sent.iter().map(|sent| sent.length).sum();
        self.overlay.take_back(first);
        self.release();
    }

    /// What was in doubt is known: a next attempt may begin at once.
    fn settled(&mut self) {
        self.retry_at = None;
        self.release();
    }

    /// Units that were in doubt are committed.
    pub(super) fn turned_out_committed(&mut self, last: u64, attributes: &Attributes) {
        self.arrived(last, attributes);
        self.settled();
    }

    /// They are not, and will not be.
    pub(super) fn turned_out_failed(&mut self) {
        self.take_back(0);
        self.settled();
    }

    /// Nobody can find out: what nobody wrote over since is given up.
    pub(super) fn stays_unknown(&mut self, error: &Error) {
        self.changes += 1;
        while let Some(sent) = self.sent.pop_front() {
            self.overlay.committed(sent.unit, &sent.ranges);
        }
        self.sent_bytes = 0;
        self.lost(error);
        self.settled();
    }

    /// Bytes were given up: every open file is told once, as Linux does it since `errseq_t`.
    fn lost(&mut self, error: &Error) {
        let number = self.losses() + 1;
        let error = error.clone();
        self.loss = Some(Loss { number, error });
    }

    /// How often bytes were given up.
    pub(super) fn losses(&self) -> u64 {
        self.loss.as_ref().map_or(0, |loss| loss.number)
    }

    /// How many changes there were whose version is not known.
    pub(super) fn unversioned(&self) -> u64 {
        self.unversioned
    }

    /// The namenode, asked after so many changes of unknown version, has had all bytes of a version synced.
    pub(super) fn synced_by_namenode(&mut self, version: u64, unversioned: u64) {
        self.synced.learn(version);
        self.synced_unversioned = self.synced_unversioned.max(unversioned);
    }

    /// All committed bytes of which this client has heard are on disk: there is nothing to ask for.
    fn is_synced(&self) -> bool {
        self.synced.covers(self.version) && self.synced_unversioned == self.unversioned
    }

    /// What a flush with nothing left to do answers, beside losses.
    pub(super) fn report(&mut self) -> Flushed {
        Flushed {
            attributes: self.unreported.take(),
            is_synced: self.is_synced(),
        }
    }
}
