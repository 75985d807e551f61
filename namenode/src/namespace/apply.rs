//! A batch of the log into outcomes. Each command has a savepoint: what fails changes nothing but its
//! session's memory.

use cairn_protocol::ids::{InodeId, SessionId};
use cairn_protocol::messages::common::Caller;
use cairn_protocol::{ErrorCode, Failure};

use super::command::{Batch, ClientCommand, Command, CommandKind, Outcome};
use super::context::{Context, Stamp};
use super::error::OpError;
use super::{internal, ops, retry};
use crate::store::{StoreError, Txn};

/// Applies one log entry: a pure function of the state and the batch (I7). One outcome for each command, in
/// order.
///
/// Which chunks changed is in each outcome, and stays noted in the transaction for its owner
/// ([`Txn::take_touched`]); so does what clients may have cached of the inodes and names that changed ([`Txn::take_changes`]).
///
/// An error is a fault of ours: nothing of the batch may be kept, and the process must stop.
pub fn apply_batch(txn: &mut Txn, batch: &Batch, index: u64) -> Result<Vec<Outcome>, StoreError> {
    // A new leader's clock may be behind its predecessor's. Time does not go back for that.
    let last = txn.cluster().last_stamp_ns;
    let stamp = Stamp {
        time_ns: batch.stamp_ns.max(last),
        index,
        at_ns: batch.stamp_ns.max(last),
    };
    if stamp.time_ns > last {
        txn.cluster_mut().last_stamp_ns = stamp.time_ns;
    }
    let mut touched = txn.take_touched();
    let mut outcomes = Vec::with_capacity(batch.commands.len());
    for command in &batch.commands {
        let mut outcome = apply_command(txn, command, stamp, batch.no_growth)?;
        txn.finish_changes(index, session_of(command));
        let chunks = txn.take_touched();
        outcome.touched_chunks = chunks.iter().map(|chunk| chunk.0).collect();
        touched.extend(chunks);
        outcomes.push(outcome);
    }
    for chunk in touched {
        txn.touched_chunk(chunk);
    }
    Ok(outcomes)
}

/// Who is said to have changed what a command changes.
fn session_of(command: &Command) -> SessionId {
    match &command.kind {
        Some(CommandKind::Client(client)) => client.session.into(),
        _ => SessionId(0),
    }
}

fn apply_command(
    txn: &mut Txn,
    command: &Command,
    stamp: Stamp,
    no_growth: bool,
) -> Result<Outcome, StoreError> {
    match &command.kind {
        Some(CommandKind::Client(client)) => apply_client(txn, client, stamp, no_growth),
        Some(kind) => {
            let ctx = Context::internal(stamp);
            attempt(txn, |txn| internal::apply(txn, kind, &ctx))
        }
        None => Ok(failed(Failure::new(
            ErrorCode::Malformed,
            "a command of an unknown kind",
        ))),
    }
}

/// Exactly once (I6): the session's memory answers what was asked before.
fn apply_client(
    txn: &mut Txn,
    command: &ClientCommand,
    stamp: Stamp,
    no_growth: bool,
) -> Result<Outcome, StoreError> {
    match retry::admit(txn, command) {
        Ok(None) => {}
        Ok(Some(remembered)) => return Ok(remembered),
        Err(OpError::Failure(failure)) => return Ok(failed(failure)),
        Err(OpError::Delegated(directory)) => return Ok(delegated(directory)),
        Err(OpError::Store(error)) => return Err(error),
    }
    let ctx = Context {
        stamp,
        caller: Caller {
            session: command.session,
            ..command.caller.clone()
        },
        session: command.session.into(),
        inode: None,
        no_growth,
    };
    let outcome = attempt(txn, |txn| apply_operation(txn, command, &ctx))?;
    let goes_on = outcome.code == ErrorCode::Delegated as u32;
    let closed = outcome.code == 0 && retry::ends_session(command);
    if !goes_on && !closed {
        retry::remember(txn, command, &outcome)?;
    }
    Ok(outcome)
}

fn apply_operation(
    txn: &mut Txn,
    command: &ClientCommand,
    ctx: &Context,
) -> Result<Outcome, OpError> {
    let Some(kind) = &command.operation.kind else {
        return Err(OpError::new(
            ErrorCode::Malformed,
            "an operation of an unknown kind",
        ));
    };
    let value = ops::apply(txn, kind, command.placement.as_ref(), ctx)?;
    Ok(Outcome {
        value: Some(value),
        ..Outcome::default()
    })
}

/// Runs one command under a savepoint: a failure undoes it and becomes an outcome.
fn attempt(
    txn: &mut Txn,
    run: impl FnOnce(&mut Txn) -> Result<Outcome, OpError>,
) -> Result<Outcome, StoreError> {
    txn.savepoint();
    match run(txn) {
        Ok(outcome) => {
            txn.release_savepoint();
            Ok(outcome)
        }
        Err(OpError::Failure(failure)) => {
            txn.rollback_to_savepoint();
            Ok(failed(failure))
        }
        Err(OpError::Delegated(directory)) => {
            txn.rollback_to_savepoint();
            Ok(delegated(directory))
        }
        Err(OpError::Store(error)) => {
            txn.rollback_to_savepoint();
            Err(error)
        }
    }
}

/// The proposer has the directory given back and proposes the same again.
fn delegated(directory: InodeId) -> Outcome {
    Outcome {
        code: ErrorCode::Delegated as u32,
        id: directory.0,
        ..Outcome::default()
    }
}

fn failed(failure: Failure) -> Outcome {
    Outcome {
        code: failure.code as u32,
        message: failure.message,
        ..Outcome::default()
    }
}
