//! Directories whose names are this mount's alone: what is done in them is done here, at once, and told to the cluster later, in
//! order and many things at a time. Nobody can see the difference: whoever else needs such a directory waits until it is given back,
//! and that is after all has been told.
//!
//! | | |
//! |---|---|
//! | *delegated* | a directory whose names are all known here, and are changed by this mount alone |
//! | *own* | an inode whose attributes are known here, and are changed by this mount alone: what was made in a delegated directory, and such directories |
//! | *step* | something that was done here and is still to be told |
//!
//! An inode stays its own until something is done to it that is not done here (a hard link, a lock, an attribute): then all steps are
//! told first, and it is an inode like any other. The session that the directories are delegated to is the condition of it all: if
//! it ends, nothing of this counts any more.

mod names;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_client::Error;
use cairn_protocol::messages::common::{Attributes, Caller, InodeKind};
use cairn_protocol::messages::operation::{OperationKind, ReadNote, SetAttributes, Step};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

pub(crate) use self::names::{Made, Moved, New};

/// Of own inodes. The cluster's are numbers of log entries, and larger.
const OWN_VERSION: u64 = 1;
/// Steps that are told at once.
const BATCH_MAX: usize = 512;
/// Steps that wait. Beyond that nothing more is done here until some are told.
pub(crate) const STEPS_MAX: usize = 8192;
/// Directories and own inodes. Beyond that all are given back.
const KNOWN_MAX: usize = 1 << 18;
/// Names in all delegated directories. Beyond that all are given back.
const NAMES_MAX: usize = 1 << 19;

/// A delegated directory.
#[derive(Debug, Default)]
struct Directory {
    /// All names in it.
    names: BTreeMap<Box<[u8]>, Named>,
    /// The last step that changed them.
    step: u64,
    /// Grows with every change of the directory, whoever made it.
    changes: u64,
}

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) inode: u64,
    pub(crate) kind: i32,
}

/// An own inode.
#[derive(Clone, Debug)]
struct Own {
    attributes: Attributes,
    /// Bytes of it are committed: to read them the cluster must be asked.
    committed: bool,
    /// Made here, so that it has no extended attributes.
    made_here: bool,
    /// The last step about it.
    step: u64,
}

/// Why a step was not told.
#[derive(Debug)]
pub(crate) enum Untold {
    /// It was refused.
    Refused(Error),
    /// The session ended before it was sent.
    NotSent,
    /// The session ended after it was sent, and it happened or not: in an entry of the log after this one.
    Unknown { after: u64 },
}

/// Hears what became of a step. Dropped without a word, that is not known.
type Teller = oneshot::Sender<Result<(), Untold>>;

/// Something that was done and is to be told.
#[derive(Debug)]
struct Waiting {
    number: u64,
    step: Step,
    told: Option<Teller>,
}

/// So long after a change of unknown outcome there may be strays.
const UNSURE: Duration = Duration::from_secs(600);
/// Strays that are given back at once.
const STRAYS_MAX: usize = 1024;
/// Inodes that are not own ones, and were changed here.
const COMMON_MAX: usize = 65_536;
/// Changes in a directory, within [`WORKED_IN`], after which it is asked for.
const WORKED_IN_OFTEN: u32 = 3;
const WORKED_IN: Duration = Duration::from_secs(10);
/// So long a directory is not asked for that somebody else wanted.
const CONTENDED: Duration = Duration::from_secs(30);
/// Files whose bytes were lost that are remembered.
const LOST_MAX: usize = 65_536;
/// Directories that are watched for this.
const WORKED_IN_MAX: usize = 16_384;

/// In whose name things can be done here, as the cluster has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

