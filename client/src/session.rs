//! The client's registered life. Opened with the first mutation, kept alive in the background, and the reason why a
//! mutation happens exactly once: every attempt of one mutation carries the same (session, sequence).
//!
//! After a session has expired its pending mutations are `OutcomeUnknown`; they are never sent under another session, unless
//! the namenode's only answer says that nothing was done. New mutations open a new one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::operation::{
    CloseSession, Commit, CommitExtent, InodeOutcome, OperationKind, OutcomeKind,
};
use cairn_protocol::messages::query::{QueryKind, QueryResult, Stat};
use cairn_protocol::messages::session::{
    KeepAliveReply, KeepAliveRequest, MutateReply, MutateRequest, OpenSessionReply,
    OpenSessionRequest,
};
use cairn_protocol::{ErrorCode, Failure, Method};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::error::{Error, Result, Subject};
use crate::locks::{Fence, HeldLocks, changed_files};
use crate::namenode::{CallError, Namenode, lock};

/// Most mutations in flight: bounds what the namenode must remember of one session.
const MUTATIONS_MAX: usize = 1024;

/// Sessions opened in a row for one mutation, if opening takes longer than they live.
const OPENINGS_MAX: u32 = 3;

/// A keep-alive is not answered through the log: a leader that has just taken over may not know the session yet. So it is
/// over, for keep-alives, after this many refusals in a row; a mutation's refusal counts at once.
const REFUSALS_MAX: u32 = 6;

/// Pause between keep-alives that are refused.
const REFUSAL_PAUSE: Duration = Duration::from_millis(500);

/// Opens, keeps and uses sessions, one at a time.
#[derive(Debug)]
pub(crate) struct Sessions {
    namenode: Arc<Namenode>,
    client_name: String,
    /// The session for new mutations.
    current: Mutex<Option<Arc<Session>>>,
    /// Held while a session is opened, so that all who need one share it.
    opening: tokio::sync::Mutex<()>,
    /// Keep-alive of the current session; replaced with it, ended by drop.
    keep_alive: Mutex<JoinSet<()>>,
    turns: Semaphore,
    /// Locks that depend on a session.
    pub(crate) held: HeldLocks,
}

#[derive(Debug)]
struct Session {
    id: u64,
    state: Mutex<SessionState>,
}

#[derive(Debug)]
struct SessionState {
    last_sequence: u64,
    unanswered: BTreeSet<u64>,
    /// By our own clock; the namenode's is later.
    expires_at: Instant,
    expired: bool,
}

/// A mutation's place in its session. Dropped when the answer, or nobody's interest in it, is certain.
#[derive(Debug)]
struct Ticket {
    session: Arc<Session>,
    sequence: u64,
    lowest_unanswered: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.session.state).unanswered.remove(&self.sequence);
    }
}

/// A mutation of which nobody knows whether it happened. While this is kept it can be asked again, under its number.
#[derive(Debug)]
pub(crate) struct Unanswered {
    request: MutateRequest,
    ticket: Ticket,
}

impl Unanswered {
    /// In which session it was sent.
    pub(crate) fn session(&self) -> u64 {
        self.request.session
    }

    /// The extents that it commits.
    pub(crate) fn extents(&self) -> &[CommitExtent] {
        let operation = self.request.operation.as_ref();
        match operation.and_then(|operation| operation.kind.as_ref()) {
            Some(OperationKind::Commit(commit)) => &commit.extents,
            _ => &[],
        }
    }
}

/// What asking again has told.
pub(crate) enum Answer {
    /// It happened, or certainly not.
    Known(Result<OutcomeKind>),
    /// Its session is over: it does not happen any more if it has not.
    SessionOver,
    /// Nobody has told anything.
    None(Error),
}

/// Why a mutation failed. If its outcome is not known it can be asked again.
#[derive(Debug)]
pub(crate) struct MutateError {
    pub(crate) error: Error,
    pub(crate) unanswered: Option<Box<Unanswered>>,
}

impl From<Error> for MutateError {
    fn from(error: Error) -> Self {
        let unanswered = None;
        Self { error, unanswered }
    }
}

