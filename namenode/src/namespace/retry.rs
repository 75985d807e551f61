//! The memory that makes every mutation happen exactly once (I6): outcomes under (session, sequence).
//!
//! A client numbers its mutations from 1 and says with each the lowest number whose answer it still lacks;
//! outcomes below that are forgotten, a few with each command. Failures are remembered like successes: a
//! retry must not find another answer because the world has changed.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::{InodeId, Sequence, SessionId};
use cairn_protocol::messages::operation::OperationKind;
use prost::Message;

use super::command::{ClientCommand, Outcome};
use super::context::Context;
use super::error::OpError;
use super::{chunks, locks, tree};
use crate::store::records::SessionRecord;
use crate::store::{self, StoreError, Txn};

/// Most outcomes of one session that are remembered.
pub(super) const OUTCOMES_MAX: u64 = 10_000;

/// Outcomes that one command deletes at most.
const PRUNED_MAX: u64 = 64;

/// Locks, claims and outcomes that one step of a session's end removes at most.
const CLEANED_MAX: usize = 1024;

/// The first sequence number of every session.
pub(super) const FIRST_SEQUENCE: u64 = 1;

/// Whether the mutation may happen now: `None`, or the outcome it had before. If it may, its outcome is expected: [`remember`] adds
/// it, unless the mutation ends the session.
///
/// What the session tells about answered mutations counts even if this one is refused.
pub(super) fn admit(txn: &mut Txn, command: &ClientCommand) -> Result<Option<Outcome>, OpError> {
    let id = SessionId(command.session);
    let Some(mut session) = live(txn, id)? else {
        return Err(OpError::new(
            ErrorCode::SessionExpired,
            format!("session {id}"),
        ));
    };
    if command.lowest_unanswered > session.lowest_unanswered {
        session.lowest_unanswered = command.lowest_unanswered;
    }
    prune(txn, id, &mut session);
    let known = check(txn, id, &session, command.sequence);
    if matches!(known, Ok(None)) && !ends_session(command) {
        session.highest_sequence = session.highest_sequence.max(command.sequence);
    }
    store::session::put(txn, id, &session);
    known
}

/// The outcome of a mutation that happened before; `None` if it is a new one, which may happen now.
fn check(
    txn: &Txn,
    id: SessionId,
    session: &SessionRecord,
    sequence: u64,
) -> Result<Option<Outcome>, OpError> {
    if sequence < session.lowest_unanswered {
        let message = format!("mutation {sequence} of session {id} was answered and forgotten");
        return Err(OpError::new(ErrorCode::OutcomeUnknown, message));
    }
    if sequence <= session.highest_sequence
        && let Some(bytes) = store::outcome::get(txn, id, Sequence(sequence))?
    {
        let outcome = Outcome::decode(bytes.as_slice()).map_err(|error| {
            let what = format!("outcome {sequence} of session {id}: {error}");
            OpError::Store(StoreError::Inconsistent(what))
        })?;
        return Ok(Some(outcome));
    }
    if sequence - session.pruned_below >= OUTCOMES_MAX {
        let message = format!("{OUTCOMES_MAX} mutations of session {id} wait for their answers");
        return Err(OpError::new(ErrorCode::Overloaded, message));
    }
    Ok(None)
}

/// Whether a mutation leaves no session behind that could remember its outcome, if it succeeds.
pub(super) fn ends_session(command: &ClientCommand) -> bool {
    matches!(command.operation.kind, Some(OperationKind::CloseSession(_)))
}

/// A session that has not ended.
fn live(txn: &Txn, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
    Ok(store::session::get(txn, id)?.filter(|session| !session.ended))
}

/// Deletes a few outcomes that nobody will ask for again.
fn prune(txn: &mut Txn, id: SessionId, session: &mut SessionRecord) {
    let end = session
        .lowest_unanswered
        .min(session.highest_sequence.saturating_add(1));
    let end = end.min(session.pruned_below.saturating_add(PRUNED_MAX));
    while session.pruned_below < end {
        store::outcome::delete(txn, id, Sequence(session.pruned_below));
        session.pruned_below += 1;
    }
    if session.pruned_below > session.highest_sequence {
        // Nothing is left, and the client may have skipped any number.
        session.pruned_below = session.pruned_below.max(session.lowest_unanswered);
    }
}

/// Remembers what a mutation answered. Which chunks it touched is not among that: controllers heard of it the
/// first time.
pub(super) fn remember(
    txn: &mut Txn,
    command: &ClientCommand,
    outcome: &Outcome,
) -> Result<(), StoreError> {
    let id = SessionId(command.session);
    if ends_session(command) {
        // It failed, and the session goes on.
        let Some(mut session) = live(txn, id)? else {
            return Ok(());
        };
        if command.sequence > session.highest_sequence {
            session.highest_sequence = command.sequence;
            store::session::put(txn, id, &session);
        }
    }
    store::outcome::put(txn, id, Sequence(command.sequence), outcome.encode_to_vec());
    Ok(())
}

/// Ends a session: its open chunks are sealed, its locks and claims released, its outcomes forgotten. True if that was
/// too much for one step; the session is over all the same, and the next `ExpireSession` goes on.
pub(super) fn end(txn: &mut Txn, ctx: &Context, id: SessionId) -> Result<bool, OpError> {
    let Some(mut session) = store::session::get(txn, id)? else {
        return Err(OpError::new(
            ErrorCode::SessionExpired,
            format!("session {id}"),
        ));
    };
    if !session.ended {
        session.ended = true;
        store::session_nonce::delete(txn, &session.nonce);
        let cluster = txn.cluster_mut();
        cluster.session_count = cluster.session_count.saturating_sub(1);
    }
    chunks::seal_all_of(txn, ctx, id)?;
    let mut cleaned = locks::release_of_session(txn, id, CLEANED_MAX)?;
    session.lock_count = session.lock_count.saturating_sub(cleaned as u64);
    cleaned += take_claims(txn, id, CLEANED_MAX - cleaned)?;
    cleaned += take_outcomes(txn, id, CLEANED_MAX - cleaned)?;
    let more = cleaned >= CLEANED_MAX;
    if more {
        store::session::put(txn, id, &session);
    } else {
        store::session::delete(txn, id);
    }
    Ok(more)
}

fn take_claims(txn: &mut Txn, id: SessionId, limit: usize) -> Result<usize, OpError> {
    let mut claims = Vec::new();
    if limit > 0 {
        store::claim::scan(txn, id, InodeId(0), &mut |inode| {
            claims.push(inode);
            Ok(claims.len() < limit)
        })?;
    }
    for inode in &claims {
        tree::release_claim(txn, id, *inode)?;
    }
    Ok(claims.len())
}

fn take_outcomes(txn: &mut Txn, id: SessionId, limit: usize) -> Result<usize, StoreError> {
    let mut sequences = Vec::new();
    if limit > 0 {
        store::outcome::scan(txn, id, Sequence(0), &mut |sequence, _| {
            sequences.push(sequence);
            Ok(sequences.len() < limit)
        })?;
    }
    for sequence in &sequences {
        store::outcome::delete(txn, id, *sequence);
    }
    Ok(sequences.len())
}