#[derive(Debug, Default)]
struct State {
    /// In whose name things are done here; nothing is delegated while there is nobody who tells.
    works: Option<Actor>,
    /// 0: nothing is delegated.
    session: u64,
    delegated: HashMap<u64, Directory>,
    /// Of all delegated directories.
    names: usize,
    own: HashMap<u64, Own>,
    /// Own files that lost their name here, and that nobody has open: what was written to them need not arrive.
    gone: HashSet<u64>,
    waiting: VecDeque<Waiting>,
    last: u64,
    /// Since when the cluster is being told something that it has not answered to.
    telling: Option<Instant>,
    /// Inode numbers, and the session that has reserved them.
    reserved: (u64, Range<u64>),
    /// The cluster's time at some instant, never later than that.
    clock: Option<(u64, Instant)>,
    latest_ns: u64,
    /// Somebody waits for a directory, or there are too many.
    wanted_back: bool,
    /// All is being given back: nothing new is done here.
    giving_back: bool,
    /// How often something could not be told, or stored, and what somebody has heard of that.
    failures: u64,
    failures_heard: u64,
    /// Files whose bytes are still to be stored though they were closed, with how often bytes of each had been lost before.
    closing: BTreeMap<u64, u64>,
    /// Those of them that nobody has begun to store.
    closed: BTreeSet<u64>,
    /// Closed files whose bytes may be lost: none of them takes the place of another one before somebody has heard of that.
    lost: BTreeSet<u64>,
    /// Directories that may be delegated to this session without being known here: to be given back.
    strays: BTreeSet<u64>,
    /// Until then there may be strays of which not even the number is known.
    unsure: Option<Instant>,
    /// Last steps about inodes that are not own ones.
    common: HashMap<u64, u64>,
    /// Directories in which this mount works and that are not delegated: how often it did, and since when.
    worked_in: HashMap<u64, (u32, Instant)>,
    /// Directories that somebody else wanted, and when.
    contended: HashMap<u64, Instant>,
    used_at: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Behind {
    state: Mutex<State>,
    /// There is something to tell.
    pub(crate) work: Notify,
    /// Somebody waits, or there is much to tell.
    pub(crate) hurry: Notify,
    /// Those who wait.
    hurried: AtomicUsize,
    /// There is something to give back.
    pub(crate) wanted_back: Notify,
    /// Steps up to this number are told, or never will be.
    told: watch::Sender<u64>,
    /// Woken when things have been given back.
    pub(crate) settled: Notify,
}

/// Somebody waits.
pub(crate) struct Hurry<'a>(&'a Behind);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.hurried.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Steps for one message.
pub(crate) struct Batch {
    pub(crate) session: u64,
    pub(crate) steps: Vec<Step>,
    waiting: Vec<Waiting>,
}

impl Batch {
    /// Keeps the first step.
    pub(crate) fn split_off_rest(&mut self) -> Self {
        Self {
            session: self.session,
            steps: self.steps.split_off(1),
            waiting: self.waiting.split_off(1),
        }
    }
}

/// How an operation finds the directory or inode that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Not this mount's alone.
    Common,
    /// This mount's alone, in this session: if it lives, things are done here.
    Own(u64),
    /// It is being given back, or too much waits: to be asked again in a moment.
    Busy,
}

impl Default for Behind {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            work: Notify::new(),
            hurry: Notify::new(),
            hurried: AtomicUsize::new(0),
            wanted_back: Notify::new(),
            told: watch::Sender::new(0),
            settled: Notify::new(),
        }
    }
}

impl Behind {
    // Each holder leaves what it locks whole, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on there is somebody who tells, in this name, or nobody any more.
    pub(crate) fn set_working(&self, works: Option<Actor>) {
        self.lock().works = works;
    }

    /// Whether directories that are made from now on may be delegated.
    pub(crate) fn works(&self) -> bool {
        let state = self.lock();
        state.works.is_some() && !state.giving_back && !state.wanted_back
    }

    /// How things stand with an inode: as a directory, or by itself. `changes`: something is to be done to it.
    pub(crate) fn condition(&self, inode: u64, changes: bool) -> Condition {
        let state = self.lock();
        if state.session == 0 {
            return Condition::Common;
        }
        let known = state.knows(inode);
        if !known {
            return Condition::Common;
        }
        if state.giving_back || (changes && state.waiting.len() >= STEPS_MAX) {
            return Condition::Busy;
        }
        Condition::Own(state.session)
    }

    /// A directory was made and delegated in this session: it is empty. False if it is not kept: then it is to be given back.
    pub(crate) fn begin(&self, session: u64, made: &Attributes) -> bool {
        self.adopt(session, made, BTreeMap::new())
    }