impl Session {
    /// The next sequence number; `None` if the session is over by our own clock.
    fn ticket(self: &Arc<Self>) -> Option<Ticket> {
        let mut state = lock(&self.state);
        if state.expired || Instant::now() >= state.expires_at {
            return None;
        }
        state.last_sequence += 1;
        let sequence = state.last_sequence;
        state.unanswered.insert(sequence);
        let lowest_unanswered = state.unanswered.first().copied().unwrap_or(sequence);
        Some(Ticket {
            session: self.clone(),
            sequence,
            lowest_unanswered,
        })
    }

    fn is_alive(&self) -> bool {
        let state = lock(&self.state);
        !state.expired && Instant::now() < state.expires_at
    }

    fn expire(&self) {
        lock(&self.state).expired = true;
    }
}

impl Sessions {
    pub(crate) fn new(namenode: Arc<Namenode>, client_name: String) -> Self {
        Self {
            namenode,
            client_name,
            current: Mutex::new(None),
            opening: tokio::sync::Mutex::new(()),
            keep_alive: Mutex::new(JoinSet::new()),
            turns: Semaphore::new(MUTATIONS_MAX),
            held: HeldLocks::default(),
        }
    }

    /// Carries one mutation out, exactly once. Not cancel-safe: if the future is dropped, the mutation may happen or not.
    pub(crate) async fn mutate(
        &self,
        subject: &Subject,
        operation: OperationKind,
    ) -> Result<OutcomeKind> {
        self.mutate_as(subject, operation, self.namenode.caller())
            .await
    }

    /// Like [`Sessions::mutate`], in the name of `caller`.
    pub(crate) async fn mutate_as(
        &self,
        subject: &Subject,
        operation: OperationKind,
        caller: Caller,
    ) -> Result<OutcomeKind> {
        let fence = self.fence(subject, &operation, &caller).await?;
        let mutated = self.mutate_within(subject, operation, caller, fence);
        mutated.await.map(|(_, outcome)| outcome)
    }

    /// Like [`Sessions::mutate_as`], and tells in which session: where locks are at stake, in none but theirs.
    pub(crate) async fn mutate_within(
        &self,
        subject: &Subject,
        operation: OperationKind,
        caller: Caller,
        fence: Fence,
    ) -> Result<(u64, OutcomeKind)> {
        let mutated = self.mutate_or_keep(subject, operation, caller, fence);
        mutated.await.map_err(|failed| failed.error)
    }

    /// A commit in the name of `caller`, which can be asked again if its outcome is not known.
    pub(crate) async fn commit(
        &self,
        subject: &Subject,
        commit: Commit,
        caller: Caller,
    ) -> std::result::Result<InodeOutcome, MutateError> {
        let operation = OperationKind::Commit(commit);
        let fence = self.fence(subject, &operation, &caller).await?;
        let committed = self.mutate_or_keep(subject, operation, caller, fence);
        match committed.await? {
            (_, OutcomeKind::Inode(outcome)) => Ok(outcome),
            _ => Err(Error::unexpected(subject).into()),
        }
    }

    /// In which session an operation may be sent: in that of the locks on the files whose content it changes.
    async fn fence(
        &self,
        subject: &Subject,
        operation: &OperationKind,
        caller: &Caller,
    ) -> Result<Fence> {
        if self.held.is_empty() {
            return Ok(Fence::Any);
        }
        let mut inodes = Vec::new();
        for location in changed_files(operation) {
            if location.path.is_empty() {
                inodes.push(location.inode);
                continue;
            }
            // Locks are known by inode.
            let stat = QueryKind::Stat(Stat {
                location: location.clone(),
                follow: true,
            });
            match self.namenode.query(subject, stat, caller.clone()).await {
                Ok(QueryResult::Attributes(attributes)) => inodes.push(attributes.inode),
                Ok(_) => return Err(Error::unexpected(subject)),
                // An earlier operation of the transaction makes it, or the operation itself tells that it is not there.
                Err(error) if error.code() == ErrorCode::NotFound => {}
                // Whoever does not know which file it is does not know whether its locks were lost.
                Err(error) => return Err(error),
            }
        }
        Ok(self.held.fence(inodes))
    }

