//! Advisory locks, as `fcntl` and `flock` know them, over the whole cluster.
//!
//! The namenode grants a lock to an owner of this client's session. The session's end ends the lock, whatever the reason; until the
//! owner has let go, everything that would change the file is then refused with `LockLost`, here and not by the
//! namenode, because a new session could do it.
//!
//! A lock is never left to nobody: each change runs in a task of its own, and if its caller has gone when the answer
//! comes, the task puts back what the owner held before. Changes of one owner on one file follow each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::{Caller, Location};
use cairn_protocol::messages::lock::{
    ListLocks, LockHolder, LockMode, LockOutcome, LockSpace, SetLock, TestLock, WaitLockReply,
    WaitLockRequest,
};
use cairn_protocol::messages::operation::{OperationKind, OutcomeKind};
use cairn_protocol::messages::query::{QueryKind, QueryResult};
use cairn_protocol::{ErrorCode, Method};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::error::{Error, Result, Subject};
use crate::file_system::{Core, FileSystem};
use crate::namenode::lock;
use crate::place::Place;
use crate::session::{MutateError, lock_lost};

/// How long the namenode is asked to wait at a time. A leader that dies without a word is noticed after this.
const WAIT: Duration = Duration::from_secs(5);

/// Pause of those for whom no namenode waits: there are too many.
const POLL_PAUSE: Duration = Duration::from_millis(250);

/// Pause between attempts to take back a lock of which nobody knows whether it was granted.
const TAKE_BACK_PAUSE: Duration = Duration::from_secs(1);

/// A lock that somebody wishes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    /// `fcntl` ranges or `flock`: the two do not meet.
    pub space: LockSpace,
    /// Whose. Any number; owners of different [`FileSystem`]s are different in any case.
    pub owner: u64,
    /// True for the right to write: nobody else holds anything then.
    pub write: bool,
    /// First byte. `flock` locks whole files, whatever is said here.
    pub start: u64,
    /// Last byte; `u64::MAX` reaches to the end, wherever that will be.
    pub end: u64,
    /// Process, for people.
    pub pid: u32,
}

impl LockRequest {
    /// The whole file, exclusively, for an owner.
    pub fn exclusive(owner: u64) -> Self {
        Self {
            space: LockSpace::Posix,
            owner,
            write: true,
            start: 0,
            end: u64::MAX,
            pid: std::process::id(),
        }
    }

    /// The whole file, together with other readers.
    pub fn shared(owner: u64) -> Self {
        Self {
            write: false,
            ..Self::exclusive(owner)
        }
    }

    fn message(&self, inode: InodeId) -> SetLock {
        let mode = if self.write {
            LockMode::Write
        } else {
            LockMode::Read
        };
        SetLock {
            inode: inode.0,
            space: self.space as i32,
            owner: self.owner,
            mode: mode as i32,
            start: self.start,
            end: self.end,
            pid: self.pid,
        }
    }
}

/// One owner's locks on one file.
type OwnerKey = (u64, LockSpace, u64);

fn owner_key(lock: &SetLock) -> OwnerKey {
    (lock.inode, lock.space(), lock.owner)
}

/// Which session may change a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// Any: no lock is held.
    Any,
    /// The one that holds locks on it.
    Only(u64),
    /// None: locks were lost.
    Lost,
}

impl Fence {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, fence) | (fence, Self::Any) => fence,
            (Self::Only(one), Self::Only(two)) if one == two => self,
            _ => Self::Lost,
        }
    }
}

/// Files whose content an operation changes, as it names them.
pub(crate) fn changed_files(operation: &OperationKind) -> Vec<&Location> {
    match operation {
        OperationKind::Commit(commit) => vec![&commit.location],
        OperationKind::Truncate(truncate) => vec![&truncate.location],
        OperationKind::PunchHole(punch) => vec![&punch.location],
        OperationKind::CloneRange(clone) => vec![&clone.target],
        OperationKind::Concat(concat) => vec![&concat.target],
        OperationKind::Transaction(transaction) => transaction
            .operations
            .iter()
            .filter_map(|operation| operation.kind.as_ref())
            .flat_map(changed_files)
            .collect(),
        _ => Vec::new(),
    }
}

/// What this client's owners hold, and since which session.
#[derive(Debug, Default)]
pub(crate) struct HeldLocks(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Session of each owner with locks; `None` once they count as lost.
    owners: BTreeMap<OwnerKey, Option<u64>>,
    /// Held by whoever changes an owner's locks; here while anybody does.
    turns: BTreeMap<OwnerKey, Arc<tokio::sync::Mutex<()>>>,
}