    /// A directory is delegated in this session, and has these names. False if it is not kept: then it is to be given back.
    pub(crate) fn adopt(
        &self,
        session: u64,
        made: &Attributes,
        names: BTreeMap<Box<[u8]>, Named>,
    ) -> bool {
        let mut state = self.lock();
        // Numbers of sessions grow.
        if state.works.is_none() || state.giving_back || session < state.session {
            return false;
        }
        if state.session != session {
            let former = state.session;
            if former != 0 {
                drop(state);
                self.end(former);
                state = self.lock();
                if state.session != 0 {
                    return false;
                }
            }
            state.session = session;
        }
        if state.strays.contains(&made.inode) {
            // It is just being given back.
            return false;
        }
        state.set_clock(made.ctime_ns);
        let own = Own {
            attributes: made.clone(),
            committed: false,
            made_here: false,
            step: 0,
        };
        state.own.insert(made.inode, own);
        let directory = Directory {
            names,
            step: state.last,
            changes: 0,
        };
        state.insert(made.inode, directory);
        state.touch();
        true
    }

    /// Somebody else waits for one of these inodes, if it is a delegated directory; true if any is.
    pub(crate) fn wanted(&self, inodes: &BTreeSet<u64>) -> bool {
        let mut state = self.lock();
        if state.unsure.is_some_and(|until| Instant::now() < until) {
            // Whatever others have "changed" may be one of them. To give back what one has not got does no harm.
            let strange: Vec<u64> = inodes
                .iter()
                .copied()
                .filter(|inode| !state.delegated.contains_key(inode))
                .take(STRAYS_MAX.saturating_sub(state.strays.len()))
                .collect();
            state.strays.extend(strange);
            self.wanted_back.notify_one();
        }
        if state.session == 0 {
            return false;
        }
        let wanted: Vec<u64> = inodes
            .iter()
            .copied()
            .filter(|inode| state.delegated.contains_key(inode))
            .collect();
        state.contend(wanted.iter().copied());
        let wanted = !wanted.is_empty();
        if wanted {
            state.wanted_back = true;
            drop(state);
            self.wanted_back.notify_one();
        }
        wanted
    }

    /// This mount changes a name in a directory that is not delegated. True if it has done so often that it is worth asking for it.
    pub(crate) fn works_in(&self, directory: u64) -> bool {
        let mut state = self.lock();
        let busy = state.giving_back || state.wanted_back || state.strays.contains(&directory);
        if state.works.is_none() || busy {
            return false;
        }
        let now = Instant::now();
        if let Some(&at) = state.contended.get(&directory) {
            if now < at + CONTENDED {
                return false;
            }
            state.contended.remove(&directory);
        }
        if state.worked_in.len() >= WORKED_IN_MAX {
            state.worked_in.clear();
        }
        let (count, since) = state.worked_in.entry(directory).or_insert((0, now));
        if now > *since + WORKED_IN {
            (*count, *since) = (0, now);
        }
        *count += 1;
        let often = *count >= WORKED_IN_OFTEN;
        if often {
            state.worked_in.remove(&directory);
        }
        often
    }

    /// It cannot be had, or only now: it is not asked for again soon.
    pub(crate) fn contend(&self, directory: u64) {
        self.lock().contend([directory]);
    }

    /// Everything is to be given back; false if that is done.
    pub(crate) fn want_back(&self) -> bool {
        let mut state = self.lock();
        let any = state.session != 0;
        if any {
            state.wanted_back = true;
            drop(state);
            self.wanted_back.notify_one();
        }
        any
    }

    /// The session that something is delegated to; 0 if nothing is.
    pub(crate) fn session(&self) -> u64 {
        self.lock().session
    }

    /// The cluster has changed an inode: what is known of it here is old.
    pub(crate) fn changed_elsewhere(&self, inode: u64) {
        let mut state = self.lock();
        if let Some(directory) = state.delegated.get_mut(&inode) {
            directory.changes += 1;
            state.own.remove(&inode);
        }
    }

