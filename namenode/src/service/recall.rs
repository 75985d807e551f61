//! Directories that are delegated to a client are asked back when somebody else needs them (`namespace/delegation.rs`).
//!
//! Those who wait for one directory stand in line. The first of them tells the holder and watches for the end; the others then look
//! once each. So the log and the state are asked as often for a thousand as for one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::rpc::RpcError;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::{NamenodeService, internal, outcome_failure};
use crate::consensus::Proposed;
use crate::namespace::command::{ClientCommand, CommandKind, RecallDelegation};
use crate::namespace::is_kept_from;

/// After this a holder is told again: it may have connected anew meanwhile.
const REMINDER: Duration = Duration::from_millis(500);

/// Then whoever waits is told to ask again, before it takes us for dead: holders have as long as their session lives.
const PATIENCE: Duration = Duration::from_secs(2);

/// Requests that wait at once. Less than one connection may have, so that there is always room for a session's other calls.
const WAITING_MAX: usize = 512;

/// Between two looks at a directory, so that a busy log does not make us look for each entry.
const REST: Duration = Duration::from_millis(1);

/// When a request that begins now has waited long enough.
pub(super) fn patience() -> Instant {
    Instant::now() + PATIENCE
}

/// The directories that are being asked back.
pub(super) struct Recalls {
    /// One permit per request that waits.
    waiting: Semaphore,
    /// Each lives as long as somebody waits for it. Held for a look-up, never across an await.
    directories: Mutex<BTreeMap<InodeId, Weak<Recall>>>,
}

/// Held by the one who tells the holder of a directory: when it was last told.
type Recall = tokio::sync::Mutex<Option<Instant>>;

impl Recalls {
    pub(super) fn new() -> Self {
        Self {
            waiting: Semaphore::new(WAITING_MAX),
            directories: Mutex::default(),
        }
    }

    fn of(&self, directory: InodeId) -> Arc<Recall> {
        let directories = self.directories.lock();
        let mut directories = directories.unwrap_or_else(PoisonError::into_inner);
        if let Some(recall) = directories.get(&directory).and_then(Weak::upgrade) {
            return recall;
        }
        directories.retain(|_, recall| recall.strong_count() > 0);
        let recall = Arc::default();
        directories.insert(directory, Arc::downgrade(&recall));
        recall
    }
}

impl NamenodeService {
    /// Proposes a client's command, again and again as long as it meets directories that are given back for it.
    pub(super) async fn propose_recalling(
        &self,
        command: ClientCommand,
    ) -> Result<Proposed, RpcError> {
        let (session, until) = (SessionId(command.session), patience());
        loop {
            let proposed = self
                .group
                .propose(CommandKind::Client(command.clone()))
                .await?;
            if proposed.outcome.code != ErrorCode::Delegated as u32 {
                return Ok(proposed);
            }
            let directory = InodeId(proposed.outcome.id);
            self.recall(directory, session, until).await?;
        }
    }

    /// Returns when a directory is given back, or its holder's session is over, or it is the asking session's own. Only the leader can wait for that: others send whoever
    /// asks to it. Cancel-safe.
    pub(super) async fn recall(
        &self,
        directory: InodeId,
        session: SessionId,
        until: Instant,
    ) -> Result<(), RpcError> {
        self.group.require_leader()?;
        let Ok(_waiting) = self.recalls.waiting.try_acquire() else {
            let message = format!("{WAITING_MAX} requests wait for delegations, no more may");
            return Err(RpcError::new(ErrorCode::Unavailable, message));
        };
        let recall = self.recalls.of(directory);
        let given_back = async {
            let mut told_at = recall.lock().await;
            self.have_given_back(directory, session, &mut told_at).await
        };
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => {
                Err(RpcError::new(ErrorCode::Unavailable, "namenode is shutting down"))
            }
            ended = timeout_at(until, given_back) => ended.unwrap_or_else(|_| {
                let message = format!(
                    "directory inode {directory} is delegated to a client that has not given it back yet"
                );
                Err(RpcError::new(ErrorCode::Unavailable, message))
            }),
        }
    }

    async fn have_given_back(
        &self,
        directory: InodeId,
        session: SessionId,
        told_at: &mut Option<Instant>,
    ) -> Result<(), RpcError> {
        let command = RecallDelegation {
            directory: directory.0,
        };
        let store = self.group.state().store();
        let mut applied = self.group.state().watch_applied();
        loop {
            // Before the look: what is applied after it wakes us.
            applied.borrow_and_update();
            if !is_kept_from(&store.snapshot(), session, directory).map_err(internal)? {
                *told_at = None;
                return Ok(());
            }
            let now = Instant::now();
            let due = told_at.map_or(now, |at| at + REMINDER);
            if due > now {
                let more = async {
                    sleep(REST).await;
                    // Its sender lives as long as the state.
                    let _ = applied.changed().await;
                };
                // Whether it was given back is looked at either way.
                let _ = timeout_at(due, more).await;
                continue;
            }
            *told_at = Some(now);
            let asked = CommandKind::RecallDelegation(command);
            let proposed = self.group.propose(asked).await?;
            if let Some(failure) = outcome_failure(&proposed.outcome) {
                return Err(failure.into());
            }
        }
    }
}