impl HeldLocks {
    /// Whether any owner of this client holds locks, or lost some and has not let go.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).owners.is_empty()
    }

    /// In which session the content of these files may be changed.
    pub(crate) fn fence(&self, inodes: impl IntoIterator<Item = u64>) -> Fence {
        inodes
            .into_iter()
            .map(|inode| self.of_file(inode))
            .fold(Fence::Any, Fence::and)
    }

    fn of_file(&self, inode: u64) -> Fence {
        let held = lock(&self.0);
        let first = (inode, LockSpace::Posix, 0);
        let last = (inode, LockSpace::Flock, u64::MAX);
        held.owners
            .range(first..=last)
            .map(|(_, session)| session.map_or(Fence::Lost, Fence::Only))
            .fold(Fence::Any, Fence::and)
    }

    fn of_owner(&self, key: &OwnerKey) -> Fence {
        match lock(&self.0).owners.get(key) {
            None => Fence::Any,
            Some(Some(session)) => Fence::Only(*session),
            Some(None) => Fence::Lost,
        }
    }

    fn hold(&self, key: OwnerKey, session: u64) {
        lock(&self.0).owners.insert(key, Some(session));
    }

    fn lose(&self, key: OwnerKey) {
        lock(&self.0).owners.insert(key, None);
    }

    fn forget(&self, key: &OwnerKey) {
        lock(&self.0).owners.remove(key);
    }

    fn turn(&self, key: OwnerKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut held = lock(&self.0);
        held.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        held.turns.entry(key).or_default().clone()
    }
}

impl FileSystem {
    /// Locks a range of a file for an owner, and waits until that is possible. What the owner held in the range before is replaced
    /// in the same step. Needs the right to read, or to write, the file.
    ///
    /// Those who wait are served in turn, but a lock that is free is given to whoever comes: as on a local file system,
    /// readers who take turns can keep a writer waiting.
    ///
    /// Cancel-safe: if the future is dropped, the owner holds what it held before, a moment later.
    ///
    /// ```no_run
    /// use cairn_client::LockRequest;
    /// use cairn_protocol::messages::lock::LockSpace;
    ///
    /// # async fn example(fs: cairn_client::FileSystem) -> Result<(), cairn_client::Error> {
    /// let inode = fs.stat("/counter").await?.inode.into();
    /// fs.lock(inode, LockRequest::exclusive(1)).await?;
    /// let count = fs.read_file("/counter").await?.len();
    /// fs.record_append("/counter", "x".into()).await?;
    /// fs.release_owner(inode, LockSpace::Posix, 1).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Deadlock` if those who hold the range wait for this owner; `NoLocks` if there are too many on the file or of this
    /// session; `LockLost` if the owner's earlier locks on this file ended with their session and were not let go yet.
    pub async fn lock(&self, inode: InodeId, request: LockRequest) -> Result<()> {
        let mut place = 0;
        while self.try_lock(inode, request).await?.is_some() {
            place = self.wait_for_lock(inode, &request, place).await?;
        }
        Ok(())
    }

    /// Locks a range if nothing forbids it; else tells a lock that does. Cancel-safe, as [`FileSystem::lock`].
    ///
    /// # Errors
    /// As for [`FileSystem::lock`].
    pub async fn try_lock(
        &self,
        inode: InodeId,
        request: LockRequest,
    ) -> Result<Option<LockHolder>> {
        let outcome = self.set_lock(request.message(inode), false).await?;
        Ok(outcome.conflict)
    }

    /// Unlocks a range, as far as the owner holds it. What was written under the lock should have been flushed. Cancel-safe: it
    /// is done even if the future is dropped.
    ///
    /// # Errors
    /// `LockLost` if the locks had ended before.
    pub async fn unlock(&self, inode: InodeId, request: LockRequest) -> Result<()> {
        let unlock = SetLock {
            mode: LockMode::Unlocked as i32,
            ..request.message(inode)
        };
        self.set_lock(unlock, false).await.map(drop)
    }

    /// Lets go of all that an owner holds on a file, lost or not: it closes the file. Cancel-safe, as [`FileSystem::unlock`].
    pub async fn release_owner(&self, inode: InodeId, space: LockSpace, owner: u64) -> Result<()> {
        let all = LockRequest {
            space,
            ..LockRequest::exclusive(owner)
        };
        let unlock = SetLock {
            mode: LockMode::Unlocked as i32,
            ..all.message(inode)
        };
        self.set_lock(unlock, true).await.map(drop)
    }