    /// How long nothing has been done here; `None` if nothing is delegated.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.session != 0).then_some(state.used_at).flatten()
    }

    /// Attributes of an own inode.
    pub(crate) fn attributes(&self, inode: u64) -> Option<Attributes> {
        let state = self.lock();
        state.own.get(&inode).map(|own| own.attributes.clone())
    }

    /// True for an own inode that has no extended attributes, because it was made here.
    pub(crate) fn is_bare(&self, inode: u64) -> bool {
        let state = self.lock();
        state.own.get(&inode).is_some_and(|own| own.made_here)
    }

    /// A file is closed: its bytes are stored soon. False if it is not an own one, or if that cannot wait.
    pub(crate) fn close_soon(&self, inode: u64, losses: u64) -> bool {
        let mut state = self.lock();
        let soon = !state.giving_back && !state.wanted_back && state.own.contains_key(&inode);
        if soon {
            state.closing.entry(inode).or_insert(losses);
            state.closed.insert(inode);
            drop(state);
            self.work.notify_one();
        }
        soon
    }

    /// Files that were closed lately, for somebody who begins to store them.
    pub(crate) fn take_closed(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.lock().closed)
    }

    /// Until it is dropped nothing waits for company.
    pub(crate) fn in_a_hurry(&self) -> Hurry<'_> {
        self.hurried.fetch_add(1, Ordering::SeqCst);
        self.hurry.notify_one();
        Hurry(self)
    }

    /// True if somebody waits, or if there is enough to tell.
    pub(crate) fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::SeqCst) > 0 || self.lock().waiting.len() >= BATCH_MAX
    }

    /// Files that were closed before their bytes were stored.
    pub(crate) fn closing(&self) -> Vec<u64> {
        self.lock().closing.keys().copied().collect()
    }

    /// True if the bytes of a file are still to be stored though it was closed.
    pub(crate) fn is_closing(&self, inode: u64) -> bool {
        self.lock().closing.contains_key(&inode)
    }

    /// Nothing is left to be stored of a file; `losses`: how often bytes of it have been lost by now, if that is known.
    pub(crate) fn closed(&self, inode: u64, losses: Option<u64>) {
        let mut state = self.lock();
        let before = state.closing.remove(&inode);
        if before.is_some() && losses.is_some() && before != losses {
            state.failures += 1;
            if state.lost.len() >= LOST_MAX {
                state.lost.pop_first();
            }
            state.lost.insert(inode);
        }
        drop(state);
        self.settled.notify_waiters();
    }

    /// True, once, if bytes of a file may have been lost after it was closed.
    pub(crate) fn take_lost(&self, inode: u64) -> bool {
        self.lock().lost.remove(&inode)
    }

    /// The same, and it is still to be heard of.
    pub(crate) fn is_lost(&self, inode: u64) -> bool {
        self.lock().lost.contains(&inode)
    }

    /// A directory may be delegated to the session, and is not known here: it is given back. `None`: which one is not known.
    pub(crate) fn stray(&self, directory: Option<u64>) {
        let mut state = self.lock();
        match directory {
            Some(directory) => drop(state.strays.insert(directory)),
            None => state.unsure = Some(Instant::now() + UNSURE),
        }
        drop(state);
        self.wanted_back.notify_one();
    }

    /// Directories that may be delegated without being known.
    pub(crate) fn strays(&self) -> Vec<u64> {
        let state = self.lock();
        state.strays.iter().copied().take(STRAYS_MAX).collect()
    }

    /// They are given back.
    pub(crate) fn given_back(&self, strays: &[u64]) {
        let mut state = self.lock();
        state.strays.retain(|stray| !strays.contains(stray));
    }

    /// Returns when all is told that was done to an inode that is not an own one. Cancel-safe.
    pub(crate) async fn wait_common(&self, inode: u64) {
        let step = self.lock().common.get(&inode).copied();
        if let Some(step) = step {
            self.wait_step(step).await;
        }
    }

    /// True if something was done to an inode that is not an own one, and is not told yet.
    pub(crate) fn has_untold(&self, inode: u64) -> bool {
        let step = self.lock().common.get(&inode).copied();
        step.is_some_and(|step| *self.told.borrow() < step)
    }

    /// True for a file that lost its last name here, while nobody had it open.
    pub(crate) fn is_gone(&self, inode: u64) -> bool {
        self.lock().gone.contains(&inode)
    }

    /// True for an own inode whose bytes are not all here.
    pub(crate) fn is_committed(&self, inode: u64) -> bool {
        let state = self.lock();
        state.own.get(&inode).is_some_and(|own| own.committed)
    }

    /// True for a directory whose names are this mount's alone.
    pub(crate) fn is_delegated(&self, directory: u64) -> bool {
        self.lock().delegated.contains_key(&directory)
    }

    /// Makes an inode one like any other, once all that was done to it is told. Cancel-safe.
    pub(crate) async fn disown(&self, inode: u64) {
        loop {
            let step = {
                let mut state = self.lock();
                let Some(own) = state.own.get(&inode) else {
                    return;
                };
                let step = own.step;
                if *self.told.borrow() >= step {
                    state.own.remove(&inode);
                    return;
                }
                step
            };
            self.wait_step(step).await;
        }
    }

    /// Returns when the names of a delegated directory are told; how often it had changed before. Cancel-safe.
    pub(crate) async fn wait_names(&self, directory: u64) -> Option<u64> {
        let (step, changes) = {
            let state = self.lock();
            let directory = state.delegated.get(&directory)?;
            (directory.step, directory.changes)
        };
        self.wait_step(step).await;
        Some(changes)
    }

    /// Attributes of a delegated directory that were asked for after so many changes: if there are no more, they are as they are.
    pub(crate) fn own_again(&self, attributes: &Attributes, changes: u64) {
        let mut state = self.lock();
        let inode = attributes.inode;
        let directory = state.delegated.get(&inode);
        let Some(step) = directory
            .filter(|directory| directory.changes == changes)
            .map(|directory| directory.step)
        else {
            return;
        };
        state.own.entry(inode).or_insert_with(|| Own {
            attributes: attributes.clone(),
            committed: false,
            made_here: false,
            step,
        });
    }

    /// The cluster was told of a read.
    pub(crate) fn read(&self, note: &ReadNote) {
        if let Some(own) = self.lock().own.get_mut(&note.inode)
            && own.attributes.atime_ns == note.before_ns
        {
            own.attributes.atime_ns = note.atime_ns;
        }
    }

    /// Bytes were written to a file: its times are those of now.
    pub(crate) fn written(&self, inode: u64) {
        let mut state = self.lock();
        let now = state.now();
        if let Some(own) = state.own.get_mut(&inode) {
            own.attributes.mtime_ns = now;
            own.attributes.ctime_ns = now;
            state.touch();
        }
    }

    /// Puts a commit among what is to be told; `None` if the inode is not an own one. The answer comes when it is told.
    pub(crate) fn commit(
        &self,
        mut commit: cairn_protocol::messages::operation::Commit,
    ) -> Option<(oneshot::Receiver<Result<(), Untold>>, Attributes)> {
        let mut state = self.lock();
        let inode = commit.location.inode;
        let own = state.own.get_mut(&inode)?;
        let end = commit
            .extents
            .iter()
            .map(|extent| extent.offset_in_file.saturating_add(extent.length))
            .max()
            .unwrap_or(0);
        let attributes = &mut own.attributes;
        attributes.size = attributes.size.max(end);
        let added: u64 = commit.extents.iter().map(|extent| extent.length).sum();
        // Close enough: bytes that are written over are counted twice until the cluster is asked.
        attributes.allocated = attributes.allocated.saturating_add(added);
        own.committed = true;
        commit.mtime_ns = attributes.mtime_ns;
        let (at_ns, attributes) = (attributes.ctime_ns, attributes.clone());
        let (told, answer) = oneshot::channel();
        let step = state.push(OperationKind::Commit(commit), 0, at_ns, None, Some(told));
        state.note_step(inode, step);
        drop(state);
        self.work.notify_one();
        Some((answer, attributes))
    }

    /// Changes attributes of an own inode.
    pub(crate) fn set_attributes(&self, set: SetAttributes) -> Made {
        let mut state = self.lock();
        if state.giving_back {
            return Made::Busy;
        }
        let now = state.now();
        let is_superuser = state.works.is_some_and(|actor| actor.uid == 0);
        let inode = set.location.inode;
        let Some(own) = state.own.get_mut(&inode) else {
            return Made::Elsewhere;
        };
        let attributes = &mut own.attributes;
        const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;
        let owner = set.uid.is_some() || set.gid.is_some();
        let is_link = attributes.kind == InodeKind::Symlink as i32;
        // What becomes of these bits depends on more than is known here.
        if set.mode.unwrap_or(0) & SET_IDS != 0
            || (owner && attributes.mode & SET_IDS != 0)
            || set.replication.is_some()
            || is_link && set.mode.is_some()
            || owner && !is_superuser
        {
            return Made::Elsewhere;
        }
        attributes.mode = set.mode.unwrap_or(attributes.mode);
        attributes.uid = set.uid.unwrap_or(attributes.uid);
        attributes.gid = set.gid.unwrap_or(attributes.gid);
        if let Some(atime_ns) = set.atime_now.then_some(now).or(set.atime_ns) {
            attributes.atime_ns = atime_ns;
        }
        if let Some(mtime_ns) = set.mtime_now.then_some(now).or(set.mtime_ns) {
            attributes.mtime_ns = mtime_ns;
        }
        attributes.ctime_ns = now;
        let changed = attributes.clone();
        if !state.merge(&set, now) {
            let step = state.push(OperationKind::SetAttributes(set), 0, now, None, None);
            state.note_step(inode, step);
        }
        if let Some(directory) = state.delegated.get_mut(&inode) {
            directory.changes += 1;
        }
        drop(state);
        self.work.notify_one();
        Made::Here(changed)
    }

    /// The next steps to tell, in order; `None` if there are none.
    pub(crate) fn take_batch(&self) -> Option<Batch> {
        let mut state = self.lock();
        let count = state.waiting.len().min(BATCH_MAX);
        if count == 0 {
            return None;
        }
        let waiting: Vec<Waiting> = state.waiting.drain(..count).collect();
        let steps = waiting.iter().map(|waiting| waiting.step.clone()).collect();
        Some(Batch {
            session: state.session,
            steps,
            waiting,
        })
    }

    /// The cluster is told something, or (`false`) has answered.
    pub(crate) fn set_telling(&self, tells: bool) {
        self.lock().telling = tells.then(Instant::now);
    }

    /// Since when the cluster does not answer to what it is told; `None` if nothing is on its way.
    pub(crate) fn telling(&self) -> Option<Instant> {
        self.lock().telling
    }

    /// A batch has happened.
    pub(crate) fn told(&self, batch: Batch) {
        let mut last = 0;
        for waiting in batch.waiting {
            last = waiting.number;
            if let Some(told) = waiting.told {
                // Whoever has gone does not miss the answer.
                let _ = told.send(Ok(()));
            }
        }
        self.tell_up_to(last);
    }

    /// One step of a batch has not happened, and will not.
    pub(crate) fn failed(&self, batch: Batch, error: &Error) {
        let mut last = 0;
        for waiting in batch.waiting {
            last = waiting.number;
            match waiting.told {
                Some(told) => {
                    let _ = told.send(Err(Untold::Refused(error.clone())));
                }
                None => self.lock().failures += 1,
            }
        }
        self.tell_up_to(last);
    }

    /// The session that a batch was for is over ([`Behind::end`]): it was not sent, or nobody knows what became of it (`sent_after`: the last
    /// entry of the log that was known then).
    pub(crate) fn lost(&self, batch: Batch, sent_after: Option<u64>) {
        for told in batch.waiting.into_iter().filter_map(|it| it.told) {
            let untold = match sent_after {
                Some(after) => Untold::Unknown { after },
                None => Untold::NotSent,
            };
            let _ = told.send(Err(untold));
        }
    }

    fn tell_up_to(&self, last: u64) {
        self.told.send_if_modified(|told| {
            let grows = *told < last;
            *told = (*told).max(last);
            grows
        });
        self.settled.notify_waiters();
    }

    /// Returns when all that was done before is told; false if something could not be, of which nobody was told before.
    /// Cancel-safe.
    pub(crate) async fn wait_told(&self) -> bool {
        let (last, heard) = {
            let state = self.lock();
            (state.last, state.failures_heard)
        };
        self.wait_step(last).await;
        let mut state = self.lock();
        // All who wait at the same time hear of it.
        state.failures_heard = state.failures;
        state.failures == heard
    }

    /// The same for those whom a failure does not concern. Cancel-safe.
    pub(crate) async fn wait_all_told(&self) {
        let last = self.lock().last;
        self.wait_step(last).await;
    }

    async fn wait_step(&self, step: u64) {
        if *self.told.borrow() < step {
            let _hurry = self.in_a_hurry();
            self.work.notify_one();
            let mut told = self.told.subscribe();
            // The sender lives in self.
            let _ = told.wait_for(|&told| told >= step).await;
        }
    }

    /// Begins to give everything back, if that is wanted: in which session.
    pub(crate) fn begin_giving_back(&self) -> Option<u64> {
        let mut state = self.lock();
        if !state.wanted_back || state.session == 0 {
            state.wanted_back = false;
            return None;
        }
        state.giving_back = true;
        Some(state.session)
    }

    /// The directories to give back, all being told, in the order of their numbers.
    pub(crate) fn directories(&self, session: u64) -> Vec<u64> {
        let state = self.lock();
        if state.session != session {
            return Vec::new();
        }
        let directories: BTreeSet<u64> = state.delegated.keys().copied().collect();
        directories.into_iter().collect()
    }

    /// The directories are given back. False if there is something new to tell: that comes first.
    pub(crate) fn finish_giving_back(&self, session: u64) -> bool {
        let mut state = self.lock();
        if state.session == session {
            if *self.told.borrow() < state.last {
                return false;
            }
            state.forget();
        }
        drop(state);
        self.settled.notify_waiters();
        true
    }

    /// A directory is gone, removed by the cluster.
    pub(crate) fn forget_directory(&self, inode: u64) {
        let mut state = self.lock();
        state.take(inode);
        state.own.remove(&inode);
    }

    /// What a commit of a file leaves that lost its name before: nothing is told of it. `None` for any other.
    pub(crate) fn commit_to_gone(&self, inode: u64, size: u64) -> Option<Attributes> {
        let gone = self.lock().gone.contains(&inode);
        gone.then(|| Attributes {
            inode,
            kind: InodeKind::File as i32,
            size,
            version: OWN_VERSION,
            ..Attributes::default()
        })
    }

    /// The session is over, and nothing is delegated any more. What was not told is lost: how much that was. `None` if another one
    /// has begun meanwhile.
    pub(crate) fn end(&self, session: u64) -> Option<u64> {
        let mut state = self.lock();
        if state.session != session {
            return None;
        }
        let last = state.last;
        let lost = last - *self.told.borrow();
        state.failures += u64::from(lost > 0);
        state.forget();
        state.strays.clear();
        state.unsure = None;
        drop(state);
        self.tell_up_to(last);
        Some(lost)
    }

    /// Numbers for new inodes.
    pub(crate) fn reserve(&self, session: u64, range: Range<u64>) {
        self.lock().reserved = (session, range);
    }

    /// The session, if there is no number left for a new inode.
    pub(crate) fn needs_numbers(&self) -> Option<u64> {
        let state = self.lock();
        let (session, range) = &state.reserved;
        let none = *session != state.session || range.is_empty();
        (state.session != 0 && none).then_some(state.session)
    }
}