    pub(crate) async fn mutate_or_keep(
        &self,
        subject: &Subject,
        operation: OperationKind,
        caller: Caller,
        fence: Fence,
    ) -> std::result::Result<(u64, OutcomeKind), MutateError> {
        let _turn = self.turns.acquire().await;
        let mut operation = Some(operation.into());
        for _ in 0..OPENINGS_MAX {
            let ticket = self.ticket_within(subject, fence).await?;
            let request = MutateRequest {
                session: ticket.session.id,
                sequence: ticket.sequence,
                lowest_unanswered: ticket.lowest_unanswered,
                caller: caller.clone(),
                operation: operation.take(),
            };
            let error = match self.send(&request).await {
                Ok(outcome) => return Ok((request.session, outcome)),
                Err(error) => error,
            };
            let expired = is_expired(&error);
            if expired {
                ticket.session.expire();
            }
            if error.maybe_done && (expired || !error.is_outcome()) {
                let error = Error::OutcomeUnknown {
                    subject: subject.clone(),
                    failure: error.failure,
                };
                let unanswered = Some(Box::new(Unanswered { request, ticket }));
                return Err(MutateError { error, unanswered });
            }
            if !expired {
                return Err(self.definite(subject, error).into());
            }
            // Nothing happened, and nothing will in that session.
            operation = request.operation;
        }
        Err(self.no_session(subject).into())
    }

    /// Asks for the outcome of a mutation under its number.
    pub(crate) async fn ask_again(&self, subject: &Subject, unanswered: &Unanswered) -> Answer {
        let _turn = self.turns.acquire().await;
        match self.send(&unanswered.request).await {
            Ok(outcome) => Answer::Known(Ok(outcome)),
            Err(error) if is_expired(&error) || error.failure.code == ErrorCode::OutcomeUnknown => {
                unanswered.ticket.session.expire();
                Answer::SessionOver
            }
            Err(error) => {
                let decided = error.is_outcome();
                let error = self.definite(subject, error);
                if decided {
                    Answer::Known(Err(error))
                } else {
                    Answer::None(error)
                }
            }
        }
    }

    fn definite(&self, subject: &Subject, error: CallError) -> Error {
        error.into_error(subject, self.namenode.timeouts().patience)
    }

    async fn ticket_within(&self, subject: &Subject, fence: Fence) -> Result<Ticket> {
        match fence {
            Fence::Any => self.ticket(subject).await,
            Fence::Only(id) => self
                .alive(id)
                .and_then(|session| session.ticket())
                .ok_or_else(|| lock_lost(subject)),
            Fence::Lost => Err(lock_lost(subject)),
        }
    }

    fn alive(&self, id: u64) -> Option<Arc<Session>> {
        let session = self.current().filter(|session| session.id == id)?;
        session.is_alive().then_some(session)
    }

    /// Whether a session lives, by our own clock: the namenode gives it longer.
    pub(crate) fn is_alive(&self, id: u64) -> bool {
        self.alive(id).is_some()
    }

    /// Whether a session may still be alive at the namenode and be kept so by this client.
    pub(crate) fn may_live(&self, id: u64) -> bool {
        let current = self.current().filter(|session| session.id == id);
        current.is_some_and(|session| !lock(&session.state).expired)
    }

    /// The session that lives now; 0 if none does.
    pub(crate) fn current_id(&self) -> u64 {
        self.current()
            .filter(|session| session.is_alive())
            .map_or(0, |session| session.id)
    }

    async fn send(&self, request: &MutateRequest) -> std::result::Result<OutcomeKind, CallError> {
        let patience = self.namenode.timeouts().patience;
        let reply: MutateReply = self
            .namenode
            .call(Method::Mutate, request, patience)
            .await?;
        let feed = &self.namenode.feed;
        feed.answered(reply.changed_index, reply.applied_index);
        let kind = reply.outcome.and_then(|outcome| outcome.kind);
        kind.ok_or_else(|| CallError {
            failure: Failure::new(ErrorCode::Malformed, "an answer without an outcome"),
            answered: true,
            maybe_done: true,
        })
    }

    async fn ticket(&self, subject: &Subject) -> Result<Ticket> {
        for _ in 0..OPENINGS_MAX {
            if let Some(ticket) = self.current().and_then(|session| session.ticket()) {
                return Ok(ticket);
            }
            let _opening = self.opening.lock().await;
            // Whoever held the lock before us may have opened one.
            if let Some(ticket) = self.current().and_then(|session| session.ticket()) {
                return Ok(ticket);
            }
            self.open(subject).await?;
        }
        Err(self.no_session(subject))
    }