    /// A lock that forbids this one now, if there is any. Cancel-safe.
    pub async fn test_lock(
        &self,
        inode: InodeId,
        request: LockRequest,
    ) -> Result<Option<LockHolder>> {
        let subject = Subject::Inode(inode);
        let test = TestLock {
            session: self.core().sessions.current_id(),
            lock: request.message(inode),
        };
        match self.query(&subject, QueryKind::TestLock(test)).await? {
            QueryResult::LockTest(test) => Ok(test.conflict),
            _ => Err(Error::unexpected(&subject)),
        }
    }

    /// Who holds what on a file, in order of ranges; the first 1,000. Cancel-safe.
    pub async fn list_locks(&self, place: impl Into<Place>) -> Result<Vec<LockHolder>> {
        let (location, subject) = place.into().resolve()?;
        let list = QueryKind::ListLocks(ListLocks { location });
        match self.query(&subject, list).await? {
            QueryResult::LockListing(listing) => Ok(listing.locks),
            _ => Err(Error::unexpected(&subject)),
        }
    }

    /// Fails with `LockLost` if an owner of this client lost locks on the file with their session and has not let go yet: what
    /// it reads may not fit together, and what it wrote last has not become part of the file.
    pub fn check_locks(&self, inode: InodeId) -> Result<()> {
        let sessions = &self.core().sessions;
        match sessions.held.of_file(inode.0) {
            Fence::Any => Ok(()),
            Fence::Only(session) if sessions.is_alive(session) => Ok(()),
            Fence::Only(_) | Fence::Lost => Err(lock_lost(&Subject::Inode(inode))),
        }
    }

    /// Whether an owner of this client still holds locks on the file, as far as is known here: they end with the session that they were
    /// granted in.
    pub fn holds_locks(&self, inode: InodeId, space: LockSpace, owner: u64) -> bool {
        let sessions = &self.core().sessions;
        match sessions.held.of_owner(&(inode.0, space, owner)) {
            Fence::Only(session) => sessions.is_alive(session),
            Fence::Any | Fence::Lost => false,
        }
    }

    async fn set_lock(&self, message: SetLock, lets_go: bool) -> Result<LockOutcome> {
        let subject = Subject::Inode(InodeId(message.inode));
        let (answer, answered) = oneshot::channel();
        let (taken, is_taken) = oneshot::channel();
        let change = Change {
            core: self.core().clone(),
            caller: self.caller(),
            subject: subject.clone(),
            message,
            lets_go,
        };
        self.core().background.spawn(change.run(answer, is_taken));
        let gone = |_| Error::refused(&subject, ErrorCode::Unavailable);
        let outcome = answered.await.map_err(gone)?;
        // From here on to the caller nothing waits: the answer arrives.
        let _ = taken.send(());
        outcome
    }

    /// Waits at the leader until a lock could be granted that [`FileSystem::try_lock`] was refused, for those who have something
    /// to do before each attempt. Returns the place in the queue, for the next wait; at first it is 0. Cancel-safe.
    ///
    /// # Errors
    /// As for [`FileSystem::lock`].
    pub async fn wait_for_lock(
        &self,
        inode: InodeId,
        request: &LockRequest,
        mut place: u64,
    ) -> Result<u64> {
        let core = self.core();
        let Ok(_permit) = core.lock_waits.try_acquire() else {
            sleep(POLL_PAUSE).await;
            return Ok(place);
        };
        let mut wait = Wait {
            core,
            request: WaitLockRequest {
                session: 0,
                caller: self.caller(),
                lock: request.message(inode),
                place,
                wait_ms: WAIT.as_millis() as u64,
            },
            over: false,
        };
        loop {
            wait.request.session = core.sessions.current_id();
            match wait.once().await {
                Ok(reply) => {
                    place = reply.place;
                    wait.request.place = place;
                    if reply.free {
                        wait.over = true;
                        return Ok(place);
                    }
                }
                Err(error) if error.code() == ErrorCode::Overloaded => {
                    wait.over = true;
                    sleep(POLL_PAUSE).await;
                    return Ok(place);
                }
                Err(error) => {
                    wait.over = true;
                    return Err(error);
                }
            }
        }
    }
}