impl State {
    fn knows(&self, inode: u64) -> bool {
        self.delegated.contains_key(&inode) || self.own.contains_key(&inode)
    }

    /// Somebody else works in these directories.
    fn contend(&mut self, directories: impl IntoIterator<Item = u64>) {
        let now = Instant::now();
        for directory in directories {
            if self.contended.len() >= WORKED_IN_MAX {
                self.contended.clear();
            }
            self.contended.insert(directory, now);
        }
    }

    /// A directory is delegated with all these names.
    fn insert(&mut self, inode: u64, directory: Directory) {
        self.names += directory.names.len();
        if let Some(former) = self.delegated.insert(inode, directory) {
            self.names -= former.names.len();
        }
    }

    /// It is not, or is gone.
    fn take(&mut self, inode: u64) {
        if let Some(directory) = self.delegated.remove(&inode) {
            self.names -= directory.names.len();
        }
    }

    /// A name in a delegated directory has this meaning now, or none; what it meant before.
    fn name(&mut self, directory: u64, name: &[u8], named: Option<Named>) -> Option<Named> {
        let names = &mut self.delegated.get_mut(&directory)?.names;
        let before = names.len();
        let meant = match named {
            Some(named) => names.insert(name.into(), named),
            None => names.remove(name),
        };
        self.names = self.names + names.len() - before;
        meant
    }

