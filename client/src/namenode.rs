//! Calls to the namenodes: finds the leader, and sends a request again, to the same or another member, until it is
//! answered or the caller's patience is over. Nothing else in this crate repeats a request to a namenode.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::messages::common::{Caller, ClusterSettings};
use cairn_protocol::messages::query::{
    Freshness, QueryKind, QueryReply, QueryRequest, QueryResult,
};
use cairn_protocol::messages::session::{ClusterInfo, ClusterInfoRequest};
use cairn_protocol::net::Role;
use cairn_protocol::rpc::{ConnectionOptions, Hello, Peers};
use cairn_protocol::{ErrorCode, Failure, Method};
use futures::future::join_all;
use prost::Message;
use tokio::time::Instant;
use tracing::debug;

use crate::config::{ClusterConfig, Timeouts};
use crate::error::{Error, Result, Subject};
use crate::retry::{Backoff, Randomness};

/// A leader that names another leader is believed this often in a row; then we pause, as for any failure.
const HINTS_MAX: u32 = 3;

/// After so many answers that it is too much, the answer stands: it may be the remembered outcome of the mutation.
const OVERLOADS_MAX: u32 = 8;

/// Why a call was given up.
#[derive(Debug)]
pub(crate) struct CallError {
    /// The answer, or the last thing that went wrong.
    pub(crate) failure: Failure,
    /// True if a namenode decided; false if nobody did within the patience.
    pub(crate) answered: bool,
    /// True if some attempt may have reached a namenode without a decisive answer.
    pub(crate) maybe_done: bool,
}

impl CallError {
    /// True if the answer is the outcome also of what was sent before it. Too much to do, for now, is none, and nor is
    /// a proof that is not good any more: both are judged before anybody looks whether the mutation has happened.
    pub(crate) fn is_outcome(&self) -> bool {
        let judged_before = [ErrorCode::Overloaded, ErrorCode::Unauthenticated];
        self.answered && !judged_before.contains(&self.failure.code)
    }

    /// For calls that change nothing, or nothing that cannot be repeated.
    pub(crate) fn into_error(self, subject: &Subject, patience: Duration) -> Error {
        let subject = subject.clone();
        let failure = self.failure;
        if self.answered {
            Error::Refused { subject, failure }
        } else {
            Error::Unreachable {
                subject,
                patience,
                failure,
            }
        }
    }
}

/// The group of namenodes as this client knows it.
#[derive(Debug)]
pub(crate) struct Namenode {
    peers: Peers,
    config: ClusterConfig,
    caller: Caller,
    timeouts: Timeouts,
    pub(crate) randomness: Randomness,
    /// Held for a look-up or an update, never across an await.
    members: Mutex<Members>,
    /// The cluster as last heard, and when that was.
    info: Mutex<Option<(ClusterInfo, Instant)>>,
    pub(crate) feed: FeedPlace,
    /// The log entry that the known members come from.
    members_index: AtomicU64,
    /// What has been tried in vain for the longest. Held for a look or an update.
    vain: Mutex<Option<(Instant, Failure)>>,
}

/// Something that this client has tried for a while, without an answer from anybody since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// For how long.
    pub so_far: Duration,
    /// The last thing that went wrong.
    pub failure: Failure,
}

/// Sessions of this client that are remembered as its own.
const OWN_SESSIONS_MAX: usize = 16;

/// Where this client is among the changes of all.
#[derive(Debug, Default)]
pub(crate) struct FeedPlace {
    /// The last entry in which others can have changed what the answers so far tell.
    changed_index: AtomicU64,
    /// The last entry that any answer so far reflects.
    applied_index: AtomicU64,
    /// Own sessions, the current one last. Held for a look only.
    sessions: Mutex<VecDeque<u64>>,
}

impl FeedPlace {
    pub(crate) fn changed_index(&self) -> u64 {
        self.changed_index.load(Ordering::SeqCst)
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::SeqCst)
    }

    /// Takes note of an answer.
    pub(crate) fn answered(&self, changed_index: u64, applied_index: u64) {
        self.changed_index
            .fetch_max(changed_index, Ordering::SeqCst);
        self.applied_index
            .fetch_max(applied_index, Ordering::SeqCst);
    }

    /// The current session, 0 if there was none yet.
    pub(crate) fn session(&self) -> u64 {
        lock(&self.sessions).back().copied().unwrap_or(0)
    }

    pub(crate) fn is_own(&self, session: u64) -> bool {
        lock(&self.sessions).contains(&session)
    }

    pub(crate) fn opened(&self, session: u64) {
        let mut sessions = lock(&self.sessions);
        sessions.push_back(session);
        if sessions.len() > OWN_SESSIONS_MAX {
            sessions.pop_front();
        }
    }
}