/// A wait at the namenode, which is told when it is given up: others must not take the owner for one who waits.
struct Wait<'a> {
    core: &'a Arc<Core>,
    request: WaitLockRequest,
    over: bool,
}

impl Wait<'_> {
    async fn once(&self) -> Result<WaitLockReply> {
        let subject = Subject::Inode(InodeId(self.request.lock.inode));
        let namenode = &self.core.namenode;
        let patience = namenode.timeouts().patience;
        let limit = WAIT + namenode.timeouts().request;
        namenode
            .call_within(Method::WaitLock, &self.request, limit, patience)
            .await
            .map_err(|error| error.into_error(&subject, patience))
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let core = self.core.clone();
        let request = WaitLockRequest {
            wait_ms: 0,
            ..self.request.clone()
        };
        self.core.background.spawn(async move {
            // If it does not arrive, the namenode's own wait ends soon.
            let limit = core.namenode.timeouts().request;
            let told: std::result::Result<WaitLockReply, _> = core
                .namenode
                .call_within(Method::WaitLock, &request, limit, limit)
                .await;
            drop(told);
        });
    }
}

/// One change of an owner's locks on a file.
struct Change {
    core: Arc<Core>,
    caller: Caller,
    subject: Subject,
    message: SetLock,
    /// The owner closes the file: what it has lost is forgotten, too.
    lets_go: bool,
}

impl Change {
    /// `is_taken` ends with an error if the caller was dropped before it had the answer.
    async fn run(
        self,
        answer: oneshot::Sender<Result<LockOutcome>>,
        is_taken: oneshot::Receiver<()>,
    ) {
        let key = owner_key(&self.message);
        let turn = self.core.sessions.held.turn(key);
        let _turn = turn.lock().await;
        let before = self.core.sessions.held.of_owner(&key);
        let mut left = None;
        let changed = match self.change(self.message).await {
            Err(failed) if self.lets_go && failed.error.code() == ErrorCode::LockLost => {
                self.core.sessions.held.forget(&key);
                // A session that ran out by our clock may come back to life, and its locks with it.
                if let Fence::Only(session) = before {
                    left = Some(session);
                }
                Ok((0, LockOutcome::default()))
            }
            changed => changed,
        };
        let unlocks = self.message.mode() == LockMode::Unlocked;
        let (changed, granted, unknown) = match changed {
            Ok((session, outcome)) => {
                let granted =
                    (outcome.conflict.is_none() && !unlocks).then(|| (session, outcome.clone()));
                (Ok(outcome), granted, None)
            }
            Err(failed) => {
                let unknown = failed.unanswered.map(|unanswered| unanswered.session());
                (Err(failed.error), None, unknown)
            }
        };
        // Its fate shows in `is_taken`.
        let _ = answer.send(changed);
        if let Some(session) = unknown.or(left) {
            self.take_back(session).await;
        } else if let Some((session, outcome)) = granted
            && is_taken.await.is_err()
            && self.undo(&outcome).await.is_err()
        {
            self.take_back(session).await;
        }
    }

    async fn change(
        &self,
        message: SetLock,
    ) -> std::result::Result<(u64, LockOutcome), MutateError> {
        let key = owner_key(&message);
        let sessions = &self.core.sessions;
        let fence = sessions.held.of_owner(&key);
        let unlocks = message.mode() == LockMode::Unlocked;
        if unlocks && fence == Fence::Any {
            // Nothing of it was ever granted to this client.
            return Ok((0, LockOutcome::default()));
        }
        let operation = OperationKind::SetLock(message);
        let changed = sessions
            .mutate_or_keep(&self.subject, operation, self.caller.clone(), fence)
            .await?;
        let (session, OutcomeKind::Lock(outcome)) = changed else {
            return Err(Error::unexpected(&self.subject).into());
        };
        if outcome.held > 0 {
            sessions.held.hold(key, session);
        } else {
            sessions.held.forget(&key);
        }
        Ok((session, outcome))
    }