    fn touch(&mut self) {
        self.used_at = Some(Instant::now());
        let inodes = self.own.len() + self.delegated.len();
        if inodes > KNOWN_MAX || self.names > NAMES_MAX {
            self.wanted_back = true;
        }
    }

    /// The cluster's time as far as it is known: not later than it really is, and never the same twice.
    fn now(&mut self) -> u64 {
        let now = self.clock.map_or(0, |(stamp_ns, at)| {
            let since = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
            stamp_ns.saturating_add(since)
        });
        self.latest_ns = now.max(self.latest_ns + 1);
        self.latest_ns
    }

    fn set_clock(&mut self, stamp_ns: u64) {
        if self.now() < stamp_ns {
            self.clock = Some((stamp_ns, Instant::now()));
        }
    }

    fn push(
        &mut self,
        operation: OperationKind,
        inode: u64,
        at_ns: u64,
        caller: Option<Caller>,
        told: Option<Teller>,
    ) -> u64 {
        self.last += 1;
        let step = Step {
            operation: operation.into(),
            inode,
            at_ns,
            caller,
        };
        let number = self.last;
        self.waiting.push_back(Waiting { number, step, told });
        self.touch();
        number
    }

    fn note_step(&mut self, inode: u64, step: u64) {
        if let Some(own) = self.own.get_mut(&inode) {
            own.step = step;
        }
    }

