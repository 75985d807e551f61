//! What a client did by itself in directories that are delegated to its session: in one step or not at all, as if each had been asked
//! for when it was done.

use cairn_protocol::ErrorCode;
use cairn_protocol::ids::InodeId;
use cairn_protocol::messages::common::Caller;
use cairn_protocol::messages::operation::{
    Done, OperationKind, OutcomeKind, OutcomeValue, Step, WriteBehind,
};

use super::transaction::{self, ITEMS_MAX};
use crate::namespace::context::{Context, Stamp};
use crate::namespace::delegation;
use crate::namespace::error::OpError;
use crate::store::records::SessionRecord;
use crate::store::{self, Txn};

/// A failure names the step that failed.
pub(super) fn apply(
    txn: &mut Txn,
    cmd: &WriteBehind,
    ctx: &Context,
) -> Result<OutcomeValue, OpError> {
    let count = cmd.steps.len();
    if count > ITEMS_MAX {
        let message = format!("{count} steps, at most {ITEMS_MAX} are allowed");
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    let Some(mut session) = store::session::get(txn, ctx.session)? else {
        let message = format!("session {}", ctx.session);
        return Err(OpError::new(ErrorCode::SessionExpired, message));
    };
    let mut outcome = OutcomeKind::Done(Done {}).into();
    for (index, step) in cmd.steps.iter().enumerate() {
        let done = take(txn, step, ctx, &mut session);
        outcome = done.map_err(|error| error.within(&format!("step {index}")))?;
    }
    store::session::put(txn, ctx.session, &session);
    Ok(if count == 1 {
        outcome
    } else {
        OutcomeKind::Done(Done {}).into()
    })
}

fn take(
    txn: &mut Txn,
    step: &Step,
    ctx: &Context,
    session: &mut SessionRecord,
) -> Result<OutcomeValue, OpError> {
    let ctx = Context {
        stamp: Stamp {
            at_ns: time_of(step, ctx, session),
            ..ctx.stamp
        },
        inode: number(step, session)?,
        caller: caller_of(step, ctx)?,
        ..ctx.clone()
    };
    let outcome = transaction::apply_one(txn, &step.operation, &ctx)?;
    if let (Some(OperationKind::Mkdir(_)), Some(OutcomeKind::Inode(made))) =
        (&step.operation.kind, &outcome.kind)
        && made.created
    {
        delegate(txn, &ctx, InodeId(made.attributes.inode))?;
    }
    Ok(outcome)
}

fn caller_of(step: &Step, ctx: &Context) -> Result<Caller, OpError> {
    match &step.caller {
        None => Ok(ctx.caller.clone()),
        Some(caller) if ctx.caller.uid == 0 => Ok(Caller {
            session: ctx.caller.session,
            ..caller.clone()
        }),
        Some(caller) => {
            let message = format!("in the name of user {}", caller.uid);
            Err(OpError::new(ErrorCode::NotPermitted, message))
        }
    }
}

fn time_of(step: &Step, ctx: &Context, session: &SessionRecord) -> u64 {
    match step.at_ns {
        0 => ctx.stamp.time_ns,
        at_ns => at_ns.max(session.opened_ns).min(ctx.stamp.time_ns),
    }
}

/// The number that the step's inode gets. Rising, so that none is used twice, also not after the inode is gone.
fn number(step: &Step, session: &mut SessionRecord) -> Result<Option<InodeId>, OpError> {
    if step.inode == 0 {
        return Ok(None);
    }
    let (next, end) = (session.reserved_next, session.reserved_end);
    if !(next..end).contains(&step.inode) {
        let message = format!("inode {} is not reserved, {next} to {end} are", step.inode);
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    let makes_one = match &step.operation.kind {
        Some(OperationKind::Mkdir(mkdir)) => !mkdir.parents,
        Some(OperationKind::Create(create)) => !create.parents,
        Some(OperationKind::Symlink(_)) => true,
        _ => false,
    };
    if !makes_one {
        let message = "a number is for what makes one inode";
        return Err(OpError::new(ErrorCode::InvalidArgument, message));
    }
    session.reserved_next = step.inode + 1;
    Ok(Some(InodeId(step.inode)))
}

/// A new directory: nobody has seen it yet.
fn delegate(txn: &mut Txn, ctx: &Context, id: InodeId) -> Result<(), OpError> {
    if let Some(mut record) = store::inode::get(txn, id)?
        && delegation::is_possible(&record)
    {
        record.delegated_to = ctx.session.0;
        store::inode::put_unnoticed(txn, id, &record);
    }
    Ok(())
}