#[derive(Debug)]
struct Members {
    /// As configured: tried again when those learnt later are all gone.
    seeds: Vec<String>,
    /// All that are known, without repetition.
    addresses: Vec<String>,
    leader: Option<String>,
    next: usize,
}

impl Members {
    /// True if none is left but `refusing`.
    fn are_all_among(&self, refusing: &BTreeSet<String>) -> bool {
        self.addresses.iter().all(|one| refusing.contains(one))
    }

    fn target(&mut self) -> String {
        if let Some(leader) = &self.leader {
            return leader.clone();
        }
        let address = self.addresses[self.next % self.addresses.len()].clone();
        self.next = (self.next + 1) % self.addresses.len();
        address
    }

    fn learn(&mut self, addresses: impl Iterator<Item = String>) {
        let mut all: Vec<String> = Vec::new();
        for address in addresses.chain(self.seeds.iter().cloned()) {
            if !address.is_empty() && !all.contains(&address) {
                all.push(address);
            }
        }
        self.addresses = all;
    }
}

impl Namenode {
    pub(crate) fn new(config: &ClusterConfig) -> Result<Self> {
        if config.namenodes.is_empty() {
            return Err(Error::invalid(
                &Subject::Cluster,
                "no namenode is configured",
            ));
        }
        let options = ConnectionOptions {
            connect_timeout: config.timeouts.connect,
            tls: config.tls.clone(),
            expects: Some(Role::Namenode),
            ..Default::default()
        };
        let members = Members {
            seeds: config.namenodes.clone(),
            addresses: config.namenodes.clone(),
            leader: None,
            next: 0,
        };
        Ok(Self {
            peers: Peers::new(hello(config, None), options),
            config: config.clone(),
            caller: config.caller.clone(),
            timeouts: config.timeouts.clone(),
            randomness: Randomness::new(config.seed),
            members: Mutex::new(members),
            info: Mutex::new(None),
            feed: FeedPlace::default(),
            members_index: AtomicU64::new(0),
            vain: Mutex::default(),
        })
    }