    /// Makes one change of attributes of two in a row.
    fn merge(&mut self, set: &SetAttributes, at_ns: u64) -> bool {
        let Some(Waiting { step, .. }) = self.waiting.back_mut() else {
            return false;
        };
        let Some(OperationKind::SetAttributes(before)) = &mut step.operation.kind else {
            return false;
        };
        if before.location != set.location {
            return false;
        }
        before.mode = set.mode.or(before.mode);
        before.uid = set.uid.or(before.uid);
        before.gid = set.gid.or(before.gid);
        // Both as they are known here: "now" was when it was said.
        if set.atime_now || set.atime_ns.is_some() {
            (before.atime_now, before.atime_ns) = (set.atime_now, set.atime_ns);
        } else if before.atime_now {
            (before.atime_now, before.atime_ns) = (false, Some(step.at_ns));
        }
        if set.mtime_now || set.mtime_ns.is_some() {
            (before.mtime_now, before.mtime_ns) = (set.mtime_now, set.mtime_ns);
        } else if before.mtime_now {
            (before.mtime_now, before.mtime_ns) = (false, Some(step.at_ns));
        }
        step.at_ns = at_ns;
        true
    }

    /// Nothing is delegated any more.
    fn forget(&mut self) {
        for told in self.waiting.drain(..).filter_map(|it| it.told) {
            let _ = told.send(Err(Untold::NotSent));
        }
        self.delegated.clear();
        self.names = 0;
        self.own.clear();
        self.gone.clear();
        self.common.clear();
        self.session = 0;
        self.wanted_back = false;
        self.giving_back = false;
    }

    /// Something was done to an inode that is not an own one.
    fn note_common(&mut self, inode: u64, step: u64) {
        if self.own.contains_key(&inode) {
            return;
        }
        if self.common.len() >= COMMON_MAX {
            self.wanted_back = true;
        }
        self.common.insert(inode, step);
    }
}
