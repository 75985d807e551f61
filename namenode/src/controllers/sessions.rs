//! Which sessions are alive. Soft: a new leader, or one that was asleep, gives every session a full life again; what ends a
//! session is the `ExpireSession` command alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::SessionId;
use futures::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::liveness::Pulse;
use super::soft::settings;
use super::{Controllers, until_stopped};
use crate::namespace::command::{CommandKind, ExpireSession};
use crate::store::{Read, StoreError, session};

/// Sessions that are ended in one go.
const EXPIRE_MAX: usize = 64;

/// When each session ends unless it is heard of.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    deadlines: BTreeMap<SessionId, Instant>,
    /// Sessions below this one have been found in the committed state before. Their ids only grow.
    found_below: SessionId,
}

impl Sessions {
    /// Gives those sessions of the committed state a life that have none yet: also those whose client vanished before it heard
    /// of its session, so that nobody keeps them alive and nobody else would end them.
    pub fn find(&mut self, reader: &impl Read, deadline: Instant) -> Result<(), StoreError> {
        let Self {
            deadlines,
            found_below,
        } = self;
        session::scan(reader, *found_below, &mut |session, _| {
            deadlines.entry(session).or_insert(deadline);
            *found_below = SessionId(session.0.saturating_add(1));
            Ok(true)
        })
    }

    /// A session has been heard of, or opened.
    pub fn renew(&mut self, session: SessionId, deadline: Instant) {
        self.deadlines.insert(session, deadline);
    }

    /// Nobody can have been heard for a while, so nobody is to blame.
    pub fn renew_all(&mut self, now: Instant, ttl: Duration) {
        for deadline in self.deadlines.values_mut() {
            *deadline = (*deadline).max(now + ttl);
        }
    }

    /// Those whose life is over, at most `limit`.
    pub fn expired(&self, now: Instant, limit: usize) -> Vec<SessionId> {
        let over = self
            .deadlines
            .iter()
            .filter(|(_, deadline)| **deadline <= now);
        over.map(|(session, _)| *session).take(limit).collect()
    }

    /// A session has ended.
    pub fn forget(&mut self, session: SessionId) {
        self.deadlines.remove(&session);
    }
}

/// A session was heard of. False if there is none in the committed state, or its end has been proposed.
pub(super) fn keep_alive(controllers: &Controllers, id: SessionId) -> bool {
    let store = controllers.store();
    let snapshot = store.snapshot();
    let Ok(settings) = settings(&snapshot) else {
        return false;
    };
    let Some(mut soft) = controllers.soft() else {
        return false;
    };
    if soft.ending.contains(&id) {
        return false;
    }
    // One that was just opened is in the committed state; one that was closed may still be, until all it left is cleaned
    // up by its expiry.
    if !matches!(session::get(&snapshot, id), Ok(Some(record)) if !record.ended) {
        return false;
    }
    let ttl = Duration::from_millis(settings.session_ttl_ms);
    soft.sessions.renew(id, Instant::now() + ttl);
    true
}

/// Ends sessions that are not heard of, until `stop`.
pub(super) async fn run(
    controllers: Arc<Controllers>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let options = &controllers.options;
    until_stopped(stop, async {
        let mut pulse = Pulse::new(Instant::now(), options.interval, options.stall);
        loop {
            tokio::time::sleep(options.interval).await;
            let now = Instant::now();
            let stalled = pulse.beat(now);
            expire(&controllers, now, stalled).await?;
            // Waiting for proposals is not sleeping: what counts is whether keep-alives could come in.
            pulse.beat(Instant::now());
        }
    })
    .await
}

async fn expire(controllers: &Controllers, now: Instant, stalled: bool) -> Result<(), StoreError> {
    let store = controllers.store();
    let snapshot = store.snapshot();
    let ttl = Duration::from_millis(settings(&snapshot)?.session_ttl_ms);
    let (term, expired) = {
        let Some(mut soft) = controllers.soft() else {
            return Ok(());
        };
        soft.sessions.find(&snapshot, now + ttl)?;
        if stalled {
            tracing::warn!("this process was asleep: every session has its full time again");
            soft.sessions.renew_all(now, ttl);
        }
        let expired = soft.sessions.expired(now, EXPIRE_MAX);
        soft.ending.extend(expired.iter().copied());
        (soft.term, expired)
    };
    join_all(expired.into_iter().map(|id| end(controllers, term, id))).await;
    Ok(())
}

async fn end(controllers: &Controllers, term: u64, id: SessionId) {
    let ended = loop {
        let command = CommandKind::ExpireSession(ExpireSession { session: id.0 });
        match controllers.group.propose(command).await {
            // It left much behind: the same command goes on.
            Ok(proposed) if proposed.outcome.code == 0 && proposed.outcome.more => {}
            other => break other,
        }
    };
    let Some(mut soft) = controllers.soft_of(term) else {
        return;
    };
    match ended {
        Ok(proposed) => {
            let code = proposed.outcome.code;
            if code == 0 {
                tracing::info!(session = %id, "session expired");
            } else if code != ErrorCode::SessionExpired as u32 {
                let reason = proposed.outcome.message;
                tracing::warn!(session = %id, reason, "session was not ended");
            }
            soft.sessions.forget(id);
            soft.ending.remove(&id);
        }
        // It may be ended or not: it is not kept alive, and the next look proposes its end again.
        Err(error) => tracing::debug!(session = %id, %error, "cannot end a session now"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Instant, SessionId, Sessions};

    const TTL: Duration = Duration::from_secs(30);

    #[test]
    fn a_session_ends_when_it_is_not_heard_for_its_ttl() {
        let start = Instant::now();
        let mut sessions = Sessions::default();
        sessions.renew(SessionId(1), start + TTL);
        sessions.renew(SessionId(2), start + TTL);
        sessions.renew(SessionId(1), start + TTL * 2);
        assert_eq!(sessions.expired(start + TTL / 2, 9), []);
        assert_eq!(sessions.expired(start + TTL, 9), [SessionId(2)]);
        sessions.forget(SessionId(2));
        assert_eq!(sessions.expired(start + TTL, 9), []);
        assert_eq!(sessions.expired(start + TTL * 2, 9), [SessionId(1)]);
    }

    #[test]
    fn after_a_stall_everybody_has_a_full_ttl_again() {
        let start = Instant::now();
        let mut sessions = Sessions::default();
        sessions.renew(SessionId(1), start + TTL);
        let awake = start + TTL * 10;
        sessions.renew_all(awake, TTL);
        assert_eq!(sessions.expired(awake, 9), []);
        assert_eq!(sessions.expired(awake + TTL, 9), [SessionId(1)]);
        sessions.renew_all(awake - TTL, TTL);
        assert_eq!(sessions.expired(awake, 9), [], "never shortens a life");
    }

    #[test]
    fn expiry_comes_in_bounded_steps() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        for id in 0..10 {
            sessions.renew(SessionId(id), now);
        }
        assert_eq!(sessions.expired(now, 3).len(), 3);
    }
}