    fn no_session(&self, subject: &Subject) -> Error {
        let failure = Failure::new(
            ErrorCode::SessionExpired,
            "sessions end before they are used",
        );
        let patience = self.namenode.timeouts().patience;
        Error::Unreachable {
            subject: subject.clone(),
            patience,
            failure,
        }
    }

    fn current(&self) -> Option<Arc<Session>> {
        lock(&self.current).clone()
    }

    async fn open(&self, subject: &Subject) -> Result<()> {
        let request = OpenSessionRequest {
            client_name: self.client_name.clone(),
            nonce: self.namenode.randomness.nonce().to_vec(),
        };
        let patience = self.namenode.timeouts().patience;
        let asked_at = Instant::now();
        let reply: OpenSessionReply = self
            .namenode
            .call(Method::OpenSession, &request, patience)
            .await
            .map_err(|error| error.into_error(subject, patience))?;
        // A retry with the same nonce finds the same session, whose life may have begun with the first attempt.
        let ttl = Duration::from_millis(reply.ttl_ms.max(1));
        let state = SessionState {
            last_sequence: 0,
            unanswered: BTreeSet::new(),
            expires_at: asked_at + ttl,
            expired: false,
        };
        self.namenode.feed.opened(reply.session);
        let session = Arc::new(Session {
            id: reply.session,
            state: Mutex::new(state),
        });
        debug!(
            session = session.id,
            ttl_ms = reply.ttl_ms,
            "session opened"
        );
        let mut keep_alive = JoinSet::new();
        keep_alive.spawn(keep_alive_loop(self.namenode.clone(), session.clone(), ttl));
        *lock(&self.keep_alive) = keep_alive;
        *lock(&self.current) = Some(session);
        Ok(())
    }

    /// Ends the session at the namenode, which then need not wait for it to expire.
    pub(crate) async fn close(&self) -> Result<()> {
        let Some(session) = lock(&self.current).take() else {
            return Ok(());
        };
        let result = match session.ticket() {
            Some(ticket) => {
                let close = OperationKind::CloseSession(CloseSession {});
                let request = MutateRequest {
                    session: session.id,
                    sequence: ticket.sequence,
                    lowest_unanswered: ticket.lowest_unanswered,
                    caller: self.namenode.caller(),
                    operation: Some(close.into()),
                };
                match self.send(&request).await {
                    // It had ended by itself, or an answer was lost.
                    Err(error) if !is_expired(&error) => {
                        Err(self.definite(&Subject::Cluster, error))
                    }
                    Ok(_) | Err(_) => Ok(()),
                }
            }
            None => Ok(()),
        };
        session.expire();
        lock(&self.keep_alive).abort_all();
        result
    }
}

fn is_expired(error: &CallError) -> bool {
    error.failure.code == ErrorCode::SessionExpired
}

/// Nothing is done under a lock that others may hold by now.
pub(crate) fn lock_lost(subject: &Subject) -> Error {
    let message = "the session that held locks on the file has ended";
    Error::refused(subject, Failure::new(ErrorCode::LockLost, message))
}

/// Keeps `session` alive until it expires or the task is aborted; refreshes what we know of the cluster on the way.
async fn keep_alive_loop(namenode: Arc<Namenode>, session: Arc<Session>, mut ttl: Duration) {
    let mut refusals = 0;
    loop {
        let pause = if refusals == 0 {
            ttl / 4
        } else {
            REFUSAL_PAUSE.min(ttl / 8)
        };
        sleep(pause).await;
        let request = KeepAliveRequest {
            session: session.id,
        };
        let asked_at = Instant::now();
        let reply: std::result::Result<KeepAliveReply, CallError> =
            namenode.call(Method::KeepAlive, &request, ttl).await;
        match reply {
            Ok(reply) => {
                refusals = 0;
                ttl = Duration::from_millis(reply.ttl_ms.max(1));
                lock(&session.state).expires_at = asked_at + ttl;
                if let Err(error) = namenode.refresh(ttl / 8).await {
                    debug!(error = %error.failure, "cluster information not refreshed");
                }
            }
            Err(CallError {
                failure,
                answered: true,
                ..
            }) if failure.code == ErrorCode::SessionExpired => {
                refusals += 1;
                if refusals == REFUSALS_MAX {
                    warn!(session = session.id, "session expired");
                    session.expire();
                    return;
                }
            }
            Err(error) => debug!(session = session.id, error = %error.failure, "keep-alive failed"),
        }
    }
}