    /// What is tried in vain, if anything is.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        let vain = lock(&self.vain);
        vain.as_ref().map(|(began, failure)| Waiting {
            so_far: began.elapsed(),
            failure: failure.clone(),
        })
    }

    fn in_vain(&self, began: Instant, failure: &Failure) {
        let mut vain = lock(&self.vain);
        let first = vain.as_ref().map_or(began, |(first, _)| began.min(*first));
        *vain = Some((first, failure.clone()));
    }

    pub(crate) fn caller(&self) -> Caller {
        self.caller.clone()
    }

    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Asks about the cluster, and remembers its members, settings and time.
    pub(crate) async fn refresh(&self, patience: Duration) -> std::result::Result<(), CallError> {
        let asked_at = Instant::now();
        let info: ClusterInfo = self
            .call(Method::ClusterInfo, &ClusterInfoRequest {}, patience)
            .await?;
        let Ok(cluster) = <[u8; 16]>::try_from(info.cluster_id.as_slice()) else {
            let failure = Failure::new(ErrorCode::Malformed, "a cluster id has 16 bytes");
            return Err(CallError {
                failure,
                answered: true,
                maybe_done: false,
            });
        };
        self.peers.set_hello(hello(&self.config, Some(cluster)));
        let leader = info.namenodes.iter().find(|n| n.namenode == info.leader);
        let leader = leader.map(|n| n.address.clone());
        {
            let mut members = lock(&self.members);
            self.members_index
                .fetch_max(info.members_index, Ordering::Relaxed);
            members.learn(info.namenodes.iter().map(|n| n.address.clone()));
            if members.leader.is_none() {
                members.leader = leader;
            }
        }
        *lock(&self.info) = Some((info, asked_at));
        Ok(())
    }

    /// The cluster's id, once [`Namenode::refresh`] has succeeded.
    pub(crate) fn cluster_id(&self) -> Option<[u8; 16]> {
        let info = lock(&self.info);
        info.as_ref()
            .and_then(|(info, _)| info.cluster_id.as_slice().try_into().ok())
    }

    /// The cluster's settings as last heard.
    pub(crate) fn settings(&self) -> ClusterSettings {
        lock(&self.info)
            .as_ref()
            .map(|(info, _)| info.settings.clone())
            .unwrap_or_default()
    }

    /// The cluster's time now: as last heard, plus what has passed since. May be behind, by half a round trip.
    pub(crate) fn cluster_time_ms(&self) -> u64 {
        lock(&self.info)
            .as_ref()
            .map(|(info, at)| info.time_ms.saturating_add(at.elapsed().as_millis() as u64))
            .unwrap_or_default()
    }

    /// One read.
    pub(crate) async fn query(
        &self,
        subject: &Subject,
        kind: QueryKind,
        caller: Caller,
    ) -> Result<QueryResult> {
        let request = QueryRequest {
            caller,
            freshness: Freshness::Linearizable as i32,
            session: self.feed.session(),
            kind: Some(kind),
        };
        let patience = self.timeouts.patience;
        let reply: QueryReply = self
            .call(Method::Query, &request, patience)
            .await
            .map_err(|error| error.into_error(subject, patience))?;
        self.feed.answered(reply.changed_index, reply.applied_index);
        if reply.members_index > self.members_index.load(Ordering::Relaxed) {
            // Boxed, for it is rare, and would make the future of every read larger and deeper.
            Box::pin(self.learn_members(reply.members_index)).await;
        }
        reply.result.ok_or_else(|| Error::unexpected(subject))
    }

    /// Asks who the namenodes are now: once for each change of them, and while nobody answers again with the next query.
    async fn learn_members(&self, index: u64) {
        let known = self.members_index.fetch_max(index, Ordering::Relaxed);
        if known >= index {
            return;
        }
        if let Err(error) = self.refresh(self.timeouts.request).await {
            debug!(error = %error.failure, "who the namenodes are is not known yet");
            self.members_index.store(known, Ordering::Relaxed);
        }
    }

    /// Sends `request` until it is answered. Cancel-safe for requests that change nothing.
    pub(crate) async fn call<R: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
        patience: Duration,
    ) -> std::result::Result<R, CallError> {
        self.call_within(method, request, self.timeouts.request, patience)
            .await
    }

    /// Like [`Namenode::call`], with another limit for a single answer.
    pub(crate) async fn call_within<R: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
        answer_timeout: Duration,
        patience: Duration,
    ) -> std::result::Result<R, CallError> {
        let mut backoff = Backoff::new(&self.randomness, patience);
        let (mut maybe_done, mut hints, mut overloads) = (false, 0, 0);
        // Members that do not believe us, or that we do not believe.
        let mut refusing = BTreeSet::new();
        // How the last attempt failed whose time was its own: when patience ends in the middle of one, that one says nothing.
        let mut told = None;
        loop {
            let address = lock(&self.members).target();
            let limit = answer_timeout.min(backoff.remaining());
            let (failure, hint) = match self.attempt(&address, method, request, limit).await {
                Ok(reply) => {
                    self.believe(address, method);
                    *lock(&self.vain) = None;
                    return Ok(reply);
                }
                // It will not believe us the next time either, but perhaps another one does: its certificate may be the
                // one that is bad.
                Err(Attempt::NotSent(failure)) if failure.code == ErrorCode::Unauthenticated => {
                    self.doubt(&address, None);
                    let is_new = refusing.insert(address.clone());
                    if lock(&self.members).are_all_among(&refusing) {
                        return Err(CallError {
                            failure,
                            answered: true,
                            maybe_done,
                        });
                    }
                    if is_new {
                        debug!(%address, error = %failure, "namenode does not come into question");
                        continue;
                    }
                    (failure, None)
                }
                Err(Attempt::NotSent(failure)) => (failure, None),
                Err(Attempt::Failed(failure, hint)) => {
                    overloads += u32::from(failure.code == ErrorCode::Overloaded);
                    let refused =
                        failure.code == ErrorCode::Overloaded && overloads > OVERLOADS_MAX;
                    if !failure.code.is_retryable() || (refused && !maybe_done) {
                        return Err(CallError {
                            failure,
                            answered: true,
                            maybe_done,
                        });
                    }
                    let decided = [ErrorCode::NotLeader, ErrorCode::Overloaded];
                    maybe_done |= !decided.contains(&failure.code);
                    (failure, hint)
                }
            };
            debug!(%address, method = method.name(), error = %failure, "namenode call failed");
            let cut_short = failure.code == ErrorCode::TimedOut && limit < answer_timeout;
            let failure = told.take().filter(|_| cut_short).unwrap_or(failure);
            told = Some(failure.clone());
            let hinted = failure.code != ErrorCode::Overloaded && self.doubt(&address, hint);
            hints = if hinted { hints + 1 } else { 0 };
            if hinted && hints <= HINTS_MAX {
                continue;
            }
            self.in_vain(backoff.started(), &failure);
            if !backoff.pause().await {
                *lock(&self.vain) = None;
                return Err(CallError {
                    failure,
                    answered: false,
                    maybe_done,
                });
            }
        }
    }

    /// Asks one member after the other, each once, until one gives an answer that is accepted.
    pub(crate) async fn ask_each<R: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
        answer_timeout: Duration,
        accept: impl Fn(&R) -> bool,
    ) -> Option<R> {
        let addresses = lock(&self.members).addresses.clone();
        for address in addresses {
            let attempt = self.attempt(&address, method, request, answer_timeout);
            if let Some(accepted) = attempt.await.ok().filter(&accept) {
                return Some(accepted);
            }
        }
        None
    }

    /// Asks all members at once, each once: the address and the answer of those that gave one.
    pub(crate) async fn ask_all<R: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
        answer_timeout: Duration,
    ) -> Vec<(String, R)> {
        let addresses = lock(&self.members).addresses.clone();
        let attempts = addresses.into_iter().map(async |address| {
            let attempt = self.attempt(&address, method, request, answer_timeout);
            let answer = attempt.await.ok()?;
            Some((address, answer))
        });
        let answers = join_all(attempts).await;
        answers.into_iter().flatten().collect()
    }

    async fn attempt<R: Message + Default>(
        &self,
        address: &str,
        method: Method,
        request: &impl Message,
        limit: Duration,
    ) -> std::result::Result<R, Attempt> {
        let connection = self.peers.get(address).await.map_err(Attempt::NotSent)?;
        match connection
            .call(method as u16, request, Bytes::new(), limit)
            .await
        {
            Ok(reply) => reply
                .decode()
                .map_err(|failure| Attempt::Failed(failure, None)),
            Err(error) => Err(Attempt::Failed(error.failure, error.leader_hint)),
        }
    }

    /// Who answers what only the leader may is the leader. Any member answers reads: one that did is as good a guess as any.
    fn believe(&self, address: String, method: Method) {
        let mut members = lock(&self.members);
        let guess = match method {
            Method::ClusterInfo => false,
            Method::Query | Method::Changes => members.leader.is_none(),
            _ => members.leader.as_ref() != Some(&address),
        };
        if guess {
            members.leader = Some(address);
        }
    }

    /// Forgets a leader that failed us; true if `hint` names another one to try at once.
    fn doubt(&self, failed: &str, hint: Option<String>) -> bool {
        let mut members = lock(&self.members);
        match hint.filter(|hint| hint != failed) {
            Some(hint) => {
                members.leader = Some(hint);
                true
            }
            None => {
                // Another caller may have found the new leader meanwhile.
                if members.leader.as_deref() == Some(failed) {
                    members.leader = None;
                }
                false
            }
        }
    }
}

/// How this client introduces itself to namenodes. A token leaves under TLS only.
fn hello(config: &ClusterConfig, cluster: Option<[u8; 16]>) -> Hello {
    let hello = Hello::new("client", cluster, 0);
    match &config.token {
        Some(token) if config.tls.is_some() => hello.with_token(token.bytes().to_vec()),
        _ => hello,
    }
}

/// How a single attempt failed.
enum Attempt {
    /// The request never left.
    NotSent(Failure),
    /// The request may have been received; perhaps the answer names the leader.
    Failed(Failure, Option<String>),
}

/// Every update is complete when the lock is released, so a poisoned lock is as good as any.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