    /// Puts back what the owner held before: all of it is weaker than what it was granted, so nothing can forbid it.
    async fn undo(&self, outcome: &LockOutcome) -> std::result::Result<(), MutateError> {
        let mut steps = Vec::new();
        let mut next = Some(self.message.start);
        let mut unlock = |start: Option<u64>, end: Option<u64>| {
            if let (Some(start), Some(end)) = (start, end)
                && start <= end
            {
                steps.push((start, end, LockMode::Unlocked));
            }
        };
        for piece in &outcome.replaced {
            unlock(next, piece.start.checked_sub(1));
            next = piece.end.checked_add(1);
        }
        unlock(next, Some(self.message.end));
        let pieces = outcome.replaced.iter();
        steps.extend(pieces.map(|piece| (piece.start, piece.end, piece.mode())));
        for (start, end, mode) in steps {
            let back = SetLock {
                start,
                end,
                mode: mode as i32,
                ..self.message
            };
            self.change(back).await?;
        }
        Ok(())
    }

    /// Nobody knows what the owner holds in `session`: everything is unlocked as soon as the cluster answers again, or the session
    /// is over. If it held something before, that counts as lost from now on.
    async fn take_back(&self, session: u64) {
        let (sessions, key) = (&self.core.sessions, owner_key(&self.message));
        if sessions.held.of_owner(&key) != Fence::Any {
            sessions.held.lose(key);
        }
        let unlock = SetLock {
            mode: LockMode::Unlocked as i32,
            start: 0,
            end: u64::MAX,
            ..self.message
        };
        // A session that ran out by our clock lives on if the namenodes were away for all of its life.
        while sessions.may_live(session) {
            if sessions.is_alive(session) {
                let operation = OperationKind::SetLock(unlock);
                let fence = Fence::Only(session);
                let done = sessions
                    .mutate_within(&self.subject, operation, self.caller.clone(), fence)
                    .await;
                match done {
                    Err(error) if may_pass(&error) => {
                        tracing::debug!(%error, "a lock is not taken back yet");
                    }
                    Ok(_) | Err(_) => return,
                }
            }
            sleep(TAKE_BACK_PAUSE).await;
        }
    }
}

/// Whether what was refused may be possible later, as far as unlocking goes.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Refused { .. } => matches!(
            error.code(),
            ErrorCode::Overloaded | ErrorCode::Unauthenticated | ErrorCode::LockLost
        ),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use cairn_protocol::ids::InodeId;
    use cairn_protocol::messages::common::Location;
    use cairn_protocol::messages::lock::LockSpace;
    use cairn_protocol::messages::operation::{Commit, Concat, OperationKind, Transaction, Unlink};

    use super::{Fence, HeldLocks, changed_files};

    fn commit(inode: u64) -> OperationKind {
        OperationKind::Commit(Commit {
            location: Location::inode(InodeId(inode)),
            ..Commit::default()
        })
    }

    #[test]
    fn a_locked_file_changes_only_in_the_session_of_its_locks() {
        let held = HeldLocks::default();
        let (posix, flock) = (LockSpace::Posix, LockSpace::Flock);
        assert!(held.is_empty());
        assert_eq!(held.fence([5]), Fence::Any);
        held.hold((5, posix, 1), 7);
        held.hold((5, flock, u64::MAX), 7);
        held.hold((6, posix, 0), 8);
        assert_eq!(held.fence([5]), Fence::Only(7));
        assert_eq!(held.fence([6]), Fence::Only(8));
        assert_eq!(held.fence([4]), Fence::Any);
        assert_eq!(held.fence([4, 5]), Fence::Only(7));
        assert_eq!(held.fence([5, 6]), Fence::Lost, "two sessions");
        held.hold((5, posix, 2), 9);
        assert_eq!(held.fence([5]), Fence::Lost, "two sessions");
        held.forget(&(5, posix, 2));
        held.lose((5, posix, 1));
        assert_eq!(held.fence([5]), Fence::Lost);
        held.forget(&(5, posix, 1));
        assert_eq!(held.fence([5]), Fence::Only(7));
    }

    #[test]
    fn all_that_changes_content_is_fenced() {
        let inside = Transaction {
            operations: vec![
                commit(5).into(),
                OperationKind::Unlink(Unlink::default()).into(),
            ],
            ..Transaction::default()
        };
        let files = |operation: &OperationKind| -> Vec<u64> {
            let files = changed_files(operation);
            files.iter().map(|location| location.inode).collect()
        };
        assert_eq!(files(&commit(5)), [5]);
        assert_eq!(files(&OperationKind::Transaction(inside)), [5]);
        let concat = Concat {
            target: Location::inode(InodeId(6)),
            sources: vec![Location::inode(InodeId(7))],
        };
        assert_eq!(files(&OperationKind::Concat(concat)), [6]);
        assert!(files(&OperationKind::Unlink(Unlink::default())).is_empty());
    }
}
